//! The virtual machine room.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use ringmesh_node::{
    Config, Node, Output, Persistent, Reach, View,
    health::spec::{CheckId, ContainerSpec, ContainerState, ContainerStatus, ProbeReply},
    overlay::{Timers, Wiring},
    zones::{Budgets, KnownZone},
};
use ringmesh_proto::{
    ClusterId, HostId, Instant, Now, UnixMillis, Uplink, frame,
    member::Member,
    peer::{SyncRequest, SyncResponse},
};
use ringmesh_topology::Chords;

/// A host that is down for so long is forgotten: soon, so that tests see it.
pub const FORGET_AFTER: Duration = Duration::from_secs(150);

/// A host by its number, from 0.
pub type HostIndex = usize;

const CLUSTER: ClusterId = ClusterId::new(0x1122_3344_5566_7788);

/// The wall clock at the origin of virtual time.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// Hosts, the network between them, and what is under way.
pub struct World {
    now: Instant,
    hosts: Vec<Host>,
    queue: BTreeMap<(Instant, u64), Event>,
    queued: u64,
    rng: StdRng,
    cut: BTreeSet<(HostIndex, Uplink)>,
    /// Hosts that do not hear each other, over any uplink; the lower first.
    cut_pairs: BTreeSet<(HostIndex, HostIndex)>,
    /// Hosts without power: not even their kernels answer.
    off: BTreeSet<HostIndex>,
    /// Services that answer wrongly, by host.
    sick: BTreeSet<HostIndex>,
    /// Of datagrams and of gossip frames, in percent.
    loss: u32,
    /// Of the hosts that are added from now on.
    chords: Chords,
    /// Of the hosts that are added from now on.
    rack: String,
    /// One way, between two hosts, the lower first; what comes on top is drawn.
    delays: BTreeMap<(HostIndex, HostIndex), Duration>,
    delivered: u64,
}

struct Host {
    node: Option<Node>,
    config: Config,
    disk: Option<Persistent>,
    view: View,
    paused_until: Instant,
    /// The one wake-up that counts; an earlier one replaces it.
    wake: Option<Instant>,
    left: bool,
}

enum Event {
    Wake(HostIndex),
    Datagram { from: HostIndex, to: HostIndex, uplink: Uplink, bytes: Bytes },
    Gossip { from: HostIndex, to: HostIndex, uplink: Uplink, bytes: Bytes },
    SyncRequest { from: HostIndex, to: HostIndex, uplink: Uplink, via: Option<HostIndex>, request: SyncRequest },
    SyncResponse { from: HostIndex, to: HostIndex, uplink: Uplink, via: Option<HostIndex>, response: Box<SyncResponse> },
    Probed { host: HostIndex, id: CheckId },
    Reached { host: HostIndex, of: HostId, uplink: Uplink, reach: Reach },
}

impl World {
    /// An empty machine room.
    pub fn new(seed: u64) -> Self {
        Self {
            now: Instant::ZERO,
            hosts: Vec::new(),
            queue: BTreeMap::new(),
            queued: 0,
            rng: StdRng::seed_from_u64(seed),
            cut: BTreeSet::new(),
            cut_pairs: BTreeSet::new(),
            off: BTreeSet::new(),
            sick: BTreeSet::new(),
            loss: 0,
            chords: Chords::Auto,
            rack: String::new(),
            delays: BTreeMap::new(),
            delivered: 0,
        }
    }

    /// Adds a host that knows the hosts with a lower number as its token would name them, the first three, and
    /// starts it.
    pub fn add_host(&mut self, containers: Vec<ContainerSpec>) -> HostIndex {
        let first: Vec<HostIndex> = (0..self.hosts.len().min(3)).collect();
        self.add_host_in("default", &first, containers)
    }

    /// Adds a host in a zone and starts it. It knows these hosts, each as one of that host's own zone.
    pub fn add_host_in(&mut self, zone: &str, knows: &[HostIndex], containers: Vec<ContainerSpec>) -> HostIndex {
        let index = self.hosts.len();
        let me = self.member(index);
        let (mut known, mut zones) = (Vec::new(), BTreeMap::<String, Vec<Member>>::new());
        for config in knows.iter().map(|other| &self.hosts[*other].config) {
            if config.zone == zone {
                known.push(config.me);
            } else {
                zones.entry(config.zone.clone()).or_default().push(config.me);
            }
        }
        let zones = zones.into_iter().map(|(name, delegates)| KnownZone { name, delegates }).collect();
        let config = Config {
            cluster: CLUSTER,
            me,
            name: format!("h{}", index + 1),
            zone: zone.into(),
            rack: self.rack.clone(),
            chords: self.chords,
            configured_chords: None,
            version: "sim".into(),
            wiring: Wiring::Switched { seed: 42 },
            position: 0,
            known,
            forget_after: FORGET_AFTER,
            zones,
            budgets: Budgets::default(),
            containers,
            protection: Timers::default(),
            tick: Duration::ZERO,
            seed: self.rng.random(),
        };
        self.hosts.push(Host {
            node: None,
            config,
            disk: None,
            view: View::default(),
            paused_until: Instant::ZERO,
            wake: None,
            left: false,
        });
        self.start(index);
        index
    }

