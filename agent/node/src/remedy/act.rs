//! An operation from its beginning to its end: on disk, done, seen to have helped.
//!
//! ```text
//!  begin ─▶ Keeping ─(on disk)─▶ Acting ─(done)─▶ Verifying ─(well in time)─▶ done
//!  begin ─▶ Settling ─(on disk, and done)─▶ done         freeze, release, drain, undrain
//! ```
//! A crash in between finds the operation on disk. What it was about is then seen anew: see [`Remedy::resume_operations`].

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use ringmesh_proto::{
    Instant, Now,
    peer::Instance,
    v1::{
        Operation,
        event::Severity,
        operation::{Kind, State},
    },
};

use super::{
    Act, Around, Due, Effect, Failure, RETRY, Remedy, Rung, base, hold::hold, next_name, operation::words, pool,
};
use crate::health::spec::{
    Check, CheckId, ContainerSpec, ContainerState, ContainerStatus, ProbeReply, ProbeRequest, Purpose,
};

/// A driver that has not done it by then will not: longer than its own patience.
const MAX_ACT: Duration = Duration::from_secs(90);

/// A restart command has its own timeout; so much later its outcome must be known.
const GRACE: Duration = Duration::from_secs(10);

/// While it is to be seen whether something has helped, its services are probed so often.
const HURRY: Duration = Duration::from_millis(300);

/// To the first of these probes: a process needs some time to listen.
const FIRST_LOOK: Duration = Duration::from_millis(50);

/// After a restart of this agent, for states and verdicts to come in.
const FIND_OUT: Duration = Duration::from_secs(5);

/// An operation that is running.
#[derive(Debug)]
pub(super) struct Running {
    stage: Stage,
    /// When it has failed.
    deadline: Instant,
    /// Of a clone: what it is to replace, until that is gone.
    old: Option<Box<Old>>,
    /// Begun by an earlier life of this agent, which may have ended when the old one was gone and no new one there.
    half_done: bool,
}

/// A container that a clone is to replace: what is watched again if the clone cannot be made.
#[derive(Clone, Debug)]
pub(super) struct Old {
    /// What stood in its place; `None` if that was itself.
    instance: Option<Instance>,
    spec: ContainerSpec,
    /// The newest that its runtime said.
    status: ContainerStatus,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// It is begun when this version is on disk.
    Keeping(u64),
    /// It is being done.
    Acting,
    /// It was done, and must help.
    Verifying,
    /// It is done and must be on disk, in whatever order.
    Settling { version: Option<u64>, acted: bool },
}

impl Remedy {
    /// Begins an operation that is proposed or was just made.
    pub(super) fn begin(&mut self, now: Now, around: &Around<'_>, id: &str) {
        let begun = self.operations.edit(id, |operation| {
            operation.state = State::Running as i32;
            operation.started_at = Some(now.unix.into());
        });
        let Some(operation) = begun else { return };
        if operation.automatic {
            self.budgets.spend_now(now.instant, self.settings.limits.window, &operation.container);
        }
        let version = self.next_version();
        let container = operation.container.clone();
        let mut old = None;
        let stage = match operation.kind() {
            // It needs not be on disk first: to run its command once more does no harm.
            Kind::RestartService => Stage::Acting,
            Kind::RestartContainer => Stage::Keeping(version),
            Kind::Clone => {
                old = self.prepare_clone(around, id, &container);
                Stage::Keeping(version)
            }
            Kind::Freeze => {
                if !self.is_held(&container) {
                    let why = operation.evidence.as_ref().map_or(operation.reason.clone(), |e| e.answer.clone());
                    self.take_hold(now, &container, hold(now, &operation.who, &why, None));
                }
                let acted = !self.freezes(around, &container);
                // Also if there is nothing to pause: it must not be started by itself.
                self.act(id, Act::Freeze { container: container.clone() });
                Stage::Settling { version: Some(version), acted }
            }
            Kind::Release => {
                self.drop_hold(now, &container);
                self.act(id, Act::Release { container: container.clone() });
                Stage::Settling { version: Some(version), acted: false }
            }
            Kind::Undrain => {
                self.set_drain(now, None);
                Stage::Settling { version: Some(version), acted: true }
            }
            Kind::Drain | Kind::None => Stage::Settling { version: Some(version), acted: true },
        };
        let operation = self.operations.get(id).cloned().unwrap_or(operation);
        self.set_running(now, around, id, stage, old);
        self.tell("operation-started", Severity::Info, &operation);
        self.mark(&container);
        if operation.kind() == Kind::RestartService {
            self.run(now, around, &operation);
        }
    }

