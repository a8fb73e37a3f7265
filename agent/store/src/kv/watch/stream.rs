//! What waits to be sent on a client's stream.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use ringmesh_proto::etcd::{etcdserverpb::WatchResponse, mvccpb::Event};

use super::{super::header, watcher::Number};

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
    /// Its watches that wait for room.
    pub(super) blocked: BTreeSet<Number>,
    /// How many of its watches are not live.
    pub(super) late: usize,
    /// The latest revision from which one of its watches begins.
    pub(super) start_max: i64,
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

/// One revision's events for a watch. They are shared with other watches.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) watch: i64,
    pub(super) revision: i64,
    pub(super) events: VecDeque<Arc<Event>>,
    pub(super) previous: bool,
    pub(super) fragments: bool,
}

impl Stream {
    /// Whether so much waits that no events should be added.
    pub(super) fn is_full(&self, limit_bytes: usize) -> bool {
        self.bytes >= limit_bytes
    }

    /// Whether so many bytes of events may be added: always to an empty queue, for a revision may be larger than any limit.
    pub(super) fn has_room(&self, bytes: usize, limit_bytes: usize) -> bool {
        self.queue.is_empty() || self.bytes + bytes <= limit_bytes
    }

    /// Adds events of so many bytes, for which there is room.
    pub(super) fn push_events(&mut self, batch: Batch, bytes: usize) {
        self.bytes += bytes;
        self.queue.push_back(Item::Events(batch));
    }

    /// Adds what must be said whether there is room or not. Its owner stops asking when the stream is full.
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
            if !batch.events.is_empty() {
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
        while let Some(event) = batch.events.front() {
            let bytes = size_bytes(event, batch.previous);
            if batch.fragments && bytes > *left && !response.events.is_empty() {
                return;
            }
            let mut event = event.as_ref().clone();
            if !batch.previous {
                event.prev_kv = None;
            }
            response.events.push(event);
            batch.events.pop_front();
            self.bytes -= bytes;
            *left = left.saturating_sub(bytes);
        }
    }

    /// The next events, if they are of the same watch and not too many.
    fn pop_same(&mut self, watch: i64, left: usize) -> Option<Batch> {
        let is_next = match self.queue.front()? {
            Item::Response(_) => false,
            Item::Events(batch) => {
                let bytes: usize = batch.events.iter().map(|event| size_bytes(event, batch.previous)).sum();
                batch.watch == watch && bytes <= left
            }
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
