//! One check: what it answered last and what it is judged to be.

use std::{sync::Arc, time::Duration};

use ringmesh_proto::{Instant, Now, UnixMillis, v1::verdict::Value};

use super::{
    Judgement,
    flap::{self, Flap},
    latency::{self, Normal},
    spec::{Alarm, Beat, ServiceSpec, Sign},
};
use crate::view::Told;

/// When something is judged, and by what.
pub(super) struct At<'a> {
    pub(super) now: Now,
    pub(super) spec: &'a ServiceSpec,
    pub(super) judgement: &'a Judgement,
}

/// What came of a probe.
pub(super) struct Outcome {
    pub(super) sign: Sign,
    /// None of what was not asked.
    pub(super) latency: Option<Duration>,
    pub(super) answer: Arc<str>,
}

/// What an outcome changed beside the verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Turns {
    pub(super) flap: Option<flap::Turn>,
    pub(super) latency: Option<latency::Turn>,
    /// The first failure after a success: it is worth a closer look.
    pub(super) falters: bool,
}

/// Outcomes so far.
#[derive(Debug, Default)]
pub(super) struct CheckState {
    /// What is told.
    pub(super) verdict: Value,
    pub(super) answer: Arc<str>,
    /// What the thresholds say.
    raw: Value,
    /// Since when.
    raw_since: Instant,
    /// Critical for what is known of its container: that is never damped.
    certain: bool,
    /// Outcomes in a row that speak against the verdict, or for the first one.
    successes: u32,
    failures: u32,
    flap: Flap,
    normal: Normal,
    /// What the detailed plan found since the service was last well.
    plan: Option<Arc<str>>,
    latency: Option<Duration>,
    last_probe: Option<UnixMillis>,
    last_change: Option<UnixMillis>,
}

impl CheckState {
    /// Counts an outcome; the verdict changes when a threshold is met, or when it deviates from what was normal.
    pub(super) fn reply(&mut self, at: At<'_>, outcome: &Outcome) -> Turns {
        self.latency = outcome.latency;
        self.last_probe = Some(at.now.unix);
        self.answer = Arc::clone(&outcome.answer);
        self.certain = false;
        let mut turns = Turns::default();
        if outcome.sign.is_right() {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            turns.latency = outcome.latency.and_then(|latency| self.normal.take(latency, &at.judgement.latency));
            if self.successes >= at.spec.threshold_up {
                self.find(&at, Value::Passing);
            }
        } else {
            turns.falters = self.failures == 0 && self.raw == Value::Passing;
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            let alarm = outcome.sign.is_outright() && at.spec.alarm == Alarm::AtOnce;
            if alarm || self.failures >= at.spec.threshold_down {
                turns.flap = self.find(&at, Value::Critical);
            }
        }
        self.settle(&at, turns)
    }

    /// Tells what follows from an outcome. That it flaps no more is seen with one, too.
    fn settle(&mut self, at: &At<'_>, mut turns: Turns) -> Turns {
        let down = (self.raw == Value::Critical).then(|| at.now.instant.since(self.raw_since));
        turns.flap = turns.flap.or(self.flap.tick(at.now.instant, down, &at.judgement.damping));
        self.tell(at.now);
        turns
    }

    /// Critical without a probe: it is known that there is nothing to answer.
    pub(super) fn fail_at_once(&mut self, at: At<'_>, why: &Arc<str>) -> Turns {
        self.certain = true;
        self.skip_threshold(&at, Value::Critical, why)
    }

    /// Takes what the service says of itself: nobody knows better, so that no threshold is waited for when it is unwell.
    pub(super) fn beat(&mut self, at: At<'_>, beat: Beat, outcome: &Outcome) -> Turns {
        let raw = match beat {
            Beat::Ok => return self.reply(at, outcome),
            Beat::Warn => Value::Warning,
            Beat::Fail => Value::Critical,
        };
        self.last_probe = Some(at.now.unix);
        self.miss(at, raw, &outcome.answer)
    }

    /// Was not heard of in time, or is unwell by its own word.
    pub(super) fn miss(&mut self, at: At<'_>, raw: Value, why: &Arc<str>) -> Turns {
        self.certain = false;
        self.skip_threshold(&at, raw, why)
    }

    fn skip_threshold(&mut self, at: &At<'_>, raw: Value, why: &Arc<str>) -> Turns {
        let falters = !self.certain && self.raw == Value::Passing;
        (self.successes, self.failures, self.latency) = (0, 0, None);
        self.answer = Arc::clone(why);
        let flap = self.find(at, raw);
        self.settle(at, Turns { flap, falters, latency: None })
    }

