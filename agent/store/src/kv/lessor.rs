//! When leases end: the leader's part, which alone knows deadlines.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ringmesh_proto::Instant;

use super::LeaseTable;

/// How many leases end at once: each is a command of its own, and others want to be proposed too.
const ENDS_A_TURN: usize = 512;

/// How soon the end of a lease is asked for again that could not be proposed.
const AGAIN: Duration = Duration::from_secs(3);

/// Deadlines of leases, as long as this replica leads.
#[derive(Debug, Default)]
pub struct Lessor {
    leads: bool,
    leases: BTreeMap<i64, Term>,
    /// When something is to be done about which lease.
    due: BTreeSet<(Instant, i64)>,
}

/// What a lease has left.
#[derive(Clone, Copy, Debug)]
struct Term {
    ttl_s: i64,
    ends: Instant,
    /// When it is due: at its end, and again later as long as its end is not in the log. `None` once it is.
    due: Option<Instant>,
}

impl Lessor {
    /// This replica leads from now on: each lease has its full TTL again.
    pub fn lead(&mut self, now: Instant, leases: &LeaseTable) {
        self.follow();
        self.leads = true;
        leases.iter().for_each(|(lease, ttl_s)| self.granted(now, lease, ttl_s));
    }

    /// It leads no more: nothing ends by its word.
    pub fn follow(&mut self) {
        *self = Self::default();
    }

    /// A lease was granted, by an applied command. Nothing happens unless this replica leads.
    pub fn granted(&mut self, now: Instant, lease: i64, ttl_s: i64) {
        if !self.leads {
            return;
        }
        self.revoked(lease);
        let ends = now + seconds(ttl_s);
        self.leases.insert(lease, Term { ttl_s, ends, due: Some(ends) });
        self.due.insert((ends, lease));
    }

    /// A lease was revoked, by an applied command.
    pub fn revoked(&mut self, lease: i64) {
        if let Some(at) = self.leases.remove(&lease).and_then(|term| term.due) {
            self.due.remove(&(at, lease));
        }
    }

    /// The end of a lease has a place in the log. It is proposed once only: a second proposal could end another lease, that
    /// was granted under the same id after the first.
    pub fn proposed(&mut self, lease: i64) {
        if let Some(at) = self.leases.get_mut(&lease).and_then(|term| term.due.take()) {
            self.due.remove(&(at, lease));
        }
    }

    /// The end of a lease was applied and refused, as while replicas differ: it is proposed again later.
    pub fn refused(&mut self, now: Instant, lease: i64) {
        if let Some(term) = self.leases.get_mut(&lease).filter(|term| term.due.is_none()) {
            let at = now + AGAIN;
            term.due = Some(at);
            self.due.insert((at, lease));
        }
    }

    /// Gives a lease its full TTL, which is returned in seconds; `None` of one that is not there, or whose time is over.
    pub fn keep_alive(&mut self, now: Instant, lease: i64) -> Option<i64> {
        let ttl_s = self.leases.get(&lease).filter(|term| now < term.ends)?.ttl_s;
        self.granted(now, lease, ttl_s);
        Some(ttl_s)
    }

    /// Whole seconds that a lease has left.
    pub fn remaining_s(&self, now: Instant, lease: i64) -> Option<i64> {
        let left = self.leases.get(&lease)?.ends.since(now);
        Some(i64::try_from(left.as_secs()).unwrap_or(i64::MAX))
    }