    fn set_running(&mut self, now: Now, around: &Around<'_>, id: &str, stage: Stage, old: Option<Box<Old>>) {
        let command = self.operations.get(id).filter(|operation| operation.kind() == Kind::RestartService);
        let patience = command.map_or(MAX_ACT, |operation| {
            MAX_ACT.max(self.step(around, &operation.container, Rung::RestartService).timeout + GRACE)
        });
        self.set_stage(now, id, stage, patience, old);
    }

    fn set_stage(&mut self, now: Now, id: &str, stage: Stage, patience: Duration, old: Option<Box<Old>>) {
        let deadline = now.instant + patience;
        self.running.insert(id.to_owned(), Running { stage, deadline, old, half_done: false });
        self.timers.set(Due::Operation(id.to_owned()), deadline);
    }

    fn act(&mut self, operation: &str, act: Act) {
        self.effects.push_back(Effect::Act { operation: operation.to_owned(), act });
    }

    /// Whether there is something to pause.
    fn freezes(&self, around: &Around<'_>, container: &str) -> bool {
        let can = around.health.spec(container).is_some_and(|spec| spec.verbs.pause);
        can && around.health.condition(container).is_some_and(|condition| condition.state == ContainerState::Running)
    }

    /// Runs a restart command.
    fn run(&mut self, now: Now, around: &Around<'_>, operation: &Operation) {
        let id = &operation.id;
        let Some((service, place)) = around.health.service(&operation.container, &operation.service) else {
            return self.fail(now, around, id, "the service is gone");
        };
        if service.restart.is_empty() {
            return self.fail(now, around, id, "there is no restart command");
        }
        self.effects.push_back(Effect::Unjudge { container: operation.container.clone() });
        self.commands += 1;
        let check = CheckId::new(Purpose::Command, self.commands);
        self.execs.insert(check, id.clone());
        let step = self.step(around, &operation.container, Rung::RestartService);
        self.effects.push_back(Effect::Exec(ProbeRequest {
            id: check,
            check: Check::Exec { argv: service.restart.clone() }.into(),
            pid: place.pid,
            netns: place.netns,
            timeout: step.timeout,
            max_latency: None,
        }));
    }

    /// Another container takes the place of this one.
    fn prepare_clone(&mut self, around: &Around<'_>, id: &str, container: &str) -> Option<Box<Old>> {
        let (spec, status) = (around.health.spec(container)?, around.health.status(container)?);
        let (name, address) = (next_name(container), self.new_address(around, spec));
        let place = base(container).to_owned();
        let before = self.instances.get(&place).cloned();
        let old = Box::new(Old { instance: before.clone(), spec: spec.clone(), status: status.clone() });
        let kept = before.as_ref().map(|instance| instance.address.clone()).unwrap_or_default();
        let instance =
            Instance { name: name.clone(), address: address.clone().unwrap_or(kept), replaces: container.to_owned() };
        self.instances.insert(place, instance);
        let address = address.unwrap_or_else(|| spec.address.clone());
        self.operations.edit(id, |operation| operation.replacement.clone_from(&name));
        self.rename(container, &name);
        let spec = Box::new(ContainerSpec { name: name.clone(), address, ..spec.clone() });
        self.effects.push_back(Effect::Replace { old: container.to_owned(), spec });
        self.mark(&name);
        Some(old)
    }

