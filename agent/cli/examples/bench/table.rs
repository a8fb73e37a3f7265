//! Rows of figures with what they are held against.

use super::sample::{number, table};

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
        table(heads, &self.rows)
    }

    fn push(&mut self, row: [String; 4]) {
        let [name, measured, target, ratio] = &row;
        eprintln!("    {name}: {measured}  {target}  {ratio}");
        self.rows.push(row);
    }
}
