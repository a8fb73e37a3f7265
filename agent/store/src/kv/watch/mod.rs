//! Who is told of which key's changes.
//!
//! ```text
//!   a command is applied ──► live watchers ──────────────┐
//!                              │ no room   ▲ caught up    ├──► the stream's queue ──► poll
//!                              ▼           │              │
//!                            blocked ──► released ────────┤
//!                                  room     (reads history, in turns)
//!                                        behind ──────────┘
//! ```
//!
//! Each watcher knows the revision up to which it was told; all events of a revision are told as one. So nothing is lost
//! and nothing told twice, however often it goes round.

mod catch_up;
mod interests;
mod progress;
mod recovery;
mod stream;
mod tree;
mod watcher;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use ringmesh_proto::etcd::{
    etcdserverpb::{WatchCreateRequest, WatchResponse},
    mvccpb::Event,
};

use self::{
    interests::{Interest, Interests},
    stream::{Batch, Stream},
    watcher::{Number, Options, Place, Watcher},
};
use super::{Kv, Settings, header};

/// A client's stream of watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// The id of an answer that is of no watch.
const NO_WATCH: i64 = -1;

/// All streams and their watches.
#[derive(Debug, Default)]
pub struct Watchers {
    /// By number; `None` is free.
    watchers: Vec<Option<Watcher>>,
    free: Vec<Number>,
    interests: Interests,
    /// Those that read history, by where they are.
    behind: BTreeSet<(i64, Number)>,
    streams: BTreeMap<StreamId, Stream>,
    last_stream: u64,
    /// Streams that have something to send.
    ready: VecDeque<StreamId>,
    /// Streams that owe an answer on their progress, and may be able to give it now.
    owing: BTreeSet<StreamId>,
    /// Those that can when a revision has come.
    owing_later: BTreeSet<(i64, StreamId)>,
    /// How many watchers want to know what was before.
    wanting_previous: usize,
    /// How many watchers there may be.
    watches_max: usize,
    /// Of one stream's queue.
    stream_bytes: usize,
    /// Of what one request says of keys.
    request_bytes: usize,
}

/// What a watcher is to be told of a revision.
#[derive(Debug)]
struct Hits {
    bytes: usize,
    /// Its first event among all, and its last.
    first: usize,
    last: usize,
}

impl Kv {
    /// A new stream of watches.
    pub fn open_stream(&mut self) -> StreamId {
        self.watchers.last_stream += 1;
        let stream = StreamId(self.watchers.last_stream);
        self.watchers.streams.insert(stream, Stream::default());
        stream
    }

    /// Ends a stream and its watches.
    pub fn close_stream(&mut self, stream: StreamId) {
        let Some(Stream { watches, owes_at, .. }) = self.watchers.streams.remove(&stream) else { return };
        watches.into_values().for_each(|number| self.watchers.remove(number));
        self.watchers.owing.remove(&stream);
        owes_at.into_iter().for_each(|start| _ = self.watchers.owing_later.remove(&(start, stream)));
    }

    /// Makes a watch. All that there is to say of it, refusals too, comes by [`Kv::poll_watch`]; but on a stream that is
    /// [stuck](Kv::is_stream_stuck) nothing is made, and nothing said.
    pub fn watch(&mut self, stream: StreamId, request: &WatchCreateRequest) {
        self.watchers.create(stream, request, self.revision);
    }

    /// Ends a watch, which is answered. One that is not there is not.
    pub fn cancel_watch(&mut self, stream: StreamId, watch: i64) {
        let number = self.watchers.streams.get(&stream).and_then(|stream| stream.watches.get(&watch));
        if let Some(number) = number {
            let header = Some(header(self.revision));
            self.watchers.cancel(*number, WatchResponse { header, ..WatchResponse::default() });
        }
    }

    /// Whether so much waits in a stream that it gets no more watches.
    pub fn is_stream_full(&self, stream: StreamId) -> bool {
        let limit = self.watchers.stream_bytes;
        self.watchers.streams.get(&stream).is_some_and(|stream| stream.is_full(limit))
    }

    /// Whether so much waits, of refusals too, that whoever asks for more does not read: the stream should be closed.
    pub fn is_stream_stuck(&self, stream: StreamId) -> bool {
        let limit = self.watchers.stream_bytes.saturating_mul(2);
        self.watchers.streams.get(&stream).is_some_and(|stream| stream.is_full(limit))
    }

    /// How many watches there are, of all streams.
    pub fn watches(&self) -> usize {
        self.watchers.count()
    }

    /// A stream that has something to be polled. Each is named once, until it has been polled empty.
    pub fn poll_ready(&mut self) -> Option<StreamId> {
        self.watchers.ready.pop_front()
    }

