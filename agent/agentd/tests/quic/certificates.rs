//! Certificates change while connections run: renewed, of another CA, revoked.

use std::time::Duration;

use bytes::Bytes;
use quinn::TransportConfig;
use ringmesh_agentd::{
    identity::{Facts, Identity, Keyring, tls},
    quic::Inbound,
};
use ringmesh_proto::{
    HostId, Uplink, frame,
    peer::{
        Gossip, GossipFrame, Refusal, RenewRequest, ShareRequest, SignedRecord, refusal::Reason, request, response,
    },
};

use crate::support::{Cluster, Host, ask, closed, now, raw_dial, raw_member, read, request, until, within};

const HELLO: Bytes = Bytes::from_static(b"hello");
const AGAIN: Bytes = Bytes::from_static(b"again");

/// The first host of a cluster, which signs, and its transport.
fn signer(cluster: &Cluster) -> Host {
    Host::start_with_keyring(&cluster.first, cluster.keyring())
}

/// Gets a certificate over the network, as the keeper does.
async fn renew(host: &Host, signer: &Host) {
    let (key, csr) = host.keyring.request().expect("randomness");
    let answer = within("a certificate", host.transport.renew(signer.member, csr)).await.expect("it signs");
    // Who is ahead tells about the CAs along with it.
    host.keyring.accept(&answer.trust.into_iter().collect::<Vec<_>>(), now()).expect("nothing is written");
    host.keyring.install_certificate(answer.certificate.to_vec(), &key, now()).expect("it is for this host");
}

fn renew_own(signer: &Host) {
    let (key, csr) = signer.keyring.request().expect("randomness");
    let certificate = signer.keyring.sign(&csr, signer.id(), "h1", now()).expect("it signs");
    signer.keyring.install_certificate(certificate, &key, now()).expect("it is for this host");
}

/// The serial number of the certificate that a host shows to one who dials it.
async fn shown_to(dialer: &Identity, host: &Host) -> Bytes {
    let connection = raw_member(dialer, host).await;
    let shown = tls::peer_certificates(&connection).expect("a server has one");
    connection.close(0u32.into(), b"done");
    Facts::of(&shown[0]).expect("X.509").serial
}

fn frame_of(cluster: &Cluster, signed: Vec<SignedRecord>) -> Bytes {
    let gossip = Some(Gossip { signed, ..Gossip::default() });
    frame::encode(&GossipFrame { version: frame::VERSION, cluster: cluster.first.cluster.raw(), gossip, relay_to: 0 })
}

fn refusal(answer: response::Body) -> Refusal {
    let response::Body::Refusal(refusal) = answer else { panic!("no refusal: {answer:?}") };
    refusal
}

#[tokio::test]
async fn a_renewed_certificate_is_used_for_new_connections_and_those_that_run_go_on() {
    let cluster = Cluster::new();
    let (mut h1, h2) = (signer(&cluster), Host::start(&cluster.admit("h2")));
    h2.transport.send_datagram(h1.member, Uplink::A, HELLO);
    assert_eq!(h1.next_datagram().await, (h2.id(), Uplink::A, HELLO));
    let watcher = cluster.admit("watcher");
    let running = raw_member(&watcher, &h2).await;
    let before = shown_to(&watcher, &h2).await;

    renew(&h2, &h1).await;
    assert_eq!(read(&h1.counters.certificates_signed), 1);
    let after = shown_to(&watcher, &h2).await;
    assert_eq!(after, h2.keyring.facts().serial);
    assert_ne!(after, before);
    // Neither the connection that it dialled nor the one that it accepted has ended.
    h2.transport.send_datagram(h1.member, Uplink::A, AGAIN);
    assert_eq!(h1.next_datagram().await, (h2.id(), Uplink::A, AGAIN));
    assert_eq!(running.close_reason(), None);
    assert_eq!(read(&h2.counters.messages_unsent), 0);

    // What it dials from now on shows the new one: the old one is worthless.
    let old = h1.keyring.revoke(h2.id(), before, "h2", now()).expect("it holds the key");
    h1.transport.spread(vec![old]).await;
    assert!(matches!(h1.next().await, Inbound::Signed { from: None, .. }));
    until("the connection of the old certificate is closed", || read(&h1.counters.connections_revoked) == 1).await;
    h2.reach(&mut h1, Uplink::B, b"with the new one").await;
}

