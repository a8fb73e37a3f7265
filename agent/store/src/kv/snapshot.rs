//! The whole store as a stream of bytes.
//!
//! ```text
//!   chunk:  length 4 | payload | CRC-32 of all payloads so far 4                  at most 64 KiB, little-endian
//!   all payloads, one after the other:
//!     head    "ringmesh" | format 4 | cluster 8 | length 4 | meta
//!     record  1 | revision 12 | length 4 | record                                  in the order of revisions
//!     lease   2 | id 8 | TTL 8
//!     end     0 | count of records and leases 8
//! ```
//!
//! A chunk that is lost, changed, doubled or in another's place shows in the next CRC, and a stream that ends early has
//! no end.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use crc32fast::Hasher;
use prost::Message;

use super::{
    Applied, CheckpointError, Kv,
    disk::View,
    revision::{REVISION_BYTES, Revision},
};

/// What a snapshot begins with.
pub(super) const MAGIC: &[u8; 8] = b"ringmesh";

/// The format that is written.
pub(super) const FORMAT: u32 = 1;

/// Of [`MAGIC`], format, cluster and the length of meta.
pub(super) const HEAD_BYTES: usize = 24;

/// Before and after the payload of a chunk.
pub(super) const FRAME_BYTES: usize = 8;

/// The most bytes of a chunk's payload.
pub(super) const PAYLOAD_BYTES: usize = (64 << 10) - FRAME_BYTES;

/// What follows in the payload.
pub(super) const END: u8 = 0;
pub(super) const RECORD: u8 = 1;
pub(super) const LEASE: u8 = 2;

/// Of [`RECORD`], with revision and length.
pub(super) const RECORD_HEAD_BYTES: usize = 1 + REVISION_BYTES + 4;

/// Of [`LEASE`], with id and TTL; of [`END`], with its count.
pub(super) const LEASE_BYTES: usize = 17;
pub(super) const END_BYTES: usize = 9;

/// The state at a checkpoint, to be sent: an iterator of chunks, on any thread.
pub struct Snapshot {
    applied: Applied,
    revision: i64,
    cluster: u64,
    view: Arc<View>,
    rows: Rows,
    count: u64,
    /// Payload that has not been given out.
    payload: BytesMut,
    hasher: Hasher,
    remaining_bytes: u64,
}

/// What is still to be read.
enum Rows {
    Head,
    Records(Box<dyn Iterator<Item = Result<(Revision, Bytes), redb::Error>> + Send>),
    Leases(Box<dyn Iterator<Item = Result<(i64, i64), redb::Error>> + Send>),
    None,
}

impl Kv {
    /// The state at the last checkpoint, unchanged by what comes after.
    pub fn snapshot(&self) -> Snapshot {
        let view = Arc::clone(self.records.view());
        Snapshot {
            applied: view.meta.applied(),
            revision: view.meta.revision,
            cluster: 0,
            view,
            rows: Rows::Head,
            count: 0,
            payload: BytesMut::new(),
            hasher: Hasher::new(),
            remaining_bytes: self.size_in_use(),
        }
    }
}

impl Snapshot {
    /// Says in it which cluster it is of.
    #[must_use]
    pub fn of_cluster(self, cluster: u64) -> Self {
        Self { cluster, ..self }
    }

    /// How far the log had been applied.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// The newest revision in it.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// About how many bytes are still to come.
    pub fn remaining_bytes(&self) -> u64 {
        self.remaining_bytes
    }

    /// Adds a row to the payload. Returns whether there was one.
    fn read(&mut self) -> Result<bool, redb::Error> {
        match &mut self.rows {
            Rows::Head => {
                self.put_head();
                let all = (Revision::first_of(0), Revision::first_of(i64::MAX));
                self.rows = Rows::Records(Box::new(self.view.records(all.0, all.1)?));
            }
            Rows::Records(records) => match records.next().transpose()? {
                Some((at, record)) => self.put_record(at, &record),
                None => self.rows = Rows::Leases(Box::new(self.view.leases()?)),
            },
            Rows::Leases(leases) => match leases.next().transpose()? {
                Some((lease, ttl_s)) => self.put_lease(lease, ttl_s),
                None => {
                    self.payload.put_u8(END);
                    self.payload.put_u64_le(self.count);
                    self.rows = Rows::None;
                }
            },
            Rows::None => return Ok(false),
        }
        Ok(true)
    }

    fn put_head(&mut self) {
        let meta = self.view.meta.encode_to_vec();
        self.payload.put_slice(MAGIC);
        self.payload.put_u32_le(FORMAT);
        self.payload.put_u64_le(self.cluster);
        self.payload.put_u32_le(meta.len() as u32);
        self.payload.put_slice(&meta);
    }

    fn put_record(&mut self, at: Revision, record: &[u8]) {
        self.payload.put_u8(RECORD);
        self.payload.put_slice(&at.to_bytes());
        self.payload.put_u32_le(record.len() as u32);
        self.payload.put_slice(record);
        self.count += 1;
    }

    fn put_lease(&mut self, lease: i64, ttl_s: i64) {
        self.payload.put_u8(LEASE);
        self.payload.put_i64_le(lease);
        self.payload.put_i64_le(ttl_s);
        self.count += 1;
    }

    fn chunk(&mut self) -> Bytes {
        let payload = self.payload.split_to(self.payload.len().min(PAYLOAD_BYTES));
        self.hasher.update(&payload);
        self.remaining_bytes = self.remaining_bytes.saturating_sub(payload.len() as u64);
        let mut chunk = BytesMut::with_capacity(payload.len() + FRAME_BYTES);
        chunk.put_u32_le(payload.len() as u32);
        chunk.put_slice(&payload);
        chunk.put_u32_le(self.hasher.clone().finalize());
        chunk.freeze()
    }
}

impl Iterator for Snapshot {
    type Item = Result<Bytes, CheckpointError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.payload.len() < PAYLOAD_BYTES {
            match self.read() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    // Without an end it cannot be taken for whole.
                    self.rows = Rows::None;
                    self.payload.clear();
                    return Some(Err(CheckpointError(error)));
                }
            }
        }
        if self.payload.is_empty() {
            self.remaining_bytes = 0;
            return None;
        }
        Some(Ok(self.chunk()))
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("applied", &self.applied)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}
