//! The member as a pure machine: an instance of foca, its timers, and what it has to say.

use alloc::{collections::VecDeque, vec::Vec};
use core::{cmp::Reverse, time::Duration};

use foca::{Foca, Member, NoCustomBroadcast, Notification, PostcardCodec, Runtime, Timer};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

use crate::{
    message::{Order, Question, Word, unpack},
    swim::{Slot, config},
};

/// Between two rounds of gossip, while there is news: as often as a hosted cell has its turn.
const GOSSIP: Duration = Duration::from_secs(1);

/// Packets that wait to be sent. One call makes fewer than there are members; beyond that they are dropped, as SWIM allows.
const MAX_WAITING: usize = 256;

/// A question to be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask<'a> {
    /// For the answer.
    pub number: u32,
    /// When it is given up.
    pub deadline: Duration,
    /// What.
    pub question: Question<'a>,
}

/// The member. Times are spans since anything that does not move.
#[derive(Default)]
pub struct Inside {
    life: Option<Life>,
}

/// From one [`Order::Begin`] to the next.
struct Life {
    foca: Foca<Slot, PostcardCodec, Xoshiro256PlusPlus, NoCustomBroadcast>,
    hands: Hands,
    /// When it gossips, if it has news.
    gossip: Option<Duration>,
}

/// What foca works with.
struct Hands {
    now: Duration,
    timers: Vec<(Duration, Timer<Slot>)>,
    packets: VecDeque<Vec<u8>>,
    rng: Xoshiro256PlusPlus,
    /// It is introduced: its first probe comes at a random time within a period.
    first: bool,
}

impl Inside {
    /// Takes what the agent says; what it asks is for the caller to find out. What foca does not understand changes nothing.
    pub fn handle<'a>(&mut self, now: Duration, order: Order<'a>) -> Option<Ask<'a>> {
        match order {
            Order::Begin { me, seed } => self.life = Some(Life::new(now, me, seed)),
            Order::Roster { gone, come } => {
                if let Some(life) = self.life.as_mut() {
                    life.learn(now, gone, come);
                }
            }
            Order::Letter(bytes) => {
                if let Some(life) = self.life.as_mut() {
                    life.act(now, |foca, hands| foca.handle_data(bytes, hands));
                }
            }
            Order::Ask { number, timeout_ms, question } => {
                let deadline = now + Duration::from_millis(timeout_ms.into());
                return Some(Ask { number, deadline, question });
            }
        }
        None
    }

    /// When [`Self::handle_timeout`] is next wanted.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let life = self.life.as_ref()?;
        life.hands.timers.iter().map(|(due, _)| *due).chain(life.gossip).min()
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        if let Some(life) = &mut self.life {
            life.run(now);
        }
    }

    /// The next packet for the agent.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.life.as_mut()?.hands.packets.pop_front()
    }
}

impl Life {
    fn new(now: Duration, me: Slot, seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let foca = Foca::new(me, config(), Xoshiro256PlusPlus::seed_from_u64(rng.random()), PostcardCodec);
        let hands = Hands { now, timers: Vec::new(), packets: VecDeque::new(), rng, first: false };
        Self { foca, hands, gossip: None }
    }

    fn learn(&mut self, now: Duration, gone: &[u8], come: &[u8]) {
        let me = *self.foca.identity();
        let gone = unpack(gone).map(|slot| Member::new(slot, 0, foca::State::Down));
        let news = gone.chain(unpack(come).map(Member::alive)).filter(|member| member.id().slot != me.slot);
        self.hands.first = true;
        self.act(now, |foca, hands| foca.apply_many(news, false, hands));
        self.hands.first = false;
    }

    fn run(&mut self, now: Duration) {
        // Once each: what they lead to is due later.
        let due = |(at, _): &mut (Duration, Timer<Slot>)| *at <= now;
        let mut timers: Vec<_> = self.hands.timers.extract_if(.., due).collect();
        // Of timers that are due together, a probe's second stage is first: without it the probe is incomplete.
        timers.sort_by_key(|(at, timer)| (*at, Reverse(matches!(timer, Timer::SendIndirectProbe { .. }))));
        for (_, timer) in timers {
            self.act(now, |foca, hands| foca.handle_timer(timer, hands));
        }
        if self.gossip.take_if(|at| *at <= now).is_some() {
            self.act(now, |foca, hands| foca.gossip(hands));
        }
    }

    fn act<E>(
        &mut self,
        now: Duration,
        call: impl FnOnce(
            &mut Foca<Slot, PostcardCodec, Xoshiro256PlusPlus, NoCustomBroadcast>,
            &mut Hands,
        ) -> Result<(), E>,
    ) {
        self.hands.now = now;
        // What is malformed, or of another life, changes nothing.
        let _ = call(&mut self.foca, &mut self.hands);
        if self.foca.updates_backlog() > 0 {
            self.gossip.get_or_insert(now + GOSSIP);
        }
    }
}

