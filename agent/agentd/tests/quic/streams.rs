//! Bad gossip, more streams than allowed, and frames of which half never comes.

use std::time::Instant;

use quinn::{TransportConfig, VarInt};
use ringmesh_agentd::identity::tls;
use ringmesh_proto::{
    frame,
    peer::{GossipFrame, QueryRequest, request::Body, response},
};
use tokio::sync::mpsc;

use crate::support::{Cluster, Host, ask, closed, gossip, gossip_frame, raw_dial, raw_member, read, request, within};

fn query() -> Body {
    Body::Query(QueryRequest { containers: true, services: true, ..QueryRequest::default() })
}

#[tokio::test]
async fn bad_gossip_closes_the_connection_and_is_counted() {
    let cluster = Cluster::new();
    let mut ours = Host::start(&cluster.first);
    let us = cluster.first.cluster;
    let identity = cluster.admit("h2");
    let frame =
        |version, cluster| frame::encode(&GossipFrame { version, cluster, gossip: Some(gossip("bad")), relay_to: 0 });
    let other_version = frame(9, us.raw());
    let other_cluster = frame(frame::VERSION, us.raw() ^ 1);
    let malformed = [&[0, 0, 0, 5][..], &[0xff; 5]].concat();
    let oversized = (frame::MAX_GOSSIP as u32 + 1).to_be_bytes();
    let cases: [(&[u8], &str); 5] = [
        (&other_version, "version 9"),
        (&other_cluster, "cluster"),
        (&malformed, "malformed"),
        (&oversized, "262145 bytes"),
        (&[0xff; 4], "4294967295 bytes"),
    ];
    for (count, (bytes, text)) in (1..).zip(cases) {
        let peer = raw_member(&identity, &ours).await;
        let mut stream = peer.open_uni().await.expect("the transport allows it");
        stream.write_all(&gossip_frame(us, "good")).await.expect("within the window");
        assert_eq!(ours.next_gossip().await, (identity.host, gossip("good")), "what comes before it is taken");
        stream.write_all(bytes).await.expect("within the window");
        let why = closed(&peer).await;
        assert!(why.contains(text), "{text}: {why}");
        assert_eq!(read(&ours.counters.frames_refused), count, "{text}");
    }

    // A stream that ends within a frame loses that frame and nothing else.
    let peer = raw_member(&identity, &ours).await;
    let mut cut = peer.open_uni().await.expect("the transport allows it");
    cut.write_all(&other_version[..9]).await.expect("within the window");
    cut.finish().expect("it is open");
    let mut stream = peer.open_uni().await.expect("the transport allows it");
    stream.write_all(&gossip_frame(us, "after")).await.expect("within the window");
    assert_eq!(ours.next_gossip().await, (identity.host, gossip("after")));
    assert_eq!(read(&ours.counters.frames_refused), 5);
    assert!(peer.close_reason().is_none());
}

/// A stream with one direction or two.
type Stream = (quinn::SendStream, Option<quinn::RecvStream>);

/// Opens streams in the background, each with the first bytes of a frame, and says for each that it was opened.
fn open_thousand(peer: &quinn::Connection, first: &'static [u8], both_ways: bool) -> mpsc::UnboundedReceiver<Stream> {
    let (opened, streams) = mpsc::unbounded_channel();
    for _ in 0..1000 {
        let (peer, opened) = (peer.clone(), opened.clone());
        tokio::spawn(async move {
            let (mut send, receive) = if both_ways {
                let Ok((send, receive)) = peer.open_bi().await else { return };
                (send, Some(receive))
            } else {
                let Ok(send) = peer.open_uni().await else { return };
                (send, None)
            };
            if send.write_all(first).await.is_ok() {
                let _ = opened.send((send, receive));
            }
        });
    }
    streams
}

/// The four streams of gossip, and the sixteen of requests with the four of the store, that a peer may have open.
const LIMITS: [(usize, bool); 2] = [(4, false), (20, true)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_of_half_a_frame_are_held_few_at_a_time_and_not_for_long() {
    let cluster = Cluster::new();
    let mut ours = Host::start(&cluster.first);
    let us = cluster.first.cluster;
    let (unread, mut answer) = ask_and_not_read(&cluster, &ours).await;
    let mut all = Vec::new();
    // Half a length, and half of what it announces.
    for first in [&[0, 0][..], &[0, 0, 1, 0, 7, 7]] {
        let friend = raw_member(&cluster.admit("friend"), &ours).await;
        let mut held = Vec::new();
        for (limit, both_ways) in LIMITS {
            let greedy = raw_member(&cluster.admit("greedy"), &ours).await;
            let start = Instant::now();
            let mut streams = open_thousand(&greedy, first, both_ways);
            let mut opened = Vec::new();
            for _ in 0..limit {
                opened.push(within("it may open so many", streams.recv()).await.expect("the tasks live"));
            }
            held.push((greedy, streams, opened, start));
        }
        // Whatever else the greedy one could have opened would have come before this.
        for _ in 0..100 {
            let answer = ask(&friend, &request(us, query())).await;
            assert!(matches!(answer, response::Body::Query(_)), "{answer:?}");
        }
        friend.open_uni().await.expect("allowed").write_all(&gossip_frame(us, "hello")).await.expect("within");
        assert_eq!(ours.next_gossip().await.1, gossip("hello"));
        for (greedy, streams, _, _) in &mut held {
            assert!(streams.try_recv().is_err(), "no more than the limit");
            assert!(greedy.close_reason().is_none());
        }
        all.extend(held);
    }
    // They are let go, all at about the same time.
    for (greedy, mut streams, opened, start) in all {
        for (send, _receive) in &opened {
            let stopped = within("the host gives up on it", send.stopped()).await.expect("the connection is up");
            assert_eq!(stopped, Some(VarInt::from_u32(0)));
        }
        assert!(start.elapsed().as_secs() >= 9, "a frame may take its time: {:?}", start.elapsed());
        drop(opened);
        within("its place is free again", streams.recv()).await.expect("the tasks live");
        greedy.close(VarInt::from_u32(0), b"end of the test");
    }
    assert_eq!(read(&ours.counters.frames_refused), 0);

    // Nor is an answer kept for long that nobody takes.
    within("the answer is withdrawn", answer.received_reset()).await.expect("the connection is up");
    assert!(unread.close_reason().is_none(), "only the one stream ends");
}

/// Asks with room for the first four bytes of the answer, and no more until they are read.
async fn ask_and_not_read(cluster: &Cluster, ours: &Host) -> (quinn::Connection, quinn::RecvStream) {
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(4));
    let config = tls::peer_client_config(&cluster.admit("idle")).expect("a usable identity");
    let peer = raw_dial(config, transport, ours).await.expect("a member is let in");
    let (mut send, receive) = peer.open_bi().await.expect("the connection is up");
    send.write_all(&request(cluster.first.cluster, query())).await.expect("within the window");
    send.finish().expect("it is open");
    (peer, receive)
}
