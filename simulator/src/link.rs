//! One direction of a cable between a host and a switch: what it does to what passes.
//!
//! It owns delay, loss, rate, queue and duplicates of one direction. It knows neither hosts nor what it carries. Each
//! datagram is delayed by itself: a later one may overtake it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{draw::Draw, span::Span};

/// How a direction behaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkSpec {
    /// The least delay.
    pub latency: Span,
    /// What is added to it, drawn anew for each message: uniform up to this, or with this mean.
    pub jitter: Span,
    /// How the jitter is distributed.
    pub distribution: Distribution,
    /// Probability that a message is lost, each by itself.
    pub loss: f64,
    /// Losses that come together.
    pub burst: Option<Burst>,
    /// Bits per second; without it there is no queue either.
    pub rate: Option<u64>,
    /// Bytes that wait for the rate; what comes beyond them is dropped.
    pub queue: u64,
    /// Probability that a datagram arrives twice.
    pub duplicate: f64,
    /// Probability that a datagram is held back for four times the latency and jitter, so that later ones overtake it.
    pub reorder: f64,
}

/// Of the jitter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distribution {
    /// Every delay up to the jitter is as likely.
    #[default]
    Uniform,
    /// Short ones are likely, and there is a long tail; at most ten times the jitter.
    Exponential,
}

/// The two-state loss of Gilbert and Elliott: rare losses in the good state, many in the bad one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Burst {
    /// Probability that a message turns good into bad.
    pub enter: f64,
    /// Probability that a message turns bad into good.
    pub leave: f64,
    /// Probability of loss in the bad state.
    pub loss: f64,
}

impl Default for LinkSpec {
    /// A local network with switches: 0.1 to 1.5 ms, nothing lost.
    fn default() -> Self {
        Self {
            latency: Span(Duration::from_micros(100)),
            jitter: Span(Duration::from_micros(1400)),
            distribution: Distribution::Uniform,
            loss: 0.0,
            burst: None,
            rate: None,
            queue: 256 * 1024,
            duplicate: 0.0,
            reorder: 0.0,
        }
    }
}

impl LinkSpec {
    /// A direction that does nothing: all is in the other end's.
    pub fn none() -> Self {
        Self { latency: Span::ZERO, jitter: Span::ZERO, ..Self::default() }
    }

    /// What is wrong with it, if something is.
    pub fn problem(&self) -> Option<String> {
        let burst = self.burst.map_or([0.0; 3], |burst| [burst.enter, burst.leave, burst.loss]);
        let named = [
            ("loss", self.loss),
            ("duplicate", self.duplicate),
            ("reorder", self.reorder),
            ("burst.enter", burst[0]),
            ("burst.leave", burst[1]),
            ("burst.loss", burst[2]),
        ];
        let bad = named.into_iter().find(|(_, value)| !(0.0..=1.0).contains(value));
        let bad = bad.map(|(name, value)| format!("{name} = {value} is no probability; it is 0 to 1"));
        bad.or_else(|| (self.rate == Some(0)).then(|| "rate = 0 carries nothing; leave it out for no limit".into()))
    }
}

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// It arrives after so long; perhaps once more after another time.
    Arrives(Duration, Option<Duration>),
    /// It is lost on the way.
    Lost,
    /// The queue was full.
    Full,
}

/// One direction, as it is now.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    spec: u16,
    bad: bool,
    draw: Draw,
    /// The last of what waits has left then, in nanoseconds.
    busy_until: u64,
    /// Loss that a fault adds.
    pub(crate) fault: f64,
}

impl Link {
    pub(crate) fn new(spec: u16, draw: Draw) -> Self {
        Self { spec, bad: false, draw, busy_until: 0, fault: 0.0 }
    }

    /// Sends a datagram of so many bytes.
    pub(crate) fn pass(&mut self, specs: &[LinkSpec], now: u64, len: usize) -> Passage {
        let spec = &specs[usize::from(self.spec)];
        let Some(queued) = self.queue(spec, now, len, true) else { return Passage::Full };
        if self.loses(spec) {
            return Passage::Lost;
        }
        let mut delay = queued + self.delay(spec);
        if self.draw.chance(spec.reorder) {
            delay += (spec.latency.0 + spec.jitter.0) * 4;
        }
        let copy = self.draw.chance(spec.duplicate).then(|| queued + self.delay(spec));
        Passage::Arrives(delay, copy)
    }

    /// Sends a part of a stream, which is sent again when it is lost: how long that takes, and how often it was lost.
    pub(crate) fn carry(&mut self, specs: &[LinkSpec], now: u64, len: usize) -> (Duration, u32) {
        let spec = &specs[usize::from(self.spec)];
        let mut delay = self.queue(spec, now, len, false).unwrap_or_default() + self.delay(spec);
        let mut lost = 0;
        while lost < MAX_RESENT && self.loses(spec) {
            delay += RESEND * (1 << lost);
            lost += 1;
        }
        (delay, lost)
    }

