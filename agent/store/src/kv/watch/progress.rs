//! What says how far a watch is when there is nothing else to say. It stands in the queue behind all events, and so never
//! overtakes one.

use ringmesh_proto::etcd::etcdserverpb::WatchResponse;

use super::{
    super::{Kv, header},
    NO_WATCH, StreamId, Watchers,
    watcher::Place,
};

impl Kv {
    /// Asks for one answer that says up to which revision all the stream's watches have been told; it comes when they have.
    pub fn request_progress(&mut self, stream: StreamId) {
        if self.watchers.streams.contains_key(&stream) {
            self.watchers.owing.insert(stream);
            self.watchers.answer_progress(self.revision);
        }
    }

    /// Tells each watch that asked for it, and was told nothing since the last call, how far it is. Every ten minutes or so.
    pub fn notify_progress(&mut self) {
        self.watchers.notify_progress(self.revision);
    }
}

impl Watchers {
    /// Answers those streams that owe it and all of whose watches are live.
    ///
    /// Not before a watch that begins in the future: whoever goes on after the answered revision would be told of more
    /// than he asked for.
    pub(super) fn answer_progress(&mut self, revision: i64) {
        let is_due = |id: &StreamId| {
            self.streams.get(id).is_none_or(|stream| stream.late == 0 && stream.start_max <= revision + 1)
        };
        let due: Vec<_> = self.owing.iter().copied().filter(is_due).collect();
        for id in due {
            self.owing.remove(&id);
            self.respond(id, progress(NO_WATCH, revision));
        }
    }

    /// A stream's watch was cancelled: one that began in the future holds up its progress no more.
    pub(super) fn forget_start(&mut self, id: StreamId, revision: i64) {
        let Some(stream) = self.streams.get(&id).filter(|stream| stream.start_max > revision + 1) else { return };
        let start_max = stream.watches.values().map(|number| self.watcher(*number).next).max().unwrap_or(0);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.start_max = start_max;
        }
    }

    fn notify_progress(&mut self, revision: i64) {
        let mut due = Vec::new();
        for watcher in self.watchers.iter_mut().flatten().filter(|watcher| watcher.options.progress) {
            let was_told = std::mem::take(&mut watcher.was_told);
            if !was_told && watcher.place == Place::Live && watcher.next <= revision + 1 {
                due.push((watcher.stream, watcher.id));
            }
        }
        for (stream, watch) in due {
            if self.streams.get(&stream).is_some_and(|stream| !stream.is_full(self.stream_bytes)) {
                self.respond(stream, progress(watch, revision));
            }
        }
    }
}

fn progress(watch_id: i64, revision: i64) -> WatchResponse {
    WatchResponse { header: Some(header(revision)), watch_id, ..WatchResponse::default() }
}
