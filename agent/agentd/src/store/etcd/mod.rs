//! The services of the etcd v3 API, one file each. They turn messages into questions for the store's loop and its answers
//! into messages; what a request means for the keys the loop knows.

mod auth;
mod cluster;
mod election;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod queue;
mod watch;

use std::{convert::Infallible, pin::Pin, sync::Arc};

use ringmesh_proto::{
    etcd::{
        etcdserverpb::{
            auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
            maintenance_server::MaintenanceServer, watch_server::WatchServer,
        },
        v3electionpb::election_server::ElectionServer,
        v3lockpb::lock_server::LockServer,
    },
    v1::store_server::StoreServer,
};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{
        Service,
        http::{Request, Response},
    },
};

use super::request::{Failure, Handle};

/// The version of etcd whose semantics are served: clients choose by it what they ask.
pub(super) const VERSION: &str = "3.4.23";

/// The version that all members have at the least.
pub(super) const CLUSTER_VERSION: &str = "3.4.0";

/// Bytes of one request, as etcd's default.
pub(super) const MAX_REQUEST_BYTES: usize = 3 << 19;

/// Bytes of one message: a request and room, so that one that is a little too large is refused in etcd's words.
const MAX_MESSAGE_BYTES: usize = MAX_REQUEST_BYTES + (512 << 10);

/// By which a client says that it wants no answer of a member that knows no leader.
const NEEDS_LEADER: &str = "hasleader";

/// A stream of answers.
pub(super) type Answers<T> = Pin<Box<dyn futures_util::Stream<Item = Result<T, Status>> + Send>>;

/// What the services share.
#[derive(Clone)]
pub(super) struct Face {
    /// To the loop.
    pub(super) handle: Handle,
    /// Hosts keep keys of their own in it.
    pub(super) is_of_hosts: bool,
}

/// All services.
#[derive(Clone)]
pub(super) struct Services {
    kv: KvServer<Face>,
    watch: WatchServer<Face>,
    lease: LeaseServer<Face>,
    cluster: ClusterServer<Face>,
    maintenance: MaintenanceServer<Face>,
    auth: AuthServer<Face>,
    lock: LockServer<Face>,
    election: ElectionServer<Face>,
    store: StoreServer<Face>,
    handle: Handle,
}

impl Services {
    pub(super) fn new(face: Face) -> Self {
        let handle = face.handle.clone();
        let face = Arc::new(face);
        Self {
            kv: KvServer::from_arc(Arc::clone(&face)).max_decoding_message_size(MAX_MESSAGE_BYTES),
            watch: WatchServer::from_arc(Arc::clone(&face)).max_decoding_message_size(MAX_MESSAGE_BYTES),
            lease: LeaseServer::from_arc(Arc::clone(&face)).max_decoding_message_size(MAX_MESSAGE_BYTES),
            cluster: ClusterServer::from_arc(Arc::clone(&face)).max_decoding_message_size(MAX_MESSAGE_BYTES),
            maintenance: MaintenanceServer::from_arc(Arc::clone(&face)).max_decoding_message_size(MAX_MESSAGE_BYTES),
            auth: AuthServer::from_arc(Arc::clone(&face)).max_decoding_message_size(MAX_MESSAGE_BYTES),
            lock: LockServer::from_arc(Arc::clone(&face)).max_decoding_message_size(MAX_MESSAGE_BYTES),
            election: ElectionServer::from_arc(Arc::clone(&face)).max_decoding_message_size(MAX_MESSAGE_BYTES),
            store: StoreServer::from_arc(face),
            handle,
        }
    }

    /// Answers one gRPC request. A service is found by its name alone: a router would cost more than some of the answers.
    pub(super) async fn call(&self, request: Request<Body>) -> Response<Body> {
        if request.headers().get(NEEDS_LEADER).is_some_and(|value| value == "true") && !self.handle.is_led() {
            return Status::from(Failure::NoLeader).into_http();
        }
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        let answered = match service {
            "etcdserverpb.KV" => self.kv.clone().call(request).await,
            "etcdserverpb.Watch" => self.watch.clone().call(request).await,
            "etcdserverpb.Lease" => self.lease.clone().call(request).await,
            "etcdserverpb.Cluster" => self.cluster.clone().call(request).await,
            "etcdserverpb.Maintenance" => self.maintenance.clone().call(request).await,
            "etcdserverpb.Auth" => self.auth.clone().call(request).await,
            "v3lockpb.Lock" => self.lock.clone().call(request).await,
            "v3electionpb.Election" => self.election.clone().call(request).await,
            "ringmesh.v1.Store" => self.store.clone().call(request).await,
            _ => Ok(unknown(service)),
        };
        let mut response = answered.unwrap_or_else(|never: Infallible| match never {});
        tell_size(&mut response);
        response
    }
}

/// A message beyond [`MAX_MESSAGE_BYTES`] is refused under the code by which gRPC's other implementations refuse it.
fn tell_size(response: &mut Response<Body>) {
    let status = Status::from_header_map(response.headers());
    if status
        .is_some_and(|status| status.code() == Code::OutOfRange && status.message().contains("decoded message length"))
    {
        let status =
            Status::resource_exhausted(format!("grpc: received message larger than max ({MAX_MESSAGE_BYTES})"));
        *response = status.into_http();
    }
}

fn unknown(service: &str) -> Response<Body> {
    let status = Status::unimplemented(format!("unknown service {}", service.escape_debug()));
    status.into_http()
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let code = match &failure {
            Failure::Refused(refusal) => Code::from_i32(refusal.code() as i32),
            Failure::TimedOut | Failure::LeaderLost | Failure::Stopped | Failure::NoLeader => Code::Unavailable,
            Failure::TooMany => Code::ResourceExhausted,
            Failure::NotLeader | Failure::BadTransferee => Code::FailedPrecondition,
        };
        Self::new(code, failure.to_string())
    }
}

/// An outcome that is not that of what was asked: of us.
fn unexpected() -> Status {
    Status::internal("the answer is that of another question; please report it")
}
