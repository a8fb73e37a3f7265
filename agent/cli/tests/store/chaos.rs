//! Three members that die at random, while clients count and look.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ringmesh_proto::etcd::etcdserverpb::{
    Compare, RequestOp, TxnRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    kv_client::KvClient,
    request_op,
};
use tonic::transport::Channel;

use crate::{
    support::{Chance, Member, get, put, value},
    together::same,
};

/// Deaths of one run.
const DEATHS: u64 = 8;

/// Counters, two of each member.
const COUNTERS: usize = 6;

/// How long a client waits before it takes an answer for lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// One counter: only ever grows, and how far was acknowledged.
struct Counter {
    key: String,
    acknowledged: AtomicU64,
}

#[tokio::test]
async fn what_was_acknowledged_is_seen_everywhere_while_members_die() {
    let seed = u64::from(std::process::id());
    eprintln!("seed {seed}");
    let mut chance = Chance(seed);
    let mut members = Member::three();
    members[0].ready().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    let mut counters = Vec::new();
    for nth in 0..COUNTERS {
        let counter = Arc::new(Counter { key: format!("c{nth}"), acknowledged: AtomicU64::new(0) });
        members[0].kv().put(put(counter.key.clone(), text(0))).await.unwrap();
        let (writer, reader) = (members[nth % 3].kv(), members[(nth + 1) % 3].kv());
        clients.push(tokio::spawn(count(writer, Arc::clone(&counter), Arc::clone(&stop))));
        clients.push(tokio::spawn(look(reader, Arc::clone(&counter), Arc::clone(&stop))));
        counters.push(counter);
    }
    for _ in 0..DEATHS {
        tokio::time::sleep(Duration::from_millis(200 + chance.below(1000))).await;
        let dies = &mut members[usize::try_from(chance.below(3)).unwrap()];
        dies.kill();
        tokio::time::sleep(Duration::from_millis(chance.below(2000))).await;
        dies.start();
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.expect("no client saw less than was acknowledged");
    }
    for member in &members {
        member.ready().await;
    }
    same(&members).await;
    for counter in &counters {
        let acknowledged = counter.acknowledged.load(Ordering::SeqCst);
        assert!(acknowledged > 0, "{} never got on", counter.key);
        for member in &members {
            let found = member.kv().range(get(counter.key.clone())).await.unwrap().into_inner();
            assert!(value(&found).unwrap() >= text(acknowledged).as_bytes(), "{} at {}", counter.key, member.name);
        }
    }
}

/// Counts up. What got no answer may be done later, and then changes nothing: the counter is beyond it.
async fn count(mut kv: KvClient<Channel>, counter: Arc<Counter>, stop: Arc<AtomicBool>) {
    let mut next = 1;
    while !stop.load(Ordering::SeqCst) {
        let done = tokio::time::timeout(PATIENCE, kv.txn(raise(&counter.key, next))).await;
        if let Ok(Ok(answer)) = done {
            assert!(answer.into_inner().succeeded, "{} is beyond {next}, which was never asked for", counter.key);
            counter.acknowledged.store(next, Ordering::SeqCst);
        }
        next += 1;
    }
}

/// What was acknowledged before a look is in it.
async fn look(mut kv: KvClient<Channel>, counter: Arc<Counter>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::SeqCst) {
        let acknowledged = counter.acknowledged.load(Ordering::SeqCst);
        let Ok(Ok(found)) = tokio::time::timeout(PATIENCE, kv.range(get(counter.key.clone()))).await else { continue };
        let found = found.into_inner();
        let found = std::str::from_utf8(value(&found).expect("it was put before")).unwrap();
        assert!(found >= text(acknowledged).as_str(), "{}: {found} after {acknowledged}", counter.key);
    }
}

/// The counter becomes `next` if it is less.
fn raise(key: &str, next: u64) -> TxnRequest {
    let compare = Compare {
        result: CompareResult::Less.into(),
        target: CompareTarget::Value.into(),
        key: key.to_owned().into(),
        target_union: Some(TargetUnion::Value(text(next).into())),
        ..Compare::default()
    };
    let put = request_op::Request::RequestPut(put(key, text(next)));
    TxnRequest { compare: vec![compare], success: vec![RequestOp { request: Some(put) }], failure: Vec::new() }
}

/// Ordered as the numbers are.
fn text(number: u64) -> String {
    format!("{number:012}")
}
