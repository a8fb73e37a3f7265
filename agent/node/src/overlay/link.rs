//! One link: a probe every half second, of a chord every second, and what its answers say.
//!
//! A probe without an answer is followed by others as fast as the measured round trips allow (RFC 6298's timeout), so
//! that a link is down a fifth of a second after its first silence, however long the interval.
//!
//! One end's probes serve both: an end that is probed counts that as an answer to a probe of its own, which it then need
//! not send. It sends one only when no probe has come for longer than the other end takes between two.

use std::time::Duration;

use ringmesh_proto::Instant;

/// Between two probes of a ring's link: those who judge whether a host lives are its neighbours on the rings.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// Between two probes of a chord.
pub(crate) const CHORD_INTERVAL: Duration = Duration::from_secs(1);

/// An end that was probed waits for so much longer than an interval before it sends a probe itself.
const LATE: Duration = Duration::from_millis(100);

/// So long it waits at a ring's link.
pub(crate) const HEARD_FOR: Duration = PROBE_INTERVAL.saturating_add(LATE);

/// Probes in a row without an answer after which a link is down.
const DOWN_AFTER: u32 = 3;

/// Bounds of the wait for an answer, before the next probe follows. The lower one is the scheduling of a busy host.
pub(crate) const TIMEOUT: (Duration, Duration) = (Duration::from_millis(60), Duration::from_millis(400));

/// The same before a round trip was measured.
const FIRST_TIMEOUT: Duration = Duration::from_millis(200);

/// Answers in a row after which a link that was down is up again.
const UP_AFTER: u32 = 2;

/// The probes whose loss counts.
const WINDOW: u32 = 16;

/// Lost probes of the window, of which a link is degraded.
const DEGRADED_AT: u32 = 4;

/// A probe that is sent so late shows that this process was paused: what it missed meanwhile is not held against the link.
const PAUSED: Duration = Duration::from_millis(750);

/// How a link does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkState {
    /// No answer yet, and not long enough to judge.
    #[default]
    Unknown,
    /// Answers arrive.
    Up,
    /// Many are lost.
    Degraded,
    /// None arrives.
    Down,
}

/// The history of one link.
#[derive(Clone, Debug)]
pub struct LinkMonitor {
    /// Between two probes.
    interval: Duration,
    state: LinkState,
    next_probe: Instant,
    /// Number of the newest probe; 0 before the first.
    newest: u64,
    newest_sent: Instant,
    /// Bit 0 is the newest probe: 1 answered.
    answered: u32,
    /// Probes that the history holds, at most 32.
    sent: u32,
    failing_since: Option<Instant>,
    silent_since: Option<Instant>,
    rtt: Option<Duration>,
    rtt_deviation: Duration,
    /// When it last came up after it was down.
    risen: Option<Instant>,
}

impl LinkMonitor {
    /// A link that is first probed after `phase`, then every `interval`.
    pub fn new(now: Instant, phase: Duration, interval: Duration) -> Self {
        Self {
            interval,
            state: LinkState::Unknown,
            next_probe: now + phase,
            newest: 0,
            newest_sent: now,
            answered: 0,
            sent: 0,
            failing_since: None,
            silent_since: None,
            rtt: None,
            rtt_deviation: Duration::ZERO,
            risen: None,
        }
    }

    /// From the next probe on, it is probed so often.
    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// Takes it for down on better evidence than probes, until two are answered. What was asked before counts no more.
    pub fn fail(&mut self, now: Instant) {
        self.state = LinkState::Down;
        self.answered = 0;
        self.sent = 0;
        self.newest_sent = now;
        self.failing_since.get_or_insert(now);
    }

    /// When it last came up after it was down.
    pub fn risen(&self) -> Option<Instant> {
        self.risen
    }

    /// Mean deviation of the round trip (RFC 6298's RTTVAR).
    pub fn rtt_deviation(&self) -> Duration {
        self.rtt_deviation
    }

    /// How it does.
    pub fn state(&self) -> LinkState {
        self.state
    }

    /// When the first of the unanswered probes in a row was sent, if there is one that should have been answered.
    pub fn failing_since(&self) -> Option<Instant> {
        self.failing_since.filter(|_| self.state >= LinkState::Degraded)
    }

    /// Since when nothing has come that answers, if the answer to a probe is overdue.
    pub fn silent_since(&self) -> Option<Instant> {
        self.silent_since
    }

    /// Smoothed round trip (RFC 6298's 1/8).
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Of the last probes that should have been answered, in percent.
    pub fn loss_percent(&self) -> u32 {
        let judged = self.sent.saturating_sub(1).min(WINDOW);
        (self.lost() * 100).checked_div(judged).unwrap_or(0)
    }

