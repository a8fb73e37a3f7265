//! Probes: the hands that carry out one [`ProbeRequest`] and say in a [`ProbeReply`] what came of it.
//!
//! They own sockets, namespaces and processes, and judge nothing: when to probe and what an answer means for a service is
//! the node's to decide.
//!
//! ```text
//!  start() ─┬─ queue ─► thread "probe": setns, socket, connect ─► a task per probe ─► replies
//!           └─ queue ─► exec (a task of the same thread) ◄─socket─► exec-runner ─► exec-child ─► the program
//! ```
//!
//! One thread does all probes by socket: it is at most a few tens of microseconds of work each, and a socket stays in the
//! network namespace where it was made, so nothing but `socket()` and `connect()` needs the namespace. The threaded
//! daemon never forks for a probe: the runner, a process of one thread, does.

mod answer;
pub mod child;
mod exec;
mod grpc;
pub mod http;
mod netns;
mod order;
pub mod runner;
mod socket;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

pub use ringmesh_node::health::spec::{Check, CheckId, MAX_ANSWER, ProbeReply, ProbeRequest};
use tokio::sync::mpsc;

use self::netns::Namespaces;
use crate::config;

/// The most requests by socket that wait for their turn: a quarter of a host's 32,000 services, far more than fall due
/// in one turn of the host loop.
const MAX_WAITING: usize = 8192;

/// The most exec requests that wait: some ten seconds of work for the default concurrency.
const MAX_WAITING_EXEC: usize = 1024;

/// Carries out probes until it is dropped; what is under way then is given up without a reply.
#[derive(Debug)]
pub struct Prober {
    sockets: mpsc::Sender<ProbeRequest>,
    execs: mpsc::Sender<ProbeRequest>,
    shared: Arc<Shared>,
}

/// A probe was not carried out, for want of room or of the exec runner. It says nothing of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many probes wait, this one was not carried out")]
pub struct Busy;

/// What the probing thread tells the callers of [`Prober::start`].
#[derive(Debug, Default)]
struct Shared {
    refused: AtomicU64,
    runner_is_down: AtomicBool,
}

impl Prober {
    /// Starts the probing thread, and with the first exec probe the exec runner: `runner_path` with the argument
    /// "exec-runner".
    ///
    /// Must be called in the host's own network namespace. Fails when the platform gives no thread, epoll or namespace.
    pub fn spawn(cfg: &config::Probe, runner_path: PathBuf, replies: mpsc::Sender<ProbeReply>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let namespaces = Namespaces::open()?;
        let shared = Arc::new(Shared::default());
        let (sockets, socket_queue) = mpsc::channel(MAX_WAITING);
        let (execs, exec_queue) = mpsc::channel(MAX_WAITING_EXEC);
        let exec = exec::Exec {
            queue: exec_queue,
            runner_path,
            concurrency: cfg.exec_concurrency,
            replies: replies.clone(),
            shared: Arc::clone(&shared),
            first: None,
        };
        let concurrency = cfg.concurrency;
        std::thread::Builder::new().name("probe".into()).spawn(move || {
            runtime.block_on(async move {
                tokio::spawn(exec.supervise());
                socket::dispatch(socket_queue, namespaces, concurrency, replies).await;
            });
        })?;
        Ok(Self { sockets, execs, shared })
    }

    /// Takes an order to probe; never blocks. Its reply comes within the request's timeout and a second.
    pub fn start(&self, request: ProbeRequest) -> Result<(), Busy> {
        let taken = match *request.check {
            Check::Exec { .. } if self.shared.runner_is_down.load(Relaxed) => None,
            Check::Exec { .. } => self.execs.try_send(request).ok(),
            Check::Tcp { .. } | Check::Http { .. } | Check::Grpc { .. } => self.sockets.try_send(request).ok(),
        };
        taken.ok_or_else(|| {
            self.shared.refused.fetch_add(1, Relaxed);
            Busy
        })
    }

    /// How many requests were refused as [`Busy`] since the start.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Relaxed)
    }
}

/// What came of a probe, and when it was known.
#[derive(Debug)]
struct Outcome {
    success: bool,
    /// As in [`ProbeReply::silent`].
    silent: bool,
    answer: String,
    at: Instant,
}

impl Outcome {
    fn pass(answer: impl AsRef<str>) -> Self {
        Self { success: true, silent: false, answer: answer::clean(answer.as_ref()), at: Instant::now() }
    }

    fn fail(answer: impl AsRef<str>) -> Self {
        Self { success: false, silent: false, answer: answer::clean(answer.as_ref()), at: Instant::now() }
    }

    /// It failed without a word from the container.
    fn silence(answer: impl AsRef<str>) -> Self {
        Self { silent: true, ..Self::fail(answer) }
    }

    fn no_answer(timeout: Duration) -> Self {
        Self::silence(answer::no_answer(timeout))
    }

    /// Nobody there, or nobody who says so.
    fn broken(error: &io::Error) -> Self {
        let silent = matches!(
            error.kind(),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::TimedOut
        );
        Self { silent, ..Self::fail(answer::io_error(error)) }
    }

    fn reply(self, id: CheckId, started: Instant) -> ProbeReply {
        let latency = self.at.saturating_duration_since(started);
        ProbeReply { id, success: self.success, silent: self.silent, answer: self.answer, latency }
    }
}
