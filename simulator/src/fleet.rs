//! Containers by the thousand: what all hosts of a scenario run, and how it is watched and repaired.
//!
//! Container number 17 of h3 is "h3-c17" wherever it is spoken of. Its services are those of its *app*: containers with
//! neighbouring numbers have the same one, on all hosts, so that they watch each other in the cell of that service.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ringmesh_node::{
    Implicit,
    health::spec::{Alarm, Check, ContainerSpec, ServiceSpec, Verbs},
    remedy::{Limits, Mode, Policy, Settings, base},
};
use serde::{Deserialize, Serialize};

use crate::{
    HostIndex,
    span::Span,
    world::{RESTART, name},
};

/// The most containers of a host: as many as its cells have slots, in round numbers.
pub const MAX_CONTAINERS: u32 = 32_000;

/// The containers of each host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fleet {
    /// Of each host, "h1-c1" and so on.
    pub containers: u32,
    /// Of each container.
    pub services: u16,
    /// Groups of containers with the same services, on all hosts: "app1" and so on.
    pub apps: u32,
    /// Between two probes of a service.
    pub interval: Span,
    /// Of a probe.
    pub timeout: Span,
    /// Failures in a row that make a service critical.
    pub threshold_down: u32,
    /// The first wrong answer makes it critical.
    pub alarm_at_once: bool,
    /// Of containers that are well, and to which nothing was done, nothing is kept.
    pub implicit: bool,
    /// Their agents repair them.
    pub repair: Option<Repair>,
}

/// How containers are repaired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Repair {
    /// Containers of a host that are repaired at once.
    pub at_once: usize,
    /// Actions on one container within `window`.
    pub container_actions: usize,
    /// Actions on all containers of a host within `window`.
    pub host_actions: usize,
    /// In which both are counted.
    pub window: Span,
    /// Attempts of each rung.
    pub attempts: u32,
    /// In which a container must be well after an action.
    pub timeout: Span,
    /// A container that was well for so long begins at the foot of the ladder again.
    pub quiet: Span,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            containers: 100,
            services: 1,
            apps: 4,
            interval: Span::from_secs(10),
            timeout: Span::from_secs(1),
            threshold_down: 3,
            alarm_at_once: true,
            implicit: true,
            repair: None,
        }
    }
}

impl Default for Repair {
    fn default() -> Self {
        let Limits { container_actions, host_actions, window, at_once, .. } = Limits::default();
        let (attempts, timeout, quiet) = (2, Span::from_secs(20), Span::from_secs(600));
        Self { at_once, container_actions, host_actions, window: Span(window), attempts, timeout, quiet }
    }
}

impl Repair {
    /// Beyond these nothing is done.
    pub fn limits(&self) -> Limits {
        Limits {
            at_once: self.at_once,
            container_actions: self.container_actions,
            host_actions: self.host_actions,
            window: self.window.0,
            ..Limits::default()
        }
    }
}

impl Fleet {
    /// What is wrong with it, and what to do.
    pub fn problem(&self) -> Option<String> {
        if !(1..=MAX_CONTAINERS).contains(&self.containers) {
            return Some(format!("containers = {} is not within 1 to {MAX_CONTAINERS}", self.containers));
        }
        if !(1..=16).contains(&self.services) {
            return Some(format!("services = {} is not within 1 to 16", self.services));
        }
        if !(1..=self.containers).contains(&self.apps) {
            return Some(format!("apps = {} is not within 1 to the number of containers", self.apps));
        }
        if self.timeout.0.is_zero() || self.timeout > self.interval || self.threshold_down == 0 {
            return Some("timeout is more than 0 and at most interval, threshold_down at least 1".into());
        }
        None
    }

    /// The app of a container, from 0.
    pub fn app_of(&self, number: u32) -> u32 {
        (u64::from(number) * u64::from(self.apps) / u64::from(self.containers)) as u32
    }

    /// The containers of an app by its name, from 0; `None` if there is none of this name.
    pub fn of_app(&self, app: &str) -> Option<std::ops::Range<u32>> {
        let app: u32 = app.strip_prefix("app")?.parse().ok()?;
        let app = app.checked_sub(1).filter(|app| *app < self.apps)?;
        let first = |app: u32| (u64::from(app) * u64::from(self.containers)).div_ceil(u64::from(self.apps)) as u32;
        Some(first(app)..first(app + 1))
    }

    /// The containers of a host as its node counts them while nothing is kept of them.
    pub(crate) fn implicit(&self, host: HostIndex) -> Implicit {
        let (containers, services) = (self.containers, self.services.into());
        Implicit { prefix: format!("{}-c", name(host)), containers, services, interval: self.interval.0 }
    }

