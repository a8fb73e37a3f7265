//! What the store should answer, from a list of all versions ever written.

use std::collections::BTreeMap;

use ringmesh_proto::etcd::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RequestOp, ResponseOp,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
        response_op::Response,
    },
    mvccpb::KeyValue,
};

use super::*;

type Keys = BTreeMap<Bytes, KeyValue>;

/// All versions of all keys, in order: one of version 0 is a delete.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) all: Vec<KeyValue>,
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) leases: BTreeMap<i64, i64>,
}

impl Default for Model {
    fn default() -> Self {
        Self { all: Vec::new(), revision: 1, compacted: -1, leases: BTreeMap::new() }
    }
}

/// Whether a request speaks of a key.
pub(super) fn is_inside(key: &[u8], from: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == from,
        [0] => key >= from,
        end => key >= from && key < end,
    }
}

impl Model {
    pub(super) fn keys(&self, revision: i64) -> Keys {
        let mut keys = Keys::new();
        for record in self.all.iter().filter(|record| record.mod_revision <= revision) {
            match record.version {
                0 => keys.remove(&record.key),
                _ => keys.insert(record.key.clone(), record.clone()),
            };
        }
        keys
    }

    fn now(&self) -> Keys {
        self.keys(i64::MAX)
    }

    pub(super) fn apply(&mut self, change: &Change) -> Result<Outcome, Refusal> {
        let next = self.revision + 1;
        let count = self.all.len();
        let mut outcome = match change {
            Change::Put(request) => {
                if request.lease != 0 && !self.leases.contains_key(&request.lease) {
                    return Err(Refusal::LeaseNotFound);
                }
                self.check_put(request)?;
                Outcome::Put(self.put(request, next))
            }
            Change::DeleteRange(request) => Outcome::DeleteRange(self.delete(request, next, count)),
            Change::Txn(request) => Outcome::Txn(self.txn(request)?),
            Change::Compaction(request) => {
                if request.revision <= self.compacted {
                    return Err(Refusal::Compacted);
                }
                if request.revision > self.revision {
                    return Err(Refusal::FutureRevision);
                }
                self.compacted = request.revision;
                Outcome::Compaction(CompactionResponse::default())
            }
            Change::LeaseGrant(request) => {
                if self.leases.contains_key(&request.id) {
                    return Err(Refusal::LeaseExists);
                }
                let ttl = request.ttl.max(2);
                self.leases.insert(request.id, ttl);
                Outcome::LeaseGrant(LeaseGrantResponse { id: request.id, ttl, ..LeaseGrantResponse::default() })
            }
            Change::LeaseRevoke(request) => {
                self.leases.remove(&request.id).ok_or(Refusal::LeaseNotFound)?;
                for record in self.now().into_values().filter(|record| record.lease == request.id) {
                    self.all.push(KeyValue { key: record.key, mod_revision: next, ..KeyValue::default() });
                }
                Outcome::LeaseRevoke(LeaseRevokeResponse::default())
            }
            Change::Alarm(_) => Outcome::Alarm(AlarmResponse::default()),
        };
        if self.all.len() > count {
            self.revision = next;
        }
        let header = Some(header(self.revision));
        match &mut outcome {
            Outcome::Put(response) => response.header = header,
            Outcome::DeleteRange(response) => response.header = header,
            Outcome::Txn(response) => response.header = header,
            Outcome::Compaction(response) => response.header = header,
            Outcome::LeaseGrant(response) => response.header = header,
            Outcome::LeaseRevoke(response) => response.header = header,
            Outcome::Alarm(response) => response.header = header,
        }
        Ok(outcome)
    }

