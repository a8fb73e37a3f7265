//! What the operator declared, what the runtimes and the probes report: the words between `agentd` and `health`.

mod check_id;
mod checks;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
pub use check_id::{CheckId, Purpose};
pub use checks::{Check, Exchange, HttpCheck, InsideCheck, InsideTarget, JsonMatch, Match, Said, Step, Tls, Trust};
use ringmesh_proto::UnixMillis;

/// Whether labels are among those that a selector selects: they have all of its pairs.
pub fn has_labels(labels: &BTreeMap<String, String>, selector: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// A container that this host should run or watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Unique on its host.
    pub name: String,
    /// Name of the runtime driver, "oci", "docker-api" or "declared".
    pub driver: String,
    /// Who rents it; empty for nobody.
    pub tenant: String,
    /// For selectors. Containers of a kind have the same.
    pub labels: Arc<BTreeMap<String, String>>,
    /// What its driver can do with it.
    pub verbs: Verbs,
    /// Its address with prefix length; empty if it has none of its own.
    pub address: String,
    /// What its score means, of its kind of application; `None`: its worst service counts.
    pub score: Option<ScoreLimits>,
    /// It is to have a member of its cell inside.
    pub member: bool,
    /// What to probe in it.
    pub services: Vec<ServiceSpec>,
}

/// What a driver can do with a container beyond watching it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verbs {
    /// Kill it and make it anew.
    pub restart: bool,
    /// Make another one of its template.
    pub clone: bool,
    /// Freeze its processes and let them go on.
    pub pause: bool,
    /// Mount the socket for heartbeats into it.
    pub mount: bool,
}

/// What a container's score, 0 to 100, means for its kind of application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoreLimits {
    /// Below it the container is critical.
    pub critical_below: u32,
    /// Below it there is a warning; at least `critical_below`.
    pub warning_below: u32,
}

/// A service and how it is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Unique in its container.
    pub name: String,
    /// What its verdict is for.
    pub kind: ServiceKind,
    /// Its share in the container's score; at least 1.
    pub weight: u32,
    /// What is asked and which answer is right.
    pub check: Arc<Check>,
    /// Time between the starts of two probes; the longest between two heartbeats.
    pub interval: Duration,
    /// A probe without an answer for so long has failed; at most `interval`.
    pub timeout: Duration,
    /// An answer that took longer is wrong, however right it is.
    pub max_latency: Option<Duration>,
    /// A more detailed look, [`Check::Plan`], for when the service deviates.
    pub plan: Option<Arc<Check>>,
    /// Successes in a row that make it passing.
    pub threshold_up: u32,
    /// Failures in a row that make it critical.
    pub threshold_down: u32,
    /// Program and arguments that start it anew, run in its container; empty if there is no way to.
    pub restart: Vec<String>,
    /// When a failure is told.
    pub alarm: Alarm,
    /// Differs when anything of the service's configuration does: its history is marked then.
    pub definition: u64,
}

/// When a service that fails becomes critical.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alarm {
    /// After as many failures in a row as its threshold says.
    #[default]
    Threshold,
    /// With the first answer that is outright an error, see [`Sign::is_outright`]; others count as above.
    AtOnce,
}

impl ServiceSpec {
    /// A service with the defaults of the configuration.
    pub fn new(name: &str, check: Check) -> Self {
        Self {
            name: name.to_owned(),
            kind: ServiceKind::Liveness,
            weight: 1,
            check: Arc::new(check),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            max_latency: None,
            plan: None,
            threshold_up: 1,
            threshold_down: 3,
            restart: Vec::new(),
            alarm: Alarm::Threshold,
            definition: 0,
        }
    }
}

/// What a service's verdict is for. The words are those of Kubernetes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServiceKind {
    /// A container whose service fails may be repaired.
    #[default]
    Liveness,
    /// Judged and told as the others are, but no reason for a repair: it says whether the service can be used now.
    Readiness,
    /// Probed from the start of its container until it passes. Until then nothing else in the container is.
    Startup,
}

/// What a runtime says of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerState {
    /// The runtime has not been asked yet.
    #[default]
    Unknown,
    /// Made, not started.
    Created,
    /// Its first process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its first process has ended.
    Stopped,
    /// The runtime does not know it.
    Absent,
}

