//! Random commands over a handful of keys, so that they meet.

use proptest::prelude::*;
use ringmesh_proto::etcd::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RequestOp,
    compare::TargetUnion, request_op::Request,
};

use super::*;

fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "b", "ba", "bb", "c"]).prop_map(|key| Bytes::from_static(key.as_bytes()))
}

fn end() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        3 => Just(Bytes::new()),
        1 => Just(Bytes::from_static(b"\0")),
        3 => key(),
    ]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(0..3_u8, 0..3).prop_map(Bytes::from)
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![3 => Just(0), 1 => 1..4_i64]
}

fn put() -> impl Strategy<Value = PutRequest> {
    (key(), value(), lease(), any::<bool>(), 0..6_u8).prop_map(|(key, value, lease, prev_kv, keep)| {
        let (ignore_value, ignore_lease) = (keep == 0 || keep == 1, keep == 0 || keep == 2);
        PutRequest {
            key,
            value: if ignore_value { Bytes::new() } else { value },
            lease: if ignore_lease { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        }
    })
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest { key, range_end, prev_kv })
}

pub(super) fn range() -> impl Strategy<Value = RangeRequest> {
    let revision = prop_oneof![2 => Just(0), 1 => -2..20_i64];
    let bound = || prop_oneof![4 => Just(0), 1 => 1..20_i64];
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    let bounds = (bound(), bound(), bound(), bound());
    (key(), end(), 0..4_i64, revision, (0..3, 0..5), flags, bounds).prop_map(
        |(key, range_end, limit, revision, (sort_order, sort_target), (keys_only, count_only), bounds)| RangeRequest {
            key,
            range_end,
            limit,
            revision,
            sort_order,
            sort_target,
            serializable: false,
            keys_only,
            count_only,
            min_mod_revision: bounds.0,
            max_mod_revision: bounds.1,
            min_create_revision: bounds.2,
            max_create_revision: bounds.3,
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    (key(), end(), 0..4, 0..5, 0..6_i64, value()).prop_map(|(key, range_end, result, target, number, value)| {
        let union = match target {
            0 => TargetUnion::Version(number),
            1 => TargetUnion::CreateRevision(number),
            2 => TargetUnion::ModRevision(number),
            3 => TargetUnion::Value(value),
            _ => TargetUnion::Lease(number),
        };
        Compare { result, target, key, range_end, target_union: Some(union) }
    })
}

pub(super) fn txn() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        range().prop_map(Request::RequestRange),
        put().prop_map(Request::RequestPut),
        delete().prop_map(Request::RequestDeleteRange),
    ];
    let op = leaf.prop_recursive(2, 8, 3, |op| of_ops(op).prop_map(Request::RequestTxn));
    of_ops(op)
}

fn of_ops(op: impl Strategy<Value = Request> + Clone) -> impl Strategy<Value = TxnRequest> {
    let ops = move || {
        let op = op.clone().prop_map(|request| RequestOp { request: Some(request) });
        prop::collection::vec(op, 0..4)
    };
    (prop::collection::vec(compare(), 0..3), ops(), ops()).prop_map(|(compare, success, failure)| TxnRequest {
        compare,
        success,
        failure,
    })
}

pub(super) fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => put().prop_map(Change::Put),
        3 => delete().prop_map(Change::DeleteRange),
        6 => txn().prop_map(Change::Txn),
        2 => (0..16_i64, any::<bool>())
            .prop_map(|(revision, physical)| Change::Compaction(CompactionRequest { revision, physical })),
        2 => (1..4_i64, 0..9_i64).prop_map(|(id, ttl)| Change::LeaseGrant(LeaseGrantRequest { ttl, id })),
        1 => (1..4_i64).prop_map(|id| Change::LeaseRevoke(LeaseRevokeRequest { id })),
    ]
}
