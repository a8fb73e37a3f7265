//! A whole cluster on one machine: hosts in network namespaces, containers in the hosts, agents that know nothing of it.
//!
//! ```text
//!   up ── record ── network (netns, netlink) ── rootfs, host_config ── process: init, join, agent ── converge
//!   down ── the same backwards          fault ── network, process          wait ── for tests
//! ```
//!
//! It owns the namespaces `rm-NAME-*`, /run/ringmesh/labs/NAME and the directory that was named for the lab's files.
//! It makes nothing in the network namespace of the machine. It talks to the agents as any user would: by the command
//! line and the gRPC API. All functions block; none needs a runtime.

mod client;
mod converge;
mod down;
mod error;
mod fault;
mod host_config;
mod netlink;
mod netns;
mod network;
mod plan;
mod process;
mod record;
mod rootfs;
mod up;
pub mod wait;

use std::{path::PathBuf, process::ExitStatus};

pub use client::{block_on, channel};
pub use error::LabError;
pub use fault::Fault;
pub use plan::{DEFAULT_NAME, MAX_CONTAINERS, MAX_HOSTS};
pub use process::AgentState;
pub use record::{HostStatus, LabStatus};

use crate::config::{Mode, RepairMode};

/// What a lab is to be.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// 1 to 32 of a-z, 0-9 and '-'; unique on this machine.
    pub name: String,
    /// 2 to [`MAX_HOSTS`].
    pub hosts: u16,
    /// A host, 0 to [`MAX_CONTAINERS`].
    pub containers: u16,
    /// 1 to the number of hosts: pools of gossip, over which the hosts are dealt out in turn.
    pub zones: u16,
    /// How the hosts are wired. [`Mode::Cabled`] is refused in this version.
    pub mode: Mode,
    /// How containers are repaired.
    pub repair: RepairMode,
    /// For the lab's files, empty or not there yet. Default /run/ringmesh/labs/NAME.
    pub dir: Option<PathBuf>,
    /// The program `ringmesh`, which the hosts run.
    pub binary: PathBuf,
}

/// Makes a lab and returns when every host sees all hosts, both rings, and all containers and services well.
///
/// What fails before an agent runs leaves nothing behind. Later it is [`LabError::LeftUp`], and the lab stays.
pub fn up(options: &UpOptions, progress: &mut dyn FnMut(&str)) -> Result<LabStatus, LabError> {
    up::up(options, progress)
}

/// The lab of this name, or the newest, as it is now.
pub fn status(name: Option<&str>) -> Result<LabStatus, LabError> {
    record::find(name).map(|record| record.status())
}

/// The lab that was made last, if there is one.
pub fn newest() -> Option<LabStatus> {
    record::newest().map(|record| record.status())
}

/// Takes the lab of this name, or the newest, down with all that it made. Does nothing when there is none, and clears
/// up what a lab left that was built or taken down half-way.
pub fn down(name: Option<&str>) -> Result<(), LabError> {
    down::down(name)
}

/// Runs a command in the namespace of a host with the caller's terminal, RINGMESH_HOST being that host's API. Returns
/// how it ended.
pub fn exec(name: Option<&str>, host: &str, argv: &[String]) -> Result<ExitStatus, LabError> {
    let record = record::find(name)?;
    let host = record.host_status(record.host(host)?);
    let program = argv.first().ok_or(LabError::NoCommand)?;
    process::run_attached(&host.netns, argv, &[("RINGMESH_HOST", &host.api)])
        .map_err(LabError::system(format!("run {program} on {}", host.name)))
}

/// Brings a fault about in the lab of this name, or the newest; returns when it is in effect.
pub fn fault(name: Option<&str>, fault: &Fault) -> Result<(), LabError> {
    fault::fault(name, fault)
}

/// Adds a host to the lab of this name, or the newest; returns when the first host and the new one see it well.
pub fn add_host(name: Option<&str>) -> Result<HostStatus, LabError> {
    up::add_host(name)
}

/// The first processes that a container of the lab has, whether or not its agent runs: one, unless something went
/// wrong.
pub fn container_pids(name: Option<&str>, host: &str, container: &str) -> Result<Vec<u32>, LabError> {
    fault::container_pids(&record::find(name)?, host, container)
}

#[cfg(test)]
mod tests;
