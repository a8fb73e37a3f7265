//! A history as it lies on the disk, and back. What a disk says is cut to the bounds of a history.

use std::sync::Arc;

use ringmesh_proto::{
    UnixMillis,
    disk::{
        HistoryRecord,
        history_record::{Answer as AnswerRecord, Behaviour as BehaviourRecord},
    },
    v1::verdict::Value,
};

use super::{Answer, Behaviour, History, Kind, MAX_ANSWERS, MAX_CHANGES, outcomes::Outcomes, window::Window};
use crate::health::spec::MAX_ANSWER;

/// The most bytes of a cause: an answer, and some words around it.
const MAX_CAUSE: usize = 2 * MAX_ANSWER;

impl History {
    /// For the disk.
    pub fn write(&self, container: &str, service: &str) -> HistoryRecord {
        let mut record = HistoryRecord {
            container: container.to_owned(),
            service: service.to_owned(),
            definition: self.definition,
            begun_ms: self.begun.map_or(0, |begun| begun.0),
            verdict: self.verdict as u32,
            hour: Some(self.hour.write()),
            day: Some(self.day.write()),
            answers: self.answers.iter().map(write_answer).collect(),
            changes: self.changes.iter().map(write_change).collect(),
            ..HistoryRecord::default()
        };
        self.outcomes.write(&mut record);
        record
    }

    /// From the disk; `share` gives each text its one copy.
    pub fn read(record: HistoryRecord, share: &mut impl FnMut(&str) -> Arc<str>) -> Self {
        let outcomes = Outcomes::read(&record.outcomes, &record.gaps, UnixMillis(record.newest_ms));
        let answers = &record.answers[record.answers.len().saturating_sub(MAX_ANSWERS)..];
        let changes = &record.changes[record.changes.len().saturating_sub(MAX_CHANGES)..];
        Self {
            definition: record.definition,
            begun: (record.begun_ms > 0).then_some(UnixMillis(record.begun_ms)),
            verdict: verdict(record.verdict),
            outcomes,
            hour: record.hour.map(Window::read).unwrap_or_default(),
            day: record.day.map(Window::read).unwrap_or_default(),
            answers: answers.iter().map(|answer| read_answer(answer, share)).collect(),
            changes: changes.iter().map(|change| read_change(change, share)).collect(),
        }
    }
}

fn write_answer(answer: &Answer) -> AnswerRecord {
    AnswerRecord {
        text: answer.text.to_string(),
        success: answer.success,
        first_ms: answer.first.0,
        last_ms: answer.last.0,
        count: answer.count,
    }
}

fn read_answer(record: &AnswerRecord, share: &mut impl FnMut(&str) -> Arc<str>) -> Answer {
    Answer {
        text: share(cut(&record.text, MAX_ANSWER)),
        success: record.success,
        first: UnixMillis(record.first_ms),
        last: UnixMillis(record.last_ms),
        count: record.count,
    }
}

fn write_change(change: &Behaviour) -> BehaviourRecord {
    BehaviourRecord {
        at_ms: change.at.0,
        kind: change.kind as u32,
        from: change.from as u32,
        to: change.to as u32,
        cause: change.cause.to_string(),
    }
}

fn read_change(record: &BehaviourRecord, share: &mut impl FnMut(&str) -> Arc<str>) -> Behaviour {
    Behaviour {
        at: UnixMillis(record.at_ms),
        kind: Kind::try_from(record.kind as i32).unwrap_or_default(),
        from: verdict(record.from),
        to: verdict(record.to),
        cause: share(cut(&record.cause, MAX_CAUSE)),
    }
}

fn verdict(number: u32) -> Value {
    Value::try_from(number as i32).unwrap_or_default()
}

/// The first bytes of a text, at most `max`.
pub(in crate::health) fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}
