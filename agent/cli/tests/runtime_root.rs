//! Containers for real: busybox in its own namespaces on a bridge in a network namespace that the test makes.
//!
//! Needs root, busybox-static, crun, runc and nsenter: `cargo test --test runtime_root -- --ignored`.

#![allow(clippy::unwrap_used)]

mod containers;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use containers::{PATIENCE, get, get_soon, hide_unified_cgroups, in_netns, make_rootfs, veths};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ringmesh_agentd::{
    config::Config,
    runtime::{self, ContainerState, ContainerStatus, Left, ProcessId, RuntimeHandle},
};
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;

const RINGMESH: &str = env!("CARGO_BIN_EXE_ringmesh");

/// A root file system and a state directory; removed, with all containers, also when the test fails.
struct Lab {
    directory: TempDir,
    instance: String,
}

impl Lab {
    fn new(test: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        make_rootfs(&directory.path().join("rootfs"));
        Self { directory, instance: format!("test-{test}-{}", std::process::id()) }
    }

    fn state_dir(&self) -> std::path::PathBuf {
        self.directory.path().join("state")
    }

    fn container(&self, name: &str, runtime: &str, number: usize) -> String {
        let rootfs = self.directory.path().join("rootfs");
        format!(
            "[[container]]\nname = {name:?}\n\
             oci = {{ runtime = {runtime:?}, rootfs = {rootfs:?}, memory_limit = 33554432, \
                      args = [\"httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/www\"] }}\n\
             network = {{ bridge = \"br-test\", address = \"10.9.0.{}/24\", gateway = \"10.9.0.1\" }}\n",
            number + 2
        )
    }

    fn config(&self, containers: &str) -> Config {
        let text = format!(
            "[host]\nname = \"h1\"\nstate_dir = {:?}\n[uplink.a]\naddress = \"127.0.0.1\"\n{containers}",
            self.state_dir()
        );
        Config::parse(Path::new("test.toml"), &text).unwrap()
    }

    fn agent(&self, config: &Config) -> Agent {
        let (state_dir, containers) = (&config.host.state_dir, config.containers.clone());
        let (handle, reports) =
            runtime::spawn(state_dir, containers, &self.instance, Path::new(RINGMESH), &Left::default());
        Agent { handle, reports, seen: BTreeMap::new() }
    }

