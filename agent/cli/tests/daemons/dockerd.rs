//! A dockerd of its own, with its containerd: Debian's package docker.io, no network but the test's, no registry.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::{Daemon, IMAGE, archive, ask, until};

/// Ended with all that it started, also when the test fails.
pub(crate) struct Dockerd {
    directory: TempDir,
    process: Option<Child>,
}

impl Dockerd {
    /// To be called where mounts and network may be changed, see `in_netns` and `private_mounts`.
    pub(crate) fn start() -> Self {
        let mut dockerd = Self { directory: tempfile::tempdir().unwrap(), process: None };
        let archive = fs::read(archive(dockerd.directory.path())).unwrap();
        dockerd.serve();
        let (repository, tag) = IMAGE.rsplit_once(':').unwrap();
        let path = format!("/images/create?fromSrc=-&repo={repository}&tag={tag}");
        let (status, answer) = ask(&dockerd.socket(), "POST", &path, "application/x-tar", &archive).unwrap();
        assert!(status == 200 && !answer.contains("error"), "{status} {answer}");
        dockerd
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Below which its containers' control groups are.
    fn cgroup(&self) -> String {
        format!("ringmesh-{}", self.directory.path().file_name().unwrap().display())
    }

    /// Its containerd, and the shims that hold its containers: all that name its directory.
    fn helpers(&self) -> Vec<i32> {
        let directory = self.directory.path().as_os_str().as_encoded_bytes();
        let names_it = |path: &Path| {
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            line.windows(directory.len()).any(|window| window == directory)
        };
        let pids = fs::read_dir("/proc").unwrap().flatten().filter(|entry| names_it(&entry.path()));
        pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }
}

impl Daemon for Dockerd {
    fn socket(&self) -> PathBuf {
        self.path("docker.sock")
    }

    fn kill(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        process.kill().unwrap();
        process.wait().unwrap();
        // Its containerd dies with it; the next one must not take them for alive.
        let containerd: i32 = fs::read_to_string(self.path("exec/containerd/containerd.pid")).unwrap().parse().unwrap();
        until("containerd does not end", || !self.helpers().contains(&containerd));
        fs::remove_file(self.path("exec/containerd/containerd.pid")).unwrap();
        fs::remove_file(self.path("pid")).unwrap();
    }

    fn serve(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let paths = [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")];
        let process = Command::new("dockerd")
            .args(paths.iter().flat_map(|(key, name)| [(*key).into(), self.path(name).into_os_string()]))
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .args(["--cgroup-parent", &format!("/{}", self.cgroup()), "--exec-opt", "native.cgroupdriver=cgroupfs"])
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"])
            // A daemon that comes back takes its containers over, rather than ending them.
            .args(["--storage-driver=vfs", "--live-restore"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the package docker.io is installed");
        let process = self.process.insert(process);
        let socket = self.directory.path().join("docker.sock");
        let log = || fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        until("dockerd does not listen", || {
            assert!(process.try_wait().unwrap().is_none(), "dockerd has ended: {}", log());
            ask(&socket, "GET", "/_ping", "", b"").is_ok_and(|(status, _)| status == 200)
        });
    }

    fn pid(&self) -> i32 {
        self.process.as_ref().expect("it was started").id() as i32
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if self.process.is_some() {
            // It may have been stopped.
            let _ = kill(Pid::from_raw(self.pid()), Signal::SIGCONT);
            let names = ask(&self.socket(), "GET", "/containers/json?all=1", "", b"").map(|_| self.containers());
            for name in names.unwrap_or_default() {
                self.remove(&name);
            }
            let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
            let ended = self.process.as_mut().map(Child::wait);
            assert!(ended.is_some_and(|ended| ended.is_ok()) || std::thread::panicking());
        }
        // Without a daemon that removes them: a shim whose container ends, and then the shim.
        for shim in self.helpers() {
            let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap_or_default();
            let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
            for pid in children.chain([shim]) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        if !std::thread::panicking() {
            until("what dockerd started does not end", || self.helpers().is_empty());
        }
        // The groups of its containers are gone with them.
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain(["/sys/fs/cgroup".into()]) {
            let _ = fs::remove_dir(hierarchy.join(self.cgroup()));
        }
    }
}
