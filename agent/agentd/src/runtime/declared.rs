//! The driver `declared`: containers that something else runs. It watches them and does nothing to them.

use std::collections::BTreeMap;

use ringmesh_node::health::spec::{ContainerState, ContainerStatus};

use super::{
    driver::{Answer, Capabilities, Driver, Observed},
    process::ProcessId,
};
use crate::config::{Container, Declared};

/// Containers that something else runs, known by a pid, by a file with a pid, or by a network namespace.
pub struct DeclaredDriver {
    declared: BTreeMap<String, Declared>,
}

impl DeclaredDriver {
    /// Knows those of `containers` that are declared.
    pub fn new(containers: &[Container]) -> Self {
        let declared = |c: &Container| Some((c.name.clone(), c.declared.clone()?));
        Self { declared: containers.iter().filter_map(declared).collect() }
    }
}

impl Driver for DeclaredDriver {
    fn name(&self) -> &'static str {
        "declared"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn list(&self) -> Answer<'_, Vec<Observed>> {
        let observed = self.declared.iter().map(|(name, declared)| observe(name, declared)).collect();
        Box::pin(std::future::ready(Ok(observed)))
    }

    fn inspect<'a>(&'a self, name: &'a str) -> Answer<'a, Observed> {
        let observed = self.declared.get(name).map_or_else(|| Observed::absent(name), |d| observe(name, d));
        Box::pin(std::future::ready(Ok(observed)))
    }
}

fn observe(name: &str, declared: &Declared) -> Observed {
    let status = ContainerStatus { name: name.into(), state: ContainerState::Stopped, ..Default::default() };
    if let Some(netns) = &declared.netns {
        let status = match netns.try_exists() {
            Ok(true) => ContainerStatus { state: ContainerState::Running, netns: Some(netns.clone()), ..status },
            Ok(false) => status,
            Err(error) => ContainerStatus { problem: Some(format!("{}: {error}", netns.display())), ..status },
        };
        return Observed { status, process: None };
    }
    let pid = match &declared.pid_file {
        None => Ok(declared.pid),
        // No file is as good as no process; a file without a pid is somebody's mistake.
        Some(path) if !path.exists() => Ok(None),
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => match text.trim().parse() {
                Ok(pid) => Ok(Some(pid)),
                Err(_) => Err(format!("{} does not hold a pid", path.display())),
            },
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        },
    };
    let process = match pid {
        Ok(pid) => pid.and_then(ProcessId::of),
        Err(problem) => {
            return Observed { status: ContainerStatus { problem: Some(problem), ..status }, process: None };
        }
    };
    let Some(process) = process else { return Observed { status, process: None } };
    let status = ContainerStatus {
        state: ContainerState::Running,
        pid: Some(process.pid),
        netns: Some(process.netns()),
        started_at: process.started_at(),
        ..status
    };
    Observed { status, process: Some(process) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Declared = Declared { pid: None, pid_file: None, netns: None };

    #[test]
    fn a_pid_runs_as_long_as_its_process() {
        let me = observe("c", &Declared { pid: Some(std::process::id()), ..NONE });
        assert_eq!(me.status.state, ContainerState::Running);
        assert_eq!(me.process.map(|process| process.pid), Some(std::process::id()));
        assert!(me.status.netns.is_some_and(|netns| netns.exists()));
        let nobody = observe("c", &Declared { pid: Some(u32::MAX), ..NONE });
        assert_eq!((nobody.status.state, nobody.process), (ContainerState::Stopped, None));
    }

    #[test]
    fn a_pid_file_is_read_each_time() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("pid");
        let declared = Declared { pid_file: Some(path.clone()), ..NONE };
        assert_eq!(observe("c", &declared).status.state, ContainerState::Stopped);
        assert_eq!(observe("c", &declared).status.problem, None);
        std::fs::write(&path, format!("{}\n", std::process::id())).expect("it is ours");
        assert_eq!(observe("c", &declared).status.state, ContainerState::Running);
        std::fs::write(&path, "me").expect("it is ours");
        let problem = observe("c", &declared).status.problem.expect("that is no pid");
        assert!(problem.ends_with("does not hold a pid"), "{problem}");
    }

    #[test]
    fn a_netns_runs_as_long_as_its_file() {
        let netns = Some("/proc/self/ns/net".into());
        let observed = observe("c", &Declared { netns: netns.clone(), ..NONE });
        assert_eq!((observed.status.state, observed.status.netns), (ContainerState::Running, netns));
        let gone = observe("c", &Declared { netns: Some("/run/netns/no-such".into()), ..NONE });
        assert_eq!((gone.status.state, gone.status.netns), (ContainerState::Stopped, None));
    }

    #[tokio::test]
    async fn no_verb_is_faked() {
        let driver = DeclaredDriver::new(&[]);
        assert_eq!(driver.capabilities(), Capabilities::default());
        let error = driver.stop("c").await.expect_err("it cannot");
        assert_eq!(error.to_string(), "the driver declared cannot stop a container");
        assert_eq!(driver.inspect("c").await.expect("it always can"), Observed::absent("c"));
    }
}
