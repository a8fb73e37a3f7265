//! Bad requests: each is answered politely, and the connection serves on.

use ringmesh_proto::{
    frame,
    peer::{QueryRequest, QueryResponse, Request, refusal::Reason, request::Body, response},
};

use crate::support::{Cluster, Host, ask, raw_member, read, request, within};

fn query() -> Body {
    Body::Query(QueryRequest { containers: true, services: true, ..QueryRequest::default() })
}

#[tokio::test]
async fn a_bad_request_is_refused_in_words_and_harms_nothing() {
    let cluster = Cluster::new();
    let ours = Host::start(&cluster.first);
    let us = cluster.first.cluster.raw();
    let peer = raw_member(&cluster.admit("h2"), &ours).await;
    let other_version = frame::encode(&Request { version: 9, cluster: us, body: Some(query()) });
    let other_cluster = frame::encode(&Request { version: 1, cluster: us ^ 1, body: Some(query()) });
    let no_question = frame::encode(&Request { version: 1, cluster: us, body: None });
    let malformed = [&[0, 0, 0, 5][..], &[0xff; 5]].concat();
    let oversized = [&(frame::MAX_REQUEST as u32 + 1).to_be_bytes()[..], &[0; 4096]].concat();
    let huge = [0xff; 64];
    let cases: [(&str, &[u8], Reason, &str); 6] = [
        ("an unknown version", &other_version, Reason::Version, "version 9"),
        ("another cluster", &other_cluster, Reason::Cluster, "cluster"),
        ("no question", &no_question, Reason::Malformed, "without a question"),
        ("no protobuf", &malformed, Reason::Malformed, "malformed"),
        ("a byte too many", &oversized, Reason::Malformed, "262145 bytes"),
        ("four gigabytes", &huge, Reason::Malformed, "4294967295 bytes"),
    ];
    for (count, (what, bytes, reason, text)) in (1..).zip(cases) {
        let response::Body::Refusal(refusal) = ask(&peer, bytes).await else { panic!("{what}: answered") };
        assert_eq!(refusal.reason(), reason, "{what}");
        assert_eq!((refusal.version_min, refusal.version_max), (frame::VERSION, frame::VERSION), "{what}");
        assert!(refusal.text.contains(text), "{what}: {}", refusal.text);
        assert_eq!(read(&ours.counters.requests_refused), count, "{what}");
    }
    // That one was a good frame.
    assert_eq!(read(&ours.counters.frames_refused), 5);

    // The end of a stream before the end of a frame is no request at all.
    let (mut send, mut receive) = peer.open_bi().await.expect("the connection is up");
    send.write_all(&other_version[..7]).await.expect("within the window");
    send.finish().expect("it is open");
    let nothing = within("the end", receive.read_to_end(100)).await;
    assert_eq!(nothing.expect("an orderly end"), b"");

    let answer = ask(&peer, &request(cluster.first.cluster, query())).await;
    assert!(matches!(answer, response::Body::Query(QueryResponse { .. })), "{answer:?}");
    assert!(peer.close_reason().is_none());
}
