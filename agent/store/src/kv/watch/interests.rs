//! Which watchers a key concerns.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    tree::{End, Tree},
    watcher::Number,
};

/// What a watcher watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    /// One key.
    Key(Box<[u8]>),
    /// From a key on.
    Range(Box<[u8]>, End),
}

impl Interest {
    /// As a request says it: no key is the first one. `None` if no key can be inside.
    pub(super) fn new(key: &[u8], end: &[u8]) -> Option<Self> {
        let key = if key.is_empty() { [0].as_slice() } else { key };
        match end {
            [] => Some(Self::Key(key.into())),
            [0] => Some(Self::Range(key.into(), End::Never)),
            end => (key < end).then(|| Self::Range(key.into(), End::Before(end.into()))),
        }
    }
}

impl Interest {
    /// Whether a key is inside.
    pub(super) fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(one) => one.as_ref() == key,
            Self::Range(start, end) => start.as_ref() <= key && end.is_after(key),
        }
    }
}

/// Watchers by what they watch.
#[derive(Debug, Default)]
pub(super) struct Interests {
    keys: BTreeMap<Box<[u8]>, BTreeSet<Number>>,
    ranges: Tree,
}

impl Interests {
    /// None, in a tree whose shape follows from a seed.
    pub(super) fn new(seed: u64) -> Self {
        Self { keys: BTreeMap::new(), ranges: Tree::new(seed) }
    }

    /// Whom a key concerns.
    pub(super) fn find(&self, key: &[u8]) -> Vec<Number> {
        let mut found: Vec<Number> = self.keys.get(key).into_iter().flatten().copied().collect();
        self.ranges.find(key, &mut found);
        found
    }

    pub(super) fn insert(&mut self, interest: &Interest, watcher: Number) {
        match interest {
            Interest::Key(key) => _ = self.keys.entry(key.clone()).or_default().insert(watcher),
            Interest::Range(start, end) => self.ranges.insert(start, end, watcher),
        }
    }

    pub(super) fn remove(&mut self, interest: &Interest, watcher: Number) {
        match interest {
            Interest::Key(key) => {
                let watchers = self.keys.get_mut(key).expect("a watcher that is there is found by its key");
                watchers.remove(&watcher);
                if watchers.is_empty() {
                    self.keys.remove(key);
                }
            }
            Interest::Range(start, end) => self.ranges.remove(start, end, watcher),
        }
    }
}
