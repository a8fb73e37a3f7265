//! What was measured of etcd 3.4.23, a table each.

use ringmesh_proto::etcd::etcdserverpb::{
    ResponseOp, compare::TargetUnion, request_op::Request, response_op::Response,
};

use super::{request::*, *};

#[test]
fn only_what_changes_keys_makes_a_revision_and_only_one() {
    let mut kv = empty();
    let two = txn(vec![], vec![Request::RequestPut(put_of("x", "1")), Request::RequestPut(put_of("y", "1"))], vec![]);
    let leased = |key: &str| Change::Put(PutRequest { lease: 5, ..put_of(key, "1") });
    for (change, expected) in [
        (delete("a", ""), 1),
        (put("a", "1"), 2),
        (Change::Txn(TxnRequest::default()), 2),
        (Change::Txn(txn(vec![], vec![Request::RequestRange(range_of("a", ""))], vec![])), 2),
        (Change::Txn(two), 3),
        (grant(5, 60), 3),
        (leased("l1"), 4),
        (leased("l2"), 5),
        (revoke(5), 6),
        (grant(5, 60), 6),
        (revoke(5), 6),
        (delete("\0", "\0"), 7),
        (delete("\0", "\0"), 7),
        (compaction(7), 7),
    ] {
        propose(&mut kv, change.clone()).unwrap();
        assert_eq!(kv.revision(), expected, "{change:?}");
    }
}

#[test]
fn a_key_that_is_made_again_begins_anew() {
    let mut kv = empty();
    let changes = [put("a", "1"), put("a", "2"), delete("a", ""), put("a", "3")];
    changes.into_iter().for_each(|change| _ = propose(&mut kv, change).unwrap());
    let record = record(&kv, "a").unwrap();
    assert_eq!((record.create_revision, record.mod_revision, record.version), (5, 5, 1));
}

#[test]
fn conditions_inside_are_of_the_state_before_and_ranges_see_what_was_put() {
    let mut kv = empty();
    let exists = compare(1, 0, "new", "", TargetUnion::Version(0));
    let inner = txn(vec![exists], vec![], vec![Request::RequestPut(put_of("inner", "failed"))]);
    let outer = vec![
        Request::RequestPut(put_of("new", "1")),
        Request::RequestTxn(inner),
        Request::RequestRange(range_of("new", "")),
    ];
    let Outcome::Txn(response) = propose(&mut kv, Change::Txn(txn(vec![], outer, vec![]))).unwrap() else { panic!() };
    let [
        _,
        ResponseOp { response: Some(Response::ResponseTxn(inner)) },
        ResponseOp { response: Some(Response::ResponseRange(range)) },
    ] = &response.responses[..]
    else {
        panic!("{response:?}")
    };
    assert!(!inner.succeeded && inner.header == Some(ResponseHeader::default()));
    assert_eq!((keys(range), range.header.as_ref().unwrap().revision), (vec!["new"], 2));
    assert_eq!(response.header.unwrap().revision, 2);
}

#[test]
fn what_is_missing_compares_as_zeros_and_its_value_as_nothing() {
    let kv = four();
    let value = |text| TargetUnion::Value(bytes(text));
    for (compare, expected) in [
        (compare(0, 0, "no", "", TargetUnion::Version(0)), true),
        (compare(0, 1, "no", "", TargetUnion::CreateRevision(0)), true),
        (compare(2, 2, "no", "", TargetUnion::ModRevision(1)), true),
        (compare(0, 4, "no", "", TargetUnion::Lease(0)), true),
        (compare(0, 3, "no", "", value("")), false),
        (compare(3, 3, "no", "", value("x")), false),
        (compare(0, 0, "m", "z", TargetUnion::Version(0)), true),
        (compare(3, 3, "m", "z", value("x")), false),
        (compare(0, 0, "a", "z", TargetUnion::Version(1)), true),
        (compare(2, 1, "a", "z", TargetUnion::CreateRevision(5)), false),
        (compare(1, 3, "a", "\0", value("0")), true),
        (compare(1, 3, "a", "\0", value("1")), false),
        (compare(9, 0, "a", "", TargetUnion::Version(7)), true),
        (compare(0, 9, "a", "", TargetUnion::Version(7)), true),
        (compare(1, 9, "a", "", TargetUnion::Version(7)), false),
        (compare(1, 0, "a", "", value("a number of another kind counts as 0")), true),
    ] {
        let response = kv.read(&txn(vec![compare.clone()], vec![], vec![])).unwrap();
        assert_eq!(response.succeeded, expected, "{compare:?}");
    }
}

