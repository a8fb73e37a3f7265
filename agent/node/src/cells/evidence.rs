//! What speaks for it that a container lives: only then does its member of a cell say anything.

use std::time::Duration;

use ringmesh_proto::Instant;

/// Probes in a row without a sign of life after which there is no evidence, and intervals that a sign of life holds.
///
/// Both must have gone by: probes that were never made, because this agent could not, are no silence of the container.
pub(crate) const PATIENCE: u8 = 3;

/// For how long a word of a member inside its container is evidence: it probes once in each of its periods, so that two of
/// them went by, and some.
pub(super) const WORD_HOLDS: Duration = Duration::from_secs(12);

/// Of one container, in its present life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    /// It is paused: its processes are frozen and say nothing, and that is no death.
    pub(super) frozen: bool,
    /// It has a member inside, whose own words are the only signs.
    pub(super) inside: bool,
    /// When it last gave a sign of life, or began this one.
    pub(super) sign: Instant,
    /// Until when the signs hold.
    until: Instant,
    /// Probes since without one.
    unanswered: u8,
}

impl Evidence {
    /// A container that has just been found running.
    pub(super) fn new(now: Instant) -> Self {
        Self { frozen: false, inside: false, sign: now, until: now, unanswered: 0 }
    }

    /// A sign of life came, which holds for so long.
    pub(super) fn sign(&mut self, now: Instant, holds: Duration) {
        self.unanswered = 0;
        self.sign = now;
        self.until = self.until.max(now + holds);
    }

    /// Its member inside said something, or has just come there.
    pub(super) fn word(&mut self, now: Instant) {
        (self.inside, self.sign, self.until) = (true, now, now + WORD_HOLDS);
    }

    /// It was asked and was silent.
    pub(super) fn silence(&mut self) {
        self.unanswered = self.unanswered.saturating_add(1);
    }

    /// It is overdue to speak up, and has had all the time that it wanted for it.
    pub(super) fn missed(&mut self) {
        self.unanswered = PATIENCE;
    }

    /// Whether it is silent as soon as no sign of life holds any more.
    pub(super) fn is_asked_enough(&self) -> bool {
        self.inside || self.unanswered >= PATIENCE
    }

    /// It goes on after it was frozen: what was asked meanwhile does not count.
    pub(super) fn thaw(&mut self, now: Instant) {
        self.frozen = false;
        if self.inside {
            self.word(now);
        } else {
            self.sign(now, Duration::ZERO);
        }
    }

    /// Whether it should say something, and does not.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        !self.frozen && !self.speaks(now)
    }

    /// Whether its member may speak.
    pub(super) fn speaks(&self, now: Instant) -> bool {
        !self.frozen && (!self.is_asked_enough() || now <= self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_when_it_was_asked_often_enough_and_long_enough_ago() {
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        let mut evidence = Evidence::new(at(0));
        assert!(evidence.speaks(at(1000)), "nobody asked");
        evidence.sign(at(10), Duration::from_secs(30));
        (0..PATIENCE).for_each(|_| evidence.silence());
        assert!(evidence.speaks(at(40)), "another check's sign holds");
        assert!(!evidence.speaks(at(41)));
        evidence.sign(at(50), Duration::from_secs(3));
        assert!(evidence.speaks(at(50)));
        (1..PATIENCE).for_each(|_| evidence.silence());
        assert!(evidence.speaks(at(90)), "asked too rarely");
        evidence.silence();
        assert!(!evidence.speaks(at(90)));
    }

    #[test]
    fn one_that_is_overdue_is_silent_unless_another_sign_holds() {
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        let mut evidence = Evidence::new(at(0));
        evidence.sign(at(0), Duration::from_secs(5));
        evidence.missed();
        assert!(evidence.speaks(at(5)) && !evidence.speaks(at(6)));
        evidence.sign(at(6), Duration::from_secs(30));
        evidence.missed();
        assert!(evidence.speaks(at(36)), "another check's sign holds");
    }

    #[test]
    fn who_has_a_member_inside_speaks_by_its_words_alone() {
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        let mut evidence = Evidence::new(at(0));
        evidence.sign(at(0), Duration::from_secs(1000));
        evidence.word(at(10));
        assert!(evidence.speaks(at(22)) && !evidence.speaks(at(23)), "what was heard from outside does not count");
        evidence.word(at(30));
        assert!(evidence.speaks(at(42)));
        evidence.frozen = true;
        evidence.thaw(at(60));
        assert!(evidence.speaks(at(72)) && !evidence.speaks(at(73)));
    }

    #[test]
    fn a_frozen_one_is_silent_at_once_and_speaks_again_at_once() {
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        let mut evidence = Evidence { frozen: true, ..Evidence::new(at(0)) };
        assert!(!evidence.speaks(at(0)));
        (0..9).for_each(|_| evidence.silence());
        evidence.thaw(at(60));
        assert!(evidence.speaks(at(61)));
    }
}
