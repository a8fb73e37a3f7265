//! Limits of the store.

/// Limits of the store.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Beyond how many bytes in use (not of file) puts are refused. Default 2 GiB.
    pub quota_bytes: u64,
    /// Of redb's cache of pages. Default 4 MiB.
    pub cache_bytes: usize,
    /// Compares, or operations of a branch, of one transaction. Default 128, as etcd's.
    pub max_txn_ops: usize,
    /// Of one command's encoding. Default 1.5 MiB, as etcd's.
    pub max_request_bytes: usize,
    /// Of all streams. Default a million: some hundred megabytes.
    pub watches_max: usize,
    /// Of what waits in one stream of watches; a watch whose events find no room reads them later from history.
    /// Default 1 MiB.
    pub stream_bytes: usize,
    /// Of what must not be guessed by clients: how the tree of their watches is shaped. Drawn anew at each start, and known
    /// to nobody; the default, 0, is for tests.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            quota_bytes: 2 << 30,
            cache_bytes: 4 << 20,
            max_txn_ops: 128,
            max_request_bytes: 3 << 19,
            watches_max: 1_000_000,
            stream_bytes: 1 << 20,
            seed: 0,
        }
    }
}
