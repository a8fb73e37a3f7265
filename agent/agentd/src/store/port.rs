//! The port for clients: gRPC and HTTP/1.1 with JSON on one and the same. What is asked it does not look at, but for its
//! content type.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tonic::{
    body::Body,
    codegen::http::{Request, Response, header::CONTENT_TYPE},
};

use super::{authority::Corrected, etcd::Services, gateway::Gateway};

/// Connections at once. Beyond it they wait in the kernel's queue: each costs some 20 KB and a descriptor.
const MAX_CONNECTIONS: usize = 4096;

/// Calls that one connection may have open at once; watches are calls. A pool of clients shares one connection.
const MAX_CALLS: u32 = 4096;

/// How long a connection may be silent before its first request, and an HTTP/1.1 connection between two.
const SILENCE: Duration = Duration::from_secs(60);

/// After such a time without a word the other end of an HTTP/2 connection is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// How long it has for its answer.
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(20);

/// Bytes that a client may send ahead on one call: a whole large request.
const WINDOW_BYTES: u32 = 1 << 20;

/// After a refused accept(2), as when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What answers on it.
#[derive(Clone)]
pub(super) struct Port {
    services: Services,
    gateway: Arc<Gateway>,
    connections: Arc<Semaphore>,
    http: auto::Builder<TokioExecutor>,
}

impl Port {
    pub(super) fn new(services: Services, gateway: Gateway) -> Self {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(SILENCE);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_CALLS)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(4 * WINDOW_BYTES)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_ANSWER);
        Self { services, gateway: Arc::new(gateway), connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)), http }
    }

    /// Serves for ever.
    pub(super) async fn serve(self, listener: TcpListener) {
        // It is said once, until half of them are free again.
        let mut is_full = false;
        loop {
            if self.connections.available_permits() == 0 && !std::mem::replace(&mut is_full, true) {
                tracing::warn!(connections = MAX_CONNECTIONS, "clients wait: there are no more connections at once");
            }
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else { return };
            is_full &= self.connections.available_permits() < MAX_CONNECTIONS / 2;
            match listener.accept().await {
                Ok((stream, from)) => {
                    let port = self.clone();
                    tokio::spawn(async move {
                        if let Err(error) = port.converse(stream).await {
                            tracing::debug!(%from, error, "a client's connection broke");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a client's connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn converse(self, stream: TcpStream) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE_ANSWER))?;
        socket.set_tcp_user_timeout(Some(KEEP_ALIVE + KEEP_ALIVE_ANSWER))?;
        let mut stream = Corrected::new(stream);
        // It is the first bytes that say which HTTP it is; hyper does not bound the wait for them.
        match tokio::time::timeout(SILENCE, stream.begin()).await {
            Ok(begun) => begun?,
            Err(_) => return Ok(()),
        }
        let http = self.http.clone();
        let service = service_fn(move |request| {
            let port = self.clone();
            async move { Ok::<_, Infallible>(port.answer(request).await) }
        });
        http.serve_connection(TokioIo::new(stream), service).await
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let kind = request.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes()).unwrap_or_default();
        if kind.starts_with(b"application/grpc") {
            self.services.call(request.map(Body::new)).await
        } else {
            self.gateway.answer(request).await
        }
    }
}