    /// Starts a host that does not run, from its disk.
    pub fn start(&mut self, index: HostIndex) {
        let now = self.time();
        let seed = self.rng.random();
        self.off.remove(&index);
        let host = &mut self.hosts[index];
        if let Some(disk) = &host.disk {
            host.config.me.generation = disk.generation;
            host.config.known.clone_from(&disk.known);
            host.config.zones.clone_from(&disk.zones);
        }
        host.left = false;
        let mut node = Node::new(now, Config { seed, ..host.config.clone() });
        for container in &host.config.containers {
            let status = ContainerStatus {
                name: container.name.clone(),
                state: ContainerState::Running,
                ..ContainerStatus::default()
            };
            node.handle_status(now, status);
        }
        host.node = Some(node);
        self.drain(index);
    }

    /// Moves a host to another address: it takes effect at its next start.
    pub fn readdress(&mut self, index: HostIndex) {
        for address in self.hosts[index].config.me.addresses.iter_mut().flatten() {
            address.set_port(address.port() + 1);
        }
    }

    /// Sets a host's disk back to a first start, but for the hosts that it knows.
    pub fn forget_generation(&mut self, index: HostIndex) {
        if let Some(disk) = &mut self.hosts[index].disk {
            disk.generation = 0;
        }
    }

    /// Ends a host's process at once.
    pub fn kill(&mut self, index: HostIndex) {
        self.hosts[index].node = None;
    }

    /// Takes a host's power away.
    pub fn power_off(&mut self, index: HostIndex) {
        self.kill(index);
        self.off.insert(index);
    }

    /// Stops a host's process for so long; what is sent to it meanwhile waits.
    pub fn pause(&mut self, index: HostIndex, span: Duration) {
        self.hosts[index].paused_until = self.now + span;
    }

    /// Loses all that is sent to or from a host over an uplink.
    pub fn cut(&mut self, index: HostIndex, uplink: Uplink) {
        self.cut.insert((index, uplink));
    }

    /// Loses all that these two send to each other.
    pub fn cut_pair(&mut self, one: HostIndex, other: HostIndex) {
        self.cut_pairs.insert((one.min(other), one.max(other)));
    }

    fn is_cut(&self, from: HostIndex, to: HostIndex, uplink: Uplink) -> bool {
        [from, to].iter().any(|host| self.cut.contains(&(*host, uplink)))
            || self.cut_pairs.contains(&(from.min(to), from.max(to)))
    }

    /// The rule of chords of the hosts that are added from now on.
    pub fn use_chords(&mut self, chords: Chords) {
        self.chords = chords;
    }

    /// The rack of the hosts that are added from now on.
    pub fn use_rack(&mut self, rack: &str) {
        self.rack = rack.to_owned();
    }

    /// What these two send to each other takes so much longer, one way.
    pub fn delay(&mut self, one: HostIndex, other: HostIndex, span: Duration) {
        self.delays.insert((one.min(other), one.max(other)), span);
    }

    /// The same of what goes by a third host.
    fn is_cut_by(&self, from: HostIndex, via: Option<HostIndex>, to: HostIndex, uplink: Uplink) -> bool {
        match via {
            Some(via) => self.is_cut(from, via, uplink) || self.is_cut(via, to, uplink),
            None => self.is_cut(from, to, uplink),
        }
    }

    /// Takes a host's carrier from an uplink, or gives it back: nothing passes, and the host sees it.
    pub fn carrier(&mut self, index: HostIndex, uplink: Uplink, up: bool) {
        if up {
            self.cut.remove(&(index, uplink));
        } else {
            self.cut(index, uplink);
        }
        let now = self.time();
        if let Some(node) = &mut self.hosts[index].node {
            node.handle_carrier(now, uplink, up);
            self.drain(index);
        }
    }

    /// From now on so many percent of datagrams and gossip frames are lost, each by itself.
    pub fn lose(&mut self, percent: u32) {
        self.loss = percent;
    }

