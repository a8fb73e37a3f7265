//! Damping of a verdict that changes too often, as RFC 2439 damps routes: each change for the worse adds to a penalty, which
//! halves with time; above one bound the service is damped, below another one it is not.
//!
//! It does not know what a verdict is worth. Unlike a route, a service that stays down is not damped for long.

use std::time::Duration;

use ringmesh_proto::Instant;

/// Added by each change for the worse.
pub const PENALTY: u32 = 1000;

/// When a service is damped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damping {
    /// Above this penalty it is damped; at least [`PENALTY`].
    pub suppress: u32,
    /// Below this one it is not; less than `suppress`.
    pub reuse: u32,
    /// In which a penalty halves; not zero.
    pub half_life: Duration,
    /// For so long it is damped after its last change at the most.
    pub longest: Duration,
    /// Critical for so long without interruption, it is damped no more: it is down and does not flap.
    pub steady: Duration,
}

impl Default for Damping {
    /// More than three times down within some minutes.
    fn default() -> Self {
        Self {
            suppress: 3 * PENALTY,
            reuse: PENALTY,
            half_life: Duration::from_secs(300),
            longest: Duration::from_secs(1800),
            steady: Duration::from_secs(120),
        }
    }
}

impl Damping {
    /// The penalty from which it takes `longest` to get below `reuse`.
    fn ceiling(&self) -> u32 {
        let halvings = self.longest.as_nanos() / self.half_life.as_nanos().max(1);
        u32::try_from(u64::from(self.reuse) << halvings.min(32)).unwrap_or(u32::MAX)
    }
}

/// The penalty of one service.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flap {
    penalty: u32,
    /// When it was so high.
    at: Instant,
    damped: bool,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Begins,
    Ends,
}

impl Flap {
    pub(super) fn is_damped(&self) -> bool {
        self.damped
    }

    /// The verdict changed for the worse.
    pub(super) fn punish(&mut self, now: Instant, damping: &Damping) -> Option<Turn> {
        // One flap more than the ceiling would make the next one count for nothing.
        let ceiling = damping.ceiling().max(damping.suppress.saturating_add(PENALTY));
        self.penalty = self.decayed(now, damping.half_life).saturating_add(PENALTY).min(ceiling);
        self.at = now;
        let begins = !self.damped && self.penalty > damping.suppress;
        self.damped |= begins;
        begins.then_some(Turn::Begins)
    }

    /// Time has gone by; `down` is for how long the service has been critical without interruption, if it is.
    pub(super) fn tick(&mut self, now: Instant, down: Option<Duration>, damping: &Damping) -> Option<Turn> {
        if !self.damped {
            return None;
        }
        let ends =
            self.decayed(now, damping.half_life) < damping.reuse || down.is_some_and(|down| down >= damping.steady);
        self.damped = !ends;
        ends.then_some(Turn::Ends)
    }

    /// Exact after each half-life, and along a straight line between them: no two machines differ.
    fn decayed(&self, now: Instant, half_life: Duration) -> u32 {
        let (gone, half_life) = (now.since(self.at).as_nanos(), half_life.as_nanos().max(1));
        let halvings = u32::try_from(gone / half_life).unwrap_or(u32::MAX);
        let whole = self.penalty.checked_shr(halvings).unwrap_or(0);
        let part = u128::from(whole) * (gone % half_life) / (2 * half_life);
        whole - part as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(minutes: u32) -> Instant {
        Instant::ZERO + MINUTE * minutes
    }

    #[test]
    fn a_penalty_halves_with_each_half_life() {
        let flap = Flap { penalty: 8000, at: at(10), damped: false };
        let told = |minutes| flap.decayed(at(minutes), MINUTE * 5);
        assert_eq!([10, 15, 20, 30].map(told), [8000, 4000, 2000, 500]);
        assert!((5000..7000).contains(&told(12)), "{}", told(12));
        assert_eq!(flap.decayed(Instant::from_nanos(u64::MAX), Duration::from_nanos(1)), 0);
    }

    #[test]
    fn who_is_down_often_is_damped_until_it_is_quiet() {
        let (damping, mut flap) = (Damping::default(), Flap::default());
        assert_eq!(flap.punish(at(0), &damping), None);
        assert_eq!(flap.punish(at(1), &damping), None);
        assert_eq!(flap.punish(at(2), &damping), None);
        assert_eq!(flap.punish(at(3), &damping), Some(Turn::Begins));
        assert_eq!(flap.punish(at(4), &damping), None, "it begins once");
        assert_eq!(flap.tick(at(6), None, &damping), None);
        assert_eq!(flap.tick(at(20), None, &damping), Some(Turn::Ends));
        assert_eq!(flap.tick(at(21), None, &damping), None, "it ends once");
    }

    #[test]
    fn who_is_seldom_down_is_never_damped() {
        let (damping, mut flap) = (Damping::default(), Flap::default());
        assert!((0..100).all(|hour| flap.punish(at(hour * 20), &damping).is_none()));
    }

    #[test]
    fn who_stays_down_is_damped_no_more() {
        let (damping, mut flap) = (Damping::default(), Flap::default());
        let begun = (0..10).find_map(|minute| flap.punish(at(minute), &damping));
        assert_eq!(begun, Some(Turn::Begins));
        assert_eq!(flap.tick(at(10), Some(MINUTE), &damping), None);
        assert_eq!(flap.tick(at(11), Some(MINUTE * 2), &damping), Some(Turn::Ends));
    }

    proptest! {
        #[test]
        fn nobody_is_damped_for_longer_than_configured(flaps in 1u32..500, gap_s in 1u64..120) {
            let (damping, mut flap) = (Damping::default(), Flap::default());
            let mut now = Instant::ZERO;
            for _ in 0..flaps {
                now += Duration::from_secs(gap_s);
                flap.punish(now, &damping);
            }
            flap.tick(now + damping.longest + Duration::from_secs(1), None, &damping);
            prop_assert!(!flap.is_damped());
        }
    }
}
