//! One member of a hosted cell: an instance of foca, as small as it gets.
//!
//! 32,000 of them live in one agent, so that what each holds is bounded and small: a list of 64 members of 8 bytes, a buffer
//! of [`MAX_LETTER`] bytes, and no timers of its own.

use std::time::Duration;

use foca::{Foca, Member, NoCustomBroadcast, Notification, PostcardCodec, Runtime, State, Timer};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use ringmesh_member::swim::config;
pub(super) use ringmesh_member::swim::{MAX_LETTER, PROBE_PERIOD, SUSPICION, Slot};

use super::{mail::Mailbox, wheel::Wheel};
use crate::health::random_below;

/// An instance of foca.
pub(super) struct Instance {
    foca: Foca<Slot, PostcardCodec, Xoshiro256PlusPlus, NoCustomBroadcast>,
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
        Box::new(Self { foca: Foca::new(identity, config(), rng, PostcardCodec) })
    }

    pub(super) fn identity(&self) -> Slot {
        *self.foca.identity()
    }

    /// What this member thinks of the others, in no order.
    pub(super) fn opinions(&self) -> impl Iterator<Item = &Member<Slot>> {
        self.foca.iter_membership_state()
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use foca::Config;
    use ringmesh_topology::cell::CELL_SIZE;

    use super::*;

    #[test]
    fn what_is_not_our_own_is_as_foca_has_it_for_a_cell() {
        let (ours, foca) = (config(), Config::new_lan(NonZeroU32::new(CELL_SIZE as u32).expect("not zero")));
        assert_eq!(
            (ours.num_indirect_probes, ours.max_transmissions),
            (foca.num_indirect_probes, foca.max_transmissions)
        );
    }
}
