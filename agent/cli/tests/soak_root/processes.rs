//! What /proc says of an agent, its shims and the processes of its containers.

use std::{collections::BTreeMap, fmt, fs};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ringmesh_agentd::runtime::ProcessId;

/// What a process holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// Resident memory, in bytes.
    pub(crate) rss: u64,
    /// Open descriptors.
    pub(crate) descriptors: u64,
}

impl Figures {
    /// The larger of each.
    pub(crate) fn max(self, other: Self) -> Self {
        Self { rss: self.rss.max(other.rss), descriptors: self.descriptors.max(other.descriptors) }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MB of memory and {} descriptors", self.rss as f64 / 1e6, self.descriptors)
    }
}

/// Of a process now; nothing of one that has ended.
pub(crate) fn figures(pid: u32) -> Figures {
    let status = read(pid, "status");
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_ascii_whitespace().next()?.parse().ok());
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count) as u64;
    Figures { rss: kib.unwrap_or(0_u64) * 1024, descriptors }
}

/// Of each shim that makes a container for this agent now.
pub(crate) fn shims(agent: u32) -> Vec<Figures> {
    let is_shim = |pid: &u32| read(*pid, "cmdline").split('\0').nth(1) == Some("oci-shim");
    children(agent).into_iter().filter(is_shim).map(figures).collect()
}

/// The child of this name that a process has.
pub(crate) fn child(parent: u32, name: &str) -> Option<u32> {
    children(parent).into_iter().find(|pid| read(*pid, "comm").trim() == name)
}

/// Ends a process that must be there.
pub(crate) fn kill_hard(pid: u32) {
    assert_ne!(pid, 0, "there is a process");
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("it runs");
}

/// Those of an agent's containers, by the containers' names.
pub(crate) struct Processes {
    pub(crate) all: BTreeMap<String, OfContainer>,
}

/// Those of one container.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct OfContainer {
    /// The first one, and any that should not be there.
    pub(crate) inits: Vec<u32>,
    pub(crate) number: usize,
}

impl Processes {
    /// Found by their control groups, which are named after the agent's instance.
    pub(crate) fn of(instance: &str) -> Self {
        let group = format!("/ringmesh/{instance}/");
        let mut all = BTreeMap::<String, OfContainer>::new();
        let entries = fs::read_dir("/proc").expect("procfs").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        for pid in pids {
            let groups = read(pid, "cgroup");
            let name = groups.lines().find_map(|line| line.split_once(&group)?.1.split('/').next());
            // Zombies are for the system's first process to reap.
            let Some(name) = name.filter(|_| ProcessId::of(pid).is_some()) else { continue };
            let of_container = all.entry(name.to_owned()).or_default();
            of_container.number += 1;
            if is_init(pid) {
                of_container.inits.push(pid);
            }
        }
        Self { all }
    }
}

/// Whether it is the first of a pid namespace below ours.
fn is_init(pid: u32) -> bool {
    let status = read(pid, "status");
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    ids.is_some_and(|ids| ids.split_ascii_whitespace().skip(1).last() == Some("1"))
}

/// Of all its threads.
fn children(parent: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    texts.flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Empty when the process has ended.
fn read(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}
