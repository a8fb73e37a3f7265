//! Repair: what is done to containers that are sick, within which bounds, and what operators order and hold back.
//!
//! ```text
//!  verdicts, states ──▶ ladder ──▶ gate: holds, drain, arming, budgets ──▶ operation ──▶ Act ──▶ agentd
//!  operators' orders ───────────────────────────────────────────────────▶     │    ◀── done, well, kept on disk
//! ```
//!
//! It owns operations, holds and ladders. It does not know how a container is restarted, nor how verdicts come about: it
//! reads them from [`Health`]. Every action is an operation, and what must survive a crash is on disk before it is begun.

mod act;
mod budget;
mod hold;
mod ladder;
mod operation;
mod orders;
mod pool;
mod settings;
#[cfg(test)]
mod tests;
mod timers;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use ringmesh_proto::{
    Generation, HostId, Instant, Now,
    peer::{ArmingRecord, Instance, RepairState, Rung as Climbed},
    v1::{self, Hold, Operation, event::Severity, operation::State},
};

pub use budget::{Limits, Share};
pub use operation::has_ended;
pub use orders::{Code, Refused};
pub use pool::Pool;
pub use settings::{Mode, Policy, Rung, Settings, Step};

use act::{Old, Running};
use budget::Budgets;
use ladder::{Patient, Phase};
use operation::{Operations, words};
use timers::{Due, Timers};

use crate::health::{
    Health, Marks,
    spec::{CheckId, ContainerSpec, ContainerStatus, ProbeRequest},
};

/// The most bytes of an event's text.
const MAX_TEXT: usize = 480;

/// After a pause of this process, or when this host was cut off, verdicts are believed again after so long: by then most
/// were made anew.
const SETTLE: Duration = Duration::from_secs(5);

/// While repair has stopped, or waits for a time that is over, it looks so often whether it may go on. What could not be written
/// down is given out again as often.
const RETRY: Duration = Duration::from_secs(1);

/// What `agentd` is to do to a container. It says what came of it in [`crate::Node::handle_act_done`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Kill it and make it anew.
    Restart {
        /// Which.
        container: String,
    },
    /// Remove it, and start another of the same template.
    Clone {
        /// Which.
        container: String,
        /// The new one's name.
        to: String,
        /// The new one's address with prefix length, if it is another.
        address: Option<String>,
    },
    /// Pause it if it runs, and do nothing to it by itself until [`Act::Release`].
    Freeze {
        /// Which.
        container: String,
    },
    /// Let it go on.
    Release {
        /// Which.
        container: String,
    },
}

/// Why an [`Act`] was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In one line.
    pub text: String,
    /// Of a clone: the old container is gone all the same.
    pub removed: bool,
    /// Nobody was there to do it: the runtime's daemon did not answer.
    pub unreachable: bool,
}

/// What is outside of repair, and that it looks at.
pub(crate) struct Around<'a> {
    pub(crate) health: &'a Health,
    /// This host takes itself for cut off.
    pub(crate) isolated: bool,
    /// Of all services of the zone, as far as digests tell.
    pub(crate) zone: &'a dyn Fn() -> Share,
}

/// What repair wants from its host.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Have it done.
    Act { operation: String, act: Act },
    /// Run a service's restart command.
    Exec(ProbeRequest),
    /// Tell all.
    Tell(Box<v1::Event>),
    /// Remember this of a container, if there is one of this name.
    Note { container: String, what: String },
    /// Show this container so.
    Mark { container: String, marks: Marks },
    /// This container takes the place of that one.
    Replace { old: String, spec: Box<ContainerSpec> },
    /// That is how a container is, as its runtime said before it was watched.
    Status(Box<ContainerStatus>),
    /// What is known of its services is over: it is made anew.
    Unjudge { container: String },
    /// Probe a container after so long.
    Hurry { container: String, after: Duration },
    /// What this host says of itself has changed.
    Record,
}

