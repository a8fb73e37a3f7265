//! What repair needs to know of containers, and what it does to how they are watched and shown.
//!
//! It judges nothing: whether somebody acts on a condition is decided in [`crate::remedy`].

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ringmesh_proto::{Instant, Now, UnixMillis, v1, v1::verdict::Value};

use super::{
    Check, Health,
    history::{Kind, cut},
    schedule::FIRST_PROBE,
    spec::{CheckId, ContainerSpec, ContainerState, ContainerStatus, MAX_ANSWER, ServiceKind, ServiceSpec},
};

/// How a container is, as far as repair cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What its runtime says.
    pub state: ContainerState,
    /// Its first process has ended, or it is gone although it ran.
    pub ended: bool,
    /// Why the driver could not do what was asked.
    pub problem: Option<String>,
    /// Its services that are critical, but those for readiness, in the order of the configuration.
    pub failing: Vec<Failing>,
    /// It runs, and all such services of it answer now.
    pub well: bool,
    /// Its runtime does not answer, so nothing can be done to it.
    pub unreachable: bool,
}

/// A service that is critical.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Its name.
    pub service: String,
    /// Its last answer.
    pub answer: String,
    /// Since when.
    pub since: Option<UnixMillis>,
    /// It has a restart command.
    pub restartable: bool,
}

impl Condition {
    /// Whether somebody should do something. What was not looked at yet, or is paused, is not sick.
    pub fn is_sick(&self) -> bool {
        self.ended || (self.state == ContainerState::Running && !self.failing.is_empty())
    }
}

/// What is shown of a container beside its health.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Marks {
    /// It is frozen: not probed, and without a verdict.
    pub hold: Option<Arc<v1::Hold>>,
    /// The operation on it that has not ended; empty for none.
    pub operation: String,
}

impl Health {
    /// A container that may have become better or worse.
    pub fn poll_touched(&mut self) -> Option<String> {
        self.touched.pop_first()
    }

    /// How many containers there are.
    pub fn len(&self) -> usize {
        self.containers.len() + self.implicit.containers as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was declared of a container; `None` of one that is not.
    pub fn spec(&self, container: &str) -> Option<&ContainerSpec> {
        self.containers.get(container).map(|container| &*container.spec)
    }

    /// What its runtime said last of a container; `None` of one that is not declared.
    pub fn status(&self, container: &str) -> Option<&ContainerStatus> {
        self.containers.get(container).map(|container| &*container.status)
    }

    /// One of the containers whose daemon does not answer, if there are any.
    pub fn unreachable(&self) -> Option<&ContainerStatus> {
        self.status(self.unreachable.first()?)
    }

    /// How a container is; `None` of one that is not declared.
    pub fn condition(&self, container: &str) -> Option<Condition> {
        let container = self.containers.get(container)?;
        let state = container.status.state;
        let checks = || container.checks.iter().filter_map(|id| Some(&**self.checks.get(id)?));
        // A service that is not ready is no reason to repair anything.
        let counts = |check: &&Check| check.spec.kind != ServiceKind::Readiness;
        let critical = |check: &&Check| check.state.verdict == Value::Critical;
        // A warning of one that flaps says nothing of how it is now.
        let answers = |check: &Check| matches!(check.state.found(), Value::Passing | Value::Warning);
        let failing = checks().filter(counts).filter(critical).map(|check| Failing {
            service: check.spec.name.clone(),
            answer: check.state.answer.to_string(),
            since: check.state.last_change(),
            restartable: !check.spec.restart.is_empty(),
        });
        Some(Condition {
            state,
            ended: state == ContainerState::Stopped || (state == ContainerState::Absent && container.ran),
            problem: container.status.problem.clone(),
            failing: failing.collect(),
            unreachable: container.status.unreachable,
            well: state == ContainerState::Running && checks().filter(counts).all(answers),
        })
    }

    /// A service of a container, and the process and network namespace to run its restart command in.
    pub fn service(&self, container: &str, service: &str) -> Option<(&ServiceSpec, Place)> {
        let container = self.containers.get(container)?;
        let spec = container.spec.services.iter().find(|spec| spec.name == service)?;
        Some((spec, Place { pid: container.status.pid, netns: container.status.netns.clone() }))
    }

    /// Shows a container with these marks. One that is held is not probed and has no verdict; one that is no longer is
    /// looked at at once.
    pub fn mark(&mut self, now: Now, name: &str, marks: Marks) {
        let Some(container) = self.containers.get_mut(name).filter(|container| container.marks != marks) else {
            return;
        };
        let held = (container.marks.hold.is_some(), marks.hold.is_some());
        container.marks = marks;
        self.revision += 1;
        container.mark_changed(self.revision);
        match held {
            (false, true) => self.suspend(now, name),
            (true, false) => self.hurry(now.instant, name, Duration::ZERO),
            (false, false) | (true, true) => {}
        }
    }

    /// Makes all probes of a container after so long, and goes on from there as usual. Who speaks up by itself has a whole
    /// interval to do so.
    pub fn hurry(&mut self, now: Instant, name: &str, after: Duration) {
        for id in self.checks_of(name) {
            let Some(check) = self.checks.get(&id) else { continue };
            let after = if check.is_heartbeat() { check.spec.interval } else { after };
            self.reschedule(id, now + after);
        }
    }

    /// Forgets that services answer: their container is made anew.
    pub fn unjudge(&mut self, now: Now, name: &str) {
        let answers = |check: &Check| matches!(check.state.found(), Value::Passing | Value::Warning);
        for id in self.checks_of(name) {
            if self.checks.get(&id).map(Box::as_ref).is_some_and(answers) {
                self.forget(now, id, "it is started anew");
            }
        }
    }

    /// Leaves a check without a verdict. Nobody is told: what was done to its container is. A startup check that has passed is
    /// asked no more, so with it the container starts anew.
    fn forget(&mut self, now: Now, id: CheckId, why: &str) {
        let why = self.memory.share(why);
        let Some(check) = self.checks.get_mut(&id) else { return };
        check.state.begin_anew(now, &why);
        if check.history.note_verdict(now.unix, Value::Unknown, &why) {
            self.memory.note(now.instant, check.container(), true);
        }
        if check.spec.kind == ServiceKind::Startup
            && let Some(container) = self.containers.get_mut(check.container())
        {
            container.starting = true;
            self.look_soon(now.instant, id, FIRST_PROBE / 2);
        }
        self.mark_changed(id);
    }

    /// The addresses of all containers, with prefix length.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.containers.values().map(|container| container.spec.address.as_str()).filter(|address| !address.is_empty())
    }

