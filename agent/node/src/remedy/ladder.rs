//! From a container that is sick to the action that comes next, or to why there is none.
//!
//! A sick container is a patient. Its ladder has rungs, each tried some times; a patient that was well for long enough
//! begins at the foot again. Before each action the gate is asked.

use std::{
    collections::BTreeMap,
    ops::{
        Bound::{Excluded, Unbounded},
        ControlFlow,
    },
    time::Duration,
};

use ringmesh_proto::{
    Instant, Now,
    peer::Rung as Climbed,
    v1::{
        Evidence, Operation,
        arming::Mode as Arming,
        event::Severity,
        operation::{Kind, State},
        verdict::Value,
    },
};

use super::{
    Around, Budgets, Due, Mode, Policy, RETRY, Remedy, Rung, Share, base,
    budget::Exceeded,
    hold::REPAIR,
    operation::{MAX_OPEN, has_ended},
};
use crate::health::{Condition, spec::ContainerSpec, spec::ContainerState};

/// What could not be tried, for want of room or of who does it, is tried again after so long.
const NO_ROOM: Duration = Duration::from_secs(5);

/// A container that is or was sick.
#[derive(Debug)]
pub(super) struct Patient {
    /// Place in its policy's steps.
    rung: usize,
    /// Of that rung, those that were made.
    attempts: u32,
    pub(super) phase: Phase,
}

/// What is done about a patient.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing yet: until a time, or until something else changes.
    Waiting,
    /// There is an operation.
    Open {
        /// Its id.
        id: String,
        /// It is proposed only because something is in the way, and begins when that is gone.
        deferred: bool,
    },
    /// It is well, for the moment.
    Quiet,
    /// Nothing more, until it is well.
    GivenUp,
}

impl Patient {
    /// For a restart.
    pub(super) fn climbed(&self) -> Climbed {
        let given_up = self.phase == Phase::GivenUp;
        Climbed { rung: u32::try_from(self.rung).unwrap_or(u32::MAX), attempts: self.attempts, given_up }
    }

    /// The rung and the attempt that are next, if there is one left.
    fn next(&self, policy: &Policy) -> (usize, u32) {
        match policy.steps.get(self.rung) {
            Some(step) if self.attempts >= step.attempts => (self.rung + 1, 0),
            Some(_) => (self.rung, self.attempts),
            // The ladder was configured otherwise before the agent was started anew.
            None => (0, 0),
        }
    }
}

/// Whether an action may begin.
enum Gate {
    Open,
    /// Not by itself; `deferred` if that may change.
    Propose {
        why: String,
        deferred: bool,
    },
    /// Not now, and nothing is said of it; `Some` if it is clear when.
    Later(Option<Instant>),
    /// Others are first, whoever asks.
    Turn,
}

impl Remedy {
    /// What becomes of a container that is as it is now.
    pub(super) fn judge(&mut self, now: Now, around: &Around<'_>, name: &str) {
        let Some(condition) = around.health.condition(name) else { return };
        let is_sick = condition.is_sick();
        if is_sick {
            self.sick.insert(name.to_owned());
        } else {
            self.sick.remove(name);
        }
        if let Some(id) = self.verifying(name) {
            self.verify(now, around, &id);
        }
        match self.patients.get(name).map(|patient| &patient.phase) {
            None if is_sick && !self.is_held(name) => {
                let patient = Patient { rung: 0, attempts: 0, phase: Phase::Waiting };
                self.patients.insert(name.to_owned(), patient);
                let _ = self.advance(now, around, name);
            }
            Some(Phase::Waiting) if is_sick && !self.timers.is_set(&Due::Patient(name.to_owned())) => {
                let _ = self.advance(now, around, name);
            }
            Some(Phase::Quiet) if is_sick => {
                self.set_phase(name, Phase::Waiting);
                self.wait(now, around, name);
            }
            Some(Phase::Open { id, .. }) if condition.well => {
                let id = id.clone();
                if self.is_proposed(&id) {
                    self.end(now, &id, State::Refused, "it is well again by itself");
                    self.recover(now, around, name);
                }
            }
            Some(Phase::Waiting | Phase::GivenUp) if condition.well => self.recover(now, around, name),
            Some(Phase::Waiting | Phase::Open { .. } | Phase::Quiet | Phase::GivenUp) | None => {}
        }
    }

