//! What memory, disk and quota hold, and what happens where they do not.

use ringmesh_proto::etcd::etcdserverpb::{compare::TargetUnion, request_op::Request};

use super::{request::*, *};

#[test]
fn while_there_is_no_room_nothing_is_put_and_all_else_goes_on() {
    let mut kv = four();
    propose(&mut kv, alarm(AlarmAction::Activate, AlarmType::Nospace)).unwrap();
    let puts = |success, failure| Change::Txn(txn(vec![], success, failure));
    let one = || Request::RequestPut(put_of("a", "5"));
    for (change, expected) in [
        (put("a", "5"), Err(Refusal::NoSpace)),
        (puts(vec![], vec![one()]), Err(Refusal::NoSpace)),
        (puts(vec![Request::RequestTxn(txn(vec![], vec![one()], vec![]))], vec![]), Err(Refusal::NoSpace)),
        (grant(1, 60), Err(Refusal::NoSpace)),
        (delete("a", ""), Ok(())),
        (compaction(3), Ok(())),
        (alarm(AlarmAction::Deactivate, AlarmType::Nospace), Ok(())),
        (put("a", "5"), Ok(())),
        (alarm(AlarmAction::Activate, AlarmType::Corrupt), Ok(())),
        (delete("a", ""), Err(Refusal::Corrupt)),
        (compaction(4), Err(Refusal::Corrupt)),
    ] {
        assert_eq!(apply(&mut kv, change.clone()).map(drop), expected, "{change:?}");
    }
    assert_eq!(kv.range(&range_of("a", "")).unwrap().count, 1);
}

#[test]
fn alarms_are_listed_and_ended_one_by_one() {
    let mut kv = empty();
    let mut kinds = |action, kind| {
        let Ok(Outcome::Alarm(response)) = apply(&mut kv, alarm(action, kind)) else { panic!() };
        response.alarms.iter().map(|alarm| alarm.alarm).collect::<Vec<_>>()
    };
    assert_eq!(kinds(AlarmAction::Get, AlarmType::None), []);
    assert_eq!(kinds(AlarmAction::Deactivate, AlarmType::Nospace), []);
    assert_eq!(kinds(AlarmAction::Activate, AlarmType::Nospace), [1]);
    assert_eq!(kinds(AlarmAction::Activate, AlarmType::Nospace), [1]);
    assert_eq!(kinds(AlarmAction::Activate, AlarmType::Corrupt), [2]);
    assert_eq!(kinds(AlarmAction::Get, AlarmType::None), [1, 2]);
    assert_eq!(kinds(AlarmAction::Get, AlarmType::Corrupt), [2]);
    assert_eq!(kinds(AlarmAction::Deactivate, AlarmType::Nospace), [1]);
    assert_eq!(kinds(AlarmAction::Get, AlarmType::None), [2]);
}

#[test]
fn the_quota_counts_what_is_not_compacted_away() {
    let mut kv = Kv::open(Memory::default(), Settings { quota_bytes: 4096, ..Settings::default() }).unwrap();
    let large = "x".repeat(800);
    let mut puts = 0;
    while propose(&mut kv, put("a", &large)).is_ok() {
        puts += 1;
        checkpoint(&mut kv);
    }
    assert_eq!((puts, propose(&mut kv, put("a", &large))), (4, Err(Refusal::NoSpace)));
    propose(&mut kv, delete("b", "")).unwrap();
    let newest = kv.revision();
    propose(&mut kv, compaction(newest)).unwrap();
    kv.tidy_all();
    assert!(kv.size_in_use() > 3000, "it is on disk still");
    checkpoint(&mut kv);
    assert!(kv.size_in_use() < 1000);
    propose(&mut kv, put("a", &large)).unwrap();
    let in_use = kv.size_in_use();
    checkpoint(&mut kv);
    assert_eq!(kv.size_in_use(), in_use);
    assert!(kv.size_bytes() > 0);
}

#[test]
fn leases_take_room_and_give_it_back() {
    let backend = Memory::default();
    let settings = || Settings { quota_bytes: 4096, ..Settings::default() };
    let mut kv = Kv::open(backend.clone(), settings()).unwrap();
    let mut leases = 0;
    while propose(&mut kv, grant(leases + 1, 60)).is_ok() {
        leases += 1;
    }
    assert_eq!((leases, propose(&mut kv, put("a", "1"))), (32, Err(Refusal::NoSpace)));
    let in_use = kv.size_in_use();
    checkpoint(&mut kv);
    drop(kv);
    let mut kv = Kv::open(backend, settings()).unwrap();
    assert_eq!((kv.size_in_use(), propose(&mut kv, grant(99, 60))), (in_use, Err(Refusal::NoSpace)));
    propose(&mut kv, revoke(1)).unwrap();
    propose(&mut kv, grant(99, 60)).unwrap();
}

