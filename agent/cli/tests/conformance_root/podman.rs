//! A podman of its own, with its files in a directory of the test, and one image that was made from busybox.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{containers::PATIENCE, subject::Files};

pub(crate) const IMAGE: &str = "localhost/ringmesh-test:1";

/// Works also where limits may not be raised, and without systemd.
const CONFIG: &str = r#"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"#;

/// Removed with all its containers, also when the test fails.
pub(crate) struct Podman {
    files: Files,
    service: Option<Child>,
}

impl Podman {
    pub(crate) fn start() -> Self {
        let files = Files::new();
        fs::write(files.path().join("containers.conf"), CONFIG).unwrap();
        let mut podman = Self { files, service: None };
        let rootfs = podman.files.rootfs();
        let archive = podman.files.path().join("rootfs.tar");
        let tar = Command::new("tar").arg("-C").arg(&rootfs).arg("-cf").arg(&archive).arg(".").status().unwrap();
        assert!(tar.success());
        podman.run(&["import", archive.to_str().unwrap(), IMAGE]);
        podman.serve();
        podman
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.files.path().join("podman.sock")
    }

    /// The daemon begins.
    pub(crate) fn serve(&mut self) {
        let address = format!("unix://{}", self.socket().display());
        // It complains that there is no systemd.
        let service = self
            .command()
            .args(["--log-level", "fatal", "system", "service", "--time", "0", &address])
            .spawn()
            .unwrap();
        self.service = Some(service);
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < deadline, "podman does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn service_pid(&self) -> i32 {
        self.service.as_ref().expect("it was started").id() as i32
    }

    /// The daemon dies; its containers run on.
    pub(crate) fn kill(&mut self) {
        if let Some(mut service) = self.service.take() {
            service.kill().unwrap();
            service.wait().unwrap();
            fs::remove_file(self.socket()).unwrap();
        }
    }

    /// Podman without the daemon: what it prints.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        let output = self.command().args(args).output().expect("the package podman is installed");
        assert!(output.status.success(), "podman {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn command(&self) -> Command {
        let mut command = Command::new("podman");
        let path = |name: &str| self.files.path().join(name);
        command.env("CONTAINERS_CONF", path("containers.conf"));
        command.arg("--root").arg(path("storage")).arg("--runroot").arg(path("run"));
        command.args(["--storage-driver", "vfs"]).stdin(Stdio::null());
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // The daemon may hang or be gone.
        if let Some(mut service) = self.service.take() {
            let ended = service.kill().and_then(|()| service.wait());
            assert!(ended.is_ok() || std::thread::panicking());
        }
        let removed = self.command().args(["rm", "--all", "--force", "--time", "0"]).output();
        assert!(removed.is_ok_and(|output| output.status.success()) || std::thread::panicking());
    }
}
