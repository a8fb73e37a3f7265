//! The containers of a host: what becomes of them when its agent repairs them. They live on when the agent ends.
//!
//! It plays the runtime and the hands of repair: what is done takes its time, and is half done when the agent ends in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Included, Unbounded},
    sync::Arc,
    time::Duration,
};

use ringmesh_node::{
    health::spec::{Check, ContainerSpec, ContainerState, ContainerStatus, ProbeReply, ProbeRequest, Sign},
    remedy::{Act, Settings, base},
};
use ringmesh_proto::{
    Instant,
    peer::{OrderRequest, RepairState},
    v1::Operation,
};

use super::{HostIndex, World, deliver::Event, fleet::ANSWER};
use crate::fleet::How;

/// What makes an ill container well: the milder does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cure {
    /// Its service's restart command.
    Command,
    /// Its restart.
    Restart,
    /// A clone in its place.
    Clone,
    /// None.
    Nothing,
}

/// A container that exists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Container {
    state: ContainerState,
    pid: u32,
}

/// Something that a host's agent did to a container.
#[derive(Clone, Debug)]
pub struct Acted {
    /// When it was begun.
    pub at: Instant,
    /// What it was.
    pub act: Act,
    /// The host took itself for cut off.
    pub isolated: bool,
}

/// Containers and what was done to them.
#[derive(Default)]
pub(crate) struct Runtime {
    containers: BTreeMap<String, Container>,
    /// By its process.
    names: BTreeMap<u32, String>,
    /// Of an implicit fleet: those of which something is kept, by number.
    pub(super) awake: BTreeSet<u32>,
    /// By the name in the configuration: whose services answer wrongly, and until when.
    ills: BTreeMap<String, (How, Cure)>,
    /// By the name in the configuration: who hangs, and gives no sign of life.
    mute: BTreeSet<String>,
    next_pid: u32,
    acted: Vec<Acted>,
    /// What a restart of the agent finds.
    kept: Arc<RepairState>,
}

impl Runtime {
    fn make(&mut self, name: &str) {
        self.next_pid += 1;
        self.make_as(name, self.next_pid);
    }

    /// One of the first containers of an implicit fleet exists, and has this process.
    pub(super) fn make_as(&mut self, name: &str, pid: u32) {
        self.remove(name);
        let container = Container { state: ContainerState::Running, pid };
        self.containers.insert(name.to_owned(), container);
        self.names.insert(pid, name.to_owned());
    }

    /// So many processes are those of an implicit fleet.
    pub(super) fn reserve(&mut self, containers: u32) {
        self.next_pid = containers;
    }

    fn remove(&mut self, name: &str) {
        if let Some(container) = self.containers.remove(name) {
            self.names.remove(&container.pid);
        }
    }

    /// One of an implicit fleet is as all the others.
    pub(super) fn forget(&mut self, name: &str, number: u32) {
        self.remove(name);
        self.awake.remove(&number);
    }

    /// The name of a container that is there, by the one in the configuration: that of its clone, if there is one.
    pub(super) fn instance(&self, name: &str) -> String {
        let found = self.containers.range::<str, _>((Included(name), Unbounded)).next().map(|(found, _)| found);
        found.filter(|found| base(found) == name).cloned().unwrap_or_else(|| name.to_owned())
    }

    pub(super) fn ail(&mut self, name: String, how: How, cure: Cure) {
        self.ills.insert(name, (how, cure));
    }

    pub(super) fn ails_no_more(&mut self, name: &str) {
        self.ills.remove(name);
    }

    /// Whether something is wrong with a container but that its process has ended.
    pub(super) fn is_unwell(&self, name: &str) -> bool {
        self.ills.contains_key(name) || self.mute.contains(name)
    }

    /// How long a probe takes of what is not well, if that is known when it is begun.
    pub(super) fn delays(&self, pid: Option<u32>, timeout: Duration) -> Option<Duration> {
        let (name, _) = self.of(pid)?;
        match self.ills.get(base(name)) {
            _ if self.is_silent(pid) => Some(timeout),
            Some((How::Late(by), _)) => Some(by.0),
            Some(_) | None => None,
        }
    }

    pub(super) fn status(&self, name: &str) -> ContainerStatus {
        let found = self.containers.get(name);
        let state = found.map_or(ContainerState::Absent, |container| container.state);
        let runs = matches!(state, ContainerState::Running | ContainerState::Paused);
        let pid = found.map(|container| container.pid).filter(|_| runs);
        ContainerStatus { name: name.to_owned(), state, pid, ..ContainerStatus::default() }
    }

