//! Three members.

use nix::sys::signal::Signal;
use ringmesh_proto::etcd::etcdserverpb::{
    CompactionRequest, HashKvRequest, LeaseGrantRequest, LeaseTimeToLiveRequest, MoveLeaderRequest, StatusRequest,
    StatusResponse, WatchCreateRequest, WatchRequest, watch_request::RequestUnion,
};
use tokio_stream::StreamExt;
use tonic::{Code, Request};

use crate::support::{LONG, Member, eventually, get, put, value};

#[tokio::test]
async fn each_member_takes_writes_and_sees_those_of_the_others() {
    let members = Member::three();
    for member in &members {
        member.ready().await;
        member.kv().put(put("k", member.name.clone())).await.unwrap();
        for other in &members {
            let found = other.kv().range(get("k")).await.unwrap().into_inner();
            assert_eq!(value(&found), Some(member.name.as_bytes()), "{} asks {}", member.name, other.name);
        }
    }
    for member in &members {
        let id = i64::from(member.name.as_bytes()[0]);
        member.lease().lease_grant(LeaseGrantRequest { ttl: 100, id }).await.unwrap();
        for other in &members {
            let asked = LeaseTimeToLiveRequest { id, keys: false };
            let left = other.lease().lease_time_to_live(asked).await.unwrap().into_inner();
            assert!((90..=100).contains(&left.ttl), "{left:?}");
        }
    }
    same(&members).await;
}

#[tokio::test]
async fn the_death_of_a_leader_loses_nothing_that_was_acknowledged() {
    let mut members = Member::three();
    for round in 0..3 {
        let leader = leader(&members).await;
        let writer = &members[(leader + 1) % 3];
        let mut kv = writer.kv();
        for number in 0..100 {
            kv.put(put(format!("k{number}"), round.to_string())).await.unwrap();
        }
        members[leader].kill();
        let survivors = [(leader + 1) % 3, (leader + 2) % 3];
        eventually("the others go on", || async { members[survivors[1]].kv().put(put("after", "x")).await }).await;
        for number in 0..100 {
            for survivor in survivors {
                let found = members[survivor].kv().range(get(format!("k{number}"))).await.unwrap().into_inner();
                assert_eq!(value(&found), Some(round.to_string().as_bytes()));
            }
        }
        members[leader].start();
        members[leader].ready().await;
    }
    same(&members).await;
}

#[tokio::test]
async fn the_death_of_all_at_once_loses_nothing_that_was_acknowledged() {
    let mut members = Member::three();
    members[0].ready().await;
    for round in 0..2 {
        // A channel that connects anew in time notices no death.
        let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let writers: Vec<_> = members
            .iter()
            .map(|member| {
                let (mut kv, name, over) = (member.kv(), member.name.clone(), over.clone());
                let is_over = move || over.load(std::sync::atomic::Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut reached = 0;
                    while !is_over() && kv.put(put(format!("{name}{round}/{reached}"), "v")).await.is_ok() {
                        reached += 1;
                    }
                    reached
                })
            })
            .collect();
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        members.iter_mut().for_each(Member::kill);
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        members.iter_mut().for_each(Member::start);
        for (nth, writer) in writers.into_iter().enumerate() {
            let reached = writer.await.unwrap();
            let asked = &members[(nth + 1) % 3];
            asked.ready().await;
            for number in 0..reached {
                let key = format!("{}{round}/{number}", members[nth].name);
                let found = asked.kv().range(get(key.clone())).await.unwrap().into_inner();
                assert_eq!(value(&found), Some(b"v".as_slice()), "{key} of {reached}");
            }
        }
    }
    same(&members).await;
}

#[tokio::test]
async fn who_was_away_for_long_gets_all_keys_anew() {
    let mut members = Member::three();
    let leader = leader(&members).await;
    let away = (leader + 1) % 3;
    members[away].ready().await;
    members[away].kill();
    let mut kv = members[leader].kv();
    // Beyond what the leader keeps of its log in memory and on disk.
    for number in 0..600 {
        kv.put(put(format!("k{}", number % 50), vec![7; 60_000])).await.unwrap();
    }
    let revision = kv.put(put("last", "x")).await.unwrap().into_inner().header.unwrap().revision;
    kv.compact(CompactionRequest { revision, physical: false }).await.unwrap();
    members[away].start();
    members[away].ready().await;
    same(&members).await;
    assert!(members[away].log().contains("took the keys of another member"), "{}", members[away].log());
    // And it finds them again.
    members[away].kill();
    members[away].start();
    members[away].ready().await;
    same(&members).await;
}

