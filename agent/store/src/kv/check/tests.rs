use bytes::Bytes;
use ringmesh_proto::etcd::etcdserverpb::Compare;

use super::*;

fn put_op(key: &'static str) -> RequestOp {
    let request = PutRequest { key: Bytes::from(key), ..PutRequest::default() };
    RequestOp { request: Some(Request::RequestPut(request)) }
}

fn delete_op(key: &'static str, end: &'static str) -> RequestOp {
    let request = DeleteRangeRequest { key: Bytes::from(key), range_end: Bytes::from(end), prev_kv: false };
    RequestOp { request: Some(Request::RequestDeleteRange(request)) }
}

fn txn_op(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    RequestOp { request: Some(Request::RequestTxn(TxnRequest { compare: Vec::new(), success, failure })) }
}

fn checked(success: Vec<RequestOp>) -> Result<(), Refusal> {
    txn(&TxnRequest { compare: Vec::new(), success, failure: Vec::new() }, 128)
}

#[test]
fn no_key_is_written_twice() {
    let twice = Err(Refusal::DuplicateKey);
    for (ops, expected) in [
        (vec![put_op("a"), put_op("b")], Ok(())),
        (vec![put_op("a"), put_op("a")], twice.clone()),
        (vec![put_op("b"), delete_op("a", "c")], twice.clone()),
        (vec![delete_op("a", "c"), put_op("b")], twice.clone()),
        (vec![delete_op("a", "c"), put_op("c")], Ok(())),
        (vec![delete_op("a", ""), put_op("a")], twice.clone()),
        (vec![delete_op("a", "c"), delete_op("b", "d"), delete_op("a", "")], Ok(())),
        (vec![delete_op("a", "c"), delete_op("b", "d"), put_op("c")], twice.clone()),
        (vec![delete_op("c", "e"), delete_op("a", "b"), delete_op("b", "d"), put_op("d")], twice.clone()),
        (vec![delete_op("a", "\0"), put_op("a")], Ok(())),
        (vec![delete_op("b", "a"), put_op("b")], Ok(())),
        (vec![delete_op("a", "\0"), put_op("b")], Ok(())),
        (vec![txn_op(vec![put_op("a")], vec![put_op("a")])], Ok(())),
        (vec![txn_op(vec![put_op("a")], vec![put_op("a")]), put_op("a")], twice.clone()),
        (vec![txn_op(vec![put_op("a")], vec![]), txn_op(vec![], vec![put_op("a")])], twice.clone()),
        (vec![txn_op(vec![delete_op("a", "c")], vec![]), put_op("b")], twice.clone()),
        (vec![txn_op(vec![put_op("b")], vec![]), delete_op("a", "c")], twice.clone()),
        (vec![txn_op(vec![delete_op("a", "c")], vec![put_op("b")])], Ok(())),
    ] {
        assert_eq!(checked(ops.clone()), expected, "{ops:?}");
    }
}

#[test]
fn transactions_have_limits() {
    let puts = |count: usize| (0..count).map(|_| delete_op("a", "")).collect::<Vec<_>>();
    assert_eq!(checked(puts(128)), Ok(()));
    assert_eq!(checked(puts(129)), Err(Refusal::TooManyOps));
    let mut around = puts(27);
    around.push(txn_op(puts(100), vec![]));
    assert_eq!(checked(around.clone()), Ok(()));
    around.push(txn_op(vec![], puts(100)));
    assert_eq!(checked(around), Err(Refusal::TooManyOps), "what is inside counts beside what is around it");
    assert_eq!(checked(vec![RequestOp { request: None }]), Err(Refusal::KeyNotFound));
    assert_eq!(checked(vec![put_op("")]), Err(Refusal::EmptyKey));
    let compare = vec![Compare::default()];
    let request = TxnRequest { compare, ..TxnRequest::default() };
    assert_eq!(txn(&request, 128), Err(Refusal::EmptyKey));
}

#[test]
fn what_is_inside_is_bounded_in_all() {
    let deletes = |count: usize| (0..count).map(|_| delete_op("a", "")).collect::<Vec<_>>();
    let wide = |inner: usize| (0..10).map(|_| txn_op(deletes(inner), vec![])).collect::<Vec<_>>();
    assert_eq!(checked(wide(101)), Ok(()));
    assert_eq!(checked(wide(102)), Err(Refusal::TooManyOps));
    let deep = |levels: usize| (1..levels).fold(deletes(1), |inner, _| vec![txn_op(inner, vec![])]);
    assert_eq!(checked(deep(32)), Ok(()));
    assert_eq!(checked(deep(33)), Err(Refusal::TooManyOps));
}

#[test]
fn puts_keep_or_give() {
    let key = Bytes::from("a");
    let value = PutRequest { key: key.clone(), value: key.clone(), ignore_value: true, ..PutRequest::default() };
    assert_eq!(put(&value), Err(Refusal::ValueProvided));
    let lease = PutRequest { key, lease: 1, ignore_lease: true, ..PutRequest::default() };
    assert_eq!(put(&lease), Err(Refusal::LeaseProvided));
}

#[test]
fn orders_that_there_are_not_are_refused() {
    let request = RangeRequest { key: Bytes::from("a"), sort_order: 3, ..RangeRequest::default() };
    assert_eq!(range(&request), Err(Refusal::InvalidSortOption));
    let request = RangeRequest { key: Bytes::from("a"), sort_target: 5, ..RangeRequest::default() };
    assert_eq!(range(&request), Err(Refusal::InvalidSortOption));
}
