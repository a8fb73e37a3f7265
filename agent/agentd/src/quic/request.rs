//! One question and one answer on a stream of their own.

use std::{
    sync::{Arc, MutexGuard},
    time::Duration,
};

use quinn::{Connection, RecvStream, SendStream, VarInt};
use ringmesh_node::{View, Way, remedy::Refused};
use ringmesh_proto::{
    HostId, Uplink, ZoneId,
    frame::{self, FrameError},
    member::Member,
    peer::{
        Delegate, HistoryQuery, JoinRequest, JoinResponse, OrderRequest, OrderResponse, QueryRequest, QueryResponse,
        Refusal, RelayRequest, RenewRequest, RenewResponse, Request, Response, ShareRequest, ZoneRecord,
        refusal::Reason, relay_request, request::Body as Ask, response::Body as Answer,
    },
    v1::{self, host::State},
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Inbound, Transport, connection,
    store::{Places, StoreStream},
    table::Waiting,
};
use crate::{
    clock,
    config::is_name,
    counters::count,
    fanout,
    identity::{
        Keyring,
        admission::{self, AuthoritySlot},
    },
};

/// For one try over one uplink.
const TRY_TIMEOUT: Duration = Duration::from_millis(1500);

/// For the host loop to answer.
const LOOP_TIMEOUT: Duration = Duration::from_secs(2);

