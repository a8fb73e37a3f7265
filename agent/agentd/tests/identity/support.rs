//! A first host, a server with its certificate, and forged certificates.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quinn::{Endpoint, crypto::rustls::QuicClientConfig};
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use ringmesh_agentd::identity::{
    Identity, IdentityError, PeerIdentity,
    admission::{self, Authority},
    commands::{self, InitOptions, JoinOptions, JoinOutcome},
    tls::{self, Caller},
};
use ringmesh_proto::{
    ClusterId, frame,
    member::Member,
    peer::{JoinResponse, Response, request, response},
    token::Token,
};
use tempfile::TempDir;
use tokio::sync::mpsc;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A host that ran `ringmesh init`.
pub(crate) struct FirstHost {
    pub(crate) directory: TempDir,
    pub(crate) identity: Arc<Identity>,
}

impl FirstHost {
    pub(crate) fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the test");
        commands::init(&init_options(directory.path(), name)).expect("nothing is there yet");
        let identity = Identity::load(&directory.path().join("state")).expect("our own files");
        Self { directory, identity: Arc::new(identity) }
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub(crate) fn authority(&self) -> Authority {
        Authority::open(&self.identity, &self.state_dir()).expect("the first host has the CA's key")
    }
}

pub(crate) fn init_options(directory: &Path, name: &str) -> InitOptions {
    InitOptions {
        config_path: directory.join("agent.toml"),
        name: Some(name.into()),
        uplink_a: Some([127, 0, 0, 1].into()),
        uplink_b: None,
        state_dir: Some(directory.join("state")),
        zone: None,
    }
}

/// Runs `ringmesh join` as the command line does, outside any runtime.
pub(crate) async fn join(directory: &Path, name: &str, token: impl ToString) -> Result<JoinOutcome, IdentityError> {
    let init = init_options(directory, name);
    let options = JoinOptions {
        config_path: init.config_path,
        name: init.name,
        uplink_a: init.uplink_a,
        uplink_b: init.uplink_b,
        state_dir: init.state_dir,
        zone: init.zone,
        token: token.to_string(),
    };
    tokio::task::spawn_blocking(move || commands::join(&options)).await.expect("it does not panic")
}

/// What a server saw of one connection.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    /// The handshake ended well, and then the caller was checked.
    Caller(Result<Caller, ringmesh_agentd::identity::PeerError>),
    /// The handshake failed.
    Handshake(String),
}

/// How a server answers a join.
pub(crate) enum Answer {
    /// As it should.
    Honestly(Box<Mutex<Authority>>),
    /// As a host without the CA's key should.
    WithoutAuthority,
    /// The honest answer, changed.
    Falsely(Box<Mutex<Authority>>, fn(&mut JoinResponse)),
    /// With these bytes.
    Bytes(&'static [u8]),
}

impl Answer {
    pub(crate) fn honestly(authority: Authority) -> Self {
        Self::Honestly(Box::new(Mutex::new(authority)))
    }
}

/// A QUIC server on loopback that does what the daemon will do with a new connection.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) seen: mpsc::UnboundedReceiver<Seen>,
    endpoint: Endpoint,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.endpoint.close(0u32.into(), b"end of the test");
    }
}

impl Server {
    pub(crate) fn start(identity: Arc<Identity>, answer: Answer) -> Self {
        let config = tls::peer_server_config(&identity).expect("a loaded identity");
        let config = quinn::crypto::rustls::QuicServerConfig::try_from(config).expect("TLS 1.3");
        let config = quinn::ServerConfig::with_crypto(Arc::new(config));
        let endpoint = Endpoint::server(config, ([127, 0, 0, 1], 0).into()).expect("loopback");
        let (sender, seen) = mpsc::unbounded_channel();
        let address = endpoint.local_addr().expect("it is bound");
        let accepting = endpoint.clone();
        tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                let connection = match incoming.await {
                    Ok(connection) => connection,
                    Err(error) => {
                        let _ = sender.send(Seen::Handshake(error.to_string()));
                        continue;
                    }
                };
                let caller = tls::check_caller(&connection, identity.cluster);
                let _ = sender.send(Seen::Caller(caller.clone()));
                match caller {
                    Ok(Caller::Joining) => answer_join(&connection, &identity, &answer, address).await,
                    Ok(Caller::Peer(_)) => {
                        let _ = connection.open_uni().await.expect("the peer allows it").finish();
                        let _ = connection.closed().await;
                    }
                    Err(error) => connection.close(1u32.into(), error.to_string().as_bytes()),
                }
            }
        });
        Self { address, seen, endpoint }
    }

    pub(crate) async fn next(&mut self) -> Seen {
        self.seen.recv().await.expect("the server runs")
    }
}

