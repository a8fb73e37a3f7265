//! Gossip among this host's containers, in cells of at most 63 of them and the agent: each is a member of SWIM.
//!
//! It owns the members, moves what they say to each other, and lets one speak only while there is evidence that its container
//! lives: its process runs, is not frozen, and gives signs of life when it is probed. So a container that says nothing is
//! suspected and taken for down by the others of its cell, as a host is by hosts, and first of all by the agent. It knows no
//! probe, no runtime and no other host, and judges no service.
//!
//! ```text
//!  handle_status ─┐              ┌─ cell 0: agent · c1 · c2 … c63 ─┐ a turn a second:
//!  handle_reply ──┼─▶ evidence ─▶│  cell 1: agent · c64 …          │ timers ▸ letters ▸ answers
//!  heartbeat ─────┘   (a gate)   └─────────────────────────────────┘ ──▶ Change, when one is down or back
//! ```
//!
//! A container may have a member of its own inside: then what is said to it goes out in packets, and its letters, as far as
//! they are believed, are all the evidence there is ([`inside`]).
//!
//! In [`service`], with the same evidence, containers of several hosts watch each other.

mod cell;
mod evidence;
mod implicit;
mod inside;
mod mail;
mod member;
pub mod service;
#[cfg(test)]
mod tests;
mod wheel;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
use ringmesh_proto::{Instant, v1};
use ringmesh_topology::{
    cell::{Place, Slots},
    hash,
};

use crate::{
    health::spec::{ContainerState, ContainerStatus},
    membership::Refused,
};
use cell::{Cell, Seat, Tools};
use evidence::Evidence;
pub(crate) use evidence::PATIENCE;
use implicit::Implicit;
use inside::Outbox;
use mail::Mailbox;
use member::{PROBE_PERIOD, Slot};
use wheel::{TICK, Wheel};

/// Timers that one call handles before others have their turn: about a millisecond of work.
const MAX_TIMERS: usize = 512;

/// What a container's cell takes it for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberState {
    /// No member: it does not run.
    #[default]
    Gone,
    /// It answers.
    Alive,
    /// It did not answer a probe, and has some seconds to do so.
    Suspect,
    /// It gives no sign of life.
    Down,
    /// It is paused, which is no death.
    Frozen,
}

/// A container is taken for something else than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub container: Arc<str>,
    /// Where it is.
    pub place: Place,
    /// Its life there.
    pub generation: u16,
    /// What it is taken for now.
    pub state: MemberState,
    /// What everybody should hear of it.
    pub news: Option<News>,
    /// For how long it has given no sign of life.
    pub silent_for: Duration,
    /// It is a member inside that says so, or not.
    pub inside: bool,
}

/// What everybody should hear of a container, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It gives no sign of life, though its process runs.
    Silent,
    /// It gives signs of life again.
    Heard,
}

/// What there is of a container to speak for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// There is evidence that it lives.
    Speaks,
    /// Its process runs, and gives no sign of life.
    Silent,
    /// It is paused.
    Frozen,
    /// Its process does not run.
    Gone,
}

/// All hosted cells of one host.
pub struct Cells {
    slots: Slots,
    places: BTreeMap<Arc<str>, Place>,
    cells: Vec<Cell>,
    /// By cell.
    implicit: Vec<Implicit>,
    /// They will be implicit when all others of their cell are.
    resting: BTreeSet<Place>,
    /// Of implicit members that are not in their first life: which it is.
    lives: BTreeMap<Place, u16>,
    wheel: Wheel<Slot>,
    mail: Mailbox,
    outbox: Outbox,
    changes: VecDeque<Change>,
    /// How long this process did not run in all: the cells' clock is behind by it.
    paused: Duration,
    rng: Xoshiro256PlusPlus,
    revision: u64,
}