    /// When [`Self::probe`] is next wanted.
    pub fn next_probe(&self) -> Instant {
        self.next_probe
    }

    /// Whether a probe is under way.
    pub fn is_waiting(&self) -> bool {
        self.newest > 0 && self.answered & 1 == 0
    }

    /// Probes now rather than later.
    pub fn hasten(&mut self, now: Instant) {
        self.next_probe = self.next_probe.min(now);
    }

    /// Judges the probe before and returns the number of the next, to be sent now.
    pub fn probe(&mut self, now: Instant) -> u64 {
        let paused = self.newest > 0 && now.since(self.next_probe) >= PAUSED;
        if paused {
            // As if all had been answered.
            self.answered = u32::MAX;
            self.silent_since = None;
        }
        self.begin(now);
        self.judge(now);
        self.next_probe = now + if self.state == LinkState::Down { self.interval } else { self.timeout() };
        self.newest
    }

    /// How long an answer may take: RFC 6298's retransmission timeout, within our bounds.
    fn timeout(&self) -> Duration {
        let of = |rtt: Duration| (rtt + self.rtt_deviation * 4).clamp(TIMEOUT.0, TIMEOUT.1);
        self.rtt.map_or(FIRST_TIMEOUT, of)
    }

    /// The other end probed this link, and it hears us: that is as good as an answer, and saves a probe of our own.
    ///
    /// `rtt`: as the other end measured it.
    pub fn heard(&mut self, now: Instant, rtt: Option<Duration>) {
        self.begin(now);
        self.answered |= 1;
        self.silent_since = None;
        self.rtt = rtt.or(self.rtt);
        self.next_probe = now + self.interval + LATE;
        self.judge(now);
    }

    /// Closes the account of the newest probe and opens the next one's.
    fn begin(&mut self, now: Instant) {
        if self.newest > 0 && self.answered & 1 == 0 {
            self.failing_since.get_or_insert(self.newest_sent);
            self.silent_since.get_or_insert(self.newest_sent);
        }
        self.newest += 1;
        self.newest_sent = now;
        self.answered <<= 1;
        self.sent = (self.sent + 1).min(32);
    }

    /// Marks probe `number` as answered. Returns the round trip, if it is the newest probe's.
    pub fn ack(&mut self, now: Instant, number: u64) -> Option<Duration> {
        let age = self.newest.saturating_sub(number);
        if number == 0 || number > self.newest || age >= u64::from(self.sent) {
            return None;
        }
        self.answered |= 1 << age;
        self.silent_since = None;
        let sample = (age == 0).then(|| now.since(self.newest_sent));
        if let Some(sample) = sample {
            let deviation = self.rtt.map_or(sample / 2, |rtt| (self.rtt_deviation * 3 + sample.abs_diff(rtt)) / 4);
            self.rtt_deviation = deviation;
            self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
            self.next_probe = self.newest_sent + self.interval;
        }
        self.judge(now);
        if age == 0 && self.state == LinkState::Down {
            // The second answer, which brings it up, need not be waited for.
            self.next_probe = now + TIMEOUT.0;
        }
        sample
    }

    /// The newest outcomes, bit 0 first, and their number. The newest probe may still be answered; it counts once it is, or
    /// once the next is sent.
    fn settled(&self) -> (u32, u32) {
        let open = 1 - (self.answered & 1);
        (self.answered >> open, self.sent.saturating_sub(open))
    }

    /// Probes in a row without an answer.
    pub fn misses(&self) -> u32 {
        let (outcomes, count) = self.settled();
        outcomes.trailing_zeros().min(count)
    }

    fn judge(&mut self, now: Instant) {
        let (outcomes, count) = self.settled();
        let misses = self.misses();
        let hits = outcomes.trailing_ones().min(count);
        self.state = match self.state {
            LinkState::Down if hits < UP_AFTER => LinkState::Down,
            LinkState::Down => {
                // What was lost while it was down is told already.
                self.answered |= !1;
                self.risen = Some(now);
                LinkState::Up
            }
            LinkState::Unknown | LinkState::Up | LinkState::Degraded => match (misses, hits) {
                (DOWN_AFTER.., _) => LinkState::Down,
                _ if self.lost() >= DEGRADED_AT => LinkState::Degraded,
                (_, 0) => self.state,
                _ => LinkState::Up,
            },
        };
        if hits > 0 && self.state != LinkState::Down && self.state != LinkState::Degraded {
            self.failing_since = None;
        }
    }

    fn lost(&self) -> u32 {
        let judged = self.sent.saturating_sub(1).min(WINDOW);
        judged - (self.answered >> 1 & ((1 << judged) - 1)).count_ones()
    }
}
