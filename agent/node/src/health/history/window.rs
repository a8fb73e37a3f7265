//! Counts of outcomes by latency over the last hour or two, or day or two: for quantiles.

use ringmesh_proto::{
    UnixMillis,
    disk::history_record::{Tally as TallyRecord, Window as WindowRecord},
    v1::history::Window as Shown,
};

use super::{
    bucket::{BUCKETS, Bucket},
    outcomes::Outcome,
    show_latency,
};

/// Milliseconds of a window's span.
pub(super) const HOUR: u64 = 3_600_000;

/// The same.
pub(super) const DAY: u64 = 24 * HOUR;

/// Outcomes of the span of the wall clock that runs, and of the one before it.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    /// Whole spans since 1970.
    number: u64,
    current: Tally,
    previous: Tally,
}

impl Window {
    pub(super) fn push(&mut self, span: u64, outcome: Outcome) {
        self.roll(outcome.at.0 / span);
        self.current.push(outcome);
    }

    fn roll(&mut self, number: u64) {
        if number == self.number + 1 {
            self.previous = std::mem::take(&mut self.current);
        } else if number > self.number {
            (self.previous, self.current) = Default::default();
        }
        // A clock that was set back goes on with the counts that are there.
        self.number = number;
    }

    /// As far as it reaches at `now`; `None` if it holds nothing then.
    pub(super) fn show(&self, span: u64, now: UnixMillis) -> Option<Shown> {
        let mut window = self.clone();
        window.roll(now.0 / span);
        let mut spectrum = Spectrum::default();
        spectrum.add_tally(&window.current);
        spectrum.add_tally(&window.previous);
        spectrum.show(UnixMillis(window.number.saturating_sub(1) * span))
    }

    pub(super) fn write(&self) -> WindowRecord {
        let (current, previous) = (self.current.write(), self.previous.write());
        WindowRecord { number: self.number, current: Some(current), previous: Some(previous) }
    }

    pub(super) fn read(record: WindowRecord) -> Self {
        let tally = |record: Option<TallyRecord>| record.map(|record| Tally::read(&record)).unwrap_or_default();
        Self { number: record.number, current: tally(record.current), previous: tally(record.previous) }
    }
}

/// How many successes had which latency: few buckets are ever used by one service, so only these take room.
#[derive(Clone, Debug, Default)]
struct Tally {
    /// By rising bucket; no count is 0.
    counts: Vec<(Bucket, u16)>,
    failures: u32,
}

impl Tally {
    fn push(&mut self, outcome: Outcome) {
        if !outcome.success {
            self.failures = self.failures.saturating_add(1);
            return;
        }
        match self.counts.binary_search_by_key(&outcome.latency, |(bucket, _)| *bucket) {
            Ok(place) if self.counts[place].1 == u16::MAX => self.halve(),
            Ok(place) => self.counts[place].1 += 1,
            Err(place) => self.counts.insert(place, (outcome.latency, 1)),
        }
    }

    /// What is asked of it are quantiles, and these stay.
    fn halve(&mut self) {
        self.counts.iter_mut().for_each(|(_, count)| *count /= 2);
        self.counts.retain(|(_, count)| *count > 0);
    }

    fn write(&self) -> TallyRecord {
        TallyRecord {
            buckets: self.counts.iter().map(|(bucket, _)| bucket.number()).collect::<Vec<u8>>().into(),
            counts: self.counts.iter().map(|(_, count)| (*count).into()).collect(),
            failures: self.failures,
        }
    }

    /// Only what rises is read: so there are never more than there are buckets.
    fn read(record: &TallyRecord) -> Self {
        let mut tally = Self { counts: Vec::new(), failures: record.failures };
        for (number, count) in record.buckets.iter().zip(&record.counts) {
            let (Some(bucket), Ok(count @ 1..)) = (Bucket::from_number(*number), u16::try_from(*count)) else {
                continue;
            };
            if tally.counts.last().is_none_or(|(last, _)| *last < bucket) {
                tally.counts.push((bucket, count));
            }
        }
        tally
    }
}

/// Counts of all buckets, to find quantiles.
pub(super) struct Spectrum {
    counts: [u32; BUCKETS],
    successes: u32,
    failures: u32,
}

impl Default for Spectrum {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], successes: 0, failures: 0 }
    }
}

impl Spectrum {
    pub(super) fn add(&mut self, outcome: &Outcome) {
        if outcome.success {
            self.count(outcome.latency, 1);
        } else {
            self.failures += 1;
        }
    }