    /// Takes what the detailed plan found. An outright error of its own is one of the service.
    pub(super) fn plan(&mut self, at: At<'_>, outcome: &Outcome, words: &Arc<str>) -> Turns {
        self.plan = Some(Arc::clone(words));
        let mut turns = Turns::default();
        if outcome.sign.is_outright() && at.spec.alarm == Alarm::AtOnce {
            self.answer = Arc::clone(&outcome.answer);
            self.successes = 0;
            turns.flap = self.find(&at, Value::Critical);
            self.tell(at.now);
        }
        turns
    }

    /// The thresholds are met.
    fn find(&mut self, at: &At<'_>, raw: Value) -> Option<flap::Turn> {
        let old = std::mem::replace(&mut self.raw, raw);
        if old != raw {
            self.raw_since = at.now.instant;
        }
        let fell = matches!(old, Value::Passing | Value::Warning) && raw == Value::Critical;
        if fell { self.flap.punish(at.now.instant, &at.judgement.damping) } else { None }
    }

    fn tell(&mut self, now: Now) {
        let warns = match self.raw {
            Value::Passing => self.flap.is_damped() || self.normal.is_slow(),
            Value::Critical => self.flap.is_damped() && !self.certain,
            Value::Unknown | Value::Warning => false,
        };
        if self.raw == Value::Passing && !warns {
            self.plan = None;
        }
        self.become_(now, if warns { Value::Warning } else { self.raw });
    }

    /// Why it is judged so, for people.
    pub(super) fn cause(&self) -> String {
        let mut cause = self.answer.to_string();
        // Not by the service's own word.
        let warns = self.verdict == Value::Warning && self.raw != Value::Warning;
        if warns && self.flap.is_damped() {
            cause = format!("it flaps, and is damped until it is steady; its last answer: {cause}");
        } else if warns && self.normal.is_slow() {
            cause = format!("{}: {cause}", self.slow_words());
        }
        match &self.plan {
            Some(plan) if self.verdict > Value::Passing => format!("{cause}; plan {plan}"),
            Some(_) | None => cause,
        }
    }

    /// "answers after 120 ms, normal are 3 ms"
    pub(super) fn slow_words(&self) -> String {
        let millis = |latency: Option<Duration>| latency.unwrap_or_default().as_secs_f64() * 1000.0;
        format!("answers after {:.1} ms, normal are {:.1} ms", millis(self.latency), millis(self.normal.latency()))
    }

    /// Its latency is out of what is normal.
    pub(super) fn is_slow(&self) -> bool {
        self.normal.is_slow()
    }

    /// It changes too often.
    pub(super) fn is_flapping(&self) -> bool {
        self.flap.is_damped()
    }

    /// The latency that is normal for it.
    pub(super) fn normal(&self) -> &Normal {
        &self.normal
    }

    /// What an earlier life of the agent has learned.
    pub(super) fn recall(&mut self, normal: Normal) {
        self.normal = normal;
    }

    /// Forgets what was: another life of its container has begun, or nobody looks.
    pub(super) fn begin_anew(&mut self, now: Now, why: &Arc<str>) -> Turns {
        (self.successes, self.failures, self.latency) = (0, 0, None);
        self.answer = Arc::clone(why);
        self.plan = None;
        (self.raw, self.raw_since) = (Value::Unknown, now.instant);
        self.tell(now);
        Turns::default()
    }

    /// It passes, and nothing speaks against that.
    pub(super) fn is_steady(&self) -> bool {
        self.raw == Value::Passing && self.failures == 0 && !self.flap.is_damped() && !self.normal.is_slow()
    }

    /// What the thresholds say, damped or not: for those who ask whether it answers now.
    pub(super) fn found(&self) -> Value {
        self.raw
    }

    /// Since when it is judged so.
    pub(super) fn last_change(&self) -> Option<UnixMillis> {
        self.last_change
    }

    /// Whether it was ever judged.
    pub(super) fn was_judged(&self) -> bool {
        self.last_change.is_some()
    }

    /// What a query is told.
    pub(super) fn told(&self) -> Told {
        Told {
            verdict: self.verdict,
            last_change: self.last_change,
            answer: Arc::clone(&self.answer),
            latency: self.latency,
            last_probe: self.last_probe,
            flapping: self.is_flapping(),
            slow: self.is_slow(),
            normal_latency: self.normal.latency(),
        }
    }

    fn become_(&mut self, now: Now, verdict: Value) {
        if self.verdict != verdict {
            self.verdict = verdict;
            self.last_change = Some(now.unix);
        }
    }
}
