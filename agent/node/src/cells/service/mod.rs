//! Cells of services: containers of one service on several hosts watch each other over the hosts' connections.
//!
//! It owns this host's representatives, at most three a service, in which cell each is, and what the others say of them. A
//! representative speaks only while its container does. That one is down concerns its own host alone: there it is told, if
//! the container is silent, with the hosts that say so. Which hosts have a service it is told; it knows no link and no address.
//!
//! ```text
//!   h1: web-1, web-2, web-3 ─┐  datagrams: key of the cell, SWIM message
//!   h2: web-7 ───────────────┼─ cell of "web": h2 does not hear web-2 ──▶ h1: `Lost { web-2, accusers: [h2] }`
//!   h5: web-4, web-9 ────────┘
//! ```

mod member;
mod seats;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, Bytes};
use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
use ringmesh_proto::{Generation, HostId, Instant, v1};
use ringmesh_topology::{cell::service_cell, hash};

use super::Voice;
use crate::{
    health::spec::ContainerSpec,
    membership::{Refused, SwimState, filter},
};
use member::{Due, PROBE_PERIOD, Post, Representative, on_grid};
use seats::Cell;

/// Services of one host that have cells: what it sends for them is bounded, and what it says of them in its record. Of more,
/// those with the lowest keys have: the same at every host.
pub const MAX_SERVICES: usize = 16;

/// Between two looks at which representatives there are, who is missing, and who is lost.
const LOOK: Duration = Duration::from_secs(5);

/// Timers that one call handles before others have their turn.
const MAX_TIMERS: usize = 256;

/// A representative is down by the word of others, and its container is silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Its container.
    pub container: Arc<str>,
    /// The service that it stood for.
    pub service: String,
    /// The hosts whose representatives did not hear it, by id.
    pub accusers: Vec<HostId>,
}

/// A service that containers of this host have.
struct Service {
    name: String,
    /// As [`full_name`] has it.
    full: String,
    /// In the order in which they become representatives.
    containers: BTreeSet<Arc<str>>,
}

/// The cells of services that this host has a part in.
pub struct ServiceCells {
    born: Generation,
    services: BTreeMap<u32, Service>,
    /// The cell of each service, by the cell's key.
    cells: BTreeMap<u32, Cell>,
    post: Post,
    lost: Vec<Lost>,
    /// This process did not run, or was cut off, for so long in all: the clock of all cells is behind by it.
    paused: Duration,
    /// This host is cut off since then: the clock stands still.
    frozen: Option<Instant>,
    next_look: Option<Instant>,
}

impl ServiceCells {
    /// No services yet. `born`: the generation in which this process began. All draws follow from `seed`.
    pub fn new(me: HostId, born: Generation, seed: u64) -> Self {
        Self {
            born,
            services: BTreeMap::new(),
            cells: BTreeMap::new(),
            post: Post::new(me, Xoshiro256PlusPlus::seed_from_u64(seed)),
            lost: Vec::new(),
            paused: Duration::ZERO,
            frozen: None,
            next_look: None,
        }
    }

    /// A container of this host has these services.
    pub fn declare(&mut self, container: &ContainerSpec) {
        for service in &container.services {
            let (name, full) = (service.name.clone(), full_name(container, &service.name));
            let entry = self.services.entry(key(container, &service.name));
            let service = entry.or_insert_with(|| Service { name, full, containers: BTreeSet::new() });
            service.containers.insert(container.name.as_str().into());
        }
    }

    /// Another container takes the place of this one.
    pub fn replace(&mut self, old: &str, by: &ContainerSpec) {
        for service in self.services.values_mut() {
            service.containers.remove(old);
        }
        self.declare(by);
    }

    /// Forgets which containers have services that have no cell.
    pub(crate) fn forget_left_out(&mut self) {
        self.services.values_mut().skip(MAX_SERVICES).for_each(|service| service.containers.clear());
    }

    /// The keys of the services that this host's record is to name, at most [`MAX_SERVICES`].
    pub fn announced(&self) -> impl Iterator<Item = u32> {
        self.services.keys().copied().take(MAX_SERVICES)
    }

    /// Services that have no cell because there are too many.
    pub fn left_out(&self) -> usize {
        self.services.len().saturating_sub(MAX_SERVICES)
    }

    /// Which other hosts live and say that they have which service.
    pub fn handle_hosts(&mut self, now: Instant, hosts: &BTreeMap<u32, BTreeSet<HostId>>) {
        let me = self.post.me;
        let mut wanted = BTreeMap::new();
        for service in self.services.keys().take(MAX_SERVICES) {
            let mut all = hosts.get(service).cloned().unwrap_or_default();
            all.insert(me);
            wanted.extend(service_cell(*service, &all, me).map(|cell| (cell.key, (*service, cell))));
        }
        self.post.now = self.clock(now);
        self.cells.retain(|key, cell| {
            let stays = wanted.contains_key(key);
            if !stays {
                cell.leave(&mut self.post);
            }
            stays
        });
        for (key, (service, plan)) in wanted {
            let cell = self.cells.entry(key).or_insert_with(|| Cell::new(key, service));
            if cell.plan(plan, &mut self.post) {
                self.next_look = Some(self.post.now);
            }
        }
        if self.cells.is_empty() {
            self.next_look = None;
        }
    }

