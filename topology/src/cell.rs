//! Where containers stand: which cell and slot of its host each has, and which hosts share a cell of a service.
//!
//! A cell is a pool of gossip of at most [`CELL_SIZE`] members. In a *hosted* cell these are containers of one host, and its
//! agent in slot 0. In a *service cell* they are representatives of one service on several hosts. This file knows neither
//! the members' state nor any time.
//!
//! ```text
//!  hosted cells of h1:  0 [agent c1 c2 … c63]  1 [agent c64 …]        who moves into a free slot is another generation
//!  cell of "web":       [h1/0 h1/1 h1/2 h2/0 h5/0 h5/1 …]             at most three of a host
//! ```

use std::collections::BTreeSet;

use ringmesh_proto::HostId;

use crate::hash;

/// The most members of a cell, the agent among them.
pub const CELL_SIZE: usize = 64;

/// The slot of the agent in each hosted cell.
pub const AGENT_SLOT: u16 = 0;

/// The most hosted cells of a host: room for 32,256 containers.
pub const MAX_CELLS: usize = 512;

/// The most representatives that a host has in one cell of a service.
pub const MAX_REPRESENTATIVES: usize = 3;

/// Two cells become one when together they fill at most so many slots: half of one, so that the next containers that come
/// do not need another cell at once.
const MERGED: u32 = CELL_SIZE as u32 / 2;

/// A slot of a hosted cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The cell's number on its host, from 0.
    pub cell: u16,
    /// From 1; [`AGENT_SLOT`] is the agent's.
    pub slot: u16,
}

/// The slots of one host's cells: who has one keeps it, and only a merge of cells moves anybody.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    cells: Vec<Taken>,
}

#[derive(Clone, Debug)]
struct Taken {
    /// A bit for each slot.
    slots: u64,
    /// The last generation that each slot had.
    generations: [u16; CELL_SIZE],
}

impl Taken {
    const EMPTY: Self = Self { slots: 1 << AGENT_SLOT, generations: [0; CELL_SIZE] };

    /// Containers, not the agent.
    fn containers(&self) -> u32 {
        self.slots.count_ones() - 1
    }
}

impl Slots {
    /// Takes a free slot, of the first cell that has one. `None` if all of [`MAX_CELLS`] are full.
    pub fn take(&mut self) -> Option<Place> {
        let cell = self.cells.iter().position(|cell| cell.slots != u64::MAX).unwrap_or(self.cells.len());
        if cell == self.cells.len() {
            if cell == MAX_CELLS {
                return None;
            }
            self.cells.push(Taken::EMPTY);
        }
        Some(self.take_in(cell))
    }

    fn take_in(&mut self, cell: usize) -> Place {
        let taken = &mut self.cells[cell];
        let slot = taken.slots.trailing_ones() as u16;
        taken.slots |= 1 << slot;
        Place { cell: cell as u16, slot }
    }

    /// Gives a slot back. Its generations go on when somebody else takes it.
    pub fn give_back(&mut self, place: Place) {
        if let Some(cell) = self.cells.get_mut(usize::from(place.cell)).filter(|_| place.slot != AGENT_SLOT) {
            cell.slots &= !(1 << place.slot);
        }
    }

    /// Begins another life in a slot that is taken: its generation, never 0, and higher than the one before but for the
    /// wrap after 65,535 lives.
    pub fn begin(&mut self, place: Place) -> u16 {
        let generation = &mut self.cells[usize::from(place.cell)].generations[usize::from(place.slot)];
        *generation = generation.checked_add(1).unwrap_or(1);
        *generation
    }

    /// Containers that have a slot in this cell.
    pub fn containers(&self, cell: u16) -> usize {
        self.cells.get(usize::from(cell)).map_or(0, |cell| cell.containers() as usize)
    }

    /// Moves the containers of the emptiest cell into another one, if two are so empty that one is enough: from where to
    /// where. One pair of cells a call.
    pub fn merge(&mut self) -> Vec<(Place, Place)> {
        let inhabited = || self.cells.iter().enumerate().filter(|(_, cell)| cell.containers() > 0);
        let Some((from, emptiest)) = inhabited().min_by_key(|(at, cell)| (cell.containers(), usize::MAX - at)) else {
            return Vec::new();
        };
        let fits = |cell: &Taken| cell.containers() + emptiest.containers() <= MERGED;
        let fullest = inhabited().filter(|(at, cell)| *at != from && fits(cell));
        let Some((to, _)) = fullest.max_by_key(|(at, cell)| (cell.containers(), usize::MAX - at)) else {
            return Vec::new();
        };
        let slots = self.cells[from].slots;
        let leaving = (AGENT_SLOT + 1..CELL_SIZE as u16).filter(|slot| slots & 1 << slot != 0);
        let moves = leaving.map(|slot| (Place { cell: from as u16, slot }, self.take_in(to))).collect();
        self.cells[from].slots = Taken::EMPTY.slots;
        moves
    }
}

/// A cell of a service, as each of its hosts computes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCell {
    /// Names it: the same at all hosts that are in it.
    pub key: u32,
    /// The hosts that are in it.
    pub hosts: BTreeSet<HostId>,
    /// How many containers each of them sends, if it has as many.
    pub representatives: usize,
}

