//! Clusters, hosts with a transport and nothing else, and peers that speak QUIC by hand.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, atomic::AtomicU64, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use quinn::{
    Connection, Endpoint, TransportConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use ringmesh_agentd::{
    alarm::AlarmClock,
    counters::Counters,
    identity::{
        Identity, Keyring, PeerIdentity, Role,
        admission::{Authority, AuthoritySlot},
        commands::{self, InitOptions},
        server_name, tls,
    },
    quic::{Inbound, Requests, STORE_STREAM_BOUND, StoreStream, Transport},
};
use ringmesh_node::View;
use ringmesh_proto::{
    ClusterId, HostId, Uplink, frame,
    member::Member,
    peer::{EventRecord, Gossip, GossipFrame, JoinRequest, Request, Response, request, response},
};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

/// Longer than anything here takes on a machine that is busy; a test that waits so long has failed.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Connections that a host keeps unless a test says otherwise.
pub(crate) const CACHE: usize = 64;

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Awaits what must come.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.unwrap_or_else(|_| panic!("in {LONG:?} not: {what}"))
}

/// Awaits a condition that tells nobody when it comes true, as of counters.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub(crate) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

/// What `ringmesh init` made, and who may admit hosts to it.
pub(crate) struct Cluster {
    directory: TempDir,
    pub(crate) first: Arc<Identity>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let options = InitOptions {
            config_path: directory.path().join("agent.toml"),
            name: Some("h1".into()),
            uplink_a: Some([127, 0, 0, 1].into()),
            uplink_b: Some([127, 0, 0, 2].into()),
            state_dir: Some(directory.path().join("state")),
            zone: None,
        };
        commands::init(&options).expect("nothing is there yet");
        let first = Identity::load(&directory.path().join("state")).expect("our own files");
        Self { directory, first: Arc::new(first) }
    }

    pub(crate) fn authority(&self) -> Authority {
        Authority::open(&self.first, &self.directory.path().join("state")).expect("the first host has the CA's key")
    }

    pub(crate) fn state_dir(&self) -> std::path::PathBuf {
        self.directory.path().join("state")
    }

    /// Of the first host: it signs.
    pub(crate) fn keyring(&self) -> Arc<Keyring> {
        Keyring::open(&self.first, &self.state_dir(), Duration::from_secs(365 * 86_400)).expect("our own files")
    }

    /// Admits a host as a join would.
    pub(crate) fn admit(&self, name: &str) -> Arc<Identity> {
        let mut authority = self.authority();
        let token = authority
            .create_token(Duration::from_secs(60), 1, vec![([127, 0, 0, 1], 1).into()], now())
            .expect("within all bounds");
        let key = KeyPair::generate().expect("randomness");
        let csr = CertificateParams::default().serialize_request(&key).expect("a request");
        let request = JoinRequest {
            token_id: token.id.to_vec().into(),
            token_secret: token.secret.to_vec().into(),
            name: name.into(),
            csr: csr.der().to_vec().into(),
            zone: String::new(),
        };
        let response = authority.admit(&request, now(), |_| false, |_| false).expect("the token is good");
        Arc::new(Identity {
            cluster: self.first.cluster,
            host: HostId::new(response.host),
            name: name.into(),
            ring_seed: self.first.ring_seed,
            chords: Default::default(),
            chain: vec![response.certificate.to_vec().into()],
            key: rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            authorities: self.first.authorities.clone(),
            authority_key: None,
        })
    }

    /// Two admitted hosts, the one with the lower id first.
    pub(crate) fn admit_two(&self) -> [Arc<Identity>; 2] {
        let mut two = [self.admit("h2"), self.admit("h3")];
        two.sort_by_key(|identity| identity.host);
        two
    }

    /// A host that our CA has signed for, but as one of another cluster.
    pub(crate) fn forge_other_cluster(&self) -> Arc<Identity> {
        let ca_key = KeyPair::try_from(self.first.authority_key.as_ref().expect("a first host")).expect("our own key");
        let issuer = Issuer::from_ca_cert_der(&self.first.authorities[0], ca_key).expect("our own CA");
        let cluster = ClusterId::new(self.first.cluster.raw() ^ 1);
        let claim = PeerIdentity { cluster, role: Role::Host(self.first.host) };
        let key = KeyPair::generate().expect("randomness");
        let mut params = CertificateParams::new(vec![claim.dns_name()]).expect("a DNS name");
        params.distinguished_name = DistinguishedName::new();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Arc::new(Identity {
            cluster,
            host: self.first.host,
            name: "forged".into(),
            ring_seed: 0,
            chords: Default::default(),
            chain: vec![params.signed_by(&key, &issuer).expect("a valid request").der().clone()],
            key: rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            authorities: self.first.authorities.clone(),
            authority_key: None,
        })
    }
}

