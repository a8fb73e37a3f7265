//! Keeps a picture like the hosts that it is of: our own objects from each snapshot, those of others by asking.
//!
//! It owns when another host is asked again. It knows nothing of those who watch but whether there are any.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use ringmesh_node::{Peer, View};
use ringmesh_proto::{
    HostId,
    peer::{Moment, Selection},
    v1::Source,
};
use tokio::time::Instant;

use super::{Hub, Objects, Watched, lock};
use crate::{
    api::Api,
    details::{self, Detail},
    fanout,
};

/// Hosts that are asked at once for one picture.
const MAX_ASKED: usize = 64;

/// Objects of other hosts in one picture: some 100 MB.
const MAX_OBJECTS: usize = 200_000;

/// A picture that nobody watches any more is kept for so long, for clients that come back.
const LINGER: Duration = Duration::from_secs(60);

/// A host whose digest came before the details that it summarises is asked again after this.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// After so long a host is asked for all that it has, and not only for what changed.
const WHOLE: Duration = Duration::from_secs(60);

/// A host that did not answer is left alone for so long.
const REST: Duration = Duration::from_secs(2);

/// Keeps one picture like the hosts that it is of.
pub(super) struct Keeper<T> {
    pub(super) api: Api,
    pub(super) hub: Arc<Hub<T>>,
    /// Of this host alone, by name or id; of all if empty.
    pub(super) only: String,
}

/// This host's objects as they were shown last, and what they were made of.
struct Own<T: Detail> {
    rows: Arc<Vec<Arc<T::Row>>>,
    objects: Objects<T>,
}

impl<T: Watched> Keeper<T> {
    /// Until nobody has watched for a while. A host that is slow to answer delays no other.
    pub(super) async fn keep(self) {
        let mut view = self.api.view.clone();
        let mut others: BTreeMap<HostId, Other> = BTreeMap::new();
        let mut asked = FuturesUnordered::new();
        let mut again = tokio::time::interval(ASK_AGAIN);
        let mut own = Own { rows: Arc::default(), objects: Arc::default() };
        let mut left_since = None;
        while !self.is_over(&mut left_since) {
            let now = Arc::clone(&view.borrow_and_update());
            let mut is_new = self.put_own(&mut own, &now);
            let mut waiting = false;
            others.retain(|id, _| {
                let stays = now.peers.contains_key(id);
                if !stays {
                    self.hub.forget(*id);
                    is_new = true;
                }
                stays
            });
            for (id, peer) in now.peers.iter().filter(|(id, peer)| self.wants(&peer.name, &id.to_string())) {
                let known = others.entry(*id).or_default();
                if !peer.askable {
                    let gone =
                        || fanout::unreached(&peer.name, &now.zone, "the host is down or has left".into()).source;
                    if known.lost() {
                        self.hub.set_missing(*id, Some(gone()));
                        is_new = true;
                    }
                } else if !known.asking && known.is_stale(peer.fingerprint) && asked.len() < MAX_ASKED {
                    known.asking = true;
                    asked.push(self.ask(*id, peer.clone(), known.since()));
                } else {
                    waiting |= !known.asking && known.differs(peer.fingerprint);
                }
            }
            drop(now);
            if others.values().all(|known| known.seen || known.is_lost) && !self.hub.picture().is_whole {
                self.hub.set_whole();
                is_new = true;
            }
            if is_new {
                self.hub.news.send_replace(());
            }
            tokio::select! {
                changed = view.changed() => if changed.is_err() { return },
                Some((id, answer)) = asked.next() => {
                    if let Some(known) = others.get_mut(&id) {
                        self.take(id, known, answer);
                        self.hub.news.send_replace(());
                    }
                }
                _ = again.tick(), if waiting => {}
            }
        }
    }

    /// Whether nobody has watched for long; then the picture is forgotten.
    fn is_over(&self, left_since: &mut Option<Instant>) -> bool {
        let mut shelf = lock(T::shelf(&self.api.watches));
        if self.hub.news.receiver_count() > 0 {
            *left_since = None;
            return false;
        }
        if left_since.get_or_insert_with(Instant::now).elapsed() < LINGER {
            return false;
        }
        shelf.remove(&self.only);
        true
    }

    fn wants(&self, name: &str, id: &str) -> bool {
        self.only.is_empty() || self.only == name || self.only == id
    }

    /// Puts our own objects; false if they are those of the snapshot before.
    fn put_own(&self, own: &mut Own<T>, view: &View) -> bool {
        let rows = T::own(view);
        let is_wanted = view.hosts.iter().any(|host| host.local && self.wants(&host.name, &host.id));
        let is_known = self.hub.picture().hosts.contains_key(&None) && Arc::ptr_eq(&own.rows, rows);
        if !is_wanted || is_known {
            return false;
        }
        let objects = Arc::new(details::show(&own.rows, &own.objects, rows));
        self.hub.put(None, objects.clone());
        *own = Own { rows: rows.clone(), objects };
        true
    }

