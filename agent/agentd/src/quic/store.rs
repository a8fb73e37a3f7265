//! Streams of the store: opened as requests are, and then the store's own for as long as it likes.
//!
//! It owns their number and keeps their connections from being closed as unused. What goes over them the store knows.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use quinn::{Connection, RecvStream, SendStream, VarInt};
pub use ringmesh_proto::peer::store_request::Purpose;
use ringmesh_proto::{
    HostId, frame,
    peer::{Request, StoreRequest, request::Body as Ask},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc::error::TrySendError},
};

use super::{MAX_STORE_STREAMS, RequestError, Transport};
use crate::counters::count;

/// Bound of the channel of streams that other hosts open; beyond it they are turned away, and try again.
pub const STORE_STREAM_BOUND: usize = 64;

/// For one try over one uplink.
const OPEN_TIMEOUT: Duration = Duration::from_millis(1500);

/// Below gossip: a snapshot may take long.
const PRIORITY: i32 = -1;

/// Why a stream was reset: there are too many.
const TOO_MANY: VarInt = VarInt::from_u32(1);

/// A stream of the store.
#[derive(Debug)]
pub struct StoreStream {
    /// The other end, by its certificate.
    pub host: HostId,
    /// What it is for.
    pub purpose: Purpose,
    /// To the other end.
    pub send: SendStream,
    /// From there.
    pub receive: RecvStream,
    /// As long as it is held, the connection counts as used.
    pub place: Place,
}

impl AsyncRead for StoreStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.receive), cx, buf)
    }
}

impl AsyncWrite for StoreStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}

/// One of the places of a connection.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

/// The streams of a connection, by who opened them.
#[derive(Clone)]
pub(super) struct Places {
    ours: Arc<Semaphore>,
    theirs: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        let new = || Arc::new(Semaphore::new(MAX_STORE_STREAMS as usize));
        Self { ours: new(), theirs: new() }
    }
}

impl Places {
    /// Whether any is taken.
    pub(super) fn are_used(&self) -> bool {
        [&self.ours, &self.theirs].iter().any(|places| places.available_permits() < MAX_STORE_STREAMS as usize)
    }
}

fn take(places: &Arc<Semaphore>) -> Option<Place> {
    Arc::clone(places).try_acquire_owned().ok().map(|permit| Place { _permit: permit })
}

impl Transport {
    /// Opens a stream to a host of this one's zone, or to a delegate of another one, that can be asked: over the better
    /// uplink, or else over the other. The other end may still turn it away: it resets the stream then.
    ///
    /// # Errors
    /// If there is no connection to that host and none can be made.
    pub async fn open_store(&self, host: HostId, purpose: Purpose) -> Result<StoreStream, RequestError> {
        let view = self.shared.requests.view.borrow().clone();
        let gateways = || view.gateways.values().flatten().find(|peer| peer.member.id == host);
        let peer = view.peers.get(&host).or_else(gateways).filter(|peer| peer.askable).cloned();
        let peer = peer.ok_or(RequestError::NoConnection)?;
        let better = peer.way.uplink;
        let mut ways = self.table().store_ways(host, better);
        if ways.is_empty() && self.connect(peer.member).await.is_some() {
            ways = self.table().store_ways(host, better);
        }
        let body = Some(Ask::Store(StoreRequest { purpose: purpose.into() }));
        let request = Request { version: frame::VERSION, cluster: self.shared.keyring.cluster.raw(), body };
        let opening = frame::encode(&request);
        let mut last = RequestError::NoConnection;
        for (connection, places) in ways {
            let Some(place) = take(&places.ours) else { continue };
            match tokio::time::timeout(OPEN_TIMEOUT, open(&connection, opening.clone())).await {
                Ok(Some((send, receive))) => return Ok(StoreStream { host, purpose, send, receive, place }),
                Ok(None) => last = RequestError::Broken,
                Err(_) => last = RequestError::Timeout,
            }
        }
        Err(last)
    }

    /// Gives the store a stream that another host opened, or turns it away.
    pub(super) fn take_store_stream(
        &self,
        host: HostId,
        request: StoreRequest,
        (send, receive): (SendStream, RecvStream),
        places: &Places,
    ) {
        // Only fails when the other end has given it up.
        let _ = send.set_priority(PRIORITY);
        let Some(place) = take(&places.theirs) else { return turn_away(self, host, send) };
        let stream = StoreStream { host, purpose: request.purpose(), send, receive, place };
        match self.shared.requests.store.try_send(stream) {
            Ok(()) => {}
            Err(TrySendError::Full(stream) | TrySendError::Closed(stream)) => turn_away(self, host, stream.send),
        }
    }
}

async fn open(connection: &Connection, opening: bytes::Bytes) -> Option<(SendStream, RecvStream)> {
    let (mut send, receive) = connection.open_bi().await.ok()?;
    let _ = send.set_priority(PRIORITY);
    send.write_chunk(opening).await.ok()?;
    Some((send, receive))
}

fn turn_away(transport: &Transport, host: HostId, mut send: SendStream) {
    count(&transport.shared.counters.requests_refused);
    tracing::debug!(%host, "a stream of the store is turned away: there are too many");
    let _ = send.reset(TOO_MANY);
}
