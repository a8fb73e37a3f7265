//! HTTP/1.1, as much as a probe needs: one GET, the status line, a few bytes of the body.
//!
//! Written by hand because a probe reads one line of an answer, 3,200 times a second. It knows no namespaces.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{io::AsyncReadExt, time::timeout_at};

use super::{Outcome, answer, socket::Dial};

/// The most bytes that are read of an answer.
const MAX_READ: usize = 4096;

/// The most bytes of a status line; servers send some twenty.
pub const MAX_STATUS_LINE: usize = 1024;

/// After the status line the probe is decided; so long it waits for the end of the answer, to quote it and to let the
/// server finish undisturbed.
const DRAIN: Duration = Duration::from_millis(50);

/// The first line of an answer (RFC 9112 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusLine<'a> {
    /// 100 to 599.
    pub status: u16,
    /// For people; may be empty and of any bytes.
    pub reason: &'a [u8],
}

/// The answer does not begin with a status line of HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not HTTP/1.1")]
pub struct NotHttp;

/// The status line at the beginning of `bytes`; `None` when more bytes are needed to tell.
pub fn parse_status_line(bytes: &[u8]) -> Result<Option<StatusLine<'_>>, NotHttp> {
    const VERSION: &[u8] = b"HTTP/1.";
    let known = bytes.len().min(VERSION.len());
    if bytes[..known] != VERSION[..known] {
        return Err(NotHttp);
    }
    let window = &bytes[..bytes.len().min(MAX_STATUS_LINE)];
    let Some(end) = window.iter().position(|b| *b == b'\n') else {
        return if bytes.len() < MAX_STATUS_LINE { Ok(None) } else { Err(NotHttp) };
    };
    let line = &window[..end];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // "HTTP/1.1 200 OK": the minor version, a space, three digits, and the reason after another space if at all.
    let [minor, b' ', a, b, c, rest @ ..] = line.strip_prefix(VERSION).ok_or(NotHttp)? else { return Err(NotHttp) };
    if ![minor, a, b, c].into_iter().all(u8::is_ascii_digit) {
        return Err(NotHttp);
    }
    let status = [a, b, c].into_iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    let reason = match rest {
        [] => rest,
        [b' ', reason @ ..] => reason,
        [..] => return Err(NotHttp),
    };
    if (100..600).contains(&status) { Ok(Some(StatusLine { status, reason })) } else { Err(NotHttp) }
}

/// Asks for `path` at `address`, which is where `dial` leads; a status within `expected` passes.
pub(super) async fn get(
    dial: Dial,
    address: SocketAddr,
    path: &str,
    expected: (u16, u16),
    deadline: Instant,
) -> io::Result<Outcome> {
    let mut stream = dial.send(request(address, path).as_bytes()).await?;
    let mut bytes = vec![0; MAX_READ];
    let mut len = 0;
    let (status, at) = loop {
        match parse_status_line(&bytes[..len]) {
            Ok(Some(line)) => break (line.status, Instant::now()),
            Ok(None) => {}
            Err(not_http) => {
                let begin = String::from_utf8_lossy(&bytes[..len.min(64)]);
                return Ok(Outcome::fail(format!("{not_http}: \"{}\"", begin.escape_debug())));
            }
        }
        match stream.read(&mut bytes[len..]).await? {
            0 if len == 0 => return Ok(Outcome::fail("the connection was closed without an answer")),
            0 => return Ok(Outcome::fail("the connection was closed within the status line")),
            n => len += n,
        }
    };
    let drained = deadline.min(at + DRAIN);
    while len < bytes.len() {
        match timeout_at(drained.into(), stream.read(&mut bytes[len..])).await {
            Ok(Ok(n)) if n > 0 => len += n,
            // The end, a reset, or a slow body: the status line stands.
            Ok(_) | Err(_) => break,
        }
    }
    let success = (expected.0..=expected.1).contains(&status);
    Ok(Outcome { success, silent: false, answer: describe(&bytes[..len]), at })
}

fn request(address: SocketAddr, path: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: ringmesh/{version}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
}

