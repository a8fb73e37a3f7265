//! What is on disk: redb's tables, and the one place that speaks to redb.
//!
//! Nothing is written but by a checkpoint. Reads are of a view of the last one.

use std::{
    collections::BTreeMap,
    io,
    ops::{
        Bound::{Excluded, Included},
        Range,
    },
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use prost::Message;
use redb::{Database, ReadOnlyTable, ReadableDatabase, StorageBackend, TableDefinition, TableError};
use ringmesh_proto::etcd::mvccpb::KeyValue;

use super::{
    OpenError,
    measured::Measured,
    meta::Meta,
    record,
    revision::{REVISION_BYTES, Revision},
};

/// The format that is written. Older ones will be read.
pub(super) const FORMAT: u32 = 1;

/// Of redb's first bytes, by which it knows its files.
const MAGIC_BYTES: u64 = 8;

/// Of redb's pages: the first is its header, of which a part may be written before the first bytes are.
const PAGE_BYTES: u64 = 4096;

/// What is read at once to see whether it is zero.
const CHUNK_BYTES: usize = 64 << 10;

const REVISIONS: TableDefinition<'static, &[u8; REVISION_BYTES], &[u8]> = TableDefinition::new("revisions");
const LEASES: TableDefinition<'static, i64, i64> = TableDefinition::new("leases");
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
const FORMAT_ROW: &str = "format";
const STATE_ROW: &str = "state";

/// The database, and the view of it that is read.
#[derive(Debug)]
pub(super) struct Disk {
    database: Arc<Database>,
    /// Bytes of the file.
    length: Arc<AtomicU64>,
    pub(super) view: Arc<View>,
}

/// What is to be changed.
pub(super) struct Changes<'a> {
    /// In order.
    pub(super) records: &'a mut dyn Iterator<Item = (Revision, &'a KeyValue)>,
    /// Revisions that are compacted away.
    pub(super) forgotten: &'a [Revision],
    /// TTLs in seconds by lease; `None` of one that is revoked.
    pub(super) leases: &'a BTreeMap<i64, Option<i64>>,
    pub(super) meta: &'a Meta,
}

impl Disk {
    /// Opens a database, or makes an empty one.
    pub(super) fn open(backend: impl StorageBackend, cache_bytes: usize) -> Result<Self, OpenError> {
        discard_unfinished(&backend)?;
        let (backend, length) = Measured::new(backend).map_err(OpenError::of)?;
        // All of it is read for the index anyway, and redb panics over some kinds of damage that it does not look for.
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .set_check_integrity_on_open(true)
            .create_with_backend(backend);
        let database = Arc::new(database.map_err(OpenError::of)?);
        let view = Arc::new(View::open(&database)?);
        Ok(Self { database, length, view })
    }

    /// Bytes of the file.
    pub(super) fn size_bytes(&self) -> u64 {
        self.length.load(Relaxed)
    }

    /// Looks again, after a [`Load`].
    pub(super) fn refresh(&mut self) -> Result<(), OpenError> {
        self.view = Arc::new(View::open(&self.database)?);
        Ok(())
    }

    /// For a snapshot that is restored.
    pub(super) fn load(&self) -> Result<Load, redb::Error> {
        Ok(Load { transaction: begin_write(&self.database)? })
    }

    /// For a checkpoint, on whatever thread.
    pub(super) fn writer(&self) -> Writer {
        Writer { database: Arc::clone(&self.database) }
    }
}

/// Empties a file whose making was cut short, which redb would refuse for ever. It writes the first bytes last: as long as
/// they are zero nothing was ever durable in it.
///
/// Where there is more than the first page they are lost, and what was durable must not go too.
fn discard_unfinished(backend: &impl StorageBackend) -> Result<(), OpenError> {
    let length = backend.len().map_err(OpenError::of)?;
    if length == 0 || !is_zero(backend, 0..length.min(MAGIC_BYTES)).map_err(OpenError::of)? {
        return Ok(());
    }
    if is_zero(backend, PAGE_BYTES.min(length)..length).map_err(OpenError::of)? {
        return backend.set_len(0).map_err(OpenError::of);
    }
    Err(OpenError::Damaged { what: "the first bytes are zero, and those after the first page are not".to_owned() })
}

fn is_zero(backend: &impl StorageBackend, range: Range<u64>) -> io::Result<bool> {
    let mut bytes = vec![0; CHUNK_BYTES];
    for at in range.clone().step_by(CHUNK_BYTES) {
        let length = (range.end - at).min(CHUNK_BYTES as u64) as usize;
        backend.read(at, &mut bytes[..length])?;
        if bytes[..length].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes, on whatever thread.
#[derive(Debug)]
pub(super) struct Writer {
    database: Arc<Database>,
}

impl Writer {
    /// Makes changes durable, all or none. Returns the view of them, and how many bytes the forgotten records had.
    pub(super) fn write(&self, changes: &mut Changes<'_>) -> Result<(View, u64), redb::Error> {
        let transaction = begin_write(&self.database)?;
        let forgotten = write_records(&transaction, changes)?;
        {
            let mut leases = transaction.open_table(LEASES)?;
            for (lease, ttl) in changes.leases {
                match ttl {
                    Some(ttl) => leases.insert(lease, ttl)?,
                    None => leases.remove(lease)?,
                };
            }
        }
        write_meta(&transaction, changes.meta)?;
        transaction.commit()?;
        Ok((View::of(&self.database, changes.meta.clone())?, forgotten))
    }
}

/// In two phases: with one, damage to what was written last brings what was there before back, whose log may be gone.
fn begin_write(database: &Database) -> Result<redb::WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    Ok(transaction)
}

fn write_records(transaction: &redb::WriteTransaction, changes: &mut Changes<'_>) -> Result<u64, redb::Error> {
    let mut table = transaction.open_table(REVISIONS)?;
    let mut bytes = Vec::new();
    for (revision, record) in &mut *changes.records {
        bytes.clear();
        record::encode(record, &mut bytes);
        table.insert(&revision.to_bytes(), bytes.as_slice())?;
    }
    let mut forgotten = 0;
    for revision in changes.forgotten {
        if let Some(old) = table.remove(&revision.to_bytes())? {
            forgotten += record::encoded_size_bytes(old.value());
        }
    }
    Ok(forgotten)
}

fn write_meta(transaction: &redb::WriteTransaction, meta: &Meta) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(META)?;
    table.insert(FORMAT_ROW, FORMAT.to_le_bytes().as_slice())?;
    table.insert(STATE_ROW, meta.encode_to_vec().as_slice())?;
    Ok(())
}

