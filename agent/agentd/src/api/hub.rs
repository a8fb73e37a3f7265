//! Watches of details: one picture of the objects for all who watch the same hosts, and each client's own place in it.
//!
//! ```text
//!   View (ours, shared) ──┐
//!                         ├─▶ keep() ─▶ Hub: picture, log of changes ─▶ follow() a client: what differs from the picture
//!   answers of others  ───┘                                                       that it was told
//! ```
//! A client that reads too slowly is not sent every state that an object passed through, but always the last one: nothing
//! is queued for it. The log is for clients that come back: they get what they missed.

mod keeper;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rand::{TryRng, rngs::SysRng};
use ringmesh_proto::{
    HostId, opaque,
    peer::{Selection, WatchToken},
    v1::{Container, Service, Source, change::Kind},
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use self::keeper::Keeper;
use super::{Answers, Api, watch::BOUND};
use crate::details::{Detail, Fields, changes};

/// Pictures of a kind: one for all hosts, and one for each host that is watched alone.
const MAX_PICTURES: usize = 64;

/// Changes that a client may have missed.
const MAX_LOG: usize = 16_384;

/// What a client wants to watch.
pub(super) struct Question {
    /// The same for the same question.
    pub(super) id: u64,
    /// Only the host of this name or id; empty for all.
    pub(super) host: String,
    pub(super) selection: Selection,
    pub(super) fields: Fields,
    /// Where it goes on; empty at first.
    pub(super) position: String,
}

/// What a client of a watch is sent.
pub(super) trait Message<T>: Send + 'static {
    fn new(change: Kind, object: Option<T>, source: Option<Source>, position: String) -> Self;
}

/// What is watched, or was a moment ago: by the host that it is of, or "" for all.
#[derive(Default)]
pub struct Watches {
    containers: Shelf<Container>,
    services: Shelf<Service>,
}

pub(super) type Shelf<T> = Mutex<BTreeMap<String, Arc<Hub<T>>>>;

/// A kind of details that is watched.
pub(super) trait Watched: Detail + 'static {
    fn shelf(watches: &Watches) -> &Shelf<Self>;
}

impl Watched for Container {
    fn shelf(watches: &Watches) -> &Shelf<Self> {
        &watches.containers
    }
}

