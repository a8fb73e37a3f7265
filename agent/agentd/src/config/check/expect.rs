//! What an answer is compared with: `expect = { prefix = "220 " }`.

use ringmesh_node::health::spec::Match;
use serde::{Deserialize, Serialize};

use super::Wrong;
use crate::probe::matching;

/// The most bytes of what an answer is compared with, and of a regular expression.
const MAX_EXPECTED: usize = 1024;

/// Exactly one of the keys is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// The answer is just this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// The same in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact_hex: Option<String>,
    /// The answer begins with this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The same in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_hex: Option<String>,
    /// This is within the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// A regular expression (the syntax of the crate `regex`) matches within the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
}

impl Expect {
    /// `key` is where it stands.
    pub(super) fn matching(&self, key: &str) -> Result<Match, Wrong> {
        let at = |(field, message): Wrong| (format!("{key}.{field}"), message);
        let exact = bytes("exact", &self.exact, &self.exact_hex, MAX_EXPECTED).map_err(at)?.map(Match::Exact);
        let prefix = bytes("prefix", &self.prefix, &self.prefix_hex, MAX_EXPECTED).map_err(at)?.map(Match::Prefix);
        let contains = bytes("contains", &self.contains, &None, MAX_EXPECTED).map_err(at)?.map(Match::Contains);
        let regex = self.regex.as_ref().map(|pattern| regex(pattern)).transpose().map_err(at)?;
        let mut given = [exact, prefix, contains, regex].into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(expected), None) => Ok(expected),
            (_, _) => Err((key.into(), "needs exactly one of exact, prefix, contains and regex".into())),
        }
    }
}

fn regex(pattern: &str) -> Result<Match, Wrong> {
    let wrong = |message| ("regex".to_owned(), message);
    if pattern.len() > MAX_EXPECTED {
        return Err(wrong(format!("is longer than {MAX_EXPECTED} bytes")));
    }
    matching::compile(pattern).map_err(|why| wrong(format!("is no regular expression: {why}")))?;
    Ok(Match::Regex(pattern.to_owned()))
}

/// The bytes of a key that is text, or of its twin with hexadecimal digits.
pub(super) fn bytes(
    key: &str,
    text: &Option<String>,
    hex: &Option<String>,
    most: usize,
) -> Result<Option<Vec<u8>>, Wrong> {
    let (key, bytes) = match (text, hex) {
        (None, None) => return Ok(None),
        (Some(text), None) => (key.to_owned(), text.as_bytes().to_vec()),
        (None, Some(hex)) => {
            let key = format!("{key}_hex");
            let bytes = from_hex(hex).ok_or_else(|| (key.clone(), "needs pairs of hexadecimal digits".to_owned()))?;
            (key, bytes)
        }
        (Some(_), Some(_)) => return Err((key.into(), format!("and {key}_hex are the same; give one"))),
    };
    if bytes.len() > most {
        return Err((key, format!("is longer than {most} bytes")));
    }
    Ok(Some(bytes))
}

/// Spaces may stand between the digits.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().filter(|c| *c != ' ').map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
