//! Whether probes keep up with their intervals, and by how much all of these are stretched when they do not.
//!
//! One factor for all: no check is left out so that others come in time. It grows to what the probes that were made allow for,
//! and shrinks again by small steps while all are made in time.

use std::time::Duration;

use ringmesh_proto::Instant;

/// A stretch of 1.
pub(crate) const UNSTRETCHED: u32 = 1000;

/// The most that intervals are stretched: beyond it something is broken, not busy.
const MAX_STRETCH: u32 = 16 * UNSTRETCHED;

/// So long probes are counted before their share is judged.
pub(super) const WINDOW: Duration = Duration::from_secs(5);

/// A probe that is begun so late, or whose outcome comes so much after it was known, was not made in time.
pub(super) const LATE: Duration = Duration::from_secs(1);

/// Of a window in which fewer are late nothing follows, whatever their share.
const MIN_LATE: u32 = 3;

/// The share of late ones, in thousandths, from which a window counts as overloaded.
const OVERLOADED: u32 = 50;

/// Overloaded windows in a row before intervals are stretched: what a pause of the agent leaves is over by then, and what the
/// last stretch did is seen.
const PATIENCE: u32 = 2;

/// Windows in a row without a late one before intervals shrink by a tenth.
const CALM: u32 = 3;

/// What was counted, and what follows.
#[derive(Debug)]
pub(super) struct Load {
    stretch: u32,
    /// When it last changed, and what it was.
    before: Option<(Instant, u32)>,
    window: Option<Instant>,
    due: u32,
    late: u32,
    made: u32,
    overloaded: u32,
    calm: u32,
    late_ever: u64,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            stretch: UNSTRETCHED,
            before: None,
            window: None,
            due: 0,
            late: 0,
            made: 0,
            overloaded: 0,
            calm: 0,
            late_ever: 0,
        }
    }
}

/// The stretch before and after a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretched {
    pub(super) old: u32,
    pub(super) new: u32,
    /// Of `due` probes so many were late.
    pub(super) late: u32,
    pub(super) due: u32,
}

impl Load {
    /// In thousandths, at least [`UNSTRETCHED`].
    pub(super) fn stretch(&self) -> u32 {
        self.stretch
    }

    /// Probes since the start that were not made in time.
    pub(super) fn late_ever(&self) -> u64 {
        self.late_ever
    }

    /// As long as it is stretched now.
    pub(super) fn stretched(&self, interval: Duration) -> Duration {
        stretched(interval, self.stretch)
    }

    /// When a check of this interval that fell due then is due next.
    ///
    /// In the first cycle after a change each keeps its place in the cycle. If all just came later by the same time, they would come
    /// as close together as before, with nothing in between.
    pub(super) fn next(&self, due: Instant, interval: Duration) -> Instant {
        let next = due + self.stretched(interval);
        let Some((changed, old)) = self.before.filter(|(changed, old)| due < *changed + stretched(interval, *old))
        else {
            return next;
        };
        let into = due.since(changed);
        (changed + stretched(interval, old) + into * self.stretch / old).min(next)
    }

    /// A probe fell due.
    pub(super) fn count_due(&mut self) {
        self.due += 1;
    }

    /// A probe was made, in time or not.
    pub(super) fn count_made(&mut self) {
        self.made += 1;
    }

    /// A probe was not made in time.
    pub(super) fn count_late(&mut self) {
        self.late += 1;
        self.late_ever += 1;
    }

