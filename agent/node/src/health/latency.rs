//! Which latency is normal for a check, learned from its successes, and whether it has left that.
//!
//! It is kept in octaves, since latencies vary by factors: a mean, and a mean deviation from it, both of which forget slowly
//! and of which no single outcome moves much. Numbers are whole, so that no two machines differ.

use std::time::Duration;

use ringmesh_proto::disk::history_record::Normal as Record;

/// What is out of the normal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencyLimits {
    /// Slower than normal by this factor, at least 2; 0: latencies are not judged.
    pub factor: u32,
    /// And slower by so much at least: what nobody notices is no deviation.
    pub floor: Duration,
    /// So many in a row make it slow, or normal again.
    pub probes: u32,
}

impl Default for LatencyLimits {
    fn default() -> Self {
        Self { factor: 4, floor: Duration::from_millis(20), probes: 5 }
    }
}

/// An octave: a factor of two.
const OCTAVE: i32 = 1 << 16;

/// Successes before anything is called slow: five minutes at the default interval.
const LEARN: u32 = 30;

/// One success moves mean and deviation by so many parts of its distance: they remember some ten minutes at the default
/// interval.
const MEMORY: u32 = 64;

/// Successes that teach nothing but where to begin: after a start caches are cold.
const WARM_UP: u32 = 3;

/// An outcome counts as no farther from the mean than so many deviations: one that is far off is hardly more than one.
const CLIP: i32 = 3;

/// From this success on.
const CLIP_FROM: u32 = 8;

/// A deviation is never taken for less than a quarter of an octave: steadier services are no reason for more alarms.
const MIN_DEVIATION: i32 = OCTAVE / 4;

/// Beyond so many deviations, a latency is out of what the check itself varies by.
const DEVIATIONS: i32 = 5;

/// Slow for so many successes, an hour at the default interval, it is what is normal now.
const ACCEPT: u32 = 360;

/// The normal of one check.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Normal {
    /// In parts of an octave above a microsecond.
    mean: i32,
    deviation: i32,
    /// Successes that it was learned from, as far as they count.
    learned: u32,
    slow: bool,
    /// In a row against `slow`.
    against: u32,
    /// Since it is slow.
    slow_for: u32,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It left its normal.
    Slow,
    /// It is back.
    Back,
    /// It did not come back: what was slow is normal from now on.
    Accepted,
}

impl Normal {
    pub(super) fn is_slow(&self) -> bool {
        self.slow
    }

    /// `None` while it is learned.
    pub(super) fn latency(&self) -> Option<Duration> {
        (self.learned >= LEARN).then(|| Duration::from_micros(exp2(self.mean)))
    }

