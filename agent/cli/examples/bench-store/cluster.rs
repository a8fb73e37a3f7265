//! Three members of a store on loopback.

use std::{
    fmt, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use ringmesh_proto::etcd::etcdserverpb::{PutRequest, kv_client::KvClient};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tonic::transport::Channel;

use crate::bench::process;

const MEMBERS: [&str; 3] = ["a", "b", "c"];

/// Until three members accept a put.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which store.
pub(crate) enum Program {
    Ringmesh(PathBuf),
    Etcd(PathBuf),
}

impl Program {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ringmesh(_) => "ringmesh",
            Self::Etcd(_) => "etcd",
        }
    }

    /// The first line of what it says of its version.
    pub(crate) fn version(&self) -> Result<String, String> {
        let (path, argument) = match self {
            Self::Ringmesh(path) => (path, "version"),
            Self::Etcd(path) => (path, "--version"),
        };
        let output = std::process::Command::new(path).arg(argument).output();
        let output = output.map_err(|error| format!("run {}: {error}", path.display()))?;
        Ok(format!("{}: {}", self.name(), String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default()))
    }

    fn command(&self, member: &Member<'_>) -> Command {
        let mut command = match self {
            Self::Ringmesh(path) => {
                let mut command = Command::new(path);
                command.args(["store", "serve", "--standalone"]);
                command
            }
            Self::Etcd(path) => {
                let mut command = Command::new(path);
                command.arg("--initial-advertise-peer-urls").arg(member.peer);
                command
            }
        };
        command
            .args(["--name", member.name, "--data-dir"])
            .arg(member.dir)
            .args(["--listen-client-urls", member.client, "--advertise-client-urls", member.client])
            .args(["--listen-peer-urls", member.peer, "--initial-cluster", member.cluster])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

struct Member<'a> {
    name: &'a str,
    dir: &'a Path,
    client: &'a str,
    peer: &'a str,
    cluster: &'a str,
}

/// Ends with this value, with its data.
pub(crate) struct Cluster {
    children: Vec<Child>,
    urls: Vec<String>,
    dir: TempDir,
}

impl Cluster {
    /// Returns when each member accepts a put.
    pub(crate) async fn start(program: &Program, below: &Path) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("bench-store-").tempdir_in(below).map_err(describe)?;
        let ports = free_ports(2 * MEMBERS.len()).map_err(describe)?;
        let urls: Vec<String> = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let (clients, peers) = urls.split_at(MEMBERS.len());
        let each: Vec<String> = MEMBERS.iter().zip(peers).map(|(name, peer)| format!("{name}={peer}")).collect();
        let cluster = each.join(",");
        let mut children = Vec::new();
        for (at, name) in MEMBERS.into_iter().enumerate() {
            let (path, client, peer) = (dir.path().join(name), &clients[at], &peers[at]);
            let mut command = program.command(&Member { name, dir: &path, client, peer, cluster: &cluster });
            children.push(command.spawn().map_err(|error| format!("start {}: {error}", program.name()))?);
        }
        let cluster = Self { children, urls: clients.to_vec(), dir };
        for url in &cluster.urls {
            accepts(url).await.map_err(|error| format!("{} at {url}: {error}", program.name()))?;
        }
        Ok(cluster)
    }

    /// Where clients find the members.
    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    pub(crate) fn members(&self) -> usize {
        self.children.len()
    }

    /// Of all members since they started.
    pub(crate) fn cpu_seconds(&self) -> Result<f64, String> {
        self.pids().map(|pid| process::cpu_seconds(pid).map_err(describe)).sum()
    }

    /// Of all members.
    pub(crate) fn rss_mb(&self) -> Result<f64, String> {
        self.pids().map(|pid| process::memory(pid).map(|memory| memory.rss as f64 / 1e6).map_err(describe)).sum()
    }

    /// What the data of all members take of the disk.
    pub(crate) fn disk_mb(&self) -> Result<f64, String> {
        Ok(blocks(self.dir.path()).map_err(describe)? as f64 * 512.0 / 1e6)
    }

    pub(crate) async fn stop(mut self) {
        for child in &mut self.children {
            // Fails only if it has ended.
            let _ = child.kill().await;
        }
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        self.children.iter().filter_map(Child::id)
    }
}

async fn accepts(url: &str) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        let put = async {
            let channel = Channel::from_shared(url.to_owned()).map_err(describe)?.connect().await.map_err(describe)?;
            let mut client = KvClient::new(channel);
            let request = PutRequest { key: "ready".into(), value: "yes".into(), ..PutRequest::default() };
            client.put(request).await.map_err(|status| status.message().to_owned())
        };
        match put.await {
            Ok(_) => return Ok(()),
            Err(problem) if begin.elapsed() > PATIENCE => return Err(problem),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// They are free a moment later, too, unless somebody else on this machine is quick.
fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    listeners.iter().map(|listener| listener.local_addr().map(|address| address.port())).collect()
}

/// Blocks of 512 bytes that a directory's files take.
fn blocks(dir: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::read_dir(dir)?.try_fold(0, |sum, entry| {
        let (entry, metadata) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        Ok(sum + if metadata.is_dir() { blocks(&entry)? } else { metadata.blocks() })
    })
}

fn describe(error: impl fmt::Display) -> String {
    error.to_string()
}
