//! Why the store does not do what it is asked to.

/// gRPC's codes, as far as the store answers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// The request is wrong whatever the store holds.
    InvalidArgument = 3,
    /// A lease, or an alarm's member, is not there.
    NotFound = 5,
    /// A quota or a limit.
    ResourceExhausted = 8,
    /// The request does not fit what the store holds.
    FailedPrecondition = 9,
    /// A revision that is compacted or yet to come; a TTL beyond the largest.
    OutOfRange = 11,
    /// Disk.
    Internal = 13,
    /// Replicas differ.
    DataLoss = 15,
}

/// Why a request is refused: its text is etcd's, by which etcd's clients know it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A request without a key.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    /// A put that keeps the value, and has one.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// A put that keeps the lease, and has one.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// A put that keeps the value or lease of a key that is not there.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// A transaction beyond [`Settings::max_txn_ops`](super::Settings::max_txn_ops).
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    /// A transaction that writes a key twice.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// A range in an order, or by a target, that there is not.
    #[error("etcdserver: invalid sort option")]
    InvalidSortOption,
    /// A command beyond [`Settings::max_request_bytes`](super::Settings::max_request_bytes).
    #[error("etcdserver: request is too large")]
    RequestTooLarge,
    /// A revision below the compacted one.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// A revision beyond the newest.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    /// The disk does not keep up with what is written.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// Beyond the quota, or the alarm about it is on.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// The alarm that replicas differ is on.
    #[error("etcdserver: corrupt cluster")]
    Corrupt,
    /// A lease that is not there.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// A grant of an id that is taken.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// A TTL beyond [`TTL_MAX_S`](super::lease::TTL_MAX_S).
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// The disk under the store, or a command in the log that only newer versions know. Nothing is applied any more; open the store anew, or restore it from a snapshot.
    #[error("etcdserver: storage of keys failed: {0}")]
    Storage(String),
}

impl Refusal {
    /// Under which code a client is told.
    pub fn code(&self) -> Code {
        match self {
            Self::EmptyKey
            | Self::ValueProvided
            | Self::LeaseProvided
            | Self::KeyNotFound
            | Self::TooManyOps
            | Self::DuplicateKey
            | Self::InvalidSortOption
            | Self::RequestTooLarge => Code::InvalidArgument,
            Self::Compacted | Self::FutureRevision | Self::LeaseTtlTooLarge => Code::OutOfRange,
            Self::NoSpace | Self::TooManyRequests => Code::ResourceExhausted,
            Self::Corrupt => Code::DataLoss,
            Self::LeaseNotFound => Code::NotFound,
            Self::LeaseExists => Code::FailedPrecondition,
            Self::Storage(_) => Code::Internal,
        }
    }
}

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It was written by a newer ringmesh.
    #[error("the keys are in format {found}, and this ringmesh reads formats up to {known}: install a newer one")]
    Format {
        /// In the store.
        found: u32,
        /// The newest that is understood.
        known: u32,
    },
    /// What it holds contradicts itself.
    #[error("the keys are damaged: {what}; remove them and restore a snapshot, or let the other members send theirs")]
    Damaged {
        /// Where, and how.
        what: String,
    },
    /// The disk, or redb.
    #[error("cannot open the keys")]
    Platform(#[source] redb::Error),
}

impl OpenError {
    /// What redb says: damage that it finds is not the disk's fault now.
    pub(super) fn of(error: impl Into<redb::Error>) -> Self {
        let error = error.into();
        if let redb::Error::Corrupted(what) = error { Self::Damaged { what } } else { Self::Platform(error) }
    }
}

/// Why a checkpoint was not written. The store must be opened anew: what it holds in memory is not lost, the log has it.
#[derive(Debug, thiserror::Error)]
#[error("cannot write a checkpoint of the keys")]
pub struct CheckpointError(#[source] pub redb::Error);

/// Why a snapshot is not restored. What was being written is of no use.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// These bytes are no snapshot, or a part of one is missing or changed.
    #[error("the snapshot is damaged at byte {at}: {what}; take it anew")]
    Damaged {
        /// Offset in the stream.
        at: u64,
        /// How.
        what: &'static str,
    },
    /// It was taken by a newer ringmesh.
    #[error("the snapshot is in format {found}, and this ringmesh reads formats up to {known}: install a newer one")]
    Format {
        /// Of the snapshot.
        found: u32,
        /// The newest that is understood.
        known: u32,
    },
    /// A snapshot is restored into nothing else.
    #[error("there are keys already where the snapshot is to be restored: remove them first")]
    NotEmpty,
    /// What it restored does not open.
    #[error("what the snapshot holds is no store")]
    Open(#[source] OpenError),
    /// The disk, or redb.
    #[error("cannot write what the snapshot holds")]
    Platform(#[source] redb::Error),
}