    /// Ends all cuts of a host.
    pub fn heal(&mut self, index: HostIndex) {
        self.cut.retain(|(host, _)| *host != index);
        self.cut_pairs.retain(|(one, other)| *one != index && *other != index);
    }

    /// From now on the services of a host answer wrongly, or rightly.
    pub fn sicken(&mut self, index: HostIndex, sick: bool) {
        if sick {
            self.sick.insert(index)
        } else {
            self.sick.remove(&index)
        };
    }

    /// Makes a host leave on purpose.
    pub fn leave(&mut self, index: HostIndex) {
        let now = self.time();
        if let Some(node) = &mut self.hosts[index].node {
            node.handle_leave(now);
            self.drain(index);
        }
    }

    /// A host's snapshot.
    pub fn view(&self, index: HostIndex) -> &View {
        &self.hosts[index].view
    }

    /// Whether the host's process runs.
    pub fn runs(&self, index: HostIndex) -> bool {
        self.hosts[index].node.is_some()
    }

    /// The hosts, whether they run or not.
    pub fn hosts(&self) -> std::ops::Range<HostIndex> {
        0..self.hosts.len()
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Messages that arrived so far.
    pub fn delivered(&self) -> u64 {
        self.delivered
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

    fn step(&mut self, end: Instant) -> bool {
        let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) else { return false };
        let ((at, _), event) = entry.remove_entry();
        self.now = self.now.max(at);
        let index = event.target();
        let resumes = self.hosts[index].paused_until;
        if resumes > self.now {
            self.push(resumes, event);
        } else {
            self.handle(event);
        }
        true
    }

    fn handle(&mut self, event: Event) {
        let now = self.time();
        let index = event.target();
        if let Some((from, uplink)) = event.path()
            && self.is_cut_by(from, event.via(), index, uplink)
        {
            return;
        }
        if matches!(event, Event::Wake(_)) {
            if self.hosts[index].wake.is_none_or(|wake| wake > self.now) {
                return;
            }
            self.hosts[index].wake = None;
        }
        let sick = self.sick.contains(&index);
        let Some(node) = &mut self.hosts[index].node else { return };
        self.delivered += 1;
        match event {
            Event::Wake(_) => node.handle_timeout(now),
            Event::Datagram { from, uplink, bytes, .. } => node.handle_datagram(now, id(from), uplink, bytes),
            Event::Gossip { from, bytes, .. } => {
                assert!(bytes.len() <= frame::PREFIX_LEN + frame::MAX_GOSSIP, "a node sends what is taken");
                let frame =
                    frame::decode_gossip(&bytes[frame::PREFIX_LEN..], CLUSTER).expect("a node sends what it reads");
                let gossip = frame.gossip.unwrap_or_default();
                match frame.relay_to {
                    0 => node.handle_gossip(now, id(from), gossip),
                    to => node.handle_relay(now, id(from), HostId::new(to), gossip),
                }
            }
            Event::SyncRequest { from, to, uplink, via, request } => {
                let response = node.handle_sync_request(now, &request);
                let at = self.arrival();
                self.push(at, Event::SyncResponse { from: to, to: from, uplink, via, response: Box::new(response) });
            }
            Event::SyncResponse { from, response, .. } => node.handle_sync_response(now, id(from), *response),
            Event::Reached { of, uplink, reach, .. } => node.handle_reach(now, of, uplink, reach),
            Event::Probed { id, .. } => {
                let reply =
                    ProbeReply { id, success: !sick, answer: "simulated".into(), latency: Duration::from_millis(1) };
                node.handle_probe_reply(now, reply);
            }
        }
        self.drain(index);
    }

    fn drain(&mut self, index: HostIndex) {
        let now = self.time();
        let mut outputs = Vec::new();
        let Some(node) = &mut self.hosts[index].node else { return };
        while let Some(output) = node.poll_output() {
            outputs.push(output);
        }
        // The snapshot first: one that comes too soon is put off, and that is a deadline.
        if let Some(view) = node.poll_view(now) {
            self.hosts[index].view = view;
        }
        let Some(node) = &self.hosts[index].node else { return };
        let wake = node.poll_timeout().0;
        let wake = wake.max(now.instant);
        if self.hosts[index].wake.is_none_or(|earlier| wake < earlier) {
            self.hosts[index].wake = Some(wake);
            self.push(wake, Event::Wake(index));
        }
        for output in outputs {
            self.carry(index, output);
        }
    }

    fn carry(&mut self, from: HostIndex, output: Output) {
        let at = self.arrival();
        let lossy = matches!(output, Output::Datagram { .. } | Output::Gossip { .. });
        if lossy && self.loss > 0 && self.rng.random_range(0..100) < self.loss {
            return;
        }
        match output {
            Output::Datagram { to, uplink, bytes } => {
                if let Some(to) = self.locate(to, uplink) {
                    self.push(at + self.distance(from, to), Event::Datagram { from, to, uplink, bytes });
                }
            }
            Output::Gossip { to, uplink, bytes, .. } => {
                if let Some(to) = self.locate(to, uplink) {
                    self.push(at + self.distance(from, to), Event::Gossip { from, to, uplink, bytes });
                }
            }
            Output::Sync { to, way, request } => {
                let via = way.via.and_then(|relay| self.locate(relay, way.uplink));
                let open = |uplink: &Uplink| !self.cut.contains(&(from, *uplink));
                let uplink = Uplink::BOTH.into_iter().find(open).unwrap_or(Uplink::A);
                if let Some(to) = self.locate(to, uplink) {
                    self.push(at, Event::SyncRequest { from, to, uplink, via, request });
                }
            }
            Output::Probe(request) => self.push(at, Event::Probed { host: from, id: request.id }),
            Output::Reach { to, uplink } => {
                let reach = self.reach(from, to, uplink);
                let wait = if reach == Reach::Silent { Duration::from_millis(150) } else { Duration::ZERO };
                self.push(at + wait, Event::Reached { host: from, of: to.id, uplink, reach });
            }
            Output::Persist(disk) => self.hosts[from].disk = Some(disk),
            Output::Pin(_) => {}
            Output::Left => {
                self.hosts[from].node = None;
                self.hosts[from].left = true;
            }
        }
    }

    /// The host that listens at this address now.
    fn locate(&self, to: Member, uplink: Uplink) -> Option<HostIndex> {
        let index = (to.id.raw() as usize).checked_sub(1)?;
        let here = self.hosts.get(index)?.config.me.address(uplink);
        (here.is_some() && here == to.address(uplink)).then_some(index)
    }

    fn reach(&self, from: HostIndex, to: Member, uplink: Uplink) -> Reach {
        match self.locate(to, uplink).filter(|to| !self.is_cut(from, *to, uplink) && !self.off.contains(to)) {
            Some(to) if self.hosts[to].node.is_none() => Reach::Refused,
            Some(_) => Reach::Answers,
            None => Reach::Silent,
        }
    }

    fn distance(&self, from: HostIndex, to: HostIndex) -> Duration {
        self.delays.get(&(from.min(to), from.max(to))).copied().unwrap_or_default()
    }

    fn arrival(&mut self) -> Instant {
        self.now + Duration::from_micros(self.rng.random_range(100..1500))
    }

    fn push(&mut self, at: Instant, event: Event) {
        self.queued += 1;
        self.queue.insert((at, self.queued), event);
    }

    fn member(&self, index: HostIndex) -> Member {
        let address =
            |net: u8| -> SocketAddr { ([10, net, (index / 250) as u8, (index % 250) as u8 + 1], 7400).into() };
        Member { id: id(index), generation: 0, addresses: [Some(address(77)), Some(address(78))] }
    }

    fn time(&self) -> Now {
        Now { instant: self.now, unix: UnixMillis(EPOCH_MS + self.now.as_nanos() / 1_000_000) }
    }
}

impl Event {
    fn target(&self) -> HostIndex {
        match self {
            Self::Wake(host) | Self::Probed { host, .. } | Self::Reached { host, .. } => *host,
            Self::Datagram { to, .. }
            | Self::Gossip { to, .. }
            | Self::SyncRequest { to, .. }
            | Self::SyncResponse { to, .. } => *to,
        }
    }

    /// The host by which it goes.
    fn via(&self) -> Option<HostIndex> {
        match self {
            Self::SyncRequest { via, .. } | Self::SyncResponse { via, .. } => *via,
            Self::Wake(_)
            | Self::Probed { .. }
            | Self::Reached { .. }
            | Self::Datagram { .. }
            | Self::Gossip { .. } => None,
        }
    }

    fn path(&self) -> Option<(HostIndex, Uplink)> {
        match self {
            Self::Wake(_) | Self::Probed { .. } | Self::Reached { .. } => None,
            Self::Datagram { from, uplink, .. }
            | Self::Gossip { from, uplink, .. }
            | Self::SyncRequest { from, uplink, .. }
            | Self::SyncResponse { from, uplink, .. } => Some((*from, *uplink)),
        }
    }
}

fn id(index: HostIndex) -> HostId {
    HostId::new(index as u32 + 1)
}