    /// The time of a patient has come.
    pub(super) fn patient_due(&mut self, now: Now, around: &Around<'_>, name: &str) {
        match self.patients.get(name).map(|patient| &patient.phase) {
            Some(Phase::Quiet) => {
                self.discharge(name);
                self.dirty = true;
            }
            Some(Phase::Waiting) => {
                let _ = self.advance(now, around, name);
            }
            Some(Phase::Open { .. } | Phase::GivenUp) | None => {}
        }
    }

    /// Those who wait try again; repair that has stopped goes on if it may.
    pub(super) fn retry(&mut self, now: Now, around: &Around<'_>) {
        if self.stopped.is_some() && self.may_resume(now, around) {
            self.stopped = None;
            self.tell_all("repair-resumed", Severity::Info, "containers of this host are repaired again".into());
        }
        if self.unwritable {
            self.dirty = true;
        }
        let mut after = String::new();
        while let Some(name) = self.waiting.range::<str, _>((Excluded(after.as_str()), Unbounded)).next().cloned() {
            if self.advance(now, around, &name).is_break() {
                break;
            }
            after = name;
        }
        if self.stopped.is_some() {
            self.timers.set(Due::Retry, now.instant + RETRY);
        }
    }

    /// Begins or proposes what is next for a patient, if the gate is open. Breaks when it is closed to all.
    fn advance(&mut self, now: Now, around: &Around<'_>, name: &str) -> ControlFlow<()> {
        self.waiting.remove(name);
        let (Some(spec), Some(condition)) = (around.health.spec(name), around.health.condition(name)) else {
            if let Some(Phase::Open { id, .. }) = self.patients.get(name).map(|patient| &patient.phase)
                && self.is_proposed(id)
            {
                self.end(now, &id.clone(), State::Refused, "the container is not configured any more");
            }
            self.discharge(name);
            return ControlFlow::Continue(());
        };
        let proposed = match self.patients.get(name).map(|patient| &patient.phase) {
            Some(Phase::Waiting) => None,
            Some(Phase::Open { id, deferred: true }) if self.is_proposed(id) => Some(id.clone()),
            Some(Phase::Open { .. } | Phase::Quiet | Phase::GivenUp) | None => return ControlFlow::Continue(()),
        };
        if condition.well && proposed.is_none() {
            self.recover(now, around, name);
            return ControlFlow::Continue(());
        }
        // What was proposed because repair has stopped waits until it goes on, or until somebody can do it.
        let stays = proposed.is_some() && (self.stopped.is_some() || condition.unreachable || self.unwritable);
        if proposed.is_some() && condition.unreachable {
            // Nothing else tells that its daemon answers again.
            self.timers.set_earlier(Due::Retry, now.instant + NO_ROOM);
        }
        if stays || !condition.is_sick() || (proposed.is_none() && self.operations.on(name).is_some()) {
            self.waiting.insert(name.to_owned());
            return ControlFlow::Continue(());
        }
        let policy = self.settings.policy(&spec.labels).clone();
        let (gate, goes_on) = self.gate(now, around, name, &policy);
        // All others would be told the same.
        let full = self.operations.open().count() >= MAX_OPEN;
        let goes_on = if self.stopped.is_some() && full { ControlFlow::Break(()) } else { goes_on };
        match (gate, proposed) {
            (Gate::Open, Some(id)) => {
                self.set_phase(name, Phase::Open { id: id.clone(), deferred: false });
                self.begin(now, around, &id);
            }
            (Gate::Open, None) => self.climb(now, around, spec, &condition, &policy, None),
            (Gate::Propose { .. }, Some(_)) | (Gate::Turn | Gate::Later(None), _) => {
                self.waiting.insert(name.to_owned());
            }
            (Gate::Propose { why, deferred }, None) if self.operations.open().count() < MAX_OPEN => {
                self.climb(now, around, spec, &condition, &policy, Some((why, deferred)));
            }
            (Gate::Propose { .. }, None) => {
                self.waiting.insert(name.to_owned());
            }
            (Gate::Later(Some(at)), _) => self.timers.set(Due::Patient(name.to_owned()), at),
        }
        goes_on
    }

