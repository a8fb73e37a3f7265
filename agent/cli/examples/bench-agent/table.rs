//! Rows of figures, as a Markdown table that can be read on a terminal too.

use std::fmt::Write as _;

/// A value with its unit.
#[derive(Clone, Copy)]
pub(crate) struct Figure(pub(crate) f64, pub(crate) &'static str);

/// What a value is held against.
#[derive(Clone, Copy)]
pub(crate) enum Aim {
    /// Not above it.
    Target(f64),
    /// Not above it, some day; being above is no failure yet.
    Later(f64),
    /// Reported only.
    None,
}

/// Rows that are printed at the end.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<[String; 4]>,
    pub(crate) targets: usize,
    pub(crate) missed: usize,
}

impl Table {
    /// Adds a row and shows it on stderr at once, since the next may be minutes away.
    pub(crate) fn row(&mut self, name: &str, Figure(value, unit): Figure, aim: Aim) {
        let with_unit = |value| format!("{} {unit}", number(value)).trim_end().to_owned();
        let against = |target: f64| format!("{:.2}", value / target);
        let (target, ratio) = match aim {
            Aim::Target(target) => {
                self.targets += 1;
                let missed = value > target;
                self.missed += usize::from(missed);
                (format!("≤ {}", with_unit(target)), against(target) + if missed { " missed" } else { "" })
            }
            Aim::Later(target) => (format!("later ≤ {}", with_unit(target)), against(target)),
            Aim::None => (String::new(), String::new()),
        };
        self.push([name.into(), with_unit(value), target, ratio]);
    }

    /// Adds a row that compares with another program.
    pub(crate) fn compare(&mut self, name: &str, ours: Option<f64>, theirs: f64, unit: &'static str) {
        let with_unit = |value| format!("{} {unit}", number(value));
        let ours_text = ours.map_or_else(|| "not measured".into(), with_unit);
        let ratio = ours.map(|ours| format!("{:.2}", ours / theirs)).unwrap_or_default();
        self.push([name.into(), ours_text, with_unit(theirs), ratio]);
    }

    /// Adds a row of words.
    pub(crate) fn note(&mut self, name: &str, text: &str) {
        self.push([name.into(), text.into(), String::new(), String::new()]);
    }

    /// With the heads of its columns; nothing when there are no rows.
    pub(crate) fn render(&self, heads: [&str; 4]) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let heads = heads.map(str::to_owned);
        let width = |column: usize| {
            self.rows.iter().chain([&heads]).map(|row| row[column].chars().count()).max().unwrap_or(0).max(3)
        };
        let widths: [usize; 4] = std::array::from_fn(width);
        let mut text = String::new();
        let mut line = |cells: &[String; 4]| {
            let [a, b, c, d] = cells;
            let [wa, wb, wc, wd] = widths;
            // A String takes whatever is written.
            let _ = writeln!(text, "| {a:wa$} | {b:>wb$} | {c:>wc$} | {d:>wd$} |");
        };
        line(&heads);
        line(&widths.map(|width| "-".repeat(width)));
        self.rows.iter().for_each(line);
        text
    }

    fn push(&mut self, row: [String; 4]) {
        let [name, measured, target, ratio] = &row;
        eprintln!("    {name}: {measured}  {target}  {ratio}");
        self.rows.push(row);
    }
}

/// A sample of durations or sizes, sorted.
pub(crate) struct Sample(Vec<f64>);

impl Sample {
    /// `None` when there is nothing in it.
    pub(crate) fn new(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        (!values.is_empty()).then_some(Self(values))
    }

    /// The smallest value that is not exceeded by this share of the sample, 0 to 1; 1 is the largest.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    pub(crate) fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    pub(crate) fn max(&self) -> f64 {
        self.quantile(1.0)
    }

    pub(crate) fn sum(&self) -> f64 {
        self.0.iter().sum()
    }
}

/// Three digits that count.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 99.95 || v == v.trunc() => 0,
        v if v >= 9.995 => 1,
        v if v >= 0.9995 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}
