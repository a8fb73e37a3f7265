//! The API over TCP: which clients it serves, and which servers a client believes.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ringmesh_agentd::identity::{Access, Identity, Keyring, PeerIdentity, Role, api, fingerprint, tls};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::StreamExt;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{FirstHost, forge, other_cluster};

/// A health service; the test is told who calls.
struct ApiServer {
    address: SocketAddr,
    callers: mpsc::UnboundedReceiver<PeerIdentity>,
    refused: Arc<AtomicU64>,
}

impl ApiServer {
    async fn start(identity: Arc<Identity>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("it is bound");
        let refused = Arc::new(AtomicU64::new(0));
        let incoming = api::incoming(listener, &Keyring::of(&identity).expect("a loaded identity"), refused.clone())
            .expect("a loaded identity");
        let (sender, callers) = mpsc::unbounded_channel();
        let (_, health) = tonic_health::server::health_reporter();
        let incoming = incoming.map(move |accepted| {
            let stream = accepted?;
            let _ = sender.send(stream.peer().expect("the handshake has checked it"));
            std::io::Result::Ok(stream)
        });
        let server = tonic::transport::Server::builder().add_service(health);
        tokio::spawn(server.serve_with_incoming(incoming));
        Self { address, callers, refused }
    }
}

fn user(name: &str) -> Role {
    Role::User { name: name.into(), access: Access::Operator }
}

async fn call(address: SocketAddr, config: rustls::ClientConfig) -> Result<(), String> {
    let channel = api::connect(address, config).await.map_err(|error| format!("{error:?}"))?;
    let request = HealthCheckRequest { service: String::new() };
    HealthClient::new(channel).check(request).await.map(drop).map_err(|status| format!("{status:?}"))
}

fn config(identity: &Identity) -> rustls::ClientConfig {
    tls::api_client_config(&identity.authorities, identity.chain.clone(), identity.key.clone_key())
        .expect("a usable identity")
}

#[tokio::test]
async fn operators_and_hosts_of_the_cluster_are_served() {
    let first = FirstHost::new("h1");
    let mut server = ApiServer::start(first.identity.clone()).await;
    let of = |name: &str| first.state_dir().join("identity").join(name);
    let operator = api::client_config(&of("ca.pem"), &of("operator.pem"), &of("operator.key")).expect("init made it");
    assert_eq!(call(server.address, operator).await, Ok(()));
    let caller = server.callers.recv().await.expect("it was served");
    assert_eq!(
        caller,
        PeerIdentity {
            cluster: first.identity.cluster,
            role: Role::User { name: "admin".into(), access: Access::Admin }
        }
    );
    assert_eq!(call(server.address, config(&first.identity)).await, Ok(()));
    let caller = server.callers.recv().await.expect("it was served");
    assert_eq!(caller.role, Role::Host(first.identity.host));
}

#[tokio::test]
async fn everybody_else_is_refused_and_counted() {
    let (first, theirs) = (FirstHost::new("h1"), FirstHost::new("h1"));
    let ours = &first.identity;
    let mut server = ApiServer::start(ours.clone()).await;
    let under_our_ca = forge(ours, &PeerIdentity { cluster: other_cluster(ours), role: user("x") });
    let believes_us = |chain, key| {
        // Its own verifier would stop it; the server must do so as well.
        let mut config = config(ours);
        let provider = rustls::crypto::ring::default_provider();
        let key = provider.key_provider.load_private_key(key).expect("a good key");
        let certified = Arc::new(rustls::sign::CertifiedKey::new(chain, key));
        config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
        config
    };
    let mut nobody = tls::join_client_config(fingerprint(&ours.authorities[0])).expect("ring");
    nobody.alpn_protocols = vec![b"h2".into()];
    let clients = [
        believes_us(under_our_ca.chain.clone(), under_our_ca.key.clone_key()),
        believes_us(theirs.identity.chain.clone(), theirs.identity.key.clone_key()),
        nobody,
    ];
    let count = clients.len() as u64;
    for client in clients {
        call(server.address, client).await.expect_err("it is not of the cluster");
    }
    assert_eq!(server.refused.load(Ordering::Relaxed), count);
    assert!(server.callers.try_recv().is_err());
}

#[tokio::test]
async fn a_client_believes_only_hosts_of_its_cluster() {
    let first = FirstHost::new("h1");
    let ours = &first.identity;
    let claims = [
        PeerIdentity { cluster: other_cluster(ours), role: Role::Host(ours.host) },
        PeerIdentity { cluster: ours.cluster, role: user("x") },
    ];
    for claim in claims {
        let server = ApiServer::start(forge(ours, &claim).into()).await;
        let error = call(server.address, config(ours)).await.expect_err("no host of ours");
        assert!(error.contains("InvalidCertificate"), "{claim:?}: {error}");
    }
    let server = ApiServer::start(FirstHost::new("h1").identity.clone()).await;
    let error = call(server.address, config(ours)).await.expect_err("another CA");
    assert!(error.contains("UnknownIssuer"), "{error}");
}