    /// Takes the latency of a success.
    pub(super) fn take(&mut self, latency: Duration, limits: &LatencyLimits) -> Option<Turn> {
        let octaves = log2(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        let normal = self.latency().filter(|_| limits.factor > 0);
        let Some(normal) = normal else {
            self.learn(octaves);
            return None;
        };
        let beyond = octaves - self.mean;
        // Half of the way back is back: in between it stays what it is.
        let out = log2(limits.factor.into()).max(self.deviation.max(MIN_DEVIATION).saturating_mul(DEVIATIONS));
        let far = beyond > if self.slow { out / 2 } else { out } && latency > normal + limits.floor;
        if !self.slow {
            self.learn(octaves);
        }
        self.slow_for = if self.slow { self.slow_for + 1 } else { 0 };
        self.against = if far == self.slow { 0 } else { self.against + 1 };
        if self.against >= limits.probes {
            (self.slow, self.against) = (far, 0);
            return Some(if far { Turn::Slow } else { Turn::Back });
        }
        if self.slow_for >= ACCEPT {
            *self = Self::default();
            return Some(Turn::Accepted);
        }
        None
    }

    fn learn(&mut self, octaves: i32) {
        self.learned = (self.learned + 1).min(WARM_UP + MEMORY);
        if self.learned <= WARM_UP {
            (self.mean, self.deviation) = (octaves, 0);
            return;
        }
        // Before there is a deviation to go by, all is taken as it is.
        let clip = if self.learned < CLIP_FROM { i32::MAX } else { self.deviation.max(MIN_DEVIATION) * CLIP };
        let distance = (octaves - self.mean).clamp(-clip, clip);
        let parts = (self.learned - WARM_UP + 1) as i32;
        self.mean += distance / parts;
        self.deviation += (distance.abs() - self.deviation) / parts;
    }

    pub(super) fn write(&self) -> Record {
        Record { mean: self.mean, deviation: self.deviation, learned: self.learned, slow: self.slow }
    }

    /// Of what a disk says, what can be.
    pub(super) fn read(record: Record) -> Self {
        Self {
            mean: record.mean.clamp(0, log2(u64::MAX)),
            deviation: record.deviation.clamp(0, log2(u64::MAX)),
            learned: record.learned.min(WARM_UP + MEMORY),
            slow: record.slow && record.learned >= LEARN,
            ..Self::default()
        }
    }
}

/// Octaves above 1, on a straight line between powers of two: within a tenth of an octave, and rising.
fn log2(number: u64) -> i32 {
    let number = number.max(1);
    let octave = number.ilog2();
    let mantissa = if octave >= 16 { number >> (octave - 16) } else { number << (16 - octave) };
    octave as i32 * OCTAVE + (mantissa - (1 << 16)) as i32
}

/// The inverse of [`log2`].
fn exp2(octaves: i32) -> u64 {
    let (octave, part) = (octaves.max(0) / OCTAVE, u128::from((octaves.max(0) % OCTAVE) as u32));
    u64::try_from(((1 << 16) + part) << octave >> 16).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: LatencyLimits = LatencyLimits { factor: 4, floor: Duration::from_millis(20), probes: 5 };

    fn taught(us: u64) -> Normal {
        let mut normal = Normal::default();
        (0..200).for_each(|n| assert_eq!(normal.take(Duration::from_micros(us + n % 7 * us / 50), &LIMITS), None));
        normal
    }

    fn turns(normal: &mut Normal, ms: u64, times: usize) -> Vec<(usize, Turn)> {
        let take = |n| normal.take(Duration::from_millis(ms), &LIMITS).map(|turn| (n, turn));
        (1..=times).filter_map(take).collect()
    }

    #[test]
    fn slow_begins_after_some_in_a_row_and_ends_likewise() {
        let mut normal = taught(10_000);
        assert_eq!(turns(&mut normal, 100, 10), [(5, Turn::Slow)]);
        assert_eq!(turns(&mut normal, 10, 4), []);
        assert_eq!(turns(&mut normal, 100, 1), [], "not in a row");
        assert_eq!(turns(&mut normal, 10, 10), [(5, Turn::Back)]);
    }

    #[test]
    fn between_the_two_bounds_it_stays_what_it_is() {
        let mut normal = taught(100_000);
        assert_eq!(turns(&mut normal, 230, 100), [], "not slow: less than four times");
        let mut normal = taught(100_000);
        assert_eq!(turns(&mut normal, 600, 5), [(5, Turn::Slow)]);
        assert_eq!(turns(&mut normal, 230, 100), [], "not back: more than twice");
    }

    #[test]
    fn what_nobody_notices_is_no_deviation() {
        assert_eq!(turns(&mut taught(100), 19, 100), []);
        assert_eq!(turns(&mut taught(100), 25, 5).len(), 1);
    }

    #[test]
    fn a_few_slow_ones_teach_nothing() {
        let mut normal = taught(10_000);
        let before = normal.latency();
        for _ in 0..20 {
            turns(&mut normal, 5000, 4);
            turns(&mut normal, 10, 40);
        }
        let (before, after) =
            (before.unwrap_or_default().as_secs_f64(), normal.latency().unwrap_or_default().as_secs_f64());
        assert!((0.8..1.3).contains(&(after / before)), "{before} became {after}");
    }

    #[test]
    fn a_cold_start_is_not_taken_for_normal() {
        for cold in [1, 3, 6, 10, 25] {
            let mut normal = Normal::default();
            turns(&mut normal, 10, cold - 1);
            turns(&mut normal, 1000, 1);
            turns(&mut normal, 10, 70);
            assert_eq!(turns(&mut normal, 100, 5).len(), 1, "the slow one was number {cold}");
        }
    }

    #[test]
    fn what_stays_becomes_normal() {
        let mut normal = taught(10_000);
        let turns = turns(&mut normal, 200, 500);
        assert_eq!(turns, [(5, Turn::Slow), (5 + ACCEPT as usize, Turn::Accepted)]);
        let learned = normal.latency().unwrap_or_default();
        assert!(learned.abs_diff(Duration::from_millis(200)) < Duration::from_millis(10), "{learned:?}");
    }

    #[test]
    fn nothing_is_slow_while_it_is_learned_or_if_nobody_wants_to_know() {
        let mut normal = Normal::default();
        assert_eq!((turns(&mut normal, 10, 20), turns(&mut normal, 5000, 9)), (Vec::new(), Vec::new()));
        let off = LatencyLimits { factor: 0, ..LIMITS };
        let mut normal = taught(10_000);
        assert!((0..100).all(|_| normal.take(Duration::from_secs(9), &off).is_none()));
    }

    #[test]
    fn a_service_that_varies_much_is_not_called_slow_for_it() {
        let mut normal = Normal::default();
        let latency = |n: u64| Duration::from_millis([20, 200, 60, 500, 40, 300][n as usize % 6]);
        assert!((0..2000).all(|n| normal.take(latency(n), &LIMITS).is_none()));
    }

    proptest! {
        #[test]
        fn octaves_and_back(us in 1u64..1 << 40) {
            let back = exp2(log2(us));
            prop_assert!(back.abs_diff(us) <= us >> 15, "{us} became {back}");
        }

        #[test]
        fn more_is_never_less(a in any::<u64>(), b in any::<u64>()) {
            prop_assert!(log2(a.min(b)) <= log2(a.max(b)));
        }

        #[test]
        fn any_record_is_survived(mean in any::<i32>(), deviation in any::<i32>(), learned in any::<u32>(), slow in any::<bool>(), us in any::<u64>()) {
            let mut normal = Normal::read(Record { mean, deviation, learned, slow });
            (0..10).for_each(|_| {
                normal.take(Duration::from_micros(us), &LIMITS);
            });
            prop_assert_eq!(Normal::read(normal.write()).write(), normal.write());
        }
    }
}
