//! Streams of the store: they carry bytes both ways, are bounded in number, and hold up nothing else.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use ringmesh_agentd::quic::{Purpose, RequestError, StoreStream};
use ringmesh_node::{Peer, View, Way};
use ringmesh_proto::Uplink;

use crate::support::{Cluster, Host, read, within};

/// Streams at once on a connection, see `quic::MAX_STORE_STREAMS`.
const MAX_STREAMS: usize = 4;

/// From here on `host` finds `other`.
fn shows(host: &Host, other: &Host) {
    let peer =
        Peer { member: other.member, name: "other".into(), askable: true, way: Way::over(Uplink::A), fingerprint: 0 };
    let peers = Arc::new(BTreeMap::from([(other.id(), peer)]));
    host.view.send_replace(Arc::new(View { peers, ..View::default() }));
}

async fn open(host: &Host, other: &Host) -> Result<StoreStream, RequestError> {
    within("a stream is opened", host.transport.open_store(other.id(), Purpose::Replica)).await
}

async fn taken(host: &mut Host) -> StoreStream {
    within("a stream comes", host.store_streams.recv()).await.expect("the transport lives")
}

#[tokio::test]
async fn a_stream_of_the_store_says_whose_it_is_and_carries_bytes_both_ways() {
    let cluster = Cluster::new();
    let [h1, mut h2] = cluster.admit_two().map(|identity| Host::start(&identity));
    assert!(matches!(open(&h1, &h2).await, Err(RequestError::NoConnection)), "it is not known");
    shows(&h1, &h2);
    let mut ours = open(&h1, &h2).await.expect("it is there");
    let mut theirs = taken(&mut h2).await;
    assert_eq!((ours.host, theirs.host, theirs.purpose), (h2.id(), h1.id(), Purpose::Replica));
    ours.send.write_all(b"question").await.expect("it is open");
    let mut heard = [0; 8];
    theirs.receive.read_exact(&mut heard).await.expect("it is open");
    assert_eq!(&heard, b"question");
    theirs.send.write_all(b"answer").await.expect("it is open");
    drop(theirs);
    let answer = within("the answer comes", ours.receive.read_to_end(100)).await.expect("it is open");
    assert_eq!(answer, b"answer");
}

#[tokio::test]
async fn a_host_has_so_many_streams_of_the_store_and_no_more() {
    let cluster = Cluster::new();
    let [h1, mut h2] = cluster.admit_two().map(|identity| Host::start(&identity));
    shows(&h1, &h2);
    let mut held = Vec::new();
    while let Ok(ours) = open(&h1, &h2).await {
        held.push((ours, taken(&mut h2).await));
        assert!(held.len() <= 2 * MAX_STREAMS, "there is no bound");
    }
    assert!(held.len() >= MAX_STREAMS, "{}", held.len());
    drop(held.pop());
    open(&h1, &h2).await.expect("there is room again");
    taken(&mut h2).await;
    assert_eq!(read(&h2.counters.requests_refused), 0);

    // Nobody takes what comes: it is turned away.
    drop(held);
    h2.store_streams.close();
    let mut turned_away = open(&h1, &h2).await.expect("the other end has not answered yet");
    let end = within("it is turned away", turned_away.receive.read_to_end(1)).await;
    assert!(end.is_err(), "{end:?}");
    assert_eq!(read(&h2.counters.requests_refused), 1);
}

#[tokio::test]
async fn a_stream_that_nobody_reads_holds_up_no_gossip() {
    let cluster = Cluster::new();
    let [h1, mut h2] = cluster.admit_two().map(|identity| Host::start(&identity));
    shows(&h1, &h2);
    let mut held = Vec::new();
    for _ in 0..MAX_STREAMS {
        let mut ours = open(&h1, &h2).await.expect("there is room");
        // As much as the other end's window takes, until it takes nothing more.
        let flood = async { while ours.send.write_chunk(Bytes::from_static(&[7; 64 << 10])).await.is_ok() {} };
        let full = tokio::time::timeout(std::time::Duration::from_millis(300), flood).await;
        assert!(full.is_err(), "the stream broke");
        held.push((ours, taken(&mut h2).await));
    }
    h1.transport.send_gossip(
        h2.member,
        Uplink::A,
        ringmesh_node::Class::Event,
        crate::support::gossip_frame(cluster.first.cluster, "through"),
        false,
    );
    assert_eq!(h2.next_gossip().await, (h1.id(), crate::support::gossip("through")));
}

#[tokio::test]
async fn a_connection_that_the_store_uses_is_not_closed_for_others() {
    let cluster = Cluster::new();
    // There is room for the two connections to one other host.
    let h1 = Host::start_with(&cluster.admit("h2"), 2, None);
    let mut h2 = Host::start(&cluster.admit("h3"));
    let mut h3 = Host::start(&cluster.admit("h4"));
    shows(&h1, &h2);
    let mut ours = open(&h1, &h2).await.expect("it is there");
    let mut theirs = taken(&mut h2).await;
    h1.reach(&mut h3, Uplink::A, b"a").await;
    h1.reach(&mut h3, Uplink::B, b"b").await;
    ours.send.write_all(b"still").await.expect("it is open");
    let mut heard = [0; 5];
    within("it arrives", theirs.receive.read_exact(&mut heard)).await.expect("it is open");
}

#[tokio::test]
async fn a_connection_outlives_the_thread_that_asked_for_it() {
    let cluster = Cluster::new();
    let [h1, mut h2] = cluster.admit_two().map(|identity| Host::start(&identity));
    shows(&h1, &h2);
    let (transport, to) = (h1.transport.clone(), h2.id());
    let asks = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(transport.open_store(to, Purpose::Replica)).expect("it is there")
    };
    let mut ours = within("a stream is opened", tokio::task::spawn_blocking(asks)).await.expect("no panic");
    let mut theirs = taken(&mut h2).await;
    ours.send.write_all(b"still").await.expect("it is open");
    let mut heard = [0; 5];
    within("it arrives", theirs.receive.read_exact(&mut heard)).await.expect("it is open");
}
