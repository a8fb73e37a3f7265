//! A connection on which one mistake of etcd's Go client 3.4 is put right: when it asks one member for itself, as `etcdctl
//! endpoint status` does, it names `http://ADDRESS` as the authority where HTTP/2 has ADDRESS alone (RFC 9113, section
//! 8.3.1). hyper would refuse each such request.
//!
//! Only the first request of a connection is looked at: HPACK's table carries the name to all others. The wrong name is
//! replaced by one of as many characters and bits, so that neither a length nor that table (RFC 7541, section 4.1) changes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Of a frame of HTTP/2: length, type, flags, stream.
const HEAD_BYTES: usize = 9;

/// The type of a frame with a request's headers.
const HEADERS: u8 = 1;

/// Beyond it the first request is left as it is.
const MAX_BYTES: usize = 64 << 10;

/// "A literal with indexing whose name is :authority."
const AUTHORITY: u8 = 0x41;

/// `http://` in HPACK's Huffman code takes 41 bits: five bytes and a bit that is 0.
const HUFFMAN_SCHEME: [u8; 5] = [0x9d, 0x29, 0xae, 0xe3, 0x0c];

/// `httpj--` takes as many, with the same last bit.
const HUFFMAN_INSTEAD: [u8; 5] = [0x9d, 0x29, 0xaf, 0xa2, 0xcb];

const PLAIN_SCHEME: &[u8] = b"http://";
const PLAIN_INSTEAD: &[u8] = b"httpj--";

/// A client's connection.
#[derive(Debug)]
pub(super) struct Corrected<S> {
    stream: S,
    /// Read, and not yet taken.
    read: BytesMut,
    /// How many of these may be taken.
    passed: usize,
    /// None once the first request has been looked at.
    scan: Option<Scan>,
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum Scan {
    /// What says that this is HTTP/2.
    Preface,
    /// A frame, which begins there in what was read.
    Frame(usize),
}

impl<S> Corrected<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, read: BytesMut::new(), passed: 0, scan: Some(Scan::Preface) }
    }

    /// Reads until it is known which HTTP it is.
    pub(super) async fn begin(&mut self) -> io::Result<()>
    where
        S: AsyncRead + Unpin,
    {
        while matches!(self.scan, Some(Scan::Preface)) {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                self.scan = None;
                self.passed = self.read.len();
                return Ok(());
            }
            self.look();
        }
        Ok(())
    }

    /// Looks at what was read and lets pass what needs no more looking at.
    fn look(&mut self) {
        self.scan = self.scan.and_then(|scan| scan.advance(&mut self.read));
        self.passed = match self.scan {
            None => self.read.len(),
            Some(Scan::Preface) => 0,
            Some(Scan::Frame(at)) => at.min(self.read.len()),
        };
    }
}

impl Scan {
    /// None when there is nothing more to look for.
    fn advance(self, read: &mut [u8]) -> Option<Self> {
        let mut at = match self {
            Self::Frame(at) => at,
            Self::Preface => {
                let length = read.len().min(PREFACE.len());
                if read[..length] != PREFACE[..length] {
                    return None;
                }
                if length < PREFACE.len() {
                    return Some(self);
                }
                PREFACE.len()
            }
        };
        while let Some(head) = read.get(at..at + HEAD_BYTES) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (is_request, end) = (head[3] == HEADERS, at + HEAD_BYTES + length);
            if length > MAX_BYTES {
                return None;
            }
            if read.len() < end {
                break;
            }
            if is_request {
                correct(&mut read[at + HEAD_BYTES..end]);
                return None;
            }
            at = end;
        }
        Some(Self::Frame(at))
    }
}

