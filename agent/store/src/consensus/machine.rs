//! The machine.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use raft::{
    Config, ProgressState, RawNode, StateRole,
    eraftpb::{Entry as RaftEntry, Message, MessageType},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use ringmesh_proto::Instant;

use super::{
    admission,
    conf::Conf,
    entry::{Applied, Entry, HardState, Position},
    error::{Divergence, Malformed, NotAccepted, Refused, StartError},
    log::Log,
    logger, message,
    output::Output,
    reads::Reads,
    ready::{Held, Stored},
    settings::Settings,
    start::Start,
};

/// Ticks of raft in the time of a heartbeat: how exactly it knows the time.
pub(super) const HEARTBEAT_TICKS: usize = 10;
/// Messages that may wait for the disk. Then entries are refused, and other messages are lost.
pub(super) const MAX_HELD: usize = 4096;
/// Of the log in memory, what may be kept for a peer that gets a snapshot.
const PINNED_FRACTION: u64 = 4;
/// Bytes of committed entries that are given out at once.
const MAX_COMMITTED_BYTES: u64 = 1 << 20;

/// What a member knew when it stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// As last stored in the log.
    pub hard: HardState,
    /// What the log starts after; zeros unless it was replaced by a snapshot.
    pub base: Position,
    /// The log after `base`, or from a later index on if its head has been cut.
    pub entries: Vec<Entry>,
    /// As last stored with the keys.
    pub applied: Applied,
}

/// One member's part in the agreement.
///
/// The inputs of a turn are given first, and then the outputs are drained: what was proposed in a turn is stored and sent
/// together.
pub struct Consensus {
    pub(super) raw: RawNode<Log>,
    pub(super) settings: Settings,
    pub(super) rng: StdRng,
    pub(super) conf: Conf,
    /// The entry since which the members are these, or a later one.
    pub(super) conf_index: u64,
    pub(super) outputs: VecDeque<Output>,
    /// Given out to be stored, and not stored yet.
    pub(super) unstored: VecDeque<Stored>,
    /// Messages that wait for that.
    pub(super) held: VecDeque<Held>,
    pub(super) last_ready: u64,
    pub(super) hard: HardState,
    /// Accepted in this turn.
    proposals: Vec<RaftEntry>,
    proposal_bytes: u64,
    pub(super) reads: Reads,
    pub(super) tick: Duration,
    pub(super) ticked: Instant,
    pub(super) now: Instant,
    /// Ticks until an election, and for which term and role they were drawn.
    pub(super) election: usize,
    pub(super) drawn_for: (u64, StateRole),
    /// The term, the leader and whether it is this one, as told last.
    pub(super) told: (u64, u64, bool),
    /// When a peer was last heard.
    pub(super) heard: BTreeMap<u64, Instant>,
    /// Peers of which it was said that they need a snapshot.
    pub(super) asked: BTreeSet<u64>,
    /// The places of snapshots that are being sent.
    pub(super) sending: BTreeMap<u64, u64>,
    /// Why it takes part no more.
    pub(super) diverged: Option<Divergence>,
    /// It has founded or joined, and has not begun yet: it may be a member whose disk was wiped.
    pub(super) is_fresh: bool,
    /// It was said that it waits for a leader.
    has_warned: bool,
}

impl Consensus {
    /// A member that goes on from where it was, or begins. `seed` differs from start to start.
    ///
    /// # Errors
    /// If the settings are invalid, or the log and the keys do not fit together.
    pub fn new(settings: Settings, recovered: Recovered, seed: u64, now: Instant) -> Result<Self, StartError> {
        let start = Start::new(recovered)?;
        let tick = settings.heartbeat / HEARTBEAT_TICKS as u32;
        let config = config(&settings, tick, start.applied)?;
        let mut raw = RawNode::new(&config, start.log, &logger::logger(settings.id))
            .map_err(|error| StartError::Settings(error.to_string()))?;
        raw.mut_store().compact(start.applied, settings.retain_bytes);
        let mut rng = StdRng::seed_from_u64(seed);
        let reads = Reads::new(settings.id, rng.random());
        let told = (raw.raft.term, 0, false);
        let mut consensus = Self {
            raw,
            settings,
            rng,
            conf: start.conf,
            conf_index: start.applied,
            outputs: start.origin.map(|origin| Output::Commit(vec![origin])).into_iter().collect(),
            unstored: VecDeque::new(),
            held: VecDeque::new(),
            last_ready: 0,
            hard: start.hard,
            proposals: Vec::new(),
            proposal_bytes: 0,
            reads,
            tick,
            ticked: now,
            now,
            election: 0,
            drawn_for: (0, StateRole::Follower),
            told,
            heard: BTreeMap::new(),
            asked: BTreeSet::new(),
            sending: BTreeMap::new(),
            diverged: None,
            is_fresh: start.is_fresh,
            has_warned: false,
        };
        consensus.draw_election();
        Ok(consensus)
    }

