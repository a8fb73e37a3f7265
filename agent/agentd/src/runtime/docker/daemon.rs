//! One daemon: what it is asked and ordered, when it is left alone, and that it is heard of when it comes back.
//!
//! It knows containers by the names that they have at the daemon, and nothing of who owns them.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::{Either, select};
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    client::{Client, ClientError, Lines, Reply},
    message::{self, Event, INSTANCE_LABEL, Inspect, Listed},
};
use crate::runtime::driver::{DriverError, one_line};

/// For an answer that changes nothing.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// For an order: a daemon copies an image, or waits for the end of processes.
const ORDER_TIMEOUT: Duration = Duration::from_secs(30);

/// A daemon that does not answer is left alone for the first of these, then twice as long, up to the second.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// A daemon that has no events to tell is asked so often whether it still runs.
const PING: Duration = Duration::from_secs(10);

/// What all daemons say of themselves in their answers' refusals.
const DRIVER: &str = "docker-api";

/// A daemon that speaks Docker's API. The paths bear no version: of the few fields that are read all versions have all,
/// and old versions are refused by new daemons.
pub(super) struct Daemon {
    client: Client,
    rest: Mutex<Rest>,
}

/// How long it is not asked any more.
#[derive(Default)]
struct Rest {
    failures: u32,
    until: Option<Instant>,
    problem: String,
}