    /// Leases whose time is over, to be revoked by a proposed command each. One of which it is not said that its end was
    /// [proposed](Self::proposed) is named again later.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<i64> {
        let due: Vec<_> = self.due.range(..=(now, i64::MAX)).take(ENDS_A_TURN).copied().collect();
        for (at, lease) in &due {
            self.due.remove(&(*at, *lease));
            let term = self.leases.get_mut(lease).expect("what is due is there");
            term.due = Some(now + AGAIN);
            self.due.insert((now + AGAIN, *lease));
        }
        due.into_iter().map(|(_, lease)| lease).collect()
    }

    /// When [`Lessor::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(count.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn leader() -> Lessor {
        let mut table = LeaseTable::default();
        table.grant(1, 10).unwrap();
        table.grant(2, 20).unwrap();
        let mut lessor = Lessor::default();
        lessor.lead(at(100), &table);
        lessor
    }

    #[test]
    fn a_new_leader_gives_each_lease_its_full_time() {
        let mut lessor = leader();
        assert_eq!((lessor.remaining_s(at(100), 1), lessor.remaining_s(at(101), 2)), (Some(10), Some(19)));
        assert_eq!(lessor.poll_timeout(), Some(at(110)));
        assert_eq!(lessor.handle_timeout(at(109)), []);
        assert_eq!(lessor.handle_timeout(at(110)), [1]);
    }

    #[test]
    fn the_end_is_named_again_until_it_is_proposed() {
        let mut lessor = leader();
        assert_eq!(lessor.handle_timeout(at(111)), [1]);
        assert_eq!(lessor.poll_timeout(), Some(at(114)));
        assert_eq!(lessor.handle_timeout(at(113)), []);
        assert_eq!(lessor.handle_timeout(at(114)), [1]);
        lessor.revoked(1);
        assert_eq!(lessor.handle_timeout(at(130)), [2]);
        lessor.revoked(2);
        assert_eq!(lessor.poll_timeout(), None);
    }

    #[test]
    fn an_end_that_is_proposed_is_not_proposed_again_unless_it_is_refused() {
        let mut lessor = leader();
        assert_eq!(lessor.handle_timeout(at(110)), [1]);
        lessor.proposed(1);
        assert_eq!((lessor.handle_timeout(at(119)), lessor.keep_alive(at(119), 1)), (vec![], None));
        // The first is applied, and a client grants the id anew: no second one comes after that.
        lessor.revoked(1);
        lessor.granted(at(119), 1, 10);
        assert_eq!(lessor.handle_timeout(at(128)), [2]);
        assert_eq!(lessor.handle_timeout(at(129)), [1]);
        lessor.proposed(1);
        lessor.refused(at(130), 1);
        assert_eq!(lessor.handle_timeout(at(134)), [2, 1]);
        lessor.proposed(1);
        lessor.follow();
        lessor.proposed(2);
        assert_eq!(lessor.poll_timeout(), None);
    }

    #[test]
    fn what_is_kept_alive_goes_on_unless_its_time_is_over() {
        let mut lessor = leader();
        assert_eq!(lessor.keep_alive(at(109), 1), Some(10));
        assert_eq!(lessor.handle_timeout(at(118)), []);
        assert_eq!(lessor.keep_alive(at(119), 1), None, "it may have been proposed to be revoked");
        assert_eq!(lessor.keep_alive(at(119), 3), None);
        assert_eq!(lessor.handle_timeout(at(120)), [1, 2]);
    }

    #[test]
    fn who_does_not_lead_ends_nothing() {
        let mut lessor = leader();
        lessor.follow();
        lessor.granted(at(100), 3, 5);
        assert_eq!((lessor.poll_timeout(), lessor.handle_timeout(at(999)).len()), (None, 0));
        assert_eq!(lessor.keep_alive(at(100), 1), None);
    }

    #[test]
    fn ends_come_in_bounded_turns_and_none_is_lost() {
        let mut lessor = Lessor { leads: true, ..Lessor::default() };
        (0..1000).for_each(|lease| lessor.granted(at(0), lease, 5));
        let first = lessor.handle_timeout(at(5));
        assert_eq!((first.len(), lessor.poll_timeout()), (ENDS_A_TURN, Some(at(5))));
        let second = lessor.handle_timeout(at(5));
        assert!(first.into_iter().chain(second).eq(0..1000));
    }

    #[test]
    fn the_longest_lease_ends_after_all_time() {
        let mut lessor = Lessor { leads: true, ..Lessor::default() };
        lessor.granted(at(5), 1, super::super::lease::TTL_MAX_S);
        assert_eq!(lessor.remaining_s(at(5), 1), Some(9_000_000_000));
    }
}
