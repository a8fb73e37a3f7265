//! The machine room: hosts that run the agents' own code, the network between them, and virtual time.
//!
//! It owns the order of events and carries outputs to inputs, in agentd's place. It judges nothing: see `oracle`.
//!
//! ```text
//!  Queue ──event──▶ Node::handle_* ──poll_output──▶ Network: delay, loss, cuts ──event──▶ Queue
//! ```

mod deliver;
mod faults;
pub(crate) mod fleet;
mod lies;
pub(crate) mod repair;

use std::{collections::BTreeMap, time::Duration};

use ringmesh_node::{
    Config, Node, View,
    health::{Judgement, spec::ContainerSpec},
    membership::Change,
    overlay::{Timers, Wiring},
    remedy::{Mode, Policy, Settings as Repairs},
    zones::{Budgets, KnownZone},
};
use ringmesh_proto::{ClusterId, HostId, Instant, Now, UnixMillis, member::Member, peer::RepairState};
use ringmesh_topology::Chords;

use crate::{
    draw::{Draw, Purpose},
    host::Host,
    link::LinkSpec,
    network::Network,
    queue::Queue,
    trace::Trace,
};
use deliver::Event;
pub use repair::{Acted, Cure, RESTART};

/// A host by its number, from 0.
pub type HostIndex = usize;

pub(crate) const CLUSTER: ClusterId = ClusterId::new(0x1122_3344_5566_7788);

/// The wall clock at the origin of virtual time.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// A host that is down for so long is forgotten: soon, so that tests see it.
pub const FORGET_AFTER: Duration = Duration::from_secs(150);

/// Hosts of its own zone that a new host is told of, as its token would name them.
pub(crate) const SEEDS: usize = 3;

/// How a world works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Everything follows from it.
    pub seed: u64,
    /// Behaviours of links; the first is that from a host to its switch, the second the other way.
    pub links: Vec<LinkSpec>,
    /// What is written is durable so much later.
    pub sync: Duration,
    /// Every frame and request is encoded and decoded; else it is handed over as it is.
    pub wire: bool,
    /// Snapshots are made, as agents make them; else changes are kept for [`World::take_changes`].
    pub views: bool,
}

impl Settings {
    /// A local network, snapshots, and the real codec.
    pub fn new(seed: u64) -> Self {
        let links = vec![LinkSpec::default(), LinkSpec::none()];
        Self { seed, links, sync: Duration::from_millis(2), wire: true, views: true }
    }
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events that were handled, by a running host.
    pub events: u64,
    /// Datagrams that hosts sent, and copies that the network made.
    pub datagrams: u64,
    /// Of these arrived and were handled.
    pub datagrams_in: u64,
    /// Were lost at random, dropped by a full queue, or cut off.
    pub datagrams_lost: u64,
    /// Found nobody: no such address, no process, or a backlog that is full.
    pub datagrams_unheard: u64,
    /// Are on their way.
    pub datagrams_under_way: u64,
    /// Gossip frames that hosts sent.
    pub frames: u64,
    /// Of these arrived.
    pub frames_in: u64,
    /// Were dropped: a full queue, or a connection that broke or could not be made.
    pub frames_lost: u64,
    /// Wait on streams.
    pub frames_under_way: u64,
    /// Bytes of all datagrams and frames sent.
    pub bytes: u64,
    /// The most frames that waited on one stream.
    pub longest_stream: usize,
    /// The most outputs of one turn of a node.
    pub most_outputs: usize,
}

/// What one host sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Datagrams.
    pub datagrams: u64,
    /// Gossip frames.
    pub frames: u64,
    /// Bytes of both.
    pub bytes: u64,
}

/// Hosts, the network between them, and what is under way.
pub struct World {
    settings: Settings,
    now: Instant,
    hosts: Vec<Host>,
    queue: Queue<Event>,
    network: Network,
    trace: Trace,
    tally: Tally,
    sent: Vec<Sent>,
    changes: Vec<(HostIndex, Change)>,
    connections: u64,
    /// Of the hosts that are added from now on.
    chords: Chords,
    rack: String,
    repair: Repairs,
    judgement: Judgement,
    /// Orders that operators gave.
    ordered: u64,
    misjudged: u64,
}

impl World {
    /// An empty machine room as [`Settings::new`] has it.
    pub fn new(seed: u64) -> Self {
        Self::with(Settings::new(seed))
    }

