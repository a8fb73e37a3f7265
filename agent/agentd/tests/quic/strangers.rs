//! Who is no host of the cluster is refused, whichever end dials.

use std::sync::Arc;

use bytes::Bytes;
use quinn::TransportConfig;
use ringmesh_agentd::identity::{Identity, fingerprint, tls};
use ringmesh_proto::{
    ClusterId, Uplink,
    member::Member,
    peer::{JoinRequest, QueryRequest, Refusal, SyncRequest, refusal::Reason, request, response},
};

use crate::support::{
    Cluster, Host, ask, closed, gossip_frame, raw_dial, raw_dial_from, raw_endpoint, raw_member, read, request, until,
};

const HELLO: Bytes = Bytes::from_static(b"hello");

/// Lets both dial each other, and a client that believes our host dial it by hand. Nothing may come through.
async fn expect_refused(cluster: &Cluster, stranger: &Arc<Identity>, gullible: &Identity) {
    let mut ours = Host::start(&cluster.first);
    let mut theirs = Host::start(stranger);

    // They dial us, and do not believe us.
    theirs.transport.send_datagram(ours.member, Uplink::A, HELLO);
    until("their try fails", || read(&theirs.counters.messages_unsent) == 1).await;
    until("we count it", || read(&ours.counters.connections_refused) == 1).await;

    // They dial us and believe us, but we not them.
    let config = tls::peer_client_config(gullible).expect("a usable identity");
    match raw_dial(config, TransportConfig::default(), &ours).await {
        Ok(connection) => {
            let _ = connection.send_datagram(HELLO);
            let why = closed(&connection).await;
            assert!(why.contains("certificate") || why.contains("error"), "{why}");
        }
        Err(error) => assert!(!matches!(error, quinn::ConnectionError::TimedOut), "{error}"),
    }
    until("we count it", || read(&ours.counters.connections_refused) == 2).await;

    // We dial them.
    ours.transport.send_datagram(theirs.member, Uplink::B, HELLO);
    until("our try fails", || read(&ours.counters.messages_unsent) == 1).await;
    until("they count it", || read(&theirs.counters.connections_refused) == 1).await;
    assert!(theirs.inbound.try_recv().is_err());

    // What comes first at ours is of a friend.
    let friend = Host::start(&cluster.admit("friend"));
    friend.transport.send_datagram(ours.member, Uplink::A, HELLO);
    assert_eq!(ours.next_datagram().await, (friend.id(), Uplink::A, HELLO));
    assert!(ours.inbound.try_recv().is_err());
}

#[tokio::test]
async fn another_cluster_under_another_ca_is_refused_in_both_directions() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let gullible = Identity {
        cluster: ours.first.cluster,
        host: theirs.first.host,
        name: theirs.first.name.clone(),
        ring_seed: 0,
        chain: theirs.first.chain.clone(),
        key: theirs.first.key.clone_key(),
        authorities: ours.first.authorities.clone(),
        authority_key: None,
    };
    expect_refused(&ours, &theirs.first, &gullible).await;
}

#[tokio::test]
async fn another_cluster_under_our_ca_is_refused_in_both_directions() {
    let ours = Cluster::new();
    let forged = ours.forge_other_cluster();
    expect_refused(&ours, &forged, &forged).await;
}

#[tokio::test]
async fn another_host_at_the_address_is_refused() {
    let cluster = Cluster::new();
    let ours = Host::start(&cluster.first);
    let mut there = Host::start(&cluster.admit("there"));
    let meant = Member { id: cluster.admit("meant").host, ..there.member };
    ours.transport.send_datagram(meant, Uplink::A, HELLO);
    until("our try fails", || read(&ours.counters.messages_unsent) == 1).await;
    until("they count it", || read(&there.counters.connections_refused) == 1).await;
    assert!(there.inbound.try_recv().is_err());
}

#[tokio::test]
async fn a_server_of_another_cluster_gets_no_byte_of_ours() {
    let cluster = Cluster::new();
    let ours = Host::start(&cluster.first);
    for stranger in [cluster.forge_other_cluster(), Arc::clone(&Cluster::new().first)] {
        let address = crate::support::free(Uplink::A);
        let endpoint = raw_endpoint(&stranger, address);
        let member = Member { id: stranger.host, generation: 1, addresses: [Some(address), None] };
        let before = read(&ours.counters.messages_unsent);
        ours.transport.send_datagram(member, Uplink::A, HELLO);
        let incoming = endpoint.accept().await.expect("the endpoint is open");
        incoming.await.expect_err("our host breaks it off");
        until("our try fails", || read(&ours.counters.messages_unsent) == before + 1).await;
    }
}

