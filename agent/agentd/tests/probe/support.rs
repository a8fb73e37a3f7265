//! Servers that answer well, badly and not at all, and a prober to ask them.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc as std_mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use ringmesh_agentd::{
    config,
    probe::{Check, CheckId, HttpCheck, MAX_ANSWER, ProbeReply, ProbeRequest, Prober},
};
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc;
use tonic_health::{ServingStatus, server::health_reporter};

/// Long enough for a right answer on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What a probe that must fail waits.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// A network namespace with a loopback interface; gone when dropped.
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("rm-probe-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let netns = Self { name };
        ip(&["netns", "add", &netns.name]);
        ip(&["-n", &netns.name, "link", "set", "lo", "up"]);
        netns
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// The states of the TCP sockets within, listening ones left out.
    pub(crate) fn sockets(&self) -> Vec<String> {
        let path = self.path();
        let table = thread::spawn(move || {
            enter(Some(&path));
            fs::read_to_string("/proc/thread-self/net/tcp").expect("proc is mounted")
        });
        let table = table.join().expect("the thread ends well");
        let states = table.lines().skip(1).map(|line| line.split_whitespace().nth(3).expect("a state").to_owned());
        states.filter(|state| state != "0A").collect()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

pub(crate) fn ip(args: &[&str]) {
    let status = Command::new("ip").args(args).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {args:?}");
}

pub(crate) fn enter(netns: Option<&PathBuf>) {
    if let Some(path) = netns {
        setns(File::open(path).expect("it exists"), CloneFlags::CLONE_NEWNET).expect("this test is run by root");
    }
}

/// Runs `serve` with a listener in a thread inside `netns`, and returns the address.
pub(crate) fn listen(netns: Option<PathBuf>, serve: impl FnOnce(TcpListener) + Send + 'static) -> SocketAddr {
    let (sender, receiver) = std_mpsc::channel();
    thread::spawn(move || {
        enter(netns.as_ref());
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is up");
        sender.send(listener.local_addr().expect("it is bound")).expect("the test waits");
        serve(listener);
    });
    receiver.recv_timeout(PATIENCE).expect("the server starts")
}

/// A server that reads a request and has `answer` write what it likes.
pub(crate) fn http(netns: &Option<PathBuf>, answer: impl Fn(&mut TcpStream) + Send + 'static) -> SocketAddr {
    listen(netns.clone(), move |listener| {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept works");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            answer(&mut stream);
        }
    })
}

pub(crate) fn says(netns: &Option<PathBuf>, text: &'static str) -> SocketAddr {
    http(netns, move |stream| drop(stream.write_all(text.as_bytes())))
}

/// Accepts and keeps silent.
pub(crate) fn silent(netns: &Option<PathBuf>) -> SocketAddr {
    listen(netns.clone(), |listener| {
        let _kept: Vec<_> = listener.incoming().collect();
    })
}

/// Answers no connection: its backlog is full.
pub(crate) fn deaf(netns: &Option<PathBuf>) -> SocketAddr {
    let (sender, receiver) = std_mpsc::channel();
    let netns = netns.clone();
    thread::spawn(move || {
        enter(netns.as_ref());
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback is up");
        listener.listen(0).expect("it is bound");
        let address = listener.local_addr().expect("it is bound");
        let fill = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("a socket");
            let _ = socket.connect(&address);
            socket
        };
        let kept: Vec<_> = (0..8).map(|_| fill()).collect();
        sender.send(address.as_socket().expect("of the internet")).expect("the test waits");
        thread::park();
        drop((listener, kept));
    });
    receiver.recv_timeout(PATIENCE).expect("the server starts")
}

/// Listens on no connection, but holds its port: another test's server must not get it.
pub(crate) fn refused(netns: &Option<PathBuf>) -> SocketAddr {
    let (sender, receiver) = std_mpsc::channel();
    let netns = netns.clone();
    thread::spawn(move || {
        enter(netns.as_ref());
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback is up");
        let address = socket.local_addr().expect("it is bound");
        sender.send(address.as_socket().expect("of the internet")).expect("the test waits");
        thread::park();
        drop(socket);
    });
    receiver.recv_timeout(PATIENCE).expect("the socket is made")
}