impl Cells {
    /// No cells yet. All draws follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            slots: Slots::default(),
            places: BTreeMap::new(),
            cells: Vec::new(),
            implicit: Vec::new(),
            resting: BTreeSet::new(),
            lives: BTreeMap::new(),
            wheel: Wheel::default(),
            mail: Mailbox::default(),
            outbox: Outbox::default(),
            changes: VecDeque::new(),
            paused: Duration::ZERO,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            revision: 0,
        }
    }

    /// A container's runtime says what it does. A container keeps its slot until it is not there any more.
    pub fn handle_status(&mut self, now: Instant, status: &ContainerStatus) {
        let now = self.clock(now);
        match status.state {
            ContainerState::Running | ContainerState::Paused => self.lives(now, status),
            ContainerState::Unknown | ContainerState::Created | ContainerState::Stopped => self.ends(now, &status.name),
            ContainerState::Absent => self.vanishes(now, &status.name),
        }
    }

    /// A probe of a container came back: it said something, or nothing at all. A sign of life holds for [`PATIENCE`]
    /// intervals of the check that got it.
    pub fn handle_reply(&mut self, now: Instant, container: &str, silent: bool, interval: Duration, timeout: Duration) {
        if silent {
            self.note_silence(now, container, Evidence::silence);
        } else {
            self.handle_heartbeat(now, container, interval * u32::from(PATIENCE) + timeout);
        }
    }

    /// A container gave a sign of life of its own accord, which holds for so long.
    pub fn handle_heartbeat(&mut self, now: Instant, container: &str, holds: Duration) {
        let now = self.clock(now);
        let Some((place, seat)) = self.seat(container).filter(|(_, seat)| !seat.evidence.inside) else { return };
        seat.evidence.sign(now, holds);
        if seat.missed && seat.evidence.speaks(now) {
            self.begin(now, place);
        }
    }

    /// A container that gives signs of life of its own accord is overdue to give one.
    pub fn handle_missed(&mut self, now: Instant, container: &str) {
        self.note_silence(now, container, Evidence::missed);
    }

    /// A container's member inside is there, and begins a life in its cell. From now on only its own words are signs of this
    /// container's life, whether it goes or not, until the container begins another one.
    pub fn handle_inside(&mut self, now: Instant, container: &str) {
        let now = self.clock(now);
        let Some((place, seat)) = self.seat(container).filter(|(_, seat)| seat.runs) else { return };
        seat.evidence.word(now);
        self.begin(now, place);
    }

    /// A member inside said this to the one in this slot of its cell. Nobody need be meant by it: who says it is not to be
    /// trusted.
    pub fn handle_letter(&mut self, now: Instant, container: &str, to: u16, bytes: &[u8]) -> Result<(), Refused> {
        let now = self.clock(now);
        let listens = |seat: &Seat| seat.evidence.inside && !seat.evidence.frozen && seat.is_introduced();
        let Some((place, seat)) = self.seat(container).filter(|(_, seat)| listens(seat)) else { return Ok(()) };
        let lapsed = seat.missed || seat.told == MemberState::Down;
        let Self { cells, wheel, mail, outbox, rng, .. } = self;
        let cell = &mut cells[usize::from(place.cell)];
        // What is not believed is no sign of life.
        let Some(letter) = cell.examine(now, place.slot, to, bytes)? else { return Ok(()) };
        if let Some(seat) = cell.seat(place.slot) {
            seat.evidence.word(now);
        }
        let tick = ticks(now);
        let stirred = cell.hear(to, &letter, &mut Tools { wheel, mail, outbox, rng, tick, now });
        cell.stale |= stirred;
        match (lapsed, stirred) {
            (true, _) => self.begin(now, place),
            (false, true) => self.call(now, place.cell),
            (false, false) => {}
        }
        Ok(())
    }

    /// What is to be said to the member inside this container.
    pub fn poll_packet(&mut self) -> Option<(Arc<str>, Vec<u8>)> {
        self.outbox.take()
    }

    /// A container is none of this host's any more.
    pub fn forget(&mut self, now: Instant, container: &str) {
        self.vanishes(self.clock(now), container);
    }

    /// Whether a container's member may speak.
    pub fn voice(&self, now: Instant, container: &str) -> Voice {
        let place = self.places.get(container);
        let seat = place.and_then(|place| self.cells.get(usize::from(place.cell))?.seat_at(place.slot));
        match seat.filter(|seat| seat.runs) {
            None => Voice::Gone,
            Some(seat) if seat.evidence.frozen => Voice::Frozen,
            Some(seat) if seat.evidence.speaks(self.clock(now)) => Voice::Speaks,
            Some(_) => Voice::Silent,
        }
    }

    /// This process did not run for so long: for the cells no time has passed. It has for members inside, which may have taken
    /// this agent for down, and do not take that back: they begin other lives.
    pub fn pause(&mut self, now: Instant, span: Duration) {
        self.paused += span;
        if span > PROBE_PERIOD {
            let (now, cells) = (self.clock(now), &self.cells);
            let is_inside = |place: &&Place| {
                let seat = cells.get(usize::from(place.cell)).and_then(|cell| cell.seat_at(place.slot));
                seat.is_some_and(|seat| seat.evidence.inside && seat.is_introduced())
            };
            for place in self.places.values().filter(is_inside).copied().collect::<Vec<_>>() {
                self.begin(now, place);
            }
        }
    }

    /// When [`Self::handle_timeout`] is next wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wheel.next().map(|tick| Instant::from_nanos(tick * TICK.as_nanos() as u64) + self.paused)
    }

    /// Runs what is due; if that is more than about [`MAX_TIMERS`], the rest is due at once again.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.clock(now);
        let mut left = MAX_TIMERS;
        while left > 0 {
            let Some((_, due)) = self.wheel.take_due(ticks(now), left) else { return };
            left = left.saturating_sub(due.len());
            for of_one in due.chunk_by(|one, other| one.cell == other.cell) {
                self.turn(now, of_one[0].cell, of_one);
            }
        }
    }

    /// What is new.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// Counts what a query would show otherwise than before.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Letters between members that were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.mail.dropped()
    }

    /// Of all cells: the same if no member became another, or another thing, since.
    pub fn root(&self) -> u64 {
        self.hashes().map(|(number, of_cell)| hash(&[number as u64, of_cell])).fold(0, u64::wrapping_add)
    }

    /// The cells that have members, as a query shows them.
    pub fn show(&self, host: &str) -> Vec<v1::Cell> {
        let inhabited = self.cells.iter().enumerate().filter(|(_, cell)| cell.counts.members() > 0);
        let show = |(number, cell): (usize, &Cell)| v1::Cell {
            host: host.to_owned(),
            number: number as u32,
            size: cell.counts.members(),
            alive: cell.counts.alive,
            suspect: cell.counts.suspect,
            down: cell.counts.down,
            frozen: cell.counts.frozen,
            bitmap: cell.bitmap().to_vec().into(),
            hash: cell.hash,
            ..v1::Cell::default()
        };
        inhabited.map(show).collect()
    }

    fn turn(&mut self, now: Instant, number: u16, due: &[wheel::Entry<Slot>]) {
        let Some(cell) = self.cells.get_mut(usize::from(number)) else { return };
        let tick = ticks(now);
        let (wheel, mail, outbox, rng) = (&mut self.wheel, &mut self.mail, &mut self.outbox, &mut self.rng);
        if cell.turn(due, &mut Tools { wheel, mail, outbox, rng, tick, now }) {
            for (slot, state) in cell.judge() {
                self.revision += 1;
                if let Some(seat) = cell.seat(slot) {
                    self.changes.push_back(change(now, Place { cell: number, slot }, seat, state));
                }
            }
            // Its news are not yet everywhere, or somebody has to say that it lives.
            cell.call(tick, &mut self.wheel);
        }
        // One that has members has a turn every second, for their probes.
        if self.implicit.get(usize::from(number)).is_some_and(|implicit| implicit.members > 0) && cell.may_doubt() {
            cell.call(tick, &mut self.wheel);
        }
    }

    fn note_silence(&mut self, now: Instant, container: &str, note: impl FnOnce(&mut Evidence)) {
        let now = self.clock(now);
        let Some((place, seat)) = self.seat(container).filter(|(_, seat)| !seat.evidence.inside) else { return };
        note(&mut seat.evidence);
        if seat.evidence.is_asked_enough() && !seat.is_doubted() {
            self.call(now, place.cell);
        }
    }

    fn lives(&mut self, now: Instant, status: &ContainerStatus) {
        let frozen = status.state == ContainerState::Paused;
        let Some((place, seat)) = self.seat(&status.name) else { return self.comes(now, status) };
        let another = !seat.runs || seat.process != status.pid;
        let thaws = seat.evidence.frozen && !frozen;
        if thaws {
            seat.evidence.thaw(now);
        }
        if another {
            seat.evidence = Evidence::new(now);
            seat.process = status.pid;
            seat.runs = true;
        }
        let stale = seat.evidence.frozen != frozen;
        seat.evidence.frozen = frozen;
        if another || thaws && seat.missed {
            self.begin(now, place);
        }
        self.cells[usize::from(place.cell)].stale |= stale || thaws;
        self.call(now, place.cell);
    }

    fn comes(&mut self, now: Instant, status: &ContainerStatus) {
        let Some(place) = self.slots.take() else { return };
        let container: Arc<str> = status.name.as_str().into();
        let mut seat = Seat::new(now, Arc::clone(&container), status.pid);
        seat.evidence.frozen = status.state == ContainerState::Paused;
        self.places.insert(container, place);
        self.sit(now, place, seat);
    }

    fn sit(&mut self, now: Instant, place: Place, seat: Seat) {
        self.make_cell(place.cell);
        let runs = seat.runs;
        self.cells[usize::from(place.cell)].sit(place.slot, seat);
        if runs {
            self.begin(now, place);
        }
    }

    fn make_cell(&mut self, number: u16) {
        while self.cells.len() <= usize::from(number) {
            self.cells.push(Cell::new(self.cells.len() as u16, &mut self.rng));
        }
    }

    /// Another life in this place.
    fn begin(&mut self, now: Instant, place: Place) {
        let generation = self.slots.begin(place);
        let cell = &mut self.cells[usize::from(place.cell)];
        cell.begin(place.slot, generation);
        // That it is another life is told, whatever it is told as.
        if let Some(seat) = cell.seat(place.slot) {
            seat.told = MemberState::Gone;
        }
        self.call(now, place.cell);
    }

    fn ends(&mut self, now: Instant, container: &str) {
        let Some((place, seat)) = self.seat(container) else { return };
        seat.runs = false;
        self.cells[usize::from(place.cell)].end(place.slot);
        self.call(now, place.cell);
    }

    fn vanishes(&mut self, now: Instant, container: &str) {
        let Some(place) = self.places.remove(container) else { return };
        self.slots.give_back(place);
        if let Some(mut seat) = self.cells[usize::from(place.cell)].rise(place.slot) {
            self.revision += 1;
            self.changes.push_back(change(now, place, &mut seat, MemberState::Gone));
        }
        self.call(now, place.cell);
        for (from, to) in self.slots.merge() {
            let Some(mut seat) = self.cells[usize::from(from.cell)].rise(from.slot) else { continue };
            // Not said of this place yet, whether it begins a life there or not.
            seat.told = MemberState::Gone;
            self.places.insert(Arc::clone(&seat.container), to);
            self.sit(now, to, seat);
            self.call(now, from.cell);
        }
    }

    fn seat(&mut self, container: &str) -> Option<(Place, &mut Seat)> {
        let place = *self.places.get(container)?;
        Some((place, self.cells[usize::from(place.cell)].seat(place.slot)?))
    }

    fn call(&mut self, now: Instant, cell: u16) {
        self.cells[usize::from(cell)].call(ticks(now), &mut self.wheel);
    }

    /// The cells' time, which stands still while this process does not run.
    fn clock(&self, now: Instant) -> Instant {
        now - self.paused
    }
}

fn change(now: Instant, place: Place, seat: &mut Seat, state: MemberState) -> Change {
    let speaks = seat.evidence.speaks(now);
    let news = match state {
        MemberState::Down if !seat.alarmed && !speaks => Some(News::Silent),
        MemberState::Alive if seat.alarmed && speaks => Some(News::Heard),
        MemberState::Gone | MemberState::Alive | MemberState::Suspect | MemberState::Down | MemberState::Frozen => None,
    };
    seat.alarmed = match news {
        Some(News::Silent) => true,
        Some(News::Heard) => false,
        // Of one that does not run its runtime tells.
        None => seat.alarmed && state != MemberState::Gone,
    };
    let (container, generation, inside) = (Arc::clone(&seat.container), seat.generation, seat.evidence.inside);
    Change { container, place, generation, state, news, silent_for: now.since(seat.evidence.sign), inside }
}

fn ticks(at: Instant) -> u64 {
    at.as_nanos() / TICK.as_nanos() as u64
}