/// "HTTP 503 Service Unavailable: the database is gone".
fn describe(bytes: &[u8]) -> String {
    let Ok(Some(StatusLine { status, reason })) = parse_status_line(bytes) else { return NotHttp.to_string() };
    let mut text = format!("HTTP {status} {}", String::from_utf8_lossy(reason));
    text.truncate(text.trim_end().len());
    let body = answer::clean(&String::from_utf8_lossy(body(bytes)));
    if !body.is_empty() {
        text.push_str(": ");
        text.push_str(&body);
    }
    answer::clean(&text)
}

/// What follows the first empty line.
fn body(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|b| *b == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.is_empty() || line == b"\r" {
            return rest;
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Option<(u16, &str)>, NotHttp> {
        let line = parse_status_line(text.as_bytes())?;
        Ok(line.map(|line| (line.status, std::str::from_utf8(line.reason).expect("the sample is text"))))
    }

    #[test]
    fn status_lines() {
        assert_eq!(parse("HTTP/1.1 200 OK\r\nDate: x\r\n\r\n"), Ok(Some((200, "OK"))));
        assert_eq!(parse("HTTP/1.0 503 Service Unavailable\n"), Ok(Some((503, "Service Unavailable"))));
        assert_eq!(parse("HTTP/1.1 404\r\n"), Ok(Some((404, ""))));
        assert_eq!(parse("HTTP/1.1 404 \r\n"), Ok(Some((404, ""))));
        for more in ["", "H", "HTTP/1.", "HTTP/1.1 200 OK", "HTTP/1.1 2", "HTTP/1.1 200 OK\r"] {
            assert_eq!(parse(more), Ok(None), "{more}");
        }
        let bad = [
            "h",
            "SSH-2.0",
            "HTTP/2",
            "HTTP/1.x 200 OK\n",
            "HTTP/1.1 099 X\n",
            "HTTP/1.1 600 X\n",
            "HTTP/1.1 2000 X\n",
            "HTTP/1.1 20 X\n",
            "HTTP/1.1  200 X\n",
            "HTTP/1.1 +20 X\n",
            "HTTP/1.1\n",
            "HTTP/1.\n",
            "\n",
            "\r\n",
            "\0",
        ];
        for bad in bad {
            assert_eq!(parse(bad), Err(NotHttp), "{bad}");
        }
        let giant = "HTTP/1.1 200 ".to_owned() + &"x".repeat(MAX_STATUS_LINE);
        assert_eq!(parse(&giant), Err(NotHttp));
        assert_eq!(parse(&(giant + "\r\n")), Err(NotHttp));
    }

    #[test]
    fn an_answer_is_described_in_one_line() {
        assert_eq!(describe(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nfine\r\n"), "HTTP 200 OK: fine");
        assert_eq!(describe(b"HTTP/1.1 500\n\n<h1>\n oops"), "HTTP 500: <h1>  oops");
        assert_eq!(describe(b"HTTP/1.1 500 \xff\r\nnot: ended\r\n"), "HTTP 500 \u{fffd}");
    }

    #[test]
    fn the_request_is_complete() {
        let request = request("[::1]:80".parse().expect("an address"), "/a?b");
        assert!(request.starts_with("GET /a?b HTTP/1.1\r\nHost: [::1]:80\r\nUser-Agent: ringmesh/"), "{request}");
        assert!(request.ends_with("\r\nConnection: close\r\n\r\n"), "{request}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let _ = parse_status_line(&bytes);
            prop_assert!(describe(&bytes).len() <= super::super::MAX_ANSWER);
        }

        #[test]
        fn every_status_line_is_read_as_written_and_never_before_its_end(
            status in 100_u16..600,
            reason in "[ -~]{0,40}",
            head in "[ -~\r\n]{0,40}",
        ) {
            let line = format!("HTTP/1.1 {status} {reason}\r\n");
            let text = line.clone() + &head;
            let parsed = parse_status_line(text.as_bytes());
            prop_assert_eq!(parsed, Ok(Some(StatusLine { status, reason: reason.as_bytes() })));
            for cut in 0..line.len() {
                prop_assert_eq!(parse_status_line(&line.as_bytes()[..cut]), Ok(None));
            }
        }
    }
}