    fn check_put(&self, request: &PutRequest) -> Result<(), Refusal> {
        if (request.ignore_value || request.ignore_lease) && !self.now().contains_key(&request.key) {
            return Err(Refusal::KeyNotFound);
        }
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err(Refusal::LeaseNotFound);
        }
        Ok(())
    }

    fn put(&mut self, request: &PutRequest, main: i64) -> PutResponse {
        let old = self.now().remove(&request.key);
        let kept = old.clone().unwrap_or_default();
        self.all.push(KeyValue {
            key: request.key.clone(),
            create_revision: if old.is_some() { kept.create_revision } else { main },
            mod_revision: main,
            version: kept.version + 1,
            value: if request.ignore_value { kept.value } else { request.value.clone() },
            lease: if request.ignore_lease { kept.lease } else { request.lease },
        });
        PutResponse { header: Some(header(main)), prev_kv: old.filter(|_| request.prev_kv) }
    }

    /// `count`: of the versions before the command.
    fn delete(&mut self, request: &DeleteRangeRequest, main: i64, count: usize) -> DeleteRangeResponse {
        let mut gone: Vec<_> = self.now().into_values().collect();
        gone.retain(|record| is_inside(&record.key, &request.key, &request.range_end));
        for record in &gone {
            self.all.push(KeyValue { key: record.key.clone(), mod_revision: main, ..KeyValue::default() });
        }
        DeleteRangeResponse {
            header: Some(header(if self.all.len() > count { main } else { main - 1 })),
            deleted: gone.len() as i64,
            prev_kvs: if request.prev_kv { gone } else { Vec::new() },
        }
    }

    fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Refusal> {
        let before = self.clone();
        let mut taken = Vec::new();
        before.take(request, &mut taken);
        for op in &taken {
            if let Request::RequestPut(request) = op {
                before.check_put(request)?;
            }
        }
        for op in &taken {
            if let Request::RequestRange(request) = op {
                before.check_revision(request.revision)?;
            }
        }
        Ok(self.run(request, &before))
    }

    /// The operations that are run.
    fn take(&self, request: &TxnRequest, taken: &mut Vec<Request>) {
        for op in self.branch(request) {
            let op = op.request.clone().unwrap();
            if let Request::RequestTxn(inner) = &op {
                self.take(inner, taken);
            }
            taken.push(op);
        }
    }

    fn branch<'a>(&self, request: &'a TxnRequest) -> &'a [RequestOp] {
        if self.succeeds(request) { &request.success } else { &request.failure }
    }

    fn succeeds(&self, request: &TxnRequest) -> bool {
        request.compare.iter().all(|compare| self.holds(compare))
    }

    fn holds(&self, compare: &Compare) -> bool {
        let mut keys = self.now();
        keys.retain(|key, _| is_inside(key, &compare.key, &compare.range_end));
        if keys.is_empty() && compare.target() != CompareTarget::Value {
            keys.insert(Bytes::new(), KeyValue::default());
        }
        !keys.is_empty() && keys.values().all(|record| holds(compare, record))
    }

    fn run(&mut self, request: &TxnRequest, before: &Model) -> TxnResponse {
        let (count, next) = (before.all.len(), before.revision + 1);
        let mut responses = Vec::new();
        for op in before.branch(request) {
            let newest = if self.all.len() > count { next } else { before.revision };
            let response = match op.request.as_ref().unwrap() {
                Request::RequestRange(request) => {
                    let range = Model { revision: newest, ..self.clone() }.range(request);
                    Response::ResponseRange(range.unwrap())
                }
                Request::RequestPut(request) => Response::ResponsePut(self.put(request, next)),
                Request::RequestDeleteRange(request) => {
                    Response::ResponseDeleteRange(self.delete(request, next, count))
                }
                Request::RequestTxn(request) => Response::ResponseTxn(self.run(request, before)),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        let succeeded = before.succeeds(request);
        TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses }
    }

    fn check_revision(&self, revision: i64) -> Result<(), Refusal> {
        match revision {
            0 => Ok(()),
            _ if revision > self.revision => Err(Refusal::FutureRevision),
            _ if revision < self.compacted => Err(Refusal::Compacted),
            _ => Ok(()),
        }
    }

    pub(super) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Refusal> {
        self.check_revision(request.revision.max(0))?;
        let keys = self.keys(if request.revision <= 0 { i64::MAX } else { request.revision });
        let mut kvs: Vec<_> = keys.into_values().collect();
        kvs.retain(|record| is_inside(&record.key, &request.key, &request.range_end));
        let header = Some(header(self.revision));
        let count = kvs.len() as i64;
        if request.count_only {
            return Ok(RangeResponse { header, count, ..RangeResponse::default() });
        }

        let is_filtered = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ] != [0; 4];
        let limit = if request.limit > 0 { request.limit as usize } else { usize::MAX };
        if !is_filtered && request.sort_order == 0 && limit != usize::MAX {
            kvs.truncate(limit + 1);
        }
        let is_within = |revision, min, max| (min == 0 || revision >= min) && (max == 0 || revision <= max);
        kvs.retain(|record| {
            is_within(record.mod_revision, request.min_mod_revision, request.max_mod_revision)
                && is_within(record.create_revision, request.min_create_revision, request.max_create_revision)
        });
        match request.sort_target {
            0 => {}
            1 => kvs.sort_by_key(|record| record.version * sign(request)),
            2 => kvs.sort_by_key(|record| record.create_revision * sign(request)),
            3 => kvs.sort_by_key(|record| record.mod_revision * sign(request)),
            _ => kvs.sort_by(|a, b| if sign(request) > 0 { a.value.cmp(&b.value) } else { b.value.cmp(&a.value) }),
        }
        if request.sort_target == 0 && sign(request) < 0 {
            kvs.reverse();
        }
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if request.keys_only {
            kvs.iter_mut().for_each(|record| record.value = Bytes::new());
        }
        Ok(RangeResponse { header, kvs, more, count })
    }
}

fn sign(request: &RangeRequest) -> i64 {
    if request.sort_order == 2 { -1 } else { 1 }
}

fn holds(compare: &Compare, record: &KeyValue) -> bool {
    let ordering = match compare.target_union.as_ref().unwrap() {
        TargetUnion::Version(given) => record.version.cmp(given),
        TargetUnion::CreateRevision(given) => record.create_revision.cmp(given),
        TargetUnion::ModRevision(given) => record.mod_revision.cmp(given),
        TargetUnion::Value(given) => record.value.cmp(given),
        TargetUnion::Lease(given) => record.lease.cmp(given),
    };
    match compare.result() {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::NotEqual => ordering.is_ne(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
    }
}
