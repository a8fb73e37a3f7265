//! Who may connect as a host, and which server a host believes.

use std::sync::Arc;

use ringmesh_agentd::identity::{
    Access, Identity, PeerError, PeerIdentity, Role, read_certificates, read_key, server_name, tls,
};
use ringmesh_proto::HostId;

use crate::support::{Answer, FirstHost, Seen, Server, dial, forge, other_cluster};

fn serve(identity: impl Into<Arc<Identity>>) -> Server {
    Server::start(identity.into(), Answer::WithoutAuthority)
}

fn name_of(identity: &Identity) -> String {
    server_name(identity.cluster, identity.host)
}

fn client(identity: &Identity) -> rustls::ClientConfig {
    tls::peer_client_config(identity).expect("a usable identity")
}

fn expect_handshake(seen: &Seen, text: &str) {
    assert!(matches!(seen, Seen::Handshake(error) if error.contains(text)), "{text}: {seen:?}");
}

#[tokio::test]
async fn another_ca_is_refused_on_both_sides() {
    let (ours, theirs) = (FirstHost::new("h1"), FirstHost::new("h1"));
    let mut server = serve(ours.identity.clone());
    let error = dial(client(&theirs.identity), server.address, &name_of(&ours.identity)).await;
    assert!(error.expect_err("the client knows another CA").contains("UnknownIssuer"));
    expect_handshake(&server.next().await, "aborted by peer");

    // A client that does believe the server is refused all the same.
    let key = theirs.identity.key.clone_key();
    let (name, chain) = (theirs.identity.name.clone(), theirs.identity.chain.clone());
    let authorities = ours.identity.authorities.clone();
    let cluster = ours.identity.cluster;
    let host = theirs.identity.host;
    let gullible = Identity {
        cluster,
        host,
        name,
        ring_seed: 0,
        chords: Default::default(),
        chain,
        key,
        authorities,
        authority_key: None,
    };
    let error = dial(client(&gullible), server.address, &name_of(&ours.identity)).await;
    assert!(error.expect_err("the server knows another CA").starts_with("after it"));
    expect_handshake(&server.next().await, "UnknownIssuer");
}

#[tokio::test]
async fn another_cluster_under_our_ca_is_refused_on_both_sides() {
    let first = FirstHost::new("h1");
    let ours = &first.identity;
    let claim = PeerIdentity { cluster: other_cluster(ours), role: Role::Host(ours.host) };
    let theirs = forge(ours, &claim);

    let mut server = serve(ours.clone());
    let error = dial(client(&theirs), server.address, &name_of(ours)).await;
    assert!(error.expect_err("the server wants its own cluster").starts_with("after it"));
    expect_handshake(&server.next().await, "the peer belongs to cluster");
    // The check after the handshake stands on its own.
    let refused = PeerError::Cluster { theirs: claim.cluster, ours: ours.cluster };
    assert_eq!(tls::check_peer(Some(&theirs.chain), ours.cluster), Err(refused));

    let server = serve(theirs);
    let error = dial(client(ours), server.address, &name_of(ours)).await;
    assert!(error.expect_err("the client wants its own cluster").contains("not valid for name"));
}

#[tokio::test]
async fn another_host_at_the_address_is_refused() {
    let first = FirstHost::new("h1");
    let server = serve(first.identity.clone());
    let other = server_name(first.identity.cluster, HostId::new(first.identity.host.raw() ^ 1));
    let error = dial(client(&first.identity), server.address, &other).await;
    assert!(error.expect_err("it is another host").contains("not valid for name"));
}

#[tokio::test]
async fn without_a_certificate_one_may_only_ask_to_join() {
    let first = FirstHost::new("h1");
    let mut server = serve(first.identity.clone());
    let pin = ringmesh_agentd::identity::fingerprint(&first.identity.authorities[0]);
    let mut config = tls::join_client_config(pin).expect("ring");
    config.alpn_protocols = vec![tls::ALPN_PEER.into()];
    let error = dial(config, server.address, "any.ringmesh").await;
    assert!(error.expect_err("a peer has a certificate").contains("the peer has no certificate"));
    assert_eq!(server.next().await, Seen::Caller(Err(PeerError::NoCertificate)));
    assert_eq!(tls::check_peer(None, first.identity.cluster), Err(PeerError::NoCertificate));

    let mut config = tls::join_client_config(pin).expect("ring");
    config.alpn_protocols = vec![b"h3".into()];
    let error = dial(config, server.address, "any.ringmesh").await;
    assert!(error.expect_err("an unknown protocol").starts_with("handshake"));
    assert!(matches!(server.next().await, Seen::Handshake(_)));
}

#[tokio::test]
async fn operators_and_nameless_certificates_are_no_hosts() {
    let first = FirstHost::new("h1");
    let ours = &first.identity;
    let mut server = serve(ours.clone());
    let directory = first.state_dir().join("identity");
    let mut operator = forge(
        ours,
        &PeerIdentity { cluster: ours.cluster, role: Role::User { name: "x".into(), access: Access::Operator } },
    );
    operator.chain = read_certificates(&directory.join("operator.pem")).expect("init made it");
    operator.key = read_key(&directory.join("operator.key")).expect("init made it").into();
    dial(client(&operator), server.address, &name_of(ours)).await.expect_err("an operator is no host");
    expect_handshake(&server.next().await, "only hosts of the cluster");

    // A CA certificate shown as one's own names nobody.
    assert_eq!(tls::check_peer(Some(&ours.authorities), ours.cluster), Err(PeerError::Name));
    assert_eq!(tls::check_peer(Some(&[vec![0x30].into()]), ours.cluster), Err(PeerError::Malformed));
}

#[tokio::test]
async fn a_join_believes_only_the_pinned_ca_and_only_a_host_under_it() {
    let (ours, theirs) = (FirstHost::new("h1"), FirstHost::new("h1"));
    let pin = ringmesh_agentd::identity::fingerprint(&ours.identity.authorities[0]);
    // They show our CA's certificate beside their own leaf: it did not sign that leaf.
    let mut thief =
        forge(&theirs.identity, &PeerIdentity { cluster: ours.identity.cluster, role: Role::Host(HostId::new(9)) });
    thief.authorities.extend(ours.identity.authorities.clone());
    let server = serve(thief);
    let error = dial(tls::join_client_config(pin).expect("ring"), server.address, "any.ringmesh").await;
    assert!(error.expect_err("their leaf, our CA").contains("UnknownIssuer"));

    let operator = forge(
        &ours.identity,
        &PeerIdentity {
            cluster: ours.identity.cluster,
            role: Role::User { name: "x".into(), access: Access::Operator },
        },
    );
    let server = serve(operator);
    let error = dial(tls::join_client_config(pin).expect("ring"), server.address, "any.ringmesh").await;
    assert!(error.expect_err("an operator serves nothing").contains("only hosts"));
}