#[tokio::test]
async fn hosts_renew_under_a_new_ca_one_that_slept_comes_back_and_one_that_missed_it_is_told() {
    let cluster = Cluster::new();
    let mut h1 = signer(&cluster);
    let (h2, mut h3) = (Host::start(&cluster.admit("h2")), Host::start(&cluster.admit("h3")));
    let (asleep, missing) = (cluster.admit("h4"), cluster.admit("h5"));
    h2.reach(&mut h3, Uplink::A, b"before").await;
    let before = raw_member(&asleep, &h2).await;

    let records = h1.keyring.rotate(3600, now()).expect("it holds the key");
    renew_own(&h1);
    for host in [&h2, &h3] {
        let accepted = host.keyring.accept(&records, now()).expect("nothing is written");
        assert_eq!((accepted.new.len(), accepted.refused), (1, 0));
    }
    // Each with what it has: the old certificate at h2, the new one at h3.
    renew(&h3, &h1).await;
    h2.reach(&mut h3, Uplink::B, b"old to new").await;
    h3.reach(&mut h1, Uplink::B, b"new to new").await;
    renew(&h2, &h1).await;
    assert_eq!(before.close_reason(), None, "what ran goes on");

    // Within the overlap: it knows only the old CA, and all others have certificates of the new one. They believe each
    // other, whoever dials, so it is told.
    let mut h4 = Host::start(&asleep);
    h4.reach(&mut h3, Uplink::A, b"awake").await;
    h2.reach(&mut h4, Uplink::B, b"welcome").await;
    assert_eq!(h4.keyring.trust_version(), 0);
    renew(&h4, &h1).await;
    assert_eq!((h4.keyring.head(), h4.keyring.issuer()), (h1.keyring.head(), Some(h1.keyring.head())));
    let records = h1.keyring.retire(now()).expect("it holds the key");
    for host in [&h2, &h3, &h4] {
        let accepted = host.keyring.accept(&records, now()).expect("nothing is written");
        assert_eq!((accepted.new.len(), host.keyring.issuer()), (1, Some(h1.keyring.head())));
    }
    h4.reach(&mut h3, Uplink::A, b"after").await;
    // A connection of the old CA is replaced where there is one to replace it, and ends: its key may be a thief's.
    let why = closed(&before).await;
    assert!(why.contains("a CA that is gone"), "{why}");
    let unsent = read(&h2.counters.messages_unsent);
    for _ in 0..20 {
        h2.reach(&mut h3, Uplink::A, b"all the time").await;
    }
    assert_eq!(read(&h2.counters.messages_unsent), unsent);

    // After it: refused at both ends, and told what to do.
    let h5 = Host::start(&missing);
    h5.transport.send_datagram(h1.member, Uplink::A, HELLO);
    until("its try fails", || read(&h5.counters.messages_unsent) == 1).await;
    let problem = h5.keyring.problem(now()).expect("something is wrong");
    assert!(problem.contains("CA was changed while it was away") && problem.contains("ringmesh join"), "{problem}");
    h1.transport.send_datagram(h5.member, Uplink::B, HELLO);
    until("the other try fails, too", || read(&h1.counters.messages_unsent) == 1).await;
}

#[tokio::test]
async fn a_revoked_host_is_cut_off_told_and_refused() {
    let cluster = Cluster::new();
    let mut h1 = signer(&cluster);
    let mut h3 = Host::start(&cluster.admit("h3"));
    let identity = cluster.admit("h2");
    let mut h2 = Host::start(&identity);
    h2.reach(&mut h3, Uplink::A, b"dialled by it").await;
    h3.reach(&mut h2, Uplink::B, b"dialled by the other").await;

    let record = h1.keyring.revoke(h2.id(), Bytes::new(), "h2", now()).expect("it holds the key");
    let teller = cluster.admit("h4");
    let mut stream = raw_member(&teller, &h3).await.open_uni().await.expect("the transport allows it");
    stream.write_all(&frame_of(&cluster, vec![record.clone()])).await.expect("it is read");
    loop {
        if let Inbound::Signed { from, records } = h3.next().await {
            assert_eq!((from, records), (Some(teller.host), vec![record.clone()]));
            break;
        }
    }
    until("both connections are closed", || read(&h3.counters.connections_revoked) == 2).await;
    // It is told with the record itself, and believes that.
    loop {
        if let Inbound::Signed { from, records } = h2.next().await {
            assert_eq!((from, records), (None, vec![record.clone()]));
            break;
        }
    }
    assert!(h2.keyring.problem(now()).is_some_and(|problem| problem.contains("revoked")));

    // Nothing of it comes in any more, whoever dials.
    while h3.inbound.try_recv().is_ok() {}
    let before = read(&h3.counters.connections_refused);
    match raw_dial(tls::peer_client_config(&identity).expect("usable"), TransportConfig::default(), &h3).await {
        Ok(connection) => {
            let _ = connection.send_datagram(HELLO);
            let why = closed(&connection).await;
            assert!(why.contains("ertificate") || why.contains("revoked"), "{why}");
        }
        Err(error) => assert!(!matches!(error, quinn::ConnectionError::TimedOut), "{error}"),
    }
    until("it is counted", || read(&h3.counters.connections_refused) > before).await;
    h3.transport.send_datagram(h2.member, Uplink::B, HELLO);
    until("our try fails", || read(&h3.counters.messages_unsent) >= 1).await;
    assert!(h3.inbound.try_recv().is_err());

    // Its friends are untouched.
    h3.reach(&mut h1, Uplink::A, b"as ever").await;
}

