//! What agent, exec runner and exec child say to each other. All three are the same binary, so it carries no version.
//!
//! A frame is a 4-byte big-endian length of the rest, the 8-byte number of the order, 4 bytes of milliseconds, and a payload:
//! an [`Order`] or a [`Report`] as JSON, which the runner passes on unread.

use std::{path::PathBuf, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{Outcome, Sign, answer};

/// The most bytes of a frame behind its length: argv of a long command.
pub(super) const MAX_FRAME: usize = 128 * 1024;

/// Bytes of a frame's length.
pub(super) const LENGTH: usize = 4;

/// Bytes between the length and the payload.
const HEAD: usize = 12;

/// A runner and a child that keep silent for so long beyond the time limit are given up.
pub(super) const GRACE: Duration = Duration::from_millis(500);

/// A program to run in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    /// The process whose namespaces are joined.
    pub(super) pid: Option<u32>,
    /// The network namespace: of the same process, or all there is.
    pub(super) netns: Option<PathBuf>,
    /// Program and arguments.
    pub(super) argv: Vec<String>,
    /// The program is killed after this.
    pub(super) timeout_ms: u32,
    /// It is left running instead, and nobody waits for it.
    #[serde(default)]
    pub(super) detached: bool,
}

/// What came of an [`Order`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Report {
    /// How it ended.
    pub(super) end: End,
    /// What the program wrote, clean and short.
    pub(super) output: String,
}

/// How an [`Order`] ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum End {
    /// The program ended with this status.
    Exited(i32),
    /// A signal ended the program.
    Killed(String),
    /// Its time was over.
    TimedOut,
    /// The process to join is gone.
    NotRunning,
    /// The namespaces could not be joined, or the program not started, for the reason given.
    Failed(String),
}

impl Report {
    /// In words. `timeout` is what the program had.
    pub(super) fn outcome(self, timeout: Duration) -> Outcome {
        let (sign, what) = match self.end {
            End::Exited(0) if !self.output.is_empty() => return Outcome::pass(self.output),
            End::Exited(0) => (Sign::Right, "exit status 0".to_owned()),
            End::Exited(status) => (Sign::Error, format!("exit status {status}")),
            End::Killed(signal) => (Sign::Wrong, format!("killed by {signal}")),
            End::TimedOut if self.output.is_empty() => (Sign::Silence, answer::no_answer(timeout)),
            End::TimedOut => (Sign::Wrong, answer::no_answer(timeout)),
            End::NotRunning => (Sign::Wrong, answer::NOT_RUNNING.to_owned()),
            End::Failed(why) => (Sign::Wrong, why),
        };
        let answer = if self.output.is_empty() { what } else { format!("{what}: {}", self.output) };
        Outcome { sign, ..Outcome::pass(answer) }
    }
}

/// One frame between agent and runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Of the order, and of its report.
    pub(super) number: u64,
    /// How long the child may take; without a meaning in a report.
    pub(super) limit_ms: u32,
    /// JSON; empty in the report of a child that said nothing.
    pub(super) payload: Bytes,
}

/// A length that is out of bounds: the stream is not to be trusted any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes, not within {HEAD} to {MAX_FRAME}")]
pub(super) struct BadLength(usize);

impl Frame {
    /// As it goes over the socket.
    pub(super) fn encode(&self) -> Result<Bytes, BadLength> {
        let len = HEAD + self.payload.len();
        if len > MAX_FRAME {
            return Err(BadLength(len));
        }
        let mut bytes = BytesMut::with_capacity(LENGTH + len);
        bytes.put_u32(len as u32);
        bytes.put_u64(self.number);
        bytes.put_u32(self.limit_ms);
        bytes.put_slice(&self.payload);
        Ok(bytes.freeze())
    }

    /// Takes the frame at the front of `bytes`; `None` while it is not all there.
    pub(super) fn take(bytes: &mut BytesMut) -> Result<Option<Self>, BadLength> {
        let Some(len) = bytes.first_chunk::<LENGTH>() else { return Ok(None) };
        let len = u32::from_be_bytes(*len) as usize;
        if !(HEAD..=MAX_FRAME).contains(&len) {
            return Err(BadLength(len));
        }
        if bytes.len() < LENGTH + len {
            return Ok(None);
        }
        bytes.advance(LENGTH);
        let mut frame = bytes.split_to(len).freeze();
        Ok(Some(Self { number: frame.get_u64(), limit_ms: frame.get_u32(), payload: frame }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reports_in_words() {
        let words = |end, output: &str| {
            let outcome = Report { end, output: output.into() }.outcome(Duration::from_secs(2));
            (outcome.sign.is_right(), outcome.answer)
        };
        assert_eq!(words(End::Exited(0), ""), (true, "exit status 0".into()));
        assert_eq!(words(End::Exited(0), "fine"), (true, "fine".into()));
        assert_eq!(words(End::Exited(3), "no disk"), (false, "exit status 3: no disk".into()));
        assert_eq!(words(End::Killed("SIGSEGV".into()), ""), (false, "killed by SIGSEGV".into()));
        assert_eq!(words(End::TimedOut, "so far"), (false, "no answer within 2 s: so far".into()));
        assert_eq!(words(End::NotRunning, ""), (false, "the container does not run".into()));
        let sign = |end| Report { end, output: String::new() }.outcome(Duration::from_secs(2)).sign;
        let signs = [Sign::Right, Sign::Error, Sign::Silence, Sign::Wrong];
        assert_eq!([End::Exited(0), End::Exited(3), End::TimedOut, End::NotRunning].map(sign), signs);
    }

    #[test]
    fn lengths_out_of_bounds_are_refused() {
        let take = |len: u32| Frame::take(&mut BytesMut::from(&len.to_be_bytes()[..]));
        assert_eq!(take(HEAD as u32 - 1), Err(BadLength(HEAD - 1)));
        assert_eq!(take(MAX_FRAME as u32 + 1), Err(BadLength(MAX_FRAME + 1)));
        assert_eq!(take(MAX_FRAME as u32), Ok(None));
        let payload = Bytes::from(vec![0; MAX_FRAME - HEAD + 1]);
        assert_eq!(Frame { number: 0, limit_ms: 0, payload }.encode(), Err(BadLength(MAX_FRAME + 1)));
    }

    proptest! {
        #[test]
        fn frames_read_back_however_they_are_cut(
            frames in prop::collection::vec((any::<u64>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..40)), 0..5),
            step in 1_usize..50,
        ) {
            let frames: Vec<_> = frames
                .into_iter()
                .map(|(number, limit_ms, payload)| Frame { number, limit_ms, payload: payload.into() })
                .collect();
            let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.encode().expect("short")).collect();
            let (mut buffer, mut read) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = Frame::take(&mut buffer).expect("our own frames") {
                    read.push(frame);
                }
            }
            prop_assert_eq!(read, frames);
            prop_assert!(buffer.is_empty());
        }
    }
}
