//! What runs on this host and how well: containers, services, their checks, verdicts and the digest.
//!
//! It owns thresholds and the order of probes. It does not know how a probe is made or a container started: it is told
//! by `agentd`, in the words of [`spec`].

mod application;
mod check;
mod container;
mod flap;
mod heartbeat;
pub mod history;
mod implicit;
mod latency;
mod load;
mod memory;
mod plan;
mod remember;
mod repair;
mod schedule;
pub mod spec;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use check::{CheckState, Outcome, Turns};
pub use flap::{Damping, PENALTY};
use history::{History, cut};
use implicit::Implicit;
pub use implicit::{Answered, Woken};
pub use latency::LatencyLimits;
pub(crate) use load::UNSTRETCHED;
use load::{LATE, Load};
use memory::Memory;
pub use memory::SHARDS;
use plan::Plans;
use rand::{Rng, RngExt, rngs::StdRng};
pub use repair::{Condition, Failing, Marks, Place};
use ringmesh_proto::{Instant, Now, digest::Digest, v1};
use schedule::FIRST_PROBE;
use spec::{
    CheckId, ContainerSpec, ContainerState, ContainerStatus, MAX_ANSWER, ProbeReply, Purpose, ServiceKind, ServiceSpec,
};

use crate::view::{ContainerRow, Declared, Removed, ServiceRow};

/// Something that the whole cluster should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A service was judged otherwise than before.
    Verdict {
        /// Its container.
        container: String,
        /// Its name.
        service: String,
        /// Before.
        old: v1::verdict::Value,
        /// Now.
        new: v1::verdict::Value,
        /// The answer that decided, and what else there is to say.
        answer: String,
    },
    /// The detailed plan of a service ran.
    Plan {
        /// Its container.
        container: String,
        /// Its name.
        service: String,
        /// All of its steps were answered rightly.
        success: bool,
        /// Of the step that failed, or of the last one.
        answer: String,
    },
    /// A container stopped, started or vanished.
    Container {
        /// Its name.
        container: String,
        /// Before.
        old: ContainerState,
        /// Now.
        new: ContainerState,
        /// Why, if its driver said so.
        problem: Option<String>,
    },
    /// The intervals of all probes are stretched otherwise than before.
    Stretched {
        /// Before, in thousandths.
        old: u32,
        /// Now, in thousandths; 1000 is as configured.
        new: u32,
        /// What it follows from.
        why: String,
    },
}

/// How outcomes are judged, of all services of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Of verdicts that change too often.
    pub damping: Damping,
    /// Of latencies.
    pub latency: LatencyLimits,
}

/// Why a service is not judged while its container starts.
const STARTING: &str = "waits for the startup checks of its container";

/// All containers and checks of one host.
pub struct Health {
    host: Arc<str>,
    // Boxed: a tree that grows at its end is half empty, and these are large.
    containers: BTreeMap<String, Box<Container>>,
    checks: BTreeMap<CheckId, Box<Check>>,
    due: BTreeSet<(Instant, CheckId)>,
    /// When a service that is to speak up by itself is next missed.
    missed: BTreeSet<(Instant, CheckId)>,
    next_id: u64,
    /// All draws follow from it.
    seed: u64,
    changes: VecDeque<Change>,
    /// Counts the changes that a query would show, but for times and latencies.
    revision: u64,
    removed: Removed,
    /// Probes that could not be made because too many were under way.
    postponed: u64,
    load: Load,
    /// Containers that may have become better or worse.
    touched: BTreeSet<String>,
    /// Containers whose daemon does not answer.
    unreachable: BTreeSet<String>,
    memory: Memory,
    plans: Plans,
    judgement: Judgement,
    implicit: Implicit,
}

struct Container {
    spec: Arc<ContainerSpec>,
    status: Arc<ContainerStatus>,
    checks: Vec<CheckId>,
    /// It ran in this life of the agent: that it is gone or back is news.
    ran: bool,
    /// It has startup checks, and not all of them have passed since it started.
    starting: bool,
    marks: Marks,
    /// What its cell takes it for, if it is a member.
    member: Option<Arc<v1::CellMember>>,
    /// Its member inside, if it is to have one.
    inside: Option<Arc<v1::InsideMember>>,
    /// The revision that changed it last, but for its checks' times and latencies.
    changed: u64,
    shown: Option<Arc<ContainerRow>>,
}

struct Check {
    spec: Declared,
    state: CheckState,
    history: History,
    due: Instant,
    /// Since when a probe is under way.
    under_way: Option<Instant>,
    /// It has its place in the interval still to get: containers that start together are not probed together for ever.
    unplaced: bool,
    /// The revision that changed it last, but for times and latencies.
    changed: u64,
    shown: Option<Arc<ServiceRow>>,
}

