//! Bytes between hosts: QUIC by quinn, one endpoint an uplink, bound to that uplink's address.
//!
//! It owns connections and queues and decides nothing: the host loop says what to send to whom, and gets what came.
//!
//! ```text
//!             datagrams ─▶ quinn's buffer (64 KiB, full: the new one is dropped and counted)
//! host loop ─ gossip ────▶ a queue a class and connection (256 events, 64 digests; full: dropped and counted)
//!             requests ──▶ a stream each (16 at once a connection)
//! store ──── streams ────▶ as long as it likes (4 at once a connection)
//! ```

mod connection;
mod dial;
mod request;
mod runtime;
mod signed;
mod socket;
mod store;
mod table;

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use quinn::{
    AckFrequencyConfig, ClientConfig, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use ringmesh_node::{Class, remedy::Refused};
use ringmesh_proto::{
    HostId, Uplink,
    member::Member,
    peer::{Gossip, HistoryQuery, OrderRequest, SignedRecord, SyncRequest, SyncResponse},
    v1::{History, Operation},
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot},
};

pub use request::{RequestError, Requests};
pub use store::{Purpose, STORE_STREAM_BOUND, StoreStream};
use table::Table;

use crate::{
    alarm::AlarmClock,
    counters::{Counters, count},
    identity::{IdentityError, Keyring, tls},
};

/// A connection on which nothing is sent or arrives for so long is closed. One that is used and not answered is given
/// up much sooner: see `connection::SILENT`.
const IDLE_TIMEOUT_MS: u32 = 60_000;

/// Requests that a peer may have open at once.
const MAX_REQUESTS: u32 = 16;

/// Streams of the store that a peer may have open at once on a connection: what replicas say, a snapshot, calls that are
/// passed on, and one that is being replaced.
const MAX_STORE_STREAMS: u32 = 4;

/// Gossip streams that a peer may have open at once: one a class, and one of each that is being replaced.
const MAX_GOSSIP_STREAMS: u32 = 4;

/// Bytes of datagrams that wait for the congestion window.
const DATAGRAM_BUFFER: usize = 64 * 1024;

/// Bytes that a peer may send on one stream before they are read.
const STREAM_WINDOW: u32 = 512 * 1024;

/// Bytes that a peer may send on all its streams before they are read: four requests of the largest size, beside a full
/// window of each of the store's streams. Those are read as fast as a disk is written, and must not hold up the others.
const RECEIVE_WINDOW: u32 = 1024 * 1024 + MAX_STORE_STREAMS * STREAM_WINDOW;

/// Answers for its whole zone that a delegate gathers at once, of 32 MiB at most each.
const MAX_ZONE_ANSWERS: usize = 4;

/// What came from another host.
#[derive(Debug)]
pub enum Inbound {
    /// A datagram, its header unchecked.
    Datagram {
        /// By its certificate.
        from: HostId,
        /// On which it came.
        uplink: Uplink,
        /// As it came.
        bytes: Bytes,
    },
    /// Gossip.
    Gossip {
        /// By its certificate.
        from: HostId,
        /// Checked for version and cluster.
        gossip: Gossip,
        /// To be passed on to this host, which the sender does not hear.
        relay_to: Option<HostId>,
    },
    /// What the cluster's CA says: verified, and on disk.
    Signed {
        /// Who sent it; `None`: this host's own operator.
        from: Option<HostId>,
        /// What is new.
        records: Vec<SignedRecord>,
    },
    /// A request that the host loop answers.
    Sync {
        /// What the other host has.
        request: SyncRequest,
        /// Where the answer goes.
        reply: oneshot::Sender<SyncResponse>,
    },
    /// What an operator ordered at another host.
    Order {
        /// What.
        order: OrderRequest,
        /// Where the operation goes, or why there is none.
        reply: oneshot::Sender<Result<Operation, Refused>>,
    },
    /// What this host remembers of services. Snapshots do not show it: it is much, and changes with every probe.
    Histories {
        /// Of which services.
        wanted: HistoryQuery,
        /// Where they go; at most two.
        reply: oneshot::Sender<Vec<History>>,
    },
    /// The answer to a sync of ours.
    SyncAnswer {
        /// Who answered.
        from: HostId,
        /// What it says.
        response: SyncResponse,
    },
}

