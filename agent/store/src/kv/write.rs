//! Puts and deletes, and the one revision that a command makes.

use bytes::Bytes;
use ringmesh_proto::etcd::{
    etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse, LeaseRevokeRequest, PutRequest, PutResponse},
    mvccpb::KeyValue,
};

use super::{Kv, Refusal, header, record, revision::Revision, span::Span};

/// A command that is being applied: all its changes are of one revision.
#[derive(Debug)]
pub(super) struct Writing {
    main: i64,
    changes: u32,
    /// Whether there are watchers.
    is_watched: bool,
    /// For them.
    records: Vec<KeyValue>,
}

impl Writing {
    /// The revision as it is now: the next one, once there is a change.
    pub(super) fn newest(&self) -> i64 {
        if self.changes == 0 { self.main - 1 } else { self.main }
    }

    fn next(&mut self) -> Revision {
        self.changes += 1;
        Revision { main: self.main, sub: self.changes - 1 }
    }
}

impl Kv {
    /// Before the changes of a command.
    pub(super) fn begin(&self) -> Writing {
        Writing { main: self.revision + 1, changes: 0, is_watched: self.watchers.count() > 0, records: Vec::new() }
    }

    /// After them.
    pub(super) fn end(&mut self, writing: Writing) -> Result<(), Refusal> {
        let newest = writing.newest();
        let events: Result<Vec<_>, _> = writing.records.into_iter().map(|record| self.event(record)).collect();
        let events = events?;
        // Only now: watchers must not hear of a revision whose events cannot be told.
        self.revision = newest;
        if !events.is_empty() {
            self.watchers.notify(newest, events);
        }
        Ok(())
    }

    /// What can be refused of a put before it is made.
    pub(super) fn check_put(&self, request: &PutRequest) -> Result<(), Refusal> {
        let keeps = request.ignore_value || request.ignore_lease;
        if keeps && self.index.alive(&request.key).is_none() {
            return Err(Refusal::KeyNotFound);
        }
        self.leases.check(request.lease)
    }

    /// Puts a key.
    pub(super) fn put(&mut self, writing: &mut Writing, request: &PutRequest) -> Result<PutResponse, Refusal> {
        let key = &request.key;
        let old = if request.prev_kv || request.ignore_value { self.newest_of(key)? } else { None };
        let old_lease = self.index.history(key).map_or(0, |history| history.lease);
        let lease = if request.ignore_lease { old_lease } else { request.lease };
        let value = match &old {
            Some(old) if request.ignore_value => old.value.clone(),
            Some(_) | None => copy(&request.value),
        };

        let at = writing.next();
        let version = self.index.put(key, at, lease);
        self.leases.move_key(key, old_lease, lease);
        let new = KeyValue {
            key: copy(key),
            create_revision: version.create_revision,
            mod_revision: at.main,
            version: version.version,
            value,
            lease,
        };
        if writing.is_watched {
            writing.records.push(new.clone());
        }
        self.records.insert(at, new);
        let prev_kv = old.filter(|_| request.prev_kv);
        Ok(PutResponse { header: Some(header(at.main)), prev_kv })
    }

    /// Deletes keys.
    pub(super) fn delete_range(
        &mut self,
        writing: &mut Writing,
        request: &DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Refusal> {
        let keys = self.index.range_alive(Span::new(&request.key, &request.range_end));
        let keys: Vec<Bytes> = keys.map(|(key, _)| Bytes::copy_from_slice(key)).collect();
        let mut prev_kvs = Vec::new();
        for key in &keys {
            prev_kvs.extend(self.delete(writing, key, request.prev_kv)?);
        }
        let header = Some(header(writing.newest()));
        Ok(DeleteRangeResponse { header, deleted: keys.len() as i64, prev_kvs })
    }

    /// Ends a lease, and with it its keys.
    pub(super) fn revoke(&mut self, writing: &mut Writing, request: &LeaseRevokeRequest) -> Result<(), Refusal> {
        if self.leases.ttl_s(request.id).is_none() {
            return Err(Refusal::LeaseNotFound);
        }
        let keys: Vec<Bytes> = self.leases.keys(request.id).map(Bytes::copy_from_slice).collect();
        for key in &keys {
            self.delete(writing, key, false)?;
        }
        self.leases.revoke(request.id);
        self.records.set_lease(request.id, None);
        Ok(())
    }

    /// Deletes a key that is there. Returns what it was if that is wanted.
    fn delete(&mut self, writing: &mut Writing, key: &Bytes, wants_old: bool) -> Result<Option<KeyValue>, Refusal> {
        let old = if wants_old { self.newest_of(key)? } else { None };
        let old_lease = self.index.history(key).map_or(0, |history| history.lease);

        let at = writing.next();
        self.index.delete(key, at);
        self.leases.move_key(key, old_lease, 0);
        let tombstone = record::tombstone(key.clone(), at.main);
        if writing.is_watched {
            writing.records.push(tombstone.clone());
        }
        self.records.insert(at, tombstone);
        Ok(old)
    }

    /// A key as it is now.
    fn newest_of(&self, key: &[u8]) -> Result<Option<KeyValue>, Refusal> {
        self.index.alive(key).map(|history| self.records.record(history.last())).transpose()
    }
}

/// Bytes of a command are a part of what it was decoded from, which is as large as its client likes: all of that would be
/// kept for as long as one event or version is.
fn copy(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