#[tokio::test]
async fn without_a_certificate_nothing_is_said_between_hosts() {
    let cluster = Cluster::new();
    let mut ours = Host::start(&cluster.first);
    let pin = fingerprint(&cluster.first.authorities[0]);
    let mut config = tls::join_client_config(pin).expect("ring");
    config.alpn_protocols = vec![tls::ALPN_PEER.into()];
    let connection = raw_dial(config, TransportConfig::default(), &ours).await.expect("the check comes after it");
    let _ = connection.send_datagram(HELLO);
    let why = closed(&connection).await;
    assert!(why.contains("the peer has no certificate"), "{why}");
    assert_eq!(read(&ours.counters.connections_refused), 1);
    assert!(ours.inbound.try_recv().is_err());
}

fn refused(answer: response::Body) -> Refusal {
    let response::Body::Refusal(refusal) = answer else { panic!("no refusal: {answer:?}") };
    assert!(!refusal.text.is_empty());
    refusal
}

#[tokio::test]
async fn a_joining_host_may_only_ask_to_join() {
    let cluster = Cluster::new();
    let mut ours = Host::start(&cluster.first);
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("loopback");
    let pin = fingerprint(&cluster.first.authorities[0]);
    let us = cluster.first.cluster;
    let questions: [(request::Body, Reason); 3] = [
        (
            request::Body::Query(QueryRequest { containers: true, services: true, ..QueryRequest::default() }),
            Reason::NotAllowed,
        ),
        (request::Body::Sync(SyncRequest::default()), Reason::NotAllowed),
        // This host has no authority here: the answer is of the right kind, at least.
        (request::Body::Join(JoinRequest::default()), Reason::NoAuthority),
    ];
    for (count, (question, reason)) in (1..).zip(questions) {
        let config = tls::join_client_config(pin).expect("ring");
        let connection =
            raw_dial_from(&endpoint, config, TransportConfig::default(), &ours).await.expect("all may ask to join");
        // Neither a datagram nor gossip of it is read.
        connection.send_datagram(HELLO).expect("quinn takes it");
        let mut stream = connection.open_uni().await.expect("the transport allows it");
        stream.write_all(&gossip_frame(us, "smuggled")).await.expect("it goes into the void");
        assert_eq!(refused(ask(&connection, &request(us, question)).await).reason(), reason);
        assert_eq!(read(&ours.counters.requests_refused), count);
        connection.close(0u32.into(), b"done");
    }
    assert_eq!(read(&ours.counters.hosts_admitted), 0);

    let friend = raw_member(&cluster.admit("friend"), &ours).await;
    let join = request(us, request::Body::Join(JoinRequest::default()));
    assert_eq!(refused(ask(&friend, &join).await).reason(), Reason::NotAllowed);
    friend.send_datagram(HELLO).expect("quinn takes it");
    assert_eq!(ours.next_datagram().await.2, HELLO);
    assert!(ours.inbound.try_recv().is_err());
}

#[tokio::test]
async fn a_bad_token_admits_nobody_and_a_good_one_so_many_as_it_says() {
    let cluster = Cluster::new();
    let mut authority = cluster.authority();
    let address = ([127, 0, 0, 1], 1).into();
    let token = authority
        .create_token(std::time::Duration::from_secs(60), 1, vec![address], crate::support::now())
        .expect("within all bounds");
    let ours = Host::start_with(&cluster.first, crate::support::CACHE, Some(authority));
    let pin = fingerprint(&cluster.first.authorities[0]);
    let join = |secret: [u8; 16], name: &str| {
        let key = rcgen::KeyPair::generate().expect("randomness");
        let csr = rcgen::CertificateParams::default().serialize_request(&key).expect("a request");
        let body = request::Body::Join(JoinRequest {
            token_id: token.id.to_vec().into(),
            token_secret: secret.to_vec().into(),
            name: name.into(),
            csr: csr.der().to_vec().into(),
            zone: String::new(),
        });
        // A joining host does not know the cluster yet.
        let bytes = request(ClusterId::new(0), body);
        let ours = &ours;
        async move {
            let config = tls::join_client_config(pin).expect("ring");
            let connection = raw_dial(config, TransportConfig::default(), ours).await.expect("all may ask to join");
            let answer = ask(&connection, &bytes).await;
            connection.close(0u32.into(), b"done");
            answer
        }
    };
    assert_eq!(refused(join([0; 16], "h2").await).reason(), Reason::Token);
    let response::Body::Join(admitted) = join(token.secret, "h2").await else { panic!("the token is good") };
    assert_eq!(admitted.cluster, cluster.first.cluster.raw());
    assert_eq!(refused(join(token.secret, "h3").await).reason(), Reason::Token);
    assert_eq!((read(&ours.counters.hosts_admitted), read(&ours.counters.requests_refused)), (1, 2));
}
