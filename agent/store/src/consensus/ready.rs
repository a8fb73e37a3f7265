//! From what raft has ready to what the owner has to do.
//!
//! Raft's messages may go at once if it leads, and otherwise when all that was ready with or before them is stored. Those of
//! a leader, too, wait as long as its term is not: the only voter of a cluster elects itself without asking anybody.

use bytes::Bytes;
use prost::Message as _;
use raft::{
    Ready, StateRole,
    eraftpb::{
        ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Entry as RaftEntry, EntryType, Message,
        MessageType,
    },
};

use super::{
    conf::Conf,
    entry::{Applied, FRESH, HardState, Position, from_raft},
    log::position,
    machine::{Consensus, MAX_HELD},
    message,
    output::{Committed, Output, Payload, Persist},
};

/// What was given out to be stored.
pub(super) struct Stored {
    number: u64,
    /// It has a term or a vote that was not stored before.
    has_term: bool,
    /// The index of its snapshot.
    snapshot: Option<u64>,
}

/// Messages that wait until this number is stored.
pub(super) struct Held {
    number: u64,
    message: Message,
}

impl Consensus {
    /// Everything up to this number is on disk.
    pub fn handle_persisted(&mut self, number: u64) {
        let mut snapshot = None;
        let stored = self.unstored.partition_point(|stored| stored.number <= number);
        for stored in self.unstored.drain(..stored) {
            snapshot = stored.snapshot.or(snapshot);
        }
        // What needed no storing counts as stored as soon as all before it is.
        let covered = self.unstored.front().map_or(self.last_ready, |next| next.number - 1);
        self.raw.on_persist_ready(covered);
        if let Some(index) = snapshot.filter(|index| *index > self.raw.raft.raft_log.applied) {
            self.raw.advance_apply_to(index);
        }
        let free = self.held.partition_point(|held| held.number <= covered);
        for held in self.held.drain(..free).collect::<Vec<_>>() {
            self.send(&held.message);
        }
        self.keep_election();
    }

    /// Takes what raft has ready. False if there is nothing.
    pub(super) fn turn(&mut self) -> bool {
        self.flush_proposals();
        self.tell_leader();
        if self.raw.has_ready() {
            let ready = self.raw.ready();
            self.take(ready);
            self.keep_election();
            self.tell_leader();
        }
        self.ask_for_snapshots();
        !self.outputs.is_empty() || self.raw.has_ready()
    }

    fn take(&mut self, mut ready: Ready) {
        self.last_ready = ready.number();
        let mut messages = ready.take_messages();
        messages.append(&mut ready.take_persisted_messages());
        let (committed, reads) = (ready.take_committed_entries(), ready.take_read_states());
        let has_just_begun = self.hard.vote == FRESH && !self.is_fresh;
        let must_store = ready.must_sync() || has_just_begun;
        if must_store {
            let persist = self.store(&mut ready);
            self.outputs.push_back(Output::Persist(persist));
        }
        self.raw.advance_append_async(ready);
        if self.unstored.is_empty() {
            self.raw.on_persist_ready(self.last_ready);
        }
        for message in messages {
            self.send_in_order(message);
        }
        self.commit(committed);
        for read in reads {
            self.answer_read(&read);
        }
    }

    /// Keeps in memory what is to be stored, and says what that is.
    fn store(&mut self, ready: &mut Ready) -> Persist {
        let metadata = ready.snapshot().get_metadata();
        let snapshot = (metadata.index > 0).then(|| {
            let position = Position { term: metadata.term, index: metadata.index };
            (self.conf, self.conf_index) = (metadata.get_conf_state().into(), metadata.index);
            Applied { position, conf: self.conf.encode() }
        });
        let log = self.raw.mut_store();
        if let Some(snapshot) = &snapshot {
            log.replace(snapshot.position);
        }
        let entries = ready.take_entries();
        log.append(&entries);
        let state = self.raw.raft.hard_state();
        let vote = if self.is_fresh && state.vote == 0 { FRESH } else { state.vote };
        let hard = HardState { term: state.term, vote, commit: state.commit };
        let has_term = (hard.term, hard.vote) != (self.hard.term, self.hard.vote);
        let changed = (hard != self.hard).then_some(hard);
        self.hard = hard;
        let number = ready.number();
        let index = snapshot.as_ref().map(|snapshot| snapshot.position.index);
        self.unstored.push_back(Stored { number, has_term, snapshot: index });
        Persist { number, snapshot, entries: entries.into_iter().map(from_raft).collect(), hard: changed }
    }

