//! Watches of what every snapshot holds: it is compared with what the client was told. Those of details: `hub.rs`.
//!
//! A watch first sends each object, then `synced`, then changes. A client that reads too slowly is not sent every state
//! that an object passed through, but always the last one: nothing is queued for it.

use std::{collections::BTreeMap, sync::Arc};

use ringmesh_node::View;
use ringmesh_proto::v1::change::Kind;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Answers, Api};

/// Messages on their way to one client.
pub(super) const BOUND: usize = 64;

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
            Step::Synced => None,
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
