//! A cluster in virtual time, whose network, disks and clocks a seeded generator breaks.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use ringmesh_proto::Instant;

use super::{
    checks::Checks,
    node::{Keys, Node},
};
use crate::consensus::{NotAccepted, Output, Refused};

pub(super) struct Cluster {
    pub(super) seed: u64,
    pub(super) rng: StdRng,
    pub(super) now: Instant,
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) checks: Checks,
    pub(super) network: Network,
    events: BTreeMap<(Instant, u64), Event>,
    sequence: u64,
    /// Of the longest write and sync.
    pub(super) disk_delay: Duration,
    /// What it takes to send a snapshot, besides a message.
    pub(super) snapshot_delay: Duration,
    /// Some inputs wait for the next ones before outputs are drained.
    pub(super) is_lazy: bool,
    /// What happened, so that two runs can be compared.
    pub(super) trace: u64,
    /// Members of which it is known that their disks lost data.
    pub(super) wiped: BTreeSet<u64>,
    /// Members whose disk is about to fail.
    broken: BTreeSet<u64>,
}

/// What the network does to messages.
pub(super) struct Network {
    /// No messages from the first to the second.
    pub(super) cut: BTreeSet<(u64, u64)>,
    /// Of a hundred.
    pub(super) loss: u32,
    pub(super) duplication: u32,
    pub(super) delay: Duration,
}

enum Event {
    Message { to: u64, bytes: Bytes },
    Snapshot { from: u64, to: u64, keys: Keys, bytes: Bytes },
    SendSnapshot { from: u64, life: u64, to: u64, at_least: u64 },
    SnapshotSent { from: u64, life: u64, to: u64, ok: bool },
    Stored { id: u64, life: u64 },
    Start { id: u64 },
    Resume { id: u64 },
}

impl Event {
    /// Who gets it when it goes on.
    fn subject(&self) -> Option<u64> {
        match self {
            Self::Message { to, .. } | Self::Snapshot { to, .. } => Some(*to),
            Self::SendSnapshot { from, .. } | Self::SnapshotSent { from, .. } => Some(*from),
            Self::Stored { .. } | Self::Start { .. } | Self::Resume { .. } => None,
        }
    }
}

impl Cluster {
    pub(super) fn new(seed: u64, members: u64) -> Self {
        let founders: Vec<u64> = (1..=members).collect();
        let nodes = founders.iter().map(|id| (*id, Node::new(*id, founders.clone()))).collect();
        let network = Network { cut: BTreeSet::new(), loss: 0, duplication: 0, delay: Duration::from_millis(5) };
        let mut cluster = Self {
            seed,
            rng: StdRng::seed_from_u64(seed),
            now: Instant::from_nanos(1_000_000_000),
            nodes,
            checks: Checks::new(seed),
            network,
            events: BTreeMap::new(),
            sequence: 0,
            disk_delay: Duration::from_millis(3),
            snapshot_delay: Duration::ZERO,
            is_lazy: false,
            trace: 0,
            wiped: BTreeSet::new(),
            broken: BTreeSet::new(),
        };
        for id in founders {
            cluster.start(id);
        }
        cluster
    }

    /// A machine without anything, that waits to be made a member.
    pub(super) fn join(&mut self, id: u64) {
        self.nodes.insert(id, Node::new(id, Vec::new()));
        self.start(id);
    }

