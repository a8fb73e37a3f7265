//! An answer by HTTP/1.1 (RFC 9112), as its bytes come in: status line, head, body.
//!
//! The lines are `httparse`'s to read; this file knows where one ends and the next begins, and how much is too much. Nothing
//! is unpacked: the body is what came, without its chunks. It is compiled into the fuzz target, too, and so refers to nothing
//! else of this crate.

#[cfg(test)]
#[path = "answer/tests.rs"]
mod tests;

use httparse::{EMPTY_HEADER, ParserConfig, Response};

/// The most bytes of a status line; servers send some twenty.
pub const MAX_STATUS_LINE: usize = 1024;

/// The most bytes up to the empty line.
pub const MAX_HEAD: usize = 8 * 1024;

/// The most bytes of a body that are read, chunks included.
pub const MAX_BODY: usize = 64 * 1024;

/// The most lines of a head.
const MAX_HEADERS: usize = 64;

/// The most bytes of the line before a chunk: some hold remarks, which nobody reads.
const MAX_CHUNK_LINE: usize = 256;

/// The first line of an answer (RFC 9112 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusLine<'a> {
    /// 100 to 599.
    pub status: u16,
    /// For people; empty if it is not of ASCII.
    pub reason: &'a str,
}

/// Why an answer cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// It does not begin with a status line of HTTP/1.
    #[error("the answer is not HTTP/1.1")]
    NotHttp,
    /// [`MAX_HEAD`].
    #[error("the head of the answer is longer than {MAX_HEAD} bytes")]
    LongHead,
    /// A line that cannot be one, or more than [`MAX_HEADERS`].
    #[error("the head of the answer is malformed, or has more than {MAX_HEADERS} lines")]
    BadHead,
    /// A length that is no number, or two that differ.
    #[error("the answer does not say how long its body is")]
    BadLength,
    /// The chunks do not fit together.
    #[error("the chunks of the body are malformed")]
    BadChunks,
}

/// The status line at the beginning of `bytes`; `None` when more bytes are needed to tell.
pub fn parse_status_line(bytes: &[u8]) -> Result<Option<StatusLine<'_>>, BadAnswer> {
    const VERSION: &[u8] = b"HTTP/1.";
    let known = bytes.len().min(VERSION.len());
    if bytes[..known] != VERSION[..known] {
        return Err(BadAnswer::NotHttp);
    }
    let window = &bytes[..bytes.len().min(MAX_STATUS_LINE)];
    let Some(end) = window.iter().position(|b| *b == b'\n') else {
        return if bytes.len() < MAX_STATUS_LINE { Ok(None) } else { Err(BadAnswer::NotHttp) };
    };
    let mut response = Response::new(&mut []);
    // Partial, since there is no head: but the line has been read by then.
    response.parse(&window[..=end]).map_err(|_| BadAnswer::NotHttp)?;
    match (response.code, response.reason) {
        (Some(status @ 100..600), Some(reason)) => Ok(Some(StatusLine { status, reason })),
        (Some(_) | None, _) => Err(BadAnswer::NotHttp),
    }
}

/// How the end of a body is known (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// An answer that is being read. Bytes are appended to `bytes` and looked at by [`Self::advance`].
#[derive(Debug, Default)]
pub struct Answer {
    /// All that has come.
    pub bytes: Vec<u8>,
    /// No request for a body was made (HEAD).
    bodiless: bool,
    scanned: usize,
    head: Option<(usize, Framing)>,
    chunks: Chunks,
}

