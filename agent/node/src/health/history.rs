//! What is remembered of one check: its newest outcomes, latencies of the last hours and days, the last different
//! answers, and each change of behaviour with its time and cause.
//!
//! It is of bounded size: 1.2 KB with all of its outcomes and latencies and few changes, 2.4 KB with as many changes as it
//! keeps (`examples/health-memory.rs`); texts are shared between all checks. It judges nothing.

mod bucket;
mod outcomes;
mod record;
mod window;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bucket::Bucket;
pub use outcomes::MAX_OUTCOMES;
use outcomes::{Outcome, Outcomes};
pub(super) use record::cut;
use ringmesh_proto::{
    UnixMillis,
    v1::{
        self,
        history::{Answer as ShownAnswer, Behaviour as ShownBehaviour, Outcome as ShownOutcome},
        verdict::Value,
    },
};
pub use v1::history::behaviour::Kind;
use window::{DAY, HOUR, Spectrum, Window};

/// Different answers that are kept.
pub const MAX_ANSWERS: usize = 4;

/// Changes of behaviour that are kept.
pub const MAX_CHANGES: usize = 32;

/// The memory of one check.
#[derive(Clone, Debug)]
pub struct History {
    definition: u64,
    begun: Option<UnixMillis>,
    /// As it was noted last, perhaps in an earlier life of the agent.
    verdict: Value,
    outcomes: Outcomes,
    hour: Window,
    day: Window,
    /// The newest last.
    answers: Vec<Answer>,
    changes: VecDeque<Behaviour>,
}

#[derive(Clone, Debug)]
struct Answer {
    text: Arc<str>,
    success: bool,
    first: UnixMillis,
    last: UnixMillis,
    count: u32,
}

/// A change of behaviour.
#[derive(Clone, Debug)]
struct Behaviour {
    at: UnixMillis,
    kind: Kind,
    from: Value,
    to: Value,
    cause: Arc<str>,
}

/// Where a history belongs, for those who ask.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The host's name.
    pub host: &'a str,
    /// The container's.
    pub container: &'a str,
    /// The service's.
    pub service: &'a str,
}

impl History {
    /// Of a service with this definition, of which nothing is known.
    pub fn new(definition: u64) -> Self {
        Self {
            definition,
            begun: None,
            verdict: Value::Unknown,
            outcomes: Outcomes::default(),
            hour: Window::default(),
            day: Window::default(),
            answers: Vec::new(),
            changes: VecDeque::new(),
        }
    }

    /// Notes what came of a probe.
    pub fn note_outcome(&mut self, at: UnixMillis, success: bool, latency: Duration, answer: &Arc<str>) {
        let outcome = Outcome { at, success, latency: Bucket::of(latency) };
        self.begun.get_or_insert(at);
        self.outcomes.push(outcome);
        self.hour.push(HOUR, outcome);
        self.day.push(DAY, outcome);
        self.note_answer(at, success, answer);
    }

    fn note_answer(&mut self, at: UnixMillis, success: bool, text: &Arc<str>) {
        match self.answers.iter().position(|answer| answer.text == *text && answer.success == success) {
            Some(place) => {
                // The one that repeats is the last: nothing moves.
                self.answers[place..].rotate_left(1);
                let answer = self.answers.last_mut().expect("one was found");
                answer.last = at;
                answer.count = answer.count.saturating_add(1);
            }
            None => {
                if self.answers.len() == MAX_ANSWERS {
                    self.answers.remove(0);
                }
                self.answers.push(Answer { text: Arc::clone(text), success, first: at, last: at, count: 1 });
            }
        }
    }

    /// Notes the verdict, and a change if it is another one than was noted last. Whether it is.
    pub fn note_verdict(&mut self, at: UnixMillis, to: Value, cause: &Arc<str>) -> bool {
        let from = std::mem::replace(&mut self.verdict, to);
        if from == to {
            return false;
        }
        self.push(Behaviour { at, kind: Kind::Verdict, from, to, cause: Arc::clone(cause) });
        true
    }

    /// Notes a change of behaviour that is none of the verdict.
    pub fn note(&mut self, at: UnixMillis, kind: Kind, cause: &Arc<str>) {
        let unknown = Value::Unknown;
        self.push(Behaviour { at, kind, from: unknown, to: unknown, cause: Arc::clone(cause) });
    }

    /// Takes on another definition; what is remembered is kept and marked. Whether it is another one.
    pub fn redefine(&mut self, at: UnixMillis, definition: u64, cause: &Arc<str>) -> bool {
        if self.definition == definition {
            return false;
        }
        self.definition = definition;
        self.note(at, Kind::Redefined, cause);
        true
    }

    fn push(&mut self, change: Behaviour) {
        if self.changes.len() == MAX_CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }

