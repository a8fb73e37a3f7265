//! Whether an answer is what a check expects. It owns the compiled regular expressions of the whole agent.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use memchr::memmem;
use regex::bytes::{Regex, RegexBuilder};
use ringmesh_node::health::spec::Match;

/// The most bytes of a compiled expression, and of what it remembers while it searches.
const MAX_COMPILED: usize = 256 * 1024;

/// The most expressions that are kept compiled: beyond them all are forgotten and compiled again.
const MAX_KEPT: usize = 4096;

/// Compiles `pattern`; why it cannot be, in one line.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(pattern).size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED).build();
    built.map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default();
        last.trim_start_matches("error: ").to_owned()
    })
}

/// Expressions that have been used, by their text: a host has few, and many checks with the same.
#[derive(Debug, Default)]
pub(super) struct Patterns(Mutex<BTreeMap<String, Arc<Regex>>>);

impl Patterns {
    /// Whether `bytes`, the beginning of an answer or all of it, are what is expected; `None` while more could decide.
    pub(super) fn decide(&self, expected: &Match, bytes: &[u8], whole: bool) -> Option<bool> {
        let begun = |whole_answer: &[u8]| if whole_answer.starts_with(bytes) { None } else { Some(false) };
        let decided = match expected {
            Match::Exact(exact) if bytes == exact => Some(true),
            Match::Prefix(prefix) if bytes.starts_with(prefix) => Some(true),
            Match::Exact(begin) | Match::Prefix(begin) => begun(begin),
            Match::Contains(part) => memmem::find(bytes, part).map(|_| true),
            Match::Regex(pattern) => self.compiled(pattern).is_some_and(|regex| regex.is_match(bytes)).then_some(true),
        };
        decided.or(whole.then_some(false))
    }

    /// The configuration has compiled it before, so that it can be compiled.
    fn compiled(&self, pattern: &str) -> Option<Arc<Regex>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(regex) = kept.get(pattern) {
            return Some(Arc::clone(regex));
        }
        let regex = Arc::new(compile(pattern).ok()?);
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(pattern.to_owned(), Arc::clone(&regex));
        Some(regex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_decided_as_soon_as_it_can_be() {
        let patterns = Patterns::default();
        let exact = Match::Exact(b"PONG".to_vec());
        let prefix = Match::Prefix(b"220 ".to_vec());
        let contains = Match::Contains(b"up".to_vec());
        let regex = Match::Regex("^ok: [0-9]+$".into());
        let cases: [(&Match, &[u8], Option<bool>); 14] = [
            (&exact, b"", None),
            (&exact, b"PO", None),
            (&exact, b"PONG", Some(true)),
            (&exact, b"PONGS", Some(false)),
            (&exact, b"PA", Some(false)),
            (&prefix, b"22", None),
            (&prefix, b"220 mail", Some(true)),
            (&prefix, b"221", Some(false)),
            (&contains, b"all is u", None),
            (&contains, b"all is up", Some(true)),
            (&contains, b"\xff\xfeup\0", Some(true)),
            (&regex, b"ok: ", None),
            (&regex, b"ok: 17", Some(true)),
            (&regex, b"ok: \xff", None),
        ];
        for (expected, bytes, decided) in cases {
            assert_eq!(patterns.decide(expected, bytes, false), decided, "{expected}: {}", bytes.escape_ascii());
            assert_eq!(patterns.decide(expected, bytes, true), Some(decided == Some(true)), "{expected}");
        }
    }

    #[test]
    fn a_bad_expression_is_explained_in_one_line() {
        for (pattern, expected) in [("a(", "unclosed group"), ("a{1000}{1000}", "exceeds size limit")] {
            let error = compile(pattern).expect_err(pattern);
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
    }
}