impl Container {
    fn mark_changed(&mut self, revision: u64) {
        self.changed = revision;
        self.shown = None;
    }
}

impl Check {
    /// The name of its container.
    fn container(&self) -> &str {
        &self.spec.container().name
    }

    fn is_heartbeat(&self) -> bool {
        matches!(*self.spec.check, spec::Check::Heartbeat { .. })
    }
}

impl Health {
    /// A host with these containers, none of which has been seen yet.
    pub fn new(now: Instant, host: &str, containers: Vec<ContainerSpec>, mut rng: StdRng) -> Self {
        let mut health = Self {
            host: host.into(),
            containers: BTreeMap::new(),
            checks: BTreeMap::new(),
            due: BTreeSet::new(),
            missed: BTreeSet::new(),
            next_id: 0,
            seed: rng.random(),
            changes: VecDeque::new(),
            revision: 0,
            removed: Removed::default(),
            postponed: 0,
            load: Load::default(),
            touched: BTreeSet::new(),
            unreachable: BTreeSet::new(),
            memory: Memory::default(),
            plans: Plans::default(),
            judgement: Judgement::default(),
            implicit: Implicit::default(),
        };
        for container in containers {
            health.add(now, container);
        }
        health
    }

    /// From now on outcomes are judged so.
    pub fn judge_by(&mut self, judgement: Judgement) {
        self.judgement = judgement;
    }

    fn add(&mut self, now: Instant, spec: ContainerSpec) {
        let spec = Arc::new(spec);
        self.revision += 1;
        let changed = self.revision;
        let mut checks = Vec::with_capacity(spec.services.len());
        for service in Declared::all(&spec) {
            self.next_id += 1;
            let id = CheckId::new(Purpose::Check, self.next_id);
            let due = now + self.draw(id, now, service.interval.min(FIRST_PROBE));
            let check = Check {
                state: CheckState::default(),
                history: self.begin_history(&spec.name, &service),
                spec: service,
                due,
                under_way: None,
                unplaced: true,
                changed,
                shown: None,
            };
            if !check.is_heartbeat() {
                self.due.insert((due, id));
            }
            self.checks.insert(id, Box::new(check));
            checks.push(id);
        }
        checks.sort_by_key(|id| self.checks.get(id).map(|check| check.spec.name.clone()));
        let status = Arc::new(ContainerStatus { name: spec.name.clone(), ..ContainerStatus::default() });
        let (ran, starting, marks, member) = (false, false, Marks::default(), None);
        let inside = spec.member.then(Arc::default);
        let container = Container { spec, status, checks, ran, starting, marks, member, inside, changed, shown: None };
        self.containers.insert(container.spec.name.clone(), Box::new(container));
    }

    /// Counts the changes that a query would show, other than times and latencies.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Probes that could not be made because too many were under way.
    pub fn postponed(&self) -> u64 {
        self.postponed
    }

    /// Probes that were not made in time, and by how much all intervals are stretched for it, in thousandths.
    pub fn load(&self) -> (u64, u32) {
        (self.load.late_ever(), self.load.stretch())
    }

    /// Takes what a runtime says of a container. One that is not declared is none of ours.
    pub fn handle_status(&mut self, now: Now, status: ContainerStatus) {
        let Some(container) = self.containers.get_mut(&status.name) else { return };
        if *container.status == status {
            return;
        }
        let old = std::mem::replace(&mut container.status, Arc::new(status));
        self.revision += 1;
        container.mark_changed(self.revision);
        let status = &container.status;
        self.touched.insert(status.name.clone());
        if status.unreachable {
            self.unreachable.insert(status.name.clone());
        } else {
            self.unreachable.remove(&status.name);
        }
        let behaviour = container::behaviour(&old, status);
        // That a container is found running when the agent starts, or is made and started then, is no news.
        let ran = container.ran;
        container.ran |= status.state == ContainerState::Running;
        let news = ran || matches!(status.state, ContainerState::Stopped | ContainerState::Paused);
        if old.state != status.state && old.state != ContainerState::Unknown && news {
            self.changes.push_back(Change::Container {
                container: status.name.clone(),
                old: old.state,
                new: status.state,
                problem: status.problem.clone(),
            });
        }
        let why = match status.state {
            ContainerState::Stopped => Some("the container has stopped"),
            ContainerState::Absent if ran => Some("the container is gone"),
            ContainerState::Unknown
            | ContainerState::Absent
            | ContainerState::Created
            | ContainerState::Running
            | ContainerState::Paused => None,
        };
        let running = status.state == ContainerState::Running;
        let begun = running && is_another_life(&old, status);
        let startup = container.spec.services.iter().any(|service| service.kind == ServiceKind::Startup);
        container.starting = startup && (begun || container.starting);
        let checks = container.checks.clone();
        let within = self.first_within(old.state);
        if let Some((kind, cause)) = behaviour {
            self.note_all(now, &checks, kind, &cause);
        }
        let why = why.map(|why| self.memory.share(why));
        let starting = self.memory.share(STARTING);
        for id in checks {
            if let Some(why) = &why {
                self.conclude(now, id, |state, at| state.fail_at_once(at, why));
            } else if begun && startup {
                self.conclude(now, id, |state, at| state.begin_anew(at.now, &starting));
            }
            if begun || running && old.state != ContainerState::Running {
                self.look_soon(now.instant, id, within);
            }
        }
    }

