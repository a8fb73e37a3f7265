//! What waits to be sent on a client's stream.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use ringmesh_proto::etcd::{etcdserverpb::WatchResponse, mvccpb::Event};

use super::{
    super::header,
    interests::Interest,
    key_of,
    recovery::Recovery,
    watcher::{Number, Options},
};

/// What an event takes beside its keys and values, in memory and on the wire, about.
const EVENT_BYTES: usize = 64;

/// A stream, its watches, and what waits to be sent.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) watches: BTreeMap<i64, Number>,
    /// The id that a watch gets which brings none.
    pub(super) next_id: i64,
    queue: VecDeque<Item>,
    /// Of all in the queue.
    bytes: usize,
    /// How many of its watches are not live.
    pub(super) late: usize,
    /// Its watches that wait for room, and how they get it.
    pub(super) recovery: Recovery,
    /// Its watches that began, or will, in what was the future, by their first revision.
    pub(super) starts: BTreeSet<(i64, Number)>,
    /// Whether it is to be told of its progress.
    pub(super) owes: bool,
    /// The revision for which that waits.
    pub(super) owes_at: Option<i64>,
    /// Whether its owner knows that there is something to send.
    pub(super) is_listed: bool,
}

/// What is sent as one, or merged with what follows.
#[derive(Debug)]
enum Item {
    /// One revision's events for a watch.
    Events(Batch),
    /// All else.
    Response(Box<WatchResponse>),
}

/// One revision's events for a watch: those of a shared list that it wants. However many streams there are, and however
/// large the revision is, no stream has a list of its own.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) watch: i64,
    pub(super) revision: i64,
    pub(super) events: Arc<[Event]>,
    /// The next of them, and the one after the last.
    pub(super) at: usize,
    pub(super) end: usize,
    /// Of those that are left.
    pub(super) bytes: usize,
    pub(super) interest: Arc<Interest>,
    pub(super) options: Options,
}

impl Batch {
    /// The next event that is wanted, and its bytes.
    fn next(&mut self) -> Option<(&Event, usize)> {
        let left = self.events[self.at..self.end].iter();
        let skipped = left.take_while(|event| !self.options.wants(event) || !self.interest.contains(key_of(event)));
        self.at += skipped.count();
        let event = self.events[..self.end].get(self.at)?;
        Some((event, size_bytes(event, self.options.previous)))
    }
}

impl Stream {
    /// Whether at least so much waits.
    pub(super) fn is_full(&self, limit_bytes: usize) -> bool {
        self.bytes >= limit_bytes
    }

    /// Whether so many bytes of events may be added: always to an empty queue, for a revision may be larger than any limit.
    pub(super) fn has_room(&self, bytes: usize, limit_bytes: usize) -> bool {
        self.queue.is_empty() || self.bytes + bytes <= limit_bytes
    }

    /// Adds events for which there is room.
    pub(super) fn push_events(&mut self, batch: Batch) {
        self.bytes += batch.bytes;
        self.queue.push_back(Item::Events(batch));
    }

    /// Adds what must be said whether there is room or not.
    pub(super) fn push(&mut self, response: WatchResponse) {
        self.bytes += EVENT_BYTES;
        self.queue.push_back(Item::Response(Box::new(response)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The next response: events of one watch that follow each other, up to so many bytes.
    pub(super) fn pop(&mut self, budget_bytes: usize) -> Option<WatchResponse> {
        let mut batch = match self.queue.pop_front()? {
            Item::Response(response) => {
                self.bytes -= EVENT_BYTES;
                return Some(*response);
            }
            Item::Events(batch) => batch,
        };
        let mut response =
            WatchResponse { header: Some(header(batch.revision)), watch_id: batch.watch, ..WatchResponse::default() };
        let mut left = budget_bytes;
        loop {
            self.take(&mut batch, &mut response, &mut left);
            if batch.at < batch.end {
                response.fragment = true;
                self.queue.push_front(Item::Events(batch));
                return Some(response);
            }
            let Some(next) = self.pop_same(batch.watch, left) else { return Some(response) };
            response.header = Some(header(next.revision));
            batch = next;
        }
    }

    /// Moves events into a response: all of them, but for a watch that takes fragments.
    fn take(&mut self, batch: &mut Batch, response: &mut WatchResponse, left: &mut usize) {
        let Options { previous, fragments, .. } = batch.options;
        while let Some((event, bytes)) = batch.next() {
            if fragments && bytes > *left && !response.events.is_empty() {
                return;
            }
            let mut event = event.clone();
            if !previous {
                event.prev_kv = None;
            }
            response.events.push(event);
            batch.at += 1;
            batch.bytes -= bytes;
            self.bytes -= bytes;
            *left = left.saturating_sub(bytes);
        }
    }

    /// The next events, if they are of the same watch and not too many.
    fn pop_same(&mut self, watch: i64, left: usize) -> Option<Batch> {
        let is_next = match self.queue.front()? {
            Item::Response(_) => false,
            Item::Events(batch) => batch.watch == watch && batch.bytes <= left,
        };
        if !is_next {
            return None;
        }
        match self.queue.pop_front()? {
            Item::Events(batch) => Some(batch),
            Item::Response(_) => None,
        }
    }
}

/// About what an event takes.
pub(super) fn size_bytes(event: &Event, previous: bool) -> usize {
    let bytes = |record: &ringmesh_proto::etcd::mvccpb::KeyValue| record.key.len() + record.value.len();
    let before = event.prev_kv.as_ref().filter(|_| previous).map_or(0, bytes);
    EVENT_BYTES + event.kv.as_ref().map_or(0, bytes) + before
}

#[cfg(test)]
mod tests {
    use ringmesh_proto::{
        etcd::etcdserverpb::{PutRequest, RequestOp, TxnRequest, WatchCreateRequest, request_op::Request},
        store::{Command, command::Change},
    };

    use super::*;
    use crate::kv::{Kv, Settings};

    #[test]
    fn streams_share_the_events_of_a_revision_and_each_gets_its_own() {
        let mut kv = Kv::open(redb::backends::InMemoryBackend::new(), Settings::default()).unwrap();
        let streams = [kv.open_stream(), kv.open_stream()];
        for (stream, end) in streams.into_iter().zip(["z", "c"]) {
            kv.watch(stream, &WatchCreateRequest { key: "a".into(), range_end: end.into(), ..Default::default() });
            assert!(kv.poll_watch(stream, 1).unwrap().created);
        }
        let put = |key: &'static str| PutRequest { key: key.into(), ..PutRequest::default() };
        let ops = ["b", "x", "a"].map(|key| RequestOp { request: Some(Request::RequestPut(put(key))) });
        let change = Some(Change::Txn(TxnRequest { success: ops.to_vec(), ..TxnRequest::default() }));
        kv.apply(1, 1, &Command { id: 1, change }).unwrap();
        let lists = kv.watchers.streams.values().map(|stream| match &stream.queue[0] {
            Item::Events(batch) => Arc::as_ptr(&batch.events),
            Item::Response(response) => panic!("{response:?}"),
        });
        assert_eq!(lists.collect::<BTreeSet<_>>().len(), 1);
        let keys = streams.map(|stream| {
            let events = kv.poll_watch(stream, 1).unwrap().events;
            events.into_iter().map(|event| event.kv.unwrap().key).collect::<Vec<_>>()
        });
        assert_eq!(keys, [vec!["b", "x", "a"], vec!["b", "a"]]);
        assert!(kv.watchers.streams.values().all(|stream| stream.bytes == 0 && stream.queue.is_empty()));
    }
}