    /// Another container takes the place of this one, which is forgotten; its services go on with the memory of those before.
    pub fn replace(&mut self, now: Instant, old: &str, spec: ContainerSpec) {
        let mut before = BTreeMap::new();
        if let Some(container) = self.containers.remove(old) {
            for (id, check) in
                container.checks.into_iter().filter_map(|id| self.checks.remove(&id).map(|check| (id, check)))
            {
                self.due.remove(&(check.due, id));
                self.missed.remove(&(check.due, id));
                before.insert(check.spec.name.clone(), check);
            }
        }
        self.touched.remove(old);
        self.unreachable.remove(old);
        self.revision += 1;
        self.removed.note(self.revision, old);
        let name = spec.name.clone();
        self.add(now, spec);
        for id in self.checks_of(&name) {
            let Some(check) = self.checks.get_mut(&id) else { continue };
            if let Some(old) = before.remove(&check.spec.name) {
                check.state.recall(*old.state.normal());
                check.history = old.history;
            }
        }
        // From the shard of the one to that of the other.
        self.memory.note(now, old, true);
        self.memory.note(now, &name, true);
    }

    /// Notes of all services of a container what repair did to it.
    pub fn note_repair(&mut self, now: Now, name: &str, what: &str) {
        self.note_all(now, &self.checks_of(name), Kind::Repair, cut(what, MAX_ANSWER));
    }

    fn suspend(&mut self, now: Now, name: &str) {
        for id in self.checks_of(name) {
            self.forget(now, id, "its container is frozen");
            if let Some(check) = self.checks.get_mut(&id) {
                check.under_way = None;
            }
        }
    }

    pub(super) fn checks_of(&self, name: &str) -> Vec<CheckId> {
        self.containers.get(name).map(|container| container.checks.clone()).unwrap_or_default()
    }
}

/// Where a program can be run in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its first process.
    pub pid: Option<u32>,
    /// Its network namespace.
    pub netns: Option<std::path::PathBuf>,
}
