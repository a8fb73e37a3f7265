//! How much a delegate may send over all its trunks, by class of traffic: a token bucket each (RFC 2697's committed rate and
//! burst), a queue for what must wait, and an end to the waiting.

use std::{collections::VecDeque, time::Duration};

use ringmesh_proto::{Instant, member::Member};

use crate::node::Frame;

/// What may be sent at once after a pause: that of so long.
const BURST: Duration = Duration::from_secs(1);

/// What has waited for so long is dropped: newer news is on its way, and a vector fetches what is missing.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Bytes that wait in one class; beyond them the oldest is dropped.
const MAX_QUEUED: usize = 256 * 1024;

/// Bytes per second over all trunks of a delegate, by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// Events.
    pub events: u32,
    /// Zone records.
    pub digests: u32,
    /// Vectors, and what others lack by theirs.
    pub syncs: u32,
}

impl Default for Budgets {
    fn default() -> Self {
        Self { events: 64 * 1024, digests: 32 * 1024, syncs: 32 * 1024 }
    }
}

/// One class.
pub struct Bucket {
    rate: u32,
    /// When it is empty of debt.
    free_at: Instant,
    queue: VecDeque<(Instant, Member, Frame)>,
    queued: usize,
    dropped: u64,
}

impl Bucket {
    /// At least one byte per second.
    pub fn new(bytes_per_second: u32) -> Self {
        Self { rate: bytes_per_second.max(1), free_at: Instant::ZERO, queue: VecDeque::new(), queued: 0, dropped: 0 }
    }

    /// Adds a frame to what is to be sent.
    pub fn push(&mut self, now: Instant, to: Member, frame: Frame) {
        self.queued += frame.encoded_len();
        self.queue.push_back((now, to, frame));
        while self.queued > MAX_QUEUED {
            self.drop_oldest();
        }
    }

    /// What may be sent now. A frame that is larger than what is left puts the bucket into debt.
    pub fn pop(&mut self, now: Instant) -> Option<(Member, Frame)> {
        while self.queue.front().is_some_and(|(at, ..)| now.since(*at) > MAX_WAIT) {
            self.drop_oldest();
        }
        self.free_at = self.free_at.max(now - BURST);
        if self.free_at > now {
            return None;
        }
        let (_, to, frame) = self.queue.pop_front()?;
        let len = frame.encoded_len();
        self.queued -= len;
        self.free_at += Duration::from_nanos(len as u64 * 1_000_000_000 / u64::from(self.rate));
        Some((to, frame))
    }

    /// When [`Self::pop`] next has something.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.queue.is_empty()).then_some(self.free_at)
    }

    /// Frames that were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Forgets what waits: there is nobody to send it to.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.queued = 0;
    }

    fn drop_oldest(&mut self) {
        if let Some((_, _, frame)) = self.queue.pop_front() {
            self.queued -= frame.encoded_len();
            self.dropped += 1;
        }
    }
}
