//! Where the API is served: a unix socket for this machine, TCP with certificates for the others.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};

use futures_util::StreamExt;
use ringmesh_proto::v1;
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::oneshot,
};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::{
    body::Body,
    codegen::{
        Service,
        http::{Request, Response, header::CONTENT_TYPE},
    },
    service::Routes,
    transport::server::Connected,
};

use super::Api;
use crate::{
    caller::Caller,
    identity::{self, Access, IdentityError},
    port::{Answer, Port},
    store::{self, Holder},
};

/// Calls that one connection may have open at once; watches are calls.
const MAX_CALLS: u32 = 256;

/// Bytes of one request: the API asks for little.
const MAX_REQUEST: usize = 64 * 1024;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Another agent serves on this socket.
    #[error("another agent serves the API on {0}; stop it, or set another api.socket")]
    InUse(PathBuf),
    /// Something else has its name: a file that is not ours to remove.
    #[error("{0} is there and is no socket; set another api.socket, or move that away")]
    NoSocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot make the API's socket {path}; check the directory and its permissions")]
    Socket {
        /// As configured.
        path: PathBuf,
        /// What the platform said.
        source: std::io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address} for the API; check api.listen")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// What the platform said.
        source: std::io::Error,
    },
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address} for etcd's API; check store.etcd_listen, and that no other program listens there"
    )]
    EtcdListen {
        /// As configured.
        address: SocketAddr,
        /// What the platform said.
        source: std::io::Error,
    },
    /// The platform gave no thread or event loop.
    #[error("cannot start a thread for the API")]
    Thread(#[source] std::io::Error),
    /// The certificates make no server.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Ends the replica that this host holds.
pub struct StoreEnd {
    told: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl StoreEnd {
    /// Returns when it has ended.
    pub async fn end(self) {
        // If it has ended by itself, it needs not be told.
        let _ = self.told.send(());
        let _ = self.ended.await;
    }
}

/// Serves the API on all configured places until the daemon ends, on a thread of its own: a long answer delays nothing.
/// The holder of this host's replica runs there, too.
pub async fn start(api: Api, holder: Holder) -> Result<StoreEnd, ApiError> {
    let (ready, started) = oneshot::channel();
    let (told, end) = oneshot::channel();
    let (has_ended, ended) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ApiError::Thread)?;
    let thread = std::thread::Builder::new().name("api".into()).spawn(move || {
        runtime.block_on(async {
            let result = serve(api).await;
            let serves = result.is_ok();
            if ready.send(result).is_ok() && serves {
                holder.run(end).await;
                // The daemon may not wait for it.
                let _ = has_ended.send(());
                std::future::pending::<()>().await;
            }
        });
    });
    thread.map_err(ApiError::Thread)?;
    started.await.unwrap_or_else(|_| Err(ApiError::Thread(std::io::Error::other("the thread ended"))))?;
    Ok(StoreEnd { told, ended })
}

async fn serve(api: Api) -> Result<(), ApiError> {
    let listener = listen_unix(&api.config.api.socket).await?;
    let port = Port::new(Faces { routes: routes(&api), store: api.store.clone() }, MAX_CALLS);
    let host = api.keyring.name.clone();
    let accepted = UnixListenerStream::new(listener).map(move |accepted| {
        let stream = accepted?;
        let caller = Caller::local(&stream.connect_info(), &host);
        Ok((stream, caller.go_along()))
    });
    tokio::spawn(port.clone().serve(accepted));
    for address in api.config.api.listen.clone() {
        let listener = TcpListener::bind(address).await.map_err(|source| ApiError::Listen { address, source })?;
        let refused = Arc::new(AtomicU64::new(0));
        let accepted = identity::api::incoming(listener, &api.keyring, refused)?.map(|accepted| {
            let stream = accepted?;
            let peer = stream.peer().map_err(|error| io::Error::new(io::ErrorKind::PermissionDenied, error))?;
            Ok((stream, Caller::of(peer).go_along()))
        });
        tokio::spawn(port.clone().serve(accepted));
    }
    for address in api.config.store.etcd_listen.clone() {
        let listener = TcpListener::bind(address).await.map_err(|source| ApiError::EtcdListen { address, source })?;
        let caller = Caller { name: format!("somebody on {}", api.keyring.name), access: Access::Operator };
        let accepted = TcpListenerStream::new(listener).map(move |accepted| Ok((accepted?, caller.clone().go_along())));
        tokio::spawn(Port::new(api.store.clone(), MAX_CALLS).serve(accepted));
    }
    Ok(())
}

/// What answers.
#[derive(Clone)]
struct Faces {
    routes: Routes,
    store: store::Access,
}

impl Answer for Faces {
    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let kind = request.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes()).unwrap_or_default();
        if !kind.starts_with(b"application/grpc") || store::serves(request.uri().path()) {
            return self.store.answer(request).await;
        }
        // A tenant's own objects are the store's to give.
        if let Err(refused) = Caller::expect_reader(request.extensions()) {
            return refused.into_http();
        }
        let answered = self.routes.clone().call(request).await;
        answered.unwrap_or_else(|never: Infallible| match never {})
    }
}

/// Replaces a socket that a dead agent left, but not one that answers.
async fn listen_unix(path: &Path) -> Result<UnixListener, ApiError> {
    let failed = |source| ApiError::Socket { path: path.to_owned(), source };
    if UnixStream::connect(path).await.is_ok() {
        return Err(ApiError::InUse(path.to_owned()));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ApiError::NoSocket(path.to_owned())),
        Ok(_) => std::fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    // Made under another name and mode-checked before it can be found.
    let hidden = path.with_extension("new");
    let _ = std::fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden).map_err(failed)?;
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    std::fs::rename(&hidden, path).map_err(failed)?;
    Ok(listener)
}

fn routes(api: &Api) -> Routes {
    let (health_reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(async move {
        health_reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
        for name in SERVICES {
            health_reporter.set_service_status(name, tonic_health::ServingStatus::Serving).await;
        }
    });
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reflection_v1 = reflection().build_v1().expect("our own descriptors are whole");
    // grpcurl of Debian and many health checkers still ask in this version.
    let reflection_v1alpha = reflection().build_v1alpha().expect("our own descriptors are whole");
    Routes::new(health)
        .add_service(reflection_v1)
        .add_service(reflection_v1alpha)
        .add_service(v1::hosts_server::HostsServer::new(api.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(v1::rings_server::RingsServer::new(api.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(v1::links_server::LinksServer::new(api.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(v1::containers_server::ContainersServer::new(api.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(v1::services_server::ServicesServer::new(api.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(v1::events_server::EventsServer::new(api.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(
            v1::certificates_server::CertificatesServer::new(api.clone()).max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(v1::operations_server::OperationsServer::new(api.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(v1::zones_server::ZonesServer::new(api.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(v1::cells_server::CellsServer::new(api.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(v1::agent_server::AgentServer::new(api.clone()).max_decoding_message_size(MAX_REQUEST))
}

const SERVICES: [&str; 12] = [
    "ringmesh.v1.Hosts",
    "ringmesh.v1.Rings",
    "ringmesh.v1.Links",
    "ringmesh.v1.Containers",
    "ringmesh.v1.Services",
    "ringmesh.v1.Events",
    "ringmesh.v1.Operations",
    "ringmesh.v1.Zones",
    "ringmesh.v1.Cells",
    "ringmesh.v1.Agent",
    "ringmesh.v1.Certificates",
    "ringmesh.v1.Store",
];
