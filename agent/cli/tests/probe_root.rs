//! Exec probes with the real binary as runner, in namespaces that the test makes. All need root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use ringmesh_agentd::{
    config,
    probe::{Check, CheckId, ProbeReply, ProbeRequest, Prober, Step},
};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(400);

/// A process with namespaces of its own; ends when dropped.
struct Container {
    unshare: Child,
    pid: u32,
}

impl Container {
    fn new() -> Self {
        Self::with(&[], &[])
    }

    /// `flags` for unshare, `wrapper` in front of the first process.
    fn with(flags: &[&str], wrapper: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        command.args(["-muinp", "--fork", "--kill-child", "--mount-proc"]).args(flags).args(wrapper);
        let unshare = command.args(["sleep", "1000"]).spawn().expect("util-linux is installed");
        let mut container = Self { pid: 0, unshare };
        let children = format!("/proc/{0}/task/{0}/children", container.unshare.id());
        eventually("the first process runs", || {
            let pids = fs::read_to_string(&children).expect("unshare lives");
            let Some(pid) = pids.split_whitespace().next().and_then(|pid| pid.parse().ok()) else { return false };
            container.pid = pid;
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")
        });
        container
    }

    fn netns(&self) -> Option<PathBuf> {
        Some(format!("/proc/{}/ns/net", self.pid).into())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

struct Hands {
    prober: Prober,
    replies: mpsc::Receiver<ProbeReply>,
}

impl Hands {
    fn new() -> Self {
        let (sender, replies) = mpsc::channel(64);
        let config = config::Probe { exec_concurrency: 4, ..config::Probe::default() };
        let prober = Prober::spawn(&config, env!("CARGO_BIN_EXE_ringmesh").into(), sender).expect("a thread");
        Self { prober, replies }
    }

    fn start(&self, pid: Option<u32>, netns: Option<PathBuf>, argv: &[&str], timeout: Duration) -> bool {
        self.start_check(pid, netns, exec(argv), timeout)
    }

    fn start_check(&self, pid: Option<u32>, netns: Option<PathBuf>, check: Check, timeout: Duration) -> bool {
        let check = Arc::new(check);
        self.prober.start(ProbeRequest { id: CheckId(7), check, pid, netns, timeout, max_latency: None }).is_ok()
    }

    fn run(&mut self, pid: Option<u32>, netns: Option<PathBuf>, argv: &[&str], timeout: Duration) -> ProbeReply {
        assert!(self.start(pid, netns, argv, timeout), "there is room");
        self.replies.blocking_recv().expect("the prober lives")
    }

    fn within(&mut self, container: &Container, argv: &[&str]) -> (bool, String) {
        let reply = self.run(Some(container.pid), container.netns(), argv, PATIENCE);
        (reply.sign.is_right(), reply.answer)
    }
}

fn exec(argv: &[&str]) -> Check {
    Check::Exec { argv: argv.iter().map(|&word| word.into()).collect() }
}

/// The processes whose command line holds `words`.
fn processes(words: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc")
        .expect("proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).replace('\0', " ").contains(words))
    })
    .collect()
}

/// The exec runners of this test process.
fn runners() -> Vec<u32> {
    let parent = format!("PPid:\t{}\n", std::process::id());
    let ours = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|text| text.contains(&parent));
    processes("exec-runner").into_iter().filter(ours).collect()
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// One test, because it looks at all processes.
#[test]
#[ignore = "needs root"]
fn root_exec_probes() {
    let container = Container::new();
    let mut hands = Hands::new();
    answers(&mut hands, &container);
    namespaces_and_environment(&mut hands, &container);
    a_late_program_is_killed_with_its_children(&mut hands, &container);
    what_a_program_writes_and_how_long_it_runs_is_bounded(&mut hands, &container);
    steps_of_a_plan_are_programs_too(&mut hands, &container);
    only_the_named_process_is_joined(&mut hands, &container);
    no_more_capabilities_than_the_container(&mut hands);
    a_container_in_a_user_namespace(&mut hands);
    the_container_pays(&mut hands);
    a_runner_that_dies_is_replaced(&mut hands, &container);
    nothing_outlives_the_prober(hands, &container);
}

fn answers(hands: &mut Hands, container: &Container) {
    assert_eq!(hands.within(container, &["true"]), (true, "exit status 0".into()));
    assert_eq!(hands.within(container, &["echo", "all", "well"]), (true, "all well".into()));
    let bad = ["sh", "-c", "echo out; echo err >&2; exit 3"];
    assert_eq!(hands.within(container, &bad), (false, "exit status 3: out err".into()));
    assert_eq!(hands.within(container, &["sh", "-c", "kill -SEGV $$"]), (false, "killed by SIGSEGV".into()));
    let missing = (false, "cannot run /no/such: no such file or directory".into());
    assert_eq!(hands.within(container, &["/no/such"]), missing);
    assert_eq!(hands.within(container, &["sh", "-c", "yes | head -c 1000000"]), (true, "y ".repeat(100).trim().into()));
    // Somebody who left the process group holds the pipe open.
    let begun = Instant::now();
    let daemon = ["sh", "-c", "setsid sleep 3 & echo begun"];
    assert_eq!(hands.within(container, &daemon), (true, "begun".into()));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

fn namespaces_and_environment(hands: &mut Hands, container: &Container) {
    for kind in ["net", "mnt", "uts", "ipc", "pid"] {
        let link =
            |pid: &str| fs::read_link(Path::new("/proc").join(pid).join("ns").join(kind)).expect("proc is mounted");
        let theirs = link(&container.pid.to_string());
        assert_ne!(theirs, link("self"), "{kind}");
        let seen = hands.within(container, &["readlink", &format!("/proc/self/ns/{kind}")]);
        assert_eq!(seen, (true, theirs.display().to_string()));
    }
    let (_, environment) = hands.within(container, &["env"]);
    assert!(environment.starts_with("PATH=") && !environment.contains(' '), "{environment}");
    assert_eq!(hands.within(container, &["pwd"]), (true, "/".into()));
    assert_eq!(hands.within(container, &["cat"]), (true, "exit status 0".into()), "standard input is empty");
    // The three standard streams, and the directory that ls reads.
    assert_eq!(hands.within(container, &["ls", "/proc/self/fd"]), (true, "0 1 2 3".into()));
}

fn a_late_program_is_killed_with_its_children(hands: &mut Hands, container: &Container) {
    let mark = format!("77{}.5", std::process::id());
    let script = format!("echo begun; sleep {mark} & sleep {mark}");
    let reply = hands.run(Some(container.pid), container.netns(), &["sh", "-c", &script], SHORT);
    assert_eq!((reply.sign.is_right(), reply.answer.as_str()), (false, "no answer within 400 ms: begun"));
    assert!((SHORT..SHORT * 5).contains(&reply.latency), "{reply:?}");
    assert!(processes(&format!("sleep {mark}")).is_empty(), "the kill came before the reply");
}

fn what_a_program_writes_and_how_long_it_runs_is_bounded(hands: &mut Hands, container: &Container) {
    // Two gigabytes, and no end of it.
    let reply = hands.within(container, &["head", "-c", "2G", "/dev/zero"]);
    assert_eq!(reply, (true, "exit status 0".into()), "zeros are no text");
    let reply = hands.run(Some(container.pid), container.netns(), &["yes", "well"], SHORT);
    assert!(!reply.sign.is_right() && reply.answer.starts_with("no answer within 400 ms: well well"), "{reply:?}");
    // It does not want to end, closes its output, or waits for input.
    for script in ["trap '' TERM INT HUP; while :; do :; done", "exec >&- 2>&-; sleep 100", "cat; sleep 100"] {
        let reply = hands.run(Some(container.pid), container.netns(), &["sh", "-c", script], SHORT);
        assert_eq!((reply.sign.is_right(), reply.answer.as_str()), (false, "no answer within 400 ms"), "{script}");
        assert!(reply.latency < SHORT * 5, "{reply:?}");
    }
    let invalid = hands.within(container, &["printf", r"\377\376 well \033[2J\000"]);
    assert_eq!(invalid, (true, "\u{fffd}\u{fffd} well  [2J".into()));
}

fn steps_of_a_plan_are_programs_too(hands: &mut Hands, container: &Container) {
    let mut plan = |steps: &[(&str, &[&str])], timeout| {
        let step = |(name, argv): &(&str, &[&str])| Step {
            name: (*name).into(),
            check: Arc::new(exec(argv)),
            max_latency: None,
        };
        let check = Check::Plan { steps: steps.iter().map(step).collect(), timeout };
        assert!(hands.start_check(Some(container.pid), container.netns(), check, SHORT), "there is room");
        let reply = hands.replies.blocking_recv().expect("the prober lives");
        (reply.sign.is_right(), reply.answer)
    };
    let steps: [(&str, &[&str]); 2] = [("one", &["true"]), ("two", &["echo", "well"])];
    assert_eq!(plan(&steps, PATIENCE), (true, "2 steps, the last: well".into()));
    let steps: [(&str, &[&str]); 2] = [("one", &["sh", "-c", "echo bad; exit 2"]), ("two", &["true"])];
    assert_eq!(plan(&steps, PATIENCE), (false, "step one: exit status 2: bad".into()));
    let steps: [(&str, &[&str]); 2] = [("one", &["true"]), ("two", &["sleep", "100"])];
    assert_eq!(plan(&steps, SHORT), (false, "step two: no answer within 400 ms".into()));
}

fn only_the_named_process_is_joined(hands: &mut Hands, container: &Container) {
    let absent = |reply: ProbeReply| {
        assert_eq!((reply.sign.is_right(), reply.answer.as_str()), (false, "the container does not run"))
    };
    absent(hands.run(None, None, &["true"], PATIENCE));
    absent(hands.run(Some(u32::MAX), None, &["true"], PATIENCE));
    absent(hands.run(None, Some("/run/netns/there-is-none".into()), &["true"], PATIENCE));
    // The pid belongs to another process by now: this one.
    absent(hands.run(Some(std::process::id()), container.netns(), &["true"], PATIENCE));
    // Nothing but a network namespace.
    let link = hands.run(None, container.netns(), &["readlink", "/proc/self/ns/net"], PATIENCE);
    assert_eq!(
        link.answer,
        fs::read_link(container.netns().expect("it has one")).expect("it lives").display().to_string()
    );
}

fn no_more_capabilities_than_the_container(hands: &mut Hands) {
    let container = Container::with(&[], &["setpriv", "--bounding-set", "-all,+kill,+chown"]);
    for set in ["CapBnd", "CapEff"] {
        let answer = hands.within(&container, &["sh", "-c", &format!("grep {set} /proc/self/status")]).1;
        assert_eq!(answer, format!("{set}: 0000000000000021"));
    }
}

fn a_container_in_a_user_namespace(hands: &mut Hands) {
    let container = Container::with(&["--user", "--map-root-user"], &[]);
    assert_eq!(hands.within(&container, &["sh", "-c", "id -u; readlink /proc/self/ns/user"]).1, {
        let theirs = fs::read_link(format!("/proc/{}/ns/user", container.pid)).expect("it lives");
        format!("0 {}", theirs.display())
    });
}

fn the_container_pays(hands: &mut Hands) {
    let Some(root) = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .map(Path::new)
        .into_iter()
        .find(|root| root.join("cgroup.controllers").exists())
    else {
        eprintln!("no cgroup hierarchy of version 2 here: not tested");
        return;
    };
    let container = Container::new();
    let name = format!("rm-probe-{}", std::process::id());
    let group = root.join(&name);
    fs::create_dir(&group).expect("root may make a cgroup");
    fs::write(group.join("cgroup.procs"), container.pid.to_string()).expect("root may move a process");
    let answer = hands.within(&container, &["grep", "0::", "/proc/self/cgroup"]);
    drop(container);
    eventually("the cgroup is empty", || fs::remove_dir(&group).is_ok());
    assert_eq!(answer, (true, format!("0::/{name}")));
}

fn a_runner_that_dies_is_replaced(hands: &mut Hands, container: &Container) {
    let mark = format!("78{}.5", std::process::id());
    assert!(hands.start(Some(container.pid), container.netns(), &["sleep", &mark], PATIENCE));
    eventually("the program runs", || !processes(&format!("sleep {mark}")).is_empty());
    let [runner] = runners()[..] else { panic!("one runner") };
    assert!(Command::new("kill").args(["-9", &runner.to_string()]).status().expect("kill is there").success());
    let reply = hands.replies.blocking_recv().expect("the prober lives");
    assert!(!reply.sign.is_right() && reply.answer.contains("runner ended"), "{reply:?}");
    eventually("its program is gone", || processes(&format!("sleep {mark}")).is_empty());
    eventually("another runner answers", || {
        hands.start(Some(container.pid), container.netns(), &["true"], PATIENCE)
            && hands.replies.blocking_recv().is_some_and(|reply| reply.sign.is_right())
    });
}

fn nothing_outlives_the_prober(hands: Hands, container: &Container) {
    let mark = format!("79{}.5", std::process::id());
    assert!(hands.start(Some(container.pid), container.netns(), &["sleep", &mark], PATIENCE));
    eventually("the program runs", || !processes(&format!("sleep {mark}")).is_empty());
    drop(hands);
    eventually("runner and program are gone", || {
        runners().is_empty() && processes(&format!("sleep {mark}")).is_empty()
    });
}
