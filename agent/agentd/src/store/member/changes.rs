//! Changes from when they are asked for until they are applied: by whom they wait to be known, and what still has to be
//! proposed. Whether and where they can be proposed it does not know.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use prost::Message;
use ringmesh_proto::store::{Command, command::Change};
use tokio::sync::oneshot;

use crate::store::request::{Changed, Failure};

/// Changes that wait, at the most; with the largest requests there is room for fewer, see [`MAX_WAITING_BYTES`].
const MAX_WAITING: usize = 16_384;

/// Bytes of changes that wait, at the most.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// Where the outcome of a change goes.
pub(super) type Reply = oneshot::Sender<Result<Changed, Failure>>;

/// All that are under way.
#[derive(Debug)]
pub(super) struct Changes {
    next_id: u64,
    waiting: BTreeMap<u64, Waiting>,
    unproposed: VecDeque<u64>,
    /// To be proposed later: whom they were given to did not lead.
    put_off: Vec<u64>,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    command: Bytes,
    reply: Reply,
    /// In which it was proposed, or given to the leader.
    term: Option<u64>,
}

impl Changes {
    /// Ids count from `first_id`, which chance has chosen: no other process counts through the same numbers.
    pub(super) fn new(first_id: u64) -> Self {
        Self { next_id: first_id, waiting: BTreeMap::new(), unproposed: VecDeque::new(), put_off: Vec::new(), bytes: 0 }
    }

    /// Takes one to be proposed.
    pub(super) fn take(&mut self, change: Change, reply: Reply) {
        let (id, command) = self.command(change);
        if self.waiting.len() >= MAX_WAITING || self.bytes + command.len() > MAX_WAITING_BYTES {
            // Who asked may have gone.
            let _ = reply.send(Err(Failure::TooMany));
            return;
        }
        self.bytes += command.len();
        self.waiting.insert(id, Waiting { command, reply, term: None });
        self.unproposed.push_back(id);
    }

    /// One of our own, whose outcome nobody waits for.
    pub(super) fn command(&mut self, change: Change) -> (u64, Bytes) {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let command = Command { id, change: Some(change) };
        (id, command.encode_to_vec().into())
    }

    /// The next one to be proposed. One whose asker has given up is not.
    pub(super) fn next(&mut self) -> Option<(u64, Bytes)> {
        loop {
            let id = self.unproposed.pop_front()?;
            match self.waiting.get(&id) {
                Some(waiting) if !waiting.reply.is_closed() => return Some((id, waiting.command.clone())),
                Some(_) => drop(self.resolve(id)),
                None => {}
            }
        }
    }

    /// It was proposed, or given to the leader, in this term.
    pub(super) fn given(&mut self, id: u64, term: u64) {
        if let Some(waiting) = self.waiting.get_mut(&id) {
            waiting.term = Some(term);
        }
    }

    /// Those that were given in an earlier term than this one, of which an entry is applied now: all entries of earlier ones
    /// stand before it in the log. Almost certainly they are in none; but a message may still be on its way.
    pub(super) fn lost(&mut self, term: u64) -> Vec<Reply> {
        let is_lost = |waiting: &Waiting| waiting.term.is_some_and(|given| given < term);
        let lost: Vec<u64> = self.waiting.iter().filter_map(|(id, waiting)| is_lost(waiting).then_some(*id)).collect();
        lost.into_iter().filter_map(|id| self.resolve(id)).collect()
    }

    /// It was not proposed, and is to be again.
    pub(super) fn put_back(&mut self, id: u64) {
        if let Some(waiting) = self.waiting.get_mut(&id) {
            waiting.term = None;
            self.unproposed.push_front(id);
        }
    }

    /// The same, but not before the next sweep: else two members that take each other for the leader would play ball.
    pub(super) fn put_off(&mut self, id: u64) {
        let Some(waiting) = self.waiting.get_mut(&id) else { return };
        // What is not given has been put off or back already.
        if waiting.term.take().is_some() {
            self.put_off.push(id);
        }
    }

    /// It was applied: who waits for that, if it was asked for here.
    pub(super) fn resolve(&mut self, id: u64) -> Option<Reply> {
        let waiting = self.waiting.remove(&id)?;
        self.bytes -= waiting.command.len();
        Some(waiting.reply)
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Forgets those whose askers have given up, and takes up again what was put off.
    pub(super) fn sweep(&mut self) {
        self.unproposed.extend(self.put_off.drain(..));
        let bytes = &mut self.bytes;
        self.waiting.retain(|_, waiting| {
            let keep = !waiting.reply.is_closed();
            *bytes -= if keep { 0 } else { waiting.command.len() };
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use ringmesh_proto::etcd::etcdserverpb::PutRequest;

    use super::*;

    fn put(bytes: usize) -> Change {
        Change::Put(PutRequest { key: vec![1; bytes].into(), ..PutRequest::default() })
    }

    #[test]
    fn what_was_not_proposed_comes_again_and_first() {
        let mut changes = Changes::new(u64::MAX);
        let (first, _a) = oneshot::channel();
        let (second, _b) = oneshot::channel();
        changes.take(put(1), first);
        changes.take(put(1), second);
        let (id, command) = changes.next().unwrap();
        assert_eq!((id, Command::decode(command).unwrap().id), (u64::MAX, u64::MAX));
        changes.put_back(id);
        assert_eq!(changes.next().unwrap().0, u64::MAX);
        assert_eq!(changes.next().unwrap().0, 0);
        assert_eq!(changes.next(), None);
        changes.given(id, 3);
        changes.put_off(id);
        changes.put_off(id);
        assert_eq!(changes.lost(9).len(), 0, "what is not given is not lost");
        assert_eq!(changes.next(), None);
        changes.sweep();
        assert_eq!(changes.next().unwrap().0, u64::MAX);
        assert!(changes.resolve(id).is_some());
        assert!(changes.resolve(id).is_none());
        changes.put_back(id);
        assert_eq!(changes.next(), None);
    }

    #[test]
    fn what_an_earlier_leader_was_given_is_lost_with_it() {
        let mut changes = Changes::new(0);
        let (reply, _answer) = oneshot::channel();
        changes.take(put(1), reply);
        let (id, _) = changes.next().unwrap();
        changes.given(id, 3);
        assert_eq!(changes.lost(3).len(), 0);
        assert_eq!(changes.lost(4).len(), 1);
        assert!(changes.is_empty());
    }

    #[test]
    fn whoever_has_given_up_takes_no_room() {
        let mut changes = Changes::new(0);
        for _ in 0..2 {
            let (reply, answer) = oneshot::channel();
            changes.take(put(MAX_WAITING_BYTES / 2), reply);
            drop(answer);
        }
        let (reply, mut answer) = oneshot::channel();
        changes.take(put(MAX_WAITING_BYTES / 2), reply);
        assert!(matches!(answer.try_recv().unwrap(), Err(Failure::TooMany)));
        changes.sweep();
        assert_eq!(changes.bytes, 0);
        let (reply, mut answer) = oneshot::channel();
        changes.take(put(MAX_WAITING_BYTES / 2), reply);
        answer.try_recv().unwrap_err();
        assert!(changes.next().is_some());
    }
}