    /// The next response of a stream, of about so many bytes: more only where one revision's events, which stay together,
    /// are more.
    pub fn poll_watch(&mut self, stream: StreamId, budget_bytes: usize) -> Option<WatchResponse> {
        self.watchers.poll(stream, budget_bytes)
    }

    /// Hands out all streams and watches, for a replica that is being replaced by a restored one.
    pub fn take_watchers(&mut self) -> Watchers {
        let empty = Watchers::new(&self.settings);
        let mut watchers = std::mem::replace(&mut self.watchers, empty);
        watchers.leave(self.revision);
        watchers
    }

    /// Takes over another replica's streams and watches, where they stood.
    pub fn adopt_watchers(&mut self, watchers: Watchers) {
        self.watchers = watchers;
    }
}

impl Watchers {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            interests: Interests::new(settings.seed),
            watches_max: settings.watches_max,
            stream_bytes: settings.stream_bytes,
            request_bytes: settings.max_request_bytes,
            ..Self::default()
        }
    }

    /// How many watches there are.
    pub(super) fn count(&self) -> usize {
        self.watchers.len() - self.free.len()
    }

    /// Whether somebody who is told of a key's change wants to know what it was before.
    pub(super) fn wants_previous(&self, key: &[u8]) -> bool {
        self.wanting_previous > 0 && self.interests.find(key).into_iter().any(|n| self.watcher(n).options.previous)
    }

    /// Tells those who are live of a revision.
    pub(super) fn notify(&mut self, revision: i64, events: Vec<Event>) {
        self.tell_all(revision, events, |watcher, _| watcher.place == Place::Live);
    }

    /// Tells those of a revision for whom it is meant, and who want to know.
    fn tell_all(&mut self, revision: i64, events: Vec<Event>, is_meant: impl Fn(&Watcher, Number) -> bool) {
        let events: Arc<[Event]> = events.into();
        let mut hits: BTreeMap<Number, Hits> = BTreeMap::new();
        for (at, event) in events.iter().enumerate() {
            for number in self.interests.find(key_of(event)) {
                let watcher = self.watcher(number);
                if watcher.next <= revision && watcher.options.wants(event) && is_meant(watcher, number) {
                    let hits = hits.entry(number).or_insert(Hits { bytes: 0, first: at, last: at });
                    hits.bytes += stream::size_bytes(event, watcher.options.previous);
                    hits.last = at;
                }
            }
        }
        hits.into_iter().for_each(|(number, hits)| self.tell(number, revision, &events, &hits));
    }

    /// Tells a watcher of a revision, or blocks it there. Nothing is gathered for one that has no room.
    fn tell(&mut self, number: Number, revision: i64, events: &Arc<[Event]>, hits: &Hits) {
        let watcher = watcher_mut(&mut self.watchers, number);
        let stream = self.streams.get_mut(&watcher.stream).expect("a watcher's stream is there");
        let waits = watcher.place == Place::Live && stream.recovery.is_under_way();
        if waits || !stream.has_room(hits.bytes, self.stream_bytes) {
            if watcher.place == Place::Released {
                stream.recovery.refuse(number);
            }
            self.move_to(number, Place::Blocked, revision);
            return;
        }
        stream.push_events(Batch {
            watch: watcher.id,
            revision,
            events: Arc::clone(events),
            at: hits.first,
            end: hits.last + 1,
            bytes: hits.bytes,
            interest: Arc::clone(&watcher.interest),
            options: watcher.options,
        });
        watcher.was_told = true;
        let id = watcher.stream;
        self.list(id);
    }

    fn create(&mut self, id: StreamId, request: &WatchCreateRequest, revision: i64) {
        let obstacle = self.obstacle(id, request);
        let stuck = self.stream_bytes.saturating_mul(2);
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_full(stuck)) else { return };
        let start = if request.start_revision == 0 { revision + 1 } else { request.start_revision };
        let created = WatchResponse { header: Some(header(revision)), created: true, ..WatchResponse::default() };
        let refused = |reason: &str| WatchResponse {
            watch_id: NO_WATCH,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..created.clone()
        };
        let interest = Interest::new(&request.key, &request.range_end);
        // A watch that is refused takes no id.
        let watch = interest.as_ref().filter(|_| obstacle.is_none()).and_then(|_| stream.id_for(request.watch_id));
        let response = match (obstacle, interest, watch) {
            (Some(why), _, _) => refused(why),
            (_, None, _) => refused("mvcc: watcher range is empty"),
            (_, _, None) => refused("mvcc: duplicate watch ID provided on the WatchStream"),
            (None, Some(interest), Some(watch)) => {
                let (options, place, interest) = (Options::new(request), Place::Live, Arc::new(interest));
                let watcher = Watcher { stream: id, id: watch, interest, next: start, place, options, was_told: false };
                let number = self.add(watcher);
                if start <= revision {
                    self.move_to(number, Place::Behind, start);
                } else if start > revision + 1 {
                    self.note_start(id, start, number, revision);
                }
                WatchResponse { watch_id: watch, ..created }
            }
        };
        self.respond(id, response);
    }

    /// Why a watch cannot be made now, or never.
    fn obstacle(&self, id: StreamId, request: &WatchCreateRequest) -> Option<&'static str> {
        if self.count() >= self.watches_max {
            return Some("etcdserver: too many watches");
        }
        if request.key.len().saturating_add(request.range_end.len()) > self.request_bytes {
            return Some("etcdserver: request is too large");
        }
        let is_full = self.streams.get(&id).is_some_and(|stream| stream.is_full(self.stream_bytes));
        is_full.then_some("etcdserver: too many requests")
    }

    fn add(&mut self, watcher: Watcher) -> Number {
        let number = self.free.pop().unwrap_or_else(|| {
            self.watchers.push(None);
            self.watchers.len() as Number - 1
        });
        self.interests.insert(&watcher.interest, number);
        self.wanting_previous += usize::from(watcher.options.previous);
        let stream = self.streams.get_mut(&watcher.stream).expect("a watcher's stream is there");
        stream.watches.insert(watcher.id, number);
        self.watchers[number as usize] = Some(watcher);
        number
    }

    /// Ends a watcher; its stream may be gone already.
    fn remove(&mut self, number: Number) {
        let Watcher { stream, next, .. } = *self.watcher(number);
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.starts.remove(&(next, number));
        }
        self.move_to(number, Place::Live, i64::MAX);
        self.look_at_progress(stream);
        let watcher = self.watchers[number as usize].take().expect("a watcher is removed once");
        self.free.push(number);
        self.interests.remove(&watcher.interest, number);
        self.wanting_previous -= usize::from(watcher.options.previous);
        if let Some(stream) = self.streams.get_mut(&watcher.stream) {
            stream.watches.remove(&watcher.id);
        }
    }

    /// Ends a watcher, and says so.
    fn cancel(&mut self, number: Number, response: WatchResponse) {
        let Watcher { stream, id, .. } = *self.watcher(number);
        self.remove(number);
        self.respond(stream, WatchResponse { watch_id: id, canceled: true, ..response });
    }

    /// A watcher's events come from elsewhere now, from a revision on.
    fn move_to(&mut self, number: Number, place: Place, next: i64) {
        let watcher = watcher_mut(&mut self.watchers, number);
        let before = (watcher.place, watcher.next);
        (watcher.place, watcher.next) = (place, next);
        let id = watcher.stream;
        if before.0.is_behind() {
            self.behind.remove(&(before.1, number));
        }
        if place.is_behind() {
            self.behind.insert((next, number));
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.late -= usize::from(before.0 != Place::Live);
        stream.late += usize::from(place != Place::Live);
        match before.0 {
            Place::Blocked => _ = stream.recovery.blocked.remove(&(before.1, number)),
            Place::Released => stream.recovery.released -= 1,
            Place::Live | Place::Behind => {}
        }
        match place {
            Place::Blocked => _ = stream.recovery.blocked.insert((next, number)),
            Place::Released => stream.recovery.released += 1,
            Place::Live | Place::Behind => {}
        }
        if stream.late == 0 && before.0 != Place::Live {
            self.look_at_progress(id);
        }
    }

    fn respond(&mut self, id: StreamId, response: WatchResponse) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.push(response);
            self.list(id);
        }
    }

    fn list(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_listed) {
            stream.is_listed = true;
            self.ready.push_back(id);
        }
    }

    fn poll(&mut self, id: StreamId, budget_bytes: usize) -> Option<WatchResponse> {
        let stream = self.streams.get_mut(&id)?;
        let response = stream.pop(budget_bytes);
        stream.is_listed = response.is_some();
        self.release_blocked(id);
        self.look_at_progress(id);
        response
    }

    fn watcher(&self, number: Number) -> &Watcher {
        self.watchers[number as usize].as_ref().expect("a number that is in use is of a watcher")
    }
}

impl Stream {
    /// The id of a new watch: what is asked for, or for 0 one that is free. `None` if it is taken.
    fn id_for(&mut self, asked: i64) -> Option<i64> {
        if asked != 0 {
            return (!self.watches.contains_key(&asked)).then_some(asked);
        }
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Some(self.next_id - 1)
    }
}

/// Apart from [`Watchers`], whose other parts are changed along with it.
fn watcher_mut(watchers: &mut [Option<Watcher>], number: Number) -> &mut Watcher {
    watchers[number as usize].as_mut().expect("a number that is in use is of a watcher")
}

fn key_of(event: &Event) -> &[u8] {
    event.kv.as_ref().map_or(&[], |record| record.key.as_ref())
}
