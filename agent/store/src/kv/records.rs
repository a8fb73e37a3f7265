//! The versions of all keys with their values: those that wait for a checkpoint, those being written, and those on disk.
//!
//! ```text
//!   insert ──► pending ──(a checkpoint begins)──► batch ──(it ends)──► view
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use ringmesh_proto::etcd::mvccpb::KeyValue;

use super::{
    Refusal,
    disk::{Changes, Disk, View, Writer},
    meta::Meta,
    record,
    revision::Revision,
};

/// Pending bytes at which a checkpoint is due.
const PENDING_BYTES: u64 = 4 << 20;

/// Pending bytes beyond which nothing more should be applied before a checkpoint has been written: only where the disk does
/// not keep up.
const PENDING_BYTES_MAX: u64 = 8 * PENDING_BYTES;

/// Bytes of commands at which a checkpoint is due, even if they wrote little: the log that holds them is cut by checkpoints
/// alone, and takes no more beyond its own bound.
const LOG_BYTES: u64 = 16 << 20;

/// Forgotten revisions at which a checkpoint is due: so many are a few hundred kilobytes here, and a second to remove.
const FORGOTTEN: usize = 16_384;

/// What holds the versions.
#[derive(Debug)]
pub(super) struct Records {
    disk: Disk,
    pending: BTreeMap<Revision, KeyValue>,
    pending_bytes: u64,
    /// Of the commands applied since a checkpoint began, refused ones too.
    log_bytes: u64,
    /// Revisions on disk, or on their way there, that are to be removed.
    forgotten: BTreeSet<Revision>,
    /// TTLs by lease that are not on disk as they are; `None` of a revoked one.
    leases: BTreeMap<i64, Option<i64>>,
    writing: Option<Arc<Batch>>,
    in_use_bytes: u64,
}

/// What a checkpoint writes. It can be read meanwhile.
#[derive(Debug, Default)]
pub(super) struct Batch {
    records: BTreeMap<Revision, KeyValue>,
    forgotten: Vec<Revision>,
    leases: BTreeMap<i64, Option<i64>>,
    meta: Meta,
}

impl Batch {
    pub(super) fn write(&self, writer: &Writer) -> Result<(View, u64), redb::Error> {
        writer.write(&mut Changes {
            records: &mut self.records.iter().map(|(at, record)| (*at, record)),
            forgotten: &self.forgotten,
            leases: &self.leases,
            meta: &self.meta,
        })
    }
}

impl Records {
    pub(super) fn new(disk: Disk) -> Self {
        Self {
            disk,
            pending: BTreeMap::new(),
            pending_bytes: 0,
            log_bytes: 0,
            forgotten: BTreeSet::new(),
            leases: BTreeMap::new(),
            writing: None,
            in_use_bytes: 0,
        }
    }

    /// A version of a key that was just made.
    pub(super) fn insert(&mut self, at: Revision, record: KeyValue) {
        let bytes = record::size_bytes(&record);
        self.pending_bytes += bytes;
        self.in_use_bytes += bytes;
        self.pending.insert(at, record);
    }

    /// A command of so many bytes is in the log.
    pub(super) fn count_log(&mut self, bytes: u64) {
        self.log_bytes += bytes;
    }

    /// What was opened holds a record of so many bytes.
    pub(super) fn count(&mut self, bytes: u64) {
        self.in_use_bytes += bytes;
    }

    /// A version that nobody can ask for any more.
    pub(super) fn forget(&mut self, at: Revision) {
        match self.pending.remove(&at) {
            Some(record) => {
                let bytes = record::size_bytes(&record);
                self.pending_bytes -= bytes;
                self.in_use_bytes -= bytes;
            }
            None => _ = self.forgotten.insert(at),
        }
    }

    /// A lease is there, with a TTL in seconds, or is not any more.
    pub(super) fn set_lease(&mut self, lease: i64, ttl_s: Option<i64>) {
        self.leases.insert(lease, ttl_s);
    }

    /// One version, which the index knows of.
    pub(super) fn record(&self, at: Revision) -> Result<KeyValue, Refusal> {
        if let Some(record) = self.pending.get(&at) {
            return Ok(record.clone());
        }
        if let Some(record) = self.writing.as_ref().and_then(|batch| batch.records.get(&at)) {
            return Ok(record.clone());
        }
        let bytes = self.view().record(at).map_err(storage)?;
        let bytes = bytes.ok_or_else(|| Refusal::Storage(format!("revision {}/{} is missing", at.main, at.sub)))?;
        decode(at, bytes)
    }

