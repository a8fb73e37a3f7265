//! One question and one answer on a stream of their own.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use quinn::{Connection, RecvStream, SendStream, VarInt};
use ringmesh_node::{View, Way};
use ringmesh_proto::{
    HostId, Uplink,
    frame::{self, FrameError},
    member::Member,
    peer::{
        QueryRequest, QueryResponse, Refusal, RelayRequest, Request, Response, refusal::Reason, relay_request,
        request::Body as Ask, response::Body as Answer,
    },
};
use tokio::sync::{oneshot, watch};

use super::{Inbound, Transport, connection, table::Waiting};
use crate::{
    clock,
    counters::count,
    identity::admission::{self, Authority},
};

/// For one try over one uplink.
const TRY_TIMEOUT: Duration = Duration::from_millis(1500);

/// For the host loop to answer a sync.
const LOOP_TIMEOUT: Duration = Duration::from_secs(2);

/// For a request to arrive, and for its answer to be taken. Who asks gives up long before.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// Questions passed on for others at once.
pub(super) const MAX_RELAYED: usize = 16;

/// Members that a joining host is told to contact first.
const MAX_SEEDS: usize = 16;

/// Who answers what other hosts ask.
#[derive(Clone)]
pub struct Requests {
    /// What this host knows.
    pub view: watch::Receiver<Arc<View>>,
    /// Admits hosts, if this host holds the CA's key. Signing and a write to disk, at most some ten a second.
    pub authority: Option<Arc<Mutex<Authority>>>,
}

/// Why a request got no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no connection and none could be opened in time.
    #[error("no connection")]
    NoConnection,
    /// It did not answer in time on any uplink.
    #[error("no answer in time")]
    Timeout,
    /// The connection broke.
    #[error("the connection broke")]
    Broken,
    /// It answered that it will not.
    #[error("refused: {}", .0.text)]
    Refused(Refusal),
    /// Its answer is none.
    #[error("unusable answer: {0}")]
    Frame(FrameError),
}

impl Transport {
    /// Asks a host for its details: over the better uplink, then over the other, or by a host that hears it.
    pub async fn query(&self, to: Member, way: Way, query: QueryRequest) -> Result<QueryResponse, RequestError> {
        match self.ask(to, way, Ask::Query(query)).await? {
            Answer::Query(answer) => Ok(answer),
            Answer::Refusal(_) | Answer::Sync(_) | Answer::Join(_) => Err(RequestError::Broken),
        }
    }

    /// Asks a host for what this one lacks; the answer goes to the host loop.
    pub fn sync(&self, to: Member, way: Way, request: ringmesh_proto::peer::SyncRequest) {
        let transport = self.clone();
        tokio::spawn(async move {
            match transport.ask(to, way, Ask::Sync(request)).await {
                Ok(Answer::Sync(response)) => {
                    let answer = Inbound::SyncAnswer { from: to.id, response };
                    let _ = transport.shared.inbound.send(answer).await;
                }
                Ok(Answer::Refusal(_) | Answer::Query(_) | Answer::Join(_)) => {}
                Err(error) => tracing::debug!(host = %to.id, %error, "no sync"),
            }
        });
    }

    async fn ask(&self, to: Member, way: Way, body: Ask) -> Result<Answer, RequestError> {
        let (to, body) = match way.via {
            Some(relay) => (relay, by_relay(to.id, body)),
            None => (to, body),
        };
        self.ask_directly(to, way.uplink, body).await
    }

    async fn ask_directly(&self, to: Member, better: Uplink, body: Ask) -> Result<Answer, RequestError> {
        let request =
            Request { version: frame::VERSION, cluster: self.shared.identity.cluster.raw(), body: Some(body) };
        let bytes = frame::encode(&request);
        let mut last = RequestError::NoConnection;
        let mut ways = self.table().ways(to.id, better);
        if ways.is_empty() {
            ways.extend(self.connect(to).await);
        }
        for connection in ways {
            match tokio::time::timeout(TRY_TIMEOUT, ask_on(&connection, bytes.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(refused @ RequestError::Refused(_))) => return Err(refused),
                Ok(Err(error)) => last = error,
                Err(_) => last = RequestError::Timeout,
            }
        }
        Err(last)
    }
}

