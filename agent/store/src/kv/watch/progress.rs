//! What says how far a watch is when there is nothing else to say. It stands in the queue behind all events, and so never
//! overtakes one.

use ringmesh_proto::etcd::etcdserverpb::WatchResponse;

use super::{
    super::{Kv, header},
    NO_WATCH, StreamId, Watchers,
    watcher::{Number, Place},
};

impl Kv {
    /// Asks for one answer that says up to which revision all the stream's watches have been told; it comes when they have.
    pub fn request_progress(&mut self, stream: StreamId) {
        if let Some(of) = self.watchers.streams.get_mut(&stream) {
            of.owes = true;
            self.watchers.try_answer(stream, self.revision);
        }
    }

    /// Tells each watch that asked for it, and was told nothing since the last call, how far it is. Every ten minutes or so.
    pub fn notify_progress(&mut self) {
        self.watchers.notify_progress(self.revision);
    }
}

impl Watchers {
    /// Answers those streams that owe it and now can. Only those are looked at of which something has changed.
    pub(super) fn answer_progress(&mut self, revision: i64) {
        while let Some((_, id)) = self.owing_later.first().copied().filter(|(start, _)| *start <= revision + 1) {
            self.try_answer(id, revision);
        }
        for id in std::mem::take(&mut self.owing) {
            self.try_answer(id, revision);
        }
    }

    /// Answers a stream that owes it, if all of its watches are live and there is room.
    ///
    /// Not before a watch that begins in the future: whoever goes on after the answered revision would be told of more
    /// than he asked for.
    fn try_answer(&mut self, id: StreamId, revision: i64) {
        let limit = self.stream_bytes;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if let Some(start) = stream.owes_at.take() {
            self.owing_later.remove(&(start, id));
        }
        if !stream.owes || stream.late > 0 || stream.is_full(limit) {
            return;
        }
        if let Some((start, _)) = stream.starts.last().filter(|(start, _)| *start > revision + 1) {
            stream.owes_at = Some(*start);
            self.owing_later.insert((*start, id));
            return;
        }
        stream.starts.clear();
        stream.owes = false;
        self.respond(id, progress(NO_WATCH, revision));
    }

    /// A watch begins in the future, and holds up its stream's progress until then.
    pub(super) fn note_start(&mut self, id: StreamId, start: i64, number: Number, revision: i64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        while stream.starts.first().is_some_and(|(start, _)| *start <= revision) {
            stream.starts.pop_first();
        }
        stream.starts.insert((start, number));
    }

    /// Something has changed that may have held up an answer.
    pub(super) fn look_at_progress(&mut self, id: StreamId) {
        if self.streams.get(&id).is_some_and(|stream| stream.owes) {
            self.owing.insert(id);
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