    /// The wait until the last byte has left, or `None` if there is no room.
    fn queue(&mut self, spec: &LinkSpec, now: u64, len: usize, drops: bool) -> Option<Duration> {
        let Some(rate) = spec.rate else { return Some(Duration::ZERO) };
        let waits = self.busy_until.saturating_sub(now);
        let waiting = u128::from(waits) * u128::from(rate) / 8_000_000_000;
        if drops && waiting + len as u128 > u128::from(spec.queue) {
            return None;
        }
        let takes = (len as u128 * 8_000_000_000 / u128::from(rate)) as u64;
        self.busy_until = now + waits + takes;
        Some(Duration::from_nanos(waits + takes))
    }

    fn loses(&mut self, spec: &LinkSpec) -> bool {
        if let Some(burst) = spec.burst {
            self.bad = if self.bad { !self.draw.chance(burst.leave) } else { self.draw.chance(burst.enter) };
            if self.bad && self.draw.chance(burst.loss) {
                return true;
            }
        }
        self.draw.chance(spec.loss) || self.draw.chance(self.fault)
    }

    fn delay(&mut self, spec: &LinkSpec) -> Duration {
        let jitter = spec.jitter.0.as_nanos() as u64;
        if jitter == 0 {
            return spec.latency.0;
        }
        let drawn = match spec.distribution {
            Distribution::Uniform => self.draw.below(jitter),
            Distribution::Exponential => (self.draw.exponential(jitter as f64) as u64).min(jitter.saturating_mul(10)),
        };
        spec.latency.0 + Duration::from_nanos(drawn)
    }
}

/// After which QUIC sends again what was lost; doubled each time.
const RESEND: Duration = Duration::from_millis(30);

/// After so many losses in a row the next try arrives: some 30 s.
const MAX_RESENT: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Purpose;

    fn link() -> Link {
        Link::new(0, Draw::new(1, 0, Purpose::SendA))
    }

    #[test]
    fn a_rate_delays_by_what_waits_and_the_queue_drops_what_is_beyond() {
        let spec = LinkSpec { rate: Some(8_000), queue: 2_500, ..LinkSpec::none() };
        let specs = [spec];
        let mut link = link();
        let second = Duration::from_secs(1);
        assert_eq!(link.pass(&specs, 0, 1000), Passage::Arrives(second, None));
        assert_eq!(link.pass(&specs, 0, 1000), Passage::Arrives(second * 2, None));
        assert_eq!(link.pass(&specs, 0, 1000), Passage::Full);
        assert_eq!(link.pass(&specs, 1_500_000_000, 1000), Passage::Arrives(second * 3 / 2, None));
    }

    #[test]
    fn losses_are_as_many_as_asked_for_and_come_together_in_bursts() {
        let run = |spec: LinkSpec| {
            let specs = [spec];
            let mut link = link();
            let lost: Vec<bool> = (0..50_000).map(|_| link.pass(&specs, 0, 100) == Passage::Lost).collect();
            let rate = lost.iter().filter(|lost| **lost).count() as f64 / lost.len() as f64;
            let pairs = lost.windows(2).filter(|pair| pair[0] && pair[1]).count() as f64 / lost.len() as f64;
            (rate, pairs)
        };
        let (rate, pairs) = run(LinkSpec { loss: 0.1, ..LinkSpec::default() });
        assert!((rate - 0.1).abs() < 0.01 && (pairs - 0.01).abs() < 0.003, "{rate} {pairs}");
        // In the bad state a tenth of the time, for ten messages in the mean, and all of them lost then.
        let burst = Burst { enter: 0.1 / 9.0, leave: 0.1, loss: 1.0 };
        let (rate, pairs) = run(LinkSpec { burst: Some(burst), ..LinkSpec::default() });
        assert!((rate - 0.1).abs() < 0.02 && pairs > 0.07, "{rate} {pairs}");
    }

    #[test]
    fn datagrams_are_doubled_and_overtaken_as_often_as_asked_for() {
        let specs = [LinkSpec { duplicate: 0.2, reorder: 0.1, jitter: Span::ZERO, ..LinkSpec::default() }];
        let mut link = link();
        let (mut doubled, mut late) = (0, 0);
        for _ in 0..10_000 {
            let Passage::Arrives(delay, copy) = link.pass(&specs, 0, 100) else { panic!("nothing is lost") };
            doubled += u32::from(copy.is_some());
            late += u32::from(delay > Duration::from_micros(100));
        }
        assert!((1800..2200).contains(&doubled) && (850..1150).contains(&late), "{doubled} {late}");
    }

    #[test]
    fn a_stream_loses_nothing_and_is_late_instead() {
        let specs = [LinkSpec { loss: 0.5, ..LinkSpec::none() }];
        let mut link = link();
        let late = (0..1000).filter(|_| link.carry(&specs, 0, 100).0 >= RESEND).count();
        assert!((430..570).contains(&late), "{late}");
    }
}
