//! Repair for real: containers that are killed, hang, answer wrongly or eat their memory, operators that freeze and
//! restart them from another host, and agents that die in the middle of it. Every wait is for something that agents tell.

#[allow(dead_code)] // It has more than is needed here.
#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, clippy::unwrap_used)]
#[path = "../containers/mod.rs"]
mod containers;
mod daemon;
#[allow(dead_code, unused_imports, clippy::unwrap_used)]
#[path = "../daemons/mod.rs"]
mod daemons;
mod disk;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use common::{BINARY, LONG, Lab, Past, Traces};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ringmesh_agentd::{
    config::{Config, RepairMode, RungName, Service},
    lab::{AgentState, Fault, HostStatus, wait},
};
use ringmesh_proto::v1::{self, container::State, verdict::Value as Verdict};

const H1: &str = "h1";
const BOTH: [&str; 2] = ["h1", "h2"];

#[test]
#[ignore = "needs root"]
fn operators_freeze_restart_and_clone_from_any_host() {
    let before = Traces::of("repair-ops");
    let lab = Lab::up("repair-ops", 2, 3);
    a_freeze_holds_over_a_restart_of_the_agent(&lab);
    a_restart_and_a_clone(&lab);
    what_cannot_be_done_is_said(&lab);
    a_drain_and_a_disarming_survive(&lab);
    drop(lab);
    assert_eq!(Traces::of("repair-ops"), before);
}

fn a_freeze_holds_over_a_restart_of_the_agent(lab: &Lab) {
    let pids = lab.containers("h2");
    let begin = Instant::now();
    let frozen = ordered(lab, H1, &["container", "freeze", "h2/h2-c1", "--reason", "a leak", "--wait"]);
    eprintln!("{:>6} ms from the command at h1 to the end of a freeze at h2", begin.elapsed().as_millis());
    let times = [&frozen["started_at"], &frozen["ended_at"]].map(|time| time.as_str().expect("a time").to_owned());
    let [started, ended] = times.map(|time| time.parse::<jiff::Timestamp>().expect("a time"));
    let took = ended.duration_since(started);
    eprintln!("{:>6} ms of it to pause it and to write that down", took.as_millis());
    assert!(took.as_millis() < 500, "{took:?}");
    assert_eq!((&frozen["state"], &frozen["host"]), (&"done".into(), &"h2".into()));
    let is_frozen = |pid: u32| frozen_state(pid) == "FROZEN";
    assert!(is_frozen(pids[0]), "{}", frozen_state(pids[0]));
    lab.until("it is shown so at every host", &BOTH, container("h2/h2-c1", |c| c.frozen && c.state() == State::Paused));

    lab.fault(&Fault::Kill { host: "h2".into() });
    lab.fault(&Fault::Start { host: "h2".into() });
    lab.until("and after a restart of its agent", &BOTH, container("h2/h2-c1", |c| c.frozen && c.pid == pids[0]));
    assert!(is_frozen(pids[0]));
    let shown = json(&ringmesh(lab, H1, &["container", "show", "h2/h2-c1"]));
    assert_eq!((&shown["hold"]["reason"], &shown["hold"]["who"]), (&"a leak".into(), &"root on h1".into()));

    ordered(lab, H1, &["container", "release", "h2/h2-c1", "--wait"]);
    lab.until("released it is well", &BOTH, well("h2/h2-c1"));
    assert_eq!(lab.containers("h2"), pids, "the same processes");
}

