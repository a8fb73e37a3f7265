//! Streams of watches: what the keys say of them goes to their clients, as fast as each one reads. What waits for a slow
//! one, and how it catches up, is for the keys to know.

use std::collections::{BTreeMap, BTreeSet};

use ringmesh_proto::etcd::etcdserverpb::{WatchRequest, WatchResponse, watch_request::RequestUnion};
use ringmesh_store::kv::{Kv, StreamId};
use tokio::sync::mpsc;

use crate::store::request::Stamp;

/// About how many bytes of events an answer has.
const ANSWER_BYTES: usize = 512 << 10;

/// All streams that are open.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: BTreeMap<StreamId, mpsc::Sender<WatchResponse>>,
    /// They have something to say, and their clients room for it.
    ready: BTreeSet<StreamId>,
    /// They have something to say, and their clients no room.
    blocked: BTreeSet<StreamId>,
}

impl Streams {
    /// A new one.
    pub(super) fn open(&mut self, kv: &mut Kv, answers: mpsc::Sender<WatchResponse>) -> StreamId {
        let stream = kv.open_stream();
        self.open.insert(stream, answers);
        stream
    }

    /// What a client says on it.
    pub(super) fn say(&mut self, kv: &mut Kv, stream: StreamId, request: WatchRequest) {
        if !self.open.contains_key(&stream) {
            return;
        }
        match request.request_union {
            // Who asks on and on, and reads none of the answers, is let go.
            Some(RequestUnion::CreateRequest(_)) if kv.is_stream_stuck(stream) => self.close(kv, stream),
            Some(RequestUnion::CreateRequest(create)) => kv.watch(stream, &create),
            Some(RequestUnion::CancelRequest(cancel)) => kv.cancel_watch(stream, cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => kv.request_progress(stream),
            None => {}
        }
    }

    /// Its client has taken an answer: there is room for another.
    pub(super) fn taken(&mut self, stream: StreamId) {
        if self.blocked.remove(&stream) {
            self.ready.insert(stream);
        }
    }

    /// Its client has gone.
    pub(super) fn close(&mut self, kv: &mut Kv, stream: StreamId) {
        if self.open.remove(&stream).is_some() {
            self.ready.remove(&stream);
            self.blocked.remove(&stream);
            kv.close_stream(stream);
        }
    }

    /// Gives each client what there is room for.
    pub(super) fn pump(&mut self, kv: &mut Kv, stamp: Stamp) {
        while let Some(stream) = kv.poll_ready() {
            self.ready.insert(stream);
        }
        while let Some(stream) = self.ready.pop_first() {
            if !self.pump_one(kv, stamp, stream) {
                self.blocked.insert(stream);
            }
        }
    }

    /// False if there is more, and no room.
    fn pump_one(&mut self, kv: &mut Kv, stamp: Stamp, stream: StreamId) -> bool {
        let Some(answers) = self.open.get(&stream) else { return true };
        loop {
            let room = match answers.try_reserve() {
                Ok(room) => room,
                Err(mpsc::error::TrySendError::Full(())) => return false,
                Err(mpsc::error::TrySendError::Closed(())) => return true,
            };
            let Some(mut answer) = kv.poll_watch(stream, ANSWER_BYTES) else { return true };
            stamp.sign(&mut answer.header);
            room.send(answer);
        }
    }

    /// Closes those whose clients have gone without a word.
    pub(super) fn sweep(&mut self, kv: &mut Kv) {
        let gone =
            |(stream, answers): (&StreamId, &mpsc::Sender<WatchResponse>)| answers.is_closed().then_some(*stream);
        let gone: Vec<StreamId> = self.open.iter().filter_map(gone).collect();
        for stream in gone {
            self.close(kv, stream);
        }
    }
}
