use std::time::Duration;

use bytes::Bytes;
use ringmesh_proto::{
    peer::{EventRecord, Gossip, HostRecord, SignedRecord},
    signed::{KIND_REVOCATION, KIND_TRUST},
    v1::host::State,
};

use super::*;
use crate::node::tests::Pair;

fn revocation(host: u32) -> SignedRecord {
    SignedRecord { kind: KIND_REVOCATION, host, version: 1, expires_unix: u64::MAX, ..SignedRecord::default() }
}

fn trust(version: u64) -> SignedRecord {
    SignedRecord { kind: KIND_TRUST, version, body: Bytes::from_static(b"bundle"), ..SignedRecord::default() }
}

fn joined() -> Pair {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(5), |_, _, _| false);
    assert_eq!(pair.state(0, "h2"), Some(State::Alive));
    pair
}

#[test]
fn a_record_is_given_to_who_lacks_it_and_believed_only_when_handed_in_verified() {
    let mut pair = joined();
    let now = pair.now();
    pair.node(0).handle_signed(now, None, vec![trust(3)]);
    // The pair takes gossip as it comes, unverified: a node alone believes none of it.
    pair.run(Duration::from_secs(15), |_, _, _| false);
    assert!(pair.node(1).store.signed().all().is_empty());
    let zone = pair.node(0).zone.id.raw();
    let request = ringmesh_proto::peer::SyncRequest { zone, ..Default::default() };
    let response = pair.node(0).handle_sync_request(now, &request);
    assert!(response.signed_differ);
    assert_eq!(response.missing.expect("it has something").signed, [trust(3)]);
    let digest = pair.node(0).store.signed().digest();
    let request = ringmesh_proto::peer::SyncRequest { signed_digest: digest, ..request };
    let response = pair.node(0).handle_sync_request(now, &request);
    assert!(!response.signed_differ && response.missing.expect("records").signed.is_empty());
}

#[test]
fn a_revoked_host_has_left_without_a_suspicion_and_is_not_heard_again() {
    let mut pair = joined();
    let now = pair.now();
    pair.node(0).handle_signed(now, None, vec![revocation(2)]);
    // Its datagrams and gossip still arrive.
    pair.run(Duration::from_secs(20), |_, _, _| false);
    assert_eq!(pair.state(0, "h2"), Some(State::Left));
    let kinds: Vec<String> = pair.view(0).events.iter().map(|event| event.kind.clone()).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "host-revoked").count(), 1, "{kinds:?}");
    assert!(
        !kinds.iter().any(|kind| kind == "host-suspect" || kind == "host-down" || kind == "host-left"),
        "{kinds:?}"
    );
    assert!(pair.view(0).counters.get("datagram_revoked").is_some_and(|count| *count > 0));
    assert!(pair.view(0).rings.iter().all(|ring| ring.hosts == ["h1"]), "it is in no ring");

    // Nor through others.
    let now = pair.now();
    let record = HostRecord { host: 2, generation: 99, seq: 1, name: "h2".into(), ..HostRecord::default() };
    let event = EventRecord { origin: 2, generation: 99, seq: 1, kind: "smuggled".into(), ..EventRecord::default() };
    let gossip = Gossip { hosts: vec![record.into()], events: vec![event], ..Gossip::default() };
    pair.node(0).handle_gossip(now, HostId::new(3), gossip);
    pair.run(Duration::from_secs(1), |_, _, _| false);
    assert_eq!(pair.state(0, "h2"), Some(State::Left));
    assert!(!pair.view(0).events.iter().any(|event| event.kind == "smuggled"));
}

#[test]
fn a_host_that_learns_of_its_own_revocation_says_so() {
    let mut pair = joined();
    let now = pair.now();
    pair.node(1).handle_signed(now, None, vec![revocation(2)]);
    pair.run(Duration::from_secs(1), |_, _, _| false);
    let told = pair.view(1).events.iter().any(|event| event.kind == "host-revoked" && event.host == "h2");
    assert!(told);
}

#[test]
fn a_certificate_is_in_the_record_that_others_see() {
    let mut pair = joined();
    let now = pair.now();
    assert_eq!(pair.host(1, "h1").certificate, None);
    pair.node(0).handle_certificate(now, Certificate { issuer: 0xab, ends_unix: 7, signs_with: 0xab });
    pair.run(Duration::from_secs(3), |_, _, _| false);
    let seen = pair.host(1, "h1").certificate.expect("it says so");
    assert_eq!((seen.issuer.as_str(), seen.signs_with.as_str()), ("00000000000000ab", "00000000000000ab"));
    assert_eq!(seen.not_after.map(|time| time.seconds), Some(7));
}