    fn shim(&self, name: &str) -> Child {
        Command::new(RINGMESH)
            .args(["oci-shim", "run"])
            .arg(self.state_dir())
            .args([&self.instance, name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn processes(&self) -> Vec<i32> {
        let group = format!("/ringmesh/{}", self.instance);
        let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(pid);
        // Zombies are for the system's first process to reap.
        let pids = pids.filter(|pid| ProcessId::of(*pid as u32).is_some());
        pids.filter(|pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(&group)))
            .collect()
    }

    fn groups(&self) -> Vec<std::path::PathBuf> {
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let hierarchies =
            mounts.lines().filter(|line| line.contains(" - cgroup")).map(|l| l.split(' ').nth(4).unwrap());
        let groups = hierarchies.map(|path| Path::new(path).join("ringmesh").join(&self.instance));
        groups.filter(|path| path.exists()).collect()
    }

    fn assert_nothing_is_left(&self) {
        assert_eq!(self.processes(), [0_i32; 0]);
        assert_eq!(self.groups(), Vec::<std::path::PathBuf>::new());
        assert_eq!(veths(), Vec::<String>::new());
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(!mounts.contains(self.directory.path().to_str().unwrap()), "{mounts}");
        for directory in ["containers", "runtime"] {
            assert!(!self.state_dir().join(directory).exists(), "{directory}");
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let result = runtime::teardown(&self.state_dir(), &self.instance);
        if !std::thread::panicking() {
            result.unwrap();
        }
    }
}

struct Agent {
    handle: RuntimeHandle,
    reports: Receiver<Vec<ContainerStatus>>,
    seen: BTreeMap<String, ContainerStatus>,
}

impl Agent {
    async fn report(&mut self) {
        let report = self.reports.recv().await.expect("the supervisor runs");
        self.seen.extend(report.into_iter().map(|status| (status.name.clone(), status)));
    }

    async fn until(&mut self, what: &str, enough: impl Fn(&BTreeMap<String, ContainerStatus>) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !enough(&self.seen) {
            if tokio::time::timeout_at(deadline, self.report()).await.is_err() {
                panic!("never {what}: {:#?}", self.seen);
            }
        }
    }

    async fn until_running(&mut self, count: usize) {
        self.until("all running", |seen| {
            seen.len() == count && seen.values().all(|status| status.state == ContainerState::Running)
        })
        .await;
    }

    /// As when the agent's process ends.
    async fn leave(mut self) -> BTreeMap<String, ContainerStatus> {
        drop(self.handle);
        while self.reports.recv().await.is_some() {}
        self.seen
    }

    fn pid(&self, name: &str) -> u32 {
        self.seen[name].pid.expect("it runs")
    }
}

fn proc_file(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap()
}

fn assert_confined(lab: &Lab, pid: u32, name: &str) {
    let status = proc_file(pid, "status");
    let field = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default().trim().to_owned();
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("NSpid:").split_whitespace().last(), Some("1"));
    let bits = |key: &str| u64::from_str_radix(&field(key), 16).unwrap();
    assert_eq!(bits("CapEff:") & (1 << 21), 0, "CAP_SYS_ADMIN");
    assert_eq!(bits("CapInh:"), 0);
    assert_eq!(bits("SigIgn:") & (1 << 12), 0, "SIGPIPE");
    let mounts = proc_file(pid, "mountinfo");
    let options = |point: &str| {
        let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(point));
        line.and_then(|line| line.split(' ').nth(5)).unwrap_or_else(|| panic!("{point}: {mounts}")).to_owned()
    };
    assert!(options("/").starts_with("ro"), "{}", options("/"));
    assert!(options("/tmp").starts_with("rw"));
    assert!(options("/proc/sys").starts_with("ro"));
    for namespace in ["mnt", "pid", "ipc", "uts", "net"] {
        let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_ne!(link(&pid.to_string()), link("thread-self"), "{namespace}");
    }
    let limits = proc_file(pid, "limits");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("1024"));
    let log = lab.state_dir().join("containers").join(name).join("log");
    for output in [1, 2] {
        assert_eq!(fs::read_link(format!("/proc/{pid}/fd/{output}")).unwrap(), log);
    }
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let pipes = descriptors.filter(|d| fs::read_link(d.path()).is_ok_and(|l| l.to_string_lossy().contains("pipe:")));
    assert_eq!(pipes.count(), 0, "of the agent");
    let group = format!("/ringmesh/{}/{name}", lab.instance);
    assert!(proc_file(pid, "cgroup").lines().any(|line| line.contains("memory") && line.ends_with(&group)));
    let limit = format!("/sys/fs/cgroup/memory{group}/memory.limit_in_bytes");
    if let Ok(bytes) = fs::read_to_string(limit) {
        assert_eq!(bytes.trim(), "33554432");
    }
    let hostname = Command::new("nsenter").args(["-t", &pid.to_string(), "-u", "hostname"]).output().unwrap();
    assert_eq!(String::from_utf8(hostname.stdout).unwrap().trim(), name);
}