    /// In the words of the API.
    pub fn show(&self, place: Place<'_>, now: UnixMillis) -> v1::History {
        let outcomes = self.outcomes.to_vec();
        v1::History {
            service: place.service.to_owned(),
            container: place.container.to_owned(),
            host: place.host.to_owned(),
            verdict: self.verdict as i32,
            since: self.begun.map(Into::into),
            windows: self.show_windows(&outcomes, now),
            outcomes: outcomes.iter().map(show_outcome).collect(),
            answers: self.answers.iter().map(show_answer).collect(),
            changes: self.changes.iter().map(show_change).collect(),
            ..v1::History::default()
        }
    }

    fn show_windows(&self, outcomes: &[Outcome], now: UnixMillis) -> Vec<v1::history::Window> {
        let mut spectrum = Spectrum::default();
        outcomes.iter().for_each(|outcome| spectrum.add(outcome));
        let newest = outcomes.first().and_then(|oldest| spectrum.show(oldest.at));
        newest.into_iter().chain(self.hour.show(HOUR, now)).chain(self.day.show(DAY, now)).collect()
    }
}

fn show_outcome(outcome: &Outcome) -> ShownOutcome {
    let latency = Some(show_latency(outcome.latency));
    ShownOutcome { time: Some(outcome.at.into()), success: outcome.success, latency }
}

fn show_answer(answer: &Answer) -> ShownAnswer {
    ShownAnswer {
        text: answer.text.to_string(),
        success: answer.success,
        first: Some(answer.first.into()),
        last: Some(answer.last.into()),
        count: answer.count,
    }
}

fn show_change(change: &Behaviour) -> ShownBehaviour {
    ShownBehaviour {
        time: Some(change.at.into()),
        kind: change.kind as i32,
        from: change.from as i32,
        to: change.to as i32,
        cause: change.cause.to_string(),
    }
}

fn show_latency(bucket: Bucket) -> prost_types::Duration {
    show_duration(bucket.middle())
}

pub(super) fn show_duration(duration: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: duration.subsec_nanos() as i32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'static> = Place { host: "h1", container: "web", service: "http" };

    fn text(text: &str) -> Arc<str> {
        text.into()
    }

    fn shown(history: &History) -> v1::History {
        history.show(PLACE, UnixMillis(1_000_000))
    }

    #[test]
    fn the_last_different_answers_are_kept() {
        let mut history = History::new(1);
        for (second, answer) in ["a", "a", "b", "c", "a", "d", "e"].into_iter().enumerate() {
            history.note_outcome(UnixMillis(second as u64 * 1000), answer != "e", Duration::ZERO, &text(answer));
        }
        let answers = shown(&history).answers;
        let told: Vec<(&str, u32)> = answers.iter().map(|answer| (answer.text.as_str(), answer.count)).collect();
        assert_eq!(told, [("c", 1), ("a", 3), ("d", 1), ("e", 1)]);
        assert!(!answers[3].success && answers[2].success);
    }

    #[test]
    fn a_verdict_is_a_change_only_when_it_differs_from_the_last_that_was_noted() {
        let mut history = History::new(1);
        assert!(history.note_verdict(UnixMillis(1), Value::Passing, &text("200")));
        // The agent starts again, and finds the same.
        let mut history = History::read(history.write(PLACE.container, PLACE.service), &mut |text| text.into());
        assert!(!history.note_verdict(UnixMillis(2), Value::Passing, &text("200")));
        assert!(history.note_verdict(UnixMillis(3), Value::Critical, &text("503")));
        let change = shown(&history).changes.pop().expect("it was noted");
        assert_eq!((change.from(), change.to(), change.cause.as_str()), (Value::Passing, Value::Critical, "503"));
    }

    #[test]
    fn another_definition_is_marked_and_forgets_nothing() {
        let mut history = History::new(1);
        history.note_outcome(UnixMillis(1000), true, Duration::from_millis(3), &text("200"));
        assert!(!history.redefine(UnixMillis(2000), 1, &text("tcp://127.0.0.1:80")));
        assert!(history.redefine(UnixMillis(2000), 2, &text("tcp://127.0.0.1:80")));
        let shown = shown(&history);
        assert_eq!((shown.outcomes.len(), shown.changes[0].kind()), (1, Kind::Redefined));
    }

    #[test]
    fn all_of_it_is_bounded() {
        let mut history = History::new(1);
        for n in 0..10_000u64 {
            let answer = text(&format!("answer {n}"));
            history.note_outcome(UnixMillis(n * 10_000), n % 3 > 0, Duration::from_micros(n * n), &answer);
            history.note(UnixMillis(n), Kind::Repair, &answer);
        }
        let shown = shown(&history);
        assert_eq!(
            (shown.outcomes.len(), shown.answers.len(), shown.changes.len()),
            (MAX_OUTCOMES, MAX_ANSWERS, MAX_CHANGES)
        );
    }
}
