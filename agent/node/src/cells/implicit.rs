//! Members of which nothing is kept, see [`crate::health::Health::hush`]: they have their slots, and are alive.
//!
//! Nothing that they would say changes anything. Of a container that falls silent the agent's own member knows it first, by the
//! evidence: the others of its cell only come to say the same.

use std::{sync::Arc, time::Duration};

use ringmesh_proto::Instant;
use ringmesh_topology::{
    cell::{CELL_SIZE, Place},
    hash,
};

use super::{Cells, MemberState, Seat, cell::Cell};

/// Containers of one cell.
const SEATS: u32 = CELL_SIZE as u32 - 1;

/// The implicit ones of one cell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Implicit {
    pub(super) members: u32,
    /// Their part of the cell's hash.
    pub(super) hash: u64,
}

/// The slot of an implicit container, by its number from 0.
fn place(number: u32) -> Place {
    Place { cell: (number / SEATS) as u16, slot: (number % SEATS) as u16 + 1 }
}

/// What an alive member in this life adds to its cell's hash.
fn part(place: Place, generation: u16) -> u64 {
    hash(&[place.cell.into(), place.slot.into(), generation.into(), MemberState::Alive as u64])
}

impl Cells {
    /// The first containers of this host, so many, are implicit members.
    pub fn hush(&mut self, containers: u32) {
        for number in 0..containers {
            let Some(place) = self.slots.take() else { return };
            debug_assert_eq!(place, self::place(number), "there are no others yet");
            let generation = self.slots.begin(place);
            let cell = usize::from(place.cell);
            if self.implicit.len() <= cell {
                self.implicit.resize(cell + 1, Implicit::default());
            }
            self.implicit[cell].members += 1;
            self.implicit[cell].hash = self.implicit[cell].hash.wrapping_add(part(place, generation));
        }
    }

    /// An implicit member is one like the others from now on. `signs`: signs of life that its container gave so far, and how long
    /// each holds.
    pub fn wake(
        &mut self,
        now: Instant,
        number: u32,
        container: &str,
        process: Option<u32>,
        signs: &[(Instant, Duration)],
    ) {
        let (now, place, paused) = (self.clock(now), place(number), self.paused);
        if self.resting.remove(&place) {
            if let Some(seat) = self.cells[usize::from(place.cell)].seat(place.slot) {
                signs.iter().for_each(|(at, holds)| seat.evidence.sign(*at - paused, *holds));
            }
            return;
        }
        let Some(implicit) = self.implicit.get_mut(usize::from(place.cell)).filter(|implicit| implicit.members > 0)
        else {
            return;
        };
        let generation = self.lives.remove(&place).unwrap_or(1);
        implicit.members -= 1;
        implicit.hash = implicit.hash.wrapping_sub(part(place, generation));
        let container: Arc<str> = container.into();
        let mut seat = Seat::new(now, Arc::clone(&container), process);
        seat.told = MemberState::Alive;
        signs.iter().for_each(|(at, holds)| seat.evidence.sign(*at - paused, *holds));
        self.places.insert(container, place);
        self.make_cell(place.cell);
        let cell = &mut self.cells[usize::from(place.cell)];
        cell.sit(place.slot, seat);
        cell.begin(place.slot, generation);
        // It has long been introduced.
        let revision = self.revision;
        self.turn(now, place.cell, &[]);
        self.revision = revision;
    }

    /// A member is implicit again, if it is alive and nobody is in doubt of it. Those of a cell are forgotten when the last of
    /// them is: the others would take one that is gone for down.
    pub fn rest(&mut self, number: u32, container: &str) -> bool {
        let place = place(number);
        let is_implicit = |seat: &Seat| {
            let alive = seat.told == MemberState::Alive && !seat.alarmed && !seat.is_doubted() && !seat.missed;
            alive && seat.runs && !seat.evidence.frozen && *seat.container == *container
        };
        let Some(cell) = self.cells.get(usize::from(place.cell)) else { return false };
        if !cell.seat_at(place.slot).is_some_and(is_implicit) {
            return false;
        }
        self.resting.insert(place);
        let seats: Vec<(Place, u16, Arc<str>)> = cell
            .seats()
            .map(|(slot, seat)| (Place { cell: place.cell, slot }, seat.generation, Arc::clone(&seat.container)))
            .collect();
        if seats.iter().all(|(place, ..)| self.resting.contains(place)) {
            self.cells[usize::from(place.cell)] = Cell::new(place.cell, &mut self.rng);
            let implicit = &mut self.implicit[usize::from(place.cell)];
            for (place, generation, container) in seats {
                if generation != 1 {
                    self.lives.insert(place, generation);
                }
                self.resting.remove(&place);
                self.places.remove(&container);
                implicit.members += 1;
                implicit.hash = implicit.hash.wrapping_add(part(place, generation));
            }
        }
        true
    }

    /// Of all cells that have members, implicit or not: number and hash.
    pub(super) fn hashes(&self) -> impl Iterator<Item = (usize, u64)> {
        (0..self.cells.len().max(self.implicit.len())).filter_map(|number| {
            let implicit = self.implicit.get(number).copied().unwrap_or_default();
            let cell = self.cells.get(number);
            let members = cell.map_or(0, |cell| cell.counts.members()) + implicit.members;
            (members > 0).then(|| (number, cell.map_or(0, |cell| cell.hash).wrapping_add(implicit.hash)))
        })
    }
}
