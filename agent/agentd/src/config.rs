//! The configuration file: one struct a section, each of which refuses keys that it does not know.
//!
//! Text becomes these structs in [`Config::load`], which also checks ranges across keys; nothing is checked again inside.

mod check;
mod chords;
mod docker;
mod judgement;
mod repair;
mod service;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::fmt::friendly::SpanPrinter;
use ringmesh_node::{
    health::spec::{ContainerSpec, Verbs, has_labels},
    overlay::Timers,
    remedy::Settings,
    zones::Budgets,
};
use ringmesh_proto::{Uplink, peer::Instance};
use serde::{Deserialize, Serialize};

pub use check::{Expect, Grpc, Http, Inside, Json, Plan, Step, Tcp, Tls, Udp};
pub use chords::ChordRule;
pub use docker::{DEFAULT_DOCKER_SOCKET, Docker};
pub use judgement::{Alarm, Application, Judgement};
pub use repair::{Mode as RepairMode, Pool, Repair, RepairLimits, RepairPolicy, RepairStep, RungName};
pub use service::{Heartbeat, Kind, Service};
pub use store::{Store, VoterCount};

use crate::probe::heartbeat;

/// The file that is read when none is named.
pub const DEFAULT_PATH: &str = "/etc/ringmesh/agent.toml";

/// The port of the mesh on both uplinks, unless configured.
pub const DEFAULT_PORT: u16 = 7400;

/// The most containers of one host.
pub const MAX_CONTAINERS: usize = 32_000;

/// The most labels of a container, and the most bytes of a label and of its value: with all of that, a page of an answer holds
/// a container still.
const MAX_LABELS: usize = 256;
const MAX_LABEL: usize = 128;
const MAX_LABEL_VALUE: usize = 1024;

/// The whole file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who this host is.
    pub host: Host,
    /// Its interfaces for the mesh.
    pub uplink: Uplinks,
    /// How the mesh is built.
    #[serde(default)]
    pub mesh: Mesh,
    /// What a delegate may send to other zones.
    #[serde(default)]
    pub trunk: Trunk,
    /// The replicated configuration.
    #[serde(default)]
    pub store: Store,
    /// Where the API is served.
    #[serde(default)]
    pub api: Api,
    /// Certificates that this host signs.
    #[serde(default)]
    pub identity: Identity,
    /// What is logged.
    #[serde(default)]
    pub log: Log,
    /// Bounds of probing.
    #[serde(default)]
    pub probe: Probe,
    /// How containers are repaired.
    #[serde(default)]
    pub repair: Repair,
    /// Addresses for clones.
    #[serde(default, rename = "pool", skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<Pool>,
    /// What outcomes of probes mean.
    #[serde(default)]
    pub judgement: Judgement,
    /// What scores of containers mean, by the kind of application.
    #[serde(default, rename = "application", skip_serializing_if = "Vec::is_empty")]
    pub applications: Vec<Application>,
    /// Containers to run or to watch.
    #[serde(default, rename = "container", skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<Container>,
}

/// `[host]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Unique in the cluster: 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit.
    pub name: String,
    /// Keys, certificates and what must survive a restart. Default /var/lib/ringmesh.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// The pool of gossip, at most 512 hosts: 1 to 63 of a-z, 0-9 and '-'. All hosts of one should be close to each other.
    /// Default "default".
    #[serde(default = "default_zone")]
    pub zone: String,
    /// The rack, for chords of kind "rack-aware"; as a host's name. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
}

/// `[uplink.a]` and `[uplink.b]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uplinks {
    /// Carries ring A.
    pub a: UplinkAddress,
    /// Carries ring B. A host without it works, with a warning: one cable less to lose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b: Option<UplinkAddress>,
}

/// One interface for the mesh.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkAddress {
    /// An address of this host on that interface. The mesh's sockets are bound to it.
    pub address: IpAddr,
    /// UDP port, 1 to 65535. Default 7400.
    #[serde(default = "default_port")]
    pub port: u16,
}

impl UplinkAddress {
    /// Address and port.
    pub fn socket_addr(&self) -> SocketAddr {
        (self.address, self.port).into()
    }
}

