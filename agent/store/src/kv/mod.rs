//! The keys with their history, as the log makes them: the state machine of the replicated configuration.
//!
//! ```text
//!   command ──► check ──► apply ──► index, pending ──► watchers
//!                                        │
//!                                   checkpoint ──► redb
//! ```
//!
//! It owns what is read and written, its revisions, the leases' table, the alarms and the watchers. It knows no log, no
//! peer and no clock: a change comes with its place in the log, and nothing is durable before a checkpoint says so.

mod alarm;
mod check;
mod checkpoint;
mod compaction;
mod compare;
mod cost;
mod disk;
mod error;
mod hash;
mod history;
mod index;
pub mod lease;
mod lessor;
mod measured;
mod meta;
mod open;
mod range;
mod record;
mod records;
mod restore;
mod revision;
mod settings;
mod snapshot;
mod span;
mod txn;
mod watch;
mod write;

use bytes::Bytes;
use prost::Message as _;
use ringmesh_proto::{
    etcd::etcdserverpb::{
        AlarmMember, AlarmRequest, AlarmResponse, AlarmType, CompactionRequest, CompactionResponse,
        DeleteRangeResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeResponse, PutResponse, RangeRequest,
        RangeResponse, ResponseHeader, TxnRequest, TxnResponse,
    },
    store::{Command, command::Change},
};

use self::{alarm::Alarms, compaction::Tidying, index::Index, records::Records, write::Writing};
pub use self::{
    checkpoint::{Checkpoint, Written},
    error::{CheckpointError, Code, OpenError, Refusal, RestoreError},
    hash::HashWork,
    lease::LeaseTable,
    lessor::Lessor,
    range::RangeWork,
    restore::Restore,
    settings::Settings,
    snapshot::Snapshot,
    watch::{StreamId, Watchers},
};

/// The keys, their history, leases, alarms and watchers of one replica.
#[derive(Debug)]
pub struct Kv {
    settings: Settings,
    index: Index,
    records: Records,
    revision: i64,
    compacted: i64,
    applied: Applied,
    leases: LeaseTable,
    alarms: Alarms,
    tidying: Option<Tidying>,
    /// The disk failed in the midst of a command, of which half may be in memory; or a command was not known.
    failure: Option<Refusal>,
    watchers: Watchers,
}

/// How far the log has been applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Of the last entry; 0 of none.
    pub index: u64,
    /// Of the last entry.
    pub term: u64,
    /// Who the voters and learners are, in the consensus's own encoding.
    pub conf: Bytes,
}

/// What a command answers. Each response's header holds the revision, and nothing else.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Of a put.
    Put(PutResponse),
    /// Of a delete.
    DeleteRange(DeleteRangeResponse),
    /// Of a transaction.
    Txn(TxnResponse),
    /// Of a compaction. Where `physical` was asked for, what is compacted is gone once [`Kv::tidy`] has no more to do and a
    /// checkpoint has been written after it: whoever answers may wait for that.
    Compaction(CompactionResponse),
    /// Of a grant: its TTL is the one that holds.
    LeaseGrant(LeaseGrantResponse),
    /// Of a revocation.
    LeaseRevoke(LeaseRevokeResponse),
    /// Of an alarm.
    Alarm(AlarmResponse),
}

impl Kv {
    /// How far the log has been applied: what is to be applied next has the index after it.
    pub fn applied(&self) -> Applied {
        self.applied.clone()
    }

    /// The newest revision; 1 of an empty store.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The oldest revision that can be read; -1 as long as nothing was compacted, as etcd has it.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Applies an entry. Deterministic: a refusal changes nothing but the applied index, and is the same on every
    /// replica; but for [`Refusal::Storage`], after which this replica applies nothing more.
    ///
    /// `index` is beyond that of the entry before.
    pub fn apply(&mut self, index: u64, term: u64, command: &Command) -> Result<Outcome, Refusal> {
        self.skip(index, term);
        self.records.count_log(command.encoded_len() as u64);
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let outcome = match &command.change {
            Some(change) => self.change(change),
            // Replicas that know it have applied it: to go on without would be to differ from them.
            None => Err(Refusal::Storage(format!("entry {index} is of a newer ringmesh: install it here too"))),
        };
        if let Err(failure @ Refusal::Storage(_)) = &outcome {
            self.failure = Some(failure.clone());
        }
        outcome
    }

    /// Passes an entry that changes no key.
    pub fn skip(&mut self, index: u64, term: u64) {
        assert!(index > self.applied.index, "entries are applied once, in the order of the log");
        (self.applied.index, self.applied.term) = (index, term);
    }

    /// Passes an entry that changed who the voters are.
    pub fn reconfigure(&mut self, index: u64, term: u64, conf: Bytes) {
        self.skip(index, term);
        self.applied.conf = conf;
    }