    /// Judges the window if it is over; what changed by that. `demand` is how many probes would be made in a window if no interval
    /// were stretched.
    pub(super) fn handle_timeout(&mut self, now: Instant, demand: impl FnOnce() -> u32) -> Option<Stretched> {
        if now < *self.window.get_or_insert(now + WINDOW) {
            return None;
        }
        let (due, late) = (std::mem::take(&mut self.due), std::mem::take(&mut self.late));
        let made = std::mem::take(&mut self.made);
        self.window = Some(now + WINDOW);
        let share = (late.min(due) * 1000).checked_div(due).unwrap_or(0);
        let old = self.stretch;
        if late >= MIN_LATE && share >= OVERLOADED {
            (self.overloaded, self.calm) = (self.overloaded + 1, 0);
            if self.overloaded >= PATIENCE {
                // To as many as can be made; a tenth at the least, to get out of what is left over.
                self.overloaded = 0;
                let enough = u64::from(UNSTRETCHED) * u64::from(demand()) / u64::from(made.max(1));
                let enough = u32::try_from(enough).unwrap_or(MAX_STRETCH);
                self.stretch = enough.clamp(old + old / 10, old * 2).min(MAX_STRETCH);
            }
        } else {
            (self.overloaded, self.calm) = (0, if late == 0 { self.calm + 1 } else { 0 });
            if self.calm >= CALM {
                self.calm = 0;
                self.stretch = (old - old / 10).max(UNSTRETCHED);
            }
        }
        if old != self.stretch {
            self.before = Some((now, old));
        }
        (old != self.stretch).then_some(Stretched { old, new: self.stretch, late, due })
    }
}

fn stretched(interval: Duration, stretch: u32) -> Duration {
    if stretch == UNSTRETCHED { interval } else { interval * stretch / UNSTRETCHED }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of 100 probes, so many of which are late and not made while the demand is one of 100; the stretch after each.
    fn after(load: &mut Load, now: &mut Instant, late: &[u32]) -> Vec<u32> {
        let window = |late: &u32| {
            load.handle_timeout(*now, || 100);
            (0..100).for_each(|_| load.count_due());
            (0..*late).for_each(|_| load.count_late());
            (*late..100).for_each(|_| load.count_made());
            *now += WINDOW;
            load.handle_timeout(*now, || 100);
            load.stretch()
        };
        late.iter().map(window).collect()
    }

    #[test]
    fn intervals_grow_by_what_did_not_fit_and_shrink_again() {
        let (mut load, mut now) = (Load::default(), Instant::ZERO);
        assert_eq!(after(&mut load, &mut now, &[0, 0, 0, 0]), [1000; 4]);
        assert_eq!(after(&mut load, &mut now, &[50, 0, 1, 2, 50, 0]), [1000; 6], "a pause, and a few");
        assert_eq!(after(&mut load, &mut now, &[50, 33, 20, 5]), [1000, 1492, 1492, 1641]);
        assert_eq!(after(&mut load, &mut now, &[1, 0, 0, 0, 0, 0, 0]), [1641, 1641, 1641, 1477, 1477, 1477, 1330]);
        assert_eq!(*after(&mut load, &mut now, &[0; 30]).last().expect("thirty"), UNSTRETCHED);
        assert_eq!(load.late_ever(), 50 + 1 + 2 + 50 + 50 + 33 + 20 + 5 + 1);
    }

    #[test]
    fn places_in_the_cycle_are_kept() {
        let (mut load, mut now) = (Load::default(), Instant::ZERO);
        let interval = Duration::from_secs(10);
        assert_eq!(load.next(now, interval), now + interval);
        assert_eq!(after(&mut load, &mut now, &[50, 34]), [1000, 1515]);
        let next = |after: u64| load.next(now + Duration::from_secs(after), interval).since(now).as_secs_f64();
        assert_eq!([0, 2, 4, 6, 8, 10, 12].map(next), [10.0, 13.03, 16.06, 19.09, 22.12, 25.15, 27.15]);
    }

    #[test]
    fn what_was_left_undone_stretches_no_more_than_what_can_be_done() {
        let (mut load, mut now) = (Load::default(), Instant::ZERO);
        // As many as are wanted are made, but all of them late: a start, or a pause, is being worked off.
        for _ in 0..8 {
            load.handle_timeout(now, || 100);
            (0..100).for_each(|_| load.count_due());
            (0..100).for_each(|_| load.count_late());
            (0..100).for_each(|_| load.count_made());
            now += WINDOW;
            load.handle_timeout(now, || 100);
        }
        assert_eq!(load.stretch(), 1464, "a tenth each time");
    }

    #[test]
    fn there_is_an_end_to_stretching() {
        let (mut load, mut now) = (Load::default(), Instant::ZERO);
        assert_eq!(after(&mut load, &mut now, &[100; 20]).last(), Some(&MAX_STRETCH));
        assert_eq!(load.stretched(Duration::from_secs(10)), Duration::from_secs(160));
    }
}
