//! What an uplink is called, what of its changes is told, and which of two uplinks is used.
//!
//! The rules are those of Ethernet ring protection (ITU-T G.8032 §10.1): a guard time, a hold-off, a wait-to-restore, a
//! forced and a manual switch. It owns no link and sends nothing: [`super::Overlay`] says what an uplink looks like.
//!
//! ```text
//!  looks worse ── hold-off ──▶ state, told at once ─▶ traffic goes to the other uplink
//!  looks better ─ guard ─────▶ state, "restoring" ── wait-to-restore ─▶ told, and traffic comes back
//! ```

use std::time::Duration;

use ringmesh_proto::{Instant, Uplink};

use super::UplinkState;

/// How an uplink's changes are damped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// After a change, what was measured or said before it is ignored for so long.
    pub guard: Duration,
    /// A fault that lasts for less is none.
    pub hold_off: Duration,
    /// An uplink that is well again is used for probes and second copies only, and not called up, for so long.
    pub wait_to_restore: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self { guard: Duration::from_millis(500), hold_off: Duration::ZERO, wait_to_restore: Duration::from_secs(30) }
    }
}

/// What an operator wants used. It is kept in memory: a restart of the agent ends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The better one.
    #[default]
    None,
    /// This one, however it does (G.8032: forced switch).
    Forced(Uplink),
    /// This one, as long as it is well (G.8032: manual switch). A fault of it ends the order.
    Manual(Uplink),
}

/// How good an uplink is to send over: the least is the best.
pub(crate) type Preference = (bool, UplinkState, bool, bool);

/// A mere degradation is called one when it lasts: a neighbour may be about to be found down.
const DEGRADED_AFTER: Duration = Duration::from_secs(3);

/// One uplink of this host.
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub(super) state: UplinkState,
    /// The state that was told last. Until it is, a better one is restoring.
    told: UplinkState,
    carrier: bool,
    changed: Option<Instant>,
    /// Since when it has looked worse than `state` says, or just degraded.
    worse_since: Option<Instant>,
    /// Since when it has been better than `told`.
    better_since: Option<Instant>,
}

impl Side {
    pub(super) fn new(has: bool) -> Self {
        let state = if has { UplinkState::Up } else { UplinkState::None };
        Self { state, told: state, carrier: true, changed: None, worse_since: None, better_since: None }
    }

    pub(super) fn has_carrier(&self) -> bool {
        self.carrier
    }

    /// Returns false if that is no news.
    pub(super) fn set_carrier(&mut self, now: Instant, carrier: bool) -> bool {
        let news = self.state != UplinkState::None && self.carrier != carrier;
        if news {
            self.carrier = carrier;
            // What was measured before the cable was plugged in says nothing of it.
            self.changed = if carrier { Some(now) } else { self.changed };
        }
        news
    }

    /// Until when what was measured or said of it before is ignored.
    pub(super) fn guarded_until(&self, timers: Timers) -> Option<Instant> {
        Some(self.changed? + timers.guard)
    }

    /// It looks so now. Returns true if its state changed.
    pub(super) fn settle(&mut self, now: Instant, looks: UplinkState, timers: Timers) -> bool {
        let looks = if self.carrier { looks } else { UplinkState::Down };
        let guarded = self.carrier && self.guarded_until(timers).is_some_and(|until| now < until);
        if guarded || looks == self.state {
            self.worse_since = None;
            return false;
        }
        let hold = match looks {
            UplinkState::Degraded => DEGRADED_AFTER.max(timers.hold_off),
            UplinkState::Down => timers.hold_off,
            UplinkState::None | UplinkState::Up => Duration::ZERO,
        };
        let since = *self.worse_since.get_or_insert(now);
        if now.since(since) < hold {
            return false;
        }
        self.worse_since = None;
        self.state = looks;
        self.changed = Some(now);
        self.better_since = (looks < self.told).then_some(now);
        true
    }

    /// When [`Self::poll_told`] is next wanted.
    pub(super) fn restored_at(&self, timers: Timers) -> Option<Instant> {
        Some(self.better_since? + timers.wait_to_restore)
    }

    /// When a hold-off ends.
    pub(super) fn held_until(&self, timers: Timers) -> Option<Instant> {
        let since = self.worse_since.filter(|_| !self.carrier)?;
        Some(since + timers.hold_off)
    }

    /// The state, if it is time to tell it.
    pub(super) fn poll_told(&mut self, now: Instant, timers: Timers) -> Option<UplinkState> {
        let waits = self.restored_at(timers).is_some_and(|at| now < at);
        if self.state == self.told || waits {
            return None;
        }
        self.told = self.state;
        self.better_since = None;
        Some(self.told)
    }