    /// An empty machine room.
    pub fn with(settings: Settings) -> Self {
        Self {
            now: Instant::ZERO,
            hosts: Vec::new(),
            queue: Queue::default(),
            network: Network::new(settings.links.clone()),
            trace: Trace::default(),
            tally: Tally::default(),
            sent: Vec::new(),
            changes: Vec::new(),
            connections: 0,
            chords: Chords::Auto,
            rack: String::new(),
            repair: Repairs { default: Policy { mode: Mode::Off, ..Policy::default() }, ..Repairs::default() },
            judgement: Judgement::default(),
            ordered: 0,
            misjudged: 0,
            settings,
        }
    }

    /// Adds a host that knows the hosts with a lower number as its token would name them, the first three, and
    /// starts it.
    pub fn add_host(&mut self, containers: Vec<ContainerSpec>) -> HostIndex {
        let first: Vec<HostIndex> = (0..self.hosts.len().min(SEEDS)).collect();
        self.add_host_in("default", &first, containers)
    }

    /// Adds a host in a zone and starts it. It knows these hosts, each as one of that host's own zone.
    pub fn add_host_in(&mut self, zone: &str, knows: &[HostIndex], containers: Vec<ContainerSpec>) -> HostIndex {
        let index = self.put_host(containers, 0, [[0, 1]; 2]);
        self.place_in(index, zone, knows);
        self.start(index);
        index
    }

    /// Puts a host that does not run into a zone. It knows these hosts, each as one of that host's own zone.
    pub fn place_in(&mut self, index: HostIndex, zone: &str, knows: &[HostIndex]) {
        let (mut known, mut zones) = (Vec::new(), BTreeMap::<String, Vec<Member>>::new());
        for config in knows.iter().map(|other| &self.hosts[*other].config) {
            if config.zone == zone {
                known.push(config.me);
            } else {
                zones.entry(config.zone.clone()).or_default().push(config.me);
            }
        }
        let config = &mut self.hosts[index].config;
        config.zone = zone.into();
        config.known = known;
        config.zones = zones.into_iter().map(|(name, delegates)| KnownZone { name, delegates }).collect();
    }

    /// The rule of chords of the hosts that are added from now on.
    pub fn use_chords(&mut self, chords: Chords) {
        self.chords = chords;
    }

    /// The rack that the hosts that are added from now on name.
    pub fn use_rack(&mut self, rack: &str) {
        self.rack = rack.to_owned();
    }

    /// Adds a host that does not run yet and knows nobody. `links` names the behaviour of each uplink's ways out and in.
    pub fn put_host(&mut self, containers: Vec<ContainerSpec>, rack: u16, links: [[u16; 2]; 2]) -> HostIndex {
        let index = self.hosts.len();
        let config = Config {
            cluster: CLUSTER,
            me: member(index),
            name: name(index),
            zone: "default".into(),
            rack: self.rack.clone(),
            chords: self.chords,
            configured_chords: None,
            version: "sim".into(),
            wiring: Wiring::Switched { seed: 42 },
            position: 0,
            known: Vec::new(),
            forget_after: FORGET_AFTER,
            zones: Vec::new(),
            budgets: Budgets::default(),
            containers,
            repair: self.repair.clone(),
            repairs: RepairState::default(),
            judgement: self.judgement,
            histories: Vec::new(),
            protection: Timers::default(),
            tick: Duration::ZERO,
            seed: 0,
        };
        let draw = |purpose| Draw::new(self.settings.seed, index as u32, purpose);
        self.hosts.push(Host::new(config, draw(Purpose::Life), draw(Purpose::Probe)));
        self.sent.push(Sent::default());
        self.network.add_host(self.settings.seed, rack, links);
        index
    }

    /// How the hosts that are added from now on judge the outcomes of probes.
    pub fn use_judgement(&mut self, judgement: Judgement) {
        self.judgement = judgement;
    }

