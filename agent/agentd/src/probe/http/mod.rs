//! HTTP/1.1, as much as a probe needs: one request, and as much of the answer as decides.
//!
//! ```text
//!  request ─► status line ─┬─ decided by its status: a few bytes of the body, to quote them
//!                          ├─ a redirect that is to be followed: another connection
//!                          └─ head ─► body ─► judged by headers, text, JSON
//! ```
//!
//! Most probes read one line of an answer and are over: 3,200 of them a second are the reason why no client library is here.
//! It knows no namespaces.

pub mod answer;
mod judge;
mod redirect;

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use bytes::BufMut;
use ringmesh_node::health::spec::HttpCheck;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    time::timeout_at,
};

use self::{
    answer::{Answer, BadAnswer, MAX_STATUS_LINE, StatusLine, parse_status_line},
    redirect::Target,
};
use super::{Outcome, Sign, Tools, answer as words, socket::Dial, tls};

/// The most bytes of one read, and of an answer that is read only to be quoted.
const READ: usize = 4096;

/// After the status line most probes are decided; so long they wait for the end of the answer, to quote it and to let the
/// server finish undisturbed.
const DRAIN: Duration = Duration::from_millis(50);

/// Asks what `check` asks over `dial`, which leads to its address. Redirects lead to other connections within `netns`.
/// `heard` is set by the first byte of an answer, and by TLS.
pub(super) async fn ask(
    tools: &Tools,
    netns: Option<&Path>,
    mut dial: Dial,
    check: &HttpCheck,
    deadline: Instant,
    heard: &mut bool,
) -> io::Result<Outcome> {
    let mut target = Target::first(check);
    let mut visited = Vec::new();
    loop {
        let request = request(check, &target);
        let reached = match &check.tls {
            None => read(dial.send(request.as_bytes()).await?, check, target.method, deadline, heard).await?,
            // Boxed: most probes have no TLS, and their tasks stay small.
            Some(wanted) => match Box::pin(tls::connect(&tools.trusts, wanted, dial.connected().await?)).await {
                Err(words) => return Ok(Outcome::fail(words)),
                Ok(mut stream) => {
                    *heard = true;
                    stream.write_all(request.as_bytes()).await?;
                    Box::pin(read(stream, check, target.method, deadline, heard)).await?
                }
            },
        };
        let (answer, status, at) = match reached {
            Reached::Decided(outcome) => return Ok(outcome),
            Reached::Inside { answer, status, at } => (answer, status, at),
        };
        if !redirect::follows(check, status) {
            let success = judge::judge(&tools.patterns, check, &answer);
            let text = describe(&answer.bytes, answer.body());
            return Ok(match success {
                Ok(()) => decided(true, status, text, at),
                Err(but) => {
                    let text = words::clean(&format!("{}, but {but}", head_words(&answer.bytes)));
                    decided(false, status, text, at)
                }
            });
        }
        let next = match redirect::next(check, &target, &mut visited, status, answer.header("location")) {
            Ok(next) => next,
            Err(words) => return Ok(Outcome::fail(words)),
        };
        dial = match tools.dial(netns, next.address) {
            Ok(dial) => dial,
            Err(outcome) => {
                let answer = format!("redirected to {next}: {}", outcome.answer);
                return Ok(outcome.in_words(&answer));
            }
        };
        target = next;
    }
}

/// How far an answer was read.
enum Reached {
    /// The status line decided, or there is no usable answer.
    Decided(Outcome),
    /// Head and body decide; `at` is when they were there.
    Inside { answer: Answer, status: u16, at: Instant },
}

async fn read<S: AsyncRead + Unpin>(
    mut stream: S,
    check: &HttpCheck,
    method: &str,
    deadline: Instant,
    heard: &mut bool,
) -> io::Result<Reached> {
    let mut answer = Answer::to(method, READ);
    let status = loop {
        match parse_status_line(&answer.bytes) {
            Ok(Some(line)) => break line.status,
            Ok(None) => {}
            Err(error) => return Ok(Reached::Decided(unusable(error, &answer))),
        }
        if more(&mut stream, &mut answer, MAX_STATUS_LINE).await? == 0 {
            let words = if answer.bytes.is_empty() { "without an answer" } else { "within the status line" };
            return Ok(Reached::Decided(Outcome::fail(format!("the connection was closed {words}"))));
        }
        *heard = true;
    };
    let success = check.status.iter().any(|(first, last)| (*first..=*last).contains(&status));
    let follows = redirect::follows(check, status);
    let decides_inside = success && check.looks_inside();
    if !follows && !decides_inside {
        let at = Instant::now();
        drain(&mut stream, &mut answer, deadline.min(at + DRAIN)).await;
        let answer = describe(&answer.bytes, answer.body());
        return Ok(Reached::Decided(decided(success, status, answer, at)));
    }
    let to_the_end = check.looks_at_body() && !follows;
    loop {
        match answer.advance() {
            Ok(whole) if whole || answer.has_head() && (!to_the_end || answer.room() == 0) => break,
            Ok(_) => {}
            Err(error) => return Ok(Reached::Decided(unusable(error, &answer))),
        }
        if more(&mut stream, &mut answer, READ).await? == 0 {
            if answer.ends_with_connection() {
                break;
            }
            let words = head_words(&answer.bytes);
            return Ok(Reached::Decided(Outcome::fail(format!("{words}, but the connection was closed within it"))));
        }
    }
    Ok(Reached::Inside { answer, status, at: Instant::now() })
}

