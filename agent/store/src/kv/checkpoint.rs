//! What makes the store durable: all that is pending, in one transaction.

use std::sync::Arc;

use super::{
    CheckpointError, Kv,
    disk::{View, Writer},
    meta::Meta,
    records::Batch,
};

/// Entries after which a checkpoint is due even if they wrote little: the log must not grow without end.
const ENTRIES: u64 = 50_000;

/// What is to be written. It can be, on any thread, while the store goes on.
#[derive(Debug)]
pub struct Checkpoint {
    writer: Writer,
    batch: Arc<Batch>,
}

/// That a checkpoint is on disk.
#[derive(Debug)]
pub struct Written {
    view: View,
    forgotten_bytes: u64,
}

impl Checkpoint {
    /// Writes and syncs. After an error the store must be opened anew.
    pub fn write(self) -> Result<Written, CheckpointError> {
        let (view, forgotten_bytes) = self.batch.write(&self.writer).map_err(CheckpointError)?;
        Ok(Written { view, forgotten_bytes })
    }
}

impl Kv {
    /// Whether so much is pending that a checkpoint should be written.
    pub fn checkpoint_due(&self) -> bool {
        self.records.is_due(self.settings.quota_bytes) || self.applied.index - self.durable_index() >= ENTRIES
    }

    /// Whether the disk does not keep up: what is pending is in memory, so that nothing more should be applied before the
    /// checkpoint under way has ended and the next has begun.
    pub fn is_backed_up(&self) -> bool {
        self.records.is_backed_up()
    }

    /// Takes what is pending for one durable write; `None` if nothing was applied since the last one, one is under way, or
    /// this replica has failed.
    pub fn begin_checkpoint(&mut self) -> Option<Checkpoint> {
        let is_changed = self.applied != self.records.view().meta.applied() || self.records.has_forgotten();
        if !is_changed || self.failure.is_some() {
            return None;
        }
        let (writer, batch) = self.records.begin_batch(self.meta())?;
        Some(Checkpoint { writer, batch })
    }

    /// A checkpoint is on disk. Returns the index up to which (inclusive) the log is not needed any more.
    pub fn end_checkpoint(&mut self, written: Written) -> u64 {
        self.records.end_batch(written.view, written.forgotten_bytes);
        self.durable_index()
    }

    fn durable_index(&self) -> u64 {
        self.records.view().meta.index
    }

    fn meta(&self) -> Meta {
        Meta {
            revision: self.revision,
            compacted: self.compacted,
            index: self.applied.index,
            term: self.applied.term,
            conf: self.applied.conf.clone(),
            alarms: self.alarms.save(),
        }
    }
}