#[test]
fn there_are_so_many_alarms_and_a_full_store_can_still_say_so() {
    let mut kv = Kv::open(Memory::default(), Settings { quota_bytes: 0, ..Settings::default() }).unwrap();
    let alarm = |member_id| {
        let (action, alarm) = (AlarmAction::Activate.into(), AlarmType::Nospace.into());
        Change::Alarm(AlarmRequest { action, member_id, alarm })
    };
    (0..256).for_each(|member| _ = propose(&mut kv, alarm(member)).unwrap());
    assert_eq!(propose(&mut kv, alarm(256)), Err(Refusal::TooManyRequests));
    propose(&mut kv, alarm(255)).unwrap();
    assert_eq!(kv.alarms(AlarmType::Nospace).len(), 256);
}

#[test]
fn a_full_store_asks_for_the_checkpoint_that_makes_room() {
    let mut kv = Kv::open(Memory::default(), Settings { quota_bytes: 1000, ..Settings::default() }).unwrap();
    apply(&mut kv, put("a", &"x".repeat(900))).unwrap();
    apply(&mut kv, put("a", "y")).unwrap();
    checkpoint(&mut kv);
    assert!(!kv.checkpoint_due());
    propose(&mut kv, compaction(3)).unwrap();
    kv.tidy_all();
    assert!(kv.checkpoint_due());
    checkpoint(&mut kv);
    assert!(!kv.checkpoint_due());
    propose(&mut kv, put("a", "z")).unwrap();
}

#[test]
fn a_checkpoint_is_due_when_much_is_pending() {
    let mut kv = empty();
    assert!(kv.begin_checkpoint().is_none(), "there is nothing to write");
    let large = "x".repeat(1 << 20);
    (0..3).for_each(|_| _ = propose(&mut kv, put("a", &large)).unwrap());
    assert!(!kv.checkpoint_due());
    propose(&mut kv, put("a", &large)).unwrap();
    assert!(kv.checkpoint_due());
    let checkpoint = kv.begin_checkpoint().unwrap();
    assert!(!kv.checkpoint_due() && kv.begin_checkpoint().is_none(), "one is under way");
    assert_eq!(record(&kv, "a").unwrap().version, 4, "what is being written is read meanwhile");
    let written = checkpoint.write().unwrap();
    assert_eq!(kv.end_checkpoint(written), 4);
}

#[test]
fn a_checkpoint_is_due_when_the_log_is_long_though_all_of_it_was_refused() {
    let mut kv = empty();
    let large = "x".repeat(1 << 20);
    let refused = || Change::Put(PutRequest { lease: 99, ..put_of("a", &large) });
    let fails = compare(0, 0, "a", "", TargetUnion::Version(1));
    let fails = || Change::Txn(txn(vec![fails.clone()], vec![Request::RequestPut(put_of("a", &large))], vec![]));
    for _ in 0..7 {
        assert_eq!(propose(&mut kv, refused()), Err(Refusal::LeaseNotFound));
        propose(&mut kv, fails()).unwrap();
    }
    assert!(!kv.checkpoint_due());
    (0..2).for_each(|_| _ = propose(&mut kv, fails()).unwrap());
    assert!(kv.checkpoint_due(), "the log is cut by checkpoints alone");
    checkpoint(&mut kv);
    assert!(!kv.checkpoint_due());
}

