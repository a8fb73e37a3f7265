//! `ringmesh service history`: a history as people read it.

use std::time::Duration;

use jiff::Timestamp;
use ringmesh_proto::v1::{
    History,
    history::{Behaviour, Outcome, Window, behaviour::Kind},
};

use crate::output::{
    details::Details,
    style::Style,
    table::{Cell, Table, column},
    time,
};

/// A history: what it is of, its newest outcomes as a line, and tables of latencies, answers and changes.
pub(super) fn describe(history: &History, color: bool) -> String {
    let now = Timestamp::now();
    let mut details = Details::default();
    details.add("Name", &history.service);
    details.add("Container", &history.container);
    details.add("Host", &history.host);
    details.state("Verdict", history.verdict().as_str_name());
    details.add("", if history.flapping { "it flaps: a warning until it is steady" } else { "" });
    details.add("", if history.slow { "it answers more slowly than is normal for it" } else { "" });
    details.add("Normal", time::proto_duration(history.normal_latency.as_ref()));
    details.add("Remembered", time::stamp_and_age(now, history.since.as_ref()));
    details.add("Removed", time::stamp_and_age(now, history.retired.as_ref()));
    details.add("Newest", newest(now, &history.outcomes));
    let tables = [windows(now, history), answers(now, history), changes(now, history)];
    let mut text = details.render(color);
    for table in tables.into_iter().flatten() {
        text.push('\n');
        text.push_str(&table.render(color, None));
    }
    text
}

/// "▁▁▃×▁  5 probes since 50s ago, 1 failed"
fn newest(now: Timestamp, outcomes: &[Outcome]) -> String {
    let Some(first) = outcomes.first() else { return "no probe yet".into() };
    let failed = outcomes.iter().filter(|outcome| !outcome.success).count();
    let failed = if failed == 0 { "none failed".into() } else { format!("{failed} failed") };
    let since = time::age(now, first.time.as_ref());
    format!("{}  {} probes since {since} ago, {failed}", line(outcomes), outcomes.len())
}

/// From fast to slow.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Of a probe that failed.
const FAILED: char = '×';

/// A factor of so many doublings, at least, fills the height of the line: less would make noise look like news.
const MIN_OCTAVES: f64 = 3.0;

/// A character for each outcome, by the logarithm of its latency; the fastest is the lowest.
fn line(outcomes: &[Outcome]) -> String {
    let octaves = |outcome: &Outcome| (latency(outcome).as_secs_f64() * 1e6).max(1.0).log2();
    let successes = || outcomes.iter().filter(|outcome| outcome.success).map(octaves);
    let (low, high) = (successes().fold(f64::MAX, f64::min), successes().fold(0.0, f64::max));
    let level = |outcome: &Outcome| {
        let height = (octaves(outcome) - low) / (high - low).max(MIN_OCTAVES);
        LEVELS[((height * LEVELS.len() as f64) as usize).min(LEVELS.len() - 1)]
    };
    outcomes.iter().map(|outcome| if outcome.success { level(outcome) } else { FAILED }).collect()
}

fn latency(outcome: &Outcome) -> Duration {
    outcome.latency.and_then(|latency| Duration::try_from(latency).ok()).unwrap_or_default()
}

fn windows(now: Timestamp, history: &History) -> Option<Table> {
    let names = ["SINCE", "PASSED", "FAILED", "P50", "P90", "P99"];
    let mut table = Table::new(&names.map(column), false);
    let row = |window: &Window| {
        vec![
            Cell::new(format!("{} ago", time::age(now, window.since.as_ref()))),
            Cell::new(window.successes.to_string()),
            Cell::new(window.failures.to_string()),
            Cell::new(time::proto_duration(window.p50.as_ref())),
            Cell::new(time::proto_duration(window.p90.as_ref())),
            Cell::new(time::proto_duration(window.p99.as_ref())),
        ]
    };
    history.windows.iter().for_each(|window| table.push(row(window)));
    (!history.windows.is_empty()).then_some(table)
}

/// The newest first.
fn answers(now: Timestamp, history: &History) -> Option<Table> {
    let mut table = Table::new(&["LAST", "FIRST", "TIMES", "PROBE", "ANSWER"].map(column), false);
    for answer in history.answers.iter().rev() {
        let (word, style) = if answer.success { ("passed", Style::Good) } else { ("failed", Style::Bad) };
        table.push(vec![
            Cell::new(time::age(now, answer.last.as_ref())),
            Cell::new(time::age(now, answer.first.as_ref())),
            Cell::new(answer.count.to_string()),
            Cell::styled(word, style),
            Cell::new(&answer.text),
        ]);
    }
    (!history.answers.is_empty()).then_some(table)
}

/// The newest first.
fn changes(now: Timestamp, history: &History) -> Option<Table> {
    let mut table = Table::new(&["CHANGED", "AT", "WHAT", "CAUSE"].map(column), false);
    for change in history.changes.iter().rev() {
        table.push(vec![
            Cell::new(format!("{} ago", time::age(now, change.time.as_ref()))),
            Cell::new(time::stamp(change.time.as_ref())),
            what(change),
            Cell::new(&change.cause),
        ]);
    }
    (!history.changes.is_empty()).then_some(table)
}

fn what(change: &Behaviour) -> Cell {
    let (text, style) = match change.kind() {
        Kind::Verdict => {
            let (from, to) = (change.from().as_str_name(), change.to().as_str_name());
            return Cell::styled(format!("{from} to {to}"), Style::of_state(to));
        }
        Kind::Redefined => ("other definition", Style::Plain),
        Kind::ContainerStarted => ("container started", Style::Plain),
        Kind::ContainerStopped => ("container stopped", Style::Bad),
        Kind::ContainerPaused => ("container paused", Style::Warn),
        Kind::Slow => ("slower than normal", Style::Warn),
        Kind::Normal => ("as fast as normal", Style::Good),
        Kind::Flapping => ("flapping", Style::Warn),
        Kind::Steady => ("steady again", Style::Good),
        Kind::Plan => ("plan", Style::Plain),
        Kind::Repair => ("repair", Style::Plain),
    };
    Cell::styled(text, style)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(latencies_us: &[Option<i32>]) -> Vec<Outcome> {
        let outcome = |us: &Option<i32>| Outcome {
            success: us.is_some(),
            latency: us.map(|us| prost_types::Duration { seconds: 0, nanos: us * 1000 }),
            time: None,
        };
        latencies_us.iter().map(outcome).collect()
    }

    #[test]
    fn the_line_shows_orders_of_magnitude_and_failures_and_no_noise() {
        assert_eq!(line(&outcomes(&[Some(1000), Some(1100), None, Some(1200)])), "▁▁×▁");
        assert_eq!(line(&outcomes(&[Some(1000), Some(1_000_000), Some(30_000)])), "▁█▄");
        assert_eq!(line(&outcomes(&[None, None])), "××");
    }

    #[test]
    fn a_history_of_nothing_says_so() {
        let history = History { service: "http".into(), ..History::default() };
        assert_eq!(describe(&history, false), "Name:     http\nVerdict:  unknown\nNewest:   no probe yet\n");
    }
}
