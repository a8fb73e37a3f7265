//! Hosts, their replicas, and the network between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use ringmesh_node::roles::{Host, Presence, Step};
use ringmesh_proto::{HostId, Instant};
use ringmesh_store::consensus::{Conf, Output};
use ringmesh_topology::replicas::Domain;

use super::{
    node::{Command, Keys, Node},
    oracle::Oracle,
};

/// After so long gossip says that a host that cannot be reached is down.
const GOSSIP: Duration = Duration::from_secs(3);

/// Between two rounds of it.
const ROUND: Duration = Duration::from_millis(500);

/// Between two looks at who should be a member, and while they change.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub(super) struct Machine {
    pub(super) domain: Domain,
    pub(super) is_up: bool,
    /// It left, on purpose.
    pub(super) has_left: bool,
}

pub(super) struct Cluster {
    pub(super) seed: u64,
    pub(super) rng: StdRng,
    pub(super) now: Instant,
    pub(super) hosts: BTreeMap<u32, Machine>,
    /// By the ids of their replicas.
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) oracle: Oracle,
    /// Pairs of hosts that do not hear each other.
    pub(super) cut: BTreeSet<(u32, u32)>,
    /// Of a hundred messages.
    pub(super) loss: u32,
    /// Since when the first host has not reached the second.
    silent: BTreeMap<(u32, u32), Instant>,
    /// Ids that were ever in use: each is of one disk.
    made: BTreeSet<u64>,
    events: BTreeMap<(Instant, u64), Event>,
    sequence: u64,
    written: u32,
}

enum Event {
    Message { from: u64, to: u64, bytes: Bytes },
    Snapshot { from: u64, to: u64, keys: Keys, bytes: Bytes },
    SendSnapshot { from: u64, life: u64, to: u64, at_least: u64 },
    SnapshotSent { from: u64, life: u64, to: u64, ok: bool },
    Stored { id: u64, life: u64 },
    Gossip,
}

