//! The timers of all members of all hosted cells.
//!
//! A cell has its turn on a grid of one second, and each cell at another tenth of it: so many timers are due at once that
//! waking up for them costs nothing beside them, and an agent with one cell wakes up at most once a second for it.

use std::{collections::BTreeMap, time::Duration};

use foca::Timer;

use super::member::Slot;

/// The unit of the wheel: the grid of the host loop's timers.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Ticks between two turns of a cell.
const GRID: u64 = 10;

/// What is due for a member, or a turn of its cell alone.
pub(super) struct Entry<I> {
    pub(super) cell: u16,
    rank: u8,
    /// Whose it is; a later life has nothing to do with it.
    pub(super) of: I,
    pub(super) timer: Option<Timer<I>>,
}

/// Timers by the tick at which they are due.
pub(super) struct Wheel<I> {
    ticks: BTreeMap<u64, Vec<Entry<I>>>,
}

impl<I> Default for Wheel<I> {
    fn default() -> Self {
        Self { ticks: BTreeMap::new() }
    }
}

impl Wheel<Slot> {
    /// A timer of a member that is due so long after the tick `now`, at the next turn of its cell.
    pub(super) fn submit(&mut self, now: u64, after: Duration, cell: u16, of: Slot, timer: Timer<Slot>) {
        // Of timers that are due together, a probe's second stage is first: without it the probe is incomplete.
        let rank = u8::from(!matches!(timer, Timer::SendIndirectProbe { .. }));
        let at = turn_of(cell, now + (after.as_nanos() / TICK.as_nanos()).max(1) as u64);
        self.ticks.entry(at).or_default().push(Entry { cell, rank, of, timer: Some(timer) });
    }

    /// The next turn of a cell, whether a timer is due then or not.
    pub(super) fn call(&mut self, now: u64, cell: u16, of: Slot) {
        let at = turn_of(cell, now + 1);
        self.ticks.entry(at).or_default().push(Entry { cell, rank: 0, of, timer: None });
    }

    /// The next tick at which anything is due.
    pub(super) fn next(&self) -> Option<u64> {
        self.ticks.first_key_value().map(|(tick, _)| *tick)
    }

    /// What is due at the first tick that is not after `now`, cell by cell, each cell's in foca's order. About `max` of
    /// it: the rest stays, and no cell is divided.
    pub(super) fn take_due(&mut self, now: u64, max: usize) -> Option<(u64, Vec<Entry<Slot>>)> {
        let mut first = self.ticks.first_entry().filter(|first| *first.key() <= now)?;
        let tick = *first.key();
        let due = first.get_mut();
        // Stable: what is the same in both is left as it was submitted.
        due.sort_by_key(|entry| (entry.cell, entry.rank));
        let last = due.get(max).map(|entry| entry.cell);
        let end = last.map_or(due.len(), |cell| due.partition_point(|entry| entry.cell <= cell));
        let rest = due.split_off(end);
        let taken = std::mem::replace(due, rest);
        if due.is_empty() {
            first.remove();
        }
        Some((tick, taken))
    }
}

/// The first turn of a cell at this tick or later.
fn turn_of(cell: u16, tick: u64) -> u64 {
    let phase = u64::from(cell) % GRID;
    (tick + GRID - 1 - phase) / GRID * GRID + phase
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Slot = Slot { slot: 1, generation: 1 };

    #[test]
    fn cells_have_their_turns_once_a_second_each_at_its_own_tick() {
        assert_eq!([0, 1, 5, 10].map(|tick| turn_of(0, tick)), [0, 10, 10, 10]);
        assert_eq!([0, 3, 4, 13].map(|tick| turn_of(13, tick)), [3, 3, 13, 13]);
    }

    #[test]
    fn timers_come_in_the_order_of_time_and_then_of_cells_and_a_probe_is_finished_before_the_next() {
        let mut wheel = Wheel::default();
        let probe = |token| Timer::ProbeRandomMember(token);
        let indirect = Timer::SendIndirectProbe { probed_id: LIFE, token: 0 };
        wheel.submit(0, Duration::from_secs(2), 10, LIFE, probe(1));
        wheel.submit(0, Duration::from_secs(2), 0, LIFE, probe(2));
        wheel.submit(0, Duration::from_secs(2), 0, LIFE, indirect.clone());
        wheel.submit(0, Duration::from_secs(1), 0, LIFE, probe(3));
        wheel.call(0, 7, LIFE);
        assert!(wheel.take_due(6, 9).is_none());
        let mut due = || {
            let (tick, taken) = wheel.take_due(20, 1).expect("something is due");
            (tick, taken.into_iter().map(|entry| (entry.cell, entry.timer)).collect::<Vec<_>>())
        };
        assert_eq!(due(), (7, vec![(7, None)]));
        assert_eq!(due(), (10, vec![(0, Some(probe(3)))]));
        assert_eq!(due(), (20, vec![(0, Some(indirect)), (0, Some(probe(2)))]), "a cell is not divided");
        assert_eq!(due(), (20, vec![(10, Some(probe(1)))]));
        assert_eq!(wheel.next(), None);
    }
}