#[test]
fn a_transaction_that_reads_too_much_is_refused_before_it_writes() {
    let mut kv = empty();
    (0..100).for_each(|number| _ = propose(&mut kv, put(&format!("k{number}"), "1")).unwrap());
    propose(&mut kv, put("large", &"x".repeat(300_000))).unwrap();
    let range = |key: &str, end: &str| Request::RequestRange(range_of(key, end));
    let counts = || Request::RequestRange(RangeRequest { count_only: true, ..range_of("k", "l") });
    let limited = || Request::RequestRange(RangeRequest { limit: 1, ..range_of("large", "m") });
    let deletes = |key: &str| DeleteRangeRequest { key: bytes(key), range_end: bytes("\0"), prev_kv: true };
    let all = compare(3, 0, "k", "l", TargetUnion::Version(9));
    let large_put = || Request::RequestPut(put_of("new", &"x".repeat(300_000)));
    for (compares, mut ops, expected) in [
        (0, vec![range("k", "l"); 10], Ok(())),
        (0, vec![range("k", "l"); 11], Err(Refusal::TooManyOps)),
        (0, vec![counts(); 11], Err(Refusal::TooManyOps)),
        (0, vec![Request::RequestTxn(txn(vec![], vec![range("k", "l"); 11], vec![]))], Err(Refusal::TooManyOps)),
        (11, vec![], Err(Refusal::TooManyOps)),
        (5, vec![range("k", "l"); 5], Ok(())),
        (0, vec![limited(); 3], Ok(())),
        (0, vec![limited(); 4], Err(Refusal::TooManyOps)),
        (
            0,
            vec![
                large_put(),
                range("n", "o"),
                range("n", ""),
                range("new", ""),
                range("n", "o"),
                range("n", "o"),
                range("n", "o"),
            ],
            Err(Refusal::TooManyOps),
        ),
        (0, vec![range("n", "o"), range("large", ""), range("large", ""), range("large", ""), large_put()], Ok(())),
        (0, vec![Request::RequestDeleteRange(deletes("l")); 4], Err(Refusal::TooManyOps)),
    ] {
        ops.insert(0, Request::RequestPut(put_of("first", "1")));
        let before = kv.revision();
        let refused = apply(&mut kv, Change::Txn(txn(vec![all.clone(); compares], ops, vec![]))).map(drop);
        assert_eq!((refused.clone(), kv.revision()), (expected, before + i64::from(refused.is_ok())));
    }
    assert_eq!(kv.read(&txn(vec![], vec![range("k", "l"); 11], vec![])), Err(Refusal::TooManyOps));
}

#[test]
fn what_is_put_does_not_keep_the_command_that_it_came_with() {
    let mut kv = empty();
    let stream = kv.open_stream();
    kv.watch(stream, &WatchCreateRequest { key: bytes("k"), ..Default::default() });
    let command = Bytes::from(b"key and value, and much else".to_vec());
    let request = PutRequest { key: command.slice(0..1), value: command.slice(8..13), ..PutRequest::default() };
    propose(&mut kv, Change::Put(request)).unwrap();
    assert!(command.is_unique());
    assert_eq!(record(&kv, "k").unwrap().value, "value");
}

#[test]
fn reads_and_writes_go_on_while_another_thread_writes_a_checkpoint() {
    let mut kv = Kv::open(Memory::default(), Settings { cache_bytes: 64 << 10, ..Settings::default() }).unwrap();
    let mut expected = std::collections::BTreeMap::new();
    let mut step = |kv: &mut Kv, number: u64| {
        let (key, value) = (format!("{:03}", number * 7919 % 500), format!("{number:0500}"));
        propose(kv, put(&key, &value)).unwrap();
        expected.insert(key, value);
        let read = format!("{:03}", number * 104_729 % 500);
        assert_eq!(record(kv, &read).map(|record| record.value), expected.get(&read).map(|value| bytes(value)));
    };
    let mut number = 0;
    for round in 0..40 {
        (0..100).for_each(|_| step(&mut kv, number + round));
        let newest = kv.revision();
        propose(&mut kv, compaction(newest - 20)).unwrap();
        let checkpoint = kv.begin_checkpoint().unwrap();
        let written = std::thread::scope(|scope| {
            let writing = scope.spawn(|| checkpoint.write().unwrap());
            for _ in 0..200 {
                number += 1;
                step(&mut kv, number);
                kv.tidy();
            }
            writing.join().unwrap()
        });
        kv.end_checkpoint(written);
    }
}

#[test]
fn when_writing_does_not_keep_up_nothing_more_is_taken() {
    let mut kv = empty();
    let large = "x".repeat(1 << 20);
    (0..4).for_each(|_| _ = propose(&mut kv, put("a", &large)).unwrap());
    let checkpoint = kv.begin_checkpoint().unwrap();
    (0..32).for_each(|_| _ = propose(&mut kv, put("a", &large)).unwrap());
    assert!(kv.is_backed_up());
    assert_eq!(kv.check(&put("a", "1")), Err(Refusal::TooManyRequests));
    assert_eq!(kv.check(&delete("a", "")), Ok(()));
    let written = checkpoint.write().unwrap();
    kv.end_checkpoint(written);
    assert!(kv.is_backed_up() && kv.checkpoint_due());
    kv.begin_checkpoint().unwrap();
    assert!(!kv.is_backed_up());
    propose(&mut kv, put("a", "1")).unwrap();
}