    pub(super) fn start(&mut self, id: u64) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.running.is_none()) else { return };
        node.start(self.now, &mut self.rng);
        self.broken.remove(&id);
        self.drain(id);
    }

    pub(super) fn stop(&mut self, id: u64, loses_power: bool) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.stop(loses_power, &mut self.rng);
            self.checks.stopped(id);
        }
    }

    /// Its disk is replaced by an empty one, and it starts again under its old id.
    pub(super) fn wipe(&mut self, id: u64) {
        self.stop(id, true);
        self.wiped.insert(id);
        if let Some(node) = self.nodes.get_mut(&id) {
            (node.disk, node.durable) = <_>::default();
        }
        self.start(id);
    }

    /// Its disk fails soon, in the middle of whatever it does then, and its process ends with that.
    pub(super) fn break_disk(&mut self, id: u64) {
        if let Some(node) = self.nodes.get(&id).filter(|node| node.running.is_some()) {
            node.disk.fail_after(Some(self.rng.random_range(0..8)));
            self.broken.insert(id);
        }
    }

    pub(super) fn start_after(&mut self, id: u64, delay: Duration) {
        self.schedule(self.now + delay, Event::Start { id });
    }

    pub(super) fn pause(&mut self, id: u64, time: Duration) {
        let until = self.now + time;
        if let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()) {
            running.paused_until = until;
            self.schedule(until, Event::Resume { id });
        }
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until this holds; false if it does not in this time.
    pub(super) fn run_until(&mut self, time: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + time;
        while !holds(self) {
            if !self.step(end) {
                self.now = end;
                return holds(self);
            }
        }
        true
    }

    /// Who leads in the latest term, as far as it knows itself.
    pub(super) fn leader(&self) -> Option<u64> {
        let term = |id: &u64| Some(self.nodes[id].running.as_ref()?.consensus.status().term);
        self.claimants().into_iter().max_by_key(term)
    }

    /// All who take themselves for the leader.
    pub(super) fn claimants(&self) -> Vec<u64> {
        let statuses = self.nodes.values().filter_map(|node| Some(node.running.as_ref()?.consensus.status()));
        statuses.filter(|status| status.leader == Some(status.id)).map(|status| status.id).collect()
    }

    pub(super) fn propose(&mut self, id: u64, command: Bytes) -> bool {
        let clock = self.nodes[&id].clock(self.now);
        let Some(consensus) = self.consensus(id) else { return false };
        let proposed = consensus.propose(clock, command);
        match proposed {
            Ok(position) => self.checks.proposed(id, position),
            Err(refused) => self.checks.full += u64::from(refused == Refused::Full),
        }
        self.drain_soon(id);
        proposed.is_ok()
    }

    pub(super) fn read(&mut self, id: u64) {
        let clock = self.nodes[&id].clock(self.now);
        let context = self.checks.next_read();
        let Some(consensus) = self.consensus(id) else { return };
        if consensus.read(clock, context).is_ok() {
            self.checks.asked(id, context);
        }
        self.drain_soon(id);
    }

    /// Does this with a member that runs.
    pub(super) fn with<T>(&mut self, id: u64, act: impl FnOnce(&mut super::Consensus, Instant) -> T) -> Option<T> {
        let clock = self.nodes[&id].clock(self.now);
        let done = self.consensus(id).map(|consensus| act(consensus, clock));
        self.drain(id);
        done
    }

    fn consensus(&mut self, id: u64) -> Option<&mut super::Consensus> {
        let now = self.now;
        let running = self.nodes.get_mut(&id)?.running.as_mut()?;
        (running.paused_until <= now).then_some(&mut running.consensus)
    }

    /// The next event or timer before `end`.
    fn step(&mut self, end: Instant) -> bool {
        let timer = self.nodes.values().filter_map(|node| self.timer(node)).min();
        let event = self.events.first_key_value().map(|((at, _), _)| *at);
        let Some(at) = timer.map(|(at, _)| at).into_iter().chain(event).min().filter(|at| *at <= end) else {
            return false;
        };
        self.now = self.now.max(at);
        if event == Some(at) {
            let Some((_, event)) = self.events.pop_first() else { return false };
            self.handle(event);
        } else if let Some((_, id)) = timer {
            let clock = self.nodes[&id].clock(self.now);
            if let Some(consensus) = self.consensus(id) {
                consensus.handle_timeout(clock);
            }
            self.drain_soon(id);
        }
        true
    }

    /// When a member wants to be called, in everybody's time.
    fn timer(&self, node: &Node) -> Option<(Instant, u64)> {
        let running = node.running.as_ref()?;
        let at = Instant::from_nanos(running.consensus.poll_timeout()?.as_nanos().saturating_sub(node.skew));
        Some((at.max(running.paused_until), node.id))
    }

    fn handle(&mut self, event: Event) {
        if let Some(until) = event.subject().and_then(|id| self.paused_until(id)) {
            // What has waited meanwhile is not all read at once.
            let at = until + self.delay() * 8;
            return self.schedule(at, event);
        }
        match event {
            Event::Start { id } => self.start(id),
            Event::Resume { id } => self.drain(id),
            Event::Message { to, bytes } => self.deliver(to, &bytes),
            Event::Snapshot { from, to, keys, bytes } => {
                let life = self.nodes[&from].life;
                let now = self.now;
                if let Some(running) = self.nodes.get_mut(&to).and_then(|node| node.running.as_mut()) {
                    // What is being installed is no longer what comes.
                    let is_free = running.received.is_none();
                    if is_free {
                        running.received = Some(keys);
                        self.deliver(to, &bytes);
                        self.drain(to);
                        self.forget_refused(to);
                    }
                    self.schedule(now, Event::SnapshotSent { from, life, to, ok: is_free });
                } else {
                    self.schedule(now, Event::SnapshotSent { from, life, to, ok: false });
                }
            }
            Event::SendSnapshot { from, life, to, at_least } => {
                if self.nodes[&from].life == life {
                    self.send_snapshot(from, to, at_least);
                    self.drain(from);
                }
            }
            Event::SnapshotSent { from, life, to, ok } => {
                if self.nodes[&from].life == life {
                    self.with(from, |consensus, _| consensus.handle_snapshot_sent(to, ok));
                }
            }
            Event::Stored { id, life } => self.stored(id, life),
        }
    }

    fn paused_until(&self, id: u64) -> Option<Instant> {
        let until = self.nodes.get(&id)?.running.as_ref()?.paused_until;
        (until > self.now).then_some(until)
    }

    fn deliver(&mut self, to: u64, bytes: &Bytes) {
        let Some(clock) = self.nodes.get(&to).map(|node| node.clock(self.now)) else { return };
        let Some(consensus) = self.consensus(to) else { return };
        match consensus.handle_message(clock, bytes) {
            Ok(()) => {}
            Err(NotAccepted::Busy) => self.checks.busy += 1,
            Err(NotAccepted::Diverged(_)) if self.wiped.contains(&to) => {}
            Err(error) => panic!("seed {}: member {to}: {error}", self.seed),
        }
        self.drain_soon(to);
    }

    /// A snapshot that raft did not take is thrown away.
    fn forget_refused(&mut self, id: u64) {
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()) else { return };
        let mut persists = running.waiting.iter().chain(&running.writing);
        if !persists.any(|persist| persist.snapshot.is_some()) {
            running.received = None;
        }
    }

    fn stored(&mut self, id: u64, life: u64) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.life == life) else { return };
        if node.running.is_none() {
            return;
        }
        if !node.store() {
            assert!(self.broken.contains(&id), "the disk failed though nobody broke it");
            self.checks.disk_failures += 1;
            let loses_power = self.rng.random();
            self.stop(id, loses_power);
            return self.start_after(id, Duration::from_millis(100));
        }
        let Some(running) = &mut node.running else { return };
        let number = std::mem::take(&mut running.writing).last().map_or(0, |last| last.number);
        running.consensus.handle_persisted(number);
        self.drain(id);
    }

    /// At once, or with what comes until then.
    fn drain_soon(&mut self, id: u64) {
        if self.is_lazy && self.rng.random() {
            let at = self.now + self.delay();
            return self.schedule(at, Event::Resume { id });
        }
        self.drain(id);
    }

    /// Does what a member has asked for.
    fn drain(&mut self, id: u64) {
        while let Some(output) = self.consensus(id).and_then(super::Consensus::poll_output) {
            self.note(id, &output);
            self.act(id, output);
        }
        self.write(id);
        self.answer(id);
    }

    fn act(&mut self, id: u64, output: Output) {
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()) else { return };
        match output {
            Output::Send { to, bytes } => self.send(id, to, &bytes),
            Output::Persist(persist) => running.waiting.push_back(persist),
            Output::Commit(entries) => {
                for committed in entries {
                    running.keys.apply(&committed);
                    self.checks.committed(id, &committed);
                }
            }
            Output::Read { context, index } => self.checks.confirmed(id, context, index),
            Output::ReadFailed { context } => self.checks.failed(id, context),
            Output::Leader { term, us, .. } => {
                let last = running.consensus.status().last;
                self.checks.leader(id, term, us, last);
            }
            Output::NeedSnapshot { to, at_least } => {
                // A checkpoint takes its time.
                let life = self.nodes[&id].life;
                let at = self.now + self.delay() * 4;
                self.schedule(at, Event::SendSnapshot { from: id, life, to, at_least });
            }
        }
    }

    fn send(&mut self, from: u64, to: u64, bytes: &Bytes) {
        let is_cut = self.network.cut.contains(&(from, to));
        if is_cut || self.rng.random_range(0..100) < self.network.loss {
            return;
        }
        let copies = 1 + u32::from(self.rng.random_range(0..100) < self.network.duplication);
        for _ in 0..copies {
            let at = self.now + self.delay();
            self.schedule(at, Event::Message { to, bytes: bytes.clone() });
        }
    }

    fn send_snapshot(&mut self, from: u64, to: u64, at_least: u64) {
        let Some(node) = self.nodes.get_mut(&from) else { return };
        if node.durable.applied.position.index < at_least {
            node.checkpoint();
        }
        let (keys, life) = (node.durable.clone(), node.life);
        let Some(running) = &mut node.running else { return };
        let bytes = running.consensus.begin_snapshot(to, &keys.applied);
        let at = self.now + self.delay() * 4 + self.snapshot_delay;
        let is_cut = self.network.cut.contains(&(from, to)) || self.rng.random_range(0..100) < self.network.loss;
        match bytes {
            Some(bytes) if !is_cut => self.schedule(at, Event::Snapshot { from, to, keys, bytes }),
            Some(_) | None => self.schedule(at, Event::SnapshotSent { from, life, to, ok: false }),
        }
    }

    /// Lets the disk begin with all that waits.
    fn write(&mut self, id: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let life = node.life;
        let Some(running) = &mut node.running else { return };
        if running.writing.is_empty() && !running.waiting.is_empty() {
            running.writing = running.waiting.drain(..).collect();
            let nanos = self.rng.random_range(1..=self.disk_delay.as_nanos() as u64);
            self.schedule(self.now + Duration::from_nanos(nanos), Event::Stored { id, life });
        }
    }

    fn answer(&mut self, id: u64) {
        let Some(running) = self.nodes.get(&id).and_then(|node| node.running.as_ref()) else { return };
        self.checks.answer(id, running.keys.applied.position.index);
    }

    fn delay(&mut self) -> Duration {
        let most = self.network.delay.as_nanos() as u64;
        // Now and then far behind: that reorders.
        let most = if self.rng.random_ratio(1, 20) { most * 10 } else { most };
        Duration::from_nanos(self.rng.random_range(1..=most))
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    fn note(&mut self, id: u64, output: &Output) {
        let text = format!("{} {id} {output:?}", self.now.as_nanos());
        self.trace = self.trace.rotate_left(7) ^ u64::from(crc32fast::hash(text.as_bytes()));
    }
}