    /// Which container was probed, and how, if the reply to this is waited for.
    pub fn asked(&self, id: CheckId) -> Option<(&str, &ServiceSpec)> {
        let check = self.checks.get(&id).filter(|check| check.under_way.is_some())?;
        Some((check.container(), &check.spec))
    }

    /// Takes what its cell takes a container for. One that is taken for down is critical, whatever its services are.
    pub fn handle_cell(&mut self, container: &str, member: Option<v1::CellMember>) {
        if let Some(container) = self.containers.get_mut(container) {
            container.member = member.map(Arc::new);
            self.revision += 1;
            container.mark_changed(self.revision);
        }
    }

    /// Takes what becomes of the member inside a container: it is there, or is not for this reason. True if that is news: it is
    /// not when it comes for the first time, nor when it is still not there for the same reason.
    pub fn handle_inside(&mut self, now: Now, container: &str, problem: Option<&str>) -> bool {
        use v1::inside_member::State;
        let Some(container) = self.containers.get_mut(container) else { return false };
        let Some(inside) = container.inside.as_mut().map(Arc::make_mut) else { return false };
        let state = match (problem, inside.starts) {
            (None, _) => State::Running,
            (Some(_), 0) => State::Starting,
            (Some(_), _) => State::Lost,
        };
        let problem = cut(problem.unwrap_or_default(), spec::MAX_ANSWER);
        let first = state == State::Running && inside.starts == 0;
        // One that runs has come anew.
        if state != State::Running && (inside.state(), inside.problem.as_str()) == (state, problem) {
            return false;
        }
        if inside.state() != state || state == State::Running {
            inside.since = Some(now.unix.into());
        }
        inside.starts += u32::from(state == State::Running);
        inside.problem = problem.to_owned();
        inside.set_state(state);
        self.revision += 1;
        container.mark_changed(self.revision);
        !first
    }

    /// The container does not run: its member inside is gone with it, and that is no news.
    pub fn end_inside(&mut self, container: &str) {
        if let Some(container) = self.containers.get_mut(container)
            && let Some(inside) = container.inside.as_mut().filter(|inside| ***inside != v1::InsideMember::default())
        {
            *inside = Arc::default();
            self.revision += 1;
            container.mark_changed(self.revision);
        }
    }

    /// Takes the outcome of a probe.
    pub fn handle_reply(&mut self, now: Now, reply: ProbeReply) {
        let id = reply.id;
        if id.purpose() == Some(Purpose::Plan) {
            return self.handle_plan_reply(now, id.with(Purpose::Check), &reply);
        }
        let Some(check) = self.checks.get_mut(&id) else { return };
        let Some(since) = check.under_way.take() else { return };
        self.load.count_made();
        if now.instant.since(since) > reply.latency + LATE {
            self.load.count_late();
        }
        if self.checks.get(&id).is_some_and(|check| self.is_wanted(check)) {
            let outcome = self.outcome(&reply);
            self.note_outcome(now, id, &outcome);
            self.conclude(now, id, |state, at| state.reply(at, &outcome));
            self.end_startup(now.instant, id);
        }
    }

    fn outcome(&mut self, reply: &ProbeReply) -> Outcome {
        let answer = self.memory.share(cut(&reply.answer, MAX_ANSWER));
        Outcome { sign: reply.sign, latency: Some(reply.latency), answer }
    }

    /// When the last of a container's startup checks has passed, the others begin.
    fn end_startup(&mut self, now: Instant, passed: CheckId) {
        let startup = self.checks.get(&passed).filter(|check| check.spec.kind == ServiceKind::Startup);
        let Some(container) = startup.and_then(|check| self.containers.get_mut(check.container())) else { return };
        let waits = |check: &Check| {
            check.spec.kind == ServiceKind::Startup && check.state.found() != v1::verdict::Value::Passing
        };
        if !container.starting
            || container.checks.iter().any(|id| self.checks.get(id).is_some_and(|check| waits(check)))
        {
            return;
        }
        container.starting = false;
        for id in container.checks.clone() {
            self.look_soon(now, id, FIRST_PROBE / 2);
        }
    }

