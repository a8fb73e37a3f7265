//! What a probe costs: CPU time of the probing thread (or of runner and children), what a core of its own could make in a
//! second by that, and latency, in network namespaces.
//!
//! Needs root. `cargo bench --workspace --bench probe`; the server's own work is on another thread and not counted, but the
//! kernel's work for both ends is, as far as it happens in the prober's system calls.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, UdpSocket},
    path::PathBuf,
    process::{Command, ExitCode},
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use ringmesh_agentd::{
    config,
    probe::{Check, CheckId, Exchange, HttpCheck, Match, ProbeReply, ProbeRequest, Prober, Step, child, runner},
};
use tokio::sync::mpsc;

/// So many containers, probed in turn: the thread changes its namespace for each probe.
const CONTAINERS: usize = 16;

/// Probes of a burst that fall due together, as one turn of the host loop would have them.
const BURST: usize = 32;

struct Netns(String);

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("exec-runner") => return runner::main(),
        Some("exec-child") => return child::main(),
        Some(_) | None => {}
    }
    let containers: Vec<_> = (0..CONTAINERS).map(container).collect();
    let (sender, mut replies) = mpsc::channel(1024);
    let this = std::env::current_exe().expect("proc is mounted");
    let prober = Prober::spawn(&config::Probe::default(), this, sender).expect("a thread");
    println!(
        "{:22} {:>8} {:>12} {:>12} {:>10} {:>10}",
        "probe", "probes", "user+sys µs", "a core's s", "p50 µs", "p99 µs"
    );
    // The first one only warms up: the thread has its name, and the caches are full.
    for (name, count) in [
        ("tcp", BURST),
        ("tcp", 20_000),
        ("http", 20_000),
        ("http-body", 20_000),
        ("udp", 20_000),
        ("icmp", 20_000),
        ("plan", 10_000),
        ("grpc", 2_000),
        ("exec", 200),
    ] {
        let exec = name == "exec";
        let before = if exec { children() } else { thread_cpu() };
        let mut latencies = Vec::new();
        for first in (0..count).step_by(BURST) {
            let burst = first..(first + BURST).min(count);
            for number in burst.clone() {
                let Container { netns, web, udp, grpc } = &containers[number % CONTAINERS];
                let check = check(name, *web, *udp, *grpc);
                let netns = Some(PathBuf::from("/run/netns").join(&netns.0));
                let request = ProbeRequest {
                    id: CheckId(0),
                    check: Arc::new(check),
                    pid: None,
                    netns,
                    timeout: Duration::from_secs(5),
                    max_latency: None,
                };
                prober.start(request).expect("there is room");
            }
            for _ in burst {
                let ProbeReply { sign, answer, latency, .. } = replies.blocking_recv().expect("the prober lives");
                assert!(sign.is_right(), "{name}: {answer}");
                latencies.push(latency);
            }
        }
        let cpu = if exec { children() } else { thread_cpu() }.saturating_sub(before);
        latencies.sort();
        let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100].as_micros();
        let each = cpu.as_secs_f64() * 1e6 / count as f64;
        let rate = 1e6 / each;
        println!("{name:22} {count:>8} {each:>12.1} {rate:>12.0} {:>10} {:>10}", at(50), at(99));
    }
    ExitCode::SUCCESS
}

fn check(name: &str, web: SocketAddr, udp: SocketAddr, grpc: SocketAddr) -> Check {
    let http = || HttpCheck::get(web, "/healthz");
    let echo =
        || Check::Udp(Exchange { address: udp, send: b"ping".to_vec(), expect: Some(Match::Exact(b"ping".to_vec())) });
    match name {
        "tcp" => Check::Tcp { address: web },
        "http" => Check::Http(Box::new(http())),
        "http-body" => {
            let expect_body = Some(Match::Regex("^ok$".into()));
            Check::Http(Box::new(HttpCheck { expect_body, ..http() }))
        }
        "udp" => echo(),
        "icmp" => Check::Icmp { address: [127, 0, 0, 1].into() },
        "plan" => {
            let step = |name: &str, check| Step { name: name.into(), check: Arc::new(check), max_latency: None };
            let steps = vec![step("web", Check::Http(Box::new(http()))), step("echo", echo())];
            Check::Plan { steps, timeout: Duration::from_secs(5) }
        }
        "grpc" => Check::Grpc { address: grpc, service: String::new() },
        _ => Check::Exec { argv: vec!["/bin/true".into()] },
    }
}

struct Container {
    netns: Netns,
    web: SocketAddr,
    udp: SocketAddr,
    grpc: SocketAddr,
}

/// A namespace with a server for TCP and HTTP, one for UDP and one for gRPC.
fn container(number: usize) -> Container {
    let netns = Netns(format!("rm-bench-{}-{number}", std::process::id()));
    for args in [&["netns", "add", &netns.0][..], &["-n", &netns.0, "link", "set", "lo", "up"]] {
        assert!(Command::new("ip").args(args).status().expect("iproute2 is installed").success(), "needs root");
    }
    let http = listen(&netns, |listener| {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept works");
            let mut request = [0; 1024];
            // A TCP probe asks nothing.
            if stream.read(&mut request).unwrap_or(0) > 0 {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
            }
        }
    });
    let grpc = listen(&netns, |listener| {
        listener.set_nonblocking(true).expect("a socket");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let (_reporter, health) = tonic_health::server::health_reporter();
            let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime");
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let server = tonic::transport::Server::builder().add_service(health);
            server.serve_with_incoming(incoming).await.expect("it serves");
        });
    });
    let udp = serve_udp(&netns);
    Container { netns, web: http, udp, grpc }
}

/// Echoes.
fn serve_udp(netns: &Netns) -> SocketAddr {
    let file = File::open(PathBuf::from("/run/netns").join(&netns.0)).expect("it was made");
    let (sender, receiver) = std_mpsc::channel();
    thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).expect("this is run by root");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback is up");
        sender.send(socket.local_addr().expect("it is bound")).expect("the bench waits");
        let mut bytes = [0; 64];
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&bytes[..len], from);
        }
    });
    receiver.recv().expect("the server starts")
}

fn listen(netns: &Netns, serve: impl FnOnce(TcpListener) + Send + 'static) -> SocketAddr {
    let file = File::open(PathBuf::from("/run/netns").join(&netns.0)).expect("it was made");
    let (sender, receiver) = std_mpsc::channel();
    thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).expect("this is run by root");
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is up");
        sender.send(listener.local_addr().expect("it is bound")).expect("the bench waits");
        serve(listener);
    });
    receiver.recv().expect("the server starts")
}

/// Time on a processor of the thread "probe".
fn thread_cpu() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").expect("proc is mounted").map(|task| task.expect("an entry").path());
    let probe =
        tasks.into_iter().find(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "probe\n"));
    let Some(probe) = probe else { return Duration::ZERO };
    let stat = fs::read_to_string(probe.join("schedstat")).expect("it lives");
    Duration::from_nanos(stat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds"))
}

/// The same of the exec runner and the children it has waited for, in ticks of 10 ms.
fn children() -> Duration {
    let this = format!("/proc/{0}/task", std::process::id());
    let tasks =
        fs::read_dir(this).expect("proc is mounted").map(|task| task.expect("an entry").path().join("children"));
    let pids: Vec<String> = tasks
        .flat_map(|file| {
            fs::read_to_string(file).unwrap_or_default().split_whitespace().map(String::from).collect::<Vec<_>>()
        })
        .collect();
    let ticks = pids.iter().map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(4);
        fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>()
    });
    Duration::from_millis(ticks.sum::<u64>() * 10)
}