/// All repair of one host.
pub(crate) struct Remedy {
    settings: Settings,
    operations: Operations,
    /// Those that are running, by id.
    running: BTreeMap<String, Running>,
    /// What clones were to replace of which the runtime has not said in time what came of them, by operation.
    late: BTreeMap<String, Box<Old>>,
    /// Restart commands that are running.
    execs: BTreeMap<CheckId, String>,
    commands: u64,
    holds: BTreeMap<String, Hold>,
    drain: Option<Hold>,
    arming: Option<ArmingRecord>,
    /// By container.
    patients: BTreeMap<String, Patient>,
    /// Of these, those that wait for something else than a time.
    waiting: BTreeSet<String>,
    /// Containers that are sick now.
    sick: BTreeSet<String>,
    budgets: Budgets,
    /// By the name in the configuration.
    instances: BTreeMap<String, Instance>,
    timers: Timers,
    /// Orders that were obeyed: by the number that the asker drew, which operation it became.
    obeyed: VecDeque<(u64, String)>,
    /// Why repair has stopped on this host.
    stopped: Option<String>,
    distrusts_until: Option<Instant>,
    was_isolated: bool,
    /// Of what was last given out to be kept.
    version: u64,
    /// It could not be written: until it can be, nothing is begun that must be.
    unwritable: bool,
    dirty: bool,
    effects: VecDeque<Effect>,
    revision: u64,
}

impl Remedy {
    /// Goes on with what an earlier life of this host has left.
    pub(crate) fn new(now: Now, me: HostId, born: Generation, settings: Settings, left: RepairState) -> Self {
        let mut remedy = Self {
            settings,
            operations: Operations::new(me, born, left.operations),
            running: BTreeMap::new(),
            late: BTreeMap::new(),
            execs: BTreeMap::new(),
            commands: 0,
            holds: left.holds,
            drain: left.drain,
            arming: left.arming,
            patients: BTreeMap::new(),
            waiting: BTreeSet::new(),
            sick: BTreeSet::new(),
            budgets: Budgets::default(),
            instances: left.instances,
            timers: Timers::default(),
            obeyed: VecDeque::new(),
            stopped: None,
            distrusts_until: None,
            was_isolated: false,
            version: 0,
            unwritable: false,
            dirty: false,
            effects: VecDeque::new(),
            revision: 0,
        };
        remedy.resume_holds(now);
        remedy.resume_ladders(now, left.ladders);
        remedy.resume_operations(now);
        remedy
    }

    /// A container may have become better or worse.
    pub(crate) fn assess(&mut self, now: Now, around: &Around<'_>, container: &str) {
        self.judge(now, around, container);
    }

    /// To be called when anything may have changed.
    pub(crate) fn settle(&mut self, now: Now, around: &Around<'_>) {
        if self.was_isolated && !around.isolated {
            self.distrust(now.instant);
        }
        self.was_isolated = around.isolated;
        while let Some(due) = self.timers.take_due(now.instant) {
            match due {
                Due::Patient(container) => self.patient_due(now, around, &container),
                Due::Operation(id) => self.operation_due(now, around, &id),
                Due::Hold(container) => self.hold_ends(now, around, &container),
                Due::Drain => self.drain_ends(now, around),
                Due::Arming => self.arming_ends(now, around),
                Due::Retry => self.retry(now, around),
            }
        }
    }

    /// This process did not run for a while, or this host was cut off: what was judged meanwhile may be wrong.
    pub(crate) fn distrust(&mut self, now: Instant) {
        self.distrusts_until = Some(now + SETTLE);
        self.timers.set(Due::Retry, now + SETTLE);
    }

    /// Whether nothing is known of a container: no ladder, no hold, no operation that has not ended.
    pub(crate) fn knows_nothing_of(&self, container: &str) -> bool {
        let known = self.patients.contains_key(container) || self.is_held(container) || self.sick.contains(container);
        !known && self.operations.open().all(|o| o.container != container && o.replacement != container)
    }