fn a_restart_and_a_clone(lab: &Lab) {
    let old = lab.containers("h2");
    let restarted = ordered(lab, H1, &["container", "restart", "h2-c1", "--wait"]);
    assert_eq!(restarted["progress"], "it is well");
    assert_ne!(lab.containers("h2")[0], old[0]);
    let service = ordered(lab, H1, &["container", "restart", "h2-c2", "--service", "web", "--wait"]);
    assert_eq!((&service["kind"], &service["state"]), (&"restart_service".into(), &"done".into()));
    assert_eq!(lab.containers("h2")[1], old[1], "the container runs on");

    let cloned = ordered(lab, H1, &["container", "clone", "h2-c3", "--wait"]);
    assert_eq!(cloned["replacement"], "h2-c3.1");
    lab.until("the clone is well, and in the place of the other", &BOTH, |host, seen: &wait::Seen<v1::Container>| {
        if seen.contains_key("h2/h2-c3") { Err("the old one is there".into()) } else { well("h2/h2-c3.1")(host, seen) }
    });
    let clone = lab.containers("h2")[2];
    assert_ne!(clone, old[2]);
    lab.fault(&Fault::Kill { host: "h2".into() });
    lab.fault(&Fault::Start { host: "h2".into() });
    lab.until("it is found again", &BOTH, container("h2/h2-c3.1", |c| c.pid == clone && is_well(c)));
    ordered(lab, H1, &["container", "clone", "h2-c3.1", "--wait"]);
    lab.until("clones count on", &BOTH, well("h2/h2-c3.2"));
    assert_eq!(lab.containers("h2").len(), 3, "each once");
}

