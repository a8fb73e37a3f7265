//! The same cases for every runtime driver: oci with libcontainer, crun and runc, docker-api with dockerd and podman, declared.
//!
//! Needs root, busybox-static, crun, runc, docker.io and podman: `cargo test --test conformance_root -- --ignored`.

#![allow(clippy::unwrap_used)]

#[path = "../containers/mod.rs"]
mod containers;
mod daemon;
#[path = "../daemons/mod.rs"]
mod daemons;
mod subject;

use std::{path::Path, sync::Arc, time::Duration};

use containers::{PATIENCE, get, get_soon, hide_unified_cgroups, in_netns, private_mounts, veths};
use daemons::{Daemon, Dockerd, IMAGE, Podman};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ringmesh_agentd::{
    config::Container,
    runtime::{
        Capabilities, ContainerState, DeclaredDriver, DockerDriver, Driver, DriverError, Observed, OciDriver, Verb,
    },
};
use subject::{Files, Subject};

const ALL: Capabilities = Capabilities { start: true, stop: true, delete: true, pause: true, resume: true };

/// Looks again until it is as expected: some drivers learn of an end from their daemon.
async fn until(driver: &dyn Driver, name: &str, state: ContainerState) -> Observed {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let observed = driver.inspect(name).await.unwrap();
        if observed.status.state == state {
            return observed;
        }
        assert!(tokio::time::Instant::now() < deadline, "never {state:?}: {observed:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn names(driver: &dyn Driver) -> Vec<String> {
    let mut list = driver.list().await.unwrap();
    list.retain(|observed| observed.status.state != ContainerState::Absent);
    list.into_iter().map(|observed| observed.status.name).collect()
}

fn is_state_error(result: Result<(), DriverError>) -> bool {
    matches!(result, Err(DriverError::State { .. }))
}

/// What every driver that starts containers must do.
async fn conforms(subject: &Subject) {
    let driver = subject.driver();
    capabilities_are_true(&*driver, ALL).await;
    what_is_unknown_is_absent(&*driver).await;
    let running = starts_and_is_looked_at(subject, &*driver).await;
    pauses_and_resumes(&*driver).await;
    is_found_by_the_next_agent(subject, &running).await;
    an_end_is_seen_and_it_starts_anew(subject, &*driver, running).await;
    stops_and_is_deleted(subject, &*driver).await;
    is_cloned(subject, &*driver).await;
    a_failed_start_leaves_nothing(subject, &*driver).await;
}

/// Of what is advertised nothing is unsupported, and of the rest everything.
async fn capabilities_are_true(driver: &dyn Driver, expected: Capabilities) {
    assert_eq!(driver.capabilities(), expected);
    let Capabilities { start: _, stop, delete, pause, resume } = expected;
    for (verb, advertised, result) in [
        (Verb::Stop, stop, driver.stop("none").await),
        (Verb::Delete, delete, driver.delete("none").await),
        (Verb::Pause, pause, driver.pause("none").await),
        (Verb::Resume, resume, driver.resume("none").await),
    ] {
        let unsupported = matches!(&result, Err(DriverError::Unsupported { verb: of, .. }) if *of == verb);
        assert_eq!(unsupported, !advertised, "{verb}: {result:?}");
    }
}

async fn what_is_unknown_is_absent(driver: &dyn Driver) {
    assert_eq!(names(driver).await, [""; 0]);
    assert_eq!(driver.inspect("none").await.unwrap(), Observed::absent("none"));
    driver.stop("none").await.unwrap();
    driver.delete("none").await.unwrap();
    assert!(is_state_error(driver.pause("none").await) && is_state_error(driver.resume("none").await));
}

async fn starts_and_is_looked_at(subject: &Subject, driver: &dyn Driver) -> Observed {
    driver.start(&subject.good).await.unwrap();
    let observed = driver.inspect("good").await.unwrap();
    let status = &observed.status;
    assert_eq!((status.name.as_str(), status.state), ("good", ContainerState::Running), "{observed:?}");
    let process = observed.process.expect("it runs");
    assert!(process.is_alive());
    assert_eq!(status.pid, Some(process.pid));
    let namespace = |path: &Path| std::fs::read_link(path).unwrap();
    let netns = status.netns.as_deref().expect("it runs");
    assert_ne!(namespace(netns), namespace(Path::new("/proc/thread-self/ns/net")));
    assert_eq!(status.addresses, ["10.9.0.2/24"]);
    assert!(status.started_at.is_some() && status.problem.is_none());
    assert_eq!(driver.list().await.unwrap(), std::slice::from_ref(&observed));
    assert!(get_soon(0).ends_with("hello\n"));
    subject.heartbeats.are_heard_from(process);
    observed
}

async fn pauses_and_resumes(driver: &dyn Driver) {
    let before = driver.inspect("good").await.unwrap();
    assert!(is_state_error(driver.resume("good").await));
    driver.pause("good").await.unwrap();
    let paused = driver.inspect("good").await.unwrap();
    assert_eq!((paused.status.state, paused.process), (ContainerState::Paused, before.process));
    get(0, Duration::from_millis(300)).expect_err("frozen processes answer nothing");
    assert!(is_state_error(driver.pause("good").await));
    driver.resume("good").await.unwrap();
    assert_eq!(driver.inspect("good").await.unwrap(), before);
    assert!(get_soon(0).ends_with("hello\n"));
}

async fn is_found_by_the_next_agent(subject: &Subject, running: &Observed) {
    let next = subject.driver();
    assert_eq!(next.list().await.unwrap(), std::slice::from_ref(running));
    assert_eq!(next.inspect("good").await.unwrap(), *running);
}

async fn an_end_is_seen_and_it_starts_anew(subject: &Subject, driver: &dyn Driver, running: Observed) {
    let process = running.process.expect("it runs");
    kill(Pid::from_raw(process.pid as i32), Signal::SIGKILL).unwrap();
    let ended = until(driver, "good", ContainerState::Stopped).await;
    assert_eq!((ended.process, ended.status.pid, &ended.status.netns), (None, None, &None));
    assert_eq!(names(&*subject.driver()).await, ["good"], "it stays known");
    driver.stop("good").await.expect("it is stopped");
    assert!(is_state_error(driver.pause("good").await));
    driver.restart(&subject.good).await.unwrap();
    let again = driver.inspect("good").await.unwrap();
    assert_eq!(again.status.state, ContainerState::Running);
    assert_ne!(again.process, running.process);
    assert!(get_soon(0).ends_with("hello\n"));
    // One that runs is restarted, too.
    driver.restart(&subject.good).await.unwrap();
    assert!(!again.process.expect("it ran").is_alive());
    assert!(get_soon(0).ends_with("hello\n"));
}

async fn stops_and_is_deleted(subject: &Subject, driver: &dyn Driver) {
    let process = driver.inspect("good").await.unwrap().process.expect("it runs");
    driver.stop("good").await.unwrap();
    assert!(!process.is_alive(), "it has ended when stop returns");
    assert_eq!(driver.inspect("good").await.unwrap().status.state, ContainerState::Stopped);
    assert_eq!(names(driver).await, ["good"]);
    driver.start(&subject.good).await.expect("what is stopped can be made anew");
    // What is frozen must die as well.
    driver.pause("good").await.unwrap();
    driver.delete("good").await.unwrap();
    assert_eq!(driver.inspect("good").await.unwrap().status.state, ContainerState::Absent);
    driver.delete("good").await.expect("it is gone");
    subject.assert_nothing_is_left(driver).await;
}

/// As the supervisor does it: what is replaced goes first. The clone has another name and address, and speaks up where the
/// other did.
async fn is_cloned(subject: &Subject, driver: &dyn Driver) {
    driver.start(&subject.good).await.unwrap();
    driver.delete("good").await.unwrap();
    let mut clone = Container { name: "good.1".into(), ..subject.good.clone() };
    clone.network.as_mut().unwrap().address = "10.9.0.3/24".into();
    driver.start(&clone).await.unwrap();
    let observed = driver.inspect("good.1").await.unwrap();
    assert_eq!(
        (observed.status.state, &*observed.status.addresses),
        (ContainerState::Running, &["10.9.0.3/24".into()][..])
    );
    assert!(get_soon(1).ends_with("hello\n"));
    get(0, Duration::from_millis(300)).expect_err("nobody is there any more");
    subject.heartbeats.are_heard_from(observed.process.expect("it runs"));
    assert_eq!(names(driver).await, ["good.1"]);
    assert_eq!(names(&*subject.driver()).await, ["good.1"], "the next agent finds it");
    driver.delete("good.1").await.unwrap();
    subject.assert_nothing_is_left(driver).await;
}

async fn a_failed_start_leaves_nothing(subject: &Subject, driver: &dyn Driver) {
    for bad in &subject.bad {
        let error = driver.start(bad).await.expect_err("it cannot start").one_line();
        eprintln!("{}: {error}", bad.name);
        assert!(!error.contains('\n') && error.len() <= 300, "{error}");
        assert_eq!(driver.inspect(&bad.name).await.unwrap().status.state, ContainerState::Absent);
        subject.assert_nothing_is_left(driver).await;
    }
}

/// The test of a driver that starts containers, in namespaces of its own.
fn oci_conforms(runtime: &'static str) {
    in_netns(move || async move {
        if runtime == "crun" {
            hide_unified_cgroups();
        }
        let files = Files::new();
        let state_dir = files.path().join("state");
        let instance = format!("conform-{runtime}-{}", std::process::id());
        let keys = format!("oci = {{ runtime = {runtime:?}, rootfs = {:?}, args = ARGS }}\nNETWORK", files.rootfs());
        let no_rootfs = keys.replace("/rootfs\"", "/nowhere\"");
        let make = |_| {
            let (state_dir, instance) = (state_dir.clone(), instance.clone());
            move || -> Arc<dyn Driver> { Arc::new(OciDriver::new(&state_dir, &instance, subject::RINGMESH.into())) }
        };
        conforms(&Subject::new(&state_dir, make, &keys, &[("no-rootfs", &no_rootfs)])).await;
        ringmesh_agentd::runtime::teardown(&state_dir, &instance).unwrap();
    });
}

#[test]
#[ignore = "needs root"]
fn oci_with_libcontainer_conforms() {
    oci_conforms("libcontainer");
}

#[test]
#[ignore = "needs root"]
fn oci_with_crun_conforms() {
    oci_conforms("crun");
}

#[test]
#[ignore = "needs root"]
fn oci_with_runc_conforms() {
    oci_conforms("runc");
}

#[test]
#[ignore = "needs root"]
fn docker_api_with_podman_conforms() {
    docker_api_conforms(Podman::start);
}

#[test]
#[ignore = "needs root"]
fn docker_api_with_dockerd_conforms() {
    docker_api_conforms(Dockerd::start);
}

fn docker_api_conforms<D: Daemon + 'static>(start: fn() -> D) {
    in_netns(move || async move {
        private_mounts();
        let (daemon, files) = (start(), Files::new());
        let keys = format!("docker = {{ socket = {:?}, image = {IMAGE:?}, args = ARGS }}\nNETWORK", daemon.socket());
        let no_image = keys.replace(IMAGE, "localhost/no-such:1");
        let state_dir = files.path().join("state");
        let make = |good: Container| {
            let state_dir = state_dir.clone();
            move || -> Arc<dyn Driver> { Arc::new(DockerDriver::new([&good], &state_dir, "0123456789abcdef")) }
        };
        conforms(&Subject::new(&state_dir, make, &keys, &[("no-image", &no_image)])).await;
        assert_eq!(daemon.containers(), [""; 0]);
    });
}

