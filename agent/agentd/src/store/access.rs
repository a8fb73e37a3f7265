//! The store as any host has it: by its own replica, or by that of another host, to which calls are passed on. What is
//! asked it does not look at, but for whether the leader must answer.
//!
//! ```text
//!  API, loopback ─▶ Access ─┬─▶ Faces of the own replica
//!                           └─▶ HTTP/2 over a stream of the mesh ─▶ Faces of another host's
//! ```
//!
//! Only hosts of one zone hold replicas. From another zone a delegate of it is asked, which passes the call on within its
//! own zone, and never out of it: so a call goes over two hosts at the most.

use std::{fmt, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use ringmesh_node::View;
use ringmesh_proto::{
    HostId,
    v1::{self, host::State, replica::Role},
};
use tokio::{
    io::AsyncReadExt,
    sync::{Mutex, mpsc, oneshot, watch},
};
use tonic::{
    Status,
    body::Body,
    codegen::http::{HeaderValue, Request, Response, StatusCode, Uri, header::CONTENT_TYPE},
};

use super::faces::{Faces, plain};
use crate::{
    caller::Caller,
    port::Answer,
    quic::{Purpose, Transport},
};

/// The header in which a host says for whom it passes a call on.
pub(super) const CALLER: &str = "ringmesh-caller";

/// Only the leader knows why each host has its role. Another one's answer is better than none.
const FOR_LEADER: &str = "/ringmesh.v1.Store/GetStoreStatus";

/// Bytes of such a question.
const MAX_QUESTION_BYTES: usize = 1024;

/// How long a host has to say that it takes calls.
const ACCEPTED: Duration = Duration::from_secs(2);

/// How long the leader has for its answer.
const LEADER_ANSWER: Duration = Duration::from_secs(2);

/// Bytes that a call may send ahead.
const WINDOW_BYTES: u32 = 256 << 10;

/// An HTTP/2 connection without a word is asked after that.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How long it has for its answer.
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(3);

/// See above.
#[derive(Clone)]
pub struct Access {
    local: watch::Receiver<Option<Faces>>,
    transport: Transport,
    view: watch::Receiver<Arc<View>>,
    /// The connection in use; one is enough.
    remote: Arc<Mutex<Option<Remote>>>,
    /// To the holder.
    leaves: mpsc::Sender<oneshot::Sender<()>>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

/// To whom a call may be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// A host with a replica, or a delegate of another zone.
    Anywhere,
    /// A host of this zone with a replica.
    Zone,
    /// The host of the replica that leads, first of all.
    Leader,
}

#[derive(Clone)]
struct Remote {
    host: HostId,
    requests: SendRequest<Body>,
}

impl Access {
    /// `local`: what answers for the own replica, as long as there is one.
    pub(super) fn new(
        local: watch::Receiver<Option<Faces>>,
        transport: Transport,
        view: watch::Receiver<Arc<View>>,
        leaves: mpsc::Sender<oneshot::Sender<()>>,
    ) -> Self {
        Self { local, transport, view, remote: Arc::default(), leaves }
    }

    /// This host is about to leave: it takes no replica any more, and if the one that it has votes, another one takes its
    /// place. Returns when that is so, or when it has been waited for long enough: it may leave then all the same.
    pub async fn leave(&self) {
        let (reply, done) = oneshot::channel();
        if self.leaves.send(reply).await.is_ok() {
            // The holder may end meanwhile, and with it the replica.
            let _ = done.await;
        }
    }

    async fn pass_on(&self, mut request: Request<Body>, to: To) -> Response<Body> {
        let is_grpc = is_grpc(&request);
        let Some(mut remote) = self.remote(to).await else { return unavailable(is_grpc, NOBODY) };
        let caller = request.extensions_mut().remove::<Caller>().and_then(|caller| caller.to_header());
        let Some(caller) = caller else { return unavailable(is_grpc, "nobody knows who asks") };
        request.headers_mut().insert(CALLER, caller);
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let Ok(uri) = Uri::builder().scheme("http").authority("store").path_and_query(path).build() else {
            return unavailable(is_grpc, "the path is none");
        };
        *request.uri_mut() = uri;
        // Of HTTP/1.1, and forbidden in HTTP/2 (RFC 9113, section 8.2.2).
        for name in ["connection", "keep-alive", "transfer-encoding", "upgrade", "host", "proxy-connection"] {
            request.headers_mut().remove(name);
        }
        *request.version_mut() = tonic::codegen::http::Version::HTTP_2;
        match remote.requests.send_request(request).await {
            Ok(response) => response.map(Body::new),
            Err(error) => {
                tracing::debug!(host = %remote.host, %error, "a call that was passed on broke");
                unavailable(is_grpc, UNKNOWN)
            }
        }
    }

    /// The own replica answers if the leader does not.
    async fn ask_leader(&self, request: Request<Body>, faces: Faces) -> Response<Body> {
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, MAX_QUESTION_BYTES).collect().await else {
            return unavailable(true, "the question is too long, or did not come");
        };
        let body = body.to_bytes();
        let request = || Request::from_parts(head.clone(), Body::new(Full::new(body.clone())));
        let asked = tokio::time::timeout(LEADER_ANSWER, self.pass_on(request(), To::Leader)).await;
        let is_answer = |response: &Response<Body>| Status::from_header_map(response.headers()).is_none();
        match asked {
            Ok(response) if is_answer(&response) => response,
            Ok(_) | Err(_) => faces.answer(request()).await,
        }
    }

    /// A connection that works, to a host with a replica. Whatever is sent on it is sent once.
    async fn remote(&self, to: To) -> Option<Remote> {
        let mut hosts = self.replicas();
        if hosts.is_empty() && to == To::Anywhere {
            hosts = self.delegates();
        }
        let mut kept = self.remote.lock().await;
        if let Some(remote) = kept.as_mut() {
            let fits =
                if to == To::Leader { hosts.first() == Some(&remote.host) } else { hosts.contains(&remote.host) };
            if fits && remote.requests.ready().await.is_ok() {
                return Some(remote.clone());
            }
            *kept = None;
        }
        for host in hosts {
            match self.connect(host).await {
                Ok(remote) => {
                    *kept = Some(remote.clone());
                    return Some(remote);
                }
                Err(error) => tracing::debug!(%host, %error, "no way to its replica"),
            }
        }
        None
    }

    async fn connect(&self, host: HostId) -> Result<Remote, Box<dyn std::error::Error + Send + Sync>> {
        let mut stream = self.transport.open_store(host, Purpose::Calls).await?;
        // One that has no replica and knows none hangs up instead.
        tokio::time::timeout(ACCEPTED, stream.read_u8()).await??;
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(4 * WINDOW_BYTES)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_ANSWER)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%host, %error, "the way to its replica broke");
            }
        });
        let mut remote = Remote { host, requests };
        remote.requests.ready().await?;
        Ok(remote)
    }

    /// The hosts that say that they have a replica and are there, the leader first, then those with a vote.
    fn replicas(&self) -> Vec<HostId> {
        let view = self.view.borrow();
        let has = |host: &v1::Host| {
            let is_there = matches!(host.state(), State::Alive | State::Suspect | State::Isolated) && !host.local;
            let replica = host.replica.as_ref().filter(|_| is_there)?;
            let rank = (!replica.leads, u64::MAX - replica.term, replica.role() != Role::Voter);
            Some((rank, host.id.parse::<HostId>().ok()?))
        };
        let mut hosts: Vec<_> = view.hosts.iter().filter_map(has).collect();
        hosts.sort_unstable();
        hosts.into_iter().map(|(_, host)| host).collect()
    }

    /// The delegates of the other zones that can be asked.
    fn delegates(&self) -> Vec<HostId> {
        let view = self.view.borrow();
        view.gateways.values().flatten().filter(|peer| peer.askable).map(|peer| peer.member.id).collect()
    }

    /// Whether calls can be passed on here: there is a replica on this host or in its zone.
    pub(super) fn serves(&self) -> bool {
        self.local.borrow().is_some() || !self.replicas().is_empty()
    }

    fn leads_here(&self) -> bool {
        let view = self.view.borrow();
        view.hosts.iter().any(|host| host.local && host.replica.as_ref().is_some_and(|replica| replica.leads))
    }
}

