//! Who may become a member and who may go, and who leads.

use raft::{
    ProgressState,
    eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2},
};
use ringmesh_proto::Instant;

use super::{
    conf::{ConfChange, MAX_MEMBERS},
    entry::Position,
    error::Refused,
    machine::Consensus,
};

/// Entries by which a learner may lag and still become a voter.
const MAX_LAG: u64 = 1000;

impl Consensus {
    /// Asks all to agree on other members. A swap needs two entries, the second of which comes by itself.
    ///
    /// # Errors
    /// If this member does not lead, if another change is under way, or if the change would be a danger. It has no effect
    /// then.
    pub fn propose_conf(&mut self, now: Instant, change: ConfChange) -> Result<Position, Refused> {
        self.look_at(now);
        self.flush_proposals();
        self.check_leads()?;
        if self.raw.raft.has_pending_conf() || self.conf.is_joint() {
            return Err(Refused::ChangePending);
        }
        self.check_change(change)?;
        // It refuses nothing that is not checked here.
        let proposed = self.raw.propose_conf_change(Vec::new(), to_raft(change));
        proposed.map_err(|_| Refused::ChangePending)?;
        Ok(Position { term: self.raw.raft.term, index: self.raw.raft.raft_log.last_index() })
    }

    /// Hands leadership over to this voter, as soon as it has all entries; given up after an election timeout.
    ///
    /// # Errors
    /// If this member does not lead, or that one is no other voter.
    pub fn transfer_leader(&mut self, to: u64) -> Result<(), Refused> {
        self.flush_proposals();
        self.check_leads()?;
        if to == self.settings.id || !self.conf.voters.contains(&to) {
            return Err(Refused::UnsuitableMember(to));
        }
        self.raw.transfer_leader(to);
        Ok(())
    }

    /// Ends a swap whose leader fell before it had ended it.
    pub(super) fn leave_joint(&mut self) {
        if self.is_leader() && self.conf.auto_leave && !self.raw.raft.has_pending_conf() {
            // Dropped while leadership is transferred; then the next leader does it.
            let _ = self.raw.propose_conf_change(Vec::new(), ConfChangeV2::default());
        }
    }

    fn check_change(&self, change: ConfChange) -> Result<(), Refused> {
        match change {
            ConfChange::AddLearner(id) => {
                let is_new = id != 0 && !self.conf.contains(id) && self.conf.learners.len() < MAX_MEMBERS;
                if is_new { Ok(()) } else { Err(Refused::UnsuitableMember(id)) }
            }
            ConfChange::Promote(id) => {
                self.check_learner(id)?;
                self.check_quorum(&[id], None)
            }
            ConfChange::PromoteTwo(first, second) => {
                if first == second {
                    return Err(Refused::UnsuitableMember(second));
                }
                self.check_learner(first)?;
                self.check_learner(second)?;
                self.check_quorum(&[first, second], None)
            }
            // What has more learners is read by nobody.
            ConfChange::Demote(id) if self.conf.learners.len() >= MAX_MEMBERS => Err(Refused::UnsuitableMember(id)),
            ConfChange::Demote(id) => self.check_leaving(id, &[]),
            ConfChange::Remove(id) if self.conf.learners.contains(&id) => Ok(()),
            ConfChange::Remove(id) => self.check_leaving(id, &[]),
            ConfChange::Swap { old, new } => {
                self.check_learner(new)?;
                self.check_leaving(old, &[new])
            }
        }
    }

    fn check_learner(&self, id: u64) -> Result<(), Refused> {
        if !self.conf.learners.contains(&id) || self.conf.voters.len() >= MAX_MEMBERS {
            return Err(Refused::UnsuitableMember(id));
        }
        let progress = self.raw.raft.prs().get(id);
        let matched = progress.map_or(0, |progress| progress.matched);
        let lag = self.raw.raft.raft_log.committed.saturating_sub(matched);
        // In a young log the lag alone says nothing: one that was never heard has none that is too large.
        let follows = progress.is_some_and(|progress| progress.state == ProgressState::Replicate) && matched > 0;
        if follows && lag <= MAX_LAG && self.is_heard(id) { Ok(()) } else { Err(Refused::Behind { id, lag }) }
    }

    fn check_leaving(&self, id: u64, coming: &[u64]) -> Result<(), Refused> {
        if !self.conf.voters.contains(&id) {
            return Err(Refused::UnsuitableMember(id));
        }
        if id == self.settings.id {
            return Err(Refused::IsLeader);
        }
        self.check_quorum(coming, Some(id))
    }

    /// Both before and after it, those who are heard must be a majority.
    fn check_quorum(&self, coming: &[u64], leaving: Option<u64>) -> Result<(), Refused> {
        let before = &self.conf.voters;
        let after: Vec<u64> = before.iter().filter(|id| Some(**id) != leaving).chain(coming).copied().collect();
        let is_majority = |voters: &[u64]| {
            let heard = voters.iter().filter(|id| self.is_heard(**id)).count();
            heard > voters.len() / 2
        };
        if is_majority(before) && is_majority(&after) { Ok(()) } else { Err(Refused::WouldLoseQuorum) }
    }

    pub(super) fn is_heard(&self, id: u64) -> bool {
        let heard = self.heard.get(&id).is_some_and(|at| self.now.since(*at) <= self.settings.election);
        id == self.settings.id || heard
    }
}

fn to_raft(change: ConfChange) -> ConfChangeV2 {
    let singles = match change {
        ConfChange::AddLearner(id) | ConfChange::Demote(id) => vec![(ConfChangeType::AddLearnerNode, id)],
        ConfChange::Promote(id) => vec![(ConfChangeType::AddNode, id)],
        ConfChange::PromoteTwo(first, second) => {
            vec![(ConfChangeType::AddNode, first), (ConfChangeType::AddNode, second)]
        }
        ConfChange::Remove(id) => vec![(ConfChangeType::RemoveNode, id)],
        ConfChange::Swap { old, new } => vec![(ConfChangeType::AddNode, new), (ConfChangeType::RemoveNode, old)],
    };
    let single = |(kind, node_id)| {
        let mut single = ConfChangeSingle { node_id, ..ConfChangeSingle::default() };
        single.set_change_type(kind);
        single
    };
    ConfChangeV2 { changes: singles.into_iter().map(single).collect(), ..ConfChangeV2::default() }
}
