//! What is asked of a member, and whether its answer is right.

use std::{io, time::Duration};

use nix::errno::Errno;
use ringmesh_member::message::{Address, Answer, Order, Question};

use crate::probe::{InsideCheck, InsideTarget, Outcome, Said, Sign, http, matching::Patterns, talk};

/// The packet that asks it; `None` if it is too long, which the configuration does not allow.
pub(super) fn packet(number: u32, timeout: Duration, check: &InsideCheck) -> Option<Vec<u8>> {
    let listen = check.expect != Said::Nothing;
    let connect = |to| Question::Connect { to, send: &check.send, listen };
    let question = match &check.target {
        InsideTarget::Tcp(address) => connect(Address::Tcp(*address)),
        InsideTarget::Unix(path) => connect(Address::Unix(path)),
        InsideTarget::Abstract(name) => connect(Address::Abstract(name)),
        InsideTarget::File { path, .. } => Question::File(path),
    };
    let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    Order::Ask { number, timeout_ms, question }.encode()
}

/// What an answer means; `None` while more of it must come.
pub(super) fn judge(patterns: &Patterns, check: &InsideCheck, answer: Answer<'_>) -> Option<Outcome> {
    match (&check.target, answer) {
        (_, Answer::Failed(errno)) => Some(failed(errno)),
        (_, Answer::Busy) => Some(Outcome::fail("the member inside has too many questions already")),
        (InsideTarget::File { max_age, .. }, Answer::File { age_ms, size }) => Some(file(*max_age, age_ms, size)),
        (InsideTarget::File { .. }, Answer::Heard { .. }) | (_, Answer::File { .. }) => {
            Some(Outcome::fail("the member inside answered what it was not asked"))
        }
        (_, Answer::Heard { bytes, ended }) => heard(patterns, &check.expect, bytes, ended),
    }
}

fn failed(errno: u16) -> Outcome {
    let error = io::Error::from_raw_os_error(errno.into());
    let outcome = Outcome::error(&error);
    // Nobody serves there: the kernel says so, as of a port. And it is the member that says it: that is a sign of life.
    let outright = outcome.sign.is_outright() || errno == Errno::ENOENT as u16;
    let sign = if outright { Sign::Error } else { Sign::Wrong };
    Outcome { sign, ..outcome }
}

fn file(max_age: Option<Duration>, age_ms: u64, size: u64) -> Outcome {
    let age = Duration::from_millis(age_ms);
    let words = format!("written {} s ago, {size} bytes", age.as_secs());
    match max_age.filter(|most| age > *most) {
        Some(most) => Outcome::fail(format!("{words}: not within {most:?}")),
        None => Outcome::pass(words),
    }
}

fn heard(patterns: &Patterns, expect: &Said, bytes: &[u8], ended: bool) -> Option<Outcome> {
    const CLOSED: &str = "the connection was closed without an answer";
    match expect {
        Said::Nothing => Some(Outcome::pass("connected")),
        Said::Match(expected) => {
            let said = talk::quote(bytes);
            Some(match patterns.decide(expected, bytes, ended)? {
                true => Outcome::pass(format!("answered {said}")),
                false if bytes.is_empty() => Outcome::fail(CLOSED),
                false => Outcome::fail(format!("answered {said}, not {expected}")),
            })
        }
        Said::Http => match http::answer::parse_status_line(bytes) {
            Ok(Some(line)) => {
                let words = format!("{} {}", line.status, line.reason);
                Some(match line.status {
                    200..400 => Outcome::pass(words),
                    500.. => Outcome::outright(words),
                    _ => Outcome::fail(words),
                })
            }
            Ok(None) if !ended => None,
            Ok(None) if bytes.is_empty() => Some(Outcome::fail(CLOSED)),
            Ok(None) => Some(Outcome::fail("the answer is not HTTP/1.1")),
            Err(error) => Some(Outcome::fail(error.to_string())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Match;

    /// Success, outright, words; `None` while more must come.
    fn judged(target: InsideTarget, expect: Said, answer: Answer<'_>) -> Option<(bool, bool, String)> {
        let check = InsideCheck { target, send: Vec::new(), expect };
        let outcome = judge(&Patterns::default(), &check, answer)?;
        assert!(!outcome.sign.is_silent(), "the member says something");
        Some((outcome.sign.is_right(), outcome.sign.is_outright(), outcome.answer))
    }

    #[test]
    fn files() {
        let file = |max_age: Option<u64>| InsideTarget::File {
            path: "/tmp/alive".into(),
            max_age: max_age.map(Duration::from_secs),
        };
        let of = |max_age, answer| judged(file(max_age), Said::Nothing, answer);
        let aged = |age_ms| Answer::File { age_ms, size: 7 };
        assert_eq!(of(Some(30), aged(29_999)), Some((true, false, "written 29 s ago, 7 bytes".into())));
        let late = "written 31 s ago, 7 bytes: not within 30s";
        assert_eq!(of(Some(30), aged(31_000)), Some((false, false, late.into())));
        assert_eq!(of(None, aged(u64::MAX)).map(|(success, ..)| success), Some(true));
        let gone = "no such file or directory";
        assert_eq!(of(None, Answer::Failed(2)), Some((false, true, gone.into())));
        let other = Answer::Heard { bytes: b"x", ended: true };
        assert_eq!(of(None, other).map(|(success, ..)| success), Some(false), "it was not asked that");
    }

    type Judged<'a> = Option<(bool, bool, &'a str)>;

    #[test]
    fn connections() {
        let app = || InsideTarget::Abstract("app".into());
        let pong = || Said::Match(Match::Prefix(b"PONG".to_vec()));
        let heard = |bytes, ended| Answer::Heard { bytes, ended };
        let cases: [(Said, Answer<'_>, Judged<'_>); 12] = [
            (Said::Nothing, heard(b"", false), Some((true, false, "connected"))),
            (Said::Nothing, Answer::Failed(111), Some((false, true, "connection refused"))),
            (
                Said::Nothing,
                Answer::File { age_ms: 0, size: 0 },
                Some((false, false, "the member inside answered what it was not asked")),
            ),
            (Said::Nothing, Answer::Busy, Some((false, false, "the member inside has too many questions already"))),
            (pong(), heard(b"PO", false), None),
            (pong(), heard(b"PONG\n", false), Some((true, false, "answered \"PONG\""))),
            (pong(), heard(b"PANG", false), Some((false, false, "answered \"PANG\", not \"PONG\" at its beginning"))),
            (pong(), heard(b"", true), Some((false, false, "the connection was closed without an answer"))),
            (Said::Http, heard(b"HTTP/1.1 200", false), None),
            (Said::Http, heard(b"HTTP/1.1 204 No Content\r\n", false), Some((true, false, "204 No Content"))),
            (Said::Http, heard(b"HTTP/1.0 503 Busy\r\n", true), Some((false, true, "503 Busy"))),
            (Said::Http, heard(b"SSH-2.0", false), Some((false, false, "the answer is not HTTP/1.1"))),
        ];
        for (expect, answer, expected) in cases {
            let expected = expected.map(|(success, outright, words)| (success, outright, words.to_owned()));
            assert_eq!(judged(app(), expect, answer), expected, "{answer:?}");
        }
    }
}