    /// A probe could not be made: too many are under way, or who would make it is not there. It has not failed, it is made
    /// later.
    pub fn handle_busy(&mut self, id: CheckId, overloaded: bool) {
        self.postponed += 1;
        if overloaded {
            self.load.count_late();
        }
        if id.purpose() == Some(Purpose::Plan) {
            self.plans.ended(id.with(Purpose::Check));
            return;
        }
        if let Some(check) = self.checks.get_mut(&id) {
            check.under_way = None;
        }
    }

    /// What is new.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// The summary of everything.
    pub fn digest(&self) -> Digest {
        let mut digest = Digest { fingerprint: self.revision, ..Digest::default() };
        let mut scores = 0u64;
        for container in self.containers.values() {
            let (verdict, score) = container.judge(&self.checks);
            digest.containers += 1;
            digest.frozen += u32::from(container.marks.hold.is_some());
            digest.running += u32::from(container.status.state == ContainerState::Running);
            digest.worst = digest.worst.max(verdict as u8);
            scores += u64::from(score);
        }
        for check in self.checks.values() {
            digest.services += 1;
            match check.state.verdict {
                v1::verdict::Value::Unknown => {}
                v1::verdict::Value::Passing => digest.passing += 1,
                v1::verdict::Value::Warning => digest.warning += 1,
                v1::verdict::Value::Critical => digest.critical += 1,
            }
        }
        self.implicit.count(&mut digest, &mut scores);
        digest.score = scores.checked_div(u64::from(digest.containers)).map_or(100, |mean| mean as u8);
        digest
    }

    /// All containers, by name. Unchanged ones are shared with the answer before.
    pub fn containers(&mut self) -> Vec<Arc<ContainerRow>> {
        let (host, checks) = (&self.host, &self.checks);
        let shown = self.containers.values_mut().map(|container| match &container.shown {
            Some(shown) => Arc::clone(shown),
            None => Arc::clone(container.shown.insert(Arc::new(container.row(host, checks)))),
        });
        shown.collect()
    }

    /// All services, by container and name.
    pub fn services(&mut self) -> Vec<Arc<ServiceRow>> {
        let (host, checks) = (&self.host, &mut self.checks);
        let mut shown = Vec::with_capacity(checks.len());
        for id in self.containers.values().flat_map(|container| &container.checks) {
            let Some(check) = checks.get_mut(id) else { continue };
            let Check { spec, state, changed, shown: row, .. } = &mut **check;
            let told = || state.told();
            let make =
                || Arc::new(ServiceRow { host: Arc::clone(host), spec: spec.clone(), told: told(), changed: *changed });
            shown.push(Arc::clone(row.get_or_insert_with(make)));
        }
        shown
    }

    fn conclude(&mut self, now: Now, id: CheckId, outcome: impl FnOnce(&mut CheckState, check::At<'_>) -> Turns) {
        let Some(check) = self.checks.get_mut(&id) else { return };
        let (old, first) = (check.state.verdict, !check.state.was_judged());
        let turns = outcome(&mut check.state, check::At { now, spec: &check.spec, judgement: &self.judgement });
        check.shown = None;
        let new = check.state.verdict;
        self.note_turns(now, id, turns);
        let Some(check) = self.checks.get_mut(&id).filter(|_| old != new) else { return };
        let cause = self.memory.share(&check.state.cause());
        if check.history.note_verdict(now.unix, new, &cause) {
            self.memory.note(now.instant, check.container(), true);
        }
        let container = check.container().to_owned();
        // The first answer after the agent's start is no change.
        if !first || new != v1::verdict::Value::Passing {
            let (service, answer) = (check.spec.name.clone(), cause.to_string());
            self.changes.push_back(Change::Verdict { container: container.clone(), service, old, new, answer });
        }
        self.mark_changed(id);
        self.touched.insert(container);
    }

    /// A check is another one than before for those who ask, and with it its container may be.
    fn mark_changed(&mut self, id: CheckId) {
        self.revision += 1;
        let Some(check) = self.checks.get_mut(&id) else { return };
        (check.changed, check.shown) = (self.revision, None);
        if let Some(container) = self.containers.get_mut(check.container()) {
            container.mark_changed(self.revision);
        }
    }

    /// Containers that are no more, for those who knew them.
    pub fn removed(&self) -> &Removed {
        &self.removed
    }
}

/// Whether the container was started since `old` was true. Changes in quick succession are reported as one.
fn is_another_life(old: &ContainerStatus, new: &ContainerStatus) -> bool {
    let ran = matches!(old.state, ContainerState::Running | ContainerState::Paused);
    !ran || old.pid != new.pid || old.started_at != new.started_at
}

/// A uniformly drawn duration below `bound`.
pub(crate) fn random_below(rng: &mut impl Rng, bound: Duration) -> Duration {
    let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
    if nanos == 0 { Duration::ZERO } else { Duration::from_nanos(rng.random_range(0..nanos)) }
}
