use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Option<(u16, &str)>, BadAnswer> {
    Ok(parse_status_line(text.as_bytes())?.map(|line| (line.status, line.reason)))
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
        "HTTP/1.1 200 \0\n",
        "HTTP/1.1\n",
        "HTTP/1.\n",
        "\n",
        "\r\n",
        "\0",
    ];
    for bad in bad {
        assert_eq!(parse(bad), Err(BadAnswer::NotHttp), "{bad}");
    }
    let giant = "HTTP/1.1 200 ".to_owned() + &"x".repeat(MAX_STATUS_LINE);
    assert_eq!(parse(&giant), Err(BadAnswer::NotHttp));
    assert_eq!(parse(&(giant + "\r\n")), Err(BadAnswer::NotHttp));
}

/// What came of reading `bytes` in pieces of `step`: the body, and whether it is whole.
fn read(bytes: &[u8], step: usize) -> Result<(Vec<u8>, bool), BadAnswer> {
    let mut answer = Answer::to("GET", 0);
    let mut whole = false;
    for piece in bytes.chunks(step) {
        let piece = &piece[..piece.len().min(answer.room())];
        answer.bytes.extend_from_slice(piece);
        whole = answer.advance()?;
    }
    Ok((answer.body().to_vec(), whole))
}

#[test]
fn bodies_end_where_the_head_says() {
    type Expected = Result<(&'static str, bool), BadAnswer>;
    let cases: [(&str, Expected); 14] = [
        ("Content-Length: 4\r\n\r\nbody", Ok(("body", true))),
        ("Content-Length: 4\r\n\r\nbody and more", Ok(("body", true))),
        ("Content-Length: 5\r\n\r\nbody", Ok(("body", false))),
        ("content-length: 4\r\nContent-Length:4\r\n\r\nbody", Ok(("body", true))),
        ("Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody", Err(BadAnswer::BadLength)),
        ("Content-Length: +4\r\n\r\nbody", Err(BadAnswer::BadLength)),
        ("\r\nto the end", Ok(("to the end", false))),
        ("a line that is none\r\n\r\nbody", Ok(("body", false))),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2;x=y\r\ndy\r\n0\r\n\r\n", Ok(("body", true))),
        ("Transfer-Encoding: gzip, Chunked\r\n\r\n4\r\nbody\r\n0\r\nA: b\r\n\r\n", Ok(("body", true))),
        ("Transfer-Encoding: chunked\r\n\r\n9\r\nbody", Ok(("body", false))),
        ("Transfer-Encoding: chunked\r\n\r\n4\r\nbody!", Err(BadAnswer::BadChunks)),
        ("Transfer-Encoding: chunked\r\n\r\nx\r\n", Err(BadAnswer::BadChunks)),
        ("Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", Err(BadAnswer::BadChunks)),
    ];
    for (rest, expected) in cases {
        let text = format!("HTTP/1.1 200 OK\r\n{rest}");
        let expected = expected.map(|(body, whole)| (body.as_bytes().to_vec(), whole));
        for step in [1, 2, 7, 1000] {
            assert_eq!(read(text.as_bytes(), step), expected, "{rest} in pieces of {step}");
        }
    }
}

#[test]
fn some_answers_have_no_body() {
    for status in ["204 No Content", "304 Not Modified", "101 Switching Protocols"] {
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\nbody");
        assert_eq!(read(text.as_bytes(), 1000), Ok((Vec::new(), true)), "{status}");
    }
    let mut answer = Answer::to("HEAD", 0);
    answer.bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(answer.advance(), Ok(true));
}

#[test]
fn heads_have_bounds() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(MAX_HEAD));
    assert_eq!(read(long.as_bytes(), 1000), Err(BadAnswer::LongHead));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS + 1));
    assert_eq!(read(many.as_bytes(), 1000), Err(BadAnswer::BadHead));
    let remark = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;{}", "x".repeat(MAX_CHUNK_LINE));
    assert_eq!(read(remark.as_bytes(), 1), Err(BadAnswer::BadChunks));
}

#[test]
fn headers_are_found_whatever_their_case() {
    let mut answer = Answer::to("GET", 0);
    answer.bytes.extend_from_slice(b"HTTP/1.1 302 Found\r\nbad line\r\nLOCATION:  /there \r\nlocation: /twice\r\n\r\n");
    assert_eq!(answer.header("location"), None, "before it was looked at");
    answer.advance().expect("a head");
    assert_eq!(answer.header("location"), Some(&b"/there"[..]));
    assert_eq!(answer.header("server"), None);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000), step in 1_usize..50) {
        let _ = parse_status_line(&bytes);
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = read(&bytes, step);
        let _ = read(&[&head[..], &bytes].concat(), step);
    }

    #[test]
    fn chunks_are_put_together_however_they_are_cut(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..5),
        step in 1_usize..50,
    ) {
        let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for part in &parts {
            bytes.extend(format!("{:x}\r\n", part.len()).bytes());
            bytes.extend_from_slice(part);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        prop_assert_eq!(read(&bytes, step), Ok((parts.concat(), true)));
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
        prop_assert_eq!(parsed, Ok(Some(StatusLine { status, reason: &reason })));
        for cut in 0..line.len() {
            prop_assert_eq!(parse_status_line(&line.as_bytes()[..cut]), Ok(None));
        }
    }
}