#[tokio::test]
async fn a_leader_that_stands_still_is_replaced_and_comes_back() {
    let members = Member::three();
    let leader = leader(&members).await;
    let other = &members[(leader + 1) % 3];
    other.ready().await;
    members[leader].signal(Signal::SIGSTOP);
    eventually("the others go on", || async { other.kv().put(put("k", "after")).await }).await;
    members[leader].signal(Signal::SIGCONT);
    // It must not answer from before its pause.
    let found = eventually("it answers", || async { members[leader].kv().range(get("k")).await }).await.into_inner();
    assert_eq!(value(&found), Some(b"after".as_slice()));
    same(&members).await;
}

#[tokio::test]
async fn who_has_lost_its_disk_takes_no_part_and_says_so() {
    let mut members = Member::three();
    let leader = leader(&members).await;
    let lost = (leader + 1) % 3;
    for member in &members {
        member.ready().await;
    }
    members[leader].kv().put(put("k", "v")).await.unwrap();
    same(&members).await;
    members[lost].kill();
    std::fs::remove_dir_all(members[lost].directory().join("data")).unwrap();
    members[lost].start();
    eventually("it says so", || async {
        let status = members[lost].maintenance().status(StatusRequest {}).await.map_err(|status| status.to_string())?;
        let errors = status.into_inner().errors;
        if errors.iter().any(|error| error.contains("its disk lost data")) {
            Ok(())
        } else {
            Err(format!("{errors:?}"))
        }
    })
    .await;
    members[leader].kv().put(put("k", "more")).await.unwrap();
}

#[tokio::test]
async fn leadership_moves_where_it_is_told_to() {
    let members = Member::three();
    let leader = leader(&members).await;
    let next = status(&members[(leader + 1) % 3]).await.header.unwrap().member_id;
    let moved = MoveLeaderRequest { target_id: next };
    members[leader].maintenance().move_leader(moved).await.unwrap();
    assert_eq!(status(&members[leader]).await.leader, next);
    let refused = members[leader].maintenance().move_leader(moved).await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: not leader");
}

#[tokio::test]
async fn a_leader_that_ends_in_order_hands_over() {
    let mut members = Member::three();
    let leader = leader(&members).await;
    let other = (leader + 1) % 3;
    members[other].ready().await;
    assert_eq!(members[leader].end(), Some(0));
    // Sooner than any election: the first attempt succeeds.
    members[other].kv().put(put("k", "v")).await.unwrap();
    assert!(!members[other].log().contains("leader=None"), "{}", members[other].log());
}

#[tokio::test]
async fn a_member_that_is_cut_off_says_so_to_who_asks_for_a_leader() {
    let mut members = Member::three();
    members[0].ready().await;
    let create = WatchCreateRequest { key: "k".into(), ..WatchCreateRequest::default() };
    let said = [WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }];
    let mut asked = Request::new(tokio_stream::iter(said).chain(tokio_stream::pending()));
    asked.metadata_mut().insert("hasleader", "true".parse().unwrap());
    let mut told = members[0].watch().watch(asked).await.unwrap().into_inner();
    assert!(told.message().await.unwrap().unwrap().created);
    members[1].kill();
    members[2].kill();
    let end = tokio::time::timeout(LONG, told.message()).await.expect("in time").unwrap_err();
    assert_eq!((end.code(), end.message()), (Code::Unavailable, "etcdserver: no leader"));
    let mut asked = Request::new(get("k"));
    asked.metadata_mut().insert("hasleader", "true".parse().unwrap());
    assert_eq!(members[0].kv().range(asked).await.unwrap_err().message(), "etcdserver: no leader");
    // Old keys it has for who wants them.
    let mut stale = get("k");
    stale.serializable = true;
    members[0].kv().range(stale).await.unwrap();
}

/// Which one leads, when one does.
pub(crate) async fn leader(members: &[Member; 3]) -> usize {
    eventually("one of them leads", || async {
        for (nth, member) in members.iter().enumerate() {
            let Ok(status) = member.maintenance().status(StatusRequest {}).await else { continue };
            let status = status.into_inner();
            if status.leader == status.header.as_ref().map_or(0, |header| header.member_id) {
                return Ok(nth);
            }
        }
        Err("none does")
    })
    .await
}

async fn status(member: &Member) -> StatusResponse {
    member.maintenance().status(StatusRequest {}).await.unwrap().into_inner()
}

/// Returns when all have the same keys.
pub(crate) async fn same(members: &[Member; 3]) {
    eventually("all have the same keys", || async {
        let mut seen = Vec::new();
        for member in members {
            let answer = member.maintenance().hash_kv(HashKvRequest { revision: 0 }).await;
            let answer = answer.map_err(|status| status.to_string())?.into_inner();
            seen.push((answer.hash, answer.compact_revision, answer.header.map(|header| header.revision)));
        }
        if seen.windows(2).all(|pair| pair[0] == pair[1]) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}
