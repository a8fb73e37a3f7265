//! A driver under test, and the containers that it is given.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::Arc,
};

use ringmesh_agentd::{
    config::{Config, Container},
    probe::heartbeat,
    runtime::{ContainerState, Driver, ProcessId},
};
use tempfile::TempDir;

use crate::containers::{PATIENCE, make_rootfs, veths};

pub(crate) const RINGMESH: &str = env!("CARGO_BIN_EXE_ringmesh");

const SERVE: &str = r#"["httpd", "-f", "-p", "80", "-h", "/www"]"#;
const NETWORK: &str = r#"network = { bridge = "br-test", address = "10.9.0.2/24", gateway = "10.9.0.1" }"#;

/// A root file system; removed when this is dropped.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        make_rootfs(&directory.path().join("rootfs"));
        Self(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn rootfs(&self) -> std::path::PathBuf {
        self.path().join("rootfs")
    }
}

type Make = Box<dyn Fn() -> Arc<dyn Driver>>;

/// Where the services of a container speak up, as the agent listens there.
pub(crate) struct Heartbeats(UnixDatagram);

impl Heartbeats {
    fn listen(state_dir: &Path, container: &str) -> Self {
        let directory = heartbeat::directory(state_dir, container);
        fs::create_dir_all(&directory).unwrap();
        let socket = UnixDatagram::bind(directory.join(heartbeat::SOCKET)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// Whether what is said in the container of this process arrives, and nothing else can be done there.
    pub(crate) fn are_heard_from(&self, process: ProcessId) {
        let inside = PathBuf::from(format!("/proc/{}/root{}", process.pid, heartbeat::INSIDE));
        UnixDatagram::unbound().unwrap().send_to(b"web ok", inside.join(heartbeat::SOCKET)).unwrap();
        let mut bytes = [0; 16];
        let length = self.0.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"web ok");
        fs::write(inside.join("file"), "").expect_err("it can only be sent to");
    }
}

/// How a driver is made, and what it is to start.
pub(crate) struct Subject {
    make: Make,
    /// Serves a page on 10.9.0.2.
    pub(crate) good: Container,
    pub(crate) heartbeats: Heartbeats,
    /// None of these can start.
    pub(crate) bad: Vec<Container>,
}

impl Subject {
    /// `make` is given the good container, as agents are told at their start. `keys` are those of a container, with ARGS and
    /// NETWORK in place of what all have alike; `bad` are others that cannot start.
    pub(crate) fn new<F: Fn() -> Arc<dyn Driver> + 'static>(
        state_dir: &Path,
        make: impl FnOnce(Container) -> F,
        keys: &str,
        bad: &[(&str, &str)],
    ) -> Self {
        let container = |name: &str, keys: &str, args: &str| {
            let keys = keys.replace("ARGS", args).replace("NETWORK", NETWORK);
            format!("[[container]]\nname = {name:?}\n{keys}\n")
        };
        let mut text = container("good", keys, SERVE) + &container("no-program", keys, "[\"/bin/no-such-program\"]");
        text +=
            &container("no-gateway", &keys.replace("NETWORK", &NETWORK.replace("10.9.0.1\"", "10.200.0.1\"")), SERVE);
        bad.iter().for_each(|(name, keys)| text += &container(name, keys, SERVE));
        let mut containers = config(&text).containers;
        let bad = containers.split_off(1);
        let good = containers.remove(0);
        let heartbeats = Heartbeats::listen(state_dir, &good.name);
        Self { make: Box::new(make(good.clone())), good, heartbeats, bad }
    }

    /// As the next agent has it.
    pub(crate) fn driver(&self) -> Arc<dyn Driver> {
        (self.make)()
    }

    /// Neither a container nor an interface nor a process.
    pub(crate) async fn assert_nothing_is_left(&self, driver: &dyn Driver) {
        for driver in [driver, &*self.driver()] {
            let mut list = driver.list().await.unwrap();
            list.retain(|observed| observed.status.state != ContainerState::Absent);
            assert_eq!(list, []);
        }
        assert_eq!(veths(), [""; 0]);
    }
}

/// A configuration with these containers.
pub(crate) fn config(containers: &str) -> Config {
    let text = format!("[host]\nname = \"h1\"\n[uplink.a]\naddress = \"127.0.0.1\"\n{containers}");
    Config::parse(Path::new("test.toml"), &text).unwrap()
}
