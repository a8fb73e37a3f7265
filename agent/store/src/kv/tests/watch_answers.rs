//! What a watch is answered, a table each.

use ringmesh_proto::etcd::{
    etcdserverpb::{WatchResponse, request_op::Request},
    mvccpb::KeyValue,
};

use super::{request::*, *};

fn watch(kv: &mut Kv, request: WatchCreateRequest) -> Vec<WatchResponse> {
    let stream = kv.open_stream();
    kv.watch(stream, &request);
    kv.catch_up();
    std::iter::from_fn(|| kv.poll_watch(stream, 1 << 20)).collect()
}

#[test]
fn a_watch_that_begins_in_what_is_compacted_is_made_and_cancelled() {
    let mut kv = four();
    propose(&mut kv, compaction(4)).unwrap();
    let request = |start_revision| WatchCreateRequest { key: bytes("a"), start_revision, ..Default::default() };
    let [created, cancelled] = &watch(&mut kv, request(3))[..] else { panic!() };
    assert!(created.created && !created.canceled && created.header.as_ref().unwrap().revision == 5);
    assert!(cancelled.canceled && cancelled.compact_revision == 4);
    assert_eq!(cancelled.header.as_ref().unwrap().revision, 0);
    assert_eq!(watch(&mut kv, request(4)).len(), 1, "at the compacted revision it may begin");
}