    /// The versions from a revision on, in order. All of them are there only from the compacted revision on.
    pub(super) fn since(&self, main: i64) -> Result<impl Iterator<Item = Result<KeyValue, Refusal>>, Refusal> {
        let from = Revision::first_of(main.max(0));
        let on_disk = self.view().records(from, END).map_err(storage)?;
        let on_disk = on_disk.map(|row| row.map_err(storage).and_then(|(at, bytes)| decode(at, bytes)));
        let writing = self.writing.iter().flat_map(move |batch| batch.records.range(from..));
        let in_memory = writing.chain(self.pending.range(from..));
        Ok(on_disk.chain(in_memory.map(|(_, record)| Ok(record.clone()))))
    }

    /// Everything, unchanged by what comes after: what is in memory, which comes after what is on disk, and what is on disk
    /// but to be removed.
    pub(super) fn frozen(&self) -> Frozen {
        let writing = self.writing.iter().flat_map(|batch| batch.records.iter());
        let removing = self.writing.iter().flat_map(|batch| batch.forgotten.iter());
        Frozen {
            view: Arc::clone(self.view()),
            in_memory: writing.chain(&self.pending).map(|(at, record)| (*at, record.clone())).collect(),
            forgotten: removing.chain(&self.forgotten).copied().collect(),
        }
    }

    /// What is on disk.
    pub(super) fn view(&self) -> &Arc<View> {
        &self.disk.view
    }

    /// Whether a checkpoint should be written, so as to bound what is in memory, or to make room.
    pub(super) fn is_due(&self, quota_bytes: u64) -> bool {
        let makes_room = !self.forgotten.is_empty() && self.in_use_bytes >= quota_bytes;
        let is_much = self.pending_bytes >= PENDING_BYTES || self.log_bytes >= LOG_BYTES;
        self.writing.is_none() && (is_much || self.forgotten.len() >= FORGOTTEN || makes_room)
    }

    /// Whether so much is pending that what is written should not become more.
    pub(super) fn is_backed_up(&self) -> bool {
        self.pending_bytes >= PENDING_BYTES_MAX
    }

    /// Whether revisions wait to be removed.
    pub(super) fn has_forgotten(&self) -> bool {
        !self.forgotten.is_empty()
    }

    /// Takes what is pending, to be written on whatever thread; `None` while the batch before is being written.
    pub(super) fn begin_batch(&mut self, meta: Meta) -> Option<(Writer, Arc<Batch>)> {
        if self.writing.is_some() {
            return None;
        }
        (self.pending_bytes, self.log_bytes) = (0, 0);
        let batch = Arc::new(Batch {
            records: std::mem::take(&mut self.pending),
            forgotten: std::mem::take(&mut self.forgotten).into_iter().collect(),
            leases: std::mem::take(&mut self.leases),
            meta,
        });
        self.writing = Some(Arc::clone(&batch));
        Some((self.disk.writer(), batch))
    }

    /// The batch is on disk.
    pub(super) fn end_batch(&mut self, view: View, forgotten_bytes: u64) {
        self.writing = None;
        self.in_use_bytes = self.in_use_bytes.saturating_sub(forgotten_bytes);
        self.disk.view = Arc::new(view);
    }

    /// Of what is not removed, wherever it is.
    pub(super) fn in_use_bytes(&self) -> u64 {
        self.in_use_bytes
    }

    /// Of the file.
    pub(super) fn file_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }
}

/// After all revisions.
const END: Revision = Revision { main: i64::MAX, sub: u32::MAX };

/// Everything at one moment.
pub(super) struct Frozen {
    view: Arc<View>,
    in_memory: Vec<(Revision, KeyValue)>,
    forgotten: BTreeSet<Revision>,
}

impl Frozen {
    /// All versions that may be asked for, in the order of their revisions.
    pub(super) fn records(&self) -> Result<impl Iterator<Item = Result<KeyValue, Refusal>>, Refusal> {
        let on_disk = self.view.records(Revision::first_of(0), END).map_err(storage)?;
        let on_disk = on_disk.filter(|row| !row.as_ref().is_ok_and(|(at, _)| self.forgotten.contains(at)));
        let on_disk = on_disk.map(|row| row.map_err(storage).and_then(|(at, bytes)| decode(at, bytes)));
        let in_memory = self.in_memory.iter().filter(|(at, _)| !self.forgotten.contains(at));
        Ok(on_disk.chain(in_memory.map(|(_, record)| Ok(record.clone()))))
    }
}

/// A record as it is on disk.
pub(super) fn decode(at: Revision, bytes: Bytes) -> Result<KeyValue, Refusal> {
    record::decode(at.main, bytes)
        .ok_or_else(|| Refusal::Storage(format!("revision {}/{} is damaged", at.main, at.sub)))
}

fn storage(error: redb::Error) -> Refusal {
    Refusal::Storage(error.to_string())
}