/// The cell of a service that `me` is in, if others of the `hosts` that have the service are in it, too.
///
/// Up to 64 hosts share one. Of more, those that are next to each other by a hash do: one that comes or goes moves at
/// most one host at each border of two cells.
pub fn service_cell(service: u32, hosts: &BTreeSet<HostId>, me: HostId) -> Option<ServiceCell> {
    let mut order: Vec<HostId> = hosts.iter().copied().collect();
    order.sort_by_key(|host| (hash(&[service.into(), host.raw().into()]), *host));
    let cells = order.len().div_ceil(CELL_SIZE);
    let cell_of = |at: usize| at * cells / order.len();
    let mine = cell_of(order.iter().position(|host| *host == me)?);
    let hosts: BTreeSet<HostId> = (0..order.len()).filter(|at| cell_of(*at) == mine).map(|at| order[at]).collect();
    let representatives = (CELL_SIZE / hosts.len()).min(MAX_REPRESENTATIVES);
    let key = hash(&[service.into(), mine as u64]) as u32;
    (hosts.len() > 1).then_some(ServiceCell { key, hosts, representatives })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_cell_is_filled_before_the_next_and_a_free_slot_is_used_again_in_a_later_generation() {
        let mut slots = Slots::default();
        let places: Vec<Place> = (0..64).filter_map(|_| slots.take()).collect();
        assert_eq!((places[0], places[62]), (Place { cell: 0, slot: 1 }, Place { cell: 0, slot: 63 }));
        assert_eq!(places[63], Place { cell: 1, slot: 1 });
        assert_eq!((slots.begin(places[7]), slots.begin(places[7])), (1, 2));
        slots.give_back(places[7]);
        let again = slots.take();
        assert_eq!(again, Some(places[7]));
        assert_eq!(slots.begin(places[7]), 3);
    }

    #[test]
    fn no_more_than_all_slots_are_taken_and_the_agents_is_never_free() {
        let mut slots = Slots::default();
        let all: BTreeSet<Place> = std::iter::from_fn(|| slots.take()).collect();
        assert_eq!(all.len(), MAX_CELLS * (CELL_SIZE - 1));
        slots.give_back(Place { cell: 3, slot: AGENT_SLOT });
        assert_eq!(slots.take(), None);
    }

    #[test]
    fn generations_wrap_past_zero() {
        let mut slots = Slots::default();
        let place = slots.take().expect("it is empty");
        let lives: Vec<u16> = (0..=u32::from(u16::MAX)).map(|_| slots.begin(place)).collect();
        assert_eq!((lives[0], lives[65_534], lives[65_535]), (1, u16::MAX, 1));
    }

    #[test]
    fn two_cells_that_fill_half_of_one_become_one_and_a_lone_one_stays() {
        let mut slots = Slots::default();
        let places: Vec<Place> = (0..63 * 2).filter_map(|_| slots.take()).collect();
        assert!(slots.merge().is_empty(), "both are full");
        places[20..63].iter().for_each(|place| slots.give_back(*place));
        places[63 + 12..].iter().for_each(|place| slots.give_back(*place));
        let moves = slots.merge();
        assert_eq!(moves.len(), 12, "of 20 and 12, the fewer move");
        assert!(moves.iter().all(|(from, to)| (from.cell, to.cell) == (1, 0)), "{moves:?}");
        assert_eq!((slots.containers(0), slots.containers(1)), (32, 0));
        assert!(slots.merge().is_empty());
    }

    fn ids(hosts: std::ops::Range<u32>) -> BTreeSet<HostId> {
        hosts.map(HostId::new).collect()
    }

    #[test]
    fn a_lone_host_has_no_cell_with_others_and_one_without_the_service_has_none() {
        assert_eq!(service_cell(7, &ids(1..2), HostId::new(1)), None);
        assert_eq!(service_cell(7, &ids(1..5), HostId::new(9)), None);
        let cell = service_cell(7, &ids(1..4), HostId::new(2)).expect("there are others");
        assert_eq!((cell.hosts, cell.representatives), (ids(1..4), MAX_REPRESENTATIVES));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn all_hosts_of_a_cell_agree_on_it_and_it_is_never_too_large(service: u32, count in 2_u32..400) {
            let hosts = ids(0..count);
            let mut found = BTreeMap::<u32, ServiceCell>::new();
            for me in &hosts {
                let cell = service_cell(service, &hosts, *me).expect("there are others");
                prop_assert!(cell.hosts.contains(me));
                prop_assert!(cell.hosts.len() * cell.representatives <= CELL_SIZE);
                prop_assert_eq!(found.entry(cell.key).or_insert_with(|| cell.clone()), &cell);
            }
            prop_assert_eq!(found.values().map(|cell| cell.hosts.len()).sum::<usize>(), hosts.len());
        }

        #[test]
        fn a_host_that_comes_moves_few(service: u32, count in 2_u32..300) {
            let (before, after) = (ids(0..count), ids(0..count + 1));
            let key = |hosts, me| service_cell(service, hosts, me).map(|cell| cell.key);
            let moved = before.iter().filter(|me| key(&before, **me) != key(&after, **me)).count();
            let cells = (count as usize).div_ceil(CELL_SIZE);
            // A new cell takes its share of all others.
            let bound = if (count as usize + 1).div_ceil(CELL_SIZE) > cells { count as usize } else { cells };
            prop_assert!(moved <= bound, "{} of {} moved", moved, count);
        }
    }
}