    /// From the pools of its tenant. Without one, and when none is free, a clone has the address of what it replaces.
    fn new_address(&self, around: &Around<'_>, spec: &ContainerSpec) -> Option<String> {
        let (like, length) = pool::split(&spec.address)?;
        let pools = self.settings.pools.iter().filter(|pool| pool.tenant == spec.tenant);
        // Of clones that are only being made too, and of what they replace, which may still run.
        let instances = self.instances.values().map(|instance| instance.address.as_str());
        let olds = self.running.values().filter_map(|running| Some(running.old.as_ref()?.spec.address.as_str()));
        let used = around.health.addresses().chain(instances).chain(olds);
        let used: BTreeSet<IpAddr> = used.filter_map(|address| Some(pool::split(address)?.0)).collect();
        let free = pools.into_iter().find_map(|pool| pool.pick(like, &used))?;
        Some(format!("{free}/{length}"))
    }

    /// A clone was not made, and what it was to replace is still there.
    fn roll_back(&mut self, operation: &Operation, old: Old) {
        let (name, new) = (&operation.container, &operation.replacement);
        let place = base(name).to_owned();
        match old.instance {
            Some(instance) => self.instances.insert(place, instance),
            None => self.instances.remove(&place),
        };
        self.rename(new, name);
        self.effects.push_back(Effect::Replace { old: new.clone(), spec: Box::new(old.spec) });
        self.effects.push_back(Effect::Status(Box::new(old.status)));
        self.operations.edit(&operation.id, |operation| operation.replacement.clear());
        self.changed();
    }

    /// The clone that is being made of this container, or is to become it, while only its runtime knows which of both is there.
    pub(super) fn cloning(&self, container: &str) -> Option<&Operation> {
        let acting = |(id, running): (&'_ String, &Running)| {
            matches!(running.stage, Stage::Keeping(_) | Stage::Acting).then(|| id.clone())
        };
        let ids = self.running.iter().filter_map(acting).chain(self.late.keys().cloned());
        let mut clones = ids.filter_map(|id| self.operations.get(&id)).filter(|o| o.kind() == Kind::Clone);
        clones.find(|clone| clone.container == container || clone.replacement == container)
    }

    /// What a runtime says of a container that is not watched: a clone that is being made has its place.
    pub(crate) fn note_status(&mut self, status: &ContainerStatus) {
        let olds = self.running.values_mut().filter_map(|running| running.old.as_mut()).chain(self.late.values_mut());
        for old in olds.filter(|old| old.spec.name == status.name) {
            old.status = status.clone();
        }
    }

    /// What a clone was to replace is gone.
    fn replaced(&mut self, operation: &Operation) {
        if let Some(instance) = self.instances.get_mut(base(&operation.container))
            && instance.name == operation.replacement
            && !instance.replaces.is_empty()
        {
            instance.replaces.clear();
            self.changed();
        }
    }

    /// This version is on disk, or cannot be written.
    pub(crate) fn handle_kept(&mut self, now: Now, around: &Around<'_>, version: u64, result: &Result<(), String>) {
        let was = std::mem::replace(&mut self.unwritable, result.is_err());
        if result.is_err() {
            self.timers.set_earlier(Due::Retry, now.instant + RETRY);
        } else if was {
            self.timers.set(Due::Retry, now.instant);
        }
        let waits = |running: &Running| match running.stage {
            Stage::Keeping(wanted) | Stage::Settling { version: Some(wanted), .. } => wanted <= version,
            Stage::Settling { version: None, .. } | Stage::Acting | Stage::Verifying => false,
        };
        let ids: Vec<String> = self.running.iter().filter(|(_, r)| waits(r)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            let Some(operation) = self.operations.get(&id).cloned() else { continue };
            match (operation.kind(), result) {
                (Kind::RestartContainer | Kind::Clone, _) => self.kept(now, around, &operation, result),
                (_, Ok(())) => {
                    if let Some(Running { stage: Stage::Settling { version, .. }, .. }) = self.running.get_mut(&id) {
                        *version = None;
                    }
                    self.settled(now, around, &id);
                }
                (_, Err(error)) => {
                    let text = format!("it is so, but a restart of the agent would forget it: {error}");
                    self.fail(now, around, &id, &text);
                }
            }
        }
    }