impl Watched for Service {
    fn shelf(watches: &Watches) -> &Shelf<Self> {
        &watches.services
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One host's objects, sorted by key, shared with the snapshots that they come from.
type Objects<T> = Arc<Vec<Arc<T>>>;

/// All objects at one moment. A host that cannot be reached keeps those that it had.
struct Picture<T> {
    /// `None` is this host.
    hosts: BTreeMap<Option<HostId>, Objects<T>>,
    missing: BTreeMap<HostId, Source>,
    /// How many changes led to it.
    change: u64,
    /// Every host has answered once, or is missing.
    is_whole: bool,
}

impl<T> Default for Picture<T> {
    fn default() -> Self {
        Self { hosts: BTreeMap::new(), missing: BTreeMap::new(), change: 0, is_whole: false }
    }
}

impl<T> Clone for Picture<T> {
    fn clone(&self) -> Self {
        let (hosts, missing) = (self.hosts.clone(), self.missing.clone());
        Self { hosts, missing, change: self.change, is_whole: self.is_whole }
    }
}

/// An object before and after one change.
struct Entry<T> {
    before: Option<Arc<T>>,
    after: Option<Arc<T>>,
}

/// One picture, and how it came to be.
pub(super) struct Hub<T> {
    /// Tells it from those of other agents and other lives of this one.
    id: u64,
    state: Mutex<State<T>>,
    /// Told when the picture is another one.
    news: watch::Sender<()>,
}

struct State<T> {
    picture: Arc<Picture<T>>,
    /// The last changes of the picture; the last one is number `picture.change`.
    log: VecDeque<Entry<T>>,
}

/// Something to tell a client.
enum Step<T> {
    Object(Kind, Arc<T>),
    Source(Source),
}

impl<T: Detail> Hub<T> {
    fn new() -> Result<Self, Status> {
        let id = SysRng.try_next_u64().map_err(|_| Status::internal("the platform has no randomness"))?;
        let state = State { picture: Arc::default(), log: VecDeque::new() };
        Ok(Self { id, state: Mutex::new(state), news: watch::Sender::new(()) })
    }

    fn picture(&self) -> Arc<Picture<T>> {
        lock(&self.state).picture.clone()
    }

    /// Puts a host's objects in place of those that it had.
    fn put(&self, host: Option<HostId>, objects: Objects<T>) {
        let mut state = lock(&self.state);
        let State { picture, log } = &mut *state;
        let picture = Arc::make_mut(picture);
        let old = picture.hosts.insert(host, objects.clone()).unwrap_or_default();
        changes(&old, &objects, |before, after| {
            picture.change += 1;
            // Nobody has a position before the picture is whole.
            if picture.is_whole {
                log.push_back(Entry { before: before.cloned(), after: after.cloned() });
            }
            if log.len() > MAX_LOG {
                log.pop_front();
            }
        });
    }

    /// Forgets a host.
    fn forget(&self, host: HostId) {
        self.put(Some(host), Objects::default());
        let mut state = lock(&self.state);
        let picture = Arc::make_mut(&mut state.picture);
        picture.hosts.remove(&Some(host));
        picture.missing.remove(&host);
    }

    fn set_missing(&self, host: HostId, source: Option<Source>) {
        let mut state = lock(&self.state);
        let missing = &mut Arc::make_mut(&mut state.picture).missing;
        match source {
            Some(source) => drop(missing.insert(host, source)),
            None => drop(missing.remove(&host)),
        }
    }

    fn set_whole(&self) {
        Arc::make_mut(&mut lock(&self.state).picture).is_whole = true;
    }

    fn position(&self, question: u64, picture: &Picture<T>) -> String {
        opaque::encode(&WatchToken { picture: self.id, question, change: picture.change })
    }

    /// The steps from the picture that a client was told to the present one.
    fn since(&self, told: &Picture<T>, selection: &Selection) -> (Vec<Step<T>>, Arc<Picture<T>>) {
        let state = lock(&self.state);
        let now = &state.picture;
        let mut steps = told.sources_to(now);
        match state.entries_since(told.change) {
            Some(entries) if told.is_whole => steps.extend(missed_steps(entries, selection)),
            Some(_) | None => steps.extend(told.objects_to(now, selection)),
        }
        (steps, now.clone())
    }

    /// As much of the picture that a client was told as its position says.
    fn told(&self, question: &Question) -> Result<Picture<T>, Status> {
        if question.position.is_empty() {
            return Ok(Picture::default());
        }
        let token = opaque::decode::<WatchToken>(&question.position);
        let token = token.map_err(|error| Status::invalid_argument(format!("position: {error}; watch without it")))?;
        if token.picture != self.id || lock(&self.state).entries_since(token.change).is_none() {
            let text = "position: is too old, or of another agent or another life of it; watch without it";
            return Err(Status::out_of_range(text));
        }
        if token.question != question.id {
            return Err(Status::invalid_argument("position: is of another question; watch without it"));
        }
        Ok(Picture { change: token.change, is_whole: true, ..Picture::default() })
    }
}

impl<T> State<T> {
    /// The changes after that number, if all of them are known still.
    fn entries_since(&self, change: u64) -> Option<impl Iterator<Item = &Entry<T>>> {
        let missed = usize::try_from(self.picture.change.checked_sub(change)?).ok()?;
        Some(self.log.range(self.log.len().checked_sub(missed)?..))
    }
}

/// For each object that changed, what became of it.
fn missed_steps<'a, T: Detail + 'a>(
    entries: impl Iterator<Item = &'a Entry<T>>,
    selection: &Selection,
) -> Vec<Step<T>> {
    let mut objects = BTreeMap::new();
    for Entry { before, after } in entries {
        let Some(object) = after.as_ref().or(before.as_ref()) else { continue };
        let (_, last) = objects.entry((object.host(), object.key())).or_insert((before, after));
        *last = after;
    }
    let mut steps = Vec::new();
    for (before, after) in objects.into_values() {
        steps.extend(step(before.as_ref(), after.as_ref(), selection, Kind::Updated));
    }
    steps
}

/// What a change is for those who see only what is selected.
fn step<T: Detail>(
    before: Option<&Arc<T>>,
    after: Option<&Arc<T>>,
    selection: &Selection,
    found: Kind,
) -> Option<Step<T>> {
    let selected = |object: &&Arc<T>| object.is_selected(selection);
    match (before.filter(selected), after.filter(selected)) {
        (_, Some(after)) => Some(Step::Object(found, after.clone())),
        (Some(before), None) => Some(Step::Object(Kind::Removed, before.clone())),
        (None, None) => None,
    }
}

impl<T: Detail> Picture<T> {
    /// The hosts that were lost or found between this picture and `now`.
    fn sources_to(&self, now: &Self) -> Vec<Step<T>> {
        let lost = now.missing.iter().filter(|(host, _)| !self.missing.contains_key(host));
        let found = self.missing.iter().filter(|(host, _)| !now.missing.contains_key(host));
        let reached = |source: &Source| Source { reached: true, error: String::new(), ..source.clone() };
        let lost = lost.map(|(_, source)| Step::Source(source.clone()));
        lost.chain(found.map(|(_, source)| Step::Source(reached(source)))).collect()
    }

    /// The steps from this picture's objects to those of `now`, each compared.
    fn objects_to(&self, now: &Self, selection: &Selection) -> Vec<Step<T>> {
        let kind = if self.is_whole { Kind::Updated } else { Kind::Present };
        let nothing = Objects::default();
        let mut steps = Vec::new();
        for host in self.hosts.keys().chain(now.hosts.keys().filter(|host| !self.hosts.contains_key(host))) {
            let (old, new) = (self.hosts.get(host).unwrap_or(&nothing), now.hosts.get(host).unwrap_or(&nothing));
            if !Arc::ptr_eq(old, new) {
                changes(old, new, |before, after| steps.extend(step(before, after, selection, kind)));
            }
        }
        steps
    }
}

impl Api {
    /// Watches details of the hosts of this zone.
    pub(super) fn watch_details<T: Watched, M: Message<T>>(
        &self,
        question: Question,
    ) -> Result<Response<Answers<M>>, Status> {
        let (hub, news) = self.hub::<T>(&question.host)?;
        let told = hub.told(&question)?;
        let (sender, receiver) = mpsc::channel(BOUND);
        tokio::spawn(follow(hub, news, question, told, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    /// The picture of this host, or of all; it is kept as long as somebody listens.
    fn hub<T: Watched>(&self, host: &str) -> Result<(Arc<Hub<T>>, watch::Receiver<()>), Status> {
        let mut shelf = lock(T::shelf(&self.watches));
        if let Some(hub) = shelf.get(host) {
            return Ok((hub.clone(), hub.news.subscribe()));
        }
        if shelf.len() >= MAX_PICTURES {
            let text = format!("{MAX_PICTURES} hosts are watched one by one already; watch all of them at once");
            return Err(Status::resource_exhausted(text));
        }
        let hub = Arc::new(Hub::new()?);
        let news = hub.news.subscribe();
        shelf.insert(host.to_owned(), hub.clone());
        tokio::spawn(Keeper { api: self.clone(), hub: hub.clone(), only: host.to_owned() }.keep());
        Ok((hub, news))
    }
}

/// Tells one client until it goes.
async fn follow<T: Detail, M: Message<T>>(
    hub: Arc<Hub<T>>,
    mut news: watch::Receiver<()>,
    question: Question,
    told: Picture<T>,
    sender: mpsc::Sender<Result<M, Status>>,
) {
    let (mut steps, mut told) = hub.since(&told, &question.selection);
    // The picture's change up to which the client has a position.
    let mut positioned = None;
    loop {
        let is_first = positioned.is_none() && told.is_whole;
        let position = if told.is_whole { hub.position(question.id, &told) } else { String::new() };
        let count = steps.len();
        for (at, step) in steps.into_iter().enumerate() {
            let position = if at + 1 == count && !is_first { position.clone() } else { String::new() };
            let message = match step {
                Step::Object(kind, object) => M::new(kind, Some(object.pick(question.fields)), None, position),
                Step::Source(source) => M::new(Kind::Updated, None, Some(source), position),
            };
            if sender.send(Ok(message)).await.is_err() {
                return;
            }
        }
        let is_old = positioned.is_some_and(|change| told.change - change > MAX_LOG as u64 / 2);
        if is_first || (is_old && count == 0) {
            let kind = if is_first { Kind::Synced } else { Kind::Bookmark };
            if sender.send(Ok(M::new(kind, None, None, position))).await.is_err() {
                return;
            }
        }
        if is_first || is_old || count > 0 {
            positioned = told.is_whole.then_some(told.change);
        }
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
        }
        (steps, told) = hub.since(&told, &question.selection);
    }
}

#[cfg(test)]
mod tests;