impl Daemon {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { client: Client { socket }, rest: Mutex::default() }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.client.socket
    }

    /// As [`Self::inspect`]; but while the daemon is left alone, the answer is why.
    pub(super) async fn look(&self, name: &str) -> Result<Option<Inspect>, DriverError> {
        match self.resting() {
            Some(problem) => Err(self.silent(problem)),
            None => self.inspect(name).await,
        }
    }

    /// A container, unless there is none of this name or id.
    pub(super) async fn inspect(&self, name: &str) -> Result<Option<Inspect>, DriverError> {
        let reply = self.ask(&format!("/containers/{name}/json")).await?;
        match reply.status {
            StatusCode::NOT_FOUND => Ok(None),
            _ => self.read(&reply).map(Some),
        }
    }

    /// The names by which the agent of this instance knows the containers that it made here.
    pub(super) async fn list(&self, instance: &str) -> Result<Vec<String>, DriverError> {
        // {"label":["ringmesh.instance=INSTANCE"]}; an instance is of letters, digits and '-'.
        let filters = format!("%7B%22label%22%3A%5B%22{INSTANCE_LABEL}%3D{instance}%22%5D%7D");
        let reply = self.ask(&format!("/containers/json?all=1&filters={filters}")).await?;
        let listed: Vec<Listed> = self.read(&reply)?;
        Ok(listed.into_iter().filter_map(|mut listed| listed.labels.remove(message::NAME_LABEL)).collect())
    }

    /// `POST`s and reads what comes back.
    pub(super) async fn create(&self, name: &str, body: &Value) -> Result<Reply, DriverError> {
        self.order(Method::POST, &format!("/containers/create?name={name}"), Some(body)).await
    }

    /// Does `verb` to a container: "start", "kill", "wait", "pause" or "unpause". Done already is well done.
    pub(super) async fn post(&self, name: &str, verb: &str) -> Result<(), DriverError> {
        let reply = self.order(Method::POST, &format!("/containers/{name}/{verb}"), None).await?;
        if reply.status == StatusCode::NOT_MODIFIED { Ok(()) } else { self.check(&reply) }
    }

    /// Kills and removes a container, and the volumes that nothing else knows. None there is well done, too.
    pub(super) async fn remove(&self, name: &str) -> Result<(), DriverError> {
        let reply = self.order(Method::DELETE, &format!("/containers/{name}?force=1&v=1"), None).await?;
        if reply.status == StatusCode::NOT_FOUND { Ok(()) } else { self.check(&reply) }
    }

    async fn ask(&self, path: &str) -> Result<Reply, DriverError> {
        self.heard(self.client.call(Method::GET, path, None, LOOK_TIMEOUT).await)
    }

    async fn order(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Reply, DriverError> {
        self.heard(self.client.call(method, path, body, ORDER_TIMEOUT).await)
    }

    fn heard<T>(&self, answer: Result<T, ClientError>) -> Result<T, DriverError> {
        match answer {
            Ok(answer) => {
                *self.rest() = Rest::default();
                Ok(answer)
            }
            Err(error) => {
                let problem = problem(&error);
                let mut rest = self.rest();
                // Of several that fail at once, one counts.
                if rest.until.is_none_or(|until| until <= Instant::now()) {
                    rest.until = Some(Instant::now() + pause(rest.failures));
                    rest.failures = rest.failures.saturating_add(1);
                }
                rest.problem.clone_from(&problem);
                Err(self.silent(problem))
            }
        }
    }

    fn resting(&self) -> Option<String> {
        let rest = self.rest();
        rest.until.is_some_and(|until| until > Instant::now()).then(|| rest.problem.clone())
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn silent(&self, message: String) -> DriverError {
        DriverError::Daemon { socket: self.client.socket.clone(), message }
    }

    /// The body of a good answer.
    pub(super) fn read<T: DeserializeOwned>(&self, reply: &Reply) -> Result<T, DriverError> {
        self.check(reply)?;
        message::parse(&reply.body)
            .map_err(|error| self.silent(format!("it answers what is none of Docker's: {error}")))
    }

    fn check(&self, Reply { status, body }: &Reply) -> Result<(), DriverError> {
        if status.is_success() {
            return Ok(());
        }
        let message = message::refusal(body).unwrap_or_else(|| format!("the answer {status}"));
        Err(DriverError::Runtime { runtime: DRIVER, message: one_line(&message) })
    }

    /// Calls `tell` with the names of containers that have changed, and with `None` when all may have: the daemon is
    /// heard of, or not any more. Never ends.
    pub(super) async fn follow<F: Future<Output = ()>>(&self, tell: impl Fn(Option<String>) -> F) {
        let mut failures = 0;
        loop {
            let opened =
                self.client.lines("/events?filters=%7B%22type%22%3A%5B%22container%22%5D%7D", LOOK_TIMEOUT).await;
            let was_lost = failures > 0;
            if let Ok(lines) = self.heard(opened) {
                failures = 0;
                tell(None).await;
                let error = self.read_events(lines, &tell).await;
                let _: Result<(), DriverError> = self.heard(Err(error));
            }
            if !was_lost || failures == 0 {
                tell(None).await;
            }
            sleep(pause(failures)).await;
            failures = failures.saturating_add(1);
        }
    }

    async fn read_events<F: Future<Output = ()>>(
        &self,
        mut lines: Lines,
        tell: &impl Fn(Option<String>) -> F,
    ) -> ClientError {
        loop {
            let line = {
                let (line, ping) = (std::pin::pin!(lines.next()), std::pin::pin!(self.ping_in_vain()));
                match select(line, ping).await {
                    Either::Left((line, _)) => line,
                    Either::Right((error, _)) => return error,
                }
            };
            match line.map(|line| message::parse::<Event>(&line)) {
                Ok(Ok(event)) => {
                    if let Some(name) = event.changed() {
                        tell(Some(name)).await;
                    }
                }
                Ok(Err(error)) => tracing::debug!(%error, "an event that cannot be read"),
                Err(error) => return error,
            }
        }
    }

    /// Asks from time to time whether the daemon runs, until it does not answer: a stopped one closes no stream.
    async fn ping_in_vain(&self) -> ClientError {
        loop {
            sleep(PING).await;
            if let Err(error) = self.client.call(Method::GET, "/_ping", None, LOOK_TIMEOUT).await {
                return error;
            }
        }
    }
}

fn pause(failures: u32) -> Duration {
    let (first, longest) = REST;
    first.saturating_mul(2_u32.saturating_pow(failures)).min(longest)
}

/// The error and its causes in one line.
fn problem(error: &ClientError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    one_line(&text)
}