/// `[mesh]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mesh {
    /// "switched": each uplink is a segment that reaches every host. "cabled": each uplink is a cable to a neighbour.
    pub mode: Mode,
    /// Place in the physical cycle, 1 to 65535; only in cabled mode, and required there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u16>,
    /// Connections to hosts that are no ring neighbours, kept for reuse; two a host, so 256 are enough for 128 hosts. 8 to 4096, default 256.
    pub connection_cache: usize,
    /// A host that has been down or gone for so long is shown no more. 1 h to 10,000 h, default 72 h.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub forget_after: Duration,
    /// The rule of chords with which `ringmesh init` makes a cluster: "auto", "none" or { kind = "random", "sqrt", "fingers" or "rack-aware", count = 1 to 8 }. At the other hosts the cluster's, or absent. Default "auto".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chords: Option<ChordRule>,
    /// A fault of an uplink that lasts for less is none. 0 to 10 s, default 0. Delays the news of every fault.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub hold_off: Duration,
    /// After an uplink changed, what was measured or said before it is ignored for so long. 0 to 10 s, default 500 ms.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub guard: Duration,
    /// An uplink that is well again is used for probes and second copies only, and not called up, for so long. 0 to 12 min,
    /// default 30 s.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub wait_to_restore: Duration,
}

impl Mesh {
    /// As the node takes them.
    pub fn protection(&self) -> Timers {
        Timers { guard: self.guard, hold_off: self.hold_off, wait_to_restore: self.wait_to_restore }
    }
}

/// How the hosts are wired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Each uplink is a segment.
    #[default]
    Switched,
    /// Each uplink is a cable.
    Cabled,
}

impl Default for Mesh {
    fn default() -> Self {
        let Timers { guard, hold_off, wait_to_restore } = Timers::default();
        Self {
            mode: Mode::Switched,
            position: None,
            connection_cache: 256,
            hold_off,
            guard,
            wait_to_restore,
            forget_after: Duration::from_secs(72 * 3600),
            chords: None,
        }
    }
}

/// `[trunk]`: what this host may send over all its trunks when it is a delegate of its zone, by class of traffic. What
/// exceeds it waits, 10 s at the most, and is then dropped and counted. 1024 to 1000000000 each.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trunk {
    /// Events. Default 65536.
    pub events_bytes_per_second: u32,
    /// Records of zones. Default 32768.
    pub digests_bytes_per_second: u32,
    /// Comparisons, and what was missed. Default 32768.
    pub syncs_bytes_per_second: u32,
}

impl Default for Trunk {
    fn default() -> Self {
        let Budgets { events, digests, syncs } = Budgets::default();
        Self { events_bytes_per_second: events, digests_bytes_per_second: digests, syncs_bytes_per_second: syncs }
    }
}

impl Trunk {
    /// For the node.
    pub fn budgets(&self) -> Budgets {
        Budgets {
            events: self.events_bytes_per_second,
            digests: self.digests_bytes_per_second,
            syncs: self.syncs_bytes_per_second,
        }
    }
}

/// `[api]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// The unix socket of the local API, mode 0600. Default /run/ringmesh/agent.sock.
    pub socket: PathBuf,
    /// TCP addresses of the API; clients need a certificate of the cluster. Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listen: Vec<SocketAddr>,
}

impl Default for Api {
    fn default() -> Self {
        Self { socket: "/run/ringmesh/agent.sock".into(), listen: Vec::new() }
    }
}

/// `[identity]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Identity {
    /// How long certificates hold that this host signs for others and itself; they are renewed at two thirds of it.
    /// 10 min to 365 d, default 8760h (365 d).
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub certificate_lifetime: Duration,
    /// How long an old CA is trusted beside a new one that is made here, unless the command says. 1 min to 90 d, default
    /// 168h (7 d).
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub ca_overlap: Duration,
}

impl Default for Identity {
    fn default() -> Self {
        Self { certificate_lifetime: Duration::from_secs(365 * DAY), ca_overlap: Duration::from_secs(7 * DAY) }
    }
}

/// Seconds.
const DAY: u64 = 86_400;

/// `[log]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// "error", "warn", "info", "debug", "trace", or per module as "info,ringmesh_node=debug". Default "info".
    pub level: String,
    /// "text" or "json". Default "text".
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// `[probe]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Probe {
    /// Probes by socket under way at once. 1 to 65536, default 1024.
    pub concurrency: usize,
    /// Exec probes under way at once. 1 to 256, default 8.
    pub exec_concurrency: usize,
    /// The program of members inside containers. Default ringmesh-member beside this program, or /usr/lib/ringmesh/ringmesh-member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member_program: Option<PathBuf>,
}