    /// The first for an order of the operator, the last for a wish.
    pub(super) fn preference(&self, uplink: Uplink, order: Order) -> Preference {
        let unforced = matches!(order, Order::Forced(forced) if forced != uplink);
        let unwanted = matches!(order, Order::Manual(wanted) if wanted != uplink);
        (unforced, self.state, self.better_since.is_some(), unwanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    use UplinkState::{Degraded, Down, Up};

    /// Looks at these instants, in milliseconds; returns state, what was told and whether it restores.
    fn run(timers: Timers, looks: &[(u64, UplinkState)]) -> Vec<(UplinkState, Option<UplinkState>, bool)> {
        let mut side = Side::new(true);
        let look = |(at, looks): &(u64, UplinkState)| {
            let now = Instant::ZERO + Duration::from_millis(*at);
            side.settle(now, *looks, timers);
            let told = side.poll_told(now, timers);
            (side.state, told, side.restored_at(timers).is_some())
        };
        looks.iter().map(look).collect()
    }

    #[test]
    fn a_fault_is_told_at_once_and_its_end_after_the_wait_to_restore() {
        let outcome = run(
            Timers::default(),
            &[(1000, Down), (1400, Up), (1500, Up), (20_000, Up), (31_499, Up), (31_500, Up), (40_000, Up)],
        );
        let expected = [
            (Down, Some(Down), false),
            (Down, None, false),
            (Up, None, true),
            (Up, None, true),
            (Up, None, true),
            (Up, Some(Up), false),
            (Up, None, false),
        ];
        assert_eq!(outcome, expected, "the second look falls into the guard time");
    }

    #[test]
    fn a_flapping_uplink_is_told_twice() {
        let flaps: Vec<_> = (0..20).map(|n| (1000 * n, if n % 2 == 0 { Down } else { Up })).collect();
        let mut looks = flaps.clone();
        looks.extend([(30_000, Up), (48_999, Up), (49_000, Up)]);
        let told: Vec<_> = run(Timers::default(), &looks).into_iter().filter_map(|(_, told, _)| told).collect();
        assert_eq!(told, [Down, Up]);
        let never = Timers { wait_to_restore: Duration::ZERO, ..Timers::default() };
        assert_eq!(run(never, &flaps).iter().filter(|(_, told, _)| told.is_some()).count(), 20, "what it saves");
    }

    #[test]
    fn a_degradation_must_last_and_a_hold_off_delays_a_fault() {
        let outcome = run(Timers::default(), &[(0, Degraded), (2000, Degraded), (3000, Degraded), (4000, Down)]);
        assert_eq!(outcome.iter().map(|(state, ..)| *state).collect::<Vec<_>>(), [Up, Up, Degraded, Down]);
        let held = Timers { hold_off: SECOND, ..Timers::default() };
        let outcome = run(held, &[(0, Down), (900, Down), (950, Up), (1000, Down), (2000, Down)]);
        assert_eq!(outcome.iter().map(|(state, ..)| *state).collect::<Vec<_>>(), [Up, Up, Up, Up, Down]);
    }

    #[test]
    fn without_carrier_an_uplink_is_down_whatever_its_links_say() {
        let (timers, mut side) = (Timers::default(), Side::new(true));
        let at = |ms| Instant::ZERO + Duration::from_millis(ms);
        assert!(side.set_carrier(at(0), false) && !side.set_carrier(at(0), false));
        assert!(side.settle(at(0), Up, timers));
        assert_eq!(side.poll_told(at(0), timers), Some(Down));
        assert!(!side.settle(at(1000), Up, timers));
        side.set_carrier(at(2000), true);
        assert!(!side.settle(at(2400), Up, timers), "an answer of before is late");
        // Pulled out again within the guard time: that is seen by this host itself, and no stale report.
        side.set_carrier(at(2450), false);
        side.set_carrier(at(3000), true);
        assert!(side.settle(at(3500), Up, timers) && side.restored_at(timers) == Some(at(33_500)));
    }

    #[test]
    fn an_order_beats_a_fault_and_a_wish_does_not() {
        let mut sides = [Side::new(true), Side::new(true)];
        let best = |sides: &[Side; 2], order| {
            Uplink::BOTH.into_iter().min_by_key(|uplink| sides[uplink.index()].preference(*uplink, order))
        };
        let (a, b) = (Some(Uplink::A), Some(Uplink::B));
        assert_eq!(best(&sides, Order::None), a);
        assert_eq!(best(&sides, Order::Manual(Uplink::B)), b);
        sides[1].settle(Instant::ZERO, Down, Timers::default());
        assert_eq!(best(&sides, Order::Manual(Uplink::B)), a);
        assert_eq!(best(&sides, Order::Forced(Uplink::B)), b);
        sides[1].poll_told(Instant::ZERO, Timers::default());
        sides[1].settle(Instant::ZERO + SECOND, Up, Timers::default());
        assert_eq!(best(&sides, Order::Manual(Uplink::B)), a, "it restores");
    }
}
