//! When very many services change at once, only the first are told one by one, the others as a number: an event goes to every
//! host, and a host keeps but some thousand. Each change stays in the history of its check.

use std::{collections::BTreeMap, time::Duration};

use ringmesh_proto::{Instant, v1::event::Severity};

/// Changes that are told one by one at once.
const BURST: u32 = 50;

/// Then one more each time that so much time has gone by.
const REFILL: Duration = Duration::from_millis(100);

/// The others are told as a number after so long.
const GATHER: Duration = Duration::from_secs(1);

/// What was not told one by one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// The worst of them.
    pub(super) severity: Severity,
    /// "1950 more changes within 1 s: 1940 services critical, 10 containers stopped"
    pub(super) text: String,
    pub(super) changes: u64,
}

/// Lets some pass and counts the others.
#[derive(Debug)]
pub(super) struct Crowd {
    room: u32,
    filled: Instant,
    /// Since when there are some that were not told.
    since: Option<Instant>,
    /// How many, by what they are. A handful: the words come from here.
    withheld: BTreeMap<String, u64>,
    severity: Severity,
}

impl Default for Crowd {
    fn default() -> Self {
        Self { room: BURST, filled: Instant::ZERO, since: None, withheld: BTreeMap::new(), severity: Severity::Info }
    }
}

impl Crowd {
    /// Whether a change may be told by itself. Otherwise it is counted as one of `what`.
    pub(super) fn admit(&mut self, now: Instant, what: String, severity: Severity) -> bool {
        let gained = now.since(self.filled).as_nanos() / REFILL.as_nanos();
        if gained > 0 {
            self.room = u32::try_from(gained).unwrap_or(BURST).saturating_add(self.room).min(BURST);
            self.filled = now;
        }
        if self.room > 0 {
            self.room -= 1;
            return true;
        }
        self.since.get_or_insert(now);
        *self.withheld.entry(what).or_default() += 1;
        self.severity = self.severity.max(severity);
        false
    }

    /// When [`Self::take`] has something.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.since.map(|since| since + GATHER)
    }

    /// What was not told one by one, once it is time to tell it.
    pub(super) fn take(&mut self, now: Instant) -> Option<Summary> {
        let since = self.since.filter(|since| *since + GATHER <= now)?;
        self.since = None;
        let withheld = std::mem::take(&mut self.withheld);
        let changes = withheld.values().sum();
        let parts: Vec<String> = withheld.iter().map(|(what, number)| format!("{number} {what}")).collect();
        let span = now.since(since).as_secs_f64();
        let text = format!("{changes} more changes within {span:.0} s: {}", parts.join(", "));
        Some(Summary { severity: std::mem::replace(&mut self.severity, Severity::Info), text, changes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn the_first_are_told_and_the_others_counted() {
        let mut crowd = Crowd::default();
        let told = (0..2000).filter(|n| {
            let what = if n % 100 == 0 { "containers stopped" } else { "services critical" };
            crowd.admit(at(5000), what.into(), if n % 2 == 0 { Severity::Critical } else { Severity::Info })
        });
        assert_eq!(told.count(), BURST as usize);
        assert_eq!((crowd.poll_timeout(), crowd.take(at(5999))), (Some(at(6000)), None));
        let summary = crowd.take(at(6000)).expect("it is time");
        assert_eq!(summary.text, "1950 more changes within 1 s: 19 containers stopped, 1931 services critical");
        assert_eq!((summary.severity, summary.changes), (Severity::Critical, 1950));
        assert_eq!((crowd.poll_timeout(), crowd.take(at(9000))), (None, None));
    }

    #[test]
    fn what_trickles_is_told_one_by_one() {
        let mut crowd = Crowd::default();
        assert!((0..1000).all(|n| crowd.admit(at(n * 100), "services critical".into(), Severity::Critical)));
    }

    proptest! {
        #[test]
        fn none_is_lost(gaps in proptest::collection::vec(0u64..300, 0..400)) {
            let (mut crowd, mut now, mut told) = (Crowd::default(), 0, 0u64);
            for gap in &gaps {
                now += gap;
                told += crowd.take(at(now)).map_or(0, |summary| summary.changes);
                told += u64::from(crowd.admit(at(now), "services critical".into(), Severity::Info));
            }
            told += crowd.take(at(now + 10_000)).map_or(0, |summary| summary.changes);
            prop_assert_eq!(told, gaps.len() as u64);
        }
    }
}
