//! What the operator declared, what the runtimes and the probes report: the words between `agentd` and `health`.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ringmesh_proto::UnixMillis;

/// A container that this host should run or watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Unique on its host.
    pub name: String,
    /// Name of the runtime driver, "oci" or "declared".
    pub driver: String,
    /// Who rents it; empty for nobody.
    pub tenant: String,
    /// For selectors.
    pub labels: BTreeMap<String, String>,
    /// What to probe in it.
    pub services: Vec<ServiceSpec>,
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
    /// Time between the starts of two probes.
    pub interval: Duration,
    /// A probe without an answer for so long has failed; at most `interval`.
    pub timeout: Duration,
    /// Successes in a row that make it passing.
    pub threshold_up: u32,
    /// Failures in a row that make it critical.
    pub threshold_down: u32,
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
            threshold_up: 1,
            threshold_down: 3,
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

/// One probe: what is asked inside the container's network namespace, and which answer is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// Run in the container's namespaces; exit status 0 passes.
    Exec {
        /// Program and arguments; never empty.
        argv: Vec<String>,
    },
    /// A connection is accepted.
    Tcp {
        /// Where.
        address: SocketAddr,
    },
    /// `GET path` over HTTP/1.1; a status within the range passes.
    Http {
        /// Where.
        address: SocketAddr,
        /// Starts with '/'.
        path: String,
        /// First and last status that passes.
        status: (u16, u16),
    },
    /// grpc.health.v1.Health/Check answers SERVING.
    Grpc {
        /// Where.
        address: SocketAddr,
        /// Empty asks for the server as a whole.
        service: String,
    },
}

impl Check {
    /// "exec", "tcp", "http" or "grpc".
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Tcp { .. } => "tcp",
            Self::Http { .. } => "http",
            Self::Grpc { .. } => "grpc",
        }
    }

    /// What is asked, for people: "http://10.1.3.2:8080/healthz".
    pub fn target(&self) -> String {
        match self {
            Self::Exec { argv } => argv.join(" "),
            Self::Tcp { address } => format!("tcp://{address}"),
            Self::Http { address, path, .. } => format!("http://{address}{path}"),
            Self::Grpc { address, service } => format!("grpc://{address}/{service}"),
        }
    }
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
}

/// Names one check of this host for the life of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckId(pub u64);

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
    /// Give up after this.
    pub timeout: Duration,
}

/// What came of a [`ProbeRequest`]. It states, it does not judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReply {
    /// Of the request.
    pub id: CheckId,
    /// The answer was right.
    pub success: bool,
    /// The container was asked and gave no sign of life: no wrong answer either, and no refusal. What went wrong at this
    /// end is no silence.
    pub silent: bool,
    /// What was answered or what went wrong, in words; at most [`MAX_ANSWER`] bytes.
    pub answer: String,
    /// From the start of the probe to its answer.
    pub latency: Duration,
}

/// The most bytes that are kept of an answer.
pub const MAX_ANSWER: usize = 200;
