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

/// The quiet ones of one cell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Quiet {
    pub(super) members: u32,
    /// Their part of the cell's hash.
    pub(super) hash: u64,
}

/// The slot of a quiet container, by its number from 0.
fn place(number: u32) -> Place {
    Place { cell: (number / SEATS) as u16, slot: (number % SEATS) as u16 + 1 }
}

/// What an alive member in this life adds to its cell's hash.
fn part(place: Place, generation: u16) -> u64 {
    hash(&[place.cell.into(), place.slot.into(), generation.into(), MemberState::Alive as u64])
}

impl Cells {
    /// The first containers of this host, so many, are quiet members.
    pub fn hush(&mut self, containers: u32) {
        for number in 0..containers {
            let Some(place) = self.slots.take() else { return };
            debug_assert_eq!(place, self::place(number), "there are no others yet");
            let generation = self.slots.begin(place);
            let cell = usize::from(place.cell);
            if self.quiet.len() <= cell {
                self.quiet.resize(cell + 1, Quiet::default());
            }
            self.quiet[cell].members += 1;
            self.quiet[cell].hash = self.quiet[cell].hash.wrapping_add(part(place, generation));
        }
    }

    /// A quiet member is one like the others from now on. `signs`: signs of life that its container gave so far, and how long
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
        let Some(quiet) = self.quiet.get_mut(usize::from(place.cell)).filter(|quiet| quiet.members > 0) else { return };
        let generation = self.lives.remove(&place).unwrap_or(1);
        quiet.members -= 1;
        quiet.hash = quiet.hash.wrapping_sub(part(place, generation));
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

    /// A member is quiet again, if it is alive and nobody is in doubt of it. Those of a cell are forgotten when the last of
    /// them is: the others would take one that is gone for down.
    pub fn rest(&mut self, number: u32, container: &str) -> bool {
        let place = place(number);
        let is_quiet = |seat: &Seat| {
            let alive = seat.told == MemberState::Alive && !seat.alarmed && !seat.is_doubted() && !seat.missed;
            alive && seat.runs && !seat.evidence.frozen && *seat.container == *container
        };
        let Some(cell) = self.cells.get(usize::from(place.cell)) else { return false };
        if !cell.seat_at(place.slot).is_some_and(is_quiet) {
            return false;
        }
        self.resting.insert(place);
        let seats: Vec<(Place, u16, Arc<str>)> = cell
            .seats()
            .map(|(slot, seat)| (Place { cell: place.cell, slot }, seat.generation, Arc::clone(&seat.container)))
            .collect();
        if seats.iter().all(|(place, ..)| self.resting.contains(place)) {
            self.cells[usize::from(place.cell)] = Cell::new(place.cell, &mut self.rng);
            let quiet = &mut self.quiet[usize::from(place.cell)];
            for (place, generation, container) in seats {
                if generation != 1 {
                    self.lives.insert(place, generation);
                }
                self.resting.remove(&place);
                self.places.remove(&container);
                quiet.members += 1;
                quiet.hash = quiet.hash.wrapping_add(part(place, generation));
            }
        }
        true
    }

    /// Of all cells that have members, quiet or not: number and hash.
    pub(super) fn hashes(&self) -> impl Iterator<Item = (usize, u64)> {
        (0..self.cells.len().max(self.quiet.len())).filter_map(|number| {
            let quiet = self.quiet.get(number).copied().unwrap_or_default();
            let cell = self.cells.get(number);
            let members = cell.map_or(0, |cell| cell.counts.members()) + quiet.members;
            (members > 0).then(|| (number, cell.map_or(0, |cell| cell.hash).wrapping_add(quiet.hash)))
        })
    }
}
