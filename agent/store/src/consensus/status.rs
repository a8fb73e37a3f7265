//! What a member knows of itself and, if it leads, of its peers.

use raft::{Progress, ProgressState, StateRole};

use super::{conf::Conf, entry::Position, error::Divergence, machine::Consensus};

/// What part a member has in its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It follows, or would if there were a leader.
    Follower,
    /// It asks whether it would be elected.
    PreCandidate,
    /// It asks for votes.
    Candidate,
    /// It leads.
    Leader,
}

/// How the leader sends entries to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// It finds out where the peer's log ends.
    Probe,
    /// It sends them as they come.
    Replicate,
    /// The peer gets a snapshot.
    Snapshot,
}

/// A peer, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub id: u64,
    /// Up to where its log is known to be stored.
    pub matched: u64,
    /// How it is sent to.
    pub state: PeerState,
    /// Nothing is sent until it answers.
    pub paused: bool,
    /// It was heard within an election timeout.
    pub recently_active: bool,
    /// It has no vote.
    pub learner: bool,
}

/// A member at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This member.
    pub id: u64,
    /// Its part.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// Who leads, if that is known.
    pub leader: Option<u64>,
    /// Up to where the log is known to be committed.
    pub commit: u64,
    /// Up to where it was given out to be applied.
    pub applied: u64,
    /// Up to where it is on this member's disk.
    pub persisted: u64,
    /// The last entry.
    pub last: Position,
    /// The first entry that is in memory.
    pub first: u64,
    /// Bytes of entries in memory.
    pub log_bytes: u64,
    /// The members, as applied.
    pub conf: Conf,
    /// Why it takes part no more, if that is so.
    pub diverged: Option<Divergence>,
    /// By id; empty unless this member leads.
    pub peers: Vec<Peer>,
}

impl Consensus {
    /// This member now.
    #[must_use]
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        Status {
            id: self.settings.id,
            role: role(raft.state),
            term: raft.term,
            leader: self.leader(),
            commit: raft.raft_log.committed,
            applied: raft.raft_log.applied,
            persisted: raft.raft_log.persisted,
            last: self.raw.store().last(),
            first: self.raw.store().first(),
            log_bytes: self.raw.store().bytes(),
            conf: self.conf.clone(),
            diverged: self.diverged,
            peers: self.peers(),
        }
    }

    fn peers(&self) -> Vec<Peer> {
        if !self.is_leader() {
            return Vec::new();
        }
        let others = self.raw.raft.prs().iter().filter(|(id, _)| **id != self.settings.id);
        let mut peers: Vec<Peer> = others.map(|(id, progress)| self.peer(*id, progress)).collect();
        peers.sort_unstable_by_key(|peer| peer.id);
        peers
    }

    fn peer(&self, id: u64, progress: &Progress) -> Peer {
        let state = match progress.state {
            ProgressState::Probe => PeerState::Probe,
            ProgressState::Replicate => PeerState::Replicate,
            ProgressState::Snapshot => PeerState::Snapshot,
        };
        Peer {
            id,
            matched: progress.matched,
            state,
            paused: progress.is_paused(),
            // Raft forgets it of all peers whenever it has looked whether they are a majority.
            recently_active: self.is_heard(id),
            learner: self.conf.learners.contains(&id),
        }
    }
}

fn role(state: StateRole) -> Role {
    match state {
        StateRole::Follower => Role::Follower,
        StateRole::PreCandidate => Role::PreCandidate,
        StateRole::Candidate => Role::Candidate,
        StateRole::Leader => Role::Leader,
    }
}
