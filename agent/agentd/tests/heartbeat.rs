//! Services that speak up: real sockets, and what comes of what is sent to them.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    time::Duration,
};

use ringmesh_agentd::probe::{Check, heartbeat};
use ringmesh_node::health::spec::{Beat, ContainerSpec, Heartbeat, MAX_ANSWER, ServiceSpec};
use tokio::{sync::mpsc, time::timeout};

const PATIENCE: Duration = Duration::from_secs(10);

/// A container with these checks.
fn container(name: &str, checks: Vec<Check>) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        driver: "oci".into(),
        services: checks.into_iter().map(|check| ServiceSpec::new("web", check)).collect(),
        ..ContainerSpec::default()
    }
}

fn speaks_up() -> Check {
    Check::Heartbeat { socket: "/run/ringmesh/heartbeat".into() }
}

fn socket(state_dir: &Path, container: &str) -> PathBuf {
    heartbeat::directory(state_dir, container).join(heartbeat::SOCKET)
}

async fn heard(heartbeats: &mut mpsc::Receiver<Heartbeat>) -> Heartbeat {
    timeout(PATIENCE, heartbeats.recv()).await.expect("it is heard").expect("its thread lives")
}

#[tokio::test]
async fn what_services_say_is_heard_and_what_is_no_word_is_not() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let (sender, mut heartbeats) = mpsc::channel(4);
    let containers =
        [container("c1", vec![speaks_up()]), container("c2", vec![Check::Icmp { address: [127, 0, 0, 1].into() }])];
    heartbeat::listen(state.path(), &containers, sender).expect("sockets");
    assert!(!socket(state.path(), "c2").exists(), "it has no such service");
    let path = socket(state.path(), "c1");
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o666);
    let client = UnixDatagram::unbound().expect("a socket");
    let long = "x".repeat(500);
    let said =
        [&b"web"[..], b"\xff\xfe", b"", b"web warn a\x1b[2Jb\n", &[b'x'; 3000], format!("db fail {long}").as_bytes()]
            .map(<[u8]>::to_vec);
    for bytes in said {
        client.send_to(&bytes, &path).expect("it is served");
    }
    let of =
        |service: &str, beat, text: String| Heartbeat { container: "c1".into(), service: service.into(), beat, text };
    assert_eq!(heard(&mut heartbeats).await, of("web", Beat::Ok, String::new()));
    assert_eq!(heard(&mut heartbeats).await, of("web", Beat::Warn, "a [2Jb".into()));
    assert_eq!(heard(&mut heartbeats).await, of("db", Beat::Fail, "x".repeat(MAX_ANSWER)));
}

#[tokio::test]
async fn another_agent_takes_over_and_forgets_who_has_gone() {
    let state = tempfile::tempdir().expect("a temporary directory");
    // Longer than the address of a socket may be.
    let state = state.path().join("d".repeat(120));
    let (first, _) = mpsc::channel(4);
    heartbeat::listen(&state, &[container("c1", vec![speaks_up()]), container("c2", vec![speaks_up()])], first)
        .expect("sockets");
    // What a container has mounted.
    let directory = fs::File::open(heartbeat::directory(&state, "c1")).expect("it is there");
    let (second, mut heartbeats) = mpsc::channel(4);
    heartbeat::listen(&state, &[container("c1", vec![speaks_up()])], second).expect("sockets");
    assert!(!heartbeat::directory(&state, "c2").exists());
    use std::os::fd::AsRawFd;
    let mounted = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), heartbeat::SOCKET);
    UnixDatagram::unbound().and_then(|client| client.send_to(b"web ok", mounted)).expect("it is served");
    assert_eq!(heard(&mut heartbeats).await.service, "web");
}

#[tokio::test]
async fn a_flood_waits_and_keeps_no_other_container_waiting() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let (sender, mut heartbeats) = mpsc::channel(4);
    let containers = ["loud", "calm"].map(|name| container(name, vec![speaks_up()]));
    heartbeat::listen(state.path(), &containers, sender).expect("sockets");
    let loud = socket(state.path(), "loud");
    let flood = std::thread::spawn(move || {
        let client = UnixDatagram::unbound().expect("a socket");
        client.set_write_timeout(Some(Duration::from_millis(500))).expect("a time");
        (0..100_000).take_while(|_| client.send_to(b"web", &loud).is_ok()).count()
    });
    assert_eq!(heard(&mut heartbeats).await.container, "loud");
    UnixDatagram::unbound()
        .and_then(|client| client.send_to(b"web", socket(state.path(), "calm")))
        .expect("it is served");
    let mut before = 0;
    while heard(&mut heartbeats).await.container != "calm" {
        before += 1;
    }
    assert!(before < 200, "{before} of the loud one came first");
    drop(heartbeats);
    assert!(flood.join().expect("it ends") < 10_000, "its sender was made to wait");
}

#[test]
fn without_such_a_service_there_is_nothing() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let (sender, heartbeats) = mpsc::channel(4);
    heartbeat::listen(state.path(), &[container("c1", Vec::new())], sender).expect("nothing to do");
    assert!(!state.path().join("heartbeat").exists());
    assert!(heartbeats.is_closed(), "no thread waits for anything");
}
