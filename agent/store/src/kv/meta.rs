//! What a checkpoint holds beside the keys and leases.

use bytes::Bytes;

use super::Applied;

/// One row of the database, so that it is of one moment.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Meta {
    #[prost(int64, tag = "1")]
    pub(super) revision: i64,
    #[prost(int64, tag = "2")]
    pub(super) compacted: i64,
    #[prost(uint64, tag = "3")]
    pub(super) index: u64,
    #[prost(uint64, tag = "4")]
    pub(super) term: u64,
    #[prost(bytes = "bytes", tag = "5")]
    pub(super) conf: Bytes,
    #[prost(message, repeated, tag = "6")]
    pub(super) alarms: Vec<Alarm>,
}

/// An alarm that is on.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Alarm {
    #[prost(uint64, tag = "1")]
    pub(super) member: u64,
    #[prost(int32, tag = "2")]
    pub(super) kind: i32,
}

impl Meta {
    /// Of a store in which nothing was ever written.
    pub(super) fn empty() -> Self {
        Self { revision: 1, compacted: -1, ..Self::default() }
    }

    pub(super) fn applied(&self) -> Applied {
        Applied { index: self.index, term: self.term, conf: self.conf.clone() }
    }
}