fn what_cannot_be_done_is_said(lab: &Lab) {
    let status = |args: &[&str]| {
        let output = ringmesh(lab, H1, args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(error.lines().count(), 1, "{error}");
        (output.status.code(), error)
    };
    assert_eq!(status(&["container", "restart", "h9-c9"]).0, Some(4));
    assert_eq!(status(&["container", "release", "h2-c1"]).0, Some(5));
    assert_eq!(status(&["operation", "show", "nonsense"]).0, Some(2));
    assert_eq!(status(&["operation", "approve", "0000002a-1-1"]).0, Some(4));
    ordered(lab, H1, &["container", "freeze", "h2-c1", "--wait"]);
    let (code, error) = status(&["container", "restart", "h2-c1"]);
    assert!(code == Some(5) && error.contains("frozen by root on h1"), "{error}");
    ordered(lab, H1, &["container", "release", "h2-c1", "--wait"]);

    lab.fault(&Fault::Kill { host: "h2".into() });
    let (code, error) = status(&["container", "restart", "h2/h2-c1"]);
    assert!(code == Some(3) && error.contains("h2 cannot be reached"), "{error}");
    lab.fault(&Fault::Start { host: "h2".into() });
    lab.until("well again", &BOTH, well("h2/h2-c1"));
}

fn a_drain_and_a_disarming_survive(lab: &Lab) {
    ordered(lab, H1, &["host", "drain", "h2", "--wait"]);
    let disarmed = ordered(lab, "h2", &["disarm", "--mode", "ignore", "--reason", "new switches"]);
    assert_eq!(disarmed["mode"], "ignore");
    let knows = |host: &str| json(&ringmesh(lab, host, &["disarm", "--show"]))["mode"] == "ignore";
    assert!(wait::until_true(LONG, || knows(H1)), "the other host has heard of it");
    for host in BOTH {
        lab.fault(&Fault::Kill { host: host.into() });
    }
    for host in BOTH {
        lab.fault(&Fault::Start { host: host.into() });
    }
    lab.until("the drain is remembered", &BOTH, |_, seen: &wait::Seen<v1::Host>| {
        let drained = seen.get("h2").is_some_and(|host| host.drained);
        if drained { Ok(()) } else { Err("h2 is not drained".into()) }
    });
    assert!(knows(H1) && knows("h2"));
    ordered(lab, H1, &["arm"]);
    assert!(wait::until_true(LONG, || !knows("h2")));
    ordered(lab, H1, &["host", "undrain", "h2", "--wait"]);
}

/// One lab for all that happens to containers.
#[test]
#[ignore = "needs root"]
fn sick_containers_are_repaired() {
    let before = Traces::of("repair-sick");
    let lab = Lab::up("repair-sick", 2, 4);
    reconfigure(
        &lab,
        |config| {
            config.repair.mode = RepairMode::Automatic;
            for step in
                [&mut config.repair.restart_service, &mut config.repair.restart_container, &mut config.repair.clone]
            {
                (step.attempts, step.timeout, step.back_off) = (1, Duration::from_secs(4), Duration::from_millis(200));
            }
            config.repair.quiet = Duration::from_secs(1);
            // c1 has, beside its page, a check that a file in it fails.
            let file = checked_by_file(&config.containers[0].services[0]);
            config.containers[0].services.push(file);
            // c2 eats all memory when it is told to.
            let eater = "until test -e /tmp/eat; do sleep 0.1; done; exec tail /dev/zero";
            let oci = config.containers[1].oci.as_mut().expect("it is one");
            oci.args = ["/bin/sh", "-c", eater, &oci.args[2]].map(str::to_owned).to_vec();
            oci.memory_limit = Some(16 << 20);
            config.containers[1].services.clear();
            // c3 has a page of its own.
            config.containers[2].services[0].http.as_mut().expect("it is served").path = "/c3.html".into();
        },
        |rootfs| fs::write(rootfs.join("www/c3.html"), "c3\n").expect("it is ours"),
    );
    ordered(&lab, H1, &["container", "restart", "h1-c2", "--wait"]);
    ordered(&lab, H1, &["container", "restart", "h1-c1", "--wait"]);

    a_killed_process(&lab);
    a_container_that_ends(&lab);
    a_service_that_hangs(&lab);
    a_wrong_answer(&lab);
    out_of_memory(&lab);
    an_agent_that_dies_in_the_middle(&lab);
    a_ladder_to_its_end(&lab);
    a_mass_failure(&lab);
    drop(lab);
    assert_eq!(Traces::of("repair-sick"), before);
}

fn a_killed_process(lab: &Lab) {
    let past = lab.past(&BOTH);
    let pid = lab.containers(H1)[3];
    lab.fault(&Fault::KillService { host: H1.into(), container: "h1-c4".into() });
    let done = repaired(lab, &past, "h1-c4", "a killed process is started anew");
    assert!(done.text.contains("restart of web in h1-c4"), "{}", done.text);
    assert_eq!(lab.containers(H1)[3], pid, "the container runs on");
}

fn a_container_that_ends(lab: &Lab) {
    let past = lab.past(&BOTH);
    let pid = lab.containers(H1)[3];
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("it runs");
    repaired(lab, &past, "h1-c4", "a container that ends is made anew");
    assert_ne!(lab.containers(H1)[3], pid);
}

fn a_service_that_hangs(lab: &Lab) {
    let past = lab.past(&BOTH);
    let httpd = child(lab.containers(H1)[3], "httpd");
    kill(Pid::from_raw(httpd as i32), Signal::SIGSTOP).expect("it runs");
    let done = repaired(lab, &past, "h1-c4", "a service that hangs is started anew");
    assert!(done.text.contains("no answer within"), "{}", done.text);
}

/// Its container's restart helps: /tmp is new then. From the verdict on it is measured until a clone answers.
fn a_wrong_answer(lab: &Lab) {
    let past = lab.past(&BOTH);
    fs::write(inside(lab.containers(H1)[0], "tmp/bad"), "").expect("it is ours");
    let done = repaired(lab, &past, "h1-c1", "a wrong answer leads to a restart of the container");
    assert!(done.text.contains("file is critical: exit status 1"), "{}", done.text);

    reconfigure(lab, |config| config.repair.rungs = vec![RungName::Clone], |_| ());
    let past = lab.past(&BOTH);
    fs::write(inside(lab.containers(H1)[0], "tmp/bad"), "").expect("it is ours");
    let done = repaired(lab, &past, "h1-c1", "or to a clone");
    let clone = operation(lab, &done.operation);
    let time = |key: &str| clone[key].as_str().expect("a time").parse::<jiff::Timestamp>().expect("a time");
    let took =
        time("ended_at").duration_since(clone["evidence"]["since"].as_str().expect("a time").parse().expect("a time"));
    eprintln!("{:>6} ms from the verdict until the clone answers", took.as_millis());
    assert!(took.as_millis() < 10_000, "{took:?}");
    let all = RungName::RestartService;
    let all = vec![all, RungName::RestartContainer, RungName::Clone, RungName::Freeze];
    reconfigure(lab, |config| config.repair.rungs = all, |_| ());
}

fn out_of_memory(lab: &Lab) {
    let past = lab.past(&BOTH);
    let pid = lab.containers(H1)[1];
    fs::write(inside(pid, "tmp/eat"), "").expect("it is ours");
    repaired(lab, &past, "h1-c2", "a container that the kernel killed for its memory is made anew");
    assert_ne!(lab.containers(H1)[1], pid);
}

/// After each kind of action, and at different moments of it. Whatever was done by then: it is there once, and well.
fn an_agent_that_dies_in_the_middle(lab: &Lab) {
    let orders: [&[&str]; 3] = [&["restart", "h1-c4", "--service", "web"], &["restart", "h1-c4"], &["clone", "h1-c4"]];
    let mut name = "h1-c4".to_owned();
    for order in orders {
        for delay_ms in [0, 20, 60] {
            let mut args = vec!["container", order[0], &name, "--no-wait"];
            args.extend(order[2..].iter());
            let given = ordered(lab, H1, &args);
            let id = given["id"].as_str().expect("text").to_owned();
            // Not a wait: so late the fault comes.
            std::thread::sleep(Duration::from_millis(delay_ms));
            lab.fault(&Fault::Kill { host: H1.into() });
            lab.fault(&Fault::Start { host: H1.into() });
            let answers = || lab.host(H1).state == AgentState::Running;
            assert!(wait::until_true(LONG, answers));
            let mut after = serde_json::Value::Null;
            let ended = || {
                after = operation(lab, &id);
                !["running", "proposed"].contains(&after["state"].as_str().unwrap_or_default())
            };
            // One that was not on disk yet when the agent died never was.
            if wait::until_true(Duration::from_secs(5), || shows(lab, &id)) {
                assert!(wait::until_true(LONG, ended), "{after}");
                assert_eq!(after["state"], "done", "{after}");
                if let Some(clone) = after["replacement"].as_str().filter(|clone| !clone.is_empty()) {
                    name = clone.to_owned();
                }
            }
            eprintln!("         {} killed after {delay_ms} ms: {} {}", order[0], after["state"], after["progress"]);
            lab.until("well, whatever was done", &[H1], well(&format!("h1/{name}")));
            assert_eq!(lab.containers(H1).len(), 4, "each once");
        }
    }
}

fn a_ladder_to_its_end(lab: &Lab) {
    let past = lab.past(&BOTH);
    fs::remove_file(rootfs(lab).join("www/c3.html")).expect("it is ours");
    let done = event(lab, &past, "operation-done", "h1-c3.1", "what nothing helps is frozen in the end");
    assert!(done.text.contains("freeze of h1-c3.1: frozen"), "{}", done.text);
    let failed: Vec<String> = wait::events(&lab.host(H1))
        .expect("it answers")
        .into_iter()
        .filter(|event| past.lacks(event) && event.kind == "operation-failed")
        .map(|event| event.text.split(':').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(failed, ["restart of web in h1-c3", "restart of h1-c3", "clone of h1-c3 as h1-c3.1"]);
    lab.until("that is shown", &BOTH, container("h1/h1-c3.1", |c| c.frozen));
    fs::write(rootfs(lab).join("www/c3.html"), "c3\n").expect("it is ours");
    ordered(lab, H1, &["container", "release", "h1-c3.1", "--wait"]);
    lab.until("released it is well", &BOTH, well("h1/h1-c3.1"));
}

/// The page that all serve is gone: restarting them would help nobody.
fn a_mass_failure(lab: &Lab) {
    reconfigure(
        lab,
        |config| config.repair.limits.sick_min = 1,
        |rootfs| {
            fs::rename(rootfs.join("www/index.html"), rootfs.join("www/away.html")).expect("it is ours");
            fs::rename(rootfs.join("www/c3.html"), rootfs.join("www/c3-away.html")).expect("it is ours");
        },
    );
    let none = lab.past(&[]);
    event(lab, &none, "repair-stopped", "", "when most are sick, repair stops");
    let past = lab.past(&BOTH);
    let www = rootfs(lab).join("www");
    fs::rename(www.join("away.html"), www.join("index.html")).expect("it is ours");
    fs::rename(www.join("c3-away.html"), www.join("c3.html")).expect("it is ours");
    event(lab, &past, "repair-resumed", "", "and goes on when they are well");
    lab.until("none is frozen", &[H1], |_, seen: &wait::Seen<v1::Container>| {
        let bad: Vec<&str> = seen.values().filter(|c| c.host == H1 && !is_well(c)).map(|c| c.name.as_str()).collect();
        if bad.is_empty() { Ok(()) } else { Err(format!("{bad:?}")) }
    });
}

/// Waits until something was done to a container, and that has helped.
fn repaired(lab: &Lab, past: &Past, container: &str, what: &str) -> v1::Event {
    event(lab, past, "operation-done", container, what)
}

fn event(lab: &Lab, past: &Past, kind: &str, container: &str, what: &str) -> v1::Event {
    let begin = Instant::now();
    // A clone goes on under another name.
    let about =
        |event: &v1::Event| event.container == container || event.container.starts_with(&format!("{container}."));
    let wanted = |event: &v1::Event| event.kind == kind && event.host == H1 && (container.is_empty() || about(event));
    let found = lab.until_event(what, &[H1], past, wanted).remove(0);
    eprintln!("{:>6.1} s  {what}: {}", begin.elapsed().as_secs_f32(), found.text);
    found
}

/// Another configuration for h1, whose agent is started anew; `prepare` may change the containers' root file system.
fn reconfigure(lab: &Lab, change: impl FnOnce(&mut Config), prepare: impl FnOnce(&Path)) {
    let path = lab.status().dir.join("h1/agent.toml");
    let mut config = Config::load(&path).expect("the lab wrote it");
    change(&mut config);
    lab.fault(&Fault::Kill { host: H1.into() });
    fs::write(&path, config.to_toml()).expect("it is ours");
    prepare(&rootfs(lab));
    lab.fault(&Fault::Start { host: H1.into() });
}

/// Like `page`, but that a file in its container fails it at once.
fn checked_by_file(page: &Service) -> Service {
    Service {
        name: "file".into(),
        exec: Some(["/bin/sh", "-c", "test ! -e /tmp/bad"].map(str::to_owned).to_vec()),
        http: None,
        restart: Vec::new(),
        interval: Duration::from_millis(500),
        threshold_down: 1,
        ..page.clone()
    }
}

fn rootfs(lab: &Lab) -> PathBuf {
    lab.status().dir.join("rootfs")
}

fn inside(pid: u32, path: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join("root").join(path)
}

fn child(pid: u32, name: &str) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it runs");
    let mut pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    let is = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
    pids.find(is).expect("it runs")
}

/// As the kernel's freezer says, of whichever version.
fn frozen_state(pid: u32) -> String {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let group = |controller: &str| groups.lines().find_map(|line| line.split_once(controller).map(|(_, path)| path));
    if let Some(path) = group(":freezer:") {
        let text = fs::read_to_string(format!("/sys/fs/cgroup/freezer{path}/freezer.state"));
        return text.expect("a freezer").trim().to_owned();
    }
    let path = group("0::").expect("version 2");
    let frozen = fs::read_to_string(format!("/sys/fs/cgroup{path}/cgroup.freeze")).expect("a freezer");
    if frozen.trim() == "1" { "FROZEN" } else { "THAWED" }.to_owned()
}

fn is_well(container: &v1::Container) -> bool {
    container.state() == State::Running && container.verdict() == Verdict::Passing && !container.frozen
}

fn well(key: &str) -> impl Fn(&HostStatus, &wait::Seen<v1::Container>) -> Result<(), String> + use<> {
    container(key.to_owned(), is_well)
}

fn container(
    key: impl Into<String>,
    wanted: impl Fn(&v1::Container) -> bool,
) -> impl Fn(&HostStatus, &wait::Seen<v1::Container>) -> Result<(), String> {
    let key = key.into();
    move |_, seen| match seen.get(&key) {
        Some(container) if wanted(container) => Ok(()),
        other => Err(format!("{key}: {other:?}")),
    }
}

fn ringmesh(lab: &Lab, host: &str, args: &[&str]) -> Output {
    let api = lab.host(host).api;
    let mut command = Command::new(BINARY);
    command.args(["--host", &api, "-o", "json"]).args(args).output().expect("the program under test")
}

fn ordered(lab: &Lab, host: &str, args: &[&str]) -> serde_json::Value {
    json(&ringmesh(lab, host, args))
}

fn operation(lab: &Lab, id: &str) -> serde_json::Value {
    json(&ringmesh(lab, H1, &["operation", "show", id]))
}

fn shows(lab: &Lab, id: &str) -> bool {
    ringmesh(lab, H1, &["operation", "show", id]).status.success()
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}