/// Replaces the scheme before an authority.
fn correct(block: &mut [u8]) {
    let starts = |window: &[u8]| window[0] == AUTHORITY && is_scheme(&window[1..]);
    let Some(at) = block.windows(2 + PLAIN_SCHEME.len()).position(starts) else { return };
    let value = &mut block[at + 2..];
    if value.starts_with(PLAIN_SCHEME) {
        value[..PLAIN_SCHEME.len()].copy_from_slice(PLAIN_INSTEAD);
    } else {
        value[..HUFFMAN_SCHEME.len()].copy_from_slice(&HUFFMAN_INSTEAD);
    }
}

/// Whether a value, with its length before it, begins with a scheme.
fn is_scheme(value: &[u8]) -> bool {
    let is_huffman = value[0] & 0x80 != 0;
    let (length, text) = (value[0] & 0x7f, &value[1..]);
    if is_huffman {
        usize::from(length) > HUFFMAN_SCHEME.len() && text.starts_with(&HUFFMAN_SCHEME) && text[5] & 0x80 == 0
    } else {
        usize::from(length) > PLAIN_SCHEME.len() && text.starts_with(PLAIN_SCHEME)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Corrected<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.passed == 0 && this.scan.is_some() {
            let mut chunk = [0; 4096];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut chunk))?;
            if chunk.filled().is_empty() {
                // It has ended in the middle of something.
                this.scan = None;
                this.passed = this.read.len();
                break;
            }
            this.read.extend_from_slice(chunk.filled());
            this.look();
        }
        if this.passed == 0 {
            return Pin::new(&mut this.stream).poll_read(context, into);
        }
        let taken = this.passed.min(into.remaining());
        into.put_slice(&this.read[..taken]);
        this.read.advance(taken);
        this.passed -= taken;
        if let Some(Scan::Frame(at)) = &mut this.scan {
            *at -= taken;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corrected<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Empty settings, then a request with `value` for its authority.
    fn connection(value: &[u8]) -> Vec<u8> {
        let block = [b"\x83\x86\x41".as_slice(), value, b"\x5f"].concat();
        let length = u8::try_from(block.len()).unwrap();
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let head = [0, 0, length, HEADERS, 4, 0, 0, 0, 1];
        [PREFACE, &settings, &head, &block, b"what follows"].concat()
    }

    async fn through(sent: &[u8], cut: usize) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let (first, second) = sent.split_at(cut);
        let (first, second) = (first.to_vec(), second.to_vec());
        let writer = tokio::spawn(async move {
            client.write_all(&first).await.unwrap();
            tokio::task::yield_now().await;
            client.write_all(&second).await.unwrap();
        });
        let mut read = Vec::new();
        let mut server = Corrected::new(server);
        // It changes nothing.
        server.begin().await.unwrap();
        server.read_to_end(&mut read).await.unwrap();
        writer.await.unwrap();
        read
    }

    #[tokio::test]
    async fn a_scheme_before_an_authority_is_replaced_wherever_the_bytes_are_cut() {
        let plain = (connection(b"\x0ahttp://a:1"), connection(b"\x0ahttpj--a:1"));
        let huffman = [0x9d, 0x29, 0xae, 0xe3, 0x0c, 0x18, 0xff];
        let instead = [0x9d, 0x29, 0xaf, 0xa2, 0xcb, 0x18, 0xff];
        let coded = |text: [u8; 7]| connection(&[&[0x87], text.as_slice()].concat());
        for (sent, expected) in [plain, (coded(huffman), coded(instead))] {
            for cut in 0..=sent.len() {
                assert_eq!(through(&sent, cut).await, expected, "{cut}");
            }
        }
    }

    #[tokio::test]
    async fn all_else_passes_as_it_is() {
        let http1 = b"POST /v3/kv/put HTTP/1.1\r\nHost: http://a\r\n\r\n".to_vec();
        for sent in [http1, connection(b"\x03a:1"), PREFACE[..7].to_vec(), Vec::new()] {
            for cut in 0..=sent.len() {
                assert_eq!(through(&sent, cut).await, sent, "{cut}");
            }
        }
    }
}