impl Cluster {
    /// The first host founds.
    pub(super) fn new(seed: u64, racks: &[&str]) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let now = Instant::from_nanos(1_000_000_000);
        let nodes = BTreeMap::from([(1, Node::founder(now, &mut rng))]);
        let mut cluster = Self {
            seed,
            rng,
            now,
            hosts: BTreeMap::new(),
            nodes,
            oracle: Oracle::new(seed),
            cut: BTreeSet::new(),
            loss: 0,
            silent: BTreeMap::new(),
            made: BTreeSet::from([1]),
            events: BTreeMap::new(),
            sequence: 0,
            written: 0,
        };
        racks.iter().for_each(|rack| cluster.add_host(rack));
        cluster.schedule(Duration::ZERO, Event::Gossip);
        cluster.drain(1);
        cluster
    }

    pub(super) fn add_host(&mut self, rack: &str) {
        let domain = Domain { zone: "z".into(), rack: rack.into() };
        self.hosts.insert(self.hosts.len() as u32 + 1, Machine { domain, is_up: true, has_left: false });
    }

    pub(super) fn fall(&mut self, host: u32) {
        self.hosts.get_mut(&host).expect("a host of the cluster").is_up = false;
        self.nodes.values_mut().filter(|node| node.host == host).for_each(Node::stop);
    }

    pub(super) fn rise(&mut self, host: u32) {
        let machine = self.hosts.get_mut(&host).expect("a host of the cluster");
        if std::mem::replace(&mut machine.is_up, true) || machine.has_left {
            return;
        }
        let ids: Vec<u64> = self.nodes.values().filter(|node| node.host == host).map(|node| node.id).collect();
        for id in ids {
            self.nodes.get_mut(&id).expect("it was found").start(self.now, &mut self.rng);
            self.drain(id);
        }
    }

    pub(super) fn rise_all(&mut self) {
        let hosts: Vec<u32> = self.hosts.keys().copied().collect();
        hosts.into_iter().for_each(|host| self.rise(host));
    }

    pub(super) fn lose_disk(&mut self, host: u32) {
        self.nodes.retain(|_, node| node.host != host);
    }

    /// Whether all members are there and agree, so that what one has the others have.
    pub(super) fn can_lose_disk(&self, host: u32) -> bool {
        let conf = self.conf();
        let is_well = |id: &u64| self.nodes.get(id).is_some_and(|node| node.running.is_some());
        let is_member = self.nodes.values().any(|node| node.host == host && conf.contains(node.id));
        let all = conf.voters.iter().chain(&conf.learners).all(is_well);
        is_member && all && !conf.is_joint() && conf.voters.len() >= 3 && self.cut.is_empty() && self.leader().is_some()
    }

    pub(super) fn host_of(&self, id: u64) -> u32 {
        self.nodes[&id].host
    }

    pub(super) fn racks(&self, ids: &[u64]) -> BTreeSet<String> {
        ids.iter().map(|id| self.hosts[&self.host_of(*id)].domain.rack.clone()).collect()
    }

    /// Who leads in the latest term, as far as it knows itself.
    pub(super) fn leader(&self) -> Option<u64> {
        let statuses = self.nodes.values().filter_map(|node| Some(node.running.as_ref()?.consensus.status()));
        statuses.filter(|status| status.leader == Some(status.id)).max_by_key(|status| status.term).map(|s| s.id)
    }

    /// The members, by who has applied the most.
    pub(super) fn conf(&self) -> Conf {
        let keys = self.nodes.values().filter_map(|node| Some(&node.running.as_ref()?.keys));
        let newest = keys.max_by_key(|keys| keys.applied.position.index).expect("one runs");
        Conf::decode(&newest.applied.conf).expect("it was encoded")
    }

    pub(super) fn write(&mut self) {
        let Some(leader) = self.leader() else { return };
        self.written += 1;
        let command = Command::Write(self.written).encode();
        let now = self.now;
        if let Some(running) = self.nodes.get_mut(&leader).and_then(|node| node.running.as_mut()) {
            let _ = running.consensus.propose(now, command);
        }
        self.drain(leader);
    }

    /// Whether what is written now is soon with all members whose hosts are up.
    pub(super) fn write_is_agreed_on(&mut self) -> bool {
        self.write();
        self.run_for(Duration::from_secs(3));
        let conf = self.conf();
        let members = conf.voters.iter().chain(&conf.learners).filter_map(|id| self.nodes.get(id)?.running.as_ref());
        members.map(|running| running.keys.written).all(|written| written == self.written)
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// The next event or timer before `end`.
    fn step(&mut self, end: Instant) -> bool {
        let timer = self.nodes.values().filter_map(timer).min();
        let event = self.events.first_key_value().map(|((at, _), _)| *at);
        let Some(at) = timer.map(|(at, _)| at).into_iter().chain(event).min().filter(|at| *at <= end) else {
            return false;
        };
        self.now = self.now.max(at);
        if event == Some(at) {
            let Some((_, event)) = self.events.pop_first() else { return false };
            self.handle(event);
        } else if let Some((_, id)) = timer {
            self.wake(id);
        }
        true
    }

    fn wake(&mut self, id: u64) {
        let now = self.now;
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()) else { return };
        if running.consensus.poll_timeout().is_some_and(|at| at <= now) {
            running.consensus.handle_timeout(now);
        }
        self.drain(id);
        self.look(id);
    }

    /// By the leader: looks who should be a member, and does the next step.
    fn look(&mut self, id: u64) {
        let hosts = self.seen_by(self.nodes[&id].host);
        let now = self.now;
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()) else { return };
        let Some(roles) = running.roles.as_mut().filter(|_| running.looks_at <= now) else { return };
        running.looks_at = now + LOOK;
        if running.changing.is_some() {
            running.looks_at = now + LOOK_AGAIN;
            return;
        }
        let step = roles.handle_look(now, &hosts, &running.keys.seats, &running.consensus.status());
        let command = match step {
            None => return,
            Some(Step::Seat(host)) => Command::Seat(host.raw()),
            Some(Step::Leave(host)) => Command::Leave(host.raw()),
            Some(Step::Forget(host)) => Command::Forget(host.raw()),
            Some(Step::Change(change)) => {
                // It is looked at again why it was refused.
                let _ = running.consensus.propose_conf(now, change);
                running.looks_at = now + LOOK_AGAIN;
                return self.drain(id);
            }
            Some(Step::Transfer(to)) => {
                let _ = running.consensus.transfer_leader(to);
                return self.drain(id);
            }
        };
        running.changing = running.consensus.propose(now, command.encode()).ok().map(|position| position.index);
        running.looks_at = now + LOOK_AGAIN;
        self.drain(id);
    }

    /// What gossip says on a host.
    fn seen_by(&self, observer: u32) -> Vec<Host> {
        let presence = |host: u32, machine: &Machine| {
            let since = self.silent.get(&(observer, host));
            match () {
                () if machine.has_left => Presence::Left,
                () if since.is_some_and(|since| self.now.since(*since) >= GOSSIP) => Presence::Down,
                () => Presence::There,
            }
        };
        let seen = |(id, machine): (&u32, &Machine)| Host {
            id: HostId::new(*id),
            name: format!("h{id}"),
            domain: machine.domain.clone(),
            presence: presence(*id, machine),
        };
        self.hosts.iter().map(seen).collect()
    }

    fn gossip(&mut self) {
        let hosts: Vec<u32> = self.hosts.keys().copied().collect();
        for (from, to) in hosts.iter().flat_map(|from| hosts.iter().map(move |to| (*from, *to))) {
            if self.reaches(from, to) {
                self.silent.remove(&(from, to));
            } else {
                self.silent.entry((from, to)).or_insert(self.now);
            }
        }
        self.schedule(ROUND, Event::Gossip);
    }

    fn reaches(&self, from: u32, to: u32) -> bool {
        let is_up = |host: u32| self.hosts.get(&host).is_some_and(|host| host.is_up);
        is_up(from) && is_up(to) && !self.cut.contains(&(from.min(to), from.max(to)))
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Gossip => self.gossip(),
            Event::Message { from, to, bytes } => {
                if self.connect(from, to) {
                    self.deliver(from, to, &bytes, None);
                }
            }
            Event::Snapshot { from, to, keys, bytes } => {
                let life = self.nodes.get(&from).map_or(0, |node| node.life);
                let ok = self.connect(from, to);
                if ok {
                    self.deliver(from, to, &bytes, Some(keys));
                }
                self.schedule(Duration::ZERO, Event::SnapshotSent { from, life, to, ok });
            }
            Event::SendSnapshot { from, life, to, at_least } => self.send_snapshot((from, life), to, at_least),
            Event::SnapshotSent { from, life, to, ok } => {
                if let Some(running) = self.running(from, life) {
                    running.consensus.handle_snapshot_sent(to, ok);
                    self.drain(from);
                }
            }
            Event::Stored { id, life } => {
                if self.running(id, life).is_some() {
                    self.nodes.get_mut(&id).into_iter().for_each(Node::store_next);
                    self.drain(id);
                }
            }
        }
    }

    fn running(&mut self, id: u64, life: u64) -> Option<&mut super::node::Running> {
        self.nodes.get_mut(&id).filter(|node| node.life == life)?.running.as_mut()
    }

    /// Whether a message comes to a replica: who greets may be gone, whom it greets lost, or invited by that.
    fn connect(&mut self, from: u64, to: u64) -> bool {
        let Some(sender) = self.nodes.get(&from).filter(|node| node.running.is_some()) else { return false };
        let (from_host, seats) = (sender.host, &sender.running.as_ref().expect("it runs").keys.seats);
        let seated = seats.iter().find(|seat| seat.id == to).map(|seat| seat.host.raw());
        let Some(host) = self.nodes.get(&to).map(|node| node.host).or(seated) else { return false };
        if !self.reaches(from_host, host) {
            return false;
        }
        if self.nodes.contains_key(&to) {
            return !self.is_gone(from, to);
        }
        if !self.made.insert(to) {
            // It had it, and has it no longer.
            let sender = self.nodes.get_mut(&from).and_then(|node| node.running.as_mut());
            sender.and_then(|running| running.roles.as_mut()).into_iter().for_each(|roles| roles.handle_lost(to));
            return false;
        }
        self.nodes.retain(|_, node| node.host != host);
        self.nodes.insert(to, Node::joiner(to, host, self.now, &mut self.rng));
        true
    }

    /// Who is a member no longer, as far as the other one has applied, stops.
    fn is_gone(&mut self, from: u64, to: u64) -> bool {
        let Some(other) = self.nodes[&to].running.as_ref() else { return false };
        let is_known = other.keys.applied.position.index >= from && !other.keys.seats.is_empty();
        let is_gone = is_known && !other.keys.seats.iter().any(|seat| seat.id == from);
        if is_gone {
            self.nodes.remove(&from);
        }
        is_gone
    }

    fn deliver(&mut self, from: u64, to: u64, bytes: &Bytes, keys: Option<Keys>) {
        let now = self.now;
        let Some(running) = self.nodes.get_mut(&to).and_then(|node| node.running.as_mut()) else { return };
        let with_keys = keys.is_some();
        running.received = keys.or_else(|| running.received.take());
        let heard = running.consensus.handle_peer(now, from, bytes, with_keys);
        assert!(running.consensus.status().diverged.is_none(), "seed {}: {heard:?}", self.seed);
        self.drain(to);
    }

    fn send_snapshot(&mut self, (from, life): (u64, u64), to: u64, at_least: u64) {
        let keys = self.nodes.get_mut(&from).filter(|node| node.life == life).and_then(Node::checkpoint);
        let Some(keys) = keys.filter(|keys| keys.applied.position.index >= at_least) else {
            return self.schedule(Duration::ZERO, Event::SnapshotSent { from, life, to, ok: false });
        };
        let bytes = self.running(from, life).and_then(|running| running.consensus.begin_snapshot(to, &keys.applied));
        match bytes {
            Some(bytes) => self.schedule(Duration::from_millis(50), Event::Snapshot { from, to, keys, bytes }),
            None => self.schedule(Duration::ZERO, Event::SnapshotSent { from, life, to, ok: false }),
        }
        self.drain(from);
    }

    /// Does what a replica has asked for.
    fn drain(&mut self, id: u64) {
        loop {
            let now = self.now;
            let Some(node) = self.nodes.get_mut(&id) else { return };
            let life = node.life;
            let Some(running) = &mut node.running else { return };
            let Some(output) = running.consensus.poll_output() else { return };
            match output {
                Output::Send { to, bytes } => {
                    if self.rng.random_range(0..100) >= self.loss {
                        let delay = self.delay();
                        self.schedule(delay, Event::Message { from: id, to, bytes });
                    }
                }
                Output::Persist(persist) => {
                    running.persist(persist);
                    // All are as fast, so that they stay in order.
                    self.schedule(Duration::from_millis(2), Event::Stored { id, life });
                }
                Output::Commit(entries) => {
                    for committed in entries {
                        self.oracle.committed(&committed);
                        running.apply(&committed);
                        self.oracle.has(&running.keys);
                    }
                }
                Output::Leader { term, us, .. } => {
                    running.note_leader(us, now);
                    if us {
                        self.oracle.leads(term, id);
                    }
                }
                Output::NeedSnapshot { to, at_least } => {
                    self.schedule(Duration::from_millis(20), Event::SendSnapshot { from: id, life, to, at_least });
                }
                Output::Read { .. } | Output::ReadFailed { .. } => {}
            }
        }
    }

    fn delay(&mut self) -> Duration {
        Duration::from_micros(self.rng.random_range(200..8000))
    }

    fn schedule(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), event);
    }
}

/// When a replica wants to be called.
fn timer(node: &Node) -> Option<(Instant, u64)> {
    let running = node.running.as_ref()?;
    let looks_at = running.roles.as_ref().map(|_| running.looks_at);
    Some((running.consensus.poll_timeout().into_iter().chain(looks_at).min()?, node.id))
}
