//! A host's containers and services as its snapshots keep them: what is declared of them is shared, and they are put into the
//! words of the API when somebody asks. Of 32,000 of each the words alone would be 60 MB.

use std::{collections::VecDeque, ops::Deref, sync::Arc, time::Duration};

use ringmesh_proto::{UnixMillis, v1};

use crate::health::{
    Marks,
    spec::{Alarm, ContainerSpec, ContainerState, ContainerStatus, ServiceKind, ServiceSpec},
};

/// A container at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerRow {
    /// The name of its host.
    pub host: Arc<str>,
    /// As it is declared.
    pub spec: Arc<ContainerSpec>,
    /// As its runtime sees it.
    pub status: Arc<ContainerStatus>,
    /// What it is judged to be.
    pub verdict: v1::verdict::Value,
    /// Of its services' weights, the part that passes, in hundredths.
    pub score: u32,
    /// What repair does to it.
    pub marks: Marks,
    /// What its cell takes it for, if it is a member.
    pub member: Option<Arc<v1::CellMember>>,
    /// Its member inside, if it is to have one.
    pub inside: Option<Arc<v1::InsideMember>>,
    /// The revision that changed it last.
    pub changed: u64,
}

impl ContainerRow {
    /// What its runtime says, in the word of the API.
    pub fn state(&self) -> v1::container::State {
        match self.status.state {
            ContainerState::Unknown => v1::container::State::Unknown,
            ContainerState::Created => v1::container::State::Created,
            ContainerState::Running => v1::container::State::Running,
            ContainerState::Paused => v1::container::State::Paused,
            ContainerState::Stopped => v1::container::State::Stopped,
            ContainerState::Absent => v1::container::State::Absent,
        }
    }

    /// In the words of the API.
    pub fn show(&self) -> v1::Container {
        let Self { spec, status, .. } = self;
        v1::Container {
            name: spec.name.clone(),
            host: self.host.to_string(),
            tenant: spec.tenant.clone(),
            state: self.state() as i32,
            score: self.score,
            verdict: self.verdict as i32,
            frozen: self.marks.hold.is_some(),
            driver: spec.driver.clone(),
            pid: status.pid.unwrap_or(0),
            addresses: status.addresses.clone(),
            labels: (*spec.labels).clone(),
            started_at: status.started_at.map(Into::into),
            problem: status.problem.clone().unwrap_or_default(),
            services: spec.services.len() as u32,
            hold: self.marks.hold.as_deref().cloned(),
            operation: self.marks.operation.clone(),
            cell: self.member.as_deref().cloned(),
            inside: self.inside.as_deref().cloned(),
        }
    }
}

/// A service as it is declared, with all that is declared of its container.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    container: Arc<ContainerSpec>,
    place: usize,
}

impl Declared {
    /// All services of a container.
    pub fn all(container: &Arc<ContainerSpec>) -> impl Iterator<Item = Self> {
        (0..container.services.len()).map(|place| Self { container: Arc::clone(container), place })
    }

    /// Its container.
    pub fn container(&self) -> &Arc<ContainerSpec> {
        &self.container
    }
}

impl Deref for Declared {
    type Target = ServiceSpec;

    fn deref(&self) -> &ServiceSpec {
        &self.container.services[self.place]
    }
}

/// A service at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceRow {
    /// The name of its host.
    pub host: Arc<str>,
    /// As it is declared.
    pub spec: Declared,
    /// What is told of it.
    pub told: Told,
    /// The revision that changed it last, but for times and latencies.
    pub changed: u64,
}

/// What is told of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// What it is judged to be.
    pub verdict: v1::verdict::Value,
    /// Since when; `None` if it was never judged.
    pub last_change: Option<UnixMillis>,
    /// What it answered last.
    pub answer: Arc<str>,
    /// Of that answer.
    pub latency: Option<Duration>,
    /// When it was asked last.
    pub last_probe: Option<UnixMillis>,
    /// Its verdict changes too often.
    pub flapping: bool,
    /// Its latency is out of what is normal.
    pub slow: bool,
    /// The latency that is normal for it.
    pub normal_latency: Option<Duration>,
}

impl ServiceRow {
    /// In the words of the API.
    pub fn show(&self) -> v1::Service {
        let duration = |duration: Duration| prost_types::Duration {
            seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
            nanos: duration.subsec_nanos() as i32,
        };
        let Self { spec, told, .. } = self;
        v1::Service {
            name: spec.name.clone(),
            container: spec.container.name.clone(),
            host: self.host.to_string(),
            verdict: told.verdict as i32,
            probe: Some(v1::Probe {
                kind: spec.check.kind().to_owned(),
                target: spec.check.target(),
                interval: Some(duration(spec.interval)),
                timeout: Some(duration(spec.timeout)),
                threshold_up: spec.threshold_up,
                threshold_down: spec.threshold_down,
                alarms_at_once: spec.alarm == Alarm::AtOnce,
            }),
            last_change: told.last_change.map(Into::into),
            last_answer: told.answer.to_string(),
            last_latency: told.latency.map(duration),
            last_probe: told.last_probe.map(Into::into),
            weight: spec.weight,
            kind: match spec.kind {
                ServiceKind::Liveness => v1::service::Kind::Liveness,
                ServiceKind::Readiness => v1::service::Kind::Readiness,
                ServiceKind::Startup => v1::service::Kind::Startup,
            } as i32,
            flapping: told.flapping,
            slow: told.slow,
            normal_latency: told.normal_latency.map(duration),
            tenant: spec.container.tenant.clone(),
            labels: (*spec.container.labels).clone(),
        }
    }
}

/// Containers that are no more, as far back as is remembered: who knew them at an earlier revision is told to forget them.
#[derive(Clone, Debug, Default)]
pub struct Removed {
    /// The revision before which it is not known what was removed.
    since: u64,
    names: VecDeque<(u64, Arc<str>)>,
}

impl Removed {
    /// What is remembered.
    const MAX: usize = 1024;

    /// With these removed, each at its revision, in order.
    pub fn of<'a>(names: impl IntoIterator<Item = (u64, &'a str)>) -> Self {
        let mut removed = Self::default();
        names.into_iter().for_each(|(revision, name)| removed.note(revision, name));
        removed
    }

    pub(crate) fn note(&mut self, revision: u64, name: &str) {
        if self.names.len() == Self::MAX {
            self.since = self.names.pop_front().map_or(self.since, |(revision, _)| revision);
        }
        self.names.push_back((revision, name.into()));
    }

    /// The revision of the last one.
    pub(crate) fn last(&self) -> Option<u64> {
        self.names.back().map(|(revision, _)| *revision)
    }

    /// Those that were removed after this revision; `None` if that is not remembered.
    pub fn after(&self, revision: u64) -> Option<impl Iterator<Item = &str>> {
        let names = self.names.iter().filter(move |(at, _)| *at > revision).map(|(_, name)| &**name);
        (revision >= self.since).then_some(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_known_as_far_back_as_it_is_remembered() {
        let after = |removed: &Removed, revision| {
            removed.after(revision).map(|names| names.map(str::to_owned).collect::<Vec<_>>())
        };
        let few = Removed::of([(3, "a"), (5, "b")]);
        assert_eq!(after(&few, 0), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(after(&few, 3), Some(vec!["b".to_owned()]));
        assert_eq!((after(&few, 5), few.last()), (Some(Vec::new()), Some(5)));
        let many = Removed::of((1..=Removed::MAX as u64 + 2).map(|revision| (revision, "x")));
        assert_eq!((after(&many, 1), after(&many, 2).map(|names| names.len())), (None, Some(Removed::MAX)));
    }
}
