//! SWIM in a cell: who a member is, and the times that all of them keep.

use core::{
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use foca::{Config, Identity};
use serde::{Deserialize, Serialize};

/// Members of a cell at the most, its agent among them.
pub const CELL_SIZE: usize = 64;

/// Between two probes of a member. A process that ends is known at once, and a service that fails by its own probes, which
/// are more frequent: the cell is for what neither of them tells.
pub const PROBE_PERIOD: Duration = Duration::from_secs(5);

/// After so long without an answer others are asked to try. Hosted members answer in the same turn, one inside its container
/// within milliseconds; only who is silent needs it.
pub const PROBE_RTT: Duration = Duration::from_secs(1);

/// From a suspicion to down: two periods.
pub const SUSPICION: Duration = Duration::from_secs(10);

/// The most bytes of a message. A header has some 20, each news of a member at most 8; what does not fit is in the next one.
pub const MAX_LETTER: usize = 128;

/// A member as foca's identity: its slot is the address, the generation decides between two lives in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its place in the cell.
    pub slot: u16,
    /// Its life there.
    pub generation: u16,
}

impl Identity for Slot {
    type Addr = u16;

    /// No: another life begins when there is evidence of it, and not because others say that this one is over.
    fn renew(&self) -> Option<Self> {
        None
    }

    fn addr(&self) -> u16 {
        self.slot
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        // As serial numbers (RFC 1982): generations wrap.
        let ahead = self.generation.wrapping_sub(adversary.generation);
        ahead != 0 && ahead < 1 << 15
    }
}

/// SWIM as in the paper: no periodic messages beside its probes, for every wake-up of every member costs. What is new is
/// gossiped by who has it, while there is something.
pub const fn config() -> Config {
    Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_RTT,
        suspect_to_down_after: SUSPICION,
        // One entry a slot, replaced by the slot's next life.
        remove_down_after: None,
        max_packet_size: NonZeroUsize::new(MAX_LETTER).expect("not zero"),
        notify_down_members: false,
        // Those of foca for as many members.
        num_indirect_probes: NonZeroUsize::new(3).expect("not zero"),
        max_transmissions: NonZeroU8::new(7).expect("not zero"),
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_of_two_lives_wins_over_the_wrap() {
        let life = |generation| Slot { slot: 1, generation };
        assert!(life(2).win_addr_conflict(&life(1)));
        assert!(!life(1).win_addr_conflict(&life(2)) && !life(1).win_addr_conflict(&life(1)));
        assert!(life(1).win_addr_conflict(&life(u16::MAX)));
    }
}