/// Why an endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The socket could not be bound: a fault of the operator or of another process.
    #[error("uplink {uplink}: cannot listen on UDP {address}: {reason}")]
    Bind {
        /// Whose address it is.
        uplink: Uplink,
        /// As configured.
        address: SocketAddr,
        /// What to do.
        reason: &'static str,
        /// What the platform said.
        source: std::io::Error,
    },
    /// The certificates do not make a TLS configuration.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The endpoint could not be made of the socket.
    #[error("uplink {uplink}: cannot open an endpoint")]
    Endpoint {
        /// Which.
        uplink: Uplink,
        /// What the platform said.
        source: std::io::Error,
    },
}

/// The connections to other hosts.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
}

struct Shared {
    keyring: Arc<Keyring>,
    client: ClientConfig,
    endpoints: [Option<Endpoint>; 2],
    table: Mutex<Table>,
    inbound: mpsc::Sender<Inbound>,
    requests: Requests,
    renewals: signed::Renewals,
    counters: Arc<Counters>,
    cache: usize,
    /// Where connections are made and driven, whoever asks for them.
    tasks: Handle,
    /// Answers for the whole zone that are being gathered.
    zone_answers: Semaphore,
    /// Places for questions that are passed on.
    relays: Semaphore,
}

impl Transport {
    /// Opens an endpoint on each uplink and begins to accept. All connections live in the runtime in which this is called.
    ///
    /// `cache`: connections kept to hosts that are not pinned.
    pub fn open(
        keyring: Arc<Keyring>,
        alarms: &AlarmClock,
        addresses: [Option<SocketAddr>; 2],
        cache: usize,
        inbound: mpsc::Sender<Inbound>,
        requests: Requests,
        counters: Arc<Counters>,
    ) -> Result<Self, TransportError> {
        let server = server_config(&keyring)?;
        let client = client_config(&keyring)?;
        let tasks = Handle::current();
        let mut endpoints = [None, None];
        for uplink in Uplink::BOTH {
            if let Some(address) = addresses[uplink.index()] {
                let runtime = Arc::new(runtime::AlarmRuntime { alarms: alarms.clone(), tasks: tasks.clone() });
                endpoints[uplink.index()] = Some(endpoint(uplink, address, server.clone(), runtime, &counters)?);
            }
        }
        let table = Mutex::new(Table::new(keyring.host));
        let renewals = signed::Renewals::default();
        let zone_answers = Semaphore::new(MAX_ZONE_ANSWERS);
        let relays = Semaphore::new(request::MAX_RELAYED);
        let shared = Shared {
            keyring,
            client,
            endpoints,
            table,
            inbound,
            requests,
            renewals,
            counters,
            cache,
            tasks,
            zone_answers,
            relays,
        };
        let transport = Self { shared: Arc::new(shared) };
        for uplink in Uplink::BOTH {
            if let Some(endpoint) = transport.shared.endpoints[uplink.index()].clone() {
                tokio::spawn(dial::accept(transport.clone(), uplink, endpoint));
            }
        }
        Ok(transport)
    }

    /// Sends a datagram at once, or not at all. Opens a connection if there is none; a few datagrams wait for it.
    pub fn send_datagram(&self, to: Member, uplink: Uplink, bytes: Bytes) {
        let mut table = self.table();
        match table.open(to.id, uplink) {
            Some(open) => open.send_datagram(bytes, &self.shared.counters),
            None => self.wait_for_connection(&mut table, to, uplink, table::Waiting::Datagram(bytes)),
        }
    }