async fn life_of_containers(runtime: &'static str) {
    let lab = Lab::new(runtime);
    let containers: String = (0..3).map(|n| lab.container(&format!("web{n}"), runtime, n)).collect();
    let config = lab.config(&containers);
    let mut agent = lab.agent(&config);
    agent.report().await;
    assert_eq!(agent.seen.len(), 3, "a full list first");
    agent.until_running(3).await;
    for number in 0..3 {
        assert!(get_soon(number).ends_with("hello\n"));
    }
    assert_eq!(agent.seen["web1"].addresses, ["10.9.0.3/24"]);
    assert!(agent.seen["web1"].netns.as_ref().is_some_and(|netns| netns.exists()));
    assert!(agent.seen["web1"].started_at.is_some());
    assert_confined(&lab, agent.pid("web0"), "web0");
    assert_eq!(veths().len(), 3);

    kill(Pid::from_raw(agent.pid("web2") as i32), Signal::SIGKILL).unwrap();
    agent.until("stopped", |seen| seen["web2"].state == ContainerState::Stopped).await;
    assert_eq!((agent.seen["web2"].pid, &agent.seen["web2"].netns), (None, &None));

    let before = agent.leave().await;
    assert!(get(0, PATIENCE).unwrap().ends_with("hello\n"), "it outlives its agent");
    let mut agent = lab.agent(&config);
    agent.report().await;
    assert_eq!(agent.seen, before, "taken over, the same processes");

    agent.handle.restart("web2").await.unwrap();
    agent.until_running(3).await;
    let begin = Instant::now();
    assert!(get_soon(2).ends_with("hello\n"));
    assert!(begin.elapsed() < Duration::from_secs(5), "the neighbours' caches are right");
    let old = agent.pid("web0");
    agent.handle.restart("web0").await.unwrap();
    agent.until("another process", |seen| seen["web0"].pid.is_some_and(|pid| pid != old)).await;
    let begin = Instant::now();
    assert!(get_soon(0).ends_with("hello\n"));
    assert!(begin.elapsed() < Duration::from_secs(5), "the neighbours' caches are right");

    agent.handle.pause("web1").await.unwrap();
    agent.until("paused", |seen| seen["web1"].state == ContainerState::Paused).await;
    get(1, Duration::from_millis(300)).expect_err("frozen processes answer nothing");
    agent.handle.pause("web1").await.expect_err("it does not run");
    agent.handle.resume("web1").await.unwrap();
    agent
        .until("running", |seen| seen["web1"].state == ContainerState::Running && seen["web1"].problem.is_none())
        .await;
    assert!(get_soon(1).ends_with("hello\n"));

    agent.handle.stop("web0").await.unwrap();
    agent.until("stopped", |seen| seen["web0"].state == ContainerState::Stopped).await;
    // What is frozen must die as well.
    agent.handle.pause("web1").await.unwrap();
    agent.leave().await;
    runtime::teardown(&lab.state_dir(), &lab.instance).unwrap();
    lab.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root"]
fn containers_of_libcontainer_live_are_taken_over_and_vanish() {
    in_netns(|| life_of_containers("libcontainer"));
}

#[test]
#[ignore = "needs root"]
fn containers_of_runc_live_are_taken_over_and_vanish() {
    in_netns(|| life_of_containers("runc"));
}

#[test]
#[ignore = "needs root"]
fn containers_of_crun_live_are_taken_over_and_vanish() {
    in_netns(|| async {
        hide_unified_cgroups();
        life_of_containers("crun").await;
    });
}

#[test]
#[ignore = "needs root"]
fn a_start_that_fails_is_explained_in_one_line_and_leaves_nothing() {
    in_netns(|| async {
        let lab = Lab::new("fail");
        let rootfs = lab.directory.path().join("rootfs");
        let containers = lab.container("a-crun", "crun", 0)
            + &lab.container("no-rootfs", "libcontainer", 1).replace(rootfs.to_str().unwrap(), "/no/such/rootfs")
            + &lab.container("no-program", "libcontainer", 2).replace("\"httpd\"", "\"/bin/no-such-program\"")
            + &lab.container("no-gateway", "libcontainer", 3).replace("10.9.0.1\"", "10.200.0.1\"");
        let mut agent = lab.agent(&lab.config(&containers));
        agent
            .until("all tried", |seen| {
                let settled = |s: &ContainerStatus| s.problem.is_some() || s.state == ContainerState::Running;
                seen.len() == 4 && seen.values().all(settled)
            })
            .await;
        for (name, status) in &agent.seen {
            eprintln!("{name}: {:?} {:?}", status.state, status.problem);
            assert!(status.problem.as_ref().is_none_or(|problem| !problem.contains('\n')));
        }
        let problem = |name: &str| agent.seen[name].problem.clone().unwrap_or_default();
        assert!(problem("no-rootfs").starts_with("root file system /no/such/rootfs: "));
        assert!(problem("no-program").contains("/bin/no-such-program"), "{}", problem("no-program"));
        assert!(problem("no-gateway").starts_with("network: cannot add the default route"));
        // Hybrid control groups are what crun refuses; elsewhere it works.
        let hybrid = Path::new("/sys/fs/cgroup/unified").exists();
        let crun = &agent.seen["a-crun"];
        match hybrid {
            true => assert!(problem("a-crun").starts_with("crun: "), "{crun:?}"),
            false => assert_eq!(crun.state, ContainerState::Running),
        }
        if hybrid {
            assert_eq!(lab.processes(), [0_i32; 0]);
            assert_eq!(veths(), Vec::<String>::new());
        }
        agent.leave().await;
        runtime::teardown(&lab.state_dir(), &lab.instance).unwrap();
        lab.assert_nothing_is_left();
    });
}

/// A bundle for a shim that the test runs itself.
async fn bundle(lab: &Lab, name: &str) {
    let mut agent = lab.agent(&lab.config(&lab.container(name, "libcontainer", 0)));
    agent.until_running(1).await;
    agent.leave().await;
    // Its process goes, its bundle stays; what the runtime knows goes too.
    for pid in lab.processes() {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    while !lab.processes().is_empty() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::remove_dir_all(lab.state_dir().join("runtime/libcontainer").join(name)).unwrap();
}

#[test]
#[ignore = "needs root"]
fn an_agent_that_dies_before_the_start_leaves_no_container() {
    in_netns(|| async {
        let lab = Lab::new("orphan");
        bundle(&lab, "web").await;
        let mut shim = lab.shim("web");
        let mut answers = BufReader::new(shim.stdout.take().unwrap()).lines();
        let created = answers.next().unwrap().unwrap();
        let pid: u32 = created.strip_prefix("created ").expect(&created).parse().unwrap();
        assert!(lab.processes().contains(&(pid as i32)));
        eprintln!("shim waiting: {}", proc_file(shim.id(), "status").lines().find(|l| l.starts_with("VmRSS")).unwrap());
        drop(shim.stdin.take());
        let answer = answers.next().unwrap().unwrap();
        assert_eq!(answer, "error the agent went away before the container was started");
        assert!(!shim.wait().unwrap().success());
        assert_eq!(lab.processes(), [0_i32; 0]);
        assert!(!lab.state_dir().join("runtime/libcontainer/web").exists());
    });
}

#[test]
#[ignore = "needs root; prints figures"]
fn figures() {
    for count in [1, 20] {
        in_netns(move || async move {
            let lab = Lab::new(&format!("figures{count}"));
            let containers: String = (0..count).map(|n| lab.container(&format!("web{n}"), "libcontainer", n)).collect();
            let begin = Instant::now();
            let mut agent = lab.agent(&lab.config(&containers));
            agent.until_running(count).await;
            let started = begin.elapsed();
            get_soon(count - 1);
            eprintln!("{count} containers: running after {started:?}, last one answers after {:?}", begin.elapsed());
            agent.leave().await;
            let begin = Instant::now();
            let mut agent = lab.agent(&lab.config(&containers));
            agent.report().await;
            eprintln!("{count} containers: taken over after {:?}", begin.elapsed());
            agent.leave().await;
            let begin = Instant::now();
            runtime::teardown(&lab.state_dir(), &lab.instance).unwrap();
            eprintln!("{count} containers: removed after {:?}", begin.elapsed());
            lab.assert_nothing_is_left();
        });
    }
}
