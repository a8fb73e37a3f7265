//! Probes: the hands that carry out one [`ProbeRequest`] and say in a [`ProbeReply`] what came of it.
//!
//! They own sockets, namespaces and processes, and judge nothing: when to probe and what an answer means for a service is
//! the node's to decide.
//!
//! ```text
//!  start() ─┬─ queue ─► thread "probe": setns, socket, connect ─► a task per probe ─► replies
//!           ├─ queue ─► exec (a task of the same thread) ◄─socket─► exec-runner ─► exec-child ─► the program
//!           │      ▲
//!           │      └─ the steps of plans that are programs
//!           └─ queue ─► thread "member" ◄─socket in a container─► ringmesh-member
//! ```
//!
//! One thread does all probes by socket: it is at most a few tens of microseconds of work each, and a socket stays in the
//! network namespace where it was made, so nothing but `socket()` and `connect()` needs the namespace. The threaded
//! daemon never forks for a probe: the runner, a process of one thread, does.

mod answer;
pub mod child;
mod exec;
mod grpc;
pub mod heartbeat;
pub mod http;
mod icmp;
pub mod inside;
pub(crate) mod matching;
mod netns;
mod order;
mod plan;
pub mod runner;
mod socket;
mod talk;
pub(crate) mod tls;

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

pub use ringmesh_node::health::spec::{
    Check, CheckId, Exchange, HttpCheck, InsideCheck, InsideTarget, JsonMatch, MAX_ANSWER, Match, ProbeReply,
    ProbeRequest, Said, Sign, Step, Tls, Trust,
};
use ringmesh_node::{health::spec::Inside, remedy::base};
use tokio::sync::mpsc;

use self::{matching::Patterns, netns::Namespaces, socket::Dial, tls::Trusts};
use crate::config::{self, Container};

/// The most requests by socket that wait for their turn: a quarter of a host's 32,000 services, far more than fall due
/// in one turn of the host loop.
const MAX_WAITING: usize = 8192;

/// The most exec requests that wait: some ten seconds of work for the default concurrency.
const MAX_WAITING_EXEC: usize = 1024;

/// Carries out probes until it is dropped; what is under way then is given up without a reply.
#[derive(Debug)]
pub struct Prober {
    sockets: mpsc::Sender<ProbeRequest>,
    execs: mpsc::Sender<exec::Order>,
    asks: mpsc::Sender<exec::Order>,
    /// Where questions for members inside wait, until somebody serves them.
    unserved: Option<mpsc::Receiver<exec::Order>>,
    replies: mpsc::Sender<ProbeReply>,
    shared: Arc<Shared>,
}

/// A probe was not carried out. It says nothing of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// For want of room.
    #[error("too many probes wait, this one was not carried out")]
    Busy,
    /// For want of the exec runner, which is being started again.
    #[error("there is no exec runner, this probe was not carried out")]
    NoRunner,
}

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
        let (asks, unserved) = mpsc::channel(inside::MAX_WAITING);
        let exec = exec::Exec {
            queue: exec_queue,
            runner_path,
            concurrency: cfg.exec_concurrency,
            replies: replies.clone(),
            shared: Arc::clone(&shared),
            first: None,
        };
        let tools = Arc::new(Tools {
            namespaces: Mutex::new(namespaces),
            patterns: Patterns::default(),
            trusts: Trusts::default(),
            execs: execs.clone(),
            asks: asks.clone(),
        });
        let (own_replies, concurrency) = (replies.clone(), cfg.concurrency);
        std::thread::Builder::new().name("probe".into()).spawn(move || {
            runtime.block_on(async move {
                tokio::spawn(exec.supervise());
                socket::dispatch(socket_queue, tools, concurrency, replies).await;
            });
        })?;
        Ok(Self { sockets, execs, asks, unserved: Some(unserved), replies: own_replies, shared })
    }

    /// Takes an order to probe; never blocks. Its reply comes within the request's timeout and a second.
    pub fn start(&self, request: ProbeRequest) -> Result<(), Refused> {
        let taken = if runs_programs(&request.check) && self.shared.runner_is_down.load(Relaxed) {
            // It would fail, and the service would be blamed.
            Err(Refused::NoRunner)
        } else if matches!(*request.check, Check::Exec { .. }) {
            let order = exec::Order { request, answer: None, detached: false };
            self.execs.try_send(order).map_err(|_| Refused::Busy)
        } else if matches!(*request.check, Check::Inside(_)) {
            let order = exec::Order { request, answer: None, detached: false };
            self.asks.try_send(order).map_err(|_| Refused::Busy)
        } else {
            self.sockets.try_send(request).map_err(|_| Refused::Busy)
        };
        if taken.is_err() {
            self.shared.refused.fetch_add(1, Relaxed);
        }
        taken
    }

    /// Keeps members inside those of `containers` that are to have one, once ordered to, in a thread of its own; what is heard of
    /// them goes to `news`. Their program is a copy of `program`, by the state directory's `member/program`. Without such a
    /// container there is no thread.
    pub fn keep_members(
        &mut self,
        state_dir: &Path,
        program: &Path,
        containers: &[Container],
        news: mpsc::Sender<Inside>,
    ) -> io::Result<inside::Members> {
        let names = containers.iter().filter(|container| container.member).map(|container| base(&container.name));
        let names: BTreeSet<&str> = names.collect();
        inside::install(state_dir, program, &names)?;
        let Some(asks) = self.unserved.take().filter(|_| !names.is_empty()) else {
            return Ok(inside::Members::none());
        };
        let (execs, replies) = (self.execs.clone(), self.replies.clone());
        inside::Members::spawn(inside::Hands::new(state_dir.to_owned(), execs, replies, news), asks)
    }

    /// How many requests were [`Refused`] since the start.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Relaxed)
    }
}

