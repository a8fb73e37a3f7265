//! Where the files of a container lie, and the record from which it is taken over after a restart of the agent.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ringmesh_node::health::spec::{ContainerState, ContainerStatus};
use ringmesh_proto::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::{
    config::OciRuntime,
    probe::heartbeat,
    runtime::{
        cgroup,
        driver::{DriverError, Observed},
        process::{ProcessId, boot_id},
    },
};

/// Every runtime, for those who look for what others left.
pub(in crate::runtime) const RUNTIMES: [OciRuntime; 3] = [OciRuntime::Libcontainer, OciRuntime::Crun, OciRuntime::Runc];

/// The directories of one agent.
#[derive(Clone, Debug)]
pub(in crate::runtime) struct Layout {
    state_dir: PathBuf,
    /// Tells the agents of one machine apart: in control groups and names of interfaces.
    pub(in crate::runtime) instance: String,
}

impl Layout {
    pub(in crate::runtime) fn new(state_dir: &Path, instance: &str) -> Self {
        let state_dir = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
        Self { state_dir, instance: instance.to_owned() }
    }

    pub(in crate::runtime) fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Of all bundles.
    pub(in crate::runtime) fn bundles(&self) -> PathBuf {
        self.state_dir.join("containers")
    }

    /// The OCI bundle of a container: config.json, record.json, log.
    pub(in crate::runtime) fn bundle(&self, name: &str) -> PathBuf {
        self.bundles().join(name)
    }

    /// What the container's processes print; they append to it.
    pub(in crate::runtime) fn log(&self, name: &str) -> PathBuf {
        self.bundle(name).join("log")
    }

    /// The directory with the socket where the container's services speak up, if it has one.
    pub(in crate::runtime) fn heartbeat(&self, name: &str) -> Option<PathBuf> {
        let directory = heartbeat::directory(&self.state_dir, name);
        directory.is_dir().then_some(directory)
    }

    /// Where runtimes keep their own state.
    pub(in crate::runtime) fn runtimes(&self) -> PathBuf {
        self.state_dir.join("runtime")
    }

    /// Where one runtime keeps its own state, a directory a container.
    pub(in crate::runtime) fn runtime_root(&self, runtime: OciRuntime) -> PathBuf {
        self.runtimes().join(runtime_name(runtime))
    }

    /// Whether a runtime knows the container, be it running or halfway made.
    pub(in crate::runtime) fn is_known(&self, name: &str) -> bool {
        self.record_path(name).exists() || RUNTIMES.iter().any(|r| self.runtime_root(*r).join(name).exists())
    }

    /// Every container that has left a file.
    pub(in crate::runtime) fn names(&self) -> Vec<String> {
        let roots = RUNTIMES.iter().map(|r| self.runtime_root(*r));
        let mut names: Vec<String> = [self.bundles()]
            .into_iter()
            .chain(roots)
            .filter_map(|directory| fs::read_dir(directory).ok())
            .flat_map(|entries| entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    pub(in crate::runtime) fn record(&self, name: &str) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.record_path(name)).ok()?).ok()
    }

    /// Replaces the record as a whole: a reader sees the old one or the new one.
    pub(in crate::runtime) fn save_record(&self, name: &str, record: &Record) -> Result<(), DriverError> {
        let path = self.record_path(name);
        let draft = path.with_extension("new");
        let text = serde_json::to_vec(record).expect("a record is plain data");
        fs::write(&draft, text).and_then(|()| fs::rename(&draft, &path)).map_err(DriverError::io("write", path))
    }

    pub(in crate::runtime) fn remove_record(&self, name: &str) -> Result<(), DriverError> {
        let path = self.record_path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DriverError::io("remove", path)(error)),
            _ => Ok(()),
        }
    }

    pub(in crate::runtime) fn observe(&self, name: &str) -> Observed {
        match self.record(name) {
            Some(record) => record.observe(name, || cgroup::is_frozen(&self.instance, name)),
            None => Observed::absent(name),
        }
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.bundle(name).join("record.json")
    }
}

