//! Latencies in four steps an octave: a number of 7 bits, within an eighth of what was measured.

use std::time::Duration;

/// From 1 µs to 71 minutes.
pub(super) const BUCKETS: usize = 128;

/// A range of latencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bucket(u8);

impl Bucket {
    /// The one that a latency falls into; what is out of range falls into the first or last.
    pub(super) fn of(latency: Duration) -> Self {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).clamp(1, u64::from(u32::MAX));
        let octave = us.ilog2();
        // The two bits below the highest.
        let step = ((us << 2) >> octave) & 3;
        Self((u64::from(octave) * 4 + step) as u8)
    }

    /// Of a number below [`BUCKETS`].
    pub(super) fn from_number(number: u8) -> Option<Self> {
        (usize::from(number) < BUCKETS).then_some(Self(number))
    }

    /// Below [`BUCKETS`].
    pub(super) fn number(self) -> u8 {
        self.0
    }

    /// The middle of the range.
    pub(super) fn middle(self) -> Duration {
        let (octave, step) = (self.0 / 4, u64::from(self.0 % 4));
        // 2^octave µs · (4 + step + ½) / 4.
        Duration::from_nanos((125 << octave) * (9 + 2 * step))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ends_of_the_range() {
        assert_eq!(Bucket::of(Duration::ZERO).number(), 0);
        assert_eq!(usize::from(Bucket::of(Duration::MAX).number()), BUCKETS - 1);
        assert_eq!(Bucket::from_number(128), None);
    }

    proptest! {
        #[test]
        fn a_bucket_tells_its_latency_within_an_eighth(us in 4u64..4_000_000_000) {
            let told = Bucket::of(Duration::from_micros(us)).middle().as_nanos() as f64 / 1000.0;
            prop_assert!((told / us as f64 - 1.0).abs() <= 0.126, "{us} µs are told as {told}");
        }

        #[test]
        fn the_slower_one_has_no_lower_bucket(a in 0u64..u64::MAX, b in 0u64..u64::MAX) {
            let (a, b) = (a.min(b), a.max(b));
            prop_assert!(Bucket::of(Duration::from_micros(a)) <= Bucket::of(Duration::from_micros(b)));
        }
    }
}
