//! The store as a checkpoint left it.

use std::collections::BTreeMap;

use redb::StorageBackend;

use super::{
    Kv, OpenError, Settings,
    alarm::Alarms,
    disk::Disk,
    history::Version,
    index::Index,
    lease::LeaseTable,
    record,
    records::{Records, decode},
    revision::Revision,
    watch::Watchers,
};

/// What no store reaches: a million revisions a second for a hundred thousand years.
const REVISION_MAX: i64 = 1 << 62;

impl Kv {
    /// Opens what a checkpoint left, or makes an empty store. Reads all revisions once, to build the index.
    pub fn open(backend: impl StorageBackend, settings: Settings) -> Result<Self, OpenError> {
        let disk = Disk::open(backend, settings.cache_bytes)?;
        Self::load(Records::new(disk), settings)
    }

    /// Reads what an opened database holds.
    pub(super) fn load(records: Records, settings: Settings) -> Result<Self, OpenError> {
        let meta = records.view().meta.clone();
        if !(1..REVISION_MAX).contains(&meta.revision) || meta.compacted > meta.revision {
            let what = format!("the newest revision is {}, the compacted one {}", meta.revision, meta.compacted);
            return Err(OpenError::Damaged { what });
        }
        let mut kv = Self {
            index: Index::default(),
            records,
            revision: meta.revision,
            compacted: meta.compacted,
            applied: meta.applied(),
            leases: LeaseTable::default(),
            alarms: Alarms::load(&meta.alarms),
            tidying: None,
            failure: None,
            watchers: Watchers::new(&settings),
            settings,
        };
        kv.load_keys()?;
        kv.load_leases()?;
        Ok(kv)
    }

    fn load_keys(&mut self) -> Result<(), OpenError> {
        let before = Revision::first_of(i64::MAX);
        let view = std::sync::Arc::clone(self.records.view());
        for row in view.records(Revision::first_of(0), before).map_err(OpenError::of)? {
            let (at, bytes) = row.map_err(OpenError::of)?;
            self.records.count(record::encoded_size_bytes(&bytes));
            let record = decode(at, bytes).map_err(|error| OpenError::Damaged { what: error.to_string() })?;
            if !at.is_possible(self.revision) {
                let what = format!("there is revision {}/{}, and the newest is {}", at.main, at.sub, self.revision);
                return Err(OpenError::Damaged { what });
            }
            let version = Version { create_revision: record.create_revision, version: record.version };
            self.index.load(&record.key, at, version, record.lease);
        }
        self.tidying = self.tidying_of_all();
        self.tidy_all();
        Ok(())
    }

    fn load_leases(&mut self) -> Result<(), OpenError> {
        let leases = self.records.view().leases().map_err(OpenError::of)?;
        let leases: Result<BTreeMap<_, _>, _> = leases.collect();
        leases.map_err(OpenError::of)?.into_iter().for_each(|(lease, ttl_s)| self.leases.load(lease, ttl_s));
        for (key, history) in self.index.iter() {
            if !self.leases.move_key(key, 0, history.lease) {
                let what = format!("a key has lease {}, which is not there", history.lease);
                return Err(OpenError::Damaged { what });
            }
        }
        Ok(())
    }
}
