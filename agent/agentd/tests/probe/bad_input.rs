//! Answers that are endless, slow, malformed, or a trap. Each must end with a clear word, in bounded time and memory.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use ringmesh_agentd::probe::{Check, Exchange, HttpCheck, JsonMatch, Match};

use crate::support::*;

/// A check that looks for "well" in the body.
fn looks_inside(address: SocketAddr) -> Check {
    let expect_body = Some(Match::Contains(b"well".to_vec()));
    Check::Http(Box::new(HttpCheck { expect_body, ..HttpCheck::get(address, "/") }))
}

fn looks_at_json(address: SocketAddr) -> Check {
    let expect_json = Some(JsonMatch { pointer: "/a".into(), equals: "1".into() });
    Check::Http(Box::new(HttpCheck { expect_json, ..HttpCheck::get(address, "/") }))
}

/// A server that begins with `head` and goes on with `more` as long as somebody reads.
fn endless(head: &'static [u8], more: &'static [u8], pause: Duration) -> SocketAddr {
    http(&None, move |stream: &mut TcpStream| {
        let mut sent = stream.write_all(head);
        while sent.is_ok() {
            thread::sleep(pause);
            sent = stream.write_all(more);
        }
    })
}

#[test]
fn endless_answers_end() {
    const AT_ONCE: Duration = Duration::ZERO;
    let body = endless(b"HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 4096], AT_ONCE);
    let chunks = endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", AT_ONCE);
    let head =
        endless(b"HTTP/1.1 200 OK\r\n", b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n", AT_ONCE);
    let remark = endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"remark", AT_ONCE);
    let lines = endless(b"", b"\r\n", AT_ONCE);
    let talk = listen(None, |listener| {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept works");
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        }
    });
    let expected = Some(Match::Contains(b"well".to_vec()));
    let cases = vec![
        (http_check(body), PATIENCE, Ok("HTTP 200 OK: xxxx…")),
        (http_check(head), PATIENCE, Ok("HTTP 200 OK")),
        (http_check(chunks), PATIENCE, Ok("HTTP 200 OK: xxxx…")),
        (
            looks_inside(body),
            PATIENCE,
            Err("HTTP 200 OK, but its body is not one with \"well\" within it, as far as its first 65536 bytes tell"),
        ),
        (
            looks_inside(chunks),
            PATIENCE,
            Err("HTTP 200 OK, but its body is not one with \"well\" within it, as far as its first 65536 bytes tell"),
        ),
        (looks_at_json(body), PATIENCE, Err("HTTP 200 OK, but its body is longer than 65536 bytes")),
        (looks_inside(head), PATIENCE, Err("HTTP 200 OK, but the head of the answer is longer than 8192 bytes")),
        (looks_inside(remark), PATIENCE, Err("HTTP 200 OK, but the chunks of the body are malformed")),
        (http_check(lines), PATIENCE, Err("the answer is not HTTP/1.1: …")),
        (
            Check::Talk(Exchange { address: talk, send: Vec::new(), expect: expected }),
            PATIENCE,
            Err("answered \"xxxx…"),
        ),
    ];
    expect(&None, cases);
}

#[test]
fn a_byte_now_and_then_does_not_prolong_a_probe() {
    let pause = Duration::from_millis(20);
    let line = endless(b"HTTP/1.1 200 ", b"O", pause);
    let head = endless(b"HTTP/1.1 200 OK\r\nX: ", b"y", pause);
    let body = endless(b"HTTP/1.1 200 OK\r\n\r\n", b"z", pause);
    let cases = vec![
        (http_check(line), SHORT, Err("no answer within 300 ms")),
        (looks_inside(head), SHORT, Err("no answer within 300 ms")),
        (looks_inside(body), SHORT, Err("no answer within 300 ms")),
        // Decided by its status line.
        (http_check(body), PATIENCE, Ok("HTTP 200 OK: z…")),
    ];
    expect(&None, cases);
}

#[test]
fn what_is_no_text_is_shown_as_such() {
    let bytes = http(&None, |stream| drop(stream.write_all(b"HTTP/1.1 200 \xff\xfe\r\n\r\n\xff well \x1b[2J\xc3")));
    let cases = vec![
        (http_check(bytes), PATIENCE, Ok("HTTP 200: \u{fffd} well  [2J\u{fffd}")),
        (looks_inside(bytes), PATIENCE, Ok("HTTP 200: \u{fffd} well  [2J\u{fffd}")),
        (looks_at_json(bytes), PATIENCE, Err("HTTP 200, but its body is no JSON: …")),
    ];
    expect(&None, cases);
}

#[test]
fn nothing_is_unpacked() {
    // The beginning of ten gigabytes of zeros.
    let bomb = http(&None, |stream| {
        let head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08\0\0\0\0\0\0\xff\xec\xc1";
        drop(stream.write_all(head));
    });
    let refused = "HTTP 200 OK, but its body is packed (gzip), and probes unpack nothing";
    let cases = vec![
        (looks_inside(bomb), PATIENCE, Err(refused)),
        (looks_at_json(bomb), PATIENCE, Err(refused)),
        (http_check(bomb), PATIENCE, Ok("HTTP 200 OK: …")),
    ];
    expect(&None, cases);
}

#[test]
fn deep_json_does_not_exhaust_the_stack() {
    let deep = http(&None, |stream| {
        let body = "[".repeat(60_000);
        drop(stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n{body}").as_bytes()));
    });
    let expected = "HTTP 200 OK, but its body is no JSON: recursion limit exceeded…";
    expect(&None, vec![(looks_at_json(deep), PATIENCE, Err(expected))]);
}

#[test]
fn an_answer_that_is_cut_off_is_wrong() {
    let short = says(&None, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nall is well");
    let chunk = says(&None, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nall is well");
    let head = says(&None, "HTTP/1.1 200 OK\r\nContent-");
    let cut = "HTTP 200 OK, but the connection was closed within it";
    let cases = [short, chunk, head].map(|address| (looks_inside(address), PATIENCE, Err(cut)));
    expect(&None, cases.into());
}

#[test]
fn lengths_that_lie_are_malformed() {
    let twice = says(&None, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx");
    let giant = says(&None, "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nwell");
    let unclear = "HTTP 200 OK, but the answer does not say how long its body is";
    let cases = [twice, giant].map(|address| (looks_inside(address), PATIENCE, Err(unclear)));
    expect(&None, cases.into());
}

#[test]
fn a_client_that_talks_back_is_not_read() {
    // It sends before it is asked, and never listens.
    let rude = listen(None, |listener| {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept works");
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell");
            kept.push(stream);
        }
    });
    expect(&None, vec![(looks_inside(rude), PATIENCE, Ok("HTTP 200 OK: well"))]);
    // The probe did not wait for the connection's end: it knows the length.
    let mut still = TcpStream::connect(rude).expect("it listens");
    let mut begin = [0; 8];
    still.read_exact(&mut begin).expect("it speaks first");
}
