//! What can go wrong in a lab, by whose fault it is.

use std::{io, path::PathBuf};

use super::plan::{MAX_CONTAINERS, MAX_HOSTS};

/// Why a lab command failed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    // The user's.
    /// Namespaces need privilege.
    #[error("a lab makes network namespaces, which needs root; run it with sudo")]
    NotRoot,
    /// Too few or too many hosts.
    #[error("{0} hosts are not within 2 to {MAX_HOSTS}; choose with --hosts")]
    HostCount(u16),
    /// Too few or too many zones.
    #[error("{0} zones are not within 1 to the number of hosts; choose with --zones")]
    ZoneCount(u16),
    /// Too many containers.
    #[error("{0} containers a host are not within 0 to {MAX_CONTAINERS}; choose with --containers")]
    ContainerCount(u16),
    /// A mode that this version has not.
    #[error("cabled mode needs hosts that forward for each other, which this version does not do yet; use switched")]
    Cabled,
    /// A name that could not stand in the names of namespaces.
    #[error(
        "\"{0}\" is no name for a lab; use 1 to 32 of a-z, 0-9 and '-', beginning and ending with a letter or digit"
    )]
    BadName(String),
    /// The lab is there already.
    #[error("lab {name} is there already; see `ringmesh lab status`, or end it with `ringmesh lab down`")]
    Exists {
        /// Of the lab.
        name: String,
    },
    /// There is no lab of this name.
    #[error("there is no lab {name}; `ringmesh lab up` makes one")]
    NoSuchLab {
        /// Of the lab.
        name: String,
    },
    /// There is no lab at all.
    #[error("there is no lab; `ringmesh lab up` makes one")]
    NoLab,
    /// The lab has no such host.
    #[error("lab {lab} has no host {host}; it has {hosts}")]
    NoSuchHost {
        /// The lab.
        lab: String,
        /// As asked for.
        host: String,
        /// Those that it has.
        hosts: String,
    },
    /// The lab has no room for another host.
    #[error("lab {lab} has {MAX_HOSTS} hosts, which is the most")]
    Full {
        /// The lab.
        lab: String,
    },
    /// The agent that should be signalled does not run.
    #[error("the agent of {host} does not run; `ringmesh lab fault start {host}` starts it")]
    NotRunning {
        /// Of the agent.
        host: String,
    },
    /// The agent that should be started runs.
    #[error("the agent of {host} runs already, as pid {pid}")]
    Running {
        /// Of the agent.
        host: String,
        /// Of the agent.
        pid: u32,
    },
    /// No such container runs on the host.
    #[error("no container {container} runs on {host}; see `ringmesh container list`")]
    NoSuchContainer {
        /// Where it should be.
        host: String,
        /// As asked for.
        container: String,
    },
    /// The container's service does not run, or runs already.
    #[error("the service of {container} {state}")]
    Service {
        /// Where it runs.
        container: String,
        /// "runs already" or "does not run".
        state: &'static str,
    },
    /// No command was given.
    #[error("no command was given; write it after --, as in `ringmesh lab exec h1 -- ip addr`")]
    NoCommand,
    /// The directory for the lab's files is in use.
    #[error("directory {path} is not empty; name an empty or a new one with --dir")]
    DirInUse {
        /// As asked for.
        path: PathBuf,
    },
    /// A unix socket's path would not fit.
    #[error("directory {path} is too long for the path of a unix socket; name a shorter one with --dir")]
    DirTooLong {
        /// As asked for.
        path: PathBuf,
    },

    // The machine's.
    /// A program is missing or unfit.
    #[error("{program} {problem}; install the package busybox-static")]
    Busybox {
        /// Where it was looked for.
        program: PathBuf,
        /// "is missing" and the like.
        problem: &'static str,
    },
    /// A file or a directory.
    #[error("cannot {action} {path}")]
    File {
        /// Such as "write".
        action: &'static str,
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A namespace, an interface or a process.
    #[error("cannot {action}")]
    System {
        /// Such as "make namespace rm-lab-h1".
        action: String,
        /// Why.
        source: io::Error,
    },
    /// The record cannot be understood.
    #[error("{path} is damaged or of another version: {problem}; clear up with `ringmesh lab down`")]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    // Ours.
    /// A command of ours failed.
    #[error("`{command}` failed: {stderr}")]
    Command {
        /// The command without its secrets.
        command: String,
        /// What it printed last, on one line.
        stderr: String,
    },
    /// An agent ended.
    #[error("the agent of {host} ended: {last_line}; its log is {log}")]
    AgentEnded {
        /// Of the agent.
        host: String,
        /// What it logged last.
        last_line: String,
        /// All that it logged.
        log: PathBuf,
    },
    /// An agent answers, but not as it should.
    #[error("{host} does not answer as it should: {problem}")]
    Api {
        /// Of the agent.
        host: String,
        /// What it answered.
        problem: String,
    },
    /// What was awaited did not come.
    #[error("after {seconds} s {reason}")]
    TimedOut {
        /// How long it was awaited.
        seconds: u64,
        /// What was missing, and where.
        reason: String,
    },
    /// The lab stands but is not well.
    #[error("{reason}; lab {name} is left up to look at: its logs are {dir}/h*/agent.log, `ringmesh lab down` ends it")]
    LeftUp {
        /// Of the lab.
        name: String,
        /// Its files.
        dir: PathBuf,
        /// What is not well.
        reason: String,
    },
    /// Tearing down left something behind.
    #[error("lab {name} is down, but these are left: {}; try `ringmesh lab down` again", left.join(", "))]
    LeftBehind {
        /// Of the lab.
        name: String,
        /// Namespaces, processes, mounts, files.
        left: Vec<String>,
    },
}

impl LabError {
    /// The exit status that the command line has for it.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::HostCount(_) | Self::ZoneCount(_) | Self::ContainerCount(_) | Self::BadName(_) | Self::NoCommand => 2,
            Self::NoSuchLab { .. } | Self::NoLab | Self::NoSuchHost { .. } | Self::NoSuchContainer { .. } => 4,
            Self::NotRoot
            | Self::Cabled
            | Self::Exists { .. }
            | Self::Full { .. }
            | Self::NotRunning { .. }
            | Self::Running { .. }
            | Self::Service { .. }
            | Self::DirInUse { .. }
            | Self::DirTooLong { .. } => 5,
            Self::TimedOut { .. } | Self::LeftUp { .. } => 6,
            Self::Busybox { .. }
            | Self::File { .. }
            | Self::System { .. }
            | Self::Record { .. }
            | Self::Command { .. }
            | Self::AgentEnded { .. }
            | Self::Api { .. }
            | Self::LeftBehind { .. } => 1,
        }
    }

    /// For `map_err`: a file that could not be read, written or removed.
    pub(super) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    /// For `map_err`: something asked of the kernel.
    pub(super) fn system<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::System { action, source: source.into() }
    }
}
