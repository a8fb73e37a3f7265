//! Requests in few words.

use ringmesh_proto::etcd::{
    etcdserverpb::{Compare, LeaseRevokeRequest, RequestOp, compare::TargetUnion, request_op::Request},
    mvccpb::KeyValue,
};

use super::*;

pub(super) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(super) fn put_of(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..PutRequest::default() }
}

pub(super) fn put(key: &str, value: &str) -> Change {
    Change::Put(put_of(key, value))
}

pub(super) fn delete(key: &str, end: &str) -> Change {
    Change::DeleteRange(DeleteRangeRequest { key: bytes(key), range_end: bytes(end), prev_kv: false })
}

pub(super) fn grant(id: i64, ttl: i64) -> Change {
    Change::LeaseGrant(LeaseGrantRequest { ttl, id })
}

pub(super) fn revoke(id: i64) -> Change {
    Change::LeaseRevoke(LeaseRevokeRequest { id })
}

pub(super) fn compaction(revision: i64) -> Change {
    Change::Compaction(CompactionRequest { revision, physical: false })
}

pub(super) fn alarm(action: AlarmAction, kind: AlarmType) -> Change {
    Change::Alarm(AlarmRequest { action: action.into(), member_id: 1, alarm: kind.into() })
}

pub(super) fn txn(compare: Vec<Compare>, success: Vec<Request>, failure: Vec<Request>) -> TxnRequest {
    let ops = |requests: Vec<Request>| requests.into_iter().map(|of| RequestOp { request: Some(of) }).collect();
    TxnRequest { compare, success: ops(success), failure: ops(failure) }
}

pub(super) fn compare(result: i32, target: i32, key: &str, end: &str, union: TargetUnion) -> Compare {
    Compare { result, target, key: bytes(key), range_end: bytes(end), target_union: Some(union) }
}

pub(super) fn range_of(key: &str, end: &str) -> RangeRequest {
    RangeRequest { key: bytes(key), range_end: bytes(end), ..RangeRequest::default() }
}

pub(super) fn record(kv: &Kv, key: &str) -> Option<KeyValue> {
    kv.range(&range_of(key, "")).unwrap().kvs.pop()
}

pub(super) fn keys(response: &RangeResponse) -> Vec<&str> {
    response.kvs.iter().map(|record| str::from_utf8(&record.key).unwrap()).collect()
}

/// Four keys, whose values fall as their keys rise.
pub(super) fn four() -> Kv {
    let mut kv = empty();
    for (key, value) in [("a", "4"), ("b", "3"), ("c", "2"), ("d", "1")] {
        propose(&mut kv, put(key, value)).unwrap();
    }
    kv
}