impl Probe {
    /// Where the program of members inside containers is, if that of the agent is `own`.
    pub fn member_program(&self, own: &Path) -> PathBuf {
        let beside = own.with_file_name("ringmesh-member");
        match &self.member_program {
            Some(path) => path.clone(),
            None if beside.exists() => beside,
            None => "/usr/lib/ringmesh/ringmesh-member".into(),
        }
    }
}

impl Default for Probe {
    fn default() -> Self {
        Self { concurrency: 1024, exec_concurrency: 8, member_program: None }
    }
}

/// `[[container]]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// Unique on this host; as a host's name.
    pub name: String,
    /// Who rents it. Default nobody.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// For selectors. At most 256, of 1 to 128 bytes with values of at most 1,024.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The agent runs it. Exactly one of `oci`, `docker` and `declared` is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<Oci>,
    /// A daemon runs it for the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker: Option<Docker>,
    /// Something else runs it, the agent watches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<Declared>,
    /// Its interface; only with `oci` and `docker.image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// It has a member of its own inside, a small process that answers for it in its cell and asks what services with `inside`
    /// want to know. Only with `oci`. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub member: bool,
    /// What to probe in it.
    #[serde(default, rename = "service", skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
}

/// `[container.oci]`: a container that the agent starts and that survives the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oci {
    /// "libcontainer" (built in), "crun" or "runc" (programs on the path). Default "libcontainer".
    #[serde(default)]
    pub runtime: OciRuntime,
    /// The root file system, shared read-only by all containers that name it.
    pub rootfs: PathBuf,
    /// First process and its arguments.
    pub args: Vec<String>,
    /// "NAME=VALUE".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Bytes of memory that it may use; default no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<u64>,
}

/// Who starts OCI containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OciRuntime {
    /// The crate libcontainer, in a short-lived single-threaded process.
    #[default]
    Libcontainer,
    /// The program crun.
    Crun,
    /// The program runc.
    Runc,
}

/// `[container.declared]`: exactly one of the keys is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    /// Its first process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// A file that holds the pid of its first process, read again when that process ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid_file: Option<PathBuf>,
    /// A network namespace, such as /run/netns/NAME: it runs as long as the file is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
}

/// `[container.network]`: a veth pair from a bridge into the container, there named eth0.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// A bridge in the host's network namespace; made if it is not there.
    pub bridge: String,
    /// The container's address and prefix length, such as "10.1.3.2/24".
    pub address: String,
    /// The address that the bridge carries and the container's default route points to, with the same prefix length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// Why a configuration was refused: a fault of the operator.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration {path}; name another with --config, or make one with `ringmesh init`")]
    Read {
        /// Of the file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of a wrong type.
    #[error("{path}:{line}: {message}")]
    Syntax {
        /// Of the file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong and what would be right.
        message: String,
    },
    /// A value that is out of its range or contradicts another.
    #[error("{path}: {key}: {message}")]
    Value {
        /// Of the file.
        path: PathBuf,
        /// Such as "container.web.service.http.timeout".
        key: String,
        /// What is wrong and what would be right.
        message: String,
    },
}

/// A configuration as it was read: of 32,000 containers a tenth of what it is when it is parsed.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    text: String,
}