impl Runtime<Slot> for Hands {
    fn notify(&mut self, _: Notification<'_, Slot>) {}

    fn send_to(&mut self, to: Slot, data: &[u8]) {
        let packet = Word::Letter { to: to.slot, bytes: data }.encode();
        self.packets.extend(packet.filter(|_| self.packets.len() < MAX_WAITING));
    }

    fn submit_after(&mut self, event: Timer<Slot>, after: Duration) {
        let random = self.first && matches!(event, Timer::ProbeRandomMember(_));
        let most = after.as_millis() as u64;
        let after = if random { Duration::from_millis(self.rng.random_range(0..=most)) } else { after };
        self.timers.push((self.now + after, event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        message::pack,
        swim::{PROBE_PERIOD, SUSPICION},
    };

    const ME: Slot = Slot { slot: 1, generation: 4 };
    const AGENT: Slot = Slot { slot: 0, generation: 1 };

    /// A member and, at the other end of its socket, foca as a hosted member has it.
    struct Pair {
        inside: Inside,
        other: Life,
        now: Duration,
    }

    impl Pair {
        fn new(seed: u64) -> Self {
            let now = Duration::from_secs(100);
            let mut pair = Self { inside: Inside::default(), other: Life::new(now, AGENT, seed), now };
            pair.other.learn(now, &[], &pack([ME]));
            pair.order(Order::Begin { me: ME, seed });
            pair.order(Order::Roster { gone: &[], come: &pack([AGENT, ME]) });
            pair
        }

        fn order(&mut self, order: Order<'_>) {
            let packet = order.encode().expect("it is short");
            assert_eq!(self.inside.handle(self.now, Order::decode(&packet).expect("it is ours")), None);
        }

        /// Lets time pass; what is said in it, if `heard`, comes at once. Returns how often the member spoke.
        fn run(&mut self, span: Duration, heard: bool) -> usize {
            let (until, mut spoke) = (self.now + span, 0);
            while self.now < until {
                self.now += Duration::from_millis(100);
                self.inside.handle_timeout(self.now);
                self.other.run(self.now);
                loop {
                    let (out, back) = (self.inside.poll_transmit(), self.other.hands.packets.pop_front());
                    if (&out, &back) == (&None, &None) {
                        break;
                    }
                    spoke += usize::from(out.is_some());
                    if let Some(Ok(Word::Letter { to: 0, bytes })) = out.as_deref().map(Word::decode) {
                        self.other.act(self.now, |foca, hands| foca.handle_data(bytes, hands));
                    }
                    if let Some(Ok(Word::Letter { to: 1, bytes })) = back.as_deref().filter(|_| heard).map(Word::decode)
                    {
                        self.order(Order::Letter(bytes));
                    }
                }
            }
            spoke
        }

        fn opinion(&self) -> Option<foca::State> {
            self.other.foca.iter_membership_state().find(|member| *member.id() == ME).map(Member::state)
        }
    }

    #[test]
    fn it_answers_and_probes_once_a_period() {
        for seed in 0..20 {
            let mut pair = Pair::new(seed);
            let spoke = pair.run(Duration::from_secs(100), true);
            assert_eq!(pair.opinion(), Some(foca::State::Alive), "seed {seed}");
            let periods = 100 / PROBE_PERIOD.as_secs() as usize;
            assert!((2 * periods - 2..=2 * periods + 2).contains(&spoke), "seed {seed}: {spoke} words");
        }
    }

    #[test]
    fn one_that_hears_nothing_is_down_and_lives_again_with_another_life() {
        let mut pair = Pair::new(3);
        pair.run(Duration::from_secs(10), true);
        // It does not hear, so it does not answer; the other one hears it ask, and that is no answer.
        pair.run(2 * PROBE_PERIOD + SUSPICION + Duration::from_secs(1), false);
        assert_eq!(pair.opinion(), Some(foca::State::Down));
        let again = Slot { generation: 5, ..ME };
        pair.other.learn(pair.now, &[], &pack([again]));
        pair.order(Order::Begin { me: again, seed: 9 });
        pair.order(Order::Roster { gone: &[], come: &pack([AGENT]) });
        pair.run(Duration::from_secs(20), true);
        let opinion = pair.other.foca.iter_membership_state().find(|member| *member.id() == again).map(Member::state);
        assert_eq!(opinion, Some(foca::State::Alive));
    }

    #[test]
    fn before_its_first_life_it_says_nothing_and_questions_are_the_callers() {
        let mut inside = Inside::default();
        let now = Duration::from_secs(1);
        assert_eq!(inside.handle(now, Order::Letter(&[1, 2, 3])), None);
        assert_eq!((inside.poll_timeout(), inside.poll_transmit()), (None, None));
        let question = Question::File("/a");
        let ask = inside.handle(now, Order::Ask { number: 7, timeout_ms: 500, question });
        assert_eq!(ask, Some(Ask { number: 7, deadline: Duration::from_millis(1500), question }));
    }
}