    /// What is left to do after what replaces a container was begun: see the agent's supervisor.
    fn resume(&mut self, declared: &[ContainerSpec]) {
        let kept = Arc::clone(&self.kept);
        for instance in kept.instances.values().filter(|instance| !instance.replaces.is_empty()) {
            self.remove(&instance.replaces);
        }
        for spec in declared {
            let name = kept.instances.get(&spec.name).map_or(&spec.name, |instance| &instance.name);
            if !self.containers.contains_key(name) && !kept.holds.contains_key(name) {
                self.make(name);
            }
        }
    }

    fn heal(&mut self, name: &str, by: Cure) {
        if self.ills.get(base(name)).is_some_and(|(_, cure)| *cure <= by) {
            self.ills.remove(base(name));
        }
    }

    fn pause<'a>(&mut self, name: &'a String, from: ContainerState, to: ContainerState) -> &'a String {
        if let Some(container) = self.containers.get_mut(name).filter(|container| container.state == from) {
            container.state = to;
        }
        name
    }

    fn of(&self, pid: Option<u32>) -> Option<(&String, &Container)> {
        self.containers.get_key_value(self.names.get(&pid?)?)
    }

    fn answers(&self, pid: Option<u32>, timeout: Duration) -> bool {
        let Some((name, _)) = self.of(pid).filter(|_| !self.is_silent(pid)) else { return false };
        match self.ills.get(base(name)) {
            None => true,
            Some((How::Late(by), _)) => by.0 < timeout,
            Some(_) => false,
        }
    }

    /// Whether its services answer, and wrongly.
    fn answers_wrongly(&self, pid: Option<u32>) -> bool {
        let ill = self.of(pid).and_then(|(name, _)| self.ills.get(base(name)));
        matches!(ill, Some((How::Wrong, _))) && !self.is_silent(pid)
    }

    /// Whether there is a process that says nothing.
    fn is_silent(&self, pid: Option<u32>) -> bool {
        let runs = |container: &Container| container.state == ContainerState::Running;
        self.of(pid).is_some_and(|(name, container)| !runs(container) || self.mute.contains(base(name)))
    }
}

impl World {
    /// How the hosts that are added from now on repair their containers; at first not at all.
    pub fn use_repair(&mut self, settings: Settings) {
        self.repair = settings;
    }

    /// The services of a container answer wrongly from now on, until it is made well.
    pub fn fall_ill(&mut self, host: HostIndex, container: &str, cure: Cure) {
        self.hosts[host].runtime.ail(base(container).to_owned(), How::Wrong, cure);
    }

    /// The first process of a container ends.
    pub fn end_container(&mut self, host: HostIndex, name: &str) {
        self.set_container(host, name, ContainerState::Stopped);
    }

    /// A container hangs from now on, or no longer: nobody answers a probe of it.
    pub fn mute_container(&mut self, host: HostIndex, name: &str, mute: bool) {
        let muted = &mut self.hosts[host].runtime.mute;
        if mute {
            muted.insert(base(name).to_owned())
        } else {
            muted.remove(base(name))
        };
    }

    /// Somebody else stops, starts or pauses a container, or lets it go on.
    pub fn set_container(&mut self, host: HostIndex, name: &str, state: ContainerState) {
        let now = self.time(host);
        let place = &mut self.hosts[host];
        match place.runtime.containers.get_mut(name) {
            Some(container) if container.state == ContainerState::Stopped && state == ContainerState::Running => {
                place.runtime.make(name);
            }
            Some(container) => container.state = state,
            None => return,
        }
        let status = place.runtime.status(name);
        if let Some(node) = &mut place.node {
            node.handle_status(now, status);
            self.drain(host);
        }
    }

    /// The containers that exist on a host, by name.
    pub fn containers(&self, host: HostIndex) -> Vec<&str> {
        self.hosts[host].runtime.containers.keys().map(String::as_str).collect()
    }

    /// What was done to the containers of a host so far.
    pub fn acted(&self, host: HostIndex) -> &[Acted] {
        &self.hosts[host].runtime.acted
    }

    /// An operator's order at a host whose agent runs.
    pub fn order(&mut self, host: HostIndex, order: OrderRequest) -> Option<Operation> {
        let now = self.time(host);
        let taken = self.hosts[host].node.as_mut()?.handle_operation_order(now, order).ok();
        self.drain(host);
        taken
    }

