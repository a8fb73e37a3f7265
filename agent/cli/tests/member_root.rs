//! A container's own member for real: the program in a container of the lab, mounted and started by its agent, and what
//! becomes of it when it is killed, stopped or impersonated.

#[allow(dead_code)] // It has more than is needed here.
mod common;
mod program;

use std::{
    fs,
    os::unix::{fs::MetadataExt, net::UnixListener},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use common::{BINARY, LONG, Lab, Traces};
use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket},
    },
    unistd::Pid,
};
use ringmesh_agentd::{
    config::{Config, Inside, Service},
    lab::{Fault, HostStatus, wait},
};
use ringmesh_proto::v1::{self, cell_member, inside_member, verdict::Value as Verdict};

const H1: &[&str] = &["h1"];
const CONTAINER: &str = "h1/h1-c1";

#[test]
#[ignore = "needs root"]
fn a_member_inside_answers_asks_dies_hangs_and_comes_back() {
    let before = Traces::of("member");
    let program = program::ringmesh_member();
    let lab = Lab::up("member", 2, 2);
    let pid = with_a_member(&lab, &program);
    let socket = services_pass_and_fail(&lab, pid);
    a_member_is_small_and_within_its_container(&lab, pid);
    a_killed_member_comes_back(&lab);
    a_stranger_is_turned_away(&lab);
    a_stopped_member_is_silent_and_replaced(&lab);
    it_ends_with_its_agent_and_comes_with_the_next(&lab);
    drop((socket, lab));
    assert_eq!(Traces::of("member"), before);
}

/// The first container of the lab gets one; its first process.
fn with_a_member(lab: &Lab, program: &Path) -> u32 {
    let path = lab.status().dir.join("h1/agent.toml");
    let mut config = Config::load(&path).expect("the lab wrote it");
    config.probe.member_program = Some(program.to_owned());
    let first = &mut config.containers[0];
    first.member = true;
    let service = |name: &str, inside: Inside| Service {
        interval: Duration::from_millis(500),
        timeout: Duration::from_millis(400),
        threshold_down: 2,
        inside: Some(inside),
        ..Service::new(name)
    };
    let day = Duration::from_secs(86_400);
    first.services.extend([
        service("file", Inside { file: Some("/tmp/alive".into()), max_age: Some(day), ..Inside::default() }),
        service(
            "port",
            Inside { tcp: Some(([127, 0, 0, 1], 8080).into()), http: Some("/".into()), ..Inside::default() },
        ),
        service("unix", Inside { unix: Some("/tmp/app".into()), ..Inside::default() }),
    ]);
    lab.fault(&Fault::Kill { host: "h1".into() });
    fs::write(&path, config.to_toml()).expect("it is ours");
    lab.fault(&Fault::Start { host: "h1".into() });
    lab.until(
        "a container that was started before has no program, and that is said",
        H1,
        container(|c| {
            let inside = c.inside.as_ref()?;
            (inside.state() == inside_member::State::Starting && inside.problem.contains("restart the container"))
                .then_some(())
        }),
    );
    let restarted = Command::new(BINARY)
        .env("RINGMESH_HOST", &lab.host("h1").api)
        .args(["container", "restart", "h1-c1"])
        .output()
        .expect("it runs");
    assert!(restarted.status.success(), "{}", String::from_utf8_lossy(&restarted.stderr));
    lab.until(
        "started anew it has one, which speaks for it in its cell",
        H1,
        container(|c| {
            let (cell, inside) = (c.cell.as_ref()?, c.inside.as_ref()?);
            let runs = (inside.state(), inside.starts) == (inside_member::State::Running, 1);
            (runs && cell.inside && cell.state() == cell_member::State::Alive).then_some(())
        }),
    );
    lab.containers("h1")[0]
}

fn services_pass_and_fail(lab: &Lab, pid: u32) -> UnixListener {
    let within = |path: &str| PathBuf::from(format!("/proc/{pid}/root")).join("tmp").join(path);
    let verdict = |name: &'static str, verdict: Verdict, answer: &'static str| {
        lab.until(
            &format!("{name}: {answer}"),
            H1,
            service(name, move |s| s.verdict() == verdict && s.last_answer.contains(answer)),
        );
    };
    verdict("port", Verdict::Passing, "200 OK");
    verdict("file", Verdict::Critical, "no such file or directory");
    verdict("unix", Verdict::Critical, "no such file or directory");
    fs::write(within("alive"), "it is").expect("the container runs");
    let listener = UnixListener::bind(within("app")).expect("the container runs");
    verdict("file", Verdict::Passing, "5 bytes");
    verdict("unix", Verdict::Passing, "connected");
    drop(listener);
    verdict("unix", Verdict::Critical, "connection refused");
    fs::remove_file(within("app")).expect("it is ours");
    let listener = UnixListener::bind(within("app")).expect("the container runs");
    verdict("unix", Verdict::Passing, "connected");
    fs::remove_file(within("alive")).expect("it is ours");
    verdict("file", Verdict::Critical, "no such file or directory");
    fs::write(within("alive"), "it is").expect("the container runs");
    verdict("file", Verdict::Passing, "5 bytes");
    listener
}

