//! What is written down of a lab, and the lock under which it is changed.
//!
//! The record is there before anything else of the lab is made and goes last, so that what a crash left behind can be
//! found. It lies in /run, as the lab itself is gone after a boot.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};

use super::{
    error::LabError,
    netns,
    plan::{self, DEFAULT_NAME, HostNumber},
    process::{AgentState, ProcessId},
};
use crate::config::RepairMode;

const VERSION: u32 = 1;

/// A lab as it stands in its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    version: u32,
    pub(super) name: String,
    /// Milliseconds since 1970; tells the newest lab.
    pub(super) created: u64,
    /// Where its files are.
    pub(super) dir: PathBuf,
    /// The program that its agents run.
    pub(super) binary: PathBuf,
    /// Containers a host.
    pub(super) containers: u16,
    /// Zones, over which the hosts are dealt out in turn.
    #[serde(default = "one")]
    pub(super) zones: u16,
    /// Of containers.
    #[serde(default)]
    pub(super) repair: RepairMode,
    pub(super) hosts: Vec<HostRecord>,
}

/// A host as it stands in its lab's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostRecord {
    pub(super) number: HostNumber,
    /// The agent that was started last.
    pub(super) agent: Option<ProcessId>,
}

/// What a lab is and does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabStatus {
    /// Unique on this machine.
    pub name: String,
    /// In order of their numbers.
    pub hosts: Vec<HostStatus>,
    /// Where its files are: `hN/agent.toml`, `hN/agent.log`, `hN/state/`.
    pub dir: PathBuf,
    /// Containers a host.
    pub containers: u16,
    /// When it was made, in milliseconds since 1970.
    pub created: u64,
}

/// A host of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// "h1" and so on.
    pub name: String,
    /// Of its agent; `None` when that does not run.
    pub pid: Option<u32>,
    /// Its network namespace, as `ip netns` names it.
    pub netns: String,
    /// Its API, as `--host` takes it.
    pub api: String,
    /// What its agent does.
    pub state: AgentState,
}

fn one() -> u16 {
    1
}

impl Record {
    /// Of a lab of which nothing is made yet.
    pub(super) fn new(name: &str, dir: PathBuf, binary: PathBuf, containers: u16, zones: u16) -> Self {
        let created = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            version: VERSION,
            name: name.into(),
            created: created.as_millis() as u64,
            dir,
            binary,
            containers,
            zones,
            repair: RepairMode::default(),
            hosts: Vec::new(),
        }
    }

    /// The record of a lab, if there is one.
    pub(super) fn load(name: &str) -> Result<Option<Self>, LabError> {
        let path = path(name);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(LabError::file("read", &path))?,
        };
        let damaged = |problem| LabError::Record { path: path.clone(), problem };
        let record: Self = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if record.version != VERSION || record.name != name {
            return Err(damaged(format!("it is version {} of lab {}", record.version, record.name)));
        }
        Ok(Some(record))
    }

    /// Writes it, whole or not at all.
    pub(super) fn save(&self) -> Result<(), LabError> {
        let path = path(&self.name);
        let text = serde_json::to_string_pretty(self).expect("every field has a form in JSON");
        let new = path.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(LabError::file("write", &path))
    }

    /// Takes it away.
    pub(super) fn remove(name: &str) -> io::Result<()> {
        let path = path(name);
        for file in [path.with_extension("new"), path] {
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// The host of this name.
    pub(super) fn host(&self, name: &str) -> Result<&HostRecord, LabError> {
        let number = HostNumber::parse(name);
        self.hosts.iter().find(|host| Some(host.number) == number).ok_or_else(|| LabError::NoSuchHost {
            lab: self.name.clone(),
            host: name.into(),
            hosts: self.hosts.iter().map(|host| host.number.name()).collect::<Vec<_>>().join(", "),
        })
    }

    /// Notes the agent of a host, which becomes a host of the lab if it is none yet.
    pub(super) fn set_agent(&mut self, number: HostNumber, agent: ProcessId) {
        match self.hosts.iter_mut().find(|host| host.number == number) {
            Some(host) => host.agent = Some(agent),
            None => self.hosts.push(HostRecord { number, agent: Some(agent) }),
        }
    }

    /// As it is now.
    pub(super) fn status(&self) -> LabStatus {
        LabStatus {
            name: self.name.clone(),
            hosts: self.hosts.iter().map(|host| self.host_status(host)).collect(),
            dir: self.dir.clone(),
            containers: self.containers,
            created: self.created,
        }
    }

    /// As it is now.
    pub(super) fn host_status(&self, host: &HostRecord) -> HostStatus {
        let state = host.state();
        HostStatus {
            name: host.number.name(),
            pid: host.agent.filter(|_| state != AgentState::Dead).map(|agent| agent.pid),
            netns: host.number.netns(&self.name),
            api: host.number.api(&self.dir),
            state,
        }
    }
}

impl HostRecord {
    /// What its agent does now.
    pub(super) fn state(&self) -> AgentState {
        self.agent.map_or(AgentState::Dead, ProcessId::state)
    }
}

/// The sole right to change a lab, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _dir: Flock<File>,
}