    /// When [`Self::settle`] is next wanted.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// What is to be done.
    pub(crate) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// What is to be kept on disk, if that has changed, and its number for [`Self::handle_kept`].
    pub(crate) fn poll_keep(&mut self) -> Option<(u64, Arc<RepairState>)> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        self.version += 1;
        let climbed = |(name, patient): (&String, &Patient)| (name.clone(), patient.climbed());
        let state = RepairState {
            holds: self.holds.clone(),
            drain: self.drain.clone(),
            arming: self.arming.clone(),
            operations: self.operations.all().iter().map(|operation| Operation::clone(operation)).collect(),
            instances: self.instances.clone(),
            ladders: self.patients.iter().map(climbed).filter(|(_, ladder)| *ladder != Climbed::default()).collect(),
        };
        Some((self.version, Arc::new(state)))
    }

    /// The container that stands in the place of the one that is configured under this name.
    pub(crate) fn stands_for<'a>(&'a self, configured: &'a str) -> &'a str {
        self.instances.get(configured).map_or(configured, |instance| &instance.name)
    }

    /// Counts what a query would show.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// All operations, the newest last.
    pub(crate) fn operations(&self) -> Vec<Arc<Operation>> {
        self.operations.all()
    }

    /// The number of a version that is not kept yet.
    fn next_version(&mut self) -> u64 {
        self.changed();
        self.version + 1
    }

    fn changed(&mut self) {
        self.dirty = true;
        self.revision += 1;
    }

    /// Shows a container as it is held and worked on now.
    fn mark(&mut self, container: &str) {
        if container.is_empty() {
            return;
        }
        let mut on = self.operations.open().filter(|o| o.container == container || o.replacement == container);
        let operation = on.next().map(|operation| operation.id.clone()).unwrap_or_default();
        let marks = Marks { hold: self.holds.get(container).cloned().map(Arc::new), operation };
        self.effects.push_back(Effect::Mark { container: container.to_owned(), marks });
    }

    /// Tells of an operation.
    fn tell(&mut self, kind: &str, severity: Severity, operation: &Operation) {
        let because = operation.evidence.as_ref().map(|evidence| {
            let service = &operation.service;
            let what = if service.is_empty() { String::new() } else { format!("{service} is critical: ") };
            format!("; {what}{}", evidence.answer)
        });
        let how = [&operation.progress, &operation.reason].into_iter().filter(|text| !text.is_empty());
        let how: Vec<&str> = how.map(String::as_str).collect();
        let how = if how.is_empty() { String::new() } else { format!(": {}", how.join("; ")) };
        let by = if operation.automatic { String::new() } else { format!("; by {}", operation.who) };
        let text = format!("{}{how}{}{by}", words(operation), because.unwrap_or_default());
        // Of a clone and what it replaces, there is one at a time.
        for container in [&operation.container, &operation.replacement] {
            let what = format!("{}: {text}", kind.trim_start_matches("operation-"));
            self.effects.push_back(Effect::Note { container: container.clone(), what });
        }
        self.effects.push_back(Effect::Tell(Box::new(v1::Event {
            kind: kind.to_owned(),
            container: operation.container.clone(),
            service: operation.service.clone(),
            severity: severity as i32,
            operation: operation.id.clone(),
            text: cut(text),
            ..v1::Event::default()
        })));
    }

    /// Tells of repair as a whole.
    fn tell_all(&mut self, kind: &str, severity: Severity, text: String) {
        let event =
            v1::Event { kind: kind.to_owned(), severity: severity as i32, text: cut(text), ..v1::Event::default() };
        self.effects.push_back(Effect::Tell(Box::new(event)));
    }

    /// Makes an operation that is not running yet.
    fn make(&mut self, now: Now, operation: Operation) -> String {
        self.changed();
        let container = operation.container.clone();
        let id = self.operations.add(Operation { created_at: Some(now.unix.into()), ..operation });
        self.mark(&container);
        id
    }

    /// Ends an operation and says how.
    fn end(&mut self, now: Now, id: &str, state: State, progress: &str) -> Option<Operation> {
        self.running.remove(id);
        self.timers.cancel(&Due::Operation(id.to_owned()));
        self.changed();
        let operation = self.operations.end(id, now.unix, state, progress)?;
        let (kind, severity) = match state {
            State::Done => ("operation-done", Severity::Info),
            State::Refused => ("operation-refused", Severity::Info),
            State::Failed | State::Unknown | State::Proposed | State::Held | State::Running => {
                ("operation-failed", Severity::Warning)
            }
        };
        self.tell(kind, severity, &operation);
        self.mark(&operation.container);
        self.mark(&operation.replacement);
        Some(operation)
    }
}

/// The name in the configuration of a container or of one of its clones: names there have no dots.
pub fn base(container: &str) -> &str {
    container.split('.').next().unwrap_or(container)
}

/// The name of the next clone: "web", "web.1", "web.2". A dot, because every runtime takes it.
fn next_name(container: &str) -> String {
    let number: u64 = container.split_once('.').and_then(|(_, number)| number.parse().ok()).unwrap_or(0);
    format!("{}.{}", base(container), number.saturating_add(1))
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