    /// A container is made anew once that is on disk. What cannot be written down is not begun: most of what runs containers could
    /// not write down its own part either, and would leave nothing in their place.
    fn kept(&mut self, now: Now, around: &Around<'_>, operation: &Operation, result: &Result<(), String>) {
        let (id, container) = (&operation.id, operation.container.clone());
        if operation.kind() == Kind::Clone && operation.replacement.is_empty() {
            return self.fail(now, around, id, "the container is not configured any more");
        }
        let act = match (operation.kind(), result) {
            (_, Err(error)) => {
                if let Some(old) = self.running.get_mut(id).and_then(|running| running.old.take()) {
                    self.roll_back(operation, *old);
                }
                let text = format!("not begun, because it cannot be written down: {error}");
                self.fail(now, around, id, &text);
                return self.untry(now, operation);
            }
            (Kind::Clone, Ok(())) => {
                let instance = self.instances.get(base(&container)).cloned().unwrap_or_default();
                let address = Some(instance.address).filter(|address| !address.is_empty());
                Act::Clone { container, to: operation.replacement.clone(), address }
            }
            _ => {
                self.effects.push_back(Effect::Unjudge { container: container.clone() });
                Act::Restart { container }
            }
        };
        if let Some(running) = self.running.get_mut(id) {
            running.stage = Stage::Acting;
        }
        self.act(id, act);
    }

    /// What came of an [`Act`].
    pub(crate) fn handle_done(&mut self, now: Now, around: &Around<'_>, id: &str, result: Result<(), Failure>) {
        let Some(operation) = self.operations.get(id).cloned() else { return };
        let removed = result.as_ref().map_or_else(|failure| failure.removed, |()| true);
        if removed && operation.kind() == Kind::Clone {
            self.replaced(&operation);
        }
        let late = self.late.remove(id).filter(|_| !removed);
        let Some(running) = self.running.get_mut(id) else {
            if let Some(old) = late {
                self.roll_back(&operation, *old);
            }
            return;
        };
        match (&mut running.stage, result) {
            (Stage::Settling { acted, .. }, Ok(())) => {
                *acted = true;
                self.settled(now, around, id);
            }
            (Stage::Settling { .. }, Err(failure)) if operation.kind() == Kind::Freeze => {
                let text = format!("automatic action is held back, but it could not be paused: {}", failure.text);
                self.fail(now, around, id, &text);
            }
            (Stage::Settling { .. }, Err(failure)) => self.fail(now, around, id, &failure.text),
            (Stage::Acting, Ok(())) => self.acted(now, around, id),
            (Stage::Acting, Err(failure)) => {
                if let Some(old) = running.old.take().filter(|_| !failure.removed) {
                    self.roll_back(&operation, *old);
                }
                self.fail(now, around, id, &failure.text);
                if failure.unreachable && !failure.removed {
                    self.untry(now, &operation);
                }
            }
            (Stage::Keeping(_) | Stage::Verifying, _) => {}
        }
    }

    /// What came of a restart command; `None`: it could not be run now.
    pub(crate) fn handle_exec(&mut self, now: Now, around: &Around<'_>, check: CheckId, reply: Option<&ProbeReply>) {
        let Some(id) = self.execs.remove(&check) else { return };
        match reply {
            Some(reply) if reply.sign.is_right() => self.acted(now, around, &id),
            Some(reply) => self.fail(now, around, &id, &format!("its restart command failed: {}", reply.answer)),
            None => self.not_run(now, around, &id),
        }
    }

    /// There was no room for a restart command. That is no attempt.
    fn not_run(&mut self, now: Now, around: &Around<'_>, id: &str) {
        let Some(operation) = self.operations.get(id).cloned() else { return };
        self.fail(now, around, id, "too many programs run, its restart command was not");
        self.untry(now, &operation);
    }

    /// It was done: now it must help.
    fn acted(&mut self, now: Now, around: &Around<'_>, id: &str) {
        let Some(operation) = self.operations.get(id).cloned() else { return };
        let target = target(&operation);
        if self.is_held(target) {
            return self.fail(now, around, id, "its container was frozen meanwhile");
        }
        let step = self.step(around, target, rung(operation.kind()));
        let Some(running) = self.running.get_mut(id) else { return };
        (running.stage, running.old) = (Stage::Verifying, None);
        running.deadline = now.instant + step.timeout;
        self.timers.set(Due::Operation(id.to_owned()), now.instant + FIRST_LOOK + HURRY);
        self.operations.edit(id, |operation| operation.progress = "done; it is to be seen whether it helps".to_owned());
        self.changed();
        self.effects.push_back(Effect::Hurry { container: target.to_owned(), after: FIRST_LOOK });
        if operation.kind() != Kind::Clone {
            self.verify(now, around, id);
        }
    }

