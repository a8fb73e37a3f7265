//! One check: what it answered last and what it is judged to be.

use std::time::Duration;

use ringmesh_proto::{Now, UnixMillis, v1, v1::verdict::Value};

use super::spec::{Beat, CheckId, ContainerSpec, MAX_ANSWER, ProbeReply, ServiceKind, ServiceSpec};

/// When something is judged, and by which thresholds.
pub(super) struct At<'a> {
    pub(super) now: Now,
    pub(super) spec: &'a ServiceSpec,
}

/// Outcomes so far.
#[derive(Debug, Default)]
pub(super) struct CheckState {
    pub(super) verdict: Value,
    pub(super) answer: String,
    /// Outcomes in a row that speak against the verdict, or for the first one.
    successes: u32,
    failures: u32,
    latency: Option<Duration>,
    last_probe: Option<UnixMillis>,
    last_change: Option<UnixMillis>,
}

impl CheckState {
    /// Counts an outcome; the verdict changes when a threshold is met.
    pub(super) fn reply(&mut self, at: At<'_>, reply: ProbeReply) {
        self.latency = Some(reply.latency);
        self.last_probe = Some(at.now.unix);
        self.answer = reply.answer;
        truncate(&mut self.answer, MAX_ANSWER);
        if reply.success {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            if self.successes >= at.spec.threshold_up {
                self.become_(at.now, Value::Passing);
            }
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            if self.failures >= at.spec.threshold_down {
                self.become_(at.now, Value::Critical);
            }
        }
    }

    /// Critical without a probe: it is known that there is nothing to answer.
    pub(super) fn fail_at_once(&mut self, at: At<'_>, why: &str) {
        self.successes = 0;
        self.failures = at.spec.threshold_down;
        self.latency = None;
        self.answer = why.to_owned();
        self.become_(at.now, Value::Critical);
    }

    /// Takes what the service says of itself: nobody knows better, so that no threshold is waited for when it is unwell.
    pub(super) fn beat(&mut self, at: At<'_>, id: CheckId, beat: Beat, text: String) {
        let unix = at.now.unix;
        match beat {
            Beat::Ok => {
                self.reply(at, ProbeReply { id, success: true, answer: text, latency: Duration::ZERO });
            }
            Beat::Warn => {
                (self.successes, self.failures) = (0, 0);
                self.answer = text;
                self.become_(at.now, Value::Warning);
            }
            Beat::Fail => self.fail_at_once(at, &text),
        }
        (self.latency, self.last_probe) = (None, Some(unix));
        truncate(&mut self.answer, MAX_ANSWER);
    }

    /// Forgets what was: another life of its container has begun, or nobody looks.
    pub(super) fn begin_anew(&mut self, now: Now, why: &str) {
        (self.successes, self.failures, self.latency) = (0, 0, None);
        self.answer = why.to_owned();
        self.become_(now, Value::Unknown);
    }

    /// Since when it is judged so.
    pub(super) fn last_change(&self) -> Option<UnixMillis> {
        self.last_change
    }

    /// Whether it was ever judged.
    pub(super) fn was_judged(&self) -> bool {
        self.last_change.is_some()
    }

    fn become_(&mut self, now: Now, verdict: Value) {
        if self.verdict != verdict {
            self.verdict = verdict;
            self.last_change = Some(now.unix);
        }
    }
}

/// A service as a query shows it.
pub(super) fn show(
    host: &str,
    container: &str,
    of: Option<&ContainerSpec>,
    spec: &ServiceSpec,
    state: &CheckState,
) -> v1::Service {
    let duration = |duration: Duration| prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos() as i32,
    };
    v1::Service {
        name: spec.name.clone(),
        container: container.to_owned(),
        host: host.to_owned(),
        verdict: state.verdict as i32,
        probe: Some(v1::Probe {
            kind: spec.check.kind().to_owned(),
            target: spec.check.target(),
            interval: Some(duration(spec.interval)),
            timeout: Some(duration(spec.timeout)),
            threshold_up: spec.threshold_up,
            threshold_down: spec.threshold_down,
        }),
        last_change: state.last_change.map(Into::into),
        last_answer: state.answer.clone(),
        last_latency: state.latency.map(duration),
        last_probe: state.last_probe.map(Into::into),
        weight: spec.weight,
        kind: match spec.kind {
            ServiceKind::Liveness => v1::service::Kind::Liveness,
            ServiceKind::Readiness => v1::service::Kind::Readiness,
            ServiceKind::Startup => v1::service::Kind::Startup,
        } as i32,
        tenant: of.map(|spec| spec.tenant.clone()).unwrap_or_default(),
        labels: of.map(|spec| spec.labels.clone()).unwrap_or_default(),
    }
}

fn truncate(text: &mut String, max: usize) {
    if text.len() > max {
        let cut = (0..=max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
    }
}