/// Reads once, at most `most` bytes and never more than an answer may have; 0 at the end.
async fn more<S: AsyncRead + Unpin>(stream: &mut S, answer: &mut Answer, most: usize) -> io::Result<usize> {
    let most = most.min(answer.room());
    if answer.bytes.capacity() == answer.bytes.len() {
        answer.bytes.reserve(READ);
    }
    stream.read_buf(&mut (&mut answer.bytes).limit(most)).await
}

/// Reads on for a quotation, until the answer is whole, enough has come, or the time is over.
async fn drain<S: AsyncRead + Unpin>(stream: &mut S, answer: &mut Answer, until: Instant) {
    // What is malformed behind the status line is quoted as it is.
    while let Ok(false) = answer.advance() {
        let room = READ.saturating_sub(answer.bytes.len());
        match timeout_at(until.into(), more(stream, answer, room)).await {
            Ok(Ok(read)) if read > 0 => {}
            // Enough, the end, a reset, or a slow body: the status line stands.
            Ok(_) | Err(_) => break,
        }
    }
}

/// A status of 5xx is the server's own word that it fails.
fn decided(success: bool, status: u16, answer: String, at: Instant) -> Outcome {
    let sign = if !success && status >= 500 { Sign::Error } else { success.into() };
    Outcome { sign, answer, at }
}

fn unusable(error: BadAnswer, answer: &Answer) -> Outcome {
    if error != BadAnswer::NotHttp {
        return Outcome::fail(format!("{}, but {error}", head_words(&answer.bytes)));
    }
    let begin = String::from_utf8_lossy(&answer.bytes[..answer.bytes.len().min(64)]);
    Outcome::fail(format!("{error}: \"{}\"", begin.escape_debug()))
}

fn request(check: &HttpCheck, target: &Target<'_>) -> String {
    use std::fmt::Write;
    let own = |name: &str| check.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
    let mut text = format!("{} {} HTTP/1.1\r\n", target.method, target.path);
    let mut header = |name: &str, value: &dyn std::fmt::Display| {
        // Nothing fails that is written to a string.
        let _ = write!(text, "{name}: {value}\r\n");
    };
    if !own("host") {
        header("Host", &target.host);
    }
    if !own("user-agent") {
        header("User-Agent", &concat!("ringmesh/", env!("CARGO_PKG_VERSION")));
    }
    if !own("accept") {
        header("Accept", &"*/*");
    }
    if check.looks_at_body() && !own("accept-encoding") {
        header("Accept-Encoding", &"identity");
    }
    for (name, value) in &check.headers {
        header(name, value);
    }
    let body = if target.with_body { check.body.as_str() } else { "" };
    if !body.is_empty() || matches!(target.method, "POST" | "PUT" | "PATCH") {
        header("Content-Length", &body.len());
    }
    text.push_str("Connection: close\r\n\r\n");
    text.push_str(body);
    text
}

/// "HTTP 503 Service Unavailable".
fn head_words(bytes: &[u8]) -> String {
    match parse_status_line(bytes) {
        Ok(Some(StatusLine { status, reason })) => {
            let text = format!("HTTP {status} {reason}");
            text.trim_end().to_owned()
        }
        Ok(None) | Err(_) => BadAnswer::NotHttp.to_string(),
    }
}

/// "HTTP 503 Service Unavailable: the database is gone".
fn describe(bytes: &[u8], body: &[u8]) -> String {
    let mut text = head_words(bytes);
    let quoted = &body[..body.len().min(words::QUOTED)];
    let body = words::clean(&String::from_utf8_lossy(quoted));
    if !body.is_empty() {
        text.push_str(": ");
        text.push_str(&body);
    }
    words::clean(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(bytes: &[u8]) -> String {
        let mut answer = Answer::to("GET", 0);
        answer.bytes.extend_from_slice(bytes);
        let _ = answer.advance();
        describe(&answer.bytes, answer.body())
    }

    #[test]
    fn an_answer_is_described_in_one_line() {
        assert_eq!(described(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nfine\r\n"), "HTTP 200 OK: fine");
        assert_eq!(described(b"HTTP/1.1 500\n\n<h1>\n oops"), "HTTP 500: <h1>  oops");
        assert_eq!(described(b"HTTP/1.1 500 \xff\r\n\r\n\xffa\x1b"), "HTTP 500: \u{fffd}a");
        assert_eq!(described(b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbad"), "HTTP 500 X: bad");
        assert_eq!(described(b"HTTP/1.1 500 X\r\nnot: ended\r\n"), "HTTP 500 X");
    }

    fn asked(check: &HttpCheck) -> String {
        request(check, &Target::first(check))
    }

    #[test]
    fn the_request_is_complete() {
        let text = asked(&HttpCheck::get("[::1]:80".parse().expect("an address"), "/a?b"));
        assert!(text.starts_with("GET /a?b HTTP/1.1\r\nHost: [::1]:80\r\nUser-Agent: ringmesh/"), "{text}");
        assert!(text.ends_with("\r\nConnection: close\r\n\r\n"), "{text}");
    }

    #[test]
    fn own_headers_replace_and_a_body_has_its_length() {
        let check = HttpCheck {
            method: "POST".into(),
            headers: vec![("host".into(), "shop".into()), ("X-Key".into(), "1".into())],
            body: "{}".into(),
            expect_body: Some(ringmesh_node::health::spec::Match::Contains(b"ok".to_vec())),
            ..HttpCheck::get("[::1]:80".parse().expect("an address"), "/")
        };
        let text = asked(&check);
        assert!(!text.contains("Host:") && text.contains("\r\nhost: shop\r\nX-Key: 1\r\n"), "{text}");
        assert!(text.contains("\r\nAccept-Encoding: identity\r\n"), "{text}");
        assert!(text.ends_with("\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"), "{text}");
    }
}
