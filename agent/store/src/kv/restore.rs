//! A store from a snapshot.

use bytes::{Buf, Bytes, BytesMut};
use crc32fast::Hasher;
use prost::Message;

use super::{
    Kv, RestoreError, Settings,
    disk::{Disk, Load},
    meta::Meta,
    records::Records,
    revision::{REVISION_BYTES, Revision},
    snapshot::{
        END, END_BYTES, FORMAT, FRAME_BYTES, HEAD_BYTES, LEASE, LEASE_BYTES, MAGIC, PAYLOAD_BYTES, RECORD,
        RECORD_HEAD_BYTES,
    },
};

/// More than any record or meta has; what claims more is damaged.
const ROW_BYTES_MAX: usize = 64 << 20;

/// Writes a fresh database as the bytes of a snapshot come. Nothing of it counts before [`Restore::finish`].
#[derive(Debug)]
pub struct Restore {
    settings: Settings,
    disk: Disk,
    load: Load,
    /// What came and is no whole chunk yet.
    bytes: BytesMut,
    /// What was verified and is no whole row yet.
    payload: BytesMut,
    hasher: Hasher,
    /// Offset in the stream of what is in `bytes`.
    at: u64,
    head: Option<(u64, Meta)>,
    rows: Rows,
    is_ended: bool,
}

/// What is to be written, and what was.
#[derive(Debug, Default)]
struct Rows {
    records: Vec<(Revision, Bytes)>,
    leases: Vec<(i64, i64)>,
    last: Option<Revision>,
    count: u64,
}

impl Restore {
    /// `backend` is empty, and nothing that is in use.
    pub fn new(backend: impl redb::StorageBackend, settings: Settings) -> Result<Self, RestoreError> {
        let disk = Disk::open(backend, settings.cache_bytes).map_err(RestoreError::Open)?;
        if disk.view.meta != Meta::empty() {
            return Err(RestoreError::NotEmpty);
        }
        Ok(Self {
            load: disk.load().map_err(RestoreError::Platform)?,
            settings,
            disk,
            bytes: BytesMut::new(),
            payload: BytesMut::new(),
            hasher: Hasher::new(),
            at: 0,
            head: None,
            rows: Rows::default(),
            is_ended: false,
        })
    }

    /// The next bytes, cut at any place.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        self.bytes.extend_from_slice(bytes);
        while self.take_chunk()? {
            while self.take_row()? {}
        }
        let Rows { records, leases, .. } = &mut self.rows;
        self.load.write(records, leases).map_err(RestoreError::Platform)?;
        records.clear();
        leases.clear();
        Ok(())
    }

    /// Which cluster it is of, once its head has come; 0 if it does not say.
    pub fn cluster(&self) -> Option<u64> {
        self.head.as_ref().map(|(cluster, _)| *cluster)
    }

    /// All has come: verifies that it has, makes it durable and opens it.
    pub fn finish(mut self) -> Result<Kv, RestoreError> {
        let Some((_, meta)) = self.head.take().filter(|_| self.is_ended && self.bytes.is_empty()) else {
            return Err(self.damaged("it ends too early"));
        };
        let Self { settings, mut disk, load, .. } = self;
        load.commit(&meta).map_err(RestoreError::Platform)?;
        disk.refresh().map_err(RestoreError::Open)?;
        Kv::load(Records::new(disk), settings).map_err(RestoreError::Open)
    }

    /// Verifies a chunk, if a whole one came.
    fn take_chunk(&mut self) -> Result<bool, RestoreError> {
        let Some(length) = number(&self.bytes, 0) else { return Ok(false) };
        let length = length as usize;
        if length == 0 || length > PAYLOAD_BYTES || self.is_ended {
            return Err(self.damaged("there is no chunk"));
        }
        let Some(crc) = number(&self.bytes, 4 + length) else { return Ok(false) };
        self.hasher.update(&self.bytes[4..4 + length]);
        if self.hasher.clone().finalize() != crc {
            return Err(self.damaged("the checksum of a chunk does not fit"));
        }
        self.payload.extend_from_slice(&self.bytes[4..4 + length]);
        self.bytes.advance(length + FRAME_BYTES);
        self.at += (length + FRAME_BYTES) as u64;
        Ok(true)
    }

    /// Takes a row from the payload, if a whole one is there.
    fn take_row(&mut self) -> Result<bool, RestoreError> {
        if self.head.is_none() {
            return self.take_head();
        }
        let Some(kind) = self.payload.first().copied() else { return Ok(false) };
        match kind {
            RECORD => self.take_record(),
            LEASE if self.payload.len() >= LEASE_BYTES => {
                let mut row = self.payload.split_to(LEASE_BYTES);
                row.advance(1);
                self.rows.leases.push((row.get_i64_le(), row.get_i64_le()));
                self.rows.count += 1;
                Ok(true)
            }
            END if self.payload.len() >= END_BYTES => {
                let mut row = self.payload.split_to(END_BYTES);
                row.advance(1);
                if row.get_u64_le() != self.rows.count || !self.payload.is_empty() {
                    return Err(self.damaged("its end does not fit"));
                }
                self.is_ended = true;
                Ok(false)
            }
            LEASE | END => Ok(false),
            _ => Err(self.damaged("there is a row of a kind that there is not")),
        }
    }

    fn take_head(&mut self) -> Result<bool, RestoreError> {
        if self.payload.len() < HEAD_BYTES {
            return Ok(false);
        }
        let mut head = Bytes::copy_from_slice(&self.payload[..HEAD_BYTES]);
        if head.split_to(MAGIC.len()) != MAGIC.as_slice() {
            return Err(self.damaged("it is no snapshot of ringmesh"));
        }
        let (format, cluster, length) = (head.get_u32_le(), head.get_u64_le(), head.get_u32_le() as usize);
        if format != FORMAT {
            return Err(RestoreError::Format { found: format, known: FORMAT });
        }
        if length > ROW_BYTES_MAX {
            return Err(self.damaged("its head is too long"));
        }
        if self.payload.len() < HEAD_BYTES + length {
            return Ok(false);
        }
        self.payload.advance(HEAD_BYTES);
        let meta = Meta::decode(self.payload.split_to(length)).map_err(|_| self.damaged("its head cannot be read"))?;
        self.head = Some((cluster, meta));
        Ok(true)
    }

    fn take_record(&mut self) -> Result<bool, RestoreError> {
        let Some(length) = number(&self.payload, 1 + REVISION_BYTES) else { return Ok(false) };
        let length = length as usize;
        if length > ROW_BYTES_MAX {
            return Err(self.damaged("a record is too long"));
        }
        if self.payload.len() < RECORD_HEAD_BYTES + length {
            return Ok(false);
        }
        let mut row = self.payload.split_to(RECORD_HEAD_BYTES + length).freeze();
        let revision: [u8; REVISION_BYTES] = row[1..=REVISION_BYTES].try_into().expect("the row is longer");
        let revision = Revision::from_bytes(&revision);
        if self.rows.last >= Some(revision) {
            return Err(self.damaged("its records are not in order"));
        }
        row.advance(RECORD_HEAD_BYTES);
        self.rows.records.push((revision, row));
        (self.rows.last, self.rows.count) = (Some(revision), self.rows.count + 1);
        Ok(true)
    }

    fn damaged(&self, what: &'static str) -> RestoreError {
        RestoreError::Damaged { at: self.at, what }
    }
}

/// The number at a place, if so much is there.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*bytes))
}
