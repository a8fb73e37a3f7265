//! How the watches of a stream that had no room get it again.
//!
//! They go back to history, those that stand the furthest back first, and only as many at once as may find room: twice as many as
//! found it the last time. As long as one of them is not done nothing is told live on that stream, so that what comes new
//! does not take the room. If the first of them found none its revision is large: it waits until nothing else does.

use std::collections::BTreeSet;

use super::{Place, StreamId, Watchers, stream::Stream, watcher::Number};

/// The watches of a stream that wait for room.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// By the revision at which they stand.
    pub(super) blocked: BTreeSet<(i64, Number)>,
    /// How many read history now.
    pub(super) released: usize,
    /// How many did when the last ones were released, and how many of these found no room.
    last: usize,
    refused: usize,
    /// The first of these, and whether it found none.
    first: Option<Number>,
    is_first_refused: bool,
}

impl Recovery {
    /// Whether any watch waits, or reads what it missed.
    pub(super) fn is_under_way(&self) -> bool {
        self.released > 0 || !self.blocked.is_empty()
    }

    /// One that was released found no room.
    pub(super) fn refuse(&mut self, number: Number) {
        self.refused += 1;
        self.is_first_refused |= self.first == Some(number);
    }

    /// Those that are to be released next.
    fn next(&mut self) -> Vec<Number> {
        let count = if self.is_first_refused { 1 } else { (self.last - self.refused.min(self.last)) * 2 };
        let next: Vec<Number> = self.blocked.iter().take(count.max(1)).map(|(_, number)| *number).collect();
        (self.last, self.refused) = (next.len(), 0);
        (self.first, self.is_first_refused) = (next.first().copied(), false);
        next
    }
}

impl Stream {
    /// Half, so that one who reads slowly does not go to history and back for each event.
    fn may_release(&self, limit_bytes: usize) -> bool {
        let has_room = self.is_empty() || (!self.recovery.is_first_refused && !self.is_full(limit_bytes / 2));
        has_room && self.recovery.released == 0 && !self.recovery.blocked.is_empty()
    }
}

impl Watchers {
    /// Lets some of a stream's watches that wait for room read history again, if there is some.
    pub(super) fn release_blocked(&mut self, id: StreamId) {
        let limit = self.stream_bytes;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.may_release(limit)) else { return };
        for number in stream.recovery.next() {
            let next = self.watcher(number).next;
            self.move_to(number, Place::Released, next);
        }
    }
}

#[cfg(test)]
mod tests {
    use ringmesh_proto::{
        etcd::etcdserverpb::{PutRequest, WatchCreateRequest},
        store::{Command, command::Change},
    };

    use super::*;
    use crate::kv::{Kv, Settings};

    /// With room for some ten events.
    fn store() -> Kv {
        let backend = redb::backends::InMemoryBackend::new();
        Kv::open(backend, Settings { stream_bytes: 1000, ..Settings::default() }).unwrap()
    }

    fn watch(kv: &mut Kv, stream: StreamId, key: &'static str) {
        kv.watch(stream, &WatchCreateRequest { key: key.into(), ..WatchCreateRequest::default() });
        assert!(kv.poll_watch(stream, 1).unwrap().created);
    }

    fn put(kv: &mut Kv, key: &'static str, bytes: usize) {
        let change = Change::Put(PutRequest { key: key.into(), value: vec![1; bytes].into(), ..PutRequest::default() });
        let index = kv.applied().index + 1;
        kv.apply(index, 1, &Command { id: index, change: Some(change) }).unwrap();
    }

    #[test]
    fn many_watches_of_a_full_stream_read_history_no_oftener_than_is_of_use() {
        const WATCHES: usize = 500;
        let mut kv = store();
        let stream = kv.open_stream();
        (0..WATCHES).for_each(|_| watch(&mut kv, stream, "a"));
        put(&mut kv, "a", 1);
        let (mut told, mut turns) = (0, 0);
        while told < WATCHES {
            told += kv.poll_watch(stream, 1).expect("those that wait are told").events.len();
            turns += 1;
            while kv.catch_up() {
                turns += 1;
            }
        }
        assert!(turns < 3 * WATCHES, "{turns} turns for {WATCHES} watches");
    }

    #[test]
    fn a_large_revision_gets_its_turn_on_a_stream_that_is_busy() {
        let mut kv = store();
        let stream = kv.open_stream();
        (0..5).for_each(|_| watch(&mut kv, stream, "busy"));
        watch(&mut kv, stream, "large");
        put(&mut kv, "busy", 1);
        put(&mut kv, "large", 2000);
        for _ in 0..50 {
            put(&mut kv, "busy", 1);
            kv.catch_up();
            let events = kv.poll_watch(stream, 1).map_or(Vec::new(), |answer| answer.events);
            if events.iter().any(|event| event.kv.as_ref().unwrap().key == "large") {
                return;
            }
        }
        panic!("it starves");
    }
}