#[tokio::test]
async fn a_host_revoked_at_the_signer_gets_no_certificate() {
    let cluster = Cluster::new();
    let h1 = signer(&cluster);
    let connection = raw_member(&cluster.admit("h2"), &h1).await;
    let (_, csr) = h1.keyring.request().expect("randomness");
    let body = |csr: Vec<u8>| request::Body::Renew(RenewRequest { csr: csr.into() });
    let us = cluster.first.cluster;
    let response::Body::Renew(_) = ask(&connection, &request(us, body(csr.clone()))).await else { panic!("it signs") };
    assert_eq!(refusal(ask(&connection, &request(us, body(csr.clone()))).await).reason(), Reason::Busy, "so soon");

    let other = cluster.admit("h3");
    let connection = raw_member(&other, &h1).await;
    assert_eq!(refusal(ask(&connection, &request(us, body(b"x".to_vec()))).await).reason(), Reason::Malformed);
    h1.keyring.revoke(other.host, Bytes::new(), "h3", now()).expect("it holds the key");
    let why = closed(&connection).await;
    assert!(!why.contains("timed out"), "{why}");

    // Nor does anybody from a host without the key, or without a certificate of its own.
    let h4 = Host::start(&cluster.admit("h4"));
    let connection = raw_member(&cluster.admit("h5"), &h4).await;
    let refused = refusal(ask(&connection, &request(us, body(csr.clone()))).await);
    assert_eq!(refused.reason(), Reason::NoAuthority);
    let pin = ringmesh_agentd::identity::fingerprint(&cluster.first.authorities[0]);
    let config = tls::join_client_config(pin).expect("ring");
    let stranger = raw_dial(config, TransportConfig::default(), &h1).await.expect("all may ask to join");
    assert_eq!(refusal(ask(&stranger, &request(us, body(csr))).await).reason(), Reason::NotAllowed);
}

#[tokio::test]
async fn the_key_is_taken_only_if_it_is_that_of_the_ca() {
    let cluster = Cluster::new();
    let (h1, h2) = (signer(&cluster), Host::start(&cluster.admit("h2")));
    let wrong = signer(&Cluster::new()).keyring.authority_key().expect("it holds its key");
    h1.transport.share(h2.member, wrong).await.expect_err("another CA's");
    assert!(!h2.keyring.is_signer());
    h1.transport.share(h2.member, h1.keyring.authority_key().expect("it holds it")).await.expect("the right one");
    assert!(h2.keyring.is_signer());
    let body = request::Body::Share(ShareRequest { key: Bytes::new() });
    let connection = raw_member(&cluster.admit("h3"), &h2).await;
    assert_eq!(refusal(ask(&connection, &request(cluster.first.cluster, body)).await).reason(), Reason::Malformed);
}

#[tokio::test]
async fn forged_records_are_counted_not_passed_on_and_cost_no_connection() {
    let cluster = Cluster::new();
    let h1 = signer(&cluster);
    let mut h2 = Host::start(&cluster.admit("h2"));
    let good = h1.keyring.revoke(HostId::new(9), Bytes::new(), "h9", now()).expect("it holds the key");
    let forged = SignedRecord { host: h2.id().raw(), ..good.clone() };
    let foreign = signer(&Cluster::new()).keyring.revoke(h2.id(), Bytes::new(), "h2", now()).expect("it holds its key");
    let friend = raw_member(&cluster.admit("h3"), &h2).await;
    let mut stream = friend.open_uni().await.expect("the transport allows it");
    stream.write_all(&frame_of(&cluster, vec![forged, foreign])).await.expect("it is read");
    // What comes first is the frame without them.
    let (_, gossip) = h2.next_gossip().await;
    assert!(gossip.signed.is_empty());
    assert_eq!(read(&h2.counters.signed_records_refused), 2);
    stream.write_all(&frame_of(&cluster, vec![good.clone(), good.clone()])).await.expect("it is read");
    let Inbound::Signed { records, .. } = h2.next().await else { panic!("the good one comes first") };
    assert_eq!(records, std::slice::from_ref(&good), "once");
    let Inbound::Gossip { .. } = h2.next().await else { panic!("then the rest of the frame") };
    stream.write_all(&frame_of(&cluster, vec![good])).await.expect("it is read");
    let Inbound::Gossip { .. } = h2.next().await else { panic!("it is no news") };
    assert_eq!(friend.close_reason(), None);
    assert_eq!((read(&h2.counters.signed_records_refused), read(&h2.counters.signed_records_stale)), (2, 0));
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_its_owner_told() {
    let cluster = Cluster::new();
    let h1 = signer(&cluster);
    let h2 = Host::start(&cluster.admit("h2"));
    // Signed two days ago for a day.
    let short =
        Keyring::open(&cluster.first, &cluster.state_dir(), Duration::from_secs(86_400)).expect("our own files");
    let (key, csr) = h2.keyring.request().expect("randomness");
    let past = now() - 2 * 86_400;
    let certificate = short.sign(&csr, h2.id(), "h2", past).expect("it signs");
    h2.keyring.install_certificate(certificate, &key, past).expect("it was valid then");
    h2.transport.send_datagram(h1.member, Uplink::A, HELLO);
    until("it is refused", || read(&h1.counters.connections_refused) == 1).await;
    let problem = h2.keyring.problem(now()).expect("it has expired");
    assert!(problem.contains("expired at") && problem.contains("ringmesh join"), "{problem}");
}