    /// Starts a host that does not run, from its disk.
    pub fn start(&mut self, index: HostIndex) {
        let now = self.time(index);
        let host = &mut self.hosts[index];
        host.powered = true;
        host.left = false;
        host.wake = None;
        host.life += 1;
        host.paused_until = Instant::ZERO;
        if let Some(disk) = &host.disk.durable {
            host.config.me.generation = disk.generation;
            host.config.known.clone_from(&disk.known);
            host.config.zones.clone_from(&disk.zones);
        }
        let seed = host.lives.any();
        let (containers, repairs, statuses) = self.find_containers(index);
        let host = &mut self.hosts[index];
        let fleet = host.fleet.clone();
        let (containers, awake) = if fleet.is_some() { (Vec::new(), containers) } else { (containers, Vec::new()) };
        let histories = host.disk.histories.values().flatten().cloned().collect();
        let config = Config { seed, containers, repairs, histories, ..host.config.clone() };
        let mut node = Box::new(Node::new(now, config, Box::new(host.seals())));
        if !self.settings.views {
            node.observe();
        }
        if let Some(fleet) = fleet {
            node.hush(now, fleet.implicit(index), |number| fleet.spec(index, number));
            host.node = Some(node);
            let last = statuses.last().cloned();
            awake.into_iter().zip(statuses).for_each(|(spec, status)| self.tell_awake(index, spec, status));
            // Now that all are there, repair may look.
            if let (Some(node), Some(status)) = (&mut self.hosts[index].node, last) {
                node.handle_status(now, status);
            }
        } else {
            statuses.into_iter().for_each(|status| node.handle_status(now, status));
            host.node = Some(node);
        }
        self.trace.note(self.now, "start", index as u64, 0, 0);
        self.drain(index);
    }

    /// A host's snapshot.
    pub fn view(&self, index: HostIndex) -> &View {
        &self.hosts[index].view
    }

    /// A host's agent, while it runs.
    pub fn node(&self, index: HostIndex) -> Option<&Node> {
        self.hosts[index].node.as_deref()
    }

    /// Whether the host's process runs.
    pub fn runs(&self, index: HostIndex) -> bool {
        self.hosts[index].node.is_some()
    }

    /// Whether the host ended its process by leaving.
    pub fn has_left(&self, index: HostIndex) -> bool {
        self.hosts[index].left
    }

    /// The process of a host is stopped until then, if that lies ahead.
    pub fn paused_until(&self, index: HostIndex) -> Instant {
        self.hosts[index].paused_until
    }

    /// Counts the processes of a host.
    pub fn life(&self, index: HostIndex) -> u32 {
        self.hosts[index].life
    }

    /// The hosts, whether they run or not.
    pub fn hosts(&self) -> std::ops::Range<HostIndex> {
        0..self.hosts.len()
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Events that were handled so far.
    pub fn delivered(&self) -> u64 {
        self.tally.events
    }

    /// What happened so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// What a host sent so far.
    pub fn sent(&self, index: HostIndex) -> Sent {
        self.sent[index]
    }

    /// A number that tells two runs apart that differ in any event, its time, its hosts or its length.
    pub fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    /// What changed in the membership of hosts since the last call, if no snapshots are made.
    pub fn take_changes(&mut self) -> Vec<(HostIndex, Change)> {
        std::mem::take(&mut self.changes)
    }

    /// Whether there are any.
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Runs for so long.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until the condition holds, at most for so long. Returns how long it took.
    pub fn run_until(&mut self, within: Duration, mut done: impl FnMut(&Self) -> bool) -> Option<Duration> {
        let start = self.now;
        let end = start + within;
        while !done(self) {
            if !self.step(end) {
                return None;
            }
        }
        Some(self.now.since(start))
    }

    /// Handles the next event if it is due at `end` or before. False if there is none: then it is `end`.
    pub fn step(&mut self, end: Instant) -> bool {
        let Some((at, event)) = self.queue.pop(end.as_nanos()) else {
            self.now = self.now.max(end);
            return false;
        };
        self.now = self.now.max(Instant::from_nanos(at));
        self.turn(event);
        true
    }

    fn time(&self, index: HostIndex) -> Now {
        let wall = (EPOCH_MS + self.now.as_nanos() / 1_000_000).saturating_add_signed(self.hosts[index].clock_ms);
        Now { instant: self.now, unix: UnixMillis(wall) }
    }

    fn push(&mut self, at: Instant, event: Event) {
        self.queue.push(at.as_nanos(), event);
    }
}

/// A host's name, as people know it.
pub fn name(index: HostIndex) -> String {
    format!("h{}", index + 1)
}

/// A host's id.
pub fn id(index: HostIndex) -> HostId {
    HostId::new(index as u32 + 1)
}

/// The host with this id, if it is one of ours.
pub fn index(id: HostId) -> Option<HostIndex> {
    (id.raw() as usize).checked_sub(1)
}

fn member(index: HostIndex) -> Member {
    let address = |net: u8| ([10, net, (index / 250) as u8, (index % 250) as u8 + 1], 7400).into();
    Member { id: id(index), generation: 0, addresses: [Some(address(77)), Some(address(78))] }
}