impl ConfigFile {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let path = path.to_owned();
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Self { path, text }),
            Err(source) => Err(ConfigError::Read { path, source }),
        }
    }

    /// Checks it.
    pub fn parse(&self) -> Result<Config, ConfigError> {
        Config::parse(&self.path, &self.text)
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        ConfigFile::read(path)?.parse()
    }

    /// Checks `text`; `path` is for messages only.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let line = text[..at.min(text.len())].bytes().filter(|b| *b == b'\n').count() + 1;
            ConfigError::Syntax { path: path.to_owned(), line, message: error.message().replace('\n', " ") }
        })?;
        config.check().map_err(|(key, message)| ConfigError::Value { path: path.to_owned(), key, message })?;
        Ok(config)
    }

    /// The same configuration as text, every default spelled out.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every field is a TOML value")
    }

    /// The same without the values of containers' environment variables and of what probes send by HTTP, which often are
    /// passwords.
    pub fn without_secrets(&self) -> Self {
        let mut config = self.clone();
        config.containers.iter_mut().flat_map(|container| &mut container.services).for_each(Service::hide_secrets);
        for variable in config.containers.iter_mut().flat_map(Container::env) {
            if let Some((name, _)) = variable.split_once('=') {
                *variable = format!("{name}=(hidden)");
            }
        }
        config
    }

    /// The addresses of uplink A and B.
    pub fn addresses(&self) -> [Option<SocketAddr>; 2] {
        [Some(self.uplink.a.socket_addr()), self.uplink.b.as_ref().map(UplinkAddress::socket_addr)]
    }

    /// What `health` needs to know of the containers.
    pub fn container_specs(&self) -> Vec<ContainerSpec> {
        let score = |container: &Container| {
            let kind = self.applications.iter().find(|kind| has_labels(&container.labels, &kind.labels));
            kind.map(Application::limits)
        };
        // Thousands have the same ones.
        let mut known = BTreeSet::new();
        let mut labels = |container: &Container| {
            let shared = known.get(&container.labels).cloned();
            shared.unwrap_or_else(|| {
                let new = Arc::new(container.labels.clone());
                known.insert(Arc::clone(&new));
                new
            })
        };
        let spec = |container: &Container| {
            let spec = container.spec(&self.host.state_dir, labels(container));
            ContainerSpec { score: score(container), ..spec }
        };
        self.containers.iter().map(spec).collect()
    }

    /// How the node repairs containers.
    pub fn repair_settings(&self) -> Settings {
        self.repair.settings(&self.pools)
    }

    /// What is no mistake and probably not meant: tables for containers with labels that none has.
    pub fn oddities(&self) -> Vec<String> {
        let applications = self.applications.iter().map(|application| ("application", &application.labels));
        let policies = self.repair.policies.iter().map(|policy| ("repair.policy", &policy.labels));
        let selects = |selector| self.containers.iter().any(|container| has_labels(&container.labels, selector));
        let idle =
            applications.chain(policies).filter(|(_, selector)| !self.containers.is_empty() && !selects(selector));
        let pairs = |selector: &BTreeMap<String, String>| {
            let pairs = selector.iter().map(|(key, value)| format!("{key}={value}").escape_debug().to_string());
            pairs.collect::<Vec<_>>().join(",")
        };
        idle.map(|(table, selector)| format!("[[{table}]]: no container has the labels {}", pairs(selector))).collect()
    }

    /// The same configuration with clones in the places of what they replaced: their names, and their addresses.
    pub fn use_instances(&mut self, instances: &BTreeMap<String, Instance>) {
        for container in &mut self.containers {
            let Some(instance) = instances.get(&container.name) else { continue };
            container.name.clone_from(&instance.name);
            if let Some(network) = container.network.as_mut().filter(|_| !instance.address.is_empty()) {
                network.address.clone_from(&instance.address);
            }
        }
    }

    fn check(&self) -> Result<(), (String, String)> {
        name("host.name", &self.host.name)?;
        name("host.zone", &self.host.zone)?;
        self.host.rack.iter().try_for_each(|rack| name("host.rack", rack))?;
        for (uplink, address) in Uplink::BOTH.iter().zip(self.addresses()) {
            let Some(address) = address else { continue };
            let key = format!("uplink.{uplink}.address");
            if address.ip().is_unspecified() || address.ip().is_multicast() {
                return Err((key, format!("{} is no address of one interface", address.ip())));
            }
            if address.port() == 0 {
                return Err((format!("uplink.{uplink}.port"), "0 is no port, 1 to 65535 are".into()));
            }
        }
        if self.uplink.b.is_some_and(|b| b.socket_addr() == self.uplink.a.socket_addr()) {
            return Err(("uplink.b".into(), "is the same address and port as uplink.a; give each its own".into()));
        }
        match (self.mesh.mode, self.mesh.position) {
            (Mode::Cabled, None) => {
                return Err(("mesh.position".into(), "is required when mesh.mode is \"cabled\"".into()));
            }
            (Mode::Switched, Some(_)) => {
                return Err(("mesh.position".into(), "has a meaning only when mesh.mode is \"cabled\"".into()));
            }
            (Mode::Cabled, Some(0)) => return Err(("mesh.position".into(), "counts from 1".into())),
            (Mode::Cabled, Some(_)) | (Mode::Switched, None) => {}
        }
        log_level("log.level", &self.log.level)?;
        range("mesh.connection_cache", self.mesh.connection_cache, 8, 4096)?;
        let hour = Duration::from_secs(3600);
        if !(hour..=hour * 10_000).contains(&self.mesh.forget_after) {
            return Err(("mesh.forget_after".into(), "is not within 1h to 10000h".into()));
        }
        if !(hour / 6..=hour * 8760).contains(&self.identity.certificate_lifetime) {
            return Err(("identity.certificate_lifetime".into(), "is not within 10m to 8760h".into()));
        }
        if !(hour / 60..=hour * 2160).contains(&self.identity.ca_overlap) {
            return Err(("identity.ca_overlap".into(), "is not within 1m to 2160h".into()));
        }
        for (key, rate) in [
            ("trunk.events_bytes_per_second", self.trunk.events_bytes_per_second),
            ("trunk.digests_bytes_per_second", self.trunk.digests_bytes_per_second),
            ("trunk.syncs_bytes_per_second", self.trunk.syncs_bytes_per_second),
        ] {
            range(key, rate as usize, 1024, 1_000_000_000)?;
        }
        for (key, value, most) in [
            ("mesh.hold_off", self.mesh.hold_off, 10),
            ("mesh.guard", self.mesh.guard, 10),
            ("mesh.wait_to_restore", self.mesh.wait_to_restore, 12 * 60),
        ] {
            if value > Duration::from_secs(most) {
                return Err((key.into(), format!("is out of range, 0 s to {most} s")));
            }
        }
        range("probe.concurrency", self.probe.concurrency, 1, 65_536)?;
        range("probe.exec_concurrency", self.probe.exec_concurrency, 1, 256)?;
        self.repair.check()?;
        Pool::check(&self.pools)?;
        self.judgement.check()?;
        self.store.check()?;
        range("application", self.applications.len(), 0, judgement::MAX_APPLICATIONS)?;
        self.applications.iter().zip(1..).try_for_each(|(application, number)| application.check(number))?;
        range("container", self.containers.len(), 0, MAX_CONTAINERS)?;
        let mut names = BTreeSet::new();
        for container in &self.containers {
            container.check()?;
            if !names.insert(&container.name) {
                return Err((format!("container.{}", container.name), "is there twice".into()));
            }
        }
        Ok(())
    }
}

