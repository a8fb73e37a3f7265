//! A checksum by which replicas compare what they hold.

use crc32fast::Hasher;
use ringmesh_proto::etcd::etcdserverpb::HashKvResponse;

use super::{Kv, Refusal, header, record, records::Frozen};

/// A checksum to be computed, on any thread: it reads the whole store.
pub struct HashWork {
    frozen: Frozen,
    /// Up to which revision.
    main: i64,
    newest: i64,
    compacted: i64,
}

impl Kv {
    /// Begins a CRC of all keys and values up to a revision (0: the newest), equal on replicas that are equal: that have
    /// compacted the same, and were asked for the same revision.
    pub fn begin_hash(&mut self, revision: i64) -> Result<HashWork, Refusal> {
        self.check_revision(revision, self.revision)?;
        let main = if revision <= 0 { self.revision } else { revision };
        // What is compacted but still there on one replica may be gone on another.
        self.tidy_all();
        Ok(HashWork { frozen: self.records.frozen(), main, newest: self.revision, compacted: self.compacted })
    }
}

impl HashWork {
    /// Reads and sums. The header holds the revision at which it began.
    pub fn run(self) -> Result<HashKvResponse, Refusal> {
        let (mut hasher, mut bytes) = (Hasher::new(), Vec::new());
        for record in self.frozen.records()? {
            let record = record?;
            if record.mod_revision > self.main {
                break;
            }
            bytes.clear();
            record::encode(&record, &mut bytes);
            hasher.update(&record.mod_revision.to_le_bytes());
            hasher.update(&bytes);
        }
        Ok(HashKvResponse {
            header: Some(header(self.newest)),
            hash: hasher.finalize(),
            compact_revision: self.compacted,
        })
    }
}
