//! Watches: a picture of the objects, compared with what the client was told, on every new snapshot.
//!
//! A watch first sends each object, then `synced`, then changes. A client that reads too slowly is not sent every state
//! that an object passed through, but always the last one: nothing is queued for it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};

use ringmesh_node::View;
use ringmesh_proto::{
    HostId,
    peer::{QueryRequest, QueryResponse},
    v1::change::Kind,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Answers, Api};
use crate::fanout;

/// Messages on their way to one client.
const BOUND: usize = 64;

/// Hosts that one watch asks at once.
const MAX_ASKED: usize = 64;

/// A host whose digest came before the details that it summarises is asked again after this.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// A host that did not answer is left alone for so long.
const REST: Duration = Duration::from_secs(2);

/// An object that can be watched.
pub(super) trait Watched: Clone + PartialEq + Send + Sync + 'static {
    /// What names it.
    fn key(&self) -> String;

    /// Without what changes all the time, such as times and latencies: that alone is no change.
    fn essence(&self) -> Self;
}

/// One step of a watch.
pub(super) enum Step<T> {
    Object(Kind, T),
    Source(ringmesh_proto::v1::Source),
    Synced,
}

/// Compares pictures.
struct Told<T> {
    objects: BTreeMap<String, T>,
    synced: bool,
}

impl<T: Watched> Told<T> {
    fn new() -> Self {
        Self { objects: BTreeMap::new(), synced: false }
    }

    /// The steps from what was told to `now`.
    fn update(&mut self, now: Vec<T>) -> Vec<Step<T>> {
        let mut steps = Vec::new();
        let mut fresh = BTreeMap::new();
        for object in now {
            let (key, essence) = (object.key(), object.essence());
            match self.objects.remove(&key) {
                Some(old) if old == essence => {}
                Some(_) => steps.push(Step::Object(Kind::Updated, object)),
                None if self.synced => steps.push(Step::Object(Kind::Updated, object)),
                None => steps.push(Step::Object(Kind::Present, object)),
            }
            fresh.insert(key, essence);
        }
        let gone = std::mem::replace(&mut self.objects, fresh);
        steps.extend(gone.into_values().map(|object| Step::Object(Kind::Removed, object)));
        steps
    }

    fn sync(&mut self) -> Option<Step<T>> {
        (!std::mem::replace(&mut self.synced, true)).then_some(Step::Synced)
    }
}

impl Api {
    /// Watches what every snapshot holds.
    pub(super) fn watch_view<T: Watched, M: Send + 'static>(
        &self,
        pick: impl Fn(&View) -> Vec<T> + Send + 'static,
        message: impl Fn(Step<T>) -> M + Send + 'static,
    ) -> Answers<M> {
        let (sender, receiver) = mpsc::channel(BOUND);
        let mut view = self.view.clone();
        tokio::spawn(async move {
            let mut told = Told::new();
            loop {
                let now = pick(&Arc::clone(&view.borrow_and_update()));
                let steps = told.update(now);
                for step in steps.into_iter().chain(told.sync()) {
                    if sender.send(Ok(message(step))).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    changed = view.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
            }
        });
        Box::pin(ReceiverStream::new(receiver))
    }

    /// Watches details of all hosts: another host is asked again when its digest says that something changed. A host that
    /// is slow to answer delays no other.
    pub(super) fn watch_details<T: Watched, M: Send + 'static>(
        &self,
        query: QueryRequest,
        only: String,
        pick: impl Fn(QueryResponse) -> Vec<T> + Send + Sync + 'static,
        message: impl Fn(Step<T>) -> M + Send + Sync + 'static,
    ) -> Answers<M> {
        let (sender, receiver) = mpsc::channel(BOUND);
        let api = self.clone();
        let mut view = self.view.clone();
        tokio::spawn(async move {
            let mut told = Told::new();
            let mut others: BTreeMap<HostId, Known<T>> = BTreeMap::new();
            let mut asked = FuturesUnordered::new();
            let mut again = tokio::time::interval(ASK_AGAIN);
            loop {
                let now = Arc::clone(&view.borrow_and_update());
                let wanted = |name: &str, id: HostId| only.is_empty() || only == name || only == id.to_string();
                let mut steps = Vec::new();
                let mut waiting = false;
                others.retain(|id, _| now.peers.contains_key(id));
                for (id, peer) in now.peers.iter().filter(|(id, peer)| wanted(&peer.name, **id)) {
                    let known = others.entry(*id).or_default();
                    if !peer.askable {
                        let gone =
                            || fanout::unreached(&peer.name, &now.zone, "the host is down or has left".into()).source;
                        steps.extend(known.lost().then(|| Step::Source(gone())));
                    } else if !known.asking && known.is_stale(peer.fingerprint) && asked.len() < MAX_ASKED {
                        known.asking = true;
                        let (api, peer, id, query) = (api.clone(), peer.clone(), *id, query.clone());
                        asked.push(async move { (id, api.ask(peer, query).await) });
                    } else {
                        waiting |= !known.asking && known.differs(peer.fingerprint);
                    }
                }
                let mut objects = Vec::new();
                if now.hosts.iter().any(|host| host.local && (only.is_empty() || host.name == only || host.id == only))
                {
                    objects.extend(pick(fanout::show(&now, &query)));
                }
                objects.extend(others.values().flat_map(|known| known.objects.iter().cloned()));
                drop(now);
                steps.extend(told.update(objects));
                let first_round = others.values().all(|known| known.seen || known.is_lost);
                let synced = if first_round { told.sync() } else { None };
                for step in steps.into_iter().chain(synced) {
                    if sender.send(Ok(message(step))).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    changed = view.changed() => if changed.is_err() { return },
                    Some((id, answer)) = asked.next() => {
                        let source = others.get_mut(&id).and_then(|known| known.answered(answer, &pick));
                        if let Some(source) = source
                            && sender.send(Ok(message(Step::Source(source)))).await.is_err()
                        {
                            return;
                        }
                    }
                    _ = again.tick(), if waiting => {}
                    () = sender.closed() => return,
                }
            }
        });
        Box::pin(ReceiverStream::new(receiver))
    }
}