impl Transport {
    /// A new connection to a host, over the uplink that is first.
    async fn connect(&self, to: Member) -> Option<Connection> {
        let mut opening = Vec::new();
        for uplink in Uplink::BOTH {
            let (asker, opened) = oneshot::channel();
            self.wait_for_connection(&mut self.table(), to, uplink, Waiting::Request(asker));
            opening.push(opened);
        }
        let first = tokio::time::timeout(TRY_TIMEOUT, futures_util::future::select_ok(opening)).await;
        first.ok()?.ok().map(|(connection, _)| connection)
    }
}

fn by_relay(to: HostId, body: Ask) -> Ask {
    let body = match body {
        Ask::Sync(sync) => Some(relay_request::Body::Sync(sync)),
        Ask::Query(query) => Some(relay_request::Body::Query(query)),
        // Neither is ever relayed.
        Ask::Join(_) | Ask::Relay(_) => None,
    };
    Ask::Relay(RelayRequest { to: to.raw(), body })
}

async fn ask_on(connection: &Connection, bytes: bytes::Bytes) -> Result<Answer, RequestError> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(|_| RequestError::Broken)?;
    send.write_chunk(bytes).await.map_err(|_| RequestError::Broken)?;
    send.finish().map_err(|_| RequestError::Broken)?;
    let bytes = match connection::read_frame(&mut receive, frame::MAX_RESPONSE).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) | Err(connection::ReadError::Lost) => return Err(RequestError::Broken),
        Err(connection::ReadError::Frame(error)) => return Err(RequestError::Frame(error)),
    };
    match frame::decode_response(bytes).map_err(RequestError::Frame)?.body {
        Some(Answer::Refusal(refusal)) => Err(RequestError::Refused(refusal)),
        Some(answer) => Ok(answer),
        None => Err(RequestError::Broken),
    }
}

/// Answers the one request of a stream. `from` is `None` for a host that has no certificate yet.
pub(super) async fn serve(transport: Transport, from: Option<HostId>, mut send: SendStream, mut receive: RecvStream) {
    let shared = &transport.shared;
    let read = connection::read_frame(&mut receive, frame::MAX_REQUEST);
    let request = match tokio::time::timeout(STREAM_TIMEOUT, read).await {
        Ok(Ok(Some(bytes))) => frame::decode_request(bytes, from.map(|_| shared.identity.cluster)),
        Ok(Err(connection::ReadError::Frame(error))) => Err(error),
        Ok(Ok(None) | Err(connection::ReadError::Lost)) | Err(_) => return,
    };
    let body = match request {
        Ok(request) => answer(&transport, from, request).await,
        Err(error) => {
            count(&shared.counters.frames_refused);
            Answer::Refusal(error.refusal())
        }
    };
    if let Answer::Refusal(refusal) = &body {
        count(&shared.counters.requests_refused);
        tracing::warn!(?from, reason = refusal.text, "request refused");
    }
    let response = Response { version: frame::VERSION, body: Some(body) };
    let response = match &response.body {
        // The details of 32,000 containers take milliseconds to encode: not on the thread that answers SWIM.
        Some(Answer::Query(_)) => match tokio::task::spawn_blocking(move || frame::encode(&response)).await {
            Ok(bytes) => bytes,
            Err(_) => return,
        },
        Some(_) | None => frame::encode(&response),
    };
    match tokio::time::timeout(STREAM_TIMEOUT, send.write_chunk(response)).await {
        Ok(Ok(())) => drop(send.finish()),
        Ok(Err(_)) => {}
        // Dropped, the stream would keep what is buffered for as long as the peer likes.
        Err(_) => drop(send.reset(VarInt::from_u32(0))),
    }
}