#[test]
fn ranges_count_what_they_do_not_return() {
    let kv = four();
    let all = range_of("a", "z");
    for (request, expected, count, more) in [
        (RangeRequest { limit: 2, ..all.clone() }, vec!["a", "b"], 4, true),
        (RangeRequest { limit: 4, ..all.clone() }, vec!["a", "b", "c", "d"], 4, false),
        (RangeRequest { limit: -3, ..all.clone() }, vec!["a", "b", "c", "d"], 4, false),
        (RangeRequest { min_mod_revision: 4, limit: 1, ..all.clone() }, vec!["c"], 4, true),
        (RangeRequest { max_create_revision: 2, ..all.clone() }, vec!["a"], 4, false),
        (RangeRequest { count_only: true, limit: 2, ..all.clone() }, vec![], 4, false),
        (RangeRequest { sort_order: 2, limit: 2, ..all.clone() }, vec!["d", "c"], 4, true),
        (RangeRequest { sort_target: 4, ..all.clone() }, vec!["d", "c", "b", "a"], 4, false),
        (RangeRequest { sort_target: 4, limit: 2, ..all.clone() }, vec!["c", "b"], 4, true),
        (RangeRequest { revision: -3, ..range_of("a", "") }, vec!["a"], 1, false),
        (RangeRequest { revision: 3, ..all.clone() }, vec!["a", "b"], 2, false),
        (range_of("c", "\0"), vec!["c", "d"], 2, false),
        (range_of("c", "a"), vec![], 0, false),
        (range_of("c", "c"), vec![], 0, false),
    ] {
        let response = kv.range(&request).unwrap();
        assert_eq!((keys(&response), response.count, response.more), (expected, count, more), "{request:?}");
    }
    let response = kv.range(&RangeRequest { keys_only: true, ..all }).unwrap();
    assert!(response.kvs.iter().all(|record| record.value.is_empty() && record.version == 1));
}

#[test]
fn revisions_that_are_compacted_or_to_come_are_refused() {
    let mut kv = four();
    let read = |kv: &Kv, revision| kv.range(&RangeRequest { revision, ..range_of("a", "") }).map(|found| found.count);
    assert_eq!(propose(&mut kv, compaction(0)).map(drop), Ok(()), "once, as long as nothing was");
    for (revision, expected) in [
        (0, Err(Refusal::Compacted)),
        (6, Err(Refusal::FutureRevision)),
        (4, Ok(())),
        (4, Err(Refusal::Compacted)),
        (3, Err(Refusal::Compacted)),
    ] {
        assert_eq!(propose(&mut kv, compaction(revision)).map(drop), expected, "{revision}");
    }
    assert_eq!((read(&kv, 3), read(&kv, 4), read(&kv, 5)), (Err(Refusal::Compacted), Ok(1), Ok(1)));
    assert_eq!(read(&kv, 6), Err(Refusal::FutureRevision));
    let future = Request::RequestRange(RangeRequest { revision: 6, ..range_of("a", "") });
    let puts_and_reads = txn(vec![], vec![Request::RequestPut(put_of("a", "5")), future], vec![]);
    assert_eq!(propose(&mut kv, Change::Txn(puts_and_reads)), Err(Refusal::FutureRevision));
    assert_eq!(record(&kv, "a").unwrap().value, "4", "a refused transaction changes nothing");
}

#[test]
fn leases_are_looked_for_before_keys_but_in_transactions_after() {
    let mut kv = empty();
    let keeps = PutRequest { lease: 99, ignore_value: true, ..put_of("no", "") };
    assert_eq!(propose(&mut kv, Change::Put(keeps.clone())), Err(Refusal::LeaseNotFound));
    let inside = txn(vec![], vec![Request::RequestPut(keeps)], vec![]);
    assert_eq!(propose(&mut kv, Change::Txn(inside)), Err(Refusal::KeyNotFound));
    assert_eq!(propose(&mut kv, revoke(99)), Err(Refusal::LeaseNotFound));
}