const NOBODY: &str =
    "no host with a replica of the configuration can be reached: start the agents of those that hold one";

const UNKNOWN: &str = "the way to the replica broke: what was asked may have been done; look before you ask again";

impl Answer for Access {
    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let local = self.local.borrow().clone();
        match local {
            None => self.pass_on(request, To::Anywhere).await,
            Some(faces) if request.uri().path() == FOR_LEADER && !self.leads_here() => {
                self.ask_leader(request, faces).await
            }
            Some(faces) => faces.answer(request).await,
        }
    }
}

/// What answers calls that other hosts pass on: they say for whom.
#[derive(Clone)]
pub(super) struct PassedOn(pub(super) Access);

impl Answer for PassedOn {
    async fn answer(&self, mut request: Request<Body>) -> Response<Body> {
        let caller = request.headers_mut().remove(CALLER);
        let Some(caller) = caller.as_ref().and_then(Caller::from_header) else {
            return unavailable(is_grpc(&request), "a host has passed this on and does not say for whom");
        };
        request.extensions_mut().insert(caller);
        let local = self.0.local.borrow().clone();
        match local {
            Some(faces) => faces.answer(request).await,
            None => self.0.pass_on(request, To::Zone).await,
        }
    }
}

fn is_grpc(request: &Request<Body>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.starts_with(b"application/grpc")
}

fn unavailable(is_grpc: bool, text: &'static str) -> Response<Body> {
    if is_grpc {
        return Status::unavailable(text).into_http();
    }
    let error = serde_json::json!({ "error": text, "message": text, "code": 14 });
    plain(StatusCode::SERVICE_UNAVAILABLE, "application/json", error.to_string())
}