    /// The operation on this container that waits to be seen to have helped.
    pub(super) fn verifying(&self, container: &str) -> Option<String> {
        let of = |id: &&String| self.operations.get(id).is_some_and(|operation| target(operation) == container);
        let verifying = self.running.iter().filter(|(_, running)| running.stage == Stage::Verifying).map(|(id, _)| id);
        verifying.into_iter().find(of).cloned()
    }

    /// Has it helped?
    pub(super) fn verify(&mut self, now: Now, around: &Around<'_>, id: &str) {
        let Some(operation) = self.operations.get(id).cloned() else { return };
        let Some(deadline) = self.running.get(id).map(|running| running.deadline) else { return };
        let target = target(&operation);
        let Some(condition) = around.health.condition(target) else {
            return self.fail(now, around, id, "the container is not configured any more");
        };
        if condition.state == ContainerState::Running {
            self.replaced(&operation);
        }
        if self.is_held(target) {
            self.fail(now, around, id, "its container was frozen meanwhile");
        } else if condition.well {
            self.succeed(now, around, id, "it is well");
        } else if condition.ended && condition.state == ContainerState::Stopped {
            self.stopped(now, around, &operation);
        } else if deadline <= now.instant {
            let why =
                condition.failing.first().map(|failing| format!("{} answers: {}", failing.service, failing.answer));
            let why = why.or(condition.problem).unwrap_or_else(|| "no verdict yet".into());
            self.fail(now, around, id, &format!("done, but it is not well in time: {why}"));
        }
    }

    /// What was to be made well has stopped.
    fn stopped(&mut self, now: Now, around: &Around<'_>, operation: &Operation) {
        if operation.kind() != Kind::RestartContainer || !self.do_again(now, around, operation) {
            self.fail(now, around, &operation.id, "it has stopped again");
        }
    }

    /// Does what was half done when an earlier life of this agent ended; false if there is no such thing.
    fn do_again(&mut self, now: Now, around: &Around<'_>, operation: &Operation) -> bool {
        let (id, kind) = (&operation.id, operation.kind());
        let half_done = self.running.get(id).is_some_and(|running| running.half_done);
        if !half_done || !matches!(kind, Kind::RestartService | Kind::RestartContainer) {
            return false;
        }
        self.set_running(now, around, id, Stage::Acting, None);
        if kind == Kind::RestartService {
            self.run(now, around, operation);
        } else {
            self.act(id, Act::Restart { container: operation.container.clone() });
        }
        true
    }

    /// The time of an operation has come.
    pub(super) fn operation_due(&mut self, now: Now, around: &Around<'_>, id: &str) {
        let Some(running) = self.running.get(id) else { return };
        if running.stage != Stage::Verifying {
            return self.timed_out(now, around, id);
        }
        self.verify(now, around, id);
        // A container that runs was made anew or not touched; of a command that cannot be told.
        if let Some(operation) = self.operations.get(id).cloned()
            && operation.kind() == Kind::RestartService
            && self.do_again(now, around, &operation)
        {
            return;
        }
        let Some(running) = self.running.get(id) else { return };
        self.timers.set(Due::Operation(id.to_owned()), running.deadline.min(now.instant + HURRY));
        if let Some(container) = self.operations.get(id).map(|operation| target(operation).to_owned()) {
            self.effects.push_back(Effect::Hurry { container, after: Duration::ZERO });
        }
    }

    /// Neither disk nor runtime has answered. What a runtime does to a clone after that, it will say.
    fn timed_out(&mut self, now: Now, around: &Around<'_>, id: &str) {
        let Some(Running { stage, old, .. }) = self.running.get_mut(id) else { return };
        let (keeping, old) = (matches!(stage, Stage::Keeping(_)), old.take());
        if let Some(old) = old {
            match self.operations.get(id).cloned() {
                Some(operation) if keeping => self.roll_back(&operation, *old),
                _ => _ = self.late.insert(id.to_owned(), old),
            }
        }
        let who = if keeping { "the disk" } else { "the runtime" };
        self.fail(now, around, id, &format!("{who} did not answer in time"));
    }

