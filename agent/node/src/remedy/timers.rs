//! When something is next to be looked at: one time for each thing.

use std::collections::{BTreeMap, BTreeSet};

use ringmesh_proto::Instant;

/// What a time is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// The next step of this container's ladder, or its end.
    Patient(String),
    /// This operation is to be looked at.
    Operation(String),
    /// The end of this container's hold.
    Hold(String),
    /// The end of the host's drain.
    Drain,
    /// The end of the cluster's disarming.
    Arming,
    /// Whoever waits tries again.
    Retry,
}

/// One time for each [`Due`].
#[derive(Default)]
pub(super) struct Timers {
    at: BTreeMap<Due, Instant>,
    order: BTreeSet<(Instant, Due)>,
}

impl Timers {
    /// Replaces an earlier time.
    pub(super) fn set(&mut self, due: Due, at: Instant) {
        self.cancel(&due);
        self.order.insert((at, due.clone()));
        self.at.insert(due, at);
    }

    pub(super) fn cancel(&mut self, due: &Due) {
        if let Some(at) = self.at.remove(due) {
            self.order.remove(&(at, due.clone()));
        }
    }

    /// Only if there is no earlier time.
    pub(super) fn set_earlier(&mut self, due: Due, at: Instant) {
        if self.at.get(&due).is_none_or(|set| at < *set) {
            self.set(due, at);
        }
    }

    /// The time of one thing is that of another from now on.
    pub(super) fn pass_on(&mut self, from: &Due, to: Due) {
        let at = self.at.get(from).copied();
        self.cancel(from);
        if let Some(at) = at {
            self.set(to, at);
        }
    }

    pub(super) fn is_set(&self, due: &Due) -> bool {
        self.at.contains_key(due)
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    pub(super) fn take_due(&mut self, now: Instant) -> Option<Due> {
        let (at, _) = self.order.first()?;
        if *at > now {
            return None;
        }
        let (_, due) = self.order.pop_first()?;
        self.at.remove(&due);
        Some(due)
    }
}
