//! What hosts of one cluster say to each other.

use std::sync::Arc;

use bytes::Bytes;
use ringmesh_agentd::quic::{Inbound, RequestError};
use ringmesh_node::{Class, ContainerRow, View, Way, health::spec::ContainerSpec};
use ringmesh_proto::{
    Uplink,
    member::Member,
    peer::{HistoryQuery, QueryRequest, SyncRequest, SyncResponse, Version},
    v1,
};

use crate::support::{Cluster, Host, LONG, gossip, gossip_frame, read, within};

#[tokio::test]
async fn members_exchange_datagrams_gossip_and_questions() {
    let cluster = Cluster::new();
    let mut h1 = Host::start(&cluster.first);
    let mut h2 = Host::start(&cluster.admit("h2"));
    // A question opens a connection if there is none.
    h1.transport.query(h2.member, Way::over(Uplink::A), QueryRequest::default()).await.expect("h2 answers");

    for uplink in Uplink::BOTH {
        h1.transport.send_datagram(h2.member, uplink, Bytes::from_static(b"there"));
        assert_eq!(h2.next_datagram().await, (h1.id(), uplink, Bytes::from_static(b"there")));
        h2.transport.send_datagram(h1.member, uplink, Bytes::from_static(b"and back"));
        assert_eq!(h1.next_datagram().await, (h2.id(), uplink, Bytes::from_static(b"and back")));
    }

    for (class, text) in [(Class::Event, "urgent"), (Class::Digest, "not urgent")] {
        h1.transport.send_gossip(h2.member, Uplink::B, class, gossip_frame(cluster.first.cluster, text), false);
        assert_eq!(h2.next_gossip().await, (h1.id(), gossip(text)));
    }

    let spec = ContainerSpec { name: "web".into(), ..ContainerSpec::default() };
    let container = ContainerRow { spec: spec.into(), ..ContainerRow::default() };
    let view = View { containers: Arc::new(vec![Arc::new(container)]), ..View::default() };
    h2.view.send_replace(Arc::new(view));
    let ask = QueryRequest { containers: true, ..QueryRequest::default() };
    let answer =
        within("an answer", h1.transport.query(h2.member, Way::over(Uplink::A), ask)).await.expect("h2 answers");
    assert_eq!(answer.containers.iter().map(|container| container.name.as_str()).collect::<Vec<_>>(), ["web"]);

    let have = Version { host: 7, generation: 8, seq: 9, ..Version::default() };
    let request = SyncRequest { have: vec![have], ..SyncRequest::default() };
    h1.transport.sync(h2.member, Way::over(Uplink::A), request);
    let Inbound::Sync { request, reply } = h2.next().await else { panic!("no sync") };
    assert_eq!(request.have, [have]);
    let response = SyncResponse { missing: Some(gossip("missed")), ..SyncResponse::default() };
    reply.send(response.clone()).expect("the request is still open");
    let Inbound::SyncAnswer { from, response: answer } = h1.next().await else { panic!("no answer") };
    assert_eq!((from, answer), (h2.id(), response));

    for host in [&h1, &h2] {
        assert!(host.counters.read().values().all(|count| *count == 0), "{:?}", host.counters.read());
    }
}

#[tokio::test]
async fn a_question_for_histories_is_answered_by_the_host_loop_or_refused() {
    let cluster = Cluster::new();
    let h1 = Host::start(&cluster.first);
    let mut h2 = Host::start(&cluster.admit("h2"));
    let wanted = HistoryQuery { service: "http".into(), container: "web".into() };
    let query = || QueryRequest { history: Some(wanted.clone()), ..QueryRequest::default() };
    let member = h2.member;
    let ask = || h1.transport.query_within(member, Way::over(Uplink::A), query(), LONG);
    let history = v1::History { host: "h2".into(), ..v1::History::default() };
    let answer = async {
        let Inbound::Histories { wanted: asked, reply } = h2.next().await else { panic!("no question") };
        assert_eq!(asked, wanted);
        reply.send(vec![history.clone()]).expect("it waits");
    };
    let (asked, ()) = within("an answer", async { tokio::join!(ask(), answer) }).await;
    assert_eq!(asked.expect("h2 answers").histories, [history]);
    drop(h2.inbound);
    let refused = within("a refusal", ask()).await;
    assert!(matches!(refused, Err(RequestError::Refused(_))), "its loop has ended: {refused:?}");
}

#[tokio::test]
async fn a_question_to_nobody_ends_soon() {
    let cluster = Cluster::new();
    let h1 = Host::start(&cluster.first);
    let addresses = Uplink::BOTH.map(|uplink| Some(crate::support::free(uplink)));
    let nobody = Member { id: cluster.admit("h2").host, generation: 1, addresses };
    let answer = within("an end", h1.transport.query(nobody, Way::over(Uplink::A), QueryRequest::default())).await;
    assert!(matches!(answer, Err(RequestError::NoConnection)), "{answer:?}");
}

#[tokio::test]
async fn gossip_takes_the_other_uplink_when_its_own_has_no_connection() {
    let cluster = Cluster::new();
    let mut h1 = Host::start(&cluster.first);
    let mut h2 = Host::start(&cluster.admit("h2"));
    h1.reach(&mut h2, Uplink::B, b"over b").await;
    // Nothing listens on its uplink A any more.
    let mut moved = h2.member;
    moved.addresses[0] = Some(crate::support::free(Uplink::A));
    h1.transport.send_gossip(moved, Uplink::A, Class::Event, gossip_frame(cluster.first.cluster, "around"), false);
    let arrived = within("the gossip", async {
        loop {
            if let Inbound::Gossip { from, gossip, .. } = h2.next().await {
                return (from, gossip);
            }
        }
    });
    assert_eq!(arrived.await, (h1.id(), gossip("around")));
    assert_eq!(read(&h1.counters.event_frames_dropped), 0);
    assert!(h1.inbound.try_recv().is_err());
}
