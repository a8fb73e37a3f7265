//! The agent's side of exec probes: it keeps the runner process alive, hands it orders and waits for reports.
//!
//! It forks once per runner, not once per probe, and knows nothing of namespaces.

use std::{
    collections::BTreeMap,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{mpsc, oneshot},
    time::{sleep, sleep_until, timeout},
};

use super::{
    Check, Outcome, ProbeReply, ProbeRequest, Shared, answer,
    order::{self, Frame, GRACE, Report},
};

/// The first and the longest pause before a runner that died is started again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// A runner that lived so long is started again without the longer pause.
const STABLE: Duration = Duration::from_secs(60);

/// The most bytes of one read from the runner.
const READ: usize = 16 * 1024;

/// A program to run: a probe by itself, or a step of one.
#[derive(Debug)]
pub(super) struct Order {
    /// Which, where, and for how long at the most.
    pub(super) request: ProbeRequest,
    /// Who waits for the outcome, if it is not for the replies.
    pub(super) answer: Option<oneshot::Sender<Outcome>>,
    /// As in [`order::Order`].
    pub(super) detached: bool,
}

/// Exec probes, from the queue to the replies.
pub(super) struct Exec {
    pub(super) queue: mpsc::Receiver<Order>,
    pub(super) runner_path: PathBuf,
    pub(super) concurrency: usize,
    pub(super) replies: mpsc::Sender<ProbeReply>,
    pub(super) shared: Arc<Shared>,
    /// Taken from the queue before there was a runner.
    pub(super) first: Option<Order>,
}

/// An order that has no report yet.
struct Pending {
    order: Order,
    started: Instant,
}

impl Pending {
    fn timeout(&self) -> Duration {
        self.order.request.timeout
    }

    fn given_up_at(&self) -> Instant {
        // Twice: the runner's own patience ends first.
        self.started + self.timeout() + 2 * GRACE
    }
}

/// Never loses a request: it is either ready at once or waits in the queue alone.
async fn next(first: &mut Option<Order>, queue: &mut mpsc::Receiver<Order>) -> Option<Order> {
    match first.take() {
        Some(order) => Some(order),
        None => queue.recv().await,
    }
}

impl Exec {
    /// Serves the queue until it is closed. Without exec probes there is no runner.
    pub(super) async fn supervise(mut self) {
        self.first = self.queue.recv().await;
        if self.first.is_none() {
            return;
        }
        let mut pause = BACK_OFF.0;
        loop {
            let since = Instant::now();
            let why = match Runner::spawn(&self.runner_path) {
                Ok((runner, stream)) => {
                    self.shared.runner_is_down.store(false, Relaxed);
                    tracing::debug!(pid = runner.0.id(), "exec runner started");
                    match self.session(stream).await {
                        Ok(()) => return,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            self.shared.runner_is_down.store(true, Relaxed);
            if since.elapsed() > STABLE {
                pause = BACK_OFF.0;
            }
            tracing::warn!(error = %why, pause_ms = pause.as_millis() as u64, "no exec runner: exec probes pause");
            sleep(pause).await;
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }

    /// Serves the queue with one runner; ends well when the queue is closed, and with the reason when the runner fails.
    async fn session(&mut self, mut stream: UnixStream) -> io::Result<()> {
        let mut pending = BTreeMap::new();
        let result = self.converse(&mut stream, &mut pending).await;
        for order in pending.into_values() {
            self.reply(order, Outcome::fail("this agent's exec runner ended during the probe")).await;
        }
        result
    }

    async fn converse(&mut self, stream: &mut UnixStream, pending: &mut BTreeMap<u64, Pending>) -> io::Result<()> {
        let mut number = 0;
        let mut bytes = BytesMut::with_capacity(READ);
        loop {
            let given_up_at = pending.values().map(Pending::given_up_at).min();
            tokio::select! {
                read = stream.read_buf(&mut bytes) => {
                    if read? == 0 {
                        return Err(io::Error::other("it closed its socket"));
                    }
                    while let Some(report) = Frame::take(&mut bytes).map_err(io::Error::other)? {
                        // One that is not there was given up before.
                        if let Some(order) = pending.remove(&report.number) {
                            let outcome = read_report(&report, order.timeout());
                            self.reply(order, outcome).await;
                        }
                    }
                    bytes.reserve(READ);
                }
                order = next(&mut self.first, &mut self.queue), if pending.len() < self.concurrency => {
                    let Some(order) = order else { return Ok(()) };
                    number += 1;
                    let frame = frame(number, &order);
                    let order = Pending { order, started: Instant::now() };
                    match frame {
                        Ok(frame) => {
                            pending.insert(number, order);
                            // The runner always reads; if it does not, it is broken.
                            timeout(GRACE, stream.write_all(&frame)).await??;
                        }
                        Err(words) => self.reply(order, Outcome::fail(words)).await,
                    }
                }
                () = sleep_until(given_up_at.unwrap_or_else(Instant::now).into()), if given_up_at.is_some() => {
                    let now = Instant::now();
                    let late: Vec<u64> =
                        pending.iter().filter(|(_, order)| order.given_up_at() <= now).map(|(number, _)| *number).collect();
                    for order in late.into_iter().filter_map(|number| pending.remove(&number)) {
                        let outcome = Outcome::no_answer(order.timeout());
                        self.reply(order, outcome).await;
                    }
                }
            }
        }
    }

    async fn reply(&self, pending: Pending, outcome: Outcome) {
        let Order { request, answer, .. } = pending.order;
        // Both fail only when nobody listens any more.
        match answer {
            Some(step) => drop(step.send(outcome)),
            None => drop(self.replies.send(outcome.reply(&request, pending.started)).await),
        }
    }
}

fn frame(number: u64, order: &Order) -> Result<bytes::Bytes, String> {
    let (request, detached) = (&order.request, order.detached);
    let Check::Exec { argv } = &*request.check else { return Err("not an exec probe".into()) };
    let timeout_ms = u32::try_from(request.timeout.as_millis()).unwrap_or(u32::MAX);
    let order =
        order::Order { pid: request.pid, netns: request.netns.clone(), argv: argv.clone(), timeout_ms, detached };
    let payload = serde_json::to_vec(&order).map_err(|error| error.to_string())?.into();
    let limit_ms = timeout_ms.saturating_add(GRACE.as_millis() as u32);
    Frame { number, limit_ms, payload }.encode().map_err(|_| "the command is too long".into())
}

fn read_report(frame: &Frame, timeout: Duration) -> Outcome {
    if frame.payload.is_empty() {
        return Outcome::no_answer(timeout);
    }
    match serde_json::from_slice::<Report>(&frame.payload) {
        Ok(report) => report.outcome(timeout),
        Err(error) => Outcome::fail(format!("the exec runner answered nonsense: {error}")),
    }
}

/// The runner process; ends and is waited for when dropped.
struct Runner(Child);

impl Runner {
    /// Starts a runner whose standard input is the other end of the returned socket: it ends when the socket closes,
    /// also when the agent was killed.
    fn spawn(path: &Path) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let child = Command::new(path)
            .arg("exec-runner")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // Not in the way of an interrupt from the terminal: the agent decides when it ends.
            .process_group(0)
            .spawn()
            .map_err(|error| io::Error::other(format!("{}: {}", path.display(), answer::io_error(&error))))?;
        Ok((Self(child), UnixStream::from_std(ours)?))
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // Only fail if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