/// What a watch holds of another host.
struct Known<T> {
    /// Of the details that it holds.
    fingerprint: u64,
    /// It has answered once.
    seen: bool,
    is_lost: bool,
    asking: bool,
    not_before: Option<tokio::time::Instant>,
    /// As they were last seen; they stay while the host cannot be reached, and its source says so.
    objects: Vec<T>,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self { fingerprint: 0, seen: false, is_lost: false, asking: false, not_before: None, objects: Vec::new() }
    }
}

impl<T> Known<T> {
    fn is_stale(&self, fingerprint: u64) -> bool {
        let rested = self.not_before.is_none_or(|at| at <= tokio::time::Instant::now());
        rested && self.differs(fingerprint)
    }

    fn differs(&self, fingerprint: u64) -> bool {
        !self.seen || self.is_lost || self.fingerprint != fingerprint
    }

    /// True if that is news.
    fn lost(&mut self) -> bool {
        !std::mem::replace(&mut self.is_lost, true)
    }

    /// Takes an answer; returns its source if the host was lost by it, or is found again.
    fn answered(
        &mut self,
        answer: fanout::Answer,
        pick: impl Fn(QueryResponse) -> Vec<T>,
    ) -> Option<ringmesh_proto::v1::Source> {
        self.asking = false;
        match answer.details {
            Some(details) => {
                self.fingerprint = details.fingerprint;
                self.objects = pick(details);
                self.seen = true;
                self.not_before = Some(tokio::time::Instant::now() + ASK_AGAIN);
                std::mem::take(&mut self.is_lost).then_some(answer.source)
            }
            None => {
                self.not_before = Some(tokio::time::Instant::now() + REST);
                self.lost().then_some(answer.source)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Object(&'static str, u32, u32);

    impl Watched for Object {
        fn key(&self) -> String {
            self.0.into()
        }

        fn essence(&self) -> Self {
            Self(self.0, self.1, 0)
        }
    }

    fn steps(steps: Vec<Step<Object>>) -> Vec<(Kind, &'static str)> {
        let seen = steps.into_iter().filter_map(|step| match step {
            Step::Object(kind, object) => Some((kind, object.0)),
            Step::Source(_) | Step::Synced => None,
        });
        seen.collect()
    }

    #[test]
    fn only_what_matters_is_a_change_and_each_is_told_once() {
        let mut told = Told::new();
        assert_eq!(
            steps(told.update(vec![Object("a", 1, 1), Object("b", 1, 1)])),
            [(Kind::Present, "a"), (Kind::Present, "b")]
        );
        assert!(told.sync().is_some() && told.sync().is_none());
        assert_eq!(steps(told.update(vec![Object("a", 1, 9), Object("b", 1, 1)])), []);
        let next = vec![Object("a", 2, 9), Object("c", 1, 1)];
        assert_eq!(steps(told.update(next)), [(Kind::Updated, "a"), (Kind::Updated, "c"), (Kind::Removed, "b")]);
    }
}