    /// Queues a gossip frame for a host, on this uplink or, if that has no connection and the other has, on that; a
    /// `second` copy only on this.
    pub fn send_gossip(&self, to: Member, uplink: Uplink, class: Class, bytes: Bytes, second: bool) {
        let mut table = self.table();
        let open = if second || table.open(to.id, uplink).is_some() { uplink } else { uplink.other() };
        match table.open(to.id, open) {
            Some(open) => open.send_gossip(class, bytes, &self.shared.counters),
            None => self.wait_for_connection(&mut table, to, uplink, table::Waiting::Gossip(class, bytes)),
        }
    }

    /// From now on these connections, and no others, are kept whether they are used or not.
    pub fn pin(&self, pins: &[(Member, Uplink)]) {
        self.table().pin(pins.iter().map(|(member, uplink)| (member.id, *uplink)).collect());
    }

    /// Says goodbye on all connections and waits, a second at most, until that is sent.
    pub async fn close(&self) {
        let endpoints = self.shared.endpoints.iter().flatten();
        let idle = endpoints.map(|endpoint| {
            endpoint.close(VarInt::from_u32(0), b"agent ends");
            endpoint.wait_idle()
        });
        let all = futures_util::future::join_all(idle);
        let _ = tokio::time::timeout(Duration::from_secs(1), all).await;
    }

    fn wait_for_connection(&self, table: &mut Table, to: Member, uplink: Uplink, waiting: table::Waiting) {
        let Some(address) = to.address(uplink).filter(|_| self.shared.endpoints[uplink.index()].is_some()) else {
            return count(&self.shared.counters.messages_unsent);
        };
        match table.wait(to.id, uplink, address, waiting) {
            table::Wait::Queued => {}
            table::Wait::Dropped => count(&self.shared.counters.messages_unsent),
            table::Wait::Dial => {
                self.shared.tasks.spawn(dial::dial(self.clone(), to.id, uplink, address));
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.shared.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn endpoint(
    uplink: Uplink,
    address: SocketAddr,
    server: ServerConfig,
    runtime: Arc<runtime::AlarmRuntime>,
    counters: &Arc<Counters>,
) -> Result<Endpoint, TransportError> {
    let socket = UdpSocket::bind(address).map_err(|source| {
        const REASONS: [(ErrorKind, &str); 3] = [
            (ErrorKind::AddrInUse, "the port is in use; is another agent running? Else set another port"),
            (ErrorKind::AddrNotAvailable, "the address is not one of this host's; see `ip address`"),
            (ErrorKind::PermissionDenied, "not permitted; run as root, or take a port above 1023"),
        ];
        let known = REASONS.iter().find(|(kind, _)| *kind == source.kind());
        let reason = known.map_or("the platform refused", |(_, reason)| reason);
        TransportError::Bind { uplink, address, reason, source }
    })?;
    let refused = |source| TransportError::Endpoint { uplink, source };
    socket.set_nonblocking(true).map_err(refused)?;
    let socket = Arc::new(socket::Socket::new(socket, Arc::clone(counters)).map_err(refused)?);
    Endpoint::new_with_abstract_socket(EndpointConfig::default(), Some(server), socket, runtime).map_err(refused)
}

fn transport_config() -> Arc<TransportConfig> {
    // An acknowledgement waits for a message to ride on, for 25 ms: quinn grants no more on a path that is faster.
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(10));
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_REQUESTS + MAX_STORE_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_GOSSIP_STREAMS))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER)
        .ack_frequency_config(Some(acks))
        // A guess that fits a local network, so that a lost first packet costs milliseconds, not a second.
        .initial_rtt(Duration::from_millis(30));
    Arc::new(config)
}

fn server_config(keyring: &Arc<Keyring>) -> Result<ServerConfig, IdentityError> {
    let tls = QuicServerConfig::try_from(tls::peer_server(keyring)?)
        .expect("our TLS configuration has the cipher suite of QUIC's first packets");
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(transport_config());
    Ok(config)
}

fn client_config(keyring: &Arc<Keyring>) -> Result<ClientConfig, IdentityError> {
    let tls = QuicClientConfig::try_from(tls::peer_client(keyring)?)
        .expect("our TLS configuration has the cipher suite of QUIC's first packets");
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(transport_config());
    Ok(config)
}