/// For a zone to say whether it has a host of some name. Its delegates may be slow to answer one after the other, when they have
/// just come back, and whoever joins waits for 15 s.
const NAME_TIMEOUT: Duration = Duration::from_secs(6);

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
    pub authority: AuthoritySlot,
    /// Takes the streams that other hosts open for the store.
    pub store: mpsc::Sender<StoreStream>,
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
        self.query_within(to, way, query, TRY_TIMEOUT).await
    }

    /// The same, when the other host must ask others first: each try may take `patience`.
    pub async fn query_within(
        &self,
        to: Member,
        way: Way,
        query: QueryRequest,
        patience: Duration,
    ) -> Result<QueryResponse, RequestError> {
        match self.ask(to, way, Ask::Query(query), patience).await? {
            Answer::Query(answer) => Ok(answer),
            Answer::Refusal(_)
            | Answer::Sync(_)
            | Answer::Join(_)
            | Answer::Renew(_)
            | Answer::Share(_)
            | Answer::Order(_) => Err(RequestError::Broken),
        }
    }

    /// Passes on what an operator ordered. It may come twice, and is obeyed once.
    pub async fn order(&self, to: Member, way: Way, order: OrderRequest) -> Result<OrderResponse, RequestError> {
        match self.ask(to, way, Ask::Order(order), TRY_TIMEOUT).await? {
            Answer::Order(answer) => Ok(answer),
            Answer::Refusal(_)
            | Answer::Sync(_)
            | Answer::Join(_)
            | Answer::Renew(_)
            | Answer::Share(_)
            | Answer::Query(_) => Err(RequestError::Broken),
        }
    }

    /// What this host itself remembers of these services; `None` if its loop does not answer.
    pub async fn own_histories(&self, wanted: HistoryQuery) -> Option<Vec<v1::History>> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.shared.inbound.send(Inbound::Histories { wanted, reply }).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(LOOP_TIMEOUT, asked).await.ok()?
    }

    /// Asks a host that holds the CA's key for a new certificate.
    pub async fn renew(&self, to: Member, csr: Vec<u8>) -> Result<RenewResponse, RequestError> {
        match self.ask(to, Way::over(Uplink::A), Ask::Renew(RenewRequest { csr: csr.into() }), TRY_TIMEOUT).await? {
            Answer::Renew(answer) => Ok(answer),
            Answer::Refusal(_)
            | Answer::Sync(_)
            | Answer::Join(_)
            | Answer::Query(_)
            | Answer::Share(_)
            | Answer::Order(_) => Err(RequestError::Broken),
        }
    }

    /// Gives a host the CA's key.
    pub async fn share(&self, to: Member, key: Vec<u8>) -> Result<(), RequestError> {
        match self.ask(to, Way::over(Uplink::A), Ask::Share(ShareRequest { key: key.into() }), TRY_TIMEOUT).await? {
            Answer::Share(_) => Ok(()),
            Answer::Refusal(_)
            | Answer::Sync(_)
            | Answer::Join(_)
            | Answer::Query(_)
            | Answer::Renew(_)
            | Answer::Order(_) => Err(RequestError::Broken),
        }
    }

    /// Asks a host for what this one lacks; the answer goes to the host loop.
    pub fn sync(&self, to: Member, way: Way, request: ringmesh_proto::peer::SyncRequest) {
        let transport = self.clone();
        tokio::spawn(async move {
            match transport.ask(to, way, Ask::Sync(request), TRY_TIMEOUT).await {
                Ok(Answer::Sync(response)) => {
                    if let Some(missing) = &response.missing {
                        transport.learn(Some(to.id), missing.signed.clone()).await;
                    }
                    let answer = Inbound::SyncAnswer { from: to.id, response };
                    let _ = transport.shared.inbound.send(answer).await;
                }
                Ok(
                    Answer::Refusal(_)
                    | Answer::Query(_)
                    | Answer::Join(_)
                    | Answer::Renew(_)
                    | Answer::Share(_)
                    | Answer::Order(_),
                ) => {}
                Err(error) => tracing::debug!(host = %to.id, %error, "no sync"),
            }
        });
    }

    async fn ask(&self, to: Member, way: Way, body: Ask, patience: Duration) -> Result<Answer, RequestError> {
        let (to, body) = match way.via {
            Some(relay) => (relay, by_relay(to.id, body)),
            None => (to, body),
        };
        self.ask_directly(to, way.uplink, body, patience).await
    }

    async fn ask_directly(
        &self,
        to: Member,
        better: Uplink,
        body: Ask,
        patience: Duration,
    ) -> Result<Answer, RequestError> {
        let request = Request { version: frame::VERSION, cluster: self.shared.keyring.cluster.raw(), body: Some(body) };
        let bytes = frame::encode(&request);
        let mut last = RequestError::NoConnection;
        let mut ways = self.table().ways(to.id, better);
        if ways.is_empty() {
            ways.extend(self.connect(to).await);
        }
        for connection in ways {
            match tokio::time::timeout(patience, ask_on(&connection, bytes.clone())).await {
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
    pub(super) async fn connect(&self, to: Member) -> Option<Connection> {
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
        Ask::Order(order) => Some(relay_request::Body::Order(order)),
        // None of these is ever relayed.
        Ask::Join(_) | Ask::Relay(_) | Ask::Renew(_) | Ask::Share(_) | Ask::Store(_) => None,
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

/// Answers the one request of a stream, or gives the stream to the store. `from` is `None` for a host that has no
/// certificate yet; with it come the connection's places for the store.
pub(super) async fn serve(
    transport: Transport,
    from: Option<(HostId, Places)>,
    mut send: SendStream,
    mut receive: RecvStream,
) {
    let shared = &transport.shared;
    let (from, places) = from.unzip();
    let read = connection::read_frame(&mut receive, frame::MAX_REQUEST);
    let request = match tokio::time::timeout(STREAM_TIMEOUT, read).await {
        Ok(Ok(Some(bytes))) => frame::decode_request(bytes, from.map(|_| shared.keyring.cluster)),
        Ok(Err(connection::ReadError::Frame(error))) => Err(error),
        Ok(Ok(None) | Err(connection::ReadError::Lost)) | Err(_) => return,
    };
    let body = match request {
        Ok(Request { body: Some(Ask::Store(request)), .. }) if let (Some(from), Some(places)) = (from, &places) => {
            return transport.take_store_stream(from, request, (send, receive), places);
        }
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
            let result = welcome(transport, join).await;
            match result {
                Ok(response) => {
                    count(&shared.counters.hosts_admitted);
                    Answer::Join(response)
                }
                Err(refusal) => Answer::Refusal(refusal),
            }
        }
        (Some(Ask::Query(query)), Some(_)) if query.whole_zone => {
            let Ok(_place) = shared.zone_answers.try_acquire() else {
                return Answer::Refusal(frame::refusal(Reason::Busy, "this host is busy; ask again"));
            };
            let view = shared.requests.view.borrow().clone();
            Answer::Query(fanout::answer_for_zone(transport, &view, query).await)
        }
        (Some(Ask::Query(query)), Some(_)) => {
            let view = shared.requests.view.borrow().clone();
            match fanout::own(transport, view, query).await {
                Some(details) => Answer::Query(details),
                None => Answer::Refusal(frame::refusal(Reason::Busy, "this host is busy; ask again")),
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
        (Some(Ask::Order(order)), Some(_)) => self::order(transport, order).await,
        (Some(Ask::Relay(relay)), Some(_)) => self::relay(transport, relay).await,
        (Some(Ask::Renew(request)), Some(from)) => {
            transport.renew_for(from, request).await.map_or_else(Answer::Refusal, Answer::Renew)
        }
        (Some(Ask::Share(request)), Some(_)) => {
            transport.take_key(request).await.map_or_else(Answer::Refusal, Answer::Share)
        }
        (Some(Ask::Join(_)), Some(_)) => {
            Answer::Refusal(frame::refusal(Reason::NotAllowed, "a member of the cluster needs not join it"))
        }
        // A stream of a host with a certificate has gone to the store.
        (Some(Ask::Store(_)), _)
        | (Some(Ask::Query(_) | Ask::Sync(_) | Ask::Relay(_) | Ask::Renew(_) | Ask::Share(_) | Ask::Order(_)), None) => {
            Answer::Refusal(frame::refusal(Reason::NotAllowed, "without a certificate one may only join"))
        }
        (None, _) => Answer::Refusal(frame::refusal(Reason::Malformed, "a request without a question")),
    }
}

/// What an operator ordered at another host, which has seen to it that it was one.
async fn order(transport: &Transport, order: OrderRequest) -> Answer {
    let (reply, answered) = oneshot::channel();
    let asked = transport.shared.inbound.send(Inbound::Order { order, reply }).await;
    match tokio::time::timeout(LOOP_TIMEOUT, answered).await {
        Ok(Ok(Ok(operation))) if asked.is_ok() => {
            Answer::Order(OrderResponse { operation: Some(operation), ..OrderResponse::default() })
        }
        Ok(Ok(Err(Refused { code, text }))) => {
            Answer::Order(OrderResponse { operation: None, code: code as u32, error: text })
        }
        Ok(_) | Err(_) => Answer::Refusal(frame::refusal(Reason::Busy, "this host is busy; ask again")),
    }
}

/// Checks the token, then whether the name is free in all zones, and then admits.
async fn welcome(transport: &Transport, join: JoinRequest) -> Result<JoinResponse, Refusal> {
    let shared = &transport.shared;
    let (authority, keyring) = (Arc::clone(&shared.requests.authority), Arc::clone(&shared.keyring));
    let view = shared.requests.view.borrow().clone();
    let busy = || frame::refusal(Reason::Busy, "this host is busy; ask again");
    // Whoever holds the lock may wait for the disk.
    let (slot, ring, request) = (Arc::clone(&authority), Arc::clone(&keyring), join.clone());
    let check = move || match &mut *lock(&slot) {
        Some(authority) => authority.check_token(&request, clock::unix().0 / 1000),
        None => Err(admission::no_authority(&ring.name)),
    };
    tokio::task::spawn_blocking(check).await.unwrap_or_else(|_| Err(busy()))?;
    name_is_free_elsewhere(transport, &view, &join.name).await?;
    // Signs and waits for the disk.
    let admitted = tokio::task::spawn_blocking(move || admit(&authority, &keyring, &view, &join)).await;
    admitted.unwrap_or_else(|_| Err(busy()))
}

fn lock(authority: &AuthoritySlot) -> MutexGuard<'_, Option<admission::Authority>> {
    authority.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether no host of another zone has this name. A zone that cannot be asked forbids nothing.
async fn name_is_free_elsewhere(transport: &Transport, view: &View, name: &str) -> Result<(), Refusal> {
    if !is_name(name) {
        return Ok(());
    }
    let query = QueryRequest { hosts: true, host: name.to_owned(), ..QueryRequest::default() };
    let others = view.zones.iter().filter(|zone| !zone.local);
    let ask = |zone| fanout::ask_zone(transport, view, zone, query.clone());
    let asked = others.map(|zone| tokio::time::timeout(NAME_TIMEOUT, ask(zone)));
    for found in futures_util::future::join_all(asked).await.into_iter().flatten() {
        let hosts = found.details.unwrap_or_default().hosts;
        if hosts.iter().any(|host| !matches!(host.state(), State::Down | State::Left)) {
            let zone = found.source.zone;
            let text = format!("there is a host named {name} already, in zone {zone}; give this one another name");
            return Err(frame::refusal(Reason::NameTaken, text));
        }
    }
    Ok(())
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
        Some(relay_request::Body::Order(order)) => Ask::Order(order),
        None => return Answer::Refusal(frame::refusal(Reason::Malformed, "a request without a question")),
    };
    let peer = shared.requests.view.borrow().peers.get(&HostId::new(request.to)).filter(|peer| peer.askable).cloned();
    let Some(peer) = peer else {
        return Answer::Refusal(frame::refusal(Reason::NotAllowed, "this host does not hear that one either"));
    };
    count(&shared.counters.requests_relayed);
    // In a box, for an answer is made of the answer to this.
    match Box::pin(transport.ask_directly(peer.member, peer.way.uplink, ask, TRY_TIMEOUT)).await {
        Ok(answer) => answer,
        Err(error) => Answer::Refusal(frame::refusal(Reason::Busy, format!("{}, asked for you: {error}", peer.name))),
    }
}

fn admit(
    authority: &AuthoritySlot,
    keyring: &Keyring,
    view: &View,
    join: &JoinRequest,
) -> Result<JoinResponse, Refusal> {
    // The name of a host that is gone may be taken by another.
    let name_taken = |name: &str| {
        view.hosts.iter().any(|host| host.name == name && !matches!(host.state(), State::Down | State::Left))
    };
    let id_taken = |id: HostId| keyring.is_revoked(id) || view.hosts.iter().any(|host| host.id == id.to_string());
    let now = clock::unix().0 / 1000;
    let mut slot = lock(authority);
    let Some(authority) = &mut *slot else { return Err(admission::no_authority(&keyring.name)) };
    let zone = if join.zone.is_empty() { "default" } else { &join.zone };
    admission::check_zone(authority, view, zone, now)?;
    let join = JoinRequest { zone: zone.to_owned(), ..join.clone() };
    let mut response = authority.admit(&join, now, name_taken, id_taken)?;
    drop(slot);
    response.zones = view.zones.iter().map(zone_record).collect();
    if zone != view.zone {
        return Ok(response);
    }
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

/// As much of it as a host that joins needs: who is there to be called.
fn zone_record(zone: &v1::Zone) -> ZoneRecord {
    let delegate = |delegate: &v1::ZoneDelegate| {
        let addresses = [delegate.address.parse().ok(), delegate.address_b.parse().ok()];
        let member = Member { id: delegate.id.parse().ok()?, generation: 0, addresses };
        Some(Delegate { member: Some(member.to_record(0, 0)), name: delegate.name.clone() })
    };
    ZoneRecord {
        zone: ZoneId::of(&zone.name).raw(),
        name: zone.name.clone(),
        delegates: zone.delegates.iter().filter_map(delegate).collect(),
        ..ZoneRecord::default()
    }
}
