//! Ports for clients: gRPC and HTTP/1.1 on one and the same, over any kind of connection. It owns the connections, their
//! number and their time limits; what is asked it does not look at.

mod authority;

use std::{convert::Infallible, future::Future, io, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    body::Body,
    codegen::http::{Extensions, Request, Response},
};

use self::authority::Corrected;

/// Connections at once. Beyond it they wait in the kernel's queue: each costs some 20 KB and a descriptor.
const MAX_CONNECTIONS: usize = 4096;

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

/// What answers on a port.
pub(crate) trait Answer: Clone + Send + Sync + 'static {
    /// Answers one request; what is wrong with it stands in the answer.
    fn answer(&self, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send;
}

/// A port.
#[derive(Clone)]
pub(crate) struct Port<A> {
    answers: A,
    connections: Arc<Semaphore>,
    http: auto::Builder<TokioExecutor>,
}

impl<A: Answer> Port<A> {
    /// `max_calls`: that one connection may have open at once; watches are calls.
    pub(crate) fn new(answers: A, max_calls: u32) -> Self {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(SILENCE);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(max_calls)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(4 * WINDOW_BYTES)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_ANSWER);
        Self { answers, connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)), http }
    }

    /// Serves what is accepted there, without any protection, for ever.
    pub(crate) async fn serve_plain(self, listener: TcpListener) {
        let accepted = TcpListenerStream::new(listener).map(|accepted| {
            let stream = accepted?;
            prepare(&stream)?;
            Ok((stream, Extensions::new()))
        });
        self.serve(accepted).await;
    }

    /// Serves these connections until there are no more. What is said of one goes with each request that comes over it.
    pub(crate) async fn serve<S>(self, accepted: impl Stream<Item = io::Result<(S, Extensions)>>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut accepted = std::pin::pin!(accepted);
        // It is said once, until half of them are free again.
        let mut is_full = false;
        loop {
            if self.connections.available_permits() == 0 && !std::mem::replace(&mut is_full, true) {
                tracing::warn!(connections = MAX_CONNECTIONS, "clients wait: there are no more connections at once");
            }
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else { return };
            is_full &= self.connections.available_permits() < MAX_CONNECTIONS / 2;
            match accepted.next().await {
                None => return,
                Some(Ok((stream, about))) => {
                    let port = self.clone();
                    tokio::spawn(async move {
                        port.converse(stream, about).await;
                        drop(permit);
                    });
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "cannot take a client's connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves one connection to its end. What is said `about` it goes with each request.
    pub(crate) async fn converse<S>(self, stream: S, about: Extensions)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut stream = Corrected::new(stream);
        // It is the first bytes that say which HTTP it is; hyper does not bound the wait for them.
        match tokio::time::timeout(SILENCE, stream.begin()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return tracing::debug!(%error, "a client's connection broke"),
            Err(_) => return,
        }
        let http = self.http.clone();
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let (answers, about) = (self.answers.clone(), about.clone());
            async move {
                let mut request = request.map(Body::new);
                request.extensions_mut().extend(about);
                Ok::<_, Infallible>(answers.answer(request).await)
            }
        });
        if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(error, "a client's connection broke");
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE_ANSWER))?;
    socket.set_tcp_user_timeout(Some(KEEP_ALIVE + KEEP_ALIVE_ANSWER))
}