/// As in the configuration.
pub(in crate::runtime) fn runtime_name(runtime: OciRuntime) -> &'static str {
    match runtime {
        OciRuntime::Libcontainer => "libcontainer",
        OciRuntime::Crun => "crun",
        OciRuntime::Runc => "runc",
    }
}

/// A container that was started. Without one, what a runtime knows was left halfway and is made anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::runtime) struct Record {
    pub(in crate::runtime) runtime: OciRuntime,
    pub(in crate::runtime) pid: u32,
    pub(in crate::runtime) start_ticks: u64,
    /// Pids and ticks of another start of the host mean nothing.
    pub(in crate::runtime) boot_id: String,
    pub(in crate::runtime) started_at: u64,
    pub(in crate::runtime) addresses: Vec<String>,
}

impl Record {
    pub(in crate::runtime) fn process(&self) -> ProcessId {
        ProcessId { pid: self.pid, start_ticks: self.start_ticks }
    }

    pub(in crate::runtime) fn is_of_this_boot(&self) -> bool {
        self.boot_id == boot_id()
    }

    pub(in crate::runtime) fn is_alive(&self) -> bool {
        self.is_of_this_boot() && self.process().is_alive()
    }

    fn observe(self, name: &str, is_frozen: impl Fn() -> bool) -> Observed {
        if !self.is_of_this_boot() {
            return Observed::absent(name);
        }
        let process = self.process();
        let started_at = Some(UnixMillis(self.started_at));
        if !process.is_alive() {
            let state = ContainerState::Stopped;
            let status = ContainerStatus { name: name.into(), state, started_at, ..Default::default() };
            return Observed { status, process: None };
        }
        let status = ContainerStatus {
            name: name.into(),
            state: if is_frozen() { ContainerState::Paused } else { ContainerState::Running },
            pid: Some(process.pid),
            netns: Some(process.netns()),
            started_at,
            addresses: self.addresses,
            problem: None,
            unreachable: false,
        };
        Observed { status, process: Some(process) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(boot_id: &str) -> Record {
        let process = ProcessId::of(std::process::id()).expect("we are running");
        Record {
            runtime: OciRuntime::Crun,
            pid: process.pid,
            start_ticks: process.start_ticks,
            boot_id: boot_id.into(),
            started_at: 5,
            addresses: vec!["10.0.0.2/24".into()],
        }
    }

    #[test]
    fn a_record_says_what_became_of_its_process() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let layout = Layout::new(state.path(), "i");
        assert_eq!(layout.observe("web"), Observed::absent("web"));
        fs::create_dir_all(layout.bundle("web")).expect("it is ours");

        layout.save_record("web", &record(boot_id())).expect("it is ours");
        let running = layout.observe("web");
        assert_eq!(running.status.state, ContainerState::Running);
        assert_eq!(running.status.pid, Some(std::process::id()));
        assert_eq!(layout.names(), ["web"]);

        let recycled = Record { start_ticks: 1, ..record(boot_id()) };
        layout.save_record("web", &recycled).expect("it is ours");
        assert_eq!(layout.observe("web").status.state, ContainerState::Stopped);
        assert_eq!(layout.observe("web").process, None);

        layout.save_record("web", &record("before the host started")).expect("it is ours");
        assert_eq!(layout.observe("web"), Observed::absent("web"));
        assert!(layout.is_known("web"));
        layout.remove_record("web").and_then(|()| layout.remove_record("web")).expect("twice is no error");
        assert!(!layout.is_known("web"));
    }

    #[test]
    fn a_torn_record_is_none() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let layout = Layout::new(state.path(), "i");
        fs::create_dir_all(layout.bundle("web")).expect("it is ours");
        fs::write(layout.bundle("web").join("record.json"), "{\"pid\": 1").expect("it is ours");
        assert_eq!(layout.record("web"), None);
        assert_eq!(layout.observe("web"), Observed::absent("web"));
    }
}