fn a_member_is_small_and_within_its_container(lab: &Lab, container: u32) {
    let member = member(lab).expect("it runs");
    let namespace = |pid: u32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("it runs");
    for kind in ["pid", "net", "mnt", "ipc", "uts"] {
        assert_eq!(namespace(member, kind), namespace(container, kind), "{kind}");
    }
    let memory = fs::read_to_string(format!("/proc/{member}/smaps_rollup")).expect("it runs");
    let kib = |key: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel counts it");
        line.trim_end_matches(" kB").trim().parse::<u32>().expect("a number")
    };
    eprintln!("         a member inside takes {} KiB, its share of it {} KiB", kib("Rss:"), kib("Pss:"));
    assert!(kib("Pss:") < 1024, "{memory}");
}

fn a_killed_member_comes_back(lab: &Lab) {
    let (past, first) = (lab.past(H1), member(lab).expect("it runs"));
    signal(first, Signal::SIGKILL);
    lab.until_event("that it is lost is told", H1, &past, |event| {
        event.kind == "member-lost" && event.container == "h1-c1" && event.text.contains("it ended")
    });
    lab.until(
        "it is started again",
        H1,
        container(|c| {
            let inside = c.inside.as_ref()?;
            ((inside.state(), inside.starts) == (inside_member::State::Running, 2)).then_some(())
        }),
    );
    assert!(member(lab).is_some_and(|pid| pid != first));
    lab.until("and asks", H1, service("file", |s| s.verdict() == Verdict::Passing));
    let told = wait::events(&lab.host("h1")).expect("it answers");
    assert!(!told.iter().any(|event| past.lacks(event) && event.kind == "container-silent"), "{told:?}");
}

/// What runs another program may connect, and is heard by nobody.
fn a_stranger_is_turned_away(lab: &Lab) {
    let path = state(lab).join("member/sockets/h1-c1/socket");
    let stranger = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None).expect("a socket");
    let address = UnixAddr::new(&path).expect("a short path");
    use std::os::fd::AsRawFd;
    // While a member is connected there is no socket for another one.
    let refused = connect(stranger.as_raw_fd(), &address);
    if refused.is_ok() {
        let _ = send(stranger.as_raw_fd(), b"\x01\x00\x00\x00", MsgFlags::MSG_NOSIGNAL);
        let mut bytes = [0; 8];
        assert!(!matches!(recv(stranger.as_raw_fd(), &mut bytes, MsgFlags::empty()), Ok(1..)));
    }
}

fn a_stopped_member_is_silent_and_replaced(lab: &Lab) {
    let (past, stopped) = (lab.past(H1), member(lab).expect("it runs"));
    signal(stopped, Signal::SIGSTOP);
    lab.until(
        "what it was asked has no answer",
        H1,
        service("file", |s| {
            s.verdict() == Verdict::Critical && s.last_answer.contains("the member inside gave no answer within 400 ms")
        }),
    );
    let silent =
        lab.until_event("its cell takes the container for down", H1, &past, |event| event.kind == "container-silent");
    assert!(silent[0].text.starts_with("h1-c1's member inside has said nothing for "), "{}", silent[0].text);
    lab.until_event("it is killed", H1, &past, |event| {
        event.kind == "member-lost" && event.text.contains("it said nothing for 30s and was killed")
    });
    lab.until_event("another one is heard", H1, &past, |event| event.kind == "container-heard");
    assert!(member(lab).is_some_and(|pid| pid != stopped));
    lab.until("and asks", H1, service("file", |s| s.verdict() == Verdict::Passing));
}

fn it_ends_with_its_agent_and_comes_with_the_next(lab: &Lab) {
    let last = member(lab).expect("it runs");
    lab.fault(&Fault::Kill { host: "h1".into() });
    assert!(wait::until_true(LONG, || member(lab).is_none()), "{last} outlives its agent");
    lab.fault(&Fault::Start { host: "h1".into() });
    lab.until(
        "the next agent starts one",
        H1,
        container(|c| {
            (c.inside.as_ref()?.state() == inside_member::State::Running && c.cell.as_ref()?.inside).then_some(())
        }),
    );
    assert!(member(lab).is_some());
}

fn state(lab: &Lab) -> PathBuf {
    Config::load(&lab.status().dir.join("h1/agent.toml")).expect("it is ours").host.state_dir
}

/// The process that runs the agent's copy of the program, and has not ended.
fn member(lab: &Lab) -> Option<u32> {
    let is = |path: PathBuf| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    let ours = is(state(lab).join("member/program")).expect("the agent copied it");
    let pids =
        fs::read_dir("/proc").expect("procfs").flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|pid: &u32| is(format!("/proc/{pid}/exe").into()) == Some(ours))
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).expect("it runs");
}

fn container(
    wanted: impl Fn(&v1::Container) -> Option<()>,
) -> impl Fn(&HostStatus, &wait::Seen<v1::Container>) -> Result<(), String> {
    move |_, seen| {
        let container = seen.get(CONTAINER).ok_or("it is not there")?;
        wanted(container).ok_or_else(|| format!("{:?} {:?}", container.inside, container.cell))
    }
}

fn service(
    name: &'static str,
    wanted: impl Fn(&v1::Service) -> bool,
) -> impl Fn(&HostStatus, &wait::Seen<v1::Service>) -> Result<(), String> {
    move |_, seen| {
        let service = seen.get(&format!("{CONTAINER}/{name}")).ok_or("it is not there")?;
        if wanted(service) { Ok(()) } else { Err(format!("{service:?}")) }
    }
}
