//! One object: its fields below each other, values aligned.

use ringmesh_proto::v1::Digest;

use super::{style::Style, table::printable};

/// Fields in the order in which they are shown. Empty ones are left out.
#[derive(Debug, Default)]
pub(crate) struct Details(Vec<(&'static str, String, Style)>);

impl Details {
    pub(crate) fn add(&mut self, name: &'static str, value: impl AsRef<str>) {
        self.add_styled(name, value, Style::Plain);
    }

    pub(crate) fn state(&mut self, name: &'static str, state: &str) {
        self.add_styled(name, state, Style::of_state(state));
    }

    /// What runs on a host, or in a zone.
    pub(crate) fn digest(&mut self, digest: Option<&Digest>) {
        let Some(digest) = digest else { return };
        self.add("Containers", format!("{}, {} running, score {}", digest.containers, digest.running, digest.score));
        self.add(
            "Services",
            format!(
                "{}: {} passing, {} warning, {} critical, {} unverified",
                digest.services, digest.passing, digest.warning, digest.critical, digest.unverified
            ),
        );
        self.state("Worst", digest.worst().as_str_name());
    }

    fn add_styled(&mut self, name: &'static str, value: impl AsRef<str>, style: Style) {
        let value = printable(value.as_ref());
        if !value.is_empty() && value != "-" {
            self.0.push((name, value, style));
        }
    }

    pub(crate) fn render(&self, color: bool) -> String {
        let width = self.0.iter().map(|(name, ..)| name.len()).max().unwrap_or(0) + 1;
        let line = |(name, value, style): &(&str, String, Style)| {
            format!("{:<width$}  {}\n", format!("{name}:"), style.paint(value, color))
        };
        self.0.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_aligned_and_empty_ones_left_out() {
        let mut details = Details::default();
        details.add("Name", "h1");
        details.add("Zone", "");
        details.state("State", "down");
        assert_eq!(details.render(false), "Name:   h1\nState:  down\n");
        assert!(details.render(true).contains("\x1b[31mdown"));
    }
}
