//! One member of a hosted cell: an instance of foca, as small as it gets.
//!
//! 32,000 of them live in one agent, so that what each holds is bounded and small: a list of 64 members of 8 bytes, a buffer
//! of [`MAX_LETTER`] bytes, and no timers of its own.

use std::{num::NonZeroUsize, time::Duration};

use foca::{Config, Foca, Identity, Member, NoCustomBroadcast, Notification, PostcardCodec, Runtime, State, Timer};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use ringmesh_topology::cell::CELL_SIZE;
use serde::{Deserialize, Serialize};

use super::{mail::Mailbox, wheel::Wheel};
use crate::health::random_below;

/// Between two probes of a member. A process that ends is known at once, and a service that fails by its own probes, which
/// are more frequent: the cell is for what neither of them tells.
pub(super) const PROBE_PERIOD: Duration = Duration::from_secs(5);

/// After so long without an answer others are asked to try. Answers come in the same turn; only who is silent needs it.
const PROBE_RTT: Duration = Duration::from_secs(1);

/// From a suspicion to down: two periods.
pub(super) const SUSPICION: Duration = Duration::from_secs(10);

/// The most bytes of a message. A header has some 20, each news of a member at most 8; what does not fit is in the next one.
pub(super) const MAX_LETTER: usize = 128;

/// A member as foca's identity: its slot is the address, the generation decides between two lives in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    pub(super) slot: u16,
    pub(super) generation: u16,
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

/// An instance of foca.
pub(super) struct Instance {
    foca: Foca<Slot, PostcardCodec, Xoshiro256PlusPlus, NoCustomBroadcast>,
    /// Something was said to it while it was silent: it may be suspected, and cannot know that it has to refute.
    pub(super) missed: bool,
}

/// What an instance works with during a call.
pub(super) struct Turn<'a> {
    pub(super) wheel: &'a mut Wheel<Slot>,
    pub(super) mail: &'a mut Mailbox,
    pub(super) cell: u16,
    /// Now, in ticks of the wheel.
    pub(super) tick: u64,
    /// Somebody's opinion of a member changed, or may have.
    pub(super) stirred: bool,
    pub(super) rng: &'a mut Xoshiro256PlusPlus,
    /// The member is introduced: its first probe comes at a random time within a period.
    pub(super) first: bool,
}

impl Instance {
    pub(super) fn new(identity: Slot, rng: &mut Xoshiro256PlusPlus) -> Box<Self> {
        let rng = Xoshiro256PlusPlus::seed_from_u64(rng.random());
        Box::new(Self { foca: Foca::new(identity, config(), rng, PostcardCodec), missed: false })
    }

    pub(super) fn identity(&self) -> Slot {
        *self.foca.identity()
    }

    /// What this member thinks of the others, in no order.
    pub(super) fn opinions(&self) -> impl Iterator<Item = (Slot, State)> {
        self.foca.iter_membership_state().map(|member| (*member.id(), member.state()))
    }

    /// Whether it has news that some have not heard from it.
    pub(super) fn has_news(&self) -> bool {
        self.foca.updates_backlog() > 0
    }

    /// The roster changed: the agent says so to each member, and none has to spread it.
    pub(super) fn learn(&mut self, gone: &[Slot], come: &[Slot], turn: &mut Turn<'_>) {
        let me = self.identity();
        let gone = gone.iter().map(|slot| Member::new(*slot, 0, State::Down));
        let come = come.iter().map(|slot| Member::alive(*slot));
        let news = gone.chain(come).filter(|member| member.id().slot != me.slot);
        turn.first = true;
        note(self.foca.apply_many(news, false, Call { turn, from: me }));
        turn.first = false;
    }

    /// Takes others for what it has evidence of, if that is worse than what it took them for, and spreads it.
    pub(super) fn doubt(&mut self, doubts: &[(Slot, State)], turn: &mut Turn<'_>) {
        let from = self.identity();
        let worse = |known: &Member<Slot>| {
            let (_, state) = doubts.iter().find(|(slot, _)| slot == known.id())?;
            let news = known.state() == State::Alive || known.state() == State::Suspect && *state == State::Down;
            news.then(|| Member::new(*known.id(), known.incarnation(), *state))
        };
        let news: Vec<_> = self.foca.iter_membership_state().filter_map(worse).collect();
        turn.stirred |= !news.is_empty();
        note(self.foca.apply_many(news.into_iter(), true, Call { turn, from }));
    }

    pub(super) fn handle_letter(&mut self, bytes: &[u8], turn: &mut Turn<'_>) {
        let from = self.identity();
        note(self.foca.handle_data(bytes, Call { turn, from }));
    }

    pub(super) fn handle_timer(&mut self, timer: Timer<Slot>, turn: &mut Turn<'_>) {
        let from = self.identity();
        note(self.foca.handle_timer(timer, Call { turn, from }));
    }

    /// Sends its news to some of the others.
    pub(super) fn gossip(&mut self, turn: &mut Turn<'_>) {
        let from = self.identity();
        note(self.foca.gossip(Call { turn, from }));
    }
}

fn note(result: Result<(), foca::Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a member of a cell");
    }
}

/// One call of one instance.
struct Call<'a, 'b> {
    turn: &'a mut Turn<'b>,
    from: Slot,
}

impl Runtime<Slot> for Call<'_, '_> {
    fn notify(&mut self, notification: Notification<'_, Slot>) {
        match notification {
            Notification::MemberUp(_)
            | Notification::MemberDown(_)
            | Notification::Rename(..)
            | Notification::ProbeFailed(..) => self.turn.stirred = true,
            Notification::Active
            | Notification::Idle
            | Notification::Defunct
            | Notification::Rejoin(_)
            | Notification::DataReceived(_)
            | Notification::DataSent(_) => {}
        }
    }

    fn send_to(&mut self, to: Slot, data: &[u8]) {
        self.turn.mail.put(to.slot, data);
    }

    fn submit_after(&mut self, event: Timer<Slot>, after: Duration) {
        let random = self.turn.first && matches!(event, Timer::ProbeRandomMember(_));
        let after = if random { random_below(self.turn.rng, after) } else { after };
        self.turn.wheel.submit(self.turn.tick, after, self.turn.cell, self.from, event);
    }
}

/// SWIM as in the paper: no periodic messages beside its probes, for every wake-up of every member costs. What is new is
/// gossiped by [`Instance::gossip`], while there is something.
fn config() -> Config {
    let size = std::num::NonZeroU32::new(CELL_SIZE as u32).expect("not zero");
    Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_RTT,
        suspect_to_down_after: SUSPICION,
        // One entry a slot, replaced by the slot's next life.
        remove_down_after: None,
        max_packet_size: NonZeroUsize::new(MAX_LETTER).expect("not zero"),
        notify_down_members: false,
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: None,
        ..Config::new_lan(size)
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
