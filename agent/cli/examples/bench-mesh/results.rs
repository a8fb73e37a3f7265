//! What the trials of each program showed, and the table that holds them against each other and the targets.

use std::collections::BTreeMap;

use crate::{
    bench::{
        idle::Idle,
        sample::{Sample, number, table},
    },
    cases::{False, Outcome},
    plan::Case,
};

/// Results of the trials of one program.
#[derive(Default)]
pub(crate) struct Results {
    /// Why there are none, when there are none.
    pub(crate) absent: Option<String>,
    /// Seconds from the first start until each agent saw all.
    pub(crate) formed: Vec<f64>,
    pub(crate) idle: Vec<Idle>,
    outcomes: BTreeMap<Case, Vec<Outcome>>,
    /// Trials that had no result, and why.
    pub(crate) failures: Vec<String>,
}

impl Results {
    pub(crate) fn add(&mut self, case: Case, outcome: Outcome) {
        self.outcomes.entry(case).or_default().push(outcome);
    }

    fn sample(&self, case: Case, value: impl Fn(&Outcome) -> Option<f64>) -> Option<Sample> {
        Sample::new(self.outcomes.get(&case)?.iter().filter_map(value))
    }

    fn sum(&self, case: Case, value: impl Fn(&Outcome) -> usize) -> Option<f64> {
        Some(self.outcomes.get(&case)?.iter().map(value).sum::<usize>() as f64)
    }

    fn idle(&self, value: impl Fn(&Idle) -> f64) -> Option<f64> {
        Sample::new(self.idle.iter().map(value)).map(|sample| sample.mean())
    }

    /// The words of false failure events, with the trial in which they were said.
    fn accusations(&self) -> impl Iterator<Item = String> {
        self.outcomes.iter().flat_map(|(case, outcomes)| {
            let texts = outcomes.iter().flat_map(|Outcome { false_events: False { texts, .. }, .. }| texts);
            texts.map(move |text| format!("{case}: {text}"))
        })
    }
}

/// What a value of ringmesh is held against.
enum Aim {
    AtMost(f64),
    /// So many times that of serf.
    TimesSerf(f64),
    None,
}

/// Takes a figure out of a program's results, if it is in them.
type Value<'a> = Box<dyn Fn(&Results) -> Option<f64> + 'a>;

struct Row<'a> {
    name: String,
    unit: &'static str,
    aim: Aim,
    value: Value<'a>,
}

/// All rows, for ringmesh, serf and corosync in this order; says how many targets are missed of how many.
pub(crate) fn render(results: &[Results; 3], stalled: &[usize], hosts: usize) -> String {
    let mut rows = Vec::new();
    let (mut targets, mut missed) = (0, 0);
    for row in rows_of(stalled, hosts) {
        let values = results.each_ref().map(|results| (row.value)(results));
        if values.iter().all(Option::is_none) {
            continue;
        }
        let limit = match row.aim {
            Aim::AtMost(limit) => Some(limit),
            Aim::TimesSerf(times) => values[1].map(|serf| serf * times),
            Aim::None => None,
        };
        let with_unit = |value: f64| format!("{} {}", number(value), row.unit).trim_end().to_owned();
        let target = limit.map_or_else(String::new, |limit| format!("≤ {}", with_unit(limit)));
        let verdict = limit.zip(values[0]).map(|(limit, value)| value <= limit);
        targets += usize::from(verdict.is_some());
        missed += usize::from(verdict == Some(false));
        let ratio = |theirs: Option<f64>| {
            // Of counts, which are often 0, there is none.
            let theirs = theirs.filter(|_| !row.unit.is_empty());
            let ratio = values[0].zip(theirs.filter(|theirs| *theirs > 0.0)).map(|(ours, theirs)| ours / theirs);
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
        };
        let [ours, serf, corosync] = values.map(|value| value.map_or_else(|| "–".to_owned(), with_unit));
        let mark = if verdict == Some(false) { " missed" } else { "" };
        rows.push([row.name, target + mark, ours, serf, corosync, ratio(values[1]), ratio(values[2])]);
    }
    let heads = ["figure", "target", "ringmesh", "serf", "corosync", "ringmesh/serf", "ringmesh/corosync"];
    format!("{}\n{missed} of {targets} targets missed.\n", table(heads, &rows))
}