#[test]
fn a_put_may_keep_what_is_there() {
    let mut kv = empty();
    propose(&mut kv, grant(7, 60)).unwrap();
    propose(&mut kv, Change::Put(PutRequest { lease: 7, ..put_of("a", "1") })).unwrap();
    propose(&mut kv, Change::Put(PutRequest { ignore_lease: true, ..put_of("a", "2") })).unwrap();
    let kept = record(&kv, "a").unwrap();
    assert_eq!((kept.value, kept.lease, kept.version), (bytes("2"), 7, 2));
    propose(&mut kv, Change::Put(PutRequest { ignore_value: true, ..put_of("a", "") })).unwrap();
    let kept = record(&kv, "a").unwrap();
    assert_eq!((kept.value, kept.lease, kept.version), (bytes("2"), 0, 3));
    propose(&mut kv, revoke(7)).unwrap();
    assert!(record(&kv, "a").is_some(), "it is of the lease no more");
}

#[test]
fn what_is_too_large_is_refused() {
    let mut kv = empty();
    assert_eq!(propose(&mut kv, put("a", &"x".repeat(3 << 19))), Err(Refusal::RequestTooLarge));
}

#[test]
fn after_a_command_that_is_not_known_nothing_is_applied_or_written() {
    let mut kv = empty();
    let refused = kv.apply(1, 1, &Command::default());
    assert!(matches!(&refused, Err(Refusal::Storage(why)) if why.contains("entry 1 ")), "{refused:?}");
    assert_eq!(propose(&mut kv, put("a", "1")), refused);
    assert!(kv.begin_checkpoint().is_none(), "a newer version must find the entry in the log");
}

#[test]
fn hashes_differ_where_stores_do() {
    let hash = |kv: &mut Kv, revision| kv.begin_hash(revision).unwrap().run().unwrap().hash;
    let (mut one, mut other) = (four(), four());
    propose(&mut one, put("a", "5")).unwrap();
    propose(&mut other, put("a", "6")).unwrap();
    assert_eq!(hash(&mut one, 5), hash(&mut other, 5));
    assert_ne!(hash(&mut one, 0), hash(&mut other, 0));
    assert_ne!(hash(&mut one, 5), hash(&mut one, 6));
    assert_eq!(one.begin_hash(7).map(drop), Err(Refusal::FutureRevision));
}

#[test]
fn hashes_do_not_tell_how_far_clearing_up_has_come() {
    let hash = |kv: &mut Kv| kv.begin_hash(0).unwrap().run().unwrap().hash;
    let store = || {
        let mut kv = four();
        propose(&mut kv, put("a", "5")).unwrap();
        checkpoint(&mut kv);
        propose(&mut kv, compaction(6)).unwrap();
        kv
    };
    let (mut just_compacted, mut being_written, mut done) = (store(), store(), store());
    being_written.tidy_all();
    let checkpoint_under_way = being_written.begin_checkpoint().unwrap();
    done.tidy_all();
    checkpoint(&mut done);
    let expected = hash(&mut done);
    assert_eq!((hash(&mut just_compacted), hash(&mut being_written)), (expected, expected));
    drop(checkpoint_under_way);
}

#[test]
fn texts_and_codes_are_those_that_clients_know() {
    for (refusal, code, text) in [
        (Refusal::EmptyKey, 3, "etcdserver: key is not provided"),
        (Refusal::KeyNotFound, 3, "etcdserver: key not found"),
        (Refusal::ValueProvided, 3, "etcdserver: value is provided"),
        (Refusal::LeaseProvided, 3, "etcdserver: lease is provided"),
        (Refusal::TooManyOps, 3, "etcdserver: too many operations in txn request"),
        (Refusal::DuplicateKey, 3, "etcdserver: duplicate key given in txn request"),
        (Refusal::RequestTooLarge, 3, "etcdserver: request is too large"),
        (Refusal::Compacted, 11, "etcdserver: mvcc: required revision has been compacted"),
        (Refusal::FutureRevision, 11, "etcdserver: mvcc: required revision is a future revision"),
        (Refusal::NoSpace, 8, "etcdserver: mvcc: database space exceeded"),
        (Refusal::TooManyRequests, 8, "etcdserver: too many requests"),
        (Refusal::LeaseNotFound, 5, "etcdserver: requested lease not found"),
        (Refusal::LeaseExists, 9, "etcdserver: lease already exists"),
        (Refusal::LeaseTtlTooLarge, 11, "etcdserver: too large lease TTL"),
        (Refusal::Corrupt, 15, "etcdserver: corrupt cluster"),
    ] {
        assert_eq!((refusal.code() as i32, refusal.to_string().as_str()), (code, text));
    }
}