    fn add_tally(&mut self, tally: &Tally) {
        tally.counts.iter().for_each(|(bucket, count)| self.count(*bucket, (*count).into()));
        self.failures = self.failures.saturating_add(tally.failures);
    }

    fn count(&mut self, bucket: Bucket, count: u32) {
        self.counts[usize::from(bucket.number())] += count;
        self.successes += count;
    }

    /// The latency that so many of a hundred successes did not exceed.
    fn quantile(&self, percent: u32) -> Option<Bucket> {
        let rank = (u64::from(self.successes) * u64::from(percent)).div_ceil(100).max(1);
        let mut below = 0;
        let found = self.counts.iter().position(|count| {
            below += u64::from(*count);
            below >= rank
        });
        found.and_then(|number| Bucket::from_number(number as u8))
    }

    /// `None` if nothing was counted.
    pub(super) fn show(&self, since: UnixMillis) -> Option<Shown> {
        let quantile = |percent| self.quantile(percent).map(show_latency);
        (self.successes > 0 || self.failures > 0).then(|| Shown {
            since: Some(since.into()),
            successes: self.successes,
            failures: self.failures,
            p50: quantile(50),
            p90: quantile(90),
            p99: quantile(99),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{super::outcomes::outcome, *};

    fn bucket(us: u64) -> Option<Bucket> {
        Some(Bucket::of(Duration::from_micros(us)))
    }

    #[test]
    fn quantiles_are_those_of_what_was_counted() {
        let mut spectrum = Spectrum::default();
        (1..=100).for_each(|us| spectrum.add(&outcome(0, true, Duration::from_micros(us * 100))));
        spectrum.add(&outcome(0, false, Duration::from_secs(1)));
        assert_eq!(spectrum.quantile(50), bucket(5_000));
        assert_eq!(spectrum.quantile(90), bucket(9_000));
        assert_eq!(spectrum.quantile(99), bucket(9_900));
        assert_eq!(Spectrum::default().quantile(50), None);
    }

    #[test]
    fn a_window_holds_the_span_that_runs_and_the_one_before() {
        let mut window = Window::default();
        let at = |hour: u64| 1_000_000 * HOUR + hour * HOUR + 5;
        let count = |window: &Window, hour| window.show(HOUR, UnixMillis(at(hour))).map_or(0, |shown| shown.successes);
        window.push(HOUR, outcome(at(0), true, Duration::from_millis(1)));
        window.push(HOUR, outcome(at(1), true, Duration::from_millis(1)));
        assert_eq!((count(&window, 1), count(&window, 2), count(&window, 3)), (2, 1, 0));
        window.push(HOUR, outcome(at(2), true, Duration::from_millis(1)));
        assert_eq!(count(&window, 2), 2, "the first hour is over");
        window.push(HOUR, outcome(at(9), false, Duration::from_millis(1)));
        let shown = window.show(HOUR, UnixMillis(at(9))).expect("there is a failure");
        assert_eq!((shown.successes, shown.failures, shown.p50), (0, 1, None));
    }

    #[test]
    fn a_full_count_is_halved_with_all_others() {
        let mut tally = Tally { counts: vec![(Bucket::of(Duration::ZERO), 1)], failures: 0 };
        let slow = |tally: &mut Tally| tally.push(outcome(0, true, Duration::from_secs(1)));
        (0..=u32::from(u16::MAX)).for_each(|_| slow(&mut tally));
        assert_eq!(tally.counts, [(Bucket::of(Duration::from_secs(1)), u16::MAX / 2)]);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(times in proptest::collection::vec((0u64..10_000_000, any::<bool>()), 0..200)) {
            let mut window = Window::default();
            times.iter().for_each(|(us, success)| window.push(HOUR, outcome(*us, *success, Duration::from_micros(*us))));
            let read = Window::read(window.write());
            prop_assert_eq!(read.current.counts, window.current.counts);
            prop_assert_eq!(read.current.failures, window.current.failures);
        }

        #[test]
        fn any_record_is_survived(buckets in proptest::collection::vec(any::<u8>(), 0..300), counts in proptest::collection::vec(any::<u32>(), 0..300)) {
            let tally = Tally::read(&TallyRecord { buckets: buckets.into(), counts, failures: u32::MAX });
            prop_assert!(tally.counts.len() <= BUCKETS);
            let mut spectrum = Spectrum::default();
            spectrum.add_tally(&tally);
            spectrum.show(UnixMillis(0));
        }
    }
}
