//! Questions of a host to one that it does not hear, by a third.

use std::{collections::BTreeMap, sync::Arc};

use ringmesh_node::{Peer, View, Way};
use ringmesh_proto::{
    Uplink,
    member::Member,
    peer::{QueryRequest, RelayRequest, request::Body, response},
};

use crate::support::{Cluster, Host, ask, raw_member, read, request, within};

/// A view in which this host knows another one.
fn knowing(host: &Host) -> Arc<View> {
    let way = Way::over(Uplink::A);
    let peer = Peer { member: host.member, name: "h3".into(), askable: true, fingerprint: 0, way };
    Arc::new(View { peers: Arc::new(BTreeMap::from([(host.id(), peer)])), fingerprint: 7, ..View::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_goes_by_a_third_host_and_never_by_two() {
    let cluster = Cluster::new();
    let h1 = Host::start(&cluster.first);
    let [h2, h3] = cluster.admit_two().map(|identity| Host::start(&identity));
    let nowhere = Member { id: h3.id(), generation: 1, addresses: [None; 2] };
    let by = |relay: &Host| Way { uplink: Uplink::A, via: Some(relay.member) };
    let question = |way| h1.transport.query(nowhere, way, QueryRequest { containers: true, ..QueryRequest::default() });
    let error = within("an end", question(by(&h2))).await.expect_err("h2 does not know it");
    assert!(error.to_string().contains("does not hear that one either"), "{error}");
    h2.view.send_replace(knowing(&h3));
    h3.view.send_replace(Arc::new(View { fingerprint: 33, ..View::default() }));
    let answer = within("an answer", question(by(&h2))).await.expect("h2 asks h3");
    assert_eq!(answer.fingerprint, 33, "the answer is h3's");
    assert_eq!((read(&h2.counters.requests_relayed), read(&h3.counters.requests_relayed)), (1, 0));
    // What would go on to another host is no question.
    let peer = raw_member(&cluster.first, &h2).await;
    let body = Body::Relay(RelayRequest { to: h3.id().raw(), body: None });
    let response::Body::Refusal(refusal) = ask(&peer, &request(cluster.first.cluster, body)).await else {
        panic!("it is refused");
    };
    assert_eq!(refusal.text, "a request without a question");
}