    /// Takes a message that came from the host with this certificate. `voice`: of a container of this host.
    pub fn handle_message(
        &mut self,
        now: Instant,
        from: HostId,
        mut payload: Bytes,
        voice: impl Fn(&str) -> Voice,
    ) -> Result<(), Refused> {
        let key = payload.try_get_u32().map_err(|_| Refused::Malformed)?;
        // The sender may know better or worse than we who has the service.
        let Some(cell) = self.cells.get_mut(&key).filter(|cell| cell.has(from)) else { return Ok(()) };
        let (me, mut over) = (self.post.me, Vec::new());
        let news = filter::read(&payload, |member: &Representative, state| {
            if state == SwimState::Down {
                over.push(*member);
            }
            // Which lives ours have nobody knows better.
            let lives = member.host() != me || cell.lives(member);
            lives && cell.has(member.host()) && usize::from(member.slot) < cell.representatives()
        })?;
        if news.header.src.host() != from || from == me {
            return Err(Refused::Spoofed);
        }
        self.post.now = self.frozen.unwrap_or(now) - self.paused;
        cell.note_down(&over);
        cell.deliver(&news.header, news.payload.as_deref().unwrap_or(&payload), &mut self.post, &voice);
        self.deliver_local(&voice);
        Ok(())
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Instant, voice: impl Fn(&str) -> Voice) {
        if self.frozen.is_some() {
            return;
        }
        self.post.now = self.clock(now);
        for _ in 0..MAX_TIMERS {
            let due = self.post.timers.first_entry().filter(|due| due.key().0 <= self.post.now);
            let Some((key, due)) = due.map(|due| due.remove()) else { break };
            let Some(cell) = self.cells.get_mut(&key) else { continue };
            match due {
                Due::Timer(of, timer) => cell.run(of, timer, &mut self.post, &voice),
                Due::Gossip(slot) => cell.gossip(slot, &mut self.post, &voice),
            }
            self.deliver_local(&voice);
        }
        if self.next_look.is_some_and(|at| at <= self.post.now) {
            self.look(&voice);
        }
    }

    fn look(&mut self, voice: &impl Fn(&str) -> Voice) {
        self.next_look = Some(on_grid(self.post.now + LOOK));
        let keys: Vec<u32> = self.cells.keys().copied().collect();
        for key in keys {
            let Some(cell) = self.cells.get_mut(&key) else { continue };
            let Some(service) = self.services.get(&cell.service) else { continue };
            let lost = cell.take_lost(voice).into_iter().filter(|(lost, _)| service.containers.contains(lost));
            for (container, accusers) in lost {
                self.lost.push(Lost { container, service: service.name.clone(), accusers });
            }
            cell.choose(&service.containers, self.born, &mut self.post, voice);
            cell.call_absent(&mut self.post, voice);
            self.deliver_local(voice);
        }
    }

    fn deliver_local(&mut self, voice: &impl Fn(&str) -> Voice) {
        while let Some((key, bytes)) = self.post.local.pop_front() {
            let Some(cell) = self.cells.get_mut(&key) else { continue };
            if let Ok(news) = filter::read(&bytes, |_: &Representative, _| true) {
                cell.deliver(&news.header, &bytes, &mut self.post, voice);
            }
        }
    }

    /// When [`Self::handle_timeout`] is next wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timer = self.post.timers.first_key_value().map(|((at, ..), _)| *at);
        let next = timer.into_iter().chain(self.next_look).min().filter(|_| self.frozen.is_none());
        next.map(|at| at + self.paused)
    }

    /// A message to send to a host.
    pub fn poll_transmit(&mut self) -> Option<(HostId, Bytes)> {
        self.post.transmits.pop_front()
    }

    /// A representative that is lost: told once, until it speaks again.
    pub fn poll_lost(&mut self) -> Option<Lost> {
        self.lost.pop()
    }

    /// This process did not run for so long: for the cells no time has passed.
    pub fn pause(&mut self, span: Duration) {
        if self.frozen.is_none() {
            self.paused += span;
        }
    }

    /// Stops the cells' clock, or lets it run on: a host that is cut off probes and suspects nobody.
    pub fn freeze(&mut self, now: Instant, frozen: bool) {
        match (self.frozen, frozen) {
            (None, true) => self.frozen = Some(now),
            (Some(since), false) => {
                self.frozen = None;
                self.paused += now.since(since);
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    /// Counts what a query would show otherwise than before.
    pub fn revision(&self) -> u64 {
        self.post.revision
    }

    /// The cells as this host sees them, with their members.
    pub fn show(&self, host: &str, name_of: impl Fn(HostId) -> String) -> Vec<v1::Cell> {
        let named =
            |cell: &Cell| self.services.get(&cell.service).map_or("", |service| service.full.as_str()).to_owned();
        self.cells.values().map(|cell| cell.show(host, named(cell), &name_of)).collect()
    }

    fn clock(&self, now: Instant) -> Instant {
        self.frozen.unwrap_or(now) - self.paused
    }
}

/// "acme/shop/web": the tenant, the application by the label `app`, and the service; what there is of it.
fn full_name(container: &ContainerSpec, service: &str) -> String {
    let app = container.labels.get("app").map_or("", String::as_str);
    let parts = [container.tenant.as_str(), app, service];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

/// What hosts know a service by: the same at all of them. Two services may have the same one, by chance one in 4 billion for
/// each pair: their containers are then in one cell, where they do no harm to each other.
fn key(container: &ContainerSpec, service: &str) -> u32 {
    let app = container.labels.get("app").map_or("", String::as_str);
    let mut words = Vec::new();
    for text in [container.tenant.as_str(), app, service] {
        words.push(text.len() as u64);
        words.extend(
            text.as_bytes().chunks(8).map(|chunk| chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))),
        );
    }
    hash(&words) as u32
}