#[test]
#[ignore = "needs root"]
fn declared_conforms() {
    in_netns(|| async {
        let mut child = std::process::Command::new("unshare").args(["--net", "sleep", "600"]).spawn().unwrap();
        let files = Files::new();
        let pid_file = files.path().join("pid");
        std::fs::write(&pid_file, child.id().to_string()).unwrap();
        let config =
            subject::config(&format!("[[container]]\nname = \"good\"\ndeclared = {{ pid_file = {pid_file:?} }}\n"));
        let driver = DeclaredDriver::new(&config.containers);
        capabilities_are_true(&driver, Capabilities::default()).await;
        let error = driver.start(&config.containers[0]).await.expect_err("it cannot");
        assert!(matches!(error, DriverError::Unsupported { verb: Verb::Start, .. }));
        driver.restart(&config.containers[0]).await.expect_err("it can neither delete nor start");
        let running = until(&driver, "good", ContainerState::Running).await;
        assert_eq!(running.status.pid, Some(child.id()));
        assert_eq!(DeclaredDriver::new(&config.containers).list().await.unwrap(), [running]);
        assert_eq!(driver.inspect("none").await.unwrap(), Observed::absent("none"));
        child.kill().unwrap();
        child.wait().unwrap();
        let ended = until(&driver, "good", ContainerState::Stopped).await;
        assert_eq!((ended.process, ended.status.netns), (None, None));
        assert_eq!(veths(), [""; 0]);
    });
}