    /// Whether an action on this container may begin, and whether it is worth to ask for another one.
    fn gate(&mut self, now: Now, around: &Around<'_>, name: &str, policy: &Policy) -> (Gate, ControlFlow<()>) {
        let goes_on = ControlFlow::Continue(());
        let propose = |why: &str, deferred| (Gate::Propose { why: why.to_owned(), deferred }, goes_on);
        let arming = self.arming_mode(now);
        if policy.mode == Mode::Off || arming == Arming::Ignore || self.is_held(name) {
            return (Gate::Later(None), goes_on);
        }
        if around.isolated {
            return (Gate::Later(None), goes_on);
        }
        if let Some(until) = self.distrusts_until.filter(|until| *until > now.instant) {
            return (Gate::Later(Some(until)), goes_on);
        }
        if policy.mode == Mode::Manual {
            return propose("its policy is manual", false);
        }
        if arming == Arming::Freeze {
            return propose("the cluster is disarmed", true);
        }
        if self.is_drained() {
            return propose("this host is drained", true);
        }
        let (limits, shares) = (self.settings.limits, self.shares(around));
        let under_way = self.running.len();
        match self.budgets.check(now.instant, &limits, base(name), under_way, shares) {
            Ok(()) => (Gate::Open, goes_on),
            Err(Exceeded::AtOnce) => (Gate::Turn, ControlFlow::Break(())),
            Err(Exceeded::Container(why)) => {
                if let Some(at) = self.budgets.next() {
                    self.timers.set_earlier(Due::Retry, at);
                }
                propose(&why, true)
            }
            Err(Exceeded::Host(why)) => {
                self.stop(now, &why);
                propose(&why, true)
            }
        }
    }

    fn is_proposed(&self, id: &str) -> bool {
        self.operations.get(id).is_some_and(|operation| operation.state() == State::Proposed)
    }

    fn shares(&self, around: &Around<'_>) -> (Share, Share) {
        let host = Share { sick: self.sick.len() as u64, of: around.health.len() as u64 };
        (host, (around.zone)())
    }

    /// Repair stops on this host: said once.
    fn stop(&mut self, now: Now, why: &str) {
        if self.stopped.replace(why.to_owned()).is_none() {
            let text = format!("nothing more is repaired on this host: {why}; what would be done is proposed");
            self.tell_all("repair-stopped", Severity::Critical, text);
            self.timers.set(Due::Retry, now.instant + RETRY);
        }
    }

    fn may_resume(&mut self, now: Now, around: &Around<'_>) -> bool {
        let (limits, shares) = (self.settings.limits, self.shares(around));
        !matches!(self.budgets.check(now.instant, &limits, "", 0, shares), Err(Exceeded::Host(_)))
    }

    /// Makes the operation of the next rung that can be climbed, and begins it unless it is only `proposed`.
    fn climb(
        &mut self,
        now: Now,
        around: &Around<'_>,
        spec: &ContainerSpec,
        condition: &Condition,
        policy: &Policy,
        proposed: Option<(String, bool)>,
    ) {
        let name = &spec.name;
        let Some(patient) = self.patients.get_mut(name) else { return };
        let mut left_out = Vec::new();
        let (mut rung, mut attempts) = patient.next(policy);
        let step = loop {
            let Some(step) = policy.steps.get(rung) else { return self.exhausted(name, condition) };
            match usable(step.rung, spec, condition) {
                Ok(()) => break *step,
                Err(why) => left_out.push(format!("{} is left out, {why}", step.rung.word())),
            }
            (rung, attempts) = (rung + 1, 0);
        };
        // A restart command needs neither daemon nor disk.
        if (condition.unreachable || self.unwritable) && step.rung != Rung::RestartService {
            self.waiting.insert(name.clone());
            return;
        }
        (patient.rung, patient.attempts) = (rung, attempts + 1);
        let why = proposed.as_ref().map(|(why, _)| why.clone());
        let (service, evidence) = evidence(step.rung, condition);
        let operation = Operation {
            kind: kind(step.rung) as i32,
            state: State::Proposed as i32,
            container: name.clone(),
            service,
            rung: u32::try_from(rung + 1).unwrap_or(u32::MAX),
            attempt: attempts + 1,
            evidence: Some(evidence),
            reason: why.into_iter().chain(left_out).collect::<Vec<_>>().join("; "),
            who: REPAIR.to_owned(),
            automatic: true,
            ..Operation::default()
        };
        let id = self.make(now, operation);
        match proposed {
            None => {
                self.set_phase(name, Phase::Open { id: id.clone(), deferred: false });
                self.begin(now, around, &id);
            }
            Some((_, deferred)) => {
                self.set_phase(name, Phase::Open { id: id.clone(), deferred });
                if deferred {
                    self.waiting.insert(name.clone());
                }
                // Once repair has stopped, that was told for all of them.
                if let Some(operation) = self.operations.get(&id).cloned().filter(|_| self.stopped.is_none()) {
                    self.tell("operation-proposed", Severity::Warning, &operation);
                }
            }
        }
    }

