//! Any bytes as an answer by HTTP, in pieces of any length. The first bytes say how long the pieces are.
#![no_main]

// The daemon itself would be built with coverage only for this file, which refers to nothing else of it.
#[path = "../../agentd/src/probe/http/answer.rs"]
#[allow(dead_code, unreachable_pub)]
mod answer;

use answer::{Answer, MAX_BODY, MAX_HEAD, parse_status_line};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [step, rest @ ..] = bytes else { return };
    let _ = parse_status_line(rest);
    let at_once = read(rest, usize::MAX);
    assert_eq!(read(rest, usize::from(*step) + 1), at_once, "it does not matter how an answer is cut");
    // What the fuzzer would take long to find: a head that announces chunks.
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = [&head[..], rest].concat();
    assert_eq!(read(&chunks, usize::from(*step) + 1), read(&chunks, usize::MAX));
});

/// The body, and whether it is whole; `None` for what is no answer.
fn read(bytes: &[u8], step: usize) -> Option<(Vec<u8>, bool)> {
    let mut answer = Answer::to("GET", 0);
    let mut whole = false;
    for piece in bytes.chunks(step) {
        let piece = &piece[..piece.len().min(answer.room())];
        answer.bytes.extend_from_slice(piece);
        whole = answer.advance().ok()?;
        assert!(answer.bytes.len() <= MAX_HEAD + MAX_BODY && answer.body().len() <= answer.bytes.len());
    }
    let _ = (answer.header("location"), answer.has_head(), answer.ends_with_connection());
    Some((answer.body().to_vec(), whole))
}