impl Answer {
    /// To a request of this method.
    pub fn to(method: &str, capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity), bodiless: method == "HEAD", ..Self::default() }
    }

    /// Looks at what has come since the last time. True when the answer is whole; without a length or chunks it is when the
    /// connection ends, which only the caller knows.
    pub fn advance(&mut self) -> Result<bool, BadAnswer> {
        if self.head.is_none() {
            self.seek_head()?;
        }
        let Some((start, framing)) = self.head else { return Ok(false) };
        match framing {
            Framing::Length(length) => Ok((self.bytes.len() - start) as u64 >= length),
            Framing::Chunked => self.chunks.advance(&self.bytes[start..]),
            Framing::UntilClose => Ok(false),
        }
    }

    /// Whether the empty line has come.
    pub fn has_head(&self) -> bool {
        self.head.is_some()
    }

    /// Whether the end of the connection is the end of the body, and no sign that it was cut off.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self.head, Some((_, Framing::UntilClose)))
    }

    /// How many more bytes may be read: of the head, or of the body.
    pub fn room(&self) -> usize {
        let most = self.head.map_or(MAX_HEAD, |(start, _)| start + MAX_BODY);
        most.saturating_sub(self.bytes.len())
    }

    /// The body as far as it has come.
    pub fn body(&self) -> &[u8] {
        match self.head {
            Some((_, Framing::Chunked)) => &self.chunks.data,
            Some((start, Framing::Length(length))) => {
                let body = &self.bytes[start..];
                &body[..body.len().min(usize::try_from(length).unwrap_or(usize::MAX))]
            }
            Some((start, Framing::UntilClose)) => &self.bytes[start..],
            None => &[],
        }
    }

    /// The value of the first header of this name, whatever its case; `None` before the whole head has come, too.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let (end, _) = self.head?;
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut response = Response::new(&mut headers);
        lenient().parse_response(&mut response, &self.bytes[..end]).ok()?;
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(found.value)
    }

    fn seek_head(&mut self) -> Result<(), BadAnswer> {
        // The two bytes before may be part of the empty line.
        let from = self.scanned.saturating_sub(2);
        self.scanned = self.bytes.len();
        let Some(end) = empty_line(&self.bytes, from) else {
            return if self.bytes.len() < MAX_HEAD { Ok(()) } else { Err(BadAnswer::LongHead) };
        };
        if end > MAX_HEAD {
            return Err(BadAnswer::LongHead);
        }
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut response = Response::new(&mut headers);
        lenient().parse_response(&mut response, &self.bytes[..end]).map_err(|_| BadAnswer::BadHead)?;
        let no_body = self.bodiless || matches!(response.code, Some(100..200 | 204 | 304));
        let framing = if no_body { Framing::Length(0) } else { framing(response.headers)? };
        self.head = Some((end, framing));
        Ok(())
    }
}

/// A line that is no header is left out: it is no probe's business.
fn lenient() -> ParserConfig {
    let mut config = ParserConfig::default();
    config.ignore_invalid_headers_in_responses(true);
    config
}

/// Behind the first empty line at or after `from`.
fn empty_line(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += bytes[at..].iter().position(|b| *b == b'\n')? + 1;
        match &bytes[at..] {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            [..] => {}
        }
    }
}

fn framing(headers: &[httparse::Header<'_>]) -> Result<Framing, BadAnswer> {
    let mut length = None;
    for header in headers {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            let chunked = header.value.trim_ascii().to_ascii_lowercase().ends_with(b"chunked");
            return Ok(if chunked { Framing::Chunked } else { Framing::UntilClose });
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            let digits = header.value.trim_ascii();
            let digits = str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
            let said = digits.and_then(|digits| digits.parse().ok()).ok_or(BadAnswer::BadLength)?;
            if length.is_some_and(|length| length != said) {
                return Err(BadAnswer::BadLength);
            }
            length = Some(said);
        }
    }
    Ok(length.map_or(Framing::UntilClose, Framing::Length))
}

/// A body in chunks (RFC 9112 §7.1), put together as they come.
#[derive(Debug, Default)]
struct Chunks {
    data: Vec<u8>,
    /// How far the raw body has been looked at.
    at: usize,
    /// Bytes of the present chunk that are still to come.
    left: u64,
    /// A chunk has been begun: a line end stands before the next one.
    begun: bool,
    done: bool,
}

impl Chunks {
    /// True when the last chunk has come. What follows it is not looked at.
    fn advance(&mut self, raw: &[u8]) -> Result<bool, BadAnswer> {
        while !self.done {
            let rest = &raw[self.at..];
            if self.left > 0 {
                let take = rest.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.data.extend_from_slice(&rest[..take]);
                (self.at, self.left) = (self.at + take, self.left - take as u64);
                if self.left > 0 {
                    return Ok(false);
                }
                continue;
            }
            let line = match (self.begun, rest) {
                (false, line) | (true, [b'\r', b'\n', line @ ..]) => line,
                (true, [] | [b'\r']) => return Ok(false),
                (true, [..]) => return Err(BadAnswer::BadChunks),
            };
            match httparse::parse_chunk_size(&line[..line.len().min(MAX_CHUNK_LINE)]) {
                Ok(httparse::Status::Complete((length, size))) => {
                    self.at = raw.len() - line.len() + length;
                    (self.left, self.begun, self.done) = (size, true, size == 0);
                }
                Ok(httparse::Status::Partial) if line.len() < MAX_CHUNK_LINE => return Ok(false),
                Ok(httparse::Status::Partial) | Err(_) => return Err(BadAnswer::BadChunks),
            }
        }
        Ok(true)
    }
}