async fn answer_join(connection: &quinn::Connection, identity: &Identity, answer: &Answer, address: SocketAddr) {
    let (mut send, mut receive) = connection.accept_bi().await.expect("the joining host asks");
    let bytes = receive.read_to_end(frame::MAX_REQUEST).await.expect("a bounded request");
    let request = frame::decode_request(&bytes[frame::PREFIX_LEN..], None).expect("a well-formed request");
    let Some(request::Body::Join(request)) = request.body else { panic!("no join: {request:?}") };
    let admit = |authority: &Mutex<Authority>| {
        let mut authority = authority.lock().expect("nobody panicked");
        authority.admit(&request, now(), |name| name == "taken", |_| false).map(|mut response| {
            let seed = Member { id: identity.host, generation: 1, addresses: [Some(address), None] };
            response.seeds.push(seed.to_record(0, 0));
            response
        })
    };
    let result = match answer {
        Answer::Honestly(authority) => admit(authority),
        Answer::Falsely(authority, change) => admit(authority).map(|mut response| {
            change(&mut response);
            response
        }),
        Answer::WithoutAuthority => Err(admission::no_authority(&identity.name)),
        Answer::Bytes(bytes) => {
            let _ = send.write_all(bytes).await;
            let _ = send.finish();
            let _ = connection.closed().await;
            return;
        }
    };
    let body = Some(result.map_or_else(response::Body::Refusal, response::Body::Join));
    let response = frame::encode(&Response { version: frame::VERSION, body });
    send.write_all(&response).await.expect("the joining host listens");
    let _ = send.finish();
    let _ = connection.closed().await;
}

/// Dials as `name`, and waits until the server has let us in or thrown us out.
pub(crate) async fn dial(config: rustls::ClientConfig, address: SocketAddr, name: &str) -> Result<(), String> {
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("loopback");
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).expect("TLS 1.3")));
    let connecting = endpoint.connect_with(config, address, name).expect("a valid name");
    let connection = connecting.await.map_err(|error| format!("handshake: {error}"))?;
    // In TLS 1.3 the client has finished before the server has seen its certificate.
    let result = connection.accept_uni().await.map(drop).map_err(|error| format!("after it: {error}"));
    connection.close(0u32.into(), b"done");
    endpoint.wait_idle().await;
    result
}

/// Another identity, signed by the CA of `by`, who may claim what it likes.
pub(crate) fn forge(by: &Identity, claim: &PeerIdentity) -> Identity {
    let ca_key = KeyPair::try_from(by.authority_key.as_ref().expect("a first host")).expect("our own key");
    let issuer = Issuer::from_ca_cert_der(&by.authorities[0], ca_key).expect("our own CA");
    let key = KeyPair::generate().expect("randomness");
    let mut params = CertificateParams::new(vec![claim.dns_name()]).expect("a DNS name");
    params.distinguished_name = DistinguishedName::new();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Identity {
        cluster: claim.cluster,
        host: by.host,
        name: "forged".into(),
        ring_seed: 0,
        chain: vec![params.signed_by(&key, &issuer).expect("a valid request").der().clone()],
        key: rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        authorities: by.authorities.clone(),
        authority_key: None,
    }
}

/// A cluster that is not this one.
pub(crate) fn other_cluster(identity: &Identity) -> ClusterId {
    ClusterId::new(identity.cluster.raw() ^ 1)
}

/// A token for one host, at `address`.
pub(crate) fn token(authority: &mut Authority, address: SocketAddr) -> Token {
    authority.create_token(HOUR, 1, vec![address], now()).expect("within all bounds")
}