async fn answer(transport: &Transport, from: Option<HostId>, request: Request) -> Answer {
    let shared = &transport.shared;
    match (request.body, from) {
        (Some(Ask::Join(join)), None) => {
            let result = match &shared.requests.authority {
                None => Err(admission::no_authority(&shared.identity)),
                Some(authority) => {
                    let (authority, view) = (Arc::clone(authority), shared.requests.view.borrow().clone());
                    // Signs and waits for the disk.
                    let admitted = tokio::task::spawn_blocking(move || admit(&authority, &view, &join)).await;
                    admitted.unwrap_or_else(|_| Err(frame::refusal(Reason::Busy, "this host is busy; ask again")))
                }
            };
            match result {
                Ok(response) => {
                    count(&shared.counters.hosts_admitted);
                    Answer::Join(response)
                }
                Err(refusal) => Answer::Refusal(refusal),
            }
        }
        (Some(Ask::Query(query)), Some(_)) => {
            let view = shared.requests.view.borrow().clone();
            match tokio::task::spawn_blocking(move || show(&view, &query)).await {
                Ok(details) => Answer::Query(details),
                Err(_) => Answer::Refusal(frame::refusal(Reason::Busy, "this host is busy; ask again")),
            }
        }
        (Some(Ask::Sync(request)), Some(_)) => {
            let (reply, answered) = oneshot::channel();
            let asked = shared.inbound.send(Inbound::Sync { request, reply }).await;
            match tokio::time::timeout(LOOP_TIMEOUT, answered).await {
                Ok(Ok(response)) if asked.is_ok() => Answer::Sync(response),
                Ok(_) | Err(_) => Answer::Refusal(frame::refusal(Reason::Busy, "this host is busy; ask again")),
            }
        }
        (Some(Ask::Relay(relay)), Some(_)) => self::relay(transport, relay).await,
        (Some(Ask::Join(_)), Some(_)) => {
            Answer::Refusal(frame::refusal(Reason::NotAllowed, "a member of the cluster needs not join it"))
        }
        (Some(Ask::Query(_) | Ask::Sync(_) | Ask::Relay(_)), None) => {
            Answer::Refusal(frame::refusal(Reason::NotAllowed, "without a certificate one may only join"))
        }
        (None, _) => Answer::Refusal(frame::refusal(Reason::Malformed, "a request without a question")),
    }
}

/// Asks a host for one that does not hear it: directly, so that nothing goes by more than one host.
async fn relay(transport: &Transport, request: RelayRequest) -> Answer {
    let shared = &transport.shared;
    let Ok(_place) = shared.relays.try_acquire() else {
        return Answer::Refusal(frame::refusal(Reason::Busy, "this host passes on too many questions; ask again"));
    };
    let ask = match request.body {
        Some(relay_request::Body::Sync(sync)) => Ask::Sync(sync),
        Some(relay_request::Body::Query(query)) => Ask::Query(query),
        None => return Answer::Refusal(frame::refusal(Reason::Malformed, "a request without a question")),
    };
    let peer = shared.requests.view.borrow().peers.get(&HostId::new(request.to)).filter(|peer| peer.askable).cloned();
    let Some(peer) = peer else {
        return Answer::Refusal(frame::refusal(Reason::NotAllowed, "this host does not hear that one either"));
    };
    count(&shared.counters.requests_relayed);
    // In a box, for an answer is made of the answer to this.
    match Box::pin(transport.ask_directly(peer.member, peer.way.uplink, ask)).await {
        Ok(answer) => answer,
        Err(error) => Answer::Refusal(frame::refusal(Reason::Busy, format!("{}, asked for you: {error}", peer.name))),
    }
}

fn admit(
    authority: &Mutex<Authority>,
    view: &View,
    join: &ringmesh_proto::peer::JoinRequest,
) -> Result<ringmesh_proto::peer::JoinResponse, Refusal> {
    use ringmesh_proto::v1::host::State;
    // The name of a host that is gone may be taken by another.
    let name_taken = |name: &str| {
        view.hosts.iter().any(|host| host.name == name && !matches!(host.state(), State::Down | State::Left))
    };
    let id_taken = |id: HostId| view.hosts.iter().any(|host| host.id == id.to_string());
    let mut authority = authority.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut response = authority.admit(join, clock::unix().0 / 1000, name_taken, id_taken)?;
    drop(authority);
    let own = view.hosts.iter().find(|host| host.local);
    let others = view.hosts.iter().filter(|host| !host.local && host.state() == State::Alive);
    let seeds = own.into_iter().chain(others).take(MAX_SEEDS);
    response.seeds = seeds
        .filter_map(|host| {
            let id: HostId = host.id.parse().ok()?;
            let addresses = [host.address.parse().ok(), host.address_b.parse().ok()];
            Some(Member { id, generation: host.generation, addresses }.to_record(0, 0))
        })
        .collect();
    Ok(response)
}

fn show(view: &View, query: &QueryRequest) -> QueryResponse {
    let now = clock::unix();
    QueryResponse {
        containers: if query.containers { view.containers.iter().map(|c| (**c).clone()).collect() } else { Vec::new() },
        services: if query.services { view.services.iter().map(|s| (**s).clone()).collect() } else { Vec::new() },
        observed_unix_ms: view.taken.unix.0,
        age_ms: u32::try_from(now.0.saturating_sub(view.taken.unix.0)).unwrap_or(u32::MAX),
        fingerprint: view.fingerprint,
    }
}