#[test]
fn after_a_failure_of_the_disk_watches_hear_of_no_revision_and_of_none_twice() {
    let memory = Memory::default();
    let open = || Kv::open(memory.clone(), Settings { cache_bytes: 0, ..Settings::default() }).unwrap();
    let mut kv = open();
    propose(&mut kv, put("a", "1")).unwrap();
    // More pages than redb keeps whatever its cache.
    (0..64).for_each(|_| _ = propose(&mut kv, put("large", &"x".repeat(4096))).unwrap());
    checkpoint(&mut kv);
    drop(kv);
    let mut kv = open();
    propose(&mut kv, put("b", "1")).unwrap();
    let (before, stream) = (kv.revision(), kv.open_stream());
    let watch = |start_revision| WatchCreateRequest {
        key: bytes("a"),
        range_end: bytes("c"),
        prev_kv: true,
        start_revision,
        ..Default::default()
    };
    [0, before].into_iter().for_each(|start| kv.watch(stream, &watch(start)));
    memory.fail_reads();
    assert!(matches!(propose(&mut kv, put("a", "2")), Err(Refusal::Storage(_))));
    assert_eq!(kv.revision(), before);
    assert!(!kv.catch_up());
    let answers = std::iter::from_fn(|| kv.poll_watch(stream, 999));
    assert!(answers.into_iter().all(|answer| answer.created));
}

#[test]
fn after_a_failure_of_the_disk_nothing_is_applied_or_written() {
    let memory = Memory::default();
    let open = || Kv::open(memory.clone(), Settings { cache_bytes: 0, ..Settings::default() }).unwrap();
    let mut kv = open();
    propose(&mut kv, put("a", "1")).unwrap();
    // More pages than redb keeps whatever its cache.
    (0..64).for_each(|_| _ = propose(&mut kv, put("large", &"x".repeat(4096))).unwrap());
    checkpoint(&mut kv);
    drop(kv);
    let mut kv = open();
    memory.fail_reads();
    let reads = Change::Put(PutRequest { prev_kv: true, ..put_of("a", "2") });
    assert!(matches!(propose(&mut kv, reads), Err(Refusal::Storage(_))));
    assert!(matches!(propose(&mut kv, put("b", "1")), Err(Refusal::Storage(_))));
    assert!(matches!(kv.range(&range_of("b", "")), Err(Refusal::Storage(_))));
    assert!(kv.begin_checkpoint().is_none());
}

#[test]
fn who_compacts_often_has_all_keys_cleared_up() {
    let mut kv = empty();
    let keys: Vec<String> = (10..40).map(|number| format!("k{number}")).collect();
    for _ in 0..2 {
        keys.iter().for_each(|key| _ = propose(&mut kv, put(key, "1")).unwrap());
    }
    let once = kv.size_in_use() / 2;
    for _ in 0..40 {
        propose(&mut kv, put("k10", "1")).unwrap();
        let newest = kv.revision();
        propose(&mut kv, compaction(newest)).unwrap();
        kv.tidy();
    }
    // Of the key that is written on and on some versions wait for the next time round.
    assert!(kv.size_in_use() < once + once / 2, "{} bytes, {once} are needed", kv.size_in_use());
    kv.tidy_all();
    assert_eq!(kv.size_in_use(), once, "keys before and after the one at which a compaction came");
}

#[test]
fn a_turn_of_clearing_up_is_short_though_one_key_has_many_versions() {
    let mut kv = empty();
    (0..10).for_each(|_| _ = propose(&mut kv, put("a", "1")).unwrap());
    let one = kv.size_in_use() / 10;
    propose(&mut kv, compaction(11)).unwrap();
    let mut sizes = Vec::new();
    while kv.tidy() {
        sizes.push(kv.size_in_use() / one);
    }
    assert_eq!(sizes, [7, 4]);
    assert_eq!((kv.size_in_use() / one, record(&kv, "a").unwrap().version), (1, 10));
}