#[test]
fn a_watch_may_begin_with_a_delete_at_the_compacted_revision() {
    let mut kv = four();
    propose(&mut kv, delete("a", "")).unwrap();
    propose(&mut kv, compaction(6)).unwrap();
    kv.tidy_all();
    checkpoint(&mut kv);
    let request = WatchCreateRequest { key: bytes("a"), start_revision: 6, ..Default::default() };
    let [_, told] = &watch(&mut kv, request)[..] else { panic!() };
    let expected = KeyValue { key: bytes("a"), mod_revision: 6, ..KeyValue::default() };
    assert_eq!((told.events[0].r#type, &told.events[0].kv), (1, &Some(expected)));
}

#[test]
fn watches_that_cannot_be_are_answered_with_a_reason() {
    let mut kv = four();
    let refused =
        &watch(&mut kv, WatchCreateRequest { key: bytes("b"), range_end: bytes("a"), ..Default::default() })[0];
    assert!(refused.created && refused.canceled && refused.watch_id == -1);
    assert_eq!(refused.cancel_reason, "mvcc: watcher range is empty");

    let stream = kv.open_stream();
    let of_id = |watch_id| WatchCreateRequest { key: bytes("a"), watch_id, ..Default::default() };
    kv.watch(stream, &WatchCreateRequest { key: bytes("b"), range_end: bytes("a"), ..Default::default() });
    assert!(kv.poll_watch(stream, 99).unwrap().canceled, "it takes no id");
    [1, 0, 0, 1].into_iter().for_each(|id| kv.watch(stream, &of_id(id)));
    let answers: Vec<_> = std::iter::from_fn(|| kv.poll_watch(stream, 99)).collect();
    assert_eq!(answers.iter().map(|answer| answer.watch_id).collect::<Vec<_>>(), [1, 0, 2, -1]);
    assert_eq!(answers[3].cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
}

#[test]
fn there_are_no_more_watches_than_there_may_be() {
    let mut kv = Kv::open(Memory::default(), Settings { watches_max: 2, ..Settings::default() }).unwrap();
    let stream = kv.open_stream();
    (0..3).for_each(|_| kv.watch(stream, &WatchCreateRequest { key: bytes("a"), ..Default::default() }));
    let answers: Vec<_> = std::iter::from_fn(|| kv.poll_watch(stream, 99)).collect();
    assert_eq!(answers.iter().map(|answer| answer.canceled).collect::<Vec<_>>(), [false, false, true]);
    kv.cancel_watch(stream, 0);
    kv.watch(stream, &WatchCreateRequest { key: bytes("a"), ..Default::default() });
    assert!(kv.poll_watch(stream, 99).unwrap().canceled && !kv.poll_watch(stream, 99).unwrap().canceled);
    assert_eq!(kv.watches(), 2);
}

#[test]
fn who_does_not_read_gets_no_more_watches_and_large_keys_are_none() {
    let settings = Settings { stream_bytes: 640, max_request_bytes: 100, ..Settings::default() };
    let mut kv = Kv::open(Memory::default(), settings).unwrap();
    let stream = kv.open_stream();
    let large =
        WatchCreateRequest { key: bytes(&"k".repeat(60)), range_end: bytes(&"l".repeat(41)), ..Default::default() };
    kv.watch(stream, &large);
    assert_eq!(kv.poll_watch(stream, 99).unwrap().cancel_reason, "etcdserver: request is too large");
    let asked = (0..50).take_while(|_| {
        kv.watch(stream, &WatchCreateRequest { key: bytes("a"), ..Default::default() });
        !kv.is_stream_stuck(stream)
    });
    assert_eq!((asked.count(), kv.watches()), (19, 10));
    kv.watch(stream, &large);
    let answers: Vec<_> = std::iter::from_fn(|| kv.poll_watch(stream, 99)).collect();
    assert_eq!((answers.len(), &*answers[10].cancel_reason), (20, "etcdserver: too many requests"));
    kv.watch(stream, &WatchCreateRequest { key: bytes("a"), ..Default::default() });
    assert_eq!(kv.poll_watch(stream, 99).unwrap().watch_id, 10, "who reads gets them again");
}

#[test]
fn a_revision_comes_whole_unless_fragments_are_taken() {
    let mut kv = four();
    let puts = ["w", "x", "y", "z"].map(|key| Request::RequestPut(put_of(key, &"v".repeat(100)))).to_vec();
    propose(&mut kv, Change::Txn(txn(vec![], puts, vec![]))).unwrap();
    let mut fragments = |fragment| {
        let stream = kv.open_stream();
        let request = WatchCreateRequest {
            key: bytes("w"),
            range_end: bytes("\0"),
            start_revision: 1,
            fragment,
            ..Default::default()
        };
        kv.watch(stream, &request);
        while kv.catch_up() {}
        let answers = std::iter::from_fn(|| kv.poll_watch(stream, 350)).skip(1);
        answers.map(|answer| (answer.events.len(), answer.fragment)).collect::<Vec<_>>()
    };
    assert_eq!(fragments(false), [(4, false)]);
    assert_eq!(fragments(true), [(2, true), (2, false)]);
}

#[test]
fn a_stream_is_named_once_until_it_is_polled_empty() {
    let mut kv = four();
    let stream = kv.open_stream();
    assert_eq!(kv.poll_ready(), None);
    kv.watch(stream, &WatchCreateRequest { key: bytes("a"), ..Default::default() });
    propose(&mut kv, put("a", "5")).unwrap();
    assert_eq!((kv.poll_ready(), kv.poll_ready()), (Some(stream), None));
    assert!(kv.poll_watch(stream, 99).unwrap().created);
    propose(&mut kv, put("a", "6")).unwrap();
    assert_eq!(kv.poll_ready(), None);
    assert_eq!(kv.poll_watch(stream, 999).unwrap().events.len(), 2);
    assert_eq!(kv.poll_watch(stream, 999), None);
    propose(&mut kv, put("a", "7")).unwrap();
    assert_eq!(kv.poll_ready(), Some(stream));
    kv.close_stream(stream);
    propose(&mut kv, put("a", "8")).unwrap();
    assert_eq!((kv.poll_watch(stream, 999), kv.poll_ready()), (None, None));
    assert_eq!(kv.watches(), 0);
}

#[test]
fn progress_is_told_to_those_who_heard_nothing() {
    let mut kv = four();
    let stream = kv.open_stream();
    let request = |key: &str| WatchCreateRequest { key: bytes(key), progress_notify: true, ..Default::default() };
    ["a", "b"].into_iter().for_each(|key| kv.watch(stream, &request(key)));
    propose(&mut kv, put("a", "5")).unwrap();
    let told = |kv: &mut Kv| {
        let answers = std::iter::from_fn(|| kv.poll_watch(stream, 999));
        let answers = answers.filter(|answer| !answer.created && answer.events.is_empty());
        answers.map(|answer| (answer.watch_id, answer.header.unwrap().revision)).collect::<Vec<_>>()
    };
    kv.notify_progress();
    assert_eq!(told(&mut kv), [(1, 6)]);
    kv.notify_progress();
    assert_eq!(told(&mut kv), [(0, 6), (1, 6)]);
    kv.request_progress(stream);
    assert_eq!(told(&mut kv), [(-1, 6)]);
}

#[test]
fn progress_waits_for_a_watch_that_begins_in_the_future_and_is_there() {
    let mut kv = four();
    let stream = kv.open_stream();
    kv.watch(stream, &WatchCreateRequest { key: bytes("a"), start_revision: 999, ..Default::default() });
    kv.request_progress(stream);
    kv.catch_up();
    let created = kv.poll_watch(stream, 999).unwrap();
    assert_eq!((created.created, kv.poll_watch(stream, 999)), (true, None));
    kv.cancel_watch(stream, created.watch_id);
    kv.catch_up();
    assert!(kv.poll_watch(stream, 999).unwrap().canceled);
    assert_eq!(kv.poll_watch(stream, 999).unwrap().watch_id, -1);
}

#[test]
fn a_slow_stream_holds_up_no_other() {
    let settings = Settings { stream_bytes: 500, ..Settings::default() };
    let mut kv = Kv::open(Memory::default(), settings).unwrap();
    let (slow, fast) = (kv.open_stream(), kv.open_stream());
    let request = WatchCreateRequest { key: bytes("a"), ..Default::default() };
    [slow, fast].into_iter().for_each(|stream| kv.watch(stream, &request));
    kv.poll_watch(fast, 999);
    for round in 0..50 {
        propose(&mut kv, put("a", &"v".repeat(100))).unwrap();
        assert!(!kv.catch_up(), "who waits for room is not read for");
        assert_eq!(kv.poll_watch(fast, 999).unwrap().events.len(), 1, "round {round}");
    }
    // Nothing is kept for which there was no room.
    let mut told: usize = std::iter::from_fn(|| kv.poll_watch(slow, 999)).map(|answer| answer.events.len()).sum();
    assert_eq!(told, 2);
    loop {
        while kv.catch_up() {}
        let Some(answer) = kv.poll_watch(slow, 999) else { break };
        told += answer.events.len();
    }
    assert_eq!(told, 50);
}
