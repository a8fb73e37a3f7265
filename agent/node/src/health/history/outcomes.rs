//! The newest outcomes of a check: three bytes each, in a ring of fixed size.

use bytes::Bytes;
use ringmesh_proto::{UnixMillis, disk::HistoryRecord};

use super::bucket::Bucket;

/// Outcomes that are kept: some ten minutes at the default interval.
pub const MAX_OUTCOMES: usize = 64;

/// The highest bit of an outcome's byte; the others are its bucket.
const FAILED: u8 = 0x80;

/// One outcome of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) at: UnixMillis,
    pub(super) success: bool,
    pub(super) latency: Bucket,
}

/// A ring of them.
#[derive(Clone, Debug)]
pub(super) struct Outcomes {
    codes: [u8; MAX_OUTCOMES],
    /// Of each, the time since the one before.
    gaps: [Gap; MAX_OUTCOMES],
    /// Where the next one goes.
    next: u8,
    len: u8,
    newest: UnixMillis,
}

impl Default for Outcomes {
    fn default() -> Self {
        Self { codes: [0; MAX_OUTCOMES], gaps: [Gap(0); MAX_OUTCOMES], next: 0, len: 0, newest: UnixMillis::default() }
    }
}

impl Outcomes {
    /// Adds one, in place of the oldest.
    pub(super) fn push(&mut self, outcome: Outcome) {
        let gap = if self.len == 0 { 0 } else { outcome.at.0.saturating_sub(self.newest.0) };
        self.newest = outcome.at;
        self.put(code(outcome), Gap::of(gap));
    }

    fn put(&mut self, code: u8, gap: Gap) {
        let place = usize::from(self.next);
        self.codes[place] = code;
        self.gaps[place] = gap;
        self.next = ((place + 1) % MAX_OUTCOMES) as u8;
        self.len = (self.len + 1).min(MAX_OUTCOMES as u8);
    }

    /// Places in the ring, newest first.
    fn places(&self) -> impl Iterator<Item = usize> + use<> {
        let next = usize::from(self.next);
        (1..=usize::from(self.len)).map(move |back| (next + MAX_OUTCOMES - back) % MAX_OUTCOMES)
    }

    /// Oldest first.
    pub(super) fn to_vec(&self) -> Vec<Outcome> {
        let mut at = self.newest.0;
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(self.len.into());
        for place in self.places() {
            let code = self.codes[place];
            let latency = Bucket::from_number(code & !FAILED).expect("7 bits are a bucket");
            outcomes.push(Outcome { at: UnixMillis(at), success: code & FAILED == 0, latency });
            at = at.saturating_sub(self.gaps[place].millis());
        }
        outcomes.reverse();
        outcomes
    }

    pub(super) fn write(&self, record: &mut HistoryRecord) {
        let mut places: Vec<usize> = self.places().collect();
        places.reverse();
        record.outcomes = places.iter().map(|place| self.codes[*place]).collect::<Vec<u8>>().into();
        record.gaps = places.iter().map(|place| self.gaps[*place].0.into()).collect();
        record.newest_ms = self.newest.0;
    }

    /// Of what a disk says, as much as fits.
    pub(super) fn read(outcomes: &Bytes, gaps: &[u32], newest: UnixMillis) -> Self {
        let mut ring = Self { newest, ..Self::default() };
        for (code, gap) in outcomes.iter().zip(gaps) {
            ring.put(*code, Gap(u16::try_from(*gap).unwrap_or(u16::MAX)));
        }
        ring
    }
}

fn code(outcome: Outcome) -> u8 {
    outcome.latency.number() | if outcome.success { 0 } else { FAILED }
}

/// A time between two outcomes: below 2^15 in steps of 10 ms, from there on in steps of 10 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap(u16);

const COARSE: u16 = 1 << 15;
const FINE_STEP_MS: u64 = 10;
const COARSE_STEP_MS: u64 = 10_000;

impl Gap {
    /// The nearest; what is longer than 91 hours is told as that.
    fn of(millis: u64) -> Self {
        let fine = (millis + FINE_STEP_MS / 2) / FINE_STEP_MS;
        if fine < COARSE.into() {
            return Self(fine as u16);
        }
        let coarse = (millis + COARSE_STEP_MS / 2) / COARSE_STEP_MS;
        Self(COARSE | coarse.min(u64::from(COARSE) - 1) as u16)
    }

    fn millis(self) -> u64 {
        let (steps, coarse) = (u64::from(self.0 & !COARSE), self.0 & COARSE != 0);
        steps * if coarse { COARSE_STEP_MS } else { FINE_STEP_MS }
    }
}

/// For tests: what an outcome says.
#[cfg(test)]
pub(super) fn outcome(at: u64, success: bool, latency: std::time::Duration) -> Outcome {
    Outcome { at: UnixMillis(at), success, latency: Bucket::of(latency) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_newest_stay_in_order_and_survive_the_disk() {
        let mut ring = Outcomes::default();
        let all: Vec<Outcome> =
            (0..100).map(|n| outcome(5_000 + n * 10_000, n % 7 != 0, Duration::from_micros(n * 300))).collect();
        all.iter().for_each(|outcome| ring.push(*outcome));
        assert_eq!(ring.to_vec(), all[100 - MAX_OUTCOMES..]);
        let mut record = HistoryRecord::default();
        ring.write(&mut record);
        let read = Outcomes::read(&record.outcomes, &record.gaps, UnixMillis(record.newest_ms));
        assert_eq!(read.to_vec(), all[100 - MAX_OUTCOMES..]);
    }

    #[test]
    fn a_clock_that_is_set_back_breaks_nothing() {
        let mut ring = Outcomes::default();
        ring.push(outcome(1_000_000, true, Duration::ZERO));
        ring.push(outcome(10, true, Duration::ZERO));
        assert_eq!(ring.to_vec().iter().map(|outcome| outcome.at.0).collect::<Vec<_>>(), [10, 10]);
    }

    proptest! {
        #[test]
        fn a_gap_is_told_within_its_step(millis in 0u64..300_000_000) {
            let told = Gap::of(millis).millis();
            let step = if millis < 327_670 { FINE_STEP_MS } else { COARSE_STEP_MS };
            prop_assert!(told.abs_diff(millis) <= step / 2, "{millis} ms are told as {told}");
        }

        #[test]
        fn any_record_is_survived(codes in proptest::collection::vec(any::<u8>(), 0..200), gaps in proptest::collection::vec(any::<u32>(), 0..200), newest in any::<u64>()) {
            let ring = Outcomes::read(&codes.into(), &gaps, UnixMillis(newest));
            prop_assert!(ring.to_vec().len() <= MAX_OUTCOMES);
        }
    }
}