    /// Asks for those of a host's objects that changed since this moment, or for all of them, page by page.
    fn ask(
        &self,
        id: HostId,
        peer: Peer,
        since: Option<Moment>,
    ) -> impl Future<Output = (HostId, Details<T>)> + use<T> {
        let api = self.api.clone();
        async move {
            let mut details = Details::default();
            let mut after = None;
            loop {
                let query = T::query(Selection { after, since, ..Selection::default() });
                let fanout::Answer { source, details: answer } = api.ask(peer.clone(), query).await;
                details.source = source;
                let Some(mut answer) = answer else {
                    details.fingerprint = None;
                    return (id, details);
                };
                // Of the first page: what changes meanwhile is asked for again.
                details.fingerprint.get_or_insert(answer.fingerprint);
                details.moment = details.moment.or(answer.moment);
                if details.objects.is_empty() {
                    details.partial = answer.partial;
                } else if details.partial && !answer.partial {
                    // It remembers less than a moment ago, or began anew: the pages do not fit together.
                    details.fingerprint = None;
                    return (id, details);
                }
                details.removed.append(&mut answer.removed);
                let objects = std::mem::take(T::in_answer(&mut answer));
                let is_end = objects.is_empty() || answer.last.is_none() || details.objects.len() > MAX_OBJECTS;
                details.objects.extend(objects);
                after = answer.last;
                if is_end {
                    return (id, details);
                }
            }
        }
    }

    /// Puts what a host answered, or that it did not.
    fn take(&self, id: HostId, known: &mut Other, details: Details<T>) {
        let Details { mut fingerprint, objects, moment, partial, removed, mut source } = details;
        let picture = self.hub.picture();
        let before = picture.hosts.get(&Some(id)).filter(|_| partial);
        if partial && before.is_none() {
            // The host went and came back while it was asked: what did not change is not known any more.
            fingerprint = None;
        }
        let before = before.map_or(&[][..], |objects| objects);
        let objects = details::update(before, &removed.into_iter().collect(), objects);
        let others = picture.hosts.iter().filter(|(host, _)| host.is_some_and(|host| host != id));
        if fingerprint.is_some() && others.map(|(_, o)| o.len()).sum::<usize>() + objects.len() > MAX_OBJECTS {
            fingerprint = None;
            source.reached = false;
            source.error = format!("more than {MAX_OBJECTS} {}s to watch; watch fewer hosts", T::KIND);
        }
        known.answered(fingerprint);
        known.moment = moment.filter(|_| fingerprint.is_some());
        if !partial {
            known.whole_since = Instant::now();
        }
        if fingerprint.is_some() {
            self.hub.put(Some(id), Arc::new(objects));
        }
        self.hub.set_missing(id, (!source.reached).then_some(source));
    }
}

/// What a host answered.
struct Details<T> {
    /// Of its digest; none if it did not answer.
    fingerprint: Option<u64>,
    objects: Vec<T>,
    moment: Option<Moment>,
    /// The objects are only those that changed, beside the removed containers.
    partial: bool,
    removed: Vec<String>,
    source: Source,
}

impl<T> Default for Details<T> {
    fn default() -> Self {
        let (objects, removed, source) = (Vec::new(), Vec::new(), Source::default());
        Self { fingerprint: None, objects, moment: None, partial: false, removed, source }
    }
}

/// Another host, as one who asks it sees it.
struct Other {
    /// Of the details that it told.
    fingerprint: u64,
    /// It has answered once.
    seen: bool,
    is_lost: bool,
    asking: bool,
    not_before: Option<Instant>,
    /// Of its objects in the picture.
    moment: Option<Moment>,
    /// When it last told all of them.
    whole_since: Instant,
}

impl Default for Other {
    fn default() -> Self {
        Self {
            fingerprint: 0,
            seen: false,
            is_lost: false,
            asking: false,
            not_before: None,
            moment: None,
            whole_since: Instant::now(),
        }
    }
}

impl Other {
    fn is_stale(&self, fingerprint: u64) -> bool {
        self.not_before.is_none_or(|at| at <= Instant::now()) && self.differs(fingerprint)
    }

    /// From where on to ask it. Times and latencies that nothing else changed with are not told: so all is, once in a while.
    fn since(&self) -> Option<Moment> {
        self.moment.filter(|_| self.whole_since.elapsed() < WHOLE)
    }

    fn differs(&self, fingerprint: u64) -> bool {
        !self.seen || self.is_lost || self.fingerprint != fingerprint
    }

    /// True if that is news.
    fn lost(&mut self) -> bool {
        !std::mem::replace(&mut self.is_lost, true)
    }

    fn answered(&mut self, fingerprint: Option<u64>) {
        self.asking = false;
        self.is_lost = fingerprint.is_none();
        self.seen |= fingerprint.is_some();
        self.fingerprint = fingerprint.unwrap_or(self.fingerprint);
        self.not_before = Some(Instant::now() + if self.is_lost { REST } else { ASK_AGAIN });
    }
}