    fn send_in_order(&mut self, message: Message) {
        let needs_term_alone = self.raw.raft.state == StateRole::Leader
            // It says that the leader is heard, nothing of the log.
            || message.get_msg_type() == MessageType::MsgHeartbeatResponse;
        let waits = !needs_term_alone || self.has_unstored_term();
        match self.unstored.back() {
            // Lost: raft counts on no message.
            Some(_) if waits && self.held.len() >= MAX_HELD => {}
            Some(last) if waits => {
                self.held.push_back(Held { number: last.number, message });
            }
            Some(_) | None => self.send(&message),
        }
    }

    pub(super) fn has_unstored_term(&self) -> bool {
        self.unstored.iter().any(|stored| stored.has_term)
    }

    fn send(&mut self, message: &Message) {
        if let Some(bytes) = message::encode(message) {
            self.outputs.push_back(Output::Send { to: message.to, bytes });
        }
    }

    fn commit(&mut self, entries: Vec<RaftEntry>) {
        let Some(last) = entries.last().map(|last| last.index) else { return };
        let committed: Vec<Committed> = entries.into_iter().map(|entry| self.committed(entry)).collect();
        self.outputs.push_back(Output::Commit(committed));
        self.raw.advance_apply_to(last);
        if self.is_leader() && !self.conf.is_voter(self.settings.id) {
            // Raft would go on to lead, and panic at the next entry that is stored.
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
        }
        self.issue_reads();
    }

    fn committed(&mut self, entry: RaftEntry) -> Committed {
        let position = position(&entry);
        let payload = match entry.get_entry_type() {
            EntryType::EntryNormal if entry.data.is_empty() => Payload::Empty,
            EntryType::EntryNormal => Payload::Command(Bytes::from(entry.data)),
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => self.change_conf(position.index, &entry.data),
        };
        Committed { position, payload }
    }

    /// A change that cannot be is none, for all members alike.
    fn change_conf(&mut self, index: u64, data: &[u8]) -> Payload {
        let Some(change) = decode_change(data) else { return Payload::Empty };
        let Ok(state) = self.raw.apply_conf_change(&change) else { return Payload::Empty };
        (self.conf, self.conf_index) = (Conf::from(&state), index);
        Payload::Conf(self.conf.clone())
    }

    /// Says who leads, if that is new.
    fn tell_leader(&mut self) {
        let raft = &self.raw.raft;
        let now = (raft.term, raft.leader_id, raft.state == StateRole::Leader);
        if now == self.told {
            return;
        }
        self.told = now;
        self.asked.clear();
        self.sending.clear();
        self.fail_reads();
        let (term, _, us) = now;
        self.outputs.push_back(Output::Leader { term, leader: self.leader(), us });
    }
}

/// The crate raft's own encoding of a change, of which it has no decoder that is in reach.
#[derive(Clone, PartialEq, prost::Message)]
struct Change {
    #[prost(int32, tag = "1")]
    transition: i32,
    #[prost(message, repeated, tag = "2")]
    changes: Vec<Single>,
    #[prost(bytes = "vec", tag = "3")]
    context: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Single {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint64, tag = "2")]
    id: u64,
}

fn decode_change(data: &[u8]) -> Option<ConfChangeV2> {
    let decoded = Change::decode(data).ok()?;
    let mut change = ConfChangeV2::default();
    change.set_transition(ConfChangeTransition::from_i32(decoded.transition)?);
    for single in decoded.changes {
        let mut one = ConfChangeSingle { node_id: single.id, ..ConfChangeSingle::default() };
        one.set_change_type(ConfChangeType::from_i32(single.kind)?);
        change.changes.push(one);
    }
    Some(change)
}
