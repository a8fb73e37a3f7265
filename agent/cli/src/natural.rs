//! The order in which people count: h2 before h10.

/// A name as runs of text and numbers, compared run by run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Natural(Vec<(String, u64)>, String);

impl Natural {
    /// Of the parts of a path, such as host and container. The parts themselves break a tie.
    pub(crate) fn of(parts: &[&str]) -> Self {
        let runs = parts.iter().flat_map(|part| runs(part).into_iter().chain([(String::new(), 0)])).collect();
        Self(runs, parts.join("/"))
    }
}

fn runs(text: &str) -> Vec<(String, u64)> {
    let mut rest = text;
    let mut runs = Vec::new();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, tail) = tail.split_at(end);
        // A number too long for 64 bits counts as the largest; the joined text keeps such names apart.
        let number = if number.is_empty() { 0 } else { number.parse().unwrap_or(u64::MAX) };
        runs.push((word.to_owned(), number));
        rest = tail;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count() {
        let mut names = ["h10", "h2", "h1", "a", "h1x", "h01"];
        names.sort_by_key(|name| Natural::of(&[name]));
        assert_eq!(names, ["a", "h01", "h1", "h1x", "h2", "h10"]);
        assert!(Natural::of(&["h2", "z"]) < Natural::of(&["h10", "a"]));
        assert!(Natural::of(&["h", "1"]) != Natural::of(&["h1"]));
    }
}