/// What is not in the table: programs that were not measured, trials without a result, false failure events.
pub(crate) fn remarks(results: &[Results; 3], names: [&str; 3]) -> String {
    let mut lines = Vec::new();
    for (name, results) in names.iter().zip(results) {
        lines.extend(results.absent.iter().map(|why| format!("NOT MEASURED: {name}: {why}")));
        lines.extend(results.failures.iter().map(|failure| format!("NO RESULT: {name}: {failure}")));
        lines.extend(results.accusations().map(|text| format!("FALSE: {name}: {text}")));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn rows_of<'a>(stalled: &[usize], hosts: usize) -> Vec<Row<'a>> {
    let mut rows = vec![row("all started → one view, median", "s", Aim::None, |results| {
        Sample::new(results.formed.iter().copied()).map(|sample| sample.quantile(0.5))
    })];
    rows.extend(idle());
    rows.extend(killed());
    rows.extend(cut());
    for count in stalled {
        rows.extend(false_events(Case::Stall(*count), &format!("{count} of {hosts} stalled"), "those stalled"));
    }
    rows.extend(isolated());
    for seconds in [3, 8] {
        rows.extend(paused(seconds));
    }
    rows
}

fn row<'a>(name: &str, unit: &'static str, aim: Aim, value: impl Fn(&Results) -> Option<f64> + 'a) -> Row<'a> {
    Row { name: name.into(), unit, aim, value: Box::new(value) }
}

fn idle<'a>() -> Vec<Row<'a>> {
    vec![
        row("idle: RSS, mean", "MB", Aim::None, |r| r.idle(|idle| idle.rss.mean())),
        row("idle: RSS, most of one", "MB", Aim::AtMost(25.0), |r| {
            Sample::new(r.idle.iter().map(|idle| idle.rss.max())).map(|sample| sample.max())
        }),
        row("idle: PSS, mean", "MB", Aim::None, |r| r.idle(|idle| idle.pss.mean())),
        row("idle: CPU, mean", "% of a core", Aim::TimesSerf(2.0), |r| r.idle(|idle| idle.cpu.mean())),
        row("idle: waits of its threads", "/s", Aim::None, |r| r.idle(|idle| idle.waits)),
        row("idle: sent by one", "kB/s", Aim::AtMost(8.0), |r| r.idle(|idle| idle.sent().0 / 1000.0)),
        row("idle: frames sent by one", "/s", Aim::None, |r| r.idle(|idle| idle.sent().1)),
    ]
}

fn killed<'a>() -> Vec<Row<'a>> {
    let known = |last: bool, share: f64| {
        move |r: &Results| {
            let which = |(first, all): (f64, f64)| if last { all } else { first };
            Some(r.sample(Case::Kill, |outcome| outcome.known.map(which))?.quantile(share))
        }
    };
    vec![
        tries("killed", Case::Kill),
        row("killed → the first other knows, median", "s", Aim::None, known(false, 0.5)),
        row("killed → the first other knows, p99", "s", Aim::None, known(false, 0.99)),
        row("killed → all others know, median", "s", Aim::None, known(true, 0.5)),
        row("killed → all others know, p99", "s", Aim::AtMost(3.0), known(true, 0.99)),
        row("  started again → one view, median", "s", Aim::None, |r| {
            Some(r.sample(Case::Kill, |outcome| Some(outcome.well_again))?.quantile(0.5))
        }),
        row("  false failure events", "", Aim::AtMost(0.0), |r| {
            r.sum(Case::Kill, |outcome| outcome.false_events.at_well + outcome.false_events.at_sick)
        }),
    ]
}

fn cut<'a>() -> Vec<Row<'a>> {
    let last = |share: f64| {
        move |r: &Results| Some(r.sample(Case::Cut, |outcome| outcome.known.map(|(_, all)| all))?.quantile(share))
    };
    vec![
        tries("uplink a cut", Case::Cut),
        row("uplink a cut → the first other knows, median", "s", Aim::None, |r| {
            Some(r.sample(Case::Cut, |outcome| outcome.known.map(|(first, _)| first))?.quantile(0.5))
        }),
        row("uplink a cut → all others know, median", "s", Aim::None, last(0.5)),
        row("uplink a cut → all others know, p99", "s", Aim::AtMost(0.5), last(0.99)),
        row("  membership changes, at all agents", "", Aim::AtMost(0.0), |r| r.sum(Case::Cut, |o| o.changes)),
    ]
}

fn isolated<'a>() -> Vec<Row<'a>> {
    let mut rows = vec![tries("isolated 30 s", Case::Isolate)];
    rows.push(row("isolated 30 s: declared failed, by others", "", Aim::None, |r| {
        Some(r.sample(Case::Isolate, |outcome| Some(outcome.declared as f64))?.mean())
    }));
    rows.extend(false_events(Case::Isolate, "isolated 30 s", "the one isolated"));
    rows.push(row("  healed → one view, most", "s", Aim::AtMost(2.0), |r| {
        Some(r.sample(Case::Isolate, |outcome| Some(outcome.well_again))?.max())
    }));
    rows
}

fn paused<'a>(seconds: u64) -> Vec<Row<'a>> {
    let case = Case::Pause(seconds);
    let name = format!("paused {seconds} s");
    let (down, back) = if seconds < 8 { (Aim::AtMost(0.0), Aim::None) } else { (Aim::None, Aim::AtMost(1.0)) };
    let mut rows = vec![tries(&name, case)];
    rows.push(row(&format!("{name}: declared failed, by others"), "", down, move |r| {
        Some(r.sample(case, |outcome| Some(outcome.declared as f64))?.mean())
    }));
    rows.push(row("  goes on → one view, most", "s", back, move |r| {
        Some(r.sample(case, |outcome| Some(outcome.well_again))?.max())
    }));
    rows.extend(false_events(case, &name, "the one paused"));
    rows
}

fn tries<'a>(name: &str, case: Case) -> Row<'a> {
    row(&format!("{name}: tries"), "", Aim::None, move |r| Some(r.outcomes.get(&case)?.len() as f64))
}

fn false_events<'a>(case: Case, name: &str, sick: &str) -> [Row<'a>; 2] {
    let at = |who: &str| format!("{name}: false failure events, at {who}");
    [
        row(&at("those well"), "", Aim::AtMost(0.0), move |r| r.sum(case, |outcome| outcome.false_events.at_well)),
        row(&at(sick), "", Aim::AtMost(0.0), move |r| r.sum(case, |outcome| outcome.false_events.at_sick)),
    ]
}
