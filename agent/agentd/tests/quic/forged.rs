//! A member with a good certificate that passes on what others never said.

use std::sync::Arc;

use bytes::Bytes;
use ringmesh_agentd::identity::{Identity, Keyring, keyring::HostSeals};
use ringmesh_node::Seals;
use ringmesh_proto::{
    ZoneId, frame,
    peer::{AccusationRecord, Gossip, GossipFrame, HostRecord, SyncRequest, request, response},
    seal::{Sealed, sealed_bytes},
    v1::host::State,
};

use crate::{
    datagrams::{alive, run},
    support::{Cluster, Host, ask, raw_member, request, within},
};

fn sealed<R: Sealed>(identity: &Arc<Identity>, mut record: R) -> R {
    let mut seals = HostSeals::new(&Keyring::of(identity).expect("a good identity"));
    *record.seal_mut() = seals.seal(&sealed_bytes(&record, identity.cluster));
    record
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_records_and_accusations_are_counted_and_change_nothing() {
    let cluster = Cluster::new();
    let us = cluster.first.cluster;
    let identities = [cluster.admit("h2"), cluster.admit("h3")];
    let (h1, h2, h3) = (Host::start(&cluster.first), Host::start(&identities[0]), Host::start(&identities[1]));
    let known = vec![h1.member, h2.member, h3.member];
    let liar = cluster.admit("h4");
    let evil = raw_member(&liar, &h1).await;
    let mut h1 = run(h1, "h1", known.clone());
    let (h2, h3) = (run(h2, "h2", known.clone()), run(h3, "h3", known));
    let named = |name: &'static str| move |view: &ringmesh_node::View| view.hosts.iter().any(|host| host.name == name);
    h1.sees("three hosts are alive", |view| alive(view) == 3 && named("h2")(view) && named("h3")(view)).await;

    let zone = ZoneId::of("default").raw();
    let sync = request(us, request::Body::Sync(SyncRequest { zone, ..SyncRequest::default() }));
    let response::Body::Sync(answer) = ask(&evil, &sync).await else { panic!("no sync") };
    let records = answer.missing.unwrap_or_default().hosts;
    let of = |id: u32| records.iter().find(|record| record.host == id).cloned().expect("its record has come");
    let (two, three) = (of(h2.member.id.raw()), of(h3.member.id.raw()));
    let accusation = |by: &HostRecord| AccusationRecord {
        accuser: by.host,
        accuser_generation: by.generation,
        seq: 1000,
        accused: two.host,
        accused_generation: two.generation,
        ..AccusationRecord::default()
    };
    let left = HostRecord { seq: two.seq + 1000, leaving: true, ..(*two).clone() };
    let gossip = Gossip {
        hosts: [left.clone(), sealed(&liar, left.clone()), HostRecord { seal: Bytes::new(), ..left }]
            .map(Into::into)
            .to_vec(),
        accusations: vec![
            sealed(&liar, accusation(&three)),
            AccusationRecord { seal: three.seal.clone(), ..accusation(&three) },
        ],
        zone,
        ..Gossip::default()
    };
    let bytes =
        frame::encode(&GossipFrame { version: frame::VERSION, cluster: us.raw(), gossip: Some(gossip), relay_to: 0 });
    let mut stream = evil.open_uni().await.expect("the transport allows it");
    within("room to send", stream.write_all(&bytes)).await.expect("within the window");
    h1.sees("all five are counted", |view| view.counters.get("seals_refused") == Some(&5)).await;
    let view = h1.view.borrow().clone();
    let shown = view.hosts.iter().find(|host| host.name == "h2").expect("it is shown");
    assert_eq!((shown.state(), shown.accusations.len()), (State::Alive, 0));
    assert!(evil.close_reason().is_none(), "it may have been deceived itself");

    // What h3 seals is believed, whoever brings it.
    let gossip = Gossip { accusations: vec![sealed(&identities[1], accusation(&three))], zone, ..Gossip::default() };
    let bytes =
        frame::encode(&GossipFrame { version: frame::VERSION, cluster: us.raw(), gossip: Some(gossip), relay_to: 0 });
    within("room to send", stream.write_all(&bytes)).await.expect("within the window");
    h1.sees("one accusation", |view| view.hosts.iter().any(|host| host.name == "h2" && host.accusations.len() == 1))
        .await;
}
