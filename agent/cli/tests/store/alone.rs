//! One member: keys, watches, leases, locks, JSON.

use std::time::Duration;

use ringmesh_proto::etcd::{
    etcdserverpb::{
        AlarmRequest, AlarmType, CompactionRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest,
        SnapshotRequest, WatchCreateRequest, WatchRequest, WatchResponse, alarm_request::AlarmAction,
        lease_client::LeaseClient, watch_request::RequestUnion,
    },
    mvccpb::event::EventType,
    v3lockpb::{LockRequest, UnlockRequest, lock_client::LockClient},
};
use tokio_stream::StreamExt;
use tonic::{Code, Streaming, transport::Channel};

use crate::support::{LONG, Member, eventually, everything, free_ports, get, put, value};

#[tokio::test]
async fn keys_are_put_read_and_compacted() {
    let member = Member::alone();
    member.ready().await;
    let mut kv = member.kv();
    for (nth, text) in ["x", "y", "z"].into_iter().enumerate() {
        let answer = kv.put(put("k", text)).await.unwrap().into_inner();
        assert_eq!(answer.header.unwrap().revision, 2 + i64::try_from(nth).unwrap());
    }
    let mut old = get("k");
    old.revision = 3;
    assert_eq!(value(&kv.range(old.clone()).await.unwrap().into_inner()), Some(b"y".as_slice()));
    kv.compact(CompactionRequest { revision: 4, physical: false }).await.unwrap();
    let refused = kv.range(old).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    assert_eq!(refused.message(), "etcdserver: mvcc: required revision has been compacted");
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_in_etcds_words() {
    let member = Member::alone();
    member.ready().await;
    let refused = member.kv().put(put("k", vec![7; (3 << 19) + 1])).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "etcdserver: request is too large"));
    let refused = member.kv().put(put("k", vec![7; 3 << 20])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    member.kv().put(put("k", vec![7; 3 << 18])).await.unwrap();
}

#[tokio::test]
async fn beyond_the_quota_nothing_is_written_until_the_alarm_is_off() {
    let member = Member::with(&["--quota-backend-bytes", "200000"]);
    member.ready().await;
    let mut kv = member.kv();
    let refused = loop {
        match kv.put(put("k", vec![7; 50_000])).await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded")
    );
    let alarm = |action: AlarmAction| AlarmRequest { action: action.into(), member_id: 0, alarm: 0 };
    let alarms = eventually("the alarm is on", || async {
        let answer = member.maintenance().alarm(alarm(AlarmAction::Get)).await.map_err(|status| status.to_string())?;
        Some(answer.into_inner().alarms).filter(|alarms| !alarms.is_empty()).ok_or("no alarm".to_owned())
    })
    .await;
    assert_eq!(alarms[0].alarm(), AlarmType::Nospace);
    // Even what would have room.
    kv.put(put("small", "v")).await.unwrap_err();
    let revision = kv.range(get("k")).await.unwrap().into_inner().header.unwrap().revision;
    kv.compact(CompactionRequest { revision, physical: true }).await.unwrap();
    let off = AlarmRequest { alarm: alarms[0].alarm, member_id: alarms[0].member_id, ..alarm(AlarmAction::Deactivate) };
    member.maintenance().alarm(off).await.unwrap();
    kv.put(put("small", "v")).await.unwrap();
}