/// One container as its runtime sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerStatus {
    /// As in [`ContainerSpec::name`].
    pub name: String,
    /// What the runtime says.
    pub state: ContainerState,
    /// Its first process, as the host sees it; only while running or paused.
    pub pid: Option<u32>,
    /// Its network namespace, a file that setns(2) accepts; only while running or paused.
    pub netns: Option<PathBuf>,
    /// When its first process started.
    pub started_at: Option<UnixMillis>,
    /// Addresses with prefix length.
    pub addresses: Vec<String>,
    /// Why the driver could not do what was asked.
    pub problem: Option<String>,
    /// Its runtime has a daemon, and that does not answer: the state is as far as it is known without, and nothing can be done to
    /// the container.
    pub unreachable: bool,
}

/// An order to probe, now and once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeRequest {
    /// Comes back in the reply.
    pub id: CheckId,
    /// What to do.
    pub check: Arc<Check>,
    /// The container's first process: its namespaces are where an exec runs.
    pub pid: Option<u32>,
    /// The network namespace to probe in; `None` is the host's own.
    pub netns: Option<PathBuf>,
    /// Give up after this. A plan gives up after its own timeout instead.
    pub timeout: Duration,
    /// As in [`ServiceSpec::max_latency`].
    pub max_latency: Option<Duration>,
}

/// What came of a [`ProbeRequest`]. It states, it does not judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReply {
    /// Of the request.
    pub id: CheckId,
    /// What the answer was worth.
    pub sign: Sign,
    /// What was answered or what went wrong, in words; at most [`MAX_ANSWER`] bytes.
    pub answer: String,
    /// From the start of the probe to its answer.
    pub latency: Duration,
}

/// What an answer, or its absence, says of who was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It was right.
    Right,
    /// It was not the expected one, or late; or something went wrong at this end.
    Wrong,
    /// An error outright, by the word of the service or of its kernel: HTTP 5xx, NOT_SERVING, an exit status, a refused connection.
    Error,
    /// An error outright by the word of this kernel: nothing gets there. No sign of life.
    Unreachable,
    /// Nothing came: no sign of life, and no error outright.
    Silence,
}

impl Sign {
    /// Whether the service is as it should be.
    pub fn is_right(self) -> bool {
        self == Self::Right
    }

    /// Whether it is known that it is not: silence is no such knowledge, nor is an answer that is only not the expected one.
    pub fn is_outright(self) -> bool {
        matches!(self, Self::Error | Self::Unreachable)
    }

    /// Whether the container gave no sign of life: no wrong answer either, and no refusal.
    pub fn is_silent(self) -> bool {
        matches!(self, Self::Unreachable | Self::Silence)
    }
}

impl From<bool> for Sign {
    fn from(right: bool) -> Self {
        if right { Self::Right } else { Self::Wrong }
    }
}

/// What a service says of itself, unasked; see [`Check::Heartbeat`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Where it was heard.
    pub container: String,
    /// Of the service.
    pub service: String,
    /// How it does.
    pub beat: Beat,
    /// More of it, in words; at most [`MAX_ANSWER`] bytes.
    pub text: String,
}

/// How a service does by its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Well.
    Ok,
    /// It works, and somebody should look.
    Warn,
    /// It does not work.
    Fail,
}

/// What becomes of the member inside a container, or what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// Whose.
    pub container: Arc<str>,
    /// What.
    pub news: InsideNews,
}

/// Of a member inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InsideNews {
    /// It is there, and knows nothing yet.
    Came,
    /// It is not, for this reason, and is tried again.
    Lost(String),
    /// It says this to the member in this slot of its cell.
    Letter {
        /// The slot.
        to: u16,
        /// A message of SWIM, or anything else.
        bytes: Bytes,
    },
    /// It said something that is no word of a member.
    Malformed,
}

/// What is to be done for the member inside a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InsideOrder {
    /// Have one there, in the namespaces of this first process, until it is another one or told otherwise.
    Keep {
        /// The container's first process.
        pid: u32,
        /// Its network namespace.
        netns: Option<PathBuf>,
    },
    /// The container is paused: it cannot say anything, and that is no fault.
    Hold,
    /// The container does not run.
    End,
    /// Say this to it, if it is there.
    Say(Bytes),
}

/// The most bytes that are kept of an answer.
pub const MAX_ANSWER: usize = 200;
