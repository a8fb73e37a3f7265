//! Who is told of which key's changes.
//!
//! ```text
//!   a command is applied ──► live watchers ──────────────┐
//!                              │ no room   ▲ caught up    ├──► the stream's queue ──► poll
//!                              ▼           │              │
//!                            blocked ──► behind ──────────┘
//!                                  room     (reads history, in turns)
//! ```
//!
//! Each watcher knows the revision up to which it was told; all events of a revision are told as one. So nothing is lost
//! and nothing told twice, however often it goes round.

mod catch_up;
mod interests;
mod progress;
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
    /// Streams that owe an answer on their progress.
    owing: BTreeSet<StreamId>,
    /// How many watchers want to know what was before.
    wanting_previous: usize,
    /// How many watchers there may be.
    watches_max: usize,
    /// Of one stream's queue.
    stream_bytes: usize,
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
        let Some(Stream { watches, .. }) = self.watchers.streams.remove(&stream) else { return };
        watches.into_values().for_each(|number| self.watchers.remove(number));
        self.watchers.owing.remove(&stream);
    }

    /// Makes a watch. All that there is to say of it, refusals too, comes by [`Kv::poll_watch`].
    pub fn watch(&mut self, stream: StreamId, request: &WatchCreateRequest) {
        self.watchers.create(stream, request, self.revision);
    }

    /// Ends a watch, which is answered. One that is not there is not.
    pub fn cancel_watch(&mut self, stream: StreamId, watch: i64) {
        let number = self.watchers.streams.get(&stream).and_then(|stream| stream.watches.get(&watch));
        if let Some(number) = number {
            let header = Some(header(self.revision));
            self.watchers.cancel(*number, WatchResponse { header, ..WatchResponse::default() });
            self.watchers.forget_start(stream, self.revision);
        }
    }

    /// Whether so much waits in a stream that nothing more should be asked of it.
    pub fn is_stream_full(&self, stream: StreamId) -> bool {
        let limit = self.watchers.stream_bytes;
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
        let events: Vec<_> = events.into_iter().map(Arc::new).collect();
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
    fn tell(&mut self, number: Number, revision: i64, events: &[Arc<Event>], hits: &Hits) {
        let watcher = watcher_mut(&mut self.watchers, number);
        let stream = self.streams.get_mut(&watcher.stream).expect("a watcher's stream is there");
        if !stream.has_room(hits.bytes, self.stream_bytes) {
            self.move_to(number, Place::Blocked, revision);
            return;
        }
        let Options { previous, fragments, .. } = watcher.options;
        let is_wanted = |event: &&Arc<Event>| watcher.options.wants(event) && watcher.interest.contains(key_of(event));
        let events = events[hits.first..=hits.last].iter().filter(is_wanted).map(Arc::clone).collect();
        stream.push_events(Batch { watch: watcher.id, revision, events, previous, fragments }, hits.bytes);
        watcher.was_told = true;
        let id = watcher.stream;
        self.list(id);
    }

    fn create(&mut self, id: StreamId, request: &WatchCreateRequest, revision: i64) {
        let is_full = self.count() >= self.watches_max;
        let Some(stream) = self.streams.get_mut(&id) else { return };
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
        let watch = interest.as_ref().filter(|_| !is_full).and_then(|_| stream.id_for(request.watch_id));
        let response = match (interest, watch) {
            _ if is_full => refused("etcdserver: too many watches"),
            (None, _) => refused("mvcc: watcher range is empty"),
            (_, None) => refused("mvcc: duplicate watch ID provided on the WatchStream"),
            (Some(interest), Some(watch)) => {
                stream.start_max = stream.start_max.max(start);
                let options = Options::new(request);
                let place = Place::Live;
                let watcher = Watcher { stream: id, id: watch, interest, next: start, place, options, was_told: false };
                let number = self.add(watcher);
                if start <= revision {
                    self.move_to(number, Place::Behind, start);
                }
                WatchResponse { watch_id: watch, ..created }
            }
        };
        self.respond(id, response);
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
        self.move_to(number, Place::Live, i64::MAX);
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
        if before.0 == Place::Behind {
            self.behind.remove(&(before.1, number));
        }
        if place == Place::Behind {
            self.behind.insert((next, number));
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.late -= usize::from(before.0 != Place::Live);
        stream.late += usize::from(place != Place::Live);
        match place {
            Place::Blocked => _ = stream.blocked.insert(number),
            Place::Live | Place::Behind => _ = stream.blocked.remove(&number),
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
        let limit = self.stream_bytes;
        let stream = self.streams.get_mut(&id)?;
        let response = stream.pop(budget_bytes);
        stream.is_listed = response.is_some();
        // Half, so that one who reads slowly does not go to history and back for each event.
        if !stream.is_full(limit / 2) || stream.is_empty() {
            for number in std::mem::take(&mut stream.blocked) {
                let next = self.watcher(number).next;
                self.move_to(number, Place::Behind, next);
            }
        }
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