    /// The containers as a starting agent finds them: what it has to repair, and their states.
    pub(super) fn find_containers(
        &mut self,
        host: HostIndex,
    ) -> (Vec<ContainerSpec>, RepairState, Vec<ContainerStatus>) {
        let declared = self.awake_specs(host);
        let place = &mut self.hosts[host];
        place.runtime.resume(&declared);
        let kept = RepairState::clone(&place.runtime.kept);
        let mut specs = declared;
        for spec in &mut specs {
            if let Some(instance) = kept.instances.get(&spec.name) {
                spec.name.clone_from(&instance.name);
            }
        }
        let statuses = specs.iter().map(|spec| place.runtime.status(&spec.name)).collect();
        (specs, kept, statuses)
    }

    /// Begins what a node wants done to a container.
    pub(super) fn begin_act(&mut self, host: u32, operation: String, act: Act) {
        let place = &mut self.hosts[host as usize];
        let isolated = place.node.as_ref().is_some_and(|node| node.is_isolated());
        place.runtime.acted.push(Acted { at: self.now, act: act.clone(), isolated });
        let life = place.life;
        let half = Duration::from_micros(10_000 + place.probes.below(40_000));
        self.push(self.now + half, Event::Act(Box::new(UnderWay { host, life, operation, act, is_half: false })));
    }

    /// Puts what a node must find again on its disk.
    pub(super) fn begin_keep(&mut self, host: u32, version: u64, state: Arc<RepairState>) {
        let life = self.hosts[host as usize].life;
        self.push(self.now + self.settings.sync, Event::Kept { host, life, version, state });
    }

    pub(super) fn kept(&mut self, host: u32, life: u32, version: u64, state: Arc<RepairState>) {
        let now = self.time(host as usize);
        let place = &mut self.hosts[host as usize];
        if life != place.life {
            return;
        }
        let result = if place.disk.full { Err("the disk is full".to_owned()) } else { Ok(()) };
        if result.is_ok() {
            place.runtime.kept = state;
        }
        if let Some(node) = &mut place.node {
            node.handle_kept(now, version, &result);
        }
    }

    /// The first half of an act takes away, the second makes.
    pub(super) fn go_on(&mut self, mut under_way: UnderWay) {
        let now = self.time(under_way.host as usize);
        let place = &mut self.hosts[under_way.host as usize];
        let runtime = &mut place.runtime;
        // It ended with its agent.
        let Some(node) = place.node.as_mut().filter(|_| under_way.life == place.life) else { return };
        if !under_way.is_half {
            if let Act::Restart { container } | Act::Clone { container, .. } = &under_way.act {
                runtime.remove(container);
            }
            under_way.is_half = true;
            let half = Duration::from_micros(10_000 + place.probes.below(40_000));
            return self.push(self.now + half, Event::Act(Box::new(under_way)));
        }
        let name = match &under_way.act {
            Act::Restart { container } => {
                runtime.make(container);
                runtime.heal(container, Cure::Restart);
                container
            }
            Act::Clone { to, .. } => {
                runtime.make(to);
                runtime.heal(to, Cure::Clone);
                to
            }
            Act::Freeze { container } => runtime.pause(container, ContainerState::Running, ContainerState::Paused),
            Act::Release { container } => runtime.pause(container, ContainerState::Paused, ContainerState::Running),
        };
        node.handle_status(now, runtime.status(name));
        node.handle_act_done(now, &under_way.operation, Ok(()));
    }

    /// What a probe, or a restart command, finds.
    pub(super) fn answer_probe(&mut self, host: u32, request: &ProbeRequest) -> ProbeReply {
        let place = &mut self.hosts[host as usize];
        let (runtime, pid) = (&mut place.runtime, request.pid);
        let restarts =
            matches!(&*request.check, Check::Exec { argv } if argv.first().is_some_and(|word| word == RESTART));
        let success = if restarts {
            if let Some(name) = runtime.of(pid).map(|(name, _)| name.clone()) {
                runtime.heal(&name, Cure::Command);
            }
            true
        } else {
            !place.sick && runtime.answers(pid, request.timeout)
        };
        let sign = match (success, runtime.is_silent(pid)) {
            (true, _) => Sign::Right,
            (false, true) => Sign::Silence,
            (false, false) if place.sick || runtime.answers_wrongly(pid) => Sign::Error,
            (false, false) => Sign::Wrong,
        };
        let latency = if restarts { None } else { runtime.delays(pid, request.timeout) };
        let (answer, latency) = (ANSWER.0.into(), latency.unwrap_or(ANSWER.1).min(request.timeout));
        ProbeReply { id: request.id, sign, answer, latency }
    }
}

/// The program of a restart command.
pub const RESTART: &str = "restart";

/// Something that is being done to a container.
pub(super) struct UnderWay {
    pub(super) host: u32,
    life: u32,
    operation: String,
    act: Act,
    is_half: bool,
}