    /// A container's name, by its number from 0.
    pub fn name(&self, host: HostIndex, number: u32) -> String {
        container_name(host, number)
    }

    /// What is declared of a container.
    pub fn spec(&self, host: HostIndex, number: u32) -> ContainerSpec {
        let app = self.app_of(number) + 1;
        let service = |nth: u16| ServiceSpec {
            interval: self.interval.0,
            timeout: self.timeout.0,
            threshold_down: self.threshold_down,
            alarm: if self.alarm_at_once { Alarm::AtOnce } else { Alarm::Threshold },
            restart: vec![RESTART.into()],
            ..ServiceSpec::new(&format!("s{}", nth + 1), Check::Tcp { address: ([127, 0, 0, 1], 80).into() })
        };
        ContainerSpec {
            name: self.name(host, number),
            driver: "oci".into(),
            tenant: String::new(),
            labels: Arc::new(BTreeMap::from([("app".to_owned(), format!("app{app}"))])),
            verbs: Verbs { restart: true, clone: true, pause: true, mount: true },
            address: String::new(),
            score: None,
            member: false,
            services: (0..self.services).map(service).collect(),
        }
    }

    /// How the agents repair.
    pub(crate) fn settings(&self) -> Settings {
        let Some(repair) = &self.repair else {
            return Settings { default: Policy { mode: Mode::Off, ..Policy::default() }, ..Settings::default() };
        };
        let mut policy = Policy { quiet: repair.quiet.0, ..Policy::default() };
        policy.steps.iter_mut().for_each(|step| (step.attempts, step.timeout) = (repair.attempts, repair.timeout.0));
        Settings { default: policy, limits: repair.limits(), ..Settings::default() }
    }

    /// After how long at the most a service that fails in this way is critical; `None` if it never is.
    pub fn critical_within(&self, how: How) -> Option<Duration> {
        let (interval, timeout) = (self.interval.0, self.timeout.0);
        match how {
            How::End => Some(Duration::from_millis(100)),
            How::Wrong if self.alarm_at_once => Some(interval),
            How::Wrong => Some(interval * self.threshold_down),
            How::Late(by) if by.0 < timeout => None,
            How::Late(_) | How::Silent => Some(interval * self.threshold_down + timeout),
        }
    }
}

/// "h3-c17" of the container number 16 of host number 2.
pub fn container_name(host: HostIndex, number: u32) -> String {
    format!("{}-c{}", name(host), number + 1)
}

/// The host and the number of the container of this name, or that this one is a clone of.
pub fn number_of(container: &str) -> Option<(HostIndex, u32)> {
    let (host, number) = base(container).strip_prefix('h')?.split_once("-c")?;
    let (host, number): (usize, u32) = (host.parse().ok()?, number.parse().ok()?);
    let found = (host.checked_sub(1)?, number.checked_sub(1)?);
    (container_name(found.0, found.1) == base(container)).then_some(found)
}

/// What is wrong with a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// Its first process has ended.
    End,
    /// Its services answer wrongly, and say so.
    Wrong,
    /// They answer later than they did, by so much.
    Late(Span),
    /// They give no sign of life.
    Silent,
}

impl How {
    /// As in a scenario.
    pub fn word(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::Wrong => "wrong",
            Self::Late(_) => "late",
            Self::Silent => "silent",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps_divide_all_containers_among_them() {
        for (containers, apps) in [(100, 4), (32_000, 64), (7, 3), (5, 5), (10, 1)] {
            let fleet = Fleet { containers, apps, ..Fleet::default() };
            let mut next = 0;
            for app in 0..apps {
                let of_app = fleet.of_app(&format!("app{}", app + 1)).expect("there is one");
                assert_eq!(of_app.start, next);
                assert!(of_app.clone().all(|number| fleet.app_of(number) == app), "{containers} {apps}: {of_app:?}");
                next = of_app.end;
            }
            assert_eq!(next, containers);
            assert_eq!(fleet.of_app(&format!("app{}", apps + 1)), None);
        }
    }

    #[test]
    fn containers_are_found_by_their_names_and_those_of_their_clones() {
        assert_eq!(number_of("h3-c17"), Some((2, 16)));
        assert_eq!(number_of("h3-c17.2"), Some((2, 16)));
        for name in ["h0-c1", "h1-c0", "h1-c01", "h1", "x", "h1-cx", ""] {
            assert_eq!(number_of(name), None, "{name}");
        }
    }
}
