//! Members of a store for a test: real processes, on ports of loopback that are free.

#![allow(dead_code, reason = "each of the tests that share it uses its part")]

use std::{
    future::Future,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::Pid};
use ringmesh_proto::etcd::etcdserverpb::{
    PutRequest, RangeRequest, RangeResponse, kv_client::KvClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient, watch_client::WatchClient,
};
use tempfile::TempDir;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// Longer than anything here takes on a machine that is busy; a test that waits so long has failed.
pub(crate) const LONG: Duration = Duration::from_secs(60);

const STEP: Duration = Duration::from_millis(20);

/// A member: killed when dropped. Its files go with it.
pub(crate) struct Member {
    pub(crate) name: String,
    directory: TempDir,
    client_port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Member {
    /// One that is alone, and runs.
    pub(crate) fn alone() -> Self {
        Self::with(&[])
    }

    /// The same with further options.
    pub(crate) fn with(options: &[&str]) -> Self {
        let [port] = free_ports();
        let mut member = Self::new("a", port, options.iter().map(|option| (*option).to_owned()).collect());
        member.start();
        member
    }

    /// Three of one store, which all run.
    pub(crate) fn three() -> [Self; 3] {
        let clients: [u16; 3] = free_ports();
        let peers: [u16; 3] = free_ports();
        let names = ["a", "b", "c"];
        let urls: Vec<String> =
            names.iter().zip(peers).map(|(name, port)| format!("{name}=http://127.0.0.1:{port}")).collect();
        let options = vec!["--initial-cluster".to_owned(), urls.join(",")];
        let mut nth = 0;
        names.map(|name| {
            let mut member = Self::new(name, clients[nth], options.clone());
            nth += 1;
            member.start();
            member
        })
    }

    /// One that does not run yet.
    pub(crate) fn new(name: &str, client_port: u16, options: Vec<String>) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let mut arguments: Vec<String> =
            ["store", "serve", "--standalone", "--name", name, "--data-dir"].map(String::from).into();
        arguments.push(directory.path().join("data").display().to_string());
        arguments.extend(["--listen-client-urls".into(), format!("http://127.0.0.1:{client_port}")]);
        arguments.extend(options);
        Self { name: name.into(), directory, client_port, arguments, child: None }
    }

    /// Starts it; it is not waited for.
    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.directory.path().join("log"));
        let child = Command::new(env!("CARGO_BIN_EXE_ringmesh"))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a file for its log"))
            .spawn();
        self.child = Some(child.expect("the program under test starts"));
    }

    /// Makes it from a snapshot; exit status and what is said.
    pub(crate) fn restore(&self, snapshot: &[u8]) -> (Option<i32>, String) {
        let file = self.directory.path().join("snapshot");
        std::fs::write(&file, snapshot).expect("there is room");
        let output = Command::new(env!("CARGO_BIN_EXE_ringmesh"))
            .args(["store", "restore", "--name", &self.name, "--data-dir"])
            .arg(self.directory.path().join("data"))
            .arg(&file)
            .output()
            .expect("the program under test starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// As a power cut does, but that the kernel keeps what was written.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }

    /// Ends it in order; its exit status.
    pub(crate) fn end(&mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        let mut child = self.child.take().expect("it runs");
        let start = Instant::now();
        while start.elapsed() < LONG {
            if let Some(status) = child.try_wait().expect("it is our child") {
                return status.code();
            }
            std::thread::sleep(STEP);
        }
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        panic!("{} does not end: {}", self.name, self.log());
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        let pid = Pid::from_raw(child.id().try_into().expect("an id of a process"));
        nix::sys::signal::kill(pid, signal).expect("it takes the signal");
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// A connection, made when it is first used.
    pub(crate) fn channel(&self) -> Channel {
        Endpoint::from_shared(self.url()).expect("a URL").connect_lazy()
    }

    pub(crate) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel()).max_decoding_message_size(64 << 20)
    }

    pub(crate) fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel())
    }

    pub(crate) fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel())
    }

    pub(crate) fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel())
    }

    /// Returns when it answers.
    pub(crate) async fn ready(&self) {
        eventually(&format!("{} answers", self.name), || async {
            let mut kv = self.kv();
            kv.range(RangeRequest { key: "x".into(), ..RangeRequest::default() }).await.map(drop)
        })
        .await;
    }

    /// Sends an HTTP request; status and body.
    pub(crate) fn http(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        http(self.client_port, method, path, body)
    }
}

/// Sends an HTTP request; status and body. In version 1.0, so that no answer comes in pieces.
pub(crate) fn http(port: u16, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(LONG)).expect("a timeout");
    let request = format!("{method} {path} HTTP/1.0\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers in text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_owned())
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            for line in tail.into_iter().rev() {
                eprintln!("{}: {line}", self.name);
            }
        }
    }
}

/// Tries until it is well.
pub(crate) async fn eventually<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> T {
    let start = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) if start.elapsed() > LONG => panic!("{what}: not within {LONG:?}: {error}"),
            Err(_) => tokio::time::sleep(STEP).await,
        }
    }
}

/// Ports that nobody listens on now. They are below those from which the kernel takes one for a connection, and no other
/// test of this process gets them.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() * 50;
    [(); N].map(|()| {
        loop {
            let nth = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            let port = 10_000 + u16::try_from(nth % 20_000).expect("less than 20,000");
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return port;
            }
        }
    })
}

pub(crate) fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> PutRequest {
    PutRequest { key: key.into().into(), value: value.into().into(), ..PutRequest::default() }
}

pub(crate) fn get(key: impl Into<Vec<u8>>) -> RangeRequest {
    RangeRequest { key: key.into().into(), ..RangeRequest::default() }
}

/// All keys.
pub(crate) fn everything() -> RangeRequest {
    RangeRequest { key: b"\0".as_slice().into(), range_end: b"\0".as_slice().into(), ..RangeRequest::default() }
}

/// The value of the only key in an answer.
pub(crate) fn value(answer: &RangeResponse) -> Option<&[u8]> {
    answer.kvs.first().map(|kv| kv.value.as_ref())
}

/// What is the same for all who ask: an error as code and text.
pub(crate) fn words(status: &Status) -> (tonic::Code, String) {
    (status.code(), status.message().to_owned())
}

/// A generator of chance for tests that can be repeated: splitmix64.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One time in `n`.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