impl Lock {
    /// Waits for the lock of a lab whose directory is there.
    pub(super) fn take(name: &str) -> io::Result<Self> {
        netns::lock_dir(&plan::record_dir(name)).map(|dir| Self { _dir: dir })
    }

    /// Waits for the lock of a lab and reads its record.
    pub(super) fn open(name: Option<&str>) -> Result<(Self, Record), LabError> {
        let name = resolve(name)?;
        let missing = || LabError::NoSuchLab { name: name.clone() };
        let lock = match Self::take(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
            lock => lock.map_err(LabError::file("lock", plan::record_dir(&name)))?,
        };
        let record = Record::load(&name)?.ok_or_else(missing)?;
        Ok((lock, record))
    }
}

/// The record of the lab with this name, or of the newest.
pub(super) fn find(name: Option<&str>) -> Result<Record, LabError> {
    let name = resolve(name)?;
    Record::load(&name)?.ok_or(LabError::NoSuchLab { name })
}

/// The record of the newest lab, whose record can be read.
pub(super) fn newest() -> Option<Record> {
    let names = fs::read_dir(plan::LABS).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| Record::load(&name).ok().flatten()).max_by_key(|record| record.created)
}

/// The lab that `down` without a name is to clear up.
pub(super) fn newest_or_default() -> String {
    newest().map_or_else(|| DEFAULT_NAME.into(), |record| record.name)
}

/// Refuses what is no name for a lab.
pub(super) fn check_name(name: &str) -> Result<(), LabError> {
    // The name stands in paths of sockets and in arguments.
    if crate::config::is_name(name) && name.len() <= 32 {
        return Ok(());
    }
    Err(LabError::BadName(name.escape_debug().to_string()))
}

fn resolve(name: Option<&str>) -> Result<String, LabError> {
    match name {
        Some(name) => check_name(name).map(|()| name.to_owned()),
        None => newest().map(|record| record.name).ok_or(LabError::NoLab),
    }
}

fn path(name: &str) -> PathBuf {
    plan::record_dir(name).join("lab.json")
}

/// Whether a directory is there and holds something.
pub(super) fn is_used(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_has_the_fields_that_scripts_use() {
        let mut record = Record::new("lab", "/run/x".into(), "/bin/ringmesh".into(), 4, 1);
        let own = ProcessId::of(std::process::id()).expect("it runs");
        record.set_agent(HostNumber::new(1).expect("in range"), own);
        let json = serde_json::to_value(record.status()).expect("JSON");
        assert_eq!(json["name"], "lab");
        let expected = serde_json::json!({
            "name": "h1", "pid": own.pid, "netns": "rm-lab-h1", "api": "unix:/run/x/h1/agent.sock", "state": "running",
        });
        assert_eq!(json["hosts"], serde_json::json!([expected]));
        let back: Record = serde_json::from_str(&serde_json::to_string(&record).expect("JSON")).expect("our own");
        assert_eq!(back, record);
    }

    #[test]
    fn names_that_would_leave_the_directory_of_labs_are_refused() {
        for bad in ["", "..", "a/b", "A", "-a", &"a".repeat(33)] {
            assert!(matches!(check_name(bad), Err(LabError::BadName(_))), "{bad}");
        }
        check_name("lab-2").expect("a name");
    }

    #[test]
    fn a_host_that_is_not_there_is_named_with_those_that_are() {
        let mut record = Record::new("x", "/run/x".into(), "/bin/ringmesh".into(), 0, 1);
        for number in HostNumber::first(2) {
            record.hosts.push(HostRecord { number, agent: None });
        }
        let error = record.host("h3").expect_err("it has two").to_string();
        assert_eq!(error, "lab x has no host h3; it has h1, h2");
        assert_eq!(record.host_status(&record.hosts[0]).pid, None);
    }
}