/// What the probes of the probing thread share.
struct Tools {
    namespaces: Mutex<Namespaces>,
    patterns: Patterns,
    trusts: Trusts,
    execs: mpsc::Sender<exec::Order>,
    asks: mpsc::Sender<exec::Order>,
}

impl Tools {
    /// Does something in a network namespace, where the thread then is; why not, as what came of the probe. [`Self::go_home`] must
    /// follow before anything is awaited.
    fn within<T>(&self, netns: Option<&Path>, open: impl FnOnce() -> io::Result<T>) -> Result<T, Outcome> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).enter(netns).map_err(Outcome::fail)?;
        open().map_err(|error| Outcome::error(&error))
    }

    /// Another connection of a probe that is under way.
    fn dial(&self, netns: Option<&Path>, address: SocketAddr) -> Result<Dial, Outcome> {
        let dial = self.within(netns, || Dial::start(address));
        self.go_home();
        dial
    }

    fn go_home(&self) {
        if let Err(error) = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).leave() {
            tracing::error!(%error, "cannot return to the host's own network namespace");
        }
    }
}

/// Whether a check needs the exec runner.
fn runs_programs(check: &Check) -> bool {
    match check {
        Check::Exec { .. } => true,
        Check::Plan { steps, .. } => steps.iter().any(|step| runs_programs(&step.check)),
        Check::Tcp { .. }
        | Check::Talk(_)
        | Check::Udp(_)
        | Check::Icmp { .. }
        | Check::Http(_)
        | Check::Grpc { .. }
        | Check::Inside(_)
        | Check::Heartbeat { .. } => false,
    }
}

/// What came of a probe, and when it was known.
#[derive(Debug)]
struct Outcome {
    sign: Sign,
    answer: String,
    at: Instant,
}

impl Outcome {
    fn pass(answer: impl AsRef<str>) -> Self {
        Self { sign: Sign::Right, answer: answer::clean(answer.as_ref()), at: Instant::now() }
    }

    fn fail(answer: impl AsRef<str>) -> Self {
        Self { sign: Sign::Wrong, ..Self::pass(answer) }
    }

    /// A failure that is the service's own word, or its kernel's.
    fn outright(answer: impl AsRef<str>) -> Self {
        Self { sign: Sign::Error, ..Self::fail(answer) }
    }

    /// A kernel that refuses or resets a connection, or says that no datagram gets there, says that nobody serves there.
    fn error(error: &io::Error) -> Self {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut};
        #[allow(clippy::wildcard_enum_match_arm, reason = "of all others nothing is known")]
        let sign = match error.kind() {
            ConnectionRefused | ConnectionReset => Sign::Error,
            HostUnreachable | NetworkUnreachable => Sign::Unreachable,
            TimedOut => Sign::Silence,
            _ => Sign::Wrong,
        };
        Self { sign, ..Self::fail(answer::io_error(error)) }
    }

    /// The same, said otherwise.
    fn in_words(self, answer: &str) -> Self {
        Self { answer: answer::clean(answer), ..self }
    }

    /// It failed without a word from the container.
    fn silence(answer: impl AsRef<str>) -> Self {
        Self { sign: Sign::Silence, ..Self::fail(answer) }
    }

    fn no_answer(timeout: Duration) -> Self {
        Self::silence(answer::no_answer(timeout))
    }

    /// The same, but no silence if the container was `heard` before.
    fn having(self, heard: bool) -> Self {
        let sign = match self.sign {
            Sign::Unreachable if heard => Sign::Error,
            Sign::Silence if heard => Sign::Wrong,
            sign @ (Sign::Right | Sign::Wrong | Sign::Error | Sign::Unreachable | Sign::Silence) => sign,
        };
        Self { sign, ..self }
    }

    /// The same, but wrong if it took longer than `most`.
    fn not_after(self, started: Instant, most: Option<Duration>) -> Self {
        let took = self.at.saturating_duration_since(started);
        match most.filter(|most| self.sign.is_right() && took > *most) {
            Some(most) => {
                let words = format!("took {:.1?}, more than {most:?}: {}", took, self.answer);
                Self { sign: Sign::Wrong, ..self.in_words(&words) }
            }
            None => self,
        }
    }

    fn reply(self, request: &ProbeRequest, started: Instant) -> ProbeReply {
        let Self { sign, answer, at } = self.not_after(started, request.max_latency);
        ProbeReply { id: request.id, sign, answer, latency: at.saturating_duration_since(started) }
    }
}
