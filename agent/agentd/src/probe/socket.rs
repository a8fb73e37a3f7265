//! Probes by socket: sockets made within a network namespace, each under its deadline.
//!
//! It owns the probing thread's turn; what is said over a socket is in `http`, `grpc`, `talk` and `icmp`, and what comes one
//! after the other in `plan`.

use std::{
    io::{self, Write},
    net::{self, SocketAddr},
    path::Path,
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

use super::{Check, Outcome, ProbeReply, ProbeRequest, Tools, grpc, http, icmp::Echo, plan, talk};

/// So many probes are begun before those under way have their turn: below a millisecond of work.
const BATCH: usize = 32;

/// Begins what comes in by `queue`, at most `concurrency` at once, until the queue is closed.
///
/// The thread is at home whenever this function waits, so that no other task of the thread ever sees a container's
/// namespace.
pub(super) async fn dispatch(
    mut queue: mpsc::Receiver<ProbeRequest>,
    tools: Arc<Tools>,
    concurrency: usize,
    replies: mpsc::Sender<ProbeReply>,
) {
    let permits = Arc::new(Semaphore::new(concurrency));
    loop {
        tools.go_home();
        let mut next = queue.recv().await;
        if next.is_none() {
            return;
        }
        let mut begun = 0;
        while let Some(request) = next.take() {
            let permit = match Arc::clone(&permits).try_acquire_owned() {
                Ok(permit) => permit,
                Err(_) => {
                    tools.go_home();
                    Arc::clone(&permits).acquire_owned().await.expect("nobody closes the semaphore")
                }
            };
            begin(request, &tools, permit, &replies);
            begun += 1;
            if begun < BATCH {
                next = queue.try_recv().ok();
            }
        }
        tools.go_home();
        tokio::task::yield_now().await;
    }
}

/// Makes the socket of one probe; finishes at once what is answered at once, leaves the rest to a task.
fn begin(request: ProbeRequest, tools: &Arc<Tools>, permit: OwnedSemaphorePermit, replies: &mpsc::Sender<ProbeReply>) {
    let started = Instant::now();
    let outcome = match tools.within(request.netns.as_deref(), || Opened::by(&request.check)) {
        Err(outcome) => outcome,
        Ok(Opened::Stream(dial)) if dial.connected && matches!(*request.check, Check::Tcp { .. }) => {
            Outcome::pass("connected")
        }
        Ok(opened) => {
            let (tools, replies) = (Arc::clone(tools), replies.clone());
            tokio::spawn(async move {
                let outcome = if let Check::Plan { steps, timeout } = &*request.check {
                    // Boxed: most probes are no plans, and their tasks stay small.
                    Box::pin(plan::run(&tools, &request, steps, *timeout)).await
                } else {
                    let netns = request.netns.as_deref();
                    answered(&tools, netns, opened, &request.check, started + request.timeout, request.timeout).await
                };
                // Fails only when nobody listens any more.
                let _ = replies.send(outcome.reply(&request, started)).await;
                drop(permit);
            });
            return;
        }
    };
    if let Err(mpsc::error::TrySendError::Full(reply)) = replies.try_send(outcome.reply(&request, started)) {
        let replies = replies.clone();
        tokio::spawn(async move {
            let _ = replies.send(reply).await;
            drop(permit);
        });
    }
}

/// What came of a check whose socket is open, at the latest at `deadline`, which is when `timeout` is over.
pub(super) async fn answered(
    tools: &Tools,
    netns: Option<&Path>,
    opened: Opened,
    check: &Check,
    deadline: Instant,
    timeout: Duration,
) -> Outcome {
    let mut heard = false;
    let answer = async {
        let outcome = converse(tools, netns, opened, check, deadline, &mut heard).await;
        outcome.unwrap_or_else(|error| Outcome::error(&error))
    };
    let outcome = timeout_at(deadline.into(), answer).await.unwrap_or_else(|_| Outcome::no_answer(timeout));
    outcome.having(heard)
}

/// Sets `heard` when the service has said anything, whatever comes after.
async fn converse(
    tools: &Tools,
    netns: Option<&Path>,
    opened: Opened,
    check: &Check,
    deadline: Instant,
    heard: &mut bool,
) -> io::Result<Outcome> {
    match (check, opened) {
        (Check::Tcp { .. }, Opened::Stream(dial)) => dial.connected().await.map(|_| Outcome::pass("connected")),
        (Check::Talk(exchange), Opened::Stream(dial)) => talk::over(dial, exchange, &tools.patterns, heard).await,
        (Check::Udp(exchange), Opened::Datagrams(socket)) => talk::by_datagram(socket, exchange, &tools.patterns).await,
        (Check::Icmp { .. }, Opened::Echo(echo)) => echo.answered().await,
        (Check::Http(http), Opened::Stream(dial)) => http::ask(tools, netns, dial, http, deadline, heard).await,
        (Check::Grpc { address, service }, Opened::Stream(dial)) => {
            Ok(grpc::check(dial.connected().await?, *address, service).await)
        }
        (_, _) => Ok(Outcome::fail("not a probe by socket")),
    }
}

/// A socket in the network namespace of a check, with what could be sent at once.
pub(super) enum Opened {
    /// On its way to a connection.
    Stream(Dial),
    /// The question is sent.
    Datagrams(net::UdpSocket),
    /// The request is sent.
    Echo(Echo),
    /// The check needs none by itself.
    Nothing,
}

impl Opened {
    /// The socket that `check` begins with, in the calling thread's network namespace.
    pub(super) fn by(check: &Check) -> io::Result<Self> {
        match check {
            Check::Tcp { address } | Check::Grpc { address, .. } => Dial::start(*address).map(Self::Stream),
            Check::Talk(exchange) => Dial::start(exchange.address).map(Self::Stream),
            Check::Http(http) => Dial::start(http.address).map(Self::Stream),
            Check::Udp(exchange) => talk::send(exchange).map(Self::Datagrams),
            Check::Icmp { address } => Echo::send(*address).map(Self::Echo),
            Check::Exec { .. } | Check::Inside(_) | Check::Plan { .. } | Check::Heartbeat { .. } => Ok(Self::Nothing),
        }
    }
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
    pub(super) fn start(address: SocketAddr) -> io::Result<Self> {
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