/// A gRPC server that knows the services "" and "good", which serve, and "bad", which does not.
pub(crate) fn grpc(netns: &Option<PathBuf>, with_health: bool) -> SocketAddr {
    listen(netns.clone(), move |listener| {
        listener.set_nonblocking(true).expect("a socket");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let (reporter, health) = health_reporter();
            reporter.set_service_status("good", ServingStatus::Serving).await;
            reporter.set_service_status("bad", ServingStatus::NotServing).await;
            let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime");
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let reflection = tonic_reflection::server::Builder::configure().build_v1().expect("it has no input");
            let server = tonic::transport::Server::builder().add_service(reflection);
            let server = if with_health { server.add_service(health) } else { server };
            server.serve_with_incoming(incoming).await.expect("it serves");
        });
    })
}

pub(crate) fn http_check(address: SocketAddr) -> Check {
    Check::Http(Box::new(HttpCheck::get(address, "/healthz?x=1")))
}

pub(crate) fn grpc_check(address: SocketAddr, service: &str) -> Check {
    Check::Grpc { address, service: service.into() }
}

/// A prober whose exec runner does not matter.
pub(crate) fn prober(concurrency: usize) -> (Prober, mpsc::Receiver<ProbeReply>) {
    let (sender, receiver) = mpsc::channel(64);
    let config = config::Probe { concurrency, ..config::Probe::default() };
    (Prober::spawn(&config, "/bin/false".into(), sender).expect("a thread"), receiver)
}

pub(crate) fn request(id: u64, check: Check, netns: &Option<PathBuf>, timeout: Duration) -> ProbeRequest {
    ProbeRequest {
        id: CheckId(id),
        check: Arc::new(check),
        pid: None,
        netns: netns.clone(),
        timeout,
        max_latency: None,
    }
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What comes of these probes, made at the same time: the answer, and whether it was right.
pub(crate) fn probe(netns: &Option<PathBuf>, checks: Vec<(Check, Duration)>) -> Vec<Result<String, String>> {
    let (prober, mut replies) = prober(64);
    let count = checks.len();
    for (id, (check, timeout)) in (0..).zip(checks) {
        prober.start(request(id, check, netns, timeout)).expect("there is room");
    }
    let mut outcomes = vec![Err(String::new()); count];
    for _ in 0..count {
        let ProbeReply { id, sign, answer, .. } = replies.blocking_recv().expect("the prober lives");
        assert!(answer.len() <= MAX_ANSWER, "{answer}");
        outcomes[id.0 as usize] = if sign.is_right() { Ok(answer) } else { Err(answer) };
    }
    outcomes
}

/// Holds each of `cases` against what comes of it: the whole answer, or its beginning if it ends with '…'.
pub(crate) fn expect(netns: &Option<PathBuf>, cases: Vec<(Check, Duration, Result<&str, &str>)>) {
    let (checks, expected): (Vec<_>, Vec<_>) =
        cases.into_iter().map(|(check, timeout, answer)| ((check, timeout), answer)).unzip();
    let asked: Vec<String> = checks.iter().map(|(check, _)| format!("{check:?}")).collect();
    for ((outcome, expected), asked) in probe(netns, checks).iter().zip(expected).zip(asked) {
        let (right, answer) = match outcome {
            Ok(answer) => (true, answer),
            Err(answer) => (false, answer),
        };
        let (wanted, words) = match expected {
            Ok(words) => (true, words),
            Err(words) => (false, words),
        };
        assert_eq!(right, wanted, "{asked}: {answer}");
        match words.strip_suffix('…') {
            Some(begin) => assert!(answer.starts_with(begin), "{asked}: {answer}, not {words}"),
            None => assert_eq!(answer, words, "{asked}"),
        }
    }
}