    /// There is no rung left.
    fn exhausted(&mut self, name: &str, condition: &Condition) {
        self.set_phase(name, Phase::GivenUp);
        let (service, evidence) = evidence(Rung::RestartContainer, condition);
        let who = REPAIR.to_owned();
        let progress = "nothing more can be done by itself".to_owned();
        let container = name.to_owned();
        let operation = Operation {
            container,
            service,
            evidence: Some(evidence),
            who,
            progress,
            automatic: true,
            ..Operation::default()
        };
        self.tell("repair-exhausted", Severity::Critical, &operation);
    }

    /// An operation on a patient has ended.
    pub(super) fn climbed(&mut self, now: Now, around: &Around<'_>, name: &str, id: &str, success: bool) {
        let is_its = |patient: &Patient| matches!(&patient.phase, Phase::Open { id: open, .. } if open == id);
        if self.patients.get(name).is_none_or(|patient| !is_its(patient)) {
            return;
        }
        if success {
            self.recover(now, around, name);
        } else {
            self.set_phase(name, Phase::Waiting);
            self.wait(now, around, name);
        }
    }

    /// Nothing more is done about this container until it is well.
    pub(super) fn give_up(&mut self, name: &str) {
        self.set_phase(name, Phase::GivenUp);
    }

    /// It is well. Its ladder is remembered for a while.
    fn recover(&mut self, now: Now, around: &Around<'_>, name: &str) {
        self.set_phase(name, Phase::Quiet);
        let quiet = around.health.spec(name).map(|spec| self.settings.policy(&spec.labels).quiet).unwrap_or_default();
        self.timers.set(Due::Patient(name.to_owned()), now.instant + quiet);
    }

    /// Backs off before the next attempt: not at all before the first of a ladder.
    fn wait(&mut self, now: Now, around: &Around<'_>, name: &str) {
        let (Some(patient), Some(spec)) = (self.patients.get(name), around.health.spec(name)) else { return };
        let policy = self.settings.policy(&spec.labels);
        let back_off = policy.steps.get(patient.rung).map(|step| step.back_off).unwrap_or_default();
        let factor = 2_u32.saturating_pow(patient.attempts.saturating_sub(1));
        let pause = if patient.attempts == 0 { Duration::ZERO } else { back_off.saturating_mul(factor) };
        self.timers.set(Due::Patient(name.to_owned()), now.instant + pause);
    }

    fn set_phase(&mut self, name: &str, phase: Phase) {
        self.waiting.remove(name);
        self.timers.cancel(&Due::Patient(name.to_owned()));
        if let Some(patient) = self.patients.get_mut(name) {
            let before = patient.climbed();
            patient.phase = phase;
            self.dirty |= patient.climbed() != before;
        }
    }

    /// It is no patient any more.
    pub(super) fn discharge(&mut self, name: &str) {
        self.patients.remove(name);
        self.waiting.remove(name);
        self.timers.cancel(&Due::Patient(name.to_owned()));
    }

    /// A clone has taken a patient's place.
    pub(super) fn rename(&mut self, old: &str, new: &str) {
        if let Some(patient) = self.patients.remove(old) {
            self.patients.insert(new.to_owned(), patient);
        }
        if self.waiting.remove(old) {
            self.waiting.insert(new.to_owned());
        }
        self.timers.pass_on(&Due::Patient(old.to_owned()), Due::Patient(new.to_owned()));
        self.sick.remove(old);
    }

    /// The last attempt was none: it is made once more.
    pub(super) fn untry(&mut self, now: Now, operation: &Operation) {
        let name = &operation.container;
        let Some(patient) =
            self.patients.get_mut(name).filter(|patient| operation.automatic && patient.phase == Phase::Waiting)
        else {
            return;
        };
        patient.attempts = patient.attempts.saturating_sub(1);
        self.timers.set(Due::Patient(name.to_owned()), now.instant + NO_ROOM);
        self.dirty = true;
    }

