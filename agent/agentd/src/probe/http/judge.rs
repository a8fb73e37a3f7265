//! Whether head and body of an answer are right.

use ringmesh_node::health::spec::{HttpCheck, JsonMatch, Match};
use serde_json::Value;

use super::answer::{Answer, MAX_BODY};
use crate::probe::matching::Patterns;

/// The most bytes of a value that is quoted.
const MAX_QUOTED: usize = 60;

/// What is wrong with an answer whose status is right, in words that follow "but".
pub(super) fn judge(patterns: &Patterns, check: &HttpCheck, answer: &Answer) -> Result<(), String> {
    for (name, expected) in &check.expect_headers {
        let value = answer.header(name).ok_or_else(|| format!("it has no header {name}"))?;
        if let Some(expected) = expected
            && patterns.decide(expected, value, true) != Some(true)
        {
            let value = String::from_utf8_lossy(value);
            return Err(format!("its header {name} is \"{}\", not {expected}", short(&value)));
        }
    }
    if !check.looks_at_body() {
        return Ok(());
    }
    // A few bytes can become gigabytes: nothing is unpacked.
    if let Some(encoding) = answer.header("content-encoding").filter(|value| !value.eq_ignore_ascii_case(b"identity")) {
        return Err(format!(
            "its body is packed ({}), and probes unpack nothing",
            short(&String::from_utf8_lossy(encoding))
        ));
    }
    let too_long = answer.room() == 0;
    if let Some(expected) = &check.expect_body
        && patterns.decide(expected, answer.body(), true) != Some(true)
    {
        let within = if too_long { format!(", as far as its first {MAX_BODY} bytes tell") } else { String::new() };
        return Err(format!("its body is not {}{within}", expected_body(expected)));
    }
    match &check.expect_json {
        Some(_) if too_long => Err(format!("its body is longer than {MAX_BODY} bytes")),
        Some(expected) => json(expected, answer.body()),
        None => Ok(()),
    }
}

fn expected_body(expected: &Match) -> String {
    match expected {
        Match::Exact(_) => expected.to_string(),
        Match::Prefix(_) | Match::Contains(_) | Match::Regex(_) => format!("one with {expected}"),
    }
}

fn json(expected: &JsonMatch, body: &[u8]) -> Result<(), String> {
    let document: Value = serde_json::from_slice(body).map_err(|error| format!("its body is no JSON: {error}"))?;
    let place = if expected.pointer.is_empty() { "the body" } else { &expected.pointer };
    let found = document.pointer(&expected.pointer).ok_or_else(|| format!("there is no {place} in its body"))?;
    let wanted: Value = serde_json::from_str(&expected.equals).map_err(|error| error.to_string())?;
    if equal(found, &wanted) {
        return Ok(());
    }
    Err(format!("{place} is {}, not {}", short(&found.to_string()), short(&expected.equals)))
}

/// 1 and 1.0 are the same number.
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (one, other) => one == other,
    }
}

fn short(text: &str) -> String {
    match text.char_indices().find(|(at, _)| *at >= MAX_QUOTED) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