    /// What can be refused before it is proposed: limits, empty keys, keys that are written twice, too many alarms, a full quota,
    /// a disk that does not keep up.
    pub fn check(&self, change: &Change) -> Result<(), Refusal> {
        let takes_room = match change {
            Change::Put(request) => check::put(request).map(|()| true),
            Change::DeleteRange(request) => check::delete_range(request).map(|()| false),
            Change::Txn(request) => check::txn(request, self.settings.max_txn_ops).map(|()| check::puts(request)),
            Change::LeaseGrant(_) => Ok(true),
            Change::Alarm(request) => self.alarms.check(request).map(|()| false),
            Change::Compaction(_) | Change::LeaseRevoke(_) => Ok(false),
        }?;
        let bytes = change.encoded_len();
        if bytes > self.settings.max_request_bytes {
            return Err(Refusal::RequestTooLarge);
        }
        let is_full = self.size_in_use().saturating_add(bytes as u64) > self.settings.quota_bytes;
        if takes_room && is_full {
            return Err(Refusal::NoSpace);
        }
        if takes_room && self.is_backed_up() { Err(Refusal::TooManyRequests) } else { Ok(()) }
    }

    /// What can be refused of a range before it is read.
    pub fn check_range(&self, request: &RangeRequest) -> Result<(), Refusal> {
        check::range(request)
    }

    /// Reads keys. The header holds the revision alone. Checks the request too.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Refusal> {
        check::range(request)?;
        self.failure.clone().map_or(Ok(()), Err)?;
        self.range_at(request, self.revision)
    }

    /// Whether a transaction only reads, in all of its branches.
    pub fn txn_is_read_only(request: &TxnRequest) -> bool {
        check::is_read_only(request)
    }

    /// Answers a transaction that only reads. Checks the request too.
    pub fn read(&self, request: &TxnRequest) -> Result<TxnResponse, Refusal> {
        check::txn(request, self.settings.max_txn_ops)?;
        self.failure.clone().map_or(Ok(()), Err)?;
        self.read_txn(request)
    }

    /// The leases: id, TTL, keys.
    pub fn leases(&self) -> &LeaseTable {
        &self.leases
    }

    /// Alarms of a kind that are on; of all kinds for `None`.
    pub fn alarms(&self, kind: AlarmType) -> Vec<AlarmMember> {
        self.alarms.list(kind)
    }

    /// Bytes of the file.
    pub fn size_bytes(&self) -> u64 {
        self.records.file_bytes()
    }

    /// Bytes beyond which nothing more is written.
    pub fn quota_bytes(&self) -> u64 {
        self.settings.quota_bytes
    }

    /// About the bytes of what has not been compacted away, and of leases: what the quota limits.
    pub fn size_in_use(&self) -> u64 {
        self.records.in_use_bytes().saturating_add(self.leases.size_bytes())
    }

    fn change(&mut self, change: &Change) -> Result<Outcome, Refusal> {
        self.check_alarms(change)?;
        match change {
            Change::Put(request) => {
                self.leases.check(request.lease)?;
                self.check_put(request)?;
                self.write(|kv, writing| kv.put(writing, request)).map(Outcome::Put)
            }
            Change::DeleteRange(request) => {
                self.write(|kv, writing| kv.delete_range(writing, request)).map(Outcome::DeleteRange)
            }
            Change::Txn(request) => self.write(|kv, writing| kv.txn(writing, request)).map(Outcome::Txn),
            Change::Compaction(request) => self.apply_compaction(request).map(Outcome::Compaction),
            Change::LeaseGrant(request) => self.grant(request).map(Outcome::LeaseGrant),
            Change::LeaseRevoke(request) => {
                self.write(|kv, writing| kv.revoke(writing, request))?;
                Ok(Outcome::LeaseRevoke(LeaseRevokeResponse { header: Some(header(self.revision)) }))
            }
            Change::Alarm(request) => Ok(Outcome::Alarm(self.alarm(request))),
        }
    }

    /// While there is no room nothing is put; while replicas differ nothing is changed.
    fn check_alarms(&self, change: &Change) -> Result<(), Refusal> {
        let takes_room = match change {
            Change::Alarm(_) => return Ok(()),
            Change::Put(_) | Change::LeaseGrant(_) => true,
            Change::Txn(request) => check::puts(request),
            Change::DeleteRange(_) | Change::Compaction(_) | Change::LeaseRevoke(_) => false,
        };
        if self.alarms.is_on(AlarmType::Corrupt) {
            return Err(Refusal::Corrupt);
        }
        if takes_room && self.alarms.is_on(AlarmType::Nospace) { Err(Refusal::NoSpace) } else { Ok(()) }
    }

    /// All that `changes` does is of one revision.
    fn write<T>(&mut self, changes: impl FnOnce(&mut Self, &mut Writing) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let mut writing = self.begin();
        let response = changes(self, &mut writing)?;
        self.end(writing)?;
        Ok(response)
    }

    fn apply_compaction(&mut self, request: &CompactionRequest) -> Result<CompactionResponse, Refusal> {
        self.compact(request.revision)?;
        Ok(CompactionResponse { header: Some(header(self.revision)) })
    }

    fn grant(&mut self, request: &LeaseGrantRequest) -> Result<LeaseGrantResponse, Refusal> {
        let ttl = self.leases.grant(request.id, request.ttl)?;
        self.records.set_lease(request.id, Some(ttl));
        Ok(LeaseGrantResponse { header: Some(header(self.revision)), id: request.id, ttl, error: String::new() })
    }

    fn alarm(&mut self, request: &AlarmRequest) -> AlarmResponse {
        AlarmResponse { header: Some(header(self.revision)), alarms: self.alarms.apply(request) }
    }
}

/// All that is known here of a response's header.
fn header(revision: i64) -> ResponseHeader {
    ResponseHeader { revision, ..ResponseHeader::default() }
}

#[cfg(test)]
mod tests;
