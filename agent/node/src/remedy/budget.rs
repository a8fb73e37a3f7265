//! How much repair there may be: of a container, at once, of a host, and while how many are sick.
//!
//! When very much is sick at once the cause lies elsewhere, and repair would only add to it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use ringmesh_proto::Instant;

/// Beyond these repair stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Automatic actions on one container, its clones included, within `window`.
    pub container_actions: usize,
    /// Automatic actions on all containers of this host within `window`.
    pub host_actions: usize,
    /// The time in which both are counted.
    pub window: Duration,
    /// Containers of this host that are being repaired at once.
    pub at_once: usize,
    /// Share of this host's containers that may be sick, in percent.
    pub host_sick_percent: u64,
    /// Share of the zone's services that may be critical, in percent.
    pub zone_sick_percent: u64,
    /// So many may be sick whatever share they are.
    pub sick_min: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            container_actions: 10,
            host_actions: 60,
            window: Duration::from_secs(600),
            at_once: 4,
            host_sick_percent: 40,
            zone_sick_percent: 40,
            sick_min: 2,
        }
    }
}

/// How many of how many are sick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Of `of`.
    pub sick: u64,
    /// All of them.
    pub of: u64,
}

impl Share {
    fn exceeds(self, percent: u64, min: u64) -> bool {
        self.sick > min && self.sick.saturating_mul(100) > self.of.saturating_mul(percent)
    }
}

/// Why an action is not begun now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exceeded {
    /// Enough are being repaired: this one waits its turn.
    AtOnce,
    /// This container has had enough.
    Container(String),
    /// Repair stops on the whole host.
    Host(String),
}

/// Actions that count, each until it does not any more.
#[derive(Default)]
pub(super) struct Budgets {
    host: VecDeque<Instant>,
    /// None is kept that is empty.
    containers: BTreeMap<String, VecDeque<Instant>>,
}

impl Budgets {
    /// Whether an action on `container` may begin while `under_way` others are.
    pub(super) fn check(
        &mut self,
        now: Instant,
        limits: &Limits,
        container: &str,
        under_way: usize,
        (host, zone): (Share, Share),
    ) -> Result<(), Exceeded> {
        if let Some(why) = Self::too_sick(limits, host, zone) {
            return Err(Exceeded::Host(why));
        }
        self.forget(now);
        let window = limits.window.as_secs();
        if self.host.len() >= limits.host_actions {
            let most = limits.host_actions;
            return Err(Exceeded::Host(format!("{most} actions on this host within {window} s are the most")));
        }
        if self.containers.get(container).is_some_and(|actions| actions.len() >= limits.container_actions) {
            let most = limits.container_actions;
            return Err(Exceeded::Container(format!("{most} actions on it within {window} s are the most")));
        }
        if under_way >= limits.at_once { Err(Exceeded::AtOnce) } else { Ok(()) }
    }

    /// Why nothing may be repaired, if so many are sick.
    pub(super) fn too_sick(limits: &Limits, host: Share, zone: Share) -> Option<String> {
        if host.exceeds(limits.host_sick_percent, limits.sick_min) {
            let Share { sick, of } = host;
            return Some(format!(
                "{sick} of {of} containers of this host are sick, more than {} %",
                limits.host_sick_percent
            ));
        }
        if zone.exceeds(limits.zone_sick_percent, limits.sick_min) {
            let Share { sick, of } = zone;
            return Some(format!(
                "{sick} of {of} services of the zone are critical, more than {} %",
                limits.zone_sick_percent
            ));
        }
        None
    }

    /// Counts an action until `until`.
    pub(super) fn spend(&mut self, container: &str, until: Instant) {
        self.host.push_back(until);
        self.containers.entry(container.to_owned()).or_default().push_back(until);
    }

    /// When an action ceases to count: before that nothing changes by itself.
    pub(super) fn next(&self) -> Option<Instant> {
        self.host.front().copied()
    }

    fn forget(&mut self, now: Instant) {
        self.host.retain(|until| *until > now);
        self.containers.retain(|_, actions| {
            actions.retain(|until| *until > now);
            !actions.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: (Share, Share) = (Share { sick: 1, of: 10 }, Share { sick: 1, of: 10 });

    fn at(secs: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(secs)
    }

    #[test]
    fn actions_count_for_a_while() {
        let limits =
            Limits { container_actions: 2, host_actions: 3, window: Duration::from_secs(10), ..Limits::default() };
        let mut budgets = Budgets::default();
        let check = |budgets: &mut Budgets, now, name: &str| budgets.check(at(now), &limits, name, 0, WELL);
        budgets.spend("web", at(10));
        budgets.spend("web", at(11));
        assert!(matches!(check(&mut budgets, 1, "web"), Err(Exceeded::Container(_))));
        assert_eq!(check(&mut budgets, 1, "db"), Ok(()));
        budgets.spend("db", at(12));
        assert!(matches!(check(&mut budgets, 2, "other"), Err(Exceeded::Host(_))));
        assert_eq!(budgets.next(), Some(at(10)));
        assert_eq!(check(&mut budgets, 10, "web"), Ok(()));
        assert!(budgets.check(at(20), &limits, "web", 4, WELL) == Err(Exceeded::AtOnce));
        assert!(budgets.containers.is_empty());
    }

    #[test]
    fn when_too_many_are_sick_nothing_is_repaired() {
        let limits = Limits::default();
        let sick = |sick, of| Share { sick, of };
        let why = |host, zone| Budgets::too_sick(&limits, host, zone);
        assert_eq!(why(sick(2, 2), sick(2, 2)), None, "two are few");
        assert_eq!(why(sick(4, 10), sick(40, 100)), None);
        assert!(why(sick(5, 10), sick(5, 100)).is_some_and(|why| why.contains("5 of 10 containers")));
        assert!(why(sick(1, 10), sick(41, 100)).is_some_and(|why| why.contains("41 of 100 services")));
    }
}