#[tokio::test]
async fn old_revisions_go_by_themselves_where_that_is_wanted() {
    let member = Member::with(&["--auto-compaction-retention", "1s"]);
    member.ready().await;
    member.kv().put(put("k", "old")).await.unwrap();
    member.kv().put(put("k", "new")).await.unwrap();
    let mut old = get("k");
    old.revision = 2;
    eventually("the old revision is gone", || async {
        match member.kv().range(old.clone()).await {
            Err(status) if status.code() == Code::OutOfRange => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(value(&member.kv().range(get("k")).await.unwrap().into_inner()), Some(b"new".as_slice()));
}

#[tokio::test]
async fn a_watch_tells_the_past_and_what_comes() {
    let member = Member::alone();
    member.ready().await;
    member.kv().put(put("k1", "past")).await.unwrap();
    let (_say, mut told) = watch(
        &member,
        WatchCreateRequest {
            key: "k".into(),
            range_end: "l".into(),
            start_revision: 2,
            ..WatchCreateRequest::default()
        },
    )
    .await;
    assert!(next(&mut told).await.created);
    let past = next(&mut told).await;
    assert_eq!(past.events[0].kv.as_ref().unwrap().value, "past");
    for number in 0..500 {
        member.kv().put(put("k2", number.to_string())).await.unwrap();
    }
    let mut numbers = Vec::new();
    while numbers.len() < 500 {
        let answer = next(&mut told).await;
        numbers.extend(answer.events.into_iter().map(|event| event.kv.unwrap().value));
    }
    assert!(numbers.iter().enumerate().all(|(nth, value)| *value == nth.to_string()), "{numbers:?}");
}

#[tokio::test]
async fn watches_are_told_that_a_member_ends_so_that_they_go_on_elsewhere() {
    let mut member = Member::alone();
    member.ready().await;
    let (_say, mut told) =
        watch(&member, WatchCreateRequest { key: "k".into(), ..WatchCreateRequest::default() }).await;
    assert!(next(&mut told).await.created);
    assert_eq!(member.end(), Some(0));
    let end = tokio::time::timeout(LONG, told.message()).await.expect("an answer in time").unwrap_err();
    assert_ne!(end.code(), Code::Cancelled, "{end}");
}

#[tokio::test]
async fn a_reader_that_is_slow_misses_nothing_and_holds_up_nobody() {
    let member = Member::alone();
    member.ready().await;
    let create = || WatchCreateRequest { key: "k".into(), ..WatchCreateRequest::default() };
    let (_slow_say, mut slow) = watch(&member, create()).await;
    assert!(next(&mut slow).await.created);
    // Far more than the buffers of the connection, the stream and the member take.
    for number in 0..400_u32 {
        member.kv().put(put("k", [number.to_be_bytes().as_slice(), &[7; 50_000]].concat())).await.unwrap();
    }
    let (_say, mut quick) = watch(&member, create()).await;
    assert!(next(&mut quick).await.created);
    member.kv().put(put("k", 400_u32.to_be_bytes())).await.unwrap();
    assert_eq!(next(&mut quick).await.events.len(), 1);
    let mut expected = 0;
    while expected <= 400 {
        for event in next(&mut slow).await.events {
            let value = event.kv.unwrap().value;
            assert_eq!(value[..4], u32::to_be_bytes(expected), "in order, and each once");
            expected += 1;
        }
    }
}

#[tokio::test]
async fn a_lease_takes_its_keys_with_it_unless_it_is_kept_alive() {
    let member = Member::alone();
    member.ready().await;
    let mut lease = member.lease();
    for id in [1, 2] {
        lease.lease_grant(LeaseGrantRequest { ttl: 2, id }).await.unwrap();
        let mut key = put(format!("k{id}"), "v");
        key.lease = id;
        member.kv().put(key).await.unwrap();
    }
    let (_say, mut told) =
        watch(&member, WatchCreateRequest { key: "k".into(), range_end: "l".into(), ..WatchCreateRequest::default() })
            .await;
    assert!(next(&mut told).await.created);
    let keeper = tokio::spawn(keep_alive(lease, 2));
    let gone = next(&mut told).await;
    assert_eq!(gone.events.len(), 1);
    assert_eq!(gone.events[0].r#type(), EventType::Delete);
    assert_eq!(gone.events[0].kv.as_ref().unwrap().key, "k1");
    assert_eq!(value(&member.kv().range(get("k2")).await.unwrap().into_inner()), Some(b"v".as_slice()));
    keeper.abort();
    assert_eq!(next(&mut told).await.events[0].kv.as_ref().unwrap().key, "k2");
}

#[tokio::test]
async fn a_lock_goes_to_the_next_in_line() {
    let member = Member::alone();
    member.ready().await;
    member.lease().lease_grant(LeaseGrantRequest { ttl: 60, id: 1 }).await.unwrap();
    member.lease().lease_grant(LeaseGrantRequest { ttl: 60, id: 2 }).await.unwrap();
    let mut lock = LockClient::new(member.channel());
    let ask = |lease| LockRequest { name: "door".into(), lease };
    let first = lock.lock(ask(1)).await.unwrap().into_inner();
    assert_eq!(first.key, "door/1");
    let mut waiting = LockClient::new(member.channel());
    let second = tokio::spawn(async move { waiting.lock(ask(2)).await });
    eventually("the second stands in line", || async {
        let found = member.kv().range(get("door/2")).await.map_err(|status| status.to_string())?.into_inner();
        if found.count == 1 { Ok(()) } else { Err("not there".to_owned()) }
    })
    .await;
    assert!(!second.is_finished());
    // Who goes away while it waits leaves the line.
    member.lease().lease_grant(LeaseGrantRequest { ttl: 60, id: 3 }).await.unwrap();
    let mut hasty = LockClient::new(member.channel());
    tokio::time::timeout(Duration::from_millis(300), hasty.lock(ask(3))).await.unwrap_err();
    drop(hasty);
    eventually("the third has left", || async {
        let found = member.kv().range(get("door/3")).await.map_err(|status| status.to_string())?.into_inner();
        if found.count == 0 { Ok(()) } else { Err("still there".to_owned()) }
    })
    .await;
    lock.unlock(UnlockRequest { key: first.key }).await.unwrap();
    assert_eq!(second.await.unwrap().unwrap().into_inner().key, "door/2");
}

#[tokio::test]
async fn who_has_lost_its_place_in_line_gets_no_lock() {
    let member = Member::alone();
    member.ready().await;
    for id in [1, 2] {
        member.lease().lease_grant(LeaseGrantRequest { ttl: 60, id }).await.unwrap();
    }
    let mut lock = LockClient::new(member.channel());
    let ask = |lease| LockRequest { name: "door".into(), lease };
    let first = lock.lock(ask(1)).await.unwrap().into_inner();
    let mut waiting = LockClient::new(member.channel());
    let second = tokio::spawn(async move { waiting.lock(ask(2)).await });
    eventually("the second stands in line", || async {
        let found = member.kv().range(get("door/2")).await.map_err(|status| status.to_string())?.into_inner();
        if found.count == 1 { Ok(()) } else { Err("not there".to_owned()) }
    })
    .await;
    member.lease().lease_revoke(LeaseRevokeRequest { id: 2 }).await.unwrap();
    lock.unlock(UnlockRequest { key: first.key }).await.unwrap();
    let refused = second.await.unwrap().unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unknown, "mutex: session is expired"));
}

#[tokio::test]
async fn the_gateway_speaks_json_on_the_same_port() {
    let member = Member::alone();
    member.ready().await;
    let (status, body) = member.http("GET", "/version", "");
    assert_eq!((status, body.as_str()), (200, r#"{"etcdserver":"3.4.23","etcdcluster":"3.4.0"}"#));
    assert_eq!(member.http("GET", "/health", ""), (200, r#"{"health":"true"}"#.to_owned()));
    let (status, body) = member.http("POST", "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#);
    assert!(status == 200 && body.contains(r#""revision":"2""#), "{status} {body}");
    let (status, body) = member.http("POST", "/v3/kv/range", r#"{"key":"Zm9v"}"#);
    let expected =
        r#""kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"}],"count":"1"}"#;
    assert!(status == 200 && body.ends_with(expected), "{status} {body}");
    let (status, body) = member.http("POST", "/v3/kv/put", r#"{"value":"YmFy"}"#);
    let expected = serde_json::json!({
        "error": "etcdserver: key is not provided", "message": "etcdserver: key is not provided", "code": 3
    });
    assert_eq!((status, serde_json::from_str::<serde_json::Value>(&body).unwrap()), (400, expected));
    let (status, body) = member.http("POST", "/v3/lease/keepalive", r#"{"ID":7}"#);
    assert!(status == 200 && body.contains(r#"{"result":{"header":{"#) && body.contains(r#""ID":"7"}}"#), "{body}");
    assert_eq!(member.http("GET", "/v3/kv/put", "").0, 405);
    assert_eq!(member.http("POST", "/v3/kv/nothing", "").0, 404);
    assert_eq!(member.http("POST", "/v3/kv/put", "{").0, 400);
    assert!(member.http("GET", "/metrics", "").1.contains("etcd_server_has_leader 1\n"));
}

#[tokio::test]
async fn a_snapshot_has_all_that_was_acknowledged_and_makes_a_new_member() {
    let member = Member::alone();
    member.ready().await;
    for number in 0..100 {
        member.kv().put(put(format!("k{number}"), vec![7; 5000])).await.unwrap();
    }
    let last = member.kv().put(put("k", "last")).await.unwrap().into_inner().header.unwrap().revision;
    let parts = member.maintenance().snapshot(SnapshotRequest {}).await.unwrap().into_inner();
    let parts: Vec<_> = parts.map(|part| part.unwrap().blob).collect().await;
    let (whole, mut damaged) = (parts.concat(), parts.concat());
    damaged[1000] ^= 1;
    let mut restored = Member::new("a", free_ports::<1>()[0], Vec::new());
    let (status, text) = restored.restore(&damaged);
    assert!(status == Some(1) && text.contains("no whole snapshot") && text.lines().count() == 1, "{text}");
    let (status, text) = restored.restore(&whole);
    assert!(status == Some(0) && text.contains(&format!("revision {last} ")), "{text}");
    assert!(restored.restore(&whole).1.contains("holds a member already"));
    restored.start();
    restored.ready().await;
    let found = restored.kv().range(everything()).await.unwrap().into_inner();
    assert_eq!((found.header.unwrap().revision, found.count), (last, 101));
    restored.kv().put(put("k", "more")).await.unwrap();
    restored.kill();
    restored.start();
    restored.ready().await;
    assert_eq!(value(&restored.kv().range(get("k")).await.unwrap().into_inner()), Some(b"more".as_slice()));
}

/// Until it is aborted, which ends the requests: the answers' end alone would not.
async fn keep_alive(mut lease: LeaseClient<Channel>, id: i64) {
    let (beat, beats) = tokio::sync::mpsc::channel(1);
    let beats = tokio_stream::wrappers::ReceiverStream::new(beats);
    let mut kept = lease.lease_keep_alive(beats).await.unwrap().into_inner();
    loop {
        beat.send(LeaseKeepAliveRequest { id }).await.unwrap();
        assert_eq!(kept.message().await.unwrap().unwrap().ttl, 2);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

type Say = tokio::sync::mpsc::Sender<WatchRequest>;

async fn watch(member: &Member, create: WatchCreateRequest) -> (Say, Streaming<WatchResponse>) {
    let (say, said) = tokio::sync::mpsc::channel(4);
    say.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).await.unwrap();
    let said = tokio_stream::wrappers::ReceiverStream::new(said);
    (say, member.watch().max_decoding_message_size(64 << 20).watch(said).await.unwrap().into_inner())
}

async fn next(told: &mut Streaming<WatchResponse>) -> WatchResponse {
    let answer = tokio::time::timeout(LONG, told.message()).await.expect("an answer in time");
    answer.expect("the stream is well").expect("it goes on")
}
