//! Which revisions are old enough to be compacted away: those that were the newest so long ago.

use std::{collections::VecDeque, time::Duration};

use ringmesh_proto::Instant;

/// How often the revision is noted, as a part of the time that revisions are kept.
const NOTES: u32 = 10;

/// The revision at some moments.
#[derive(Debug)]
pub(super) struct Retention {
    keep: Duration,
    notes: VecDeque<(Instant, i64)>,
}

impl Retention {
    pub(super) fn new(keep: Duration) -> Self {
        Self { keep, notes: VecDeque::new() }
    }

    /// Notes the revision, and returns one that may be compacted now. Called as often as one likes.
    pub(super) fn handle_timeout(&mut self, now: Instant, revision: i64) -> Option<i64> {
        let step = self.keep / NOTES;
        if self.notes.back().is_some_and(|(noted, _)| now.since(*noted) < step) {
            return None;
        }
        self.notes.push_back((now, revision));
        let mut old = None;
        while self.notes.front().is_some_and(|(noted, _)| now.since(*noted) >= self.keep) {
            old = self.notes.pop_front().map(|(_, revision)| revision);
        }
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_goes_when_it_has_been_old_for_long_enough() {
        let mut retention = Retention::new(Duration::from_secs(100));
        let at = |s: u64| Instant::from_nanos(s * 1_000_000_000);
        for second in 0..100 {
            assert_eq!(retention.handle_timeout(at(second), second.try_into().unwrap()), None, "{second}");
        }
        assert_eq!(retention.handle_timeout(at(100), 100), Some(0));
        assert_eq!(retention.handle_timeout(at(101), 101), None);
        assert_eq!(retention.handle_timeout(at(110), 110), Some(10));
        assert!(retention.notes.len() <= 11);
    }
}