impl Container {
    fn spec(&self, state_dir: &Path, labels: Arc<BTreeMap<String, String>>) -> ContainerSpec {
        let verbs = self.verbs();
        let sockets = if verbs.mount { heartbeat::INSIDE.into() } else { heartbeat::directory(state_dir, &self.name) };
        let socket = sockets.join(heartbeat::SOCKET);
        ContainerSpec {
            name: self.name.clone(),
            driver: self.driver().into(),
            tenant: self.tenant.clone(),
            labels,
            verbs,
            address: self.network.as_ref().map(|network| network.address.clone()).unwrap_or_default(),
            score: None,
            member: self.member,
            services: self.services.iter().map(|service| service.spec(&socket)).collect(),
        }
    }

    /// Of it, what a driver needs to run it: what is asked of it, and by which labels it is found, others keep.
    pub fn to_run(self) -> Self {
        Self { labels: BTreeMap::new(), services: Vec::new(), ..self }
    }

    fn env(&mut self) -> impl Iterator<Item = &mut String> {
        let docker = self.docker.iter_mut().flat_map(|docker| &mut docker.env);
        self.oci.iter_mut().flat_map(|oci| &mut oci.env).chain(docker)
    }

    /// Name of the runtime driver.
    pub fn driver(&self) -> &'static str {
        match (&self.oci, &self.docker) {
            (Some(_), _) => "oci",
            (None, Some(_)) => "docker-api",
            (None, None) => "declared",
        }
    }

    /// What its driver can do with it. What somebody else made has no template here, and is never removed.
    fn verbs(&self) -> Verbs {
        let runs_it = self.oci.is_some() || self.docker.is_some();
        let makes_it = self.oci.is_some() || self.docker.as_ref().is_some_and(|docker| docker.image.is_some());
        Verbs { restart: runs_it, clone: makes_it, pause: runs_it, mount: makes_it }
    }

    fn check(&self) -> Result<(), (String, String)> {
        let key = format!("container.{}", self.name);
        name("container.name", &self.name)?;
        labels(&format!("{key}.labels"), &self.labels)?;
        match (&self.oci, &self.docker, &self.declared) {
            (Some(oci), None, None) => {
                if oci.args.is_empty() {
                    return Err((format!("{key}.oci.args"), "is empty; name the first process".into()));
                }
                if !oci.rootfs.is_absolute() {
                    return Err((format!("{key}.oci.rootfs"), "must be an absolute path".into()));
                }
            }
            (None, Some(docker), None) => {
                docker
                    .check(self.network.is_some())
                    .map_err(|(field, message)| (format!("{key}.docker.{field}"), message))?;
            }
            (None, None, Some(declared)) => {
                let given = [declared.pid.is_some(), declared.pid_file.is_some(), declared.netns.is_some()];
                if given.into_iter().filter(|given| *given).count() != 1 {
                    return Err((format!("{key}.declared"), "needs exactly one of pid, pid_file and netns".into()));
                }
                if self.network.is_some() {
                    return Err((format!("{key}.network"), "is only for containers that the agent starts".into()));
                }
            }
            _ => return Err((key, "needs exactly one of oci, docker and declared".into())),
        }
        if let Some(network) = &self.network {
            network.check().map_err(|(field, message)| (format!("{key}.network.{field}"), message))?;
        }
        if self.member && self.oci.is_none() {
            return Err((
                format!("{key}.member"),
                "is only for containers that the agent starts itself, by oci".into(),
            ));
        }
        let mut names = BTreeSet::new();
        for service in &self.services {
            if service.asks_inside() && !self.member {
                let key = format!("{key}.service.{}.inside", service.name);
                return Err((key, "needs member = true in its container".into()));
            }
            service.check(&format!("{key}.service.{}", service.name))?;
            if !names.insert(&service.name) {
                return Err((format!("{key}.service.{}", service.name), "is there twice".into()));
            }
        }
        Ok(())
    }
}

