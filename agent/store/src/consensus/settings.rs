//! What can be set.

use std::time::Duration;

/// Settings of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This member. Not 0, and never used before by another disk.
    pub id: u64,
    /// Between two signs of life of a leader. Default 100 ms.
    pub heartbeat: Duration,
    /// After this time without one, up to twice of it, a follower asks for votes; a leader that hears from no majority for
    /// so long steps down. At least twice the heartbeat. Default 1 s.
    pub election: Duration,
    /// Bytes of entries in one message. Default 1 MiB.
    pub max_message_bytes: u64,
    /// Messages with entries to one peer that it has not answered. Default 256.
    pub max_inflight: usize,
    /// Bytes of proposals that are not committed. Default 16 MiB.
    pub max_uncommitted_bytes: u64,
    /// Bytes of one proposal. Default 2 MiB.
    pub max_entry_bytes: usize,
    /// Bytes of applied entries that are kept in memory for peers that lag. Default 4 MiB.
    pub retain_bytes: u64,
    /// Bytes of entries in memory above which a follower takes no more until its disk or its checkpoint has caught up, unless
    /// most of them are not agreed upon yet.
    /// Default 64 MiB.
    pub max_log_bytes: u64,
}

impl Settings {
    /// The defaults, for this member.
    #[must_use]
    pub fn new(id: u64) -> Self {
        Self {
            id,
            heartbeat: Duration::from_millis(100),
            election: Duration::from_secs(1),
            max_message_bytes: 1 << 20,
            max_inflight: 256,
            max_uncommitted_bytes: 16 << 20,
            max_entry_bytes: 2 << 20,
            retain_bytes: 4 << 20,
            max_log_bytes: 64 << 20,
        }
    }
}