/// A port that nobody has at this moment.
pub(crate) fn free(uplink: Uplink) -> SocketAddr {
    let ip: IpAddr = match uplink {
        Uplink::A => [127, 0, 0, 1].into(),
        Uplink::B => [127, 0, 0, 2].into(),
    };
    UdpSocket::bind((ip, 0)).and_then(|socket| socket.local_addr()).expect("loopback")
}

/// A host that has a transport; the test is its host loop.
pub(crate) struct Host {
    pub(crate) identity: Arc<Identity>,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) transport: Transport,
    pub(crate) member: Member,
    pub(crate) counters: Arc<Counters>,
    pub(crate) view: watch::Sender<Arc<View>>,
    pub(crate) inbound: mpsc::Receiver<Inbound>,
    pub(crate) store_streams: mpsc::Receiver<StoreStream>,
}

impl Host {
    /// On two free ports.
    pub(crate) fn start(identity: &Arc<Identity>) -> Self {
        Self::start_with(identity, CACHE, None)
    }

    pub(crate) fn start_with_keyring(identity: &Arc<Identity>, keyring: Arc<Keyring>) -> Self {
        for _ in 0..20 {
            let addresses = Uplink::BOTH.map(|uplink| Some(free(uplink)));
            let keyring = Arc::clone(&keyring);
            if let Some(host) = Self::open_with(identity, keyring, addresses, CACHE, Arc::default()) {
                return host;
            }
        }
        panic!("no two free ports");
    }

    pub(crate) fn start_with(identity: &Arc<Identity>, cache: usize, authority: Option<Authority>) -> Self {
        let authority: AuthoritySlot = Arc::new(std::sync::Mutex::new(authority));
        // Another test may take a port between here and there.
        for _ in 0..20 {
            let addresses = Uplink::BOTH.map(|uplink| Some(free(uplink)));
            if let Some(host) = Self::open(identity, addresses, cache, Arc::clone(&authority)) {
                return host;
            }
        }
        panic!("no two free ports");
    }

    /// At an address that it had before. `None` while another has it.
    pub(crate) fn open(
        identity: &Arc<Identity>,
        addresses: [Option<SocketAddr>; 2],
        cache: usize,
        authority: AuthoritySlot,
    ) -> Option<Self> {
        let keyring = Keyring::of(identity).expect("a usable identity");
        Self::open_with(identity, keyring, addresses, cache, authority)
    }

    /// With a keyring that the test changes.
    pub(crate) fn open_with(
        identity: &Arc<Identity>,
        keyring: Arc<Keyring>,
        addresses: [Option<SocketAddr>; 2],
        cache: usize,
        authority: AuthoritySlot,
    ) -> Option<Self> {
        let (view, shown) = watch::channel(Arc::new(View::default()));
        let (sender, inbound) = mpsc::channel(4096);
        let counters = Arc::new(Counters::default());
        let (store, store_streams) = mpsc::channel(STORE_STREAM_BOUND);
        let requests = Requests { view: shown, authority, store };
        let transport = Transport::open(
            Arc::clone(&keyring),
            &AlarmClock::start().ok()?,
            addresses,
            cache,
            sender,
            requests,
            Arc::clone(&counters),
        )
        .ok()?;
        let member = Member { id: identity.host, generation: 1, addresses };
        Some(Self {
            identity: Arc::clone(identity),
            keyring,
            transport,
            member,
            counters,
            view,
            inbound,
            store_streams,
        })
    }

    pub(crate) fn id(&self) -> HostId {
        self.member.id
    }

    pub(crate) fn address(&self, uplink: Uplink) -> SocketAddr {
        self.member.address(uplink).expect("it has both")
    }

    /// What comes next.
    pub(crate) async fn next(&mut self) -> Inbound {
        within("something comes in", self.inbound.recv()).await.expect("the transport lives")
    }

