//! Probes by socket: connections from within a network namespace, each under its deadline.
//!
//! It owns the probing thread's turn; what is said over a connection is in `http` and `grpc`.

use std::{
    io::{self, Write},
    net::{self, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout_at,
};

use super::{Check, Outcome, ProbeReply, ProbeRequest, grpc, http, netns::Namespaces};

/// So many probes are begun before those under way have their turn: below a millisecond of work.
const BATCH: usize = 32;

/// Begins what comes in by `queue`, at most `concurrency` at once, until the queue is closed.
///
/// The thread is at home whenever this function waits, so that no other task of the thread ever sees a container's
/// namespace.
pub(super) async fn dispatch(
    mut queue: mpsc::Receiver<ProbeRequest>,
    mut namespaces: Namespaces,
    concurrency: usize,
    replies: mpsc::Sender<ProbeReply>,
) {
    let permits = Arc::new(Semaphore::new(concurrency));
    loop {
        go_home(&mut namespaces);
        let mut next = queue.recv().await;
        if next.is_none() {
            return;
        }
        let mut begun = 0;
        while let Some(request) = next.take() {
            let permit = match Arc::clone(&permits).try_acquire_owned() {
                Ok(permit) => permit,
                Err(_) => {
                    go_home(&mut namespaces);
                    Arc::clone(&permits).acquire_owned().await.expect("nobody closes the semaphore")
                }
            };
            begin(request, &mut namespaces, permit, &replies);
            begun += 1;
            if begun < BATCH {
                next = queue.try_recv().ok();
            }
        }
        go_home(&mut namespaces);
        tokio::task::yield_now().await;
    }
}

fn go_home(namespaces: &mut Namespaces) {
    if let Err(error) = namespaces.leave() {
        tracing::error!(%error, "cannot return to the host's own network namespace");
    }
}

/// Makes the connection of one probe; finishes at once what is answered at once, leaves the rest to a task.
fn begin(
    request: ProbeRequest,
    namespaces: &mut Namespaces,
    permit: OwnedSemaphorePermit,
    replies: &mpsc::Sender<ProbeReply>,
) {
    let started = Instant::now();
    let address = match *request.check {
        Check::Tcp { address } | Check::Http { address, .. } | Check::Grpc { address, .. } => address,
        Check::Exec { .. } => return,
    };
    let dial = namespaces
        .enter(request.netns.as_deref())
        .map_err(Outcome::fail)
        .and_then(|()| Dial::start(address).map_err(|error| Outcome::broken(&error)));
    let outcome = match dial {
        Err(outcome) => outcome,
        Ok(dial) if dial.connected && matches!(*request.check, Check::Tcp { .. }) => Outcome::pass("connected"),
        Ok(dial) => {
            let replies = replies.clone();
            tokio::spawn(async move {
                let outcome = converse(dial, &request.check, started, request.timeout).await;
                // Fails only when nobody listens any more.
                let _ = replies.send(outcome.reply(request.id, started)).await;
                drop(permit);
            });
            return;
        }
    };
    if let Err(mpsc::error::TrySendError::Full(reply)) = replies.try_send(outcome.reply(request.id, started)) {
        let replies = replies.clone();
        tokio::spawn(async move {
            let _ = replies.send(reply).await;
            drop(permit);
        });
    }
}

async fn converse(dial: Dial, check: &Check, started: Instant, timeout: Duration) -> Outcome {
    let deadline = started + timeout;
    let answer = async {
        let outcome = match check {
            Check::Tcp { .. } => dial.connected().await.map(|_| Outcome::pass("connected")),
            Check::Http { address, path, status } => http::get(dial, *address, path, *status, deadline).await,
            Check::Grpc { address, service } => match dial.connected().await {
                Ok(stream) => Ok(grpc::check(stream, *address, service).await),
                Err(error) => Err(error),
            },
            Check::Exec { .. } => Ok(Outcome::fail("exec is no probe by socket")),
        };
        outcome.unwrap_or_else(|error| Outcome::broken(&error))
    };
    timeout_at(deadline.into(), answer).await.unwrap_or_else(|_| Outcome::no_answer(timeout))
}

/// A connection on its way.
pub(super) struct Dial {
    stream: net::TcpStream,
    connected: bool,
}

impl Dial {
    /// Sends the first packet from the calling thread's network namespace.
    ///
    /// To a service on the same machine the kernel has the answer before `connect` returns, so that most probes never
    /// wait. The connection ends with a reset (SO_LINGER 0): neither side is left in TIME_WAIT, not even a server that
    /// closed first, since our closing packet never comes. A container that is probed every second would otherwise always
    /// hold 60 dead connections a service, and the host would run out of ports towards it.
    fn start(address: SocketAddr) -> io::Result<Self> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new_raw(Domain::for_address(address), kind, Some(Protocol::TCP))?;
        socket.set_linger(Some(Duration::ZERO))?;
        let connected = match socket.connect(&address.into()) {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {
                let connected = socket.peer_addr().is_ok();
                if !connected && let Some(error) = socket.take_error()? {
                    return Err(error);
                }
                connected
            }
            Err(error) => return Err(error),
        };
        Ok(Self { stream: socket.into(), connected })
    }

    /// Waits for the connection.
    pub(super) async fn connected(self) -> io::Result<TcpStream> {
        let stream = TcpStream::from_std(self.stream)?;
        if !self.connected {
            stream.writable().await?;
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
        }
        Ok(stream)
    }

    /// Sends `bytes` first of all: at once if the connection stands, before the reactor knows of it.
    pub(super) async fn send(mut self, bytes: &[u8]) -> io::Result<TcpStream> {
        let sent = match self.connected.then(|| self.stream.write(bytes)) {
            Some(Ok(sent)) => sent,
            Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Some(Err(_)) | None => 0,
        };
        let mut stream = self.connected().await?;
        stream.write_all(&bytes[sent..]).await?;
        Ok(stream)
    }
}