    /// After a restart: ladders as far as they were climbed.
    pub(super) fn resume_ladders(&mut self, now: Now, left: BTreeMap<String, Climbed>) {
        let open: BTreeMap<String, (String, bool)> = self
            .operations
            .open()
            .filter(|operation| operation.automatic)
            .map(|operation| {
                let container =
                    if operation.replacement.is_empty() { &operation.container } else { &operation.replacement };
                // Whether it only waits is seen anew.
                (container.clone(), (operation.id.clone(), operation.state() == State::Proposed))
            })
            .collect();
        for (name, Climbed { rung, attempts, given_up }) in left {
            let (phase, waits) = match open.get(&name) {
                Some((id, proposed)) => (Phase::Open { id: id.clone(), deferred: *proposed }, *proposed),
                None if given_up => (Phase::GivenUp, false),
                None => (Phase::Quiet, false),
            };
            if phase == Phase::Quiet {
                self.timers.set(Due::Patient(name.clone()), now.instant + self.settings.default.quiet);
            }
            if waits {
                self.waiting.insert(name.clone());
            }
            let rung = usize::try_from(rung).unwrap_or(usize::MAX);
            self.patients.insert(name, Patient { rung, attempts, phase });
        }
        // What one life of the agent may do does not grow by its restarts.
        let window = self.settings.limits.window;
        let spent: Vec<(String, u64)> = self
            .operations
            .all()
            .iter()
            .filter(|operation| operation.automatic)
            .filter_map(|operation| {
                let started = operation.started_at.as_ref()?;
                let age = now.unix.0.saturating_sub(u64::try_from(started.seconds).unwrap_or(0) * 1000);
                Some((base(&operation.container).to_owned(), age))
            })
            .collect();
        for (container, age_ms) in spent {
            let left = window.saturating_sub(Duration::from_millis(age_ms));
            if !left.is_zero() {
                self.budgets.spend(&container, now.instant + left);
            }
        }
        debug_assert!(self.operations.open().all(|operation| !has_ended(operation.state())));
    }
}

/// Why a container cannot be cloned.
pub(super) const NOT_MADE_HERE: &str = "somebody else made it";

/// Whether a rung can be climbed, or why not.
fn usable(rung: Rung, spec: &ContainerSpec, condition: &Condition) -> Result<(), String> {
    let cannot = |what: &str| Err(format!("the driver {} cannot {what}", spec.driver));
    match rung {
        Rung::RestartService if condition.ended || condition.state != ContainerState::Running => {
            Err("the container does not run".into())
        }
        Rung::RestartService if !condition.failing.iter().any(|failing| failing.restartable) => {
            Err("there is no restart command".into())
        }
        Rung::RestartContainer if !spec.verbs.restart => cannot("restart"),
        Rung::Clone if !spec.verbs.clone => Err(format!("{NOT_MADE_HERE}, so there is nothing to clone it from")),
        // To hold back what cannot be done anyway would only end its probes.
        Rung::Freeze if !spec.verbs.pause => cannot("freeze"),
        Rung::RestartService | Rung::RestartContainer | Rung::Clone | Rung::Freeze => Ok(()),
    }
}

/// The service that an action is about, and why.
fn evidence(rung: Rung, condition: &Condition) -> (String, Evidence) {
    let mut failing = condition.failing.iter().filter(|failing| rung != Rung::RestartService || failing.restartable);
    let verdict = Value::Critical as i32;
    if condition.ended {
        let problem = condition.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
        let answer = if condition.state == ContainerState::Absent {
            "the container is gone"
        } else {
            "the container has stopped"
        };
        return (String::new(), Evidence { verdict, answer: format!("{answer}{problem}"), since: None });
    }
    match failing.next() {
        Some(failing) => {
            let since = failing.since.map(Into::into);
            (failing.service.clone(), Evidence { verdict, answer: failing.answer.clone(), since })
        }
        None => (String::new(), Evidence::default()),
    }
}

fn kind(rung: Rung) -> Kind {
    match rung {
        Rung::RestartService => Kind::RestartService,
        Rung::RestartContainer => Kind::RestartContainer,
        Rung::Clone => Kind::Clone,
        Rung::Freeze => Kind::Freeze,
    }
}

impl Budgets {
    /// Counts an action that begins now.
    pub(super) fn spend_now(&mut self, now: Instant, window: Duration, container: &str) {
        self.spend(base(container), now + window);
    }
}