    fn settled(&mut self, now: Now, around: &Around<'_>, id: &str) {
        let done = |running: &Running| running.stage == Stage::Settling { version: None, acted: true };
        if !self.running.get(id).is_some_and(done) {
            return;
        }
        let Some(operation) = self.operations.get(id) else { return };
        let spec = around.health.spec(&operation.container);
        let text = match (operation.kind(), spec) {
            (Kind::Freeze, Some(spec)) if !spec.verbs.pause => {
                format!("automatic action is held back; it runs on, the driver {} cannot pause it", spec.driver)
            }
            (Kind::Freeze, _) => "frozen".to_owned(),
            (Kind::Release, _) => "released".to_owned(),
            (_, _) => String::new(),
        };
        self.succeed(now, around, id, &text);
    }

    fn succeed(&mut self, now: Now, around: &Around<'_>, id: &str, progress: &str) {
        self.conclude(now, around, id, State::Done, progress);
    }

    fn fail(&mut self, now: Now, around: &Around<'_>, id: &str, progress: &str) {
        self.conclude(now, around, id, State::Failed, progress);
    }

    fn conclude(&mut self, now: Now, around: &Around<'_>, id: &str, state: State, progress: &str) {
        let Some(operation) = self.end(now, id, state, progress) else { return };
        self.execs.retain(|_, of| of != id);
        let target = target(&operation).to_owned();
        // What is frozen is no patient any more.
        self.climbed(now, around, &target, id, state == State::Done);
        self.timers.set(Due::Retry, now.instant);
    }

    /// After a restart of this agent. What was being done may be done, or not, or by half; the runtime puts what was begun to
    /// an end, and here it is seen whether that has helped.
    pub(super) fn resume_operations(&mut self, now: Now) {
        let open: Vec<Operation> = self.operations.open().filter(|o| o.state() == State::Running).cloned().collect();
        for operation in open {
            let id = &operation.id;
            let container = operation.container.clone();
            let stage = match operation.kind() {
                Kind::RestartService | Kind::RestartContainer | Kind::Clone => Stage::Verifying,
                Kind::Freeze => {
                    self.act(id, Act::Freeze { container });
                    Stage::Settling { version: None, acted: false }
                }
                Kind::Release => {
                    self.act(id, Act::Release { container });
                    Stage::Settling { version: None, acted: false }
                }
                Kind::None | Kind::Drain | Kind::Undrain => Stage::Settling { version: None, acted: true },
            };
            let text =
                format!("the agent ended in the middle of the {}; it goes on with what is there", words(&operation));
            self.operations.edit(id, |operation| operation.progress = text);
            self.set_stage(now, id, stage, MAX_ACT, None);
            let step = super::Step::of(rung(operation.kind()));
            if let Some(running) = self.running.get_mut(id).filter(|running| running.stage == Stage::Verifying) {
                running.deadline = now.instant + FIND_OUT + step.timeout;
                running.half_done = true;
                self.timers.set(Due::Operation(id.clone()), now.instant + FIND_OUT);
            }
            self.mark(&operation.container);
            self.mark(&operation.replacement);
        }
    }

    fn step(&self, around: &Around<'_>, container: &str, rung: Rung) -> super::Step {
        let policy = around.health.spec(container).map(|spec| self.settings.policy(&spec.labels));
        policy.map_or_else(|| super::Step::of(rung), |policy| policy.step(rung))
    }
}

/// The container that an operation is to make well.
fn target(operation: &Operation) -> &str {
    if operation.replacement.is_empty() { &operation.container } else { &operation.replacement }
}

fn rung(kind: Kind) -> Rung {
    match kind {
        Kind::RestartService => Rung::RestartService,
        Kind::Clone => Rung::Clone,
        Kind::Freeze => Rung::Freeze,
        Kind::None | Kind::RestartContainer | Kind::Release | Kind::Drain | Kind::Undrain => Rung::RestartContainer,
    }
}