impl Network {
    /// The container's address and prefix length.
    pub fn prefix(&self) -> Option<(IpAddr, u8)> {
        let (address, length) = self.address.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let length: u8 = length.parse().ok()?;
        (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        // IFNAMSIZ, with its closing zero, is 16.
        if self.bridge.is_empty() || self.bridge.len() > 15 || self.bridge.contains(['/', ' ']) {
            return Err(("bridge", "must be 1 to 15 bytes without '/' and spaces".into()));
        }
        let Some((address, _)) = self.prefix() else {
            return Err(("address", format!("\"{}\" is not ADDRESS/LENGTH, such as 10.1.3.2/24", self.address)));
        };
        match self.gateway {
            Some(gateway) if gateway.is_ipv4() != address.is_ipv4() => {
                Err(("gateway", "is of another address family than address".into()))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether there are not too many of them, nor too long ones: they are in every answer that has the container.
fn labels(key: &str, labels: &BTreeMap<String, String>) -> Result<(), (String, String)> {
    range(&format!("{key}, their number"), labels.len(), 0, MAX_LABELS)?;
    for (label, value) in labels {
        let shown: String = label.escape_debug().take(MAX_LABEL).collect();
        range(&format!("{key}, length of \"{shown}\""), label.len(), 1, MAX_LABEL)?;
        range(&format!("{key}.{shown}, its length"), value.len(), 0, MAX_LABEL_VALUE)?;
    }
    Ok(())
}

/// Whether `name` can be a host, container or service: a label as in RFC 1123 §2.1, in lower case.
pub fn is_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| inner(b) || b == b'-')
        && name.bytes().next().is_some_and(inner)
        && name.bytes().last().is_some_and(inner)
}

fn name(key: &str, value: &str) -> Result<(), (String, String)> {
    if is_name(value) {
        return Ok(());
    }
    let rule = "use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit";
    Err((key.into(), format!("\"{}\" is no name; {rule}", value.escape_debug())))
}

/// Anything else would be taken for the name of a module, and nothing would be logged.
fn log_level(key: &str, value: &str) -> Result<(), (String, String)> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    let good = value.split(',').map(str::trim).all(|part| match part.rsplit_once('=') {
        Some((module, level)) => !module.is_empty() && is_level(level),
        None => is_level(part),
    });
    if good {
        return Ok(());
    }
    let levels = "use error, warn, info, debug or trace, or per module as \"info,ringmesh_node=debug\"";
    Err((key.into(), format!("\"{}\" is no level; {levels}", value.escape_debug())))
}

/// A time, as the configuration writes it.
fn time(key: &str, value: Duration, min: Duration, max: Duration) -> Result<(), (String, String)> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err((key.into(), format!("{} is not within {} to {}", words(value), words(min), words(max))))
}

/// "1m 30s".
fn words(time: Duration) -> String {
    SpanPrinter::new().unsigned_duration_to_string(&time)
}

fn range<T: PartialOrd + std::fmt::Display>(key: &str, value: T, min: T, max: T) -> Result<(), (String, String)> {
    if value < min || value > max {
        return Err((key.into(), format!("{value} is not within {min} to {max}")));
    }
    Ok(())
}

fn default_state_dir() -> PathBuf {
    "/var/lib/ringmesh".into()
}

fn default_zone() -> String {
    "default".into()
}

fn default_port() -> u16 {
    DEFAULT_PORT
}