/// Fills an empty database, all or nothing.
pub(super) struct Load {
    transaction: redb::WriteTransaction,
}

impl Load {
    /// Records as they are on disk, and leases with their TTLs.
    pub(super) fn write(&self, records: &[(Revision, Bytes)], leases: &[(i64, i64)]) -> Result<(), redb::Error> {
        let mut table = self.transaction.open_table(REVISIONS)?;
        for (revision, record) in records {
            table.insert(&revision.to_bytes(), record.as_ref())?;
        }
        let mut table = self.transaction.open_table(LEASES)?;
        for (lease, ttl_s) in leases {
            table.insert(lease, ttl_s)?;
        }
        Ok(())
    }

    /// Makes it durable.
    pub(super) fn commit(self, meta: &Meta) -> Result<(), redb::Error> {
        self.write(&[], &[])?;
        write_meta(&self.transaction, meta)?;
        Ok(self.transaction.commit()?)
    }
}

impl std::fmt::Debug for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Load").finish_non_exhaustive()
    }
}

/// The database as a checkpoint left it.
pub(super) struct View {
    pub(super) meta: Meta,
    /// None before the first checkpoint.
    tables: Option<Tables>,
}

struct Tables {
    revisions: ReadOnlyTable<&'static [u8; REVISION_BYTES], &'static [u8]>,
    leases: ReadOnlyTable<i64, i64>,
}

impl View {
    fn open(database: &Database) -> Result<Self, OpenError> {
        let transaction = database.begin_read().map_err(OpenError::of)?;
        let rows = match transaction.open_table(META) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Self { meta: Meta::empty(), tables: None }),
            rows => rows.map_err(OpenError::of)?,
        };
        let row = |name| match rows.get(name) {
            Ok(Some(row)) => Ok(row.value().to_vec()),
            Ok(None) => Err(OpenError::Damaged { what: format!("the row {name} is missing") }),
            Err(error) => Err(OpenError::of(error)),
        };
        let format = row(FORMAT_ROW)?.try_into().map_or(0, u32::from_le_bytes);
        match format {
            FORMAT => {}
            0 => return Err(OpenError::Damaged { what: "the row format holds no number".to_owned() }),
            found => return Err(OpenError::Format { found, known: FORMAT }),
        }
        let meta = Meta::decode(row(STATE_ROW)?.as_slice());
        let meta = meta.map_err(|error| OpenError::Damaged { what: format!("the row state: {error}") })?;
        Self::of(database, meta).map_err(OpenError::of)
    }

    fn of(database: &Database, meta: Meta) -> Result<Self, redb::Error> {
        let transaction = database.begin_read()?;
        let tables = Tables { revisions: transaction.open_table(REVISIONS)?, leases: transaction.open_table(LEASES)? };
        Ok(Self { meta, tables: Some(tables) })
    }

    /// The bytes of a record.
    pub(super) fn record(&self, at: Revision) -> Result<Option<Bytes>, redb::Error> {
        let Some(tables) = &self.tables else { return Ok(None) };
        let record = tables.revisions.get(&at.to_bytes())?;
        Ok(record.map(|record| Bytes::copy_from_slice(record.value())))
    }

    /// The bytes of records from one on, before another, in order.
    pub(super) fn records(
        &self,
        from: Revision,
        before: Revision,
    ) -> Result<impl Iterator<Item = Result<(Revision, Bytes), redb::Error>> + use<>, redb::Error> {
        let (from, before) = (from.to_bytes(), before.to_bytes());
        let bounds: (_, _) = (Included(&from), Excluded(&before));
        let records = self.tables.as_ref().map(|tables| tables.revisions.range_owned::<&[u8; 12]>(bounds));
        let records = records.transpose()?.into_iter().flatten();
        Ok(records.map(|row| {
            let (revision, record) = row?;
            Ok((Revision::from_bytes(revision.value()), Bytes::copy_from_slice(record.value())))
        }))
    }

    /// The leases with their TTLs.
    pub(super) fn leases(&self) -> Result<impl Iterator<Item = Result<(i64, i64), redb::Error>> + use<>, redb::Error> {
        let leases = self.tables.as_ref().map(|tables| tables.leases.range_owned::<i64>(..));
        let leases = leases.transpose()?.into_iter().flatten();
        Ok(leases.map(|row| {
            let (lease, ttl) = row?;
            Ok((lease.value(), ttl.value()))
        }))
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("meta", &self.meta).finish_non_exhaustive()
    }
}
