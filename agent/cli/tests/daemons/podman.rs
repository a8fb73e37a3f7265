//! A podman of its own, whose daemon is a process apart from its containers.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::{Daemon, IMAGE, archive, until};

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
    directory: TempDir,
    service: Option<Child>,
}

impl Podman {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("containers.conf"), CONFIG).unwrap();
        let mut podman = Self { directory, service: None };
        let archive = archive(podman.directory.path());
        podman.run(&["import", archive.to_str().unwrap(), IMAGE]);
        podman.serve();
        podman
    }

    /// Podman without the daemon: what it prints.
    fn run(&self, args: &[&str]) -> String {
        let output = self.command().args(args).output().expect("the package podman is installed");
        assert!(output.status.success(), "podman {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn command(&self) -> Command {
        let mut command = Command::new("podman");
        let path = |name: &str| self.directory.path().join(name);
        command.env("CONTAINERS_CONF", path("containers.conf"));
        command.arg("--root").arg(path("storage")).arg("--runroot").arg(path("run"));
        command.args(["--storage-driver", "vfs"]).stdin(Stdio::null());
        command
    }
}

impl Daemon for Podman {
    fn socket(&self) -> PathBuf {
        self.directory.path().join("podman.sock")
    }

    fn serve(&mut self) {
        let address = format!("unix://{}", self.socket().display());
        // It complains that there is no systemd.
        let service = self
            .command()
            .args(["--log-level", "fatal", "system", "service", "--time", "0", &address])
            .spawn()
            .unwrap();
        self.service = Some(service);
        until("podman does not listen", || UnixStream::connect(self.socket()).is_ok());
    }

    fn pid(&self) -> i32 {
        self.service.as_ref().expect("it was started").id() as i32
    }

    fn kill(&mut self) {
        if let Some(mut service) = self.service.take() {
            service.kill().unwrap();
            service.wait().unwrap();
            fs::remove_file(self.socket()).unwrap();
        }
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
