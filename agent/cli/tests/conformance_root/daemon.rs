//! What an agent sees of containers whose daemon dies, hangs and comes back, and of what others do to them.

use std::{collections::BTreeMap, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ringmesh_agentd::runtime::{self, ContainerState, ContainerStatus, Left, ProcessId, RuntimeError, RuntimeHandle};
use ringmesh_proto::peer::Instance;
use tokio::sync::mpsc::Receiver;

use crate::{
    containers::{PATIENCE, in_netns, private_mounts},
    daemons::{Daemon, Dockerd, IMAGE, Podman},
    subject::{RINGMESH, config},
};

/// The names of our containers at the daemon end so.
const INSTANCE: &str = "fedcba9876543210";

struct Agent {
    handle: RuntimeHandle,
    reports: Receiver<Vec<ContainerStatus>>,
    seen: BTreeMap<String, ContainerStatus>,
}

impl Agent {
    fn start(daemon: &impl Daemon) -> Self {
        Self::with(daemon, &BTreeMap::new())
    }

    /// With clones in the places of what they are to replace.
    fn with(daemon: &impl Daemon, instances: &BTreeMap<String, Instance>) -> Self {
        let socket = daemon.socket();
        let mut config = config(&format!(
            "[[container]]\nname = \"web\"\ndocker = {{ socket = {socket:?}, image = {IMAGE:?}, args = [\"sleep\", \"600\"] }}\n\
             [[container]]\nname = \"old\"\ndocker = {{ socket = {socket:?}, container = \"legacy\" }}\n"
        ));
        config.use_instances(instances);
        let left = Left {
            replaced: instances.values().map(|clone| (clone.name.clone(), clone.replaces.clone())).collect(),
            ..Left::default()
        };
        let state_dir = socket.with_file_name("state");
        let (handle, reports) = runtime::spawn(&state_dir, config.containers, INSTANCE, Path::new(RINGMESH), &left);
        Self { handle, reports, seen: BTreeMap::new() }
    }

    async fn until_seen(&mut self, what: &str, enough: impl Fn(&BTreeMap<String, ContainerStatus>) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !enough(&self.seen) {
            let Ok(report) = tokio::time::timeout_at(deadline, self.reports.recv()).await else {
                panic!("never {what}: {:#?}", self.seen);
            };
            let report = report.expect("the supervisor runs");
            self.seen.extend(report.into_iter().map(|status| (status.name.clone(), status)));
        }
    }

    async fn until(&mut self, what: &str, enough: impl Fn(&ContainerStatus, &ContainerStatus) -> bool) {
        self.until_seen(what, |seen| match (seen.get("web"), seen.get("old")) {
            (Some(web), Some(old)) => enough(web, old),
            _ => false,
        })
        .await;
    }

    async fn until_well(&mut self) {
        self.until("well", |web, old| is_well(web) && is_well(old)).await;
    }

    /// As when the agent's process ends.
    async fn leave(mut self) {
        drop(self.handle);
        while self.reports.recv().await.is_some() {}
    }
}

fn is_well(status: &ContainerStatus) -> bool {
    status.state == ContainerState::Running && status.problem.is_none()
}

fn running_with_problem(status: &ContainerStatus) -> bool {
    let problem = status.problem.as_deref().unwrap_or_default();
    status.state == ContainerState::Running && problem.starts_with("the container daemon at ")
}

/// Runs a test with each of the daemons.
fn with<D: Daemon + 'static, F: Future<Output = ()>>(start: fn() -> D, test: impl FnOnce(D) -> F + Send + 'static) {
    in_netns(move || async move {
        private_mounts();
        let daemon = start();
        daemon.make("legacy");
        test(daemon).await;
    });
}

#[test]
#[ignore = "needs root"]
fn a_podman_that_dies_or_hangs_is_a_problem_and_stops_no_container() {
    with(Podman::start, a_daemon_dies_and_hangs);
}

#[test]
#[ignore = "needs root"]
fn a_dockerd_that_dies_or_hangs_is_a_problem_and_stops_no_container() {
    with(Dockerd::start, a_daemon_dies_and_hangs);
}