    /// This peer said this; `with_keys`: and all keys that go with it have come.
    ///
    /// # Errors
    /// As [`handle_message`](Self::handle_message); also if it is another one's, or needs keys that have not come.
    pub fn handle_peer(&mut self, now: Instant, from: u64, bytes: &[u8], with_keys: bool) -> Result<(), NotAccepted> {
        let message = message::decode(bytes)?;
        if message.from != from {
            return Err(Malformed("it is in the name of another member").into());
        }
        if (message.get_msg_type() == MessageType::MsgSnapshot) != with_keys {
            return Err(Malformed("keys go with a snapshot, and with nothing else").into());
        }
        self.take_message(now, message)
    }

    /// A peer said this.
    ///
    /// # Errors
    /// Then it has no effect: it is malformed, or the disk is too far behind. Or it shows that a disk lost data: then this
    /// member takes part no more, as its vote could elect somebody who does not have what is committed.
    pub fn handle_message(&mut self, now: Instant, bytes: &[u8]) -> Result<(), NotAccepted> {
        self.take_message(now, message::decode(bytes)?)
    }

    fn take_message(&mut self, now: Instant, message: Message) -> Result<(), NotAccepted> {
        if let Some(divergence) = self.diverged {
            return Err(divergence.into());
        }
        self.flush_proposals();
        self.catch_up(now);
        if self.is_fresh && admission::is_of_founded(&self.raw.raft, &message) {
            self.warn_of_waiting();
            return Ok(());
        }
        match admission::admit(&self.raw.raft, &message, self.is_settled()) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                self.withdraw(error);
                return Err(error);
            }
        }
        if message.get_msg_type() == MessageType::MsgAppend && self.is_overloaded() {
            return Err(NotAccepted::Busy);
        }
        if self.conf.contains(message.from) {
            self.heard.insert(message.from, now);
        }
        let is_append = message.get_msg_type() == MessageType::MsgAppend;
        let told = Some((message.term, message.commit)).filter(|_| is_append);
        // Only of peers that are members no longer.
        let _ = self.raw.step(message);
        self.keep_election();
        self.is_fresh &= !self.has_begun(told);
        Ok(())
    }

    /// Asks all to agree on this command, which is not empty. If it is committed, then at the place that is returned: what is
    /// committed at that index with another term is not it, and it never will be.
    ///
    /// # Errors
    /// If this member does not lead, or is full. It has no effect then.
    pub fn propose(&mut self, now: Instant, data: Bytes) -> Result<Position, Refused> {
        self.look_at(now);
        self.check_leads()?;
        if data.len() > self.settings.max_entry_bytes {
            return Err(Refused::TooLarge);
        }
        let waiting = self.raw.raft.uncommitted_size() as u64 + self.proposal_bytes;
        let is_full = waiting > 0 && waiting + data.len() as u64 > self.settings.max_uncommitted_bytes;
        // With as many of those that raft gives out already they fit into one message.
        let unstored = self.raw.raft.raft_log.last_index() - self.raw.store().last().index;
        let is_full = is_full || unstored as usize + self.proposals.len() >= message::MAX_ENTRIES / 2;
        if is_full || self.raw.store().bytes() > self.settings.max_log_bytes {
            return Err(Refused::Full);
        }
        self.proposal_bytes += data.len() as u64;
        self.proposals.push(RaftEntry { data: data.into(), ..RaftEntry::default() });
        let index = self.raw.raft.raft_log.last_index() + self.proposals.len() as u64;
        Ok(Position { term: self.raw.raft.term, index })
    }

    /// Becomes a candidate now, if it is a voter and all that it knows is stored.
    pub fn campaign(&mut self) {
        self.flush_proposals();
        if self.raw.raft.promotable() && self.may_stand() {
            // It refuses nothing that is not checked here.
            let _ = self.raw.campaign();
            self.keep_election();
            self.is_fresh &= !self.has_begun(None);
        }
    }

    /// What was sent to this peer may be lost: it is asked where its log ends.
    pub fn handle_unreachable(&mut self, peer: u64) {
        self.raw.report_unreachable(peer);
    }

    /// The next thing to do; `None` if there is nothing until the next input.
    pub fn poll_output(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            if !self.turn() {
                return None;
            }
        }
    }

    /// Forgets entries in memory that are in a durable checkpoint of the keys, which has all up to `applied`. Some are kept
    /// for peers that lag.
    ///
    /// Returns the index below which the log on disk need not keep anything.
    pub fn compact(&mut self, applied: u64) -> u64 {
        if self.raw.store().bytes() > self.settings.max_log_bytes / PINNED_FRACTION {
            // A snapshot that takes so long is not waited for: its peer will need another one.
            self.sending.clear();
        }
        let sending = self.sending.values().copied().min().unwrap_or(u64::MAX);
        let applied = applied.min(sending).min(self.raw.raft.raft_log.applied);
        let retain_bytes = if self.raw.raft.prs().iter().len() > 1 { self.settings.retain_bytes } else { 0 };
        self.raw.mut_store().compact(applied, retain_bytes);
        // A snapshot that was received may not be stored yet, though the log in memory begins after it.
        self.raw.store().first().min(applied + 1)
    }

    pub(super) fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub(super) fn leader(&self) -> Option<u64> {
        Some(self.raw.raft.leader_id).filter(|leader| *leader != 0)
    }

    pub(super) fn check_leads(&self) -> Result<(), Refused> {
        if !self.is_leader() {
            return Err(Refused::NotLeader { leader: self.leader() });
        }
        self.raw.raft.lead_transferee.map_or(Ok(()), |to| Err(Refused::Transferring { to }))
    }

    /// Whether all that raft knows is on disk.
    pub(super) fn is_settled(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        self.unstored.is_empty() && log.persisted == log.last_index() && log.unstable_snapshot().is_none()
    }

    /// Whether it may ask for votes.
    pub(super) fn may_stand(&self) -> bool {
        self.is_settled() && self.diverged.is_none()
    }

    /// Whether it had part in the first election, or has all that was committed when a leader told it this term and commit.
    fn has_begun(&self, told: Option<(u64, u64)>) -> bool {
        let raft = &self.raw.raft;
        let has_all = |(term, commit)| term == raft.term && commit > 1 && raft.raft_log.committed >= commit;
        raft.vote != 0 || (told.is_some_and(has_all) && raft.commit_to_current_term())
    }

    /// Once: if no leader comes, an operator has to know why this one helps nobody to become it.
    fn warn_of_waiting(&mut self) {
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                member = self.settings.id,
                "the cluster was founded before, but the disk of this member is new: it gives no vote until a leader has \
                 sent it what is committed; if none comes, start the members that have it"
            );
        }
    }

    fn withdraw(&mut self, error: NotAccepted) {
        let NotAccepted::Diverged(divergence) = error else { return };
        self.diverged = Some(divergence);
        let term = self.raw.raft.term;
        self.raw.raft.become_follower(term, 0);
        self.keep_election();
    }

    fn is_overloaded(&self) -> bool {
        let (log, most) = (self.raw.store(), self.settings.max_log_bytes);
        // No disk and no checkpoint frees what is not agreed upon, as several leaders in a row may leave it: only what comes next
        // does. It is bounded by what a leader takes.
        let is_freed = || log.has_more_up_to(self.raw.raft.raft_log.committed, most / 2);
        self.held.len() >= MAX_HELD || (log.bytes() > most && is_freed())
    }

    /// Gives the proposals of this turn to raft, before anything can change who leads.
    pub(super) fn flush_proposals(&mut self) {
        if self.proposals.is_empty() {
            return;
        }
        self.proposal_bytes = 0;
        let mut propose = Message { from: self.settings.id, ..Message::default() };
        propose.set_msg_type(MessageType::MsgPropose);
        propose.entries = std::mem::take(&mut self.proposals);
        if let Err(error) = self.raw.step(propose) {
            // Checked before. Whoever was promised a place must not wait for it.
            tracing::error!(member = self.settings.id, %error, "a proposal was dropped");
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
            self.keep_election();
            return;
        }
        self.send_rest();
    }

    /// Raft sends one message of entries to each peer and the next when it is answered: here, all that may be in flight.
    fn send_rest(&mut self) {
        let peers: Vec<u64> = self.raw.raft.prs().iter().map(|(id, _)| *id).collect();
        for peer in peers.into_iter().filter(|peer| *peer != self.settings.id) {
            let mut next = self.next_unsent(peer);
            while next.is_some() {
                self.raw.raft.send_append(peer);
                // It stays where it is if the entries are gone, and then the peer waits for a snapshot.
                let before = next;
                next = self.next_unsent(peer).filter(|next| Some(*next) != before);
            }
        }
    }

    /// The index of the next entry for this peer, if it may be sent now.
    fn next_unsent(&self, peer: u64) -> Option<u64> {
        let last = self.raw.raft.raft_log.last_index();
        let progress = self.raw.raft.prs().get(peer)?;
        let may_go = progress.state == ProgressState::Replicate && !progress.is_paused();
        Some(progress.next_idx).filter(|next| may_go && *next <= last)
    }
}

fn config(settings: &Settings, tick: Duration, applied: u64) -> Result<Config, StartError> {
    let invalid = |what: &str| Err(StartError::Settings(what.to_owned()));
    if settings.heartbeat < Duration::from_millis(1) || settings.election < 2 * settings.heartbeat {
        return invalid("the election timeout is not twice the heartbeat, or that is below 1 ms");
    }
    if settings.max_entry_bytes as u64 + settings.max_message_bytes > message::MAX_BYTES as u64 / 2 {
        return invalid("messages would be too large");
    }
    Ok(Config {
        id: settings.id,
        election_tick: (settings.election.as_nanos() / tick.as_nanos()) as usize,
        heartbeat_tick: HEARTBEAT_TICKS,
        applied,
        max_size_per_msg: settings.max_message_bytes,
        max_inflight_msgs: settings.max_inflight,
        check_quorum: true,
        pre_vote: true,
        max_uncommitted_size: settings.max_uncommitted_bytes,
        max_committed_size_per_ready: MAX_COMMITTED_BYTES,
        ..Config::default()
    })
}