    /// The next datagram, which must be all that comes.
    pub(crate) async fn next_datagram(&mut self) -> (HostId, Uplink, Bytes) {
        let next = self.next().await;
        let Inbound::Datagram { from, uplink, bytes } = next else { panic!("no datagram: {next:?}") };
        (from, uplink, bytes)
    }

    pub(crate) async fn next_gossip(&mut self) -> (HostId, Gossip) {
        let next = self.next().await;
        let Inbound::Gossip { from, gossip, .. } = next else { panic!("no gossip: {next:?}") };
        (from, gossip)
    }

    /// Sends until something of it arrives: a connection that both open at once may take the first ones with it.
    pub(crate) async fn reach(&self, to: &mut Host, uplink: Uplink, text: &'static [u8]) {
        let send = async {
            loop {
                self.transport.send_datagram(to.member, uplink, Bytes::from_static(text));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let arrive = async {
            while let Some(inbound) = to.inbound.recv().await {
                if matches!(&inbound, Inbound::Datagram { from, bytes, .. } if *from == self.id() && bytes == text) {
                    return;
                }
            }
        };
        within("a datagram arrives", async {
            tokio::select! { () = send => {}, () = arrive => {} }
        })
        .await;
    }
}

/// A gossip frame with one event.
pub(crate) fn gossip(text: &str) -> Gossip {
    Gossip { events: vec![EventRecord { text: text.into(), ..EventRecord::default() }], ..Gossip::default() }
}

pub(crate) fn gossip_frame(cluster: ClusterId, text: &str) -> Bytes {
    frame::encode(&GossipFrame {
        version: frame::VERSION,
        cluster: cluster.raw(),
        gossip: Some(gossip(text)),
        relay_to: 0,
    })
}

pub(crate) fn request(cluster: ClusterId, body: request::Body) -> Bytes {
    frame::encode(&Request { version: frame::VERSION, cluster: cluster.raw(), body: Some(body) })
}

/// A peer that speaks by hand: an endpoint of an identity.
pub(crate) fn raw_endpoint(identity: &Identity, address: SocketAddr) -> Endpoint {
    let server = tls::peer_server_config(identity).expect("a loaded identity");
    let server = QuicServerConfig::try_from(server).expect("TLS 1.3");
    Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(server)), address).expect("loopback")
}

/// A client's configuration of quinn.
pub(crate) fn quic_client(config: rustls::ClientConfig, transport: TransportConfig) -> quinn::ClientConfig {
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).expect("TLS 1.3")));
    config.transport_config(Arc::new(transport));
    config
}

/// Dials a host on uplink A by its own name. In TLS 1.3 the client has finished before the server has seen its
/// certificate, so that a connection is no acceptance.
pub(crate) async fn raw_dial(
    config: rustls::ClientConfig,
    transport: TransportConfig,
    to: &Host,
) -> Result<Connection, quinn::ConnectionError> {
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("loopback");
    raw_dial_from(&endpoint, config, transport, to).await
}

pub(crate) async fn raw_dial_from(
    endpoint: &Endpoint,
    config: rustls::ClientConfig,
    transport: TransportConfig,
    to: &Host,
) -> Result<Connection, quinn::ConnectionError> {
    let name = server_name(to.identity.cluster, to.id());
    let config = quic_client(config, transport);
    let connecting = endpoint.connect_with(config, to.address(Uplink::A), &name).expect("a valid name");
    within("a handshake ends", connecting).await
}

/// Dials as a member of the cluster.
pub(crate) async fn raw_member(identity: &Identity, to: &Host) -> Connection {
    let config = tls::peer_client_config(identity).expect("a usable identity");
    raw_dial(config, TransportConfig::default(), to).await.expect("a member is let in")
}

/// Sends bytes as a request and reads the answer.
pub(crate) async fn ask(connection: &Connection, bytes: &[u8]) -> response::Body {
    let (mut send, mut receive) = connection.open_bi().await.expect("the connection is up");
    // Who refuses early does not read on.
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
    let answer = within("an answer", receive.read_to_end(frame::MAX_RESPONSE)).await.expect("an answer");
    let response: Response = frame::decode_response(&answer[frame::PREFIX_LEN..]).expect("a response");
    response.body.expect("it says something")
}

/// Why the other end closed the connection.
pub(crate) async fn closed(connection: &Connection) -> String {
    within("the connection is closed", connection.closed()).await.to_string()
}
