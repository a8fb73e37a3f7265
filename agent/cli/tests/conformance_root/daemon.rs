//! What an agent sees of containers whose daemon dies, hangs and comes back, and of what others do to them.

use std::{collections::BTreeMap, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ringmesh_agentd::runtime::{self, ContainerState, ContainerStatus, Left, RuntimeHandle};
use tokio::sync::mpsc::Receiver;

use crate::{
    containers::{PATIENCE, in_netns},
    podman::{IMAGE, Podman},
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
    fn start(podman: &Podman) -> Self {
        let socket = podman.socket();
        let config = config(&format!(
            "[[container]]\nname = \"web\"\ndocker = {{ socket = {socket:?}, image = {IMAGE:?}, args = [\"sleep\", \"600\"] }}\n\
             [[container]]\nname = \"old\"\ndocker = {{ socket = {socket:?}, container = \"legacy\" }}\n"
        ));
        let (handle, reports) =
            runtime::spawn(&config.host.state_dir, config.containers, INSTANCE, Path::new(RINGMESH), &Left::default());
        Self { handle, reports, seen: BTreeMap::new() }
    }

    async fn until(&mut self, what: &str, enough: impl Fn(&ContainerStatus, &ContainerStatus) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let (Some(web), Some(old)) = (self.seen.get("web"), self.seen.get("old"))
                && enough(web, old)
            {
                return;
            }
            let Ok(report) = tokio::time::timeout_at(deadline, self.reports.recv()).await else {
                panic!("never {what}: {:#?}", self.seen);
            };
            let report = report.expect("the supervisor runs");
            self.seen.extend(report.into_iter().map(|status| (status.name.clone(), status)));
        }
    }

    async fn until_well(&mut self) {
        let well = |status: &ContainerStatus| status.state == ContainerState::Running && status.problem.is_none();
        self.until("well", |web, old| well(web) && well(old)).await;
    }

    /// As when the agent's process ends.
    async fn leave(mut self) {
        drop(self.handle);
        while self.reports.recv().await.is_some() {}
    }
}

fn running_with_problem(status: &ContainerStatus) -> bool {
    let problem = status.problem.as_deref().unwrap_or_default();
    status.state == ContainerState::Running && problem.starts_with("the container daemon at ")
}

#[test]
#[ignore = "needs root"]
fn a_daemon_that_dies_or_hangs_is_a_problem_and_stops_no_container() {
    in_netns(|| async {
        let mut podman = Podman::start();
        podman.run(&["run", "--detach", "--network", "none", "--name", "legacy", IMAGE, "sleep", "600"]);
        let mut agent = Agent::start(&podman);
        agent.until_well().await;
        let web = agent.seen["web"].clone();

        podman.kill();
        agent
            .until("the daemon's death is seen", |web, old| running_with_problem(web) && running_with_problem(old))
            .await;
        assert_eq!(agent.seen["web"].pid, web.pid);
        let error = agent.handle.pause("web").await.expect_err("nobody is there to do it").to_string();
        assert!(error.starts_with("the container daemon at "), "{error}");
        // One that ends meanwhile has ended for certain.
        kill(Pid::from_raw(agent.seen["old"].pid.expect("it runs") as i32), Signal::SIGKILL).unwrap();
        agent.until("its end is seen", |_, old| old.state == ContainerState::Stopped).await;
        // The next agent knows nothing of them as long as it cannot ask.
        agent.leave().await;
        let mut agent = Agent::start(&podman);
        let unknown = |status: &ContainerStatus| status.state == ContainerState::Unknown && status.problem.is_some();
        agent.until("nothing is known", |web, old| unknown(web) && unknown(old)).await;

        podman.serve();
        agent
            .until("they are found again", |web, old| {
                web.state == ContainerState::Running && web.problem.is_none() && old.state == ContainerState::Stopped
            })
            .await;
        assert_eq!(agent.seen["web"], web, "the same process");
        agent.handle.restart("old").await.unwrap();
        agent.until_well().await;

        kill(Pid::from_raw(podman.service_pid()), Signal::SIGSTOP).unwrap();
        agent
            .until("the daemon is seen to hang", |web, old| running_with_problem(web) && running_with_problem(old))
            .await;
        kill(Pid::from_raw(podman.service_pid()), Signal::SIGCONT).unwrap();
        agent.until_well().await;
        assert_eq!(agent.seen["web"].pid, web.pid);
        agent.leave().await;
    });
}

#[test]
#[ignore = "needs root"]
fn what_others_do_to_a_container_is_seen() {
    in_netns(|| async {
        let podman = Podman::start();
        podman.run(&["run", "--detach", "--network", "none", "--name", "legacy", IMAGE, "sleep", "600"]);
        let mut agent = Agent::start(&podman);
        agent.until_well().await;
        let first = agent.seen["web"].pid;
        let name = format!("web.{INSTANCE}");
        podman.run(&["pause", &name]);
        agent.until("paused", |web, _| web.state == ContainerState::Paused).await;
        podman.run(&["unpause", &name]);
        agent.until_well().await;
        podman.run(&["rm", "--force", "--time", "0", &name]);
        agent.until("made anew", |web, _| web.state == ContainerState::Running && web.pid != first).await;
        podman.run(&["rm", "--force", "--time", "0", "legacy"]);
        agent
            .until("missed", |_, old| old.problem.as_ref().is_some_and(|p| p.contains("there is no container legacy")))
            .await;
        podman.run(&["run", "--detach", "--network", "none", "--name", "legacy", IMAGE, "sleep", "600"]);
        agent.until("found", |_, old| old.state == ContainerState::Running).await;
        agent.leave().await;
    });
}