async fn a_daemon_dies_and_hangs(mut daemon: impl Daemon) {
    let mut agent = Agent::start(&daemon);
    agent.until_well().await;
    let web = agent.seen["web"].clone();

    daemon.kill();
    agent.until("the daemon's death is seen", |web, old| running_with_problem(web) && running_with_problem(old)).await;
    assert_eq!(agent.seen["web"].pid, web.pid);
    let error = agent.handle.pause("web").await.expect_err("nobody is there to do it").to_string();
    assert!(error.starts_with("the container daemon at "), "{error}");
    let error = agent.handle.replace("web", "web.1".into(), None).await.expect_err("nobody removes it");
    assert!(matches!(error, RuntimeError::Driver(_)), "{error}");
    assert!(ProcessId::of(web.pid.expect("it runs")).is_some(), "nothing was done to it");
    // One that ends meanwhile has ended for certain.
    kill(Pid::from_raw(agent.seen["old"].pid.expect("it runs") as i32), Signal::SIGKILL).unwrap();
    agent.until("its end is seen", |_, old| old.state == ContainerState::Stopped).await;
    // The next agent knows nothing of them as long as it cannot ask.
    agent.leave().await;
    let mut agent = Agent::start(&daemon);
    let unknown = |status: &ContainerStatus| status.state == ContainerState::Unknown && status.problem.is_some();
    agent.until("nothing is known", |web, old| unknown(web) && unknown(old)).await;

    daemon.serve();
    agent.until("they are found again", |web, old| is_well(web) && old.state == ContainerState::Stopped).await;
    assert_eq!(agent.seen["web"], web, "the same process");
    agent.handle.restart("old").await.unwrap();
    agent.until_well().await;

    kill(Pid::from_raw(daemon.pid()), Signal::SIGSTOP).unwrap();
    agent.until("the daemon is seen to hang", |web, old| running_with_problem(web) && running_with_problem(old)).await;
    kill(Pid::from_raw(daemon.pid()), Signal::SIGCONT).unwrap();
    agent.until_well().await;
    assert_eq!(agent.seen["web"].pid, web.pid);
    agent.leave().await;
}

#[test]
#[ignore = "needs root"]
fn what_others_do_to_a_container_of_podman_is_seen() {
    with(Podman::start, others_do_something);
}

#[test]
#[ignore = "needs root"]
fn what_others_do_to_a_container_of_dockerd_is_seen() {
    with(Dockerd::start, others_do_something);
}

async fn others_do_something(daemon: impl Daemon) {
    let mut agent = Agent::start(&daemon);
    agent.until_well().await;
    let first = agent.seen["web"].pid;
    let name = format!("web.{INSTANCE}");
    daemon.post(&name, "pause");
    agent.until("paused", |web, _| web.state == ContainerState::Paused).await;
    daemon.post(&name, "unpause");
    agent.until_well().await;
    daemon.remove(&name);
    agent.until("made anew", |web, _| web.state == ContainerState::Running && web.pid != first).await;
    daemon.remove("legacy");
    agent
        .until("missed", |_, old| old.problem.as_ref().is_some_and(|p| p.contains("there is no container legacy")))
        .await;
    daemon.make("legacy");
    agent.until("found", |_, old| old.state == ContainerState::Running).await;
    agent.leave().await;
}

#[test]
#[ignore = "needs root"]
fn a_clone_of_podman_that_was_begun_while_it_was_dead_is_there_once() {
    with(Podman::start, a_clone_was_begun);
}

#[test]
#[ignore = "needs root"]
fn a_clone_of_dockerd_that_was_begun_while_it_was_dead_is_there_once() {
    with(Dockerd::start, a_clone_was_begun);
}

/// The agent and the daemon died when it was written down that a clone replaces a container, and before anything was done.
async fn a_clone_was_begun(mut daemon: impl Daemon) {
    let mut agent = Agent::start(&daemon);
    agent.until_well().await;
    agent.leave().await;
    daemon.kill();

    let clone = Instance { name: "web.1".into(), address: String::new(), replaces: "web".into() };
    let mut agent = Agent::with(&daemon, &[("web".to_owned(), clone)].into());
    let unknown = |status: &ContainerStatus| status.state == ContainerState::Unknown && status.problem.is_some();
    agent.until_seen("nothing is known", |seen| seen.len() == 2 && seen.values().all(unknown)).await;
    daemon.serve();
    agent.until_seen("the clone runs", |seen| is_well(&seen["web.1"])).await;
    let mut names = daemon.containers();
    names.sort_unstable();
    assert_eq!(names, ["legacy".to_owned(), format!("web.1.{INSTANCE}")]);
    agent.handle.replace("web.1", "web.2".into(), None).await.expect("clones are cloned, too");
    agent.until_seen("the next clone runs", |seen| seen.get("web.2").is_some_and(is_well)).await;
    assert_eq!(daemon.containers().len(), 2, "each once");
    daemon.remove(&format!("web.2.{INSTANCE}"));
    agent.until_seen("what is done to a clone is seen", |seen| !is_well(&seen["web.2"])).await;
    agent.until_seen("and repaired", |seen| is_well(&seen["web.2"])).await;
    agent.leave().await;
}
