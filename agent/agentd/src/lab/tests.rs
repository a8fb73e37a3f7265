//! Labs without agents: a stand-in for the program `ringmesh` shows that networks, faults and teardown work.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use ringmesh_proto::Uplink;

use super::{
    error::LabError,
    netns, network,
    plan::{self, HostNumber},
    process::{self, ProcessId},
    record::{Lock, Record},
    *,
};

const SOON: Duration = Duration::from_millis(500);

/// A network that goes when the test ends, also by a panic.
struct Network(&'static str);

impl Network {
    fn new(lab: &'static str, hosts: u16) -> (Self, Vec<HostNumber>) {
        let network = Self(lab);
        let all: Vec<_> = HostNumber::first(hosts).collect();
        fs::create_dir_all(plan::record_dir(lab)).expect("as root");
        netns::prepare_dir().expect("as root");
        network::create_switch(lab).expect("as root");
        for host in &all {
            network::create_host(lab, *host, &all).expect("as root");
        }
        network::connect(lab, &all, &Uplink::BOTH, true).expect("as root");
        (network, all)
    }

    /// Whether a datagram from one host reaches another over an uplink within a time that is long for a veth. Several
    /// are sent, as a kernel takes a moment to let an interface send whose carrier has just come.
    fn reaches(&self, from: HostNumber, to: HostNumber, uplink: Uplink) -> bool {
        let address = to.address(uplink);
        let receiver = netns::enter(&to.netns(self.0), || UdpSocket::bind((address, 0))).expect("its own address");
        receiver.set_read_timeout(Some(SOON / 10)).expect("not zero");
        let port = receiver.local_addr().expect("bound").port();
        let sender = netns::enter(&from.netns(self.0), || UdpSocket::bind((from.address(uplink), 0))).expect("its own");
        (0..10).any(|_| {
            sender.send_to(b"x", (address, port)).expect("loss is silent");
            receiver.recv(&mut [0; 8]).is_ok()
        })
    }

    fn has_carrier(&self, host: HostNumber, uplink: Uplink) -> bool {
        let running = nix::net::if_::InterfaceFlags::IFF_RUNNING;
        let name = plan::interface_name(uplink);
        let found = netns::enter(&host.netns(self.0), || {
            let mut interfaces = nix::ifaddrs::getifaddrs()?;
            Ok(interfaces.any(|interface| interface.interface_name == name && interface.flags.contains(running)))
        });
        found.expect("its own interfaces")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        down(Some(self.0)).expect("nothing is left");
    }
}

#[test]
#[ignore = "needs root"]
fn root_a_cut_is_silent_in_both_directions_and_heals() {
    let (network, hosts) = Network::new("test-cut", 3);
    let [h1, h2, h3] = hosts[..] else { unreachable!("three were made") };
    let all_reach = |from: HostNumber, to: HostNumber| Uplink::BOTH.map(|uplink| network.reaches(from, to, uplink));
    assert_eq!(all_reach(h1, h2), [true, true]);
    assert_eq!(all_reach(h2, h1), [true, true]);

    network::connect(network.0, &[h2], &[Uplink::A], false).expect("cut");
    assert_eq!(all_reach(h1, h2), [false, true]);
    assert_eq!(all_reach(h2, h1), [false, true]);
    assert_eq!(all_reach(h1, h3), [true, true], "others do not notice");
    assert!(network.has_carrier(h2, Uplink::A), "the host has to find out by itself");

    network::connect(network.0, &[h2], &Uplink::BOTH, false).expect("isolate what is half cut");
    assert_eq!(all_reach(h3, h2), [false, false]);
    network::connect(network.0, &[h2], &Uplink::BOTH, true).expect("heal");
    network::connect(network.0, &[h2], &Uplink::BOTH, true).expect("heal what is well");
    assert_eq!(all_reach(h3, h2), [true, true]);
    assert_eq!(all_reach(h2, h1), [true, true]);
}

#[test]
#[ignore = "needs root"]
fn root_a_newcomer_reaches_everybody_and_no_neighbour_is_learnt() {
    let (network, hosts) = Network::new("test-add", 2);
    let newcomer = HostNumber::new(3).expect("in range");
    network::create_host(network.0, newcomer, &hosts).expect("made");
    for host in &hosts {
        network::introduce(network.0, *host, newcomer).expect("introduced");
    }
    assert!(!network.reaches(newcomer, hosts[0], Uplink::A), "it is not plugged in yet");
    network::connect(network.0, &[newcomer], &Uplink::BOTH, true).expect("plugged in");
    for uplink in Uplink::BOTH {
        assert!(network.reaches(newcomer, hosts[1], uplink) && network.reaches(hosts[0], newcomer, uplink));
    }
    let table = netns::enter(&newcomer.netns(network.0), || fs::read_to_string("/proc/thread-self/net/arp"));
    for line in table.expect("it is there").lines().skip(1) {
        // Flags: complete and permanent.
        assert_eq!(line.split_ascii_whitespace().nth(2), Some("0x6"), "{line}");
    }
}

#[test]
#[ignore = "needs root"]
fn root_the_network_of_32_hosts_is_made_and_unmade_in_time() {
    let start = Instant::now();
    let (network, hosts) = Network::new("test-32", 32);
    let made = start.elapsed();
    assert!(network.reaches(hosts[0], hosts[31], Uplink::B));
    let start = Instant::now();
    drop(network);
    eprintln!("32 hosts: made in {made:?}, unmade in {:?}", start.elapsed());
    assert!(made < Duration::from_secs(10), "{made:?}");
}

#[test]
#[ignore = "needs root"]
fn root_down_finds_what_no_record_tells_of() {
    let (network, hosts) = Network::new("test-lost", 2);
    let namespace = hosts[1].netns(network.0);
    let log = plan::record_dir(network.0).join("log");
    // A process in a namespace of the lab, and the lab's mark on something that is no container.
    let ours = process::spawn_detached(&namespace, Path::new("/bin/sleep"), &["1000"], &log).expect("started");
    fs::remove_file(log).expect("written");
    let mark = plan::container_mark(network.0, "h1-c1");
    let mut foreign = std::process::Command::new("/bin/sh")
        .args(["-c", "read x", "sh", &mark])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("sh");
    let foreign_id = ProcessId::of(foreign.id()).expect("it runs");
    down(Some(network.0)).expect("all is found");
    assert_eq!(ours.state(), AgentState::Dead);
    assert_eq!(netns::list(|name| plan::is_netns_of("test-lost", name)).expect("listed"), [""; 0]);
    assert_ne!(foreign_id.state(), AgentState::Dead, "what is not ours is left alone");
    foreign.kill().and_then(|()| foreign.wait()).expect("it is our child");
    down(Some(network.0)).expect("nothing to do is no error");
}

/// A program that behaves as `ringmesh` where a lab needs it, and whose agent listens and waits.
fn stand_in(dir: &Path, agent: &str) -> std::path::PathBuf {
    let path = dir.join("ringmesh");
    let script = format!(
        "#!/bin/busybox sh\n\
         case \"$1\" in\n\
         init|join) echo \"$@\" >>{dir}/calls;;\n\
         --host) echo '{{\"token\": \"rmt-1\"}}';;\n\
         agent) {agent};;\n\
         esac\n",
        dir = dir.display()
    );
    fs::write(&path, script).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
    path
}

fn options(name: &str, dir: &Path, binary: std::path::PathBuf) -> UpOptions {
    let dir = Some(dir.join("files"));
    UpOptions {
        name: name.into(),
        hosts: 3,
        containers: 1,
        zones: 1,
        mode: Mode::Switched,
        repair: RepairMode::Off,
        dir,
        binary,
    }
}

#[test]
#[ignore = "needs root"]
fn root_a_lab_whose_agents_end_at_once_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let binary = stand_in(dir.path(), "echo 'no luck' >&2; exit 1");
    let error = up(&options("test-fail", dir.path(), binary), &mut |_| {}).expect_err("the agent ended");
    assert!(matches!(&error, LabError::AgentEnded { host, .. } if host == "h1"), "{error}");
    assert!(error.to_string().contains("no luck"), "{error}");
    assert!(!dir.path().join("files").exists() && !plan::record_dir("test-fail").exists());
    assert_eq!(netns::list(|name| plan::is_netns_of("test-fail", name)).expect("listed"), [""; 0]);
}

#[test]
#[ignore = "needs root"]
fn root_faults_reach_the_agents_and_only_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let binary = stand_in(dir.path(), "exec sleep 1000");
    let files = dir.path().join("files");
    let name = "test-fault";
    let mut record = Record::new(name, files.clone(), binary, 1, 1);
    fs::create_dir_all(plan::record_dir(name)).expect("as root");
    let (_network, hosts) = Network::new(name, 2);
    for host in &hosts {
        fs::create_dir_all(host.dir(&files)).expect("made");
        let (netns, log) = (host.netns(name), host.log(&files));
        let agent = process::spawn_detached(&netns, &record.binary, &["agent"], &log).expect("started");
        record.set_agent(*host, agent);
    }
    record.save().expect("saved");
    assert!(newest().is_some_and(|lab| lab.name == name) || newest().is_some_and(|lab| lab.created >= record.created));

    let state = |host: usize| status(Some(name)).expect("it is there").hosts[host].state;
    let h1 = || "h1".to_owned();
    assert_eq!((state(0), state(1)), (AgentState::Running, AgentState::Running));
    fault(Some(name), &Fault::Stop { host: h1() }).expect("stopped");
    assert_eq!((state(0), state(1)), (AgentState::Stopped, AgentState::Running));
    fault(Some(name), &Fault::Cont { host: h1() }).expect("goes on");
    assert_eq!(state(0), AgentState::Running);
    let running = fault(Some(name), &Fault::Start { host: h1() });
    assert!(matches!(running, Err(LabError::Running { .. })), "{running:?}");
    fault(Some(name), &Fault::Kill { host: h1() }).expect("killed");
    assert_eq!((state(0), state(1)), (AgentState::Dead, AgentState::Running));
    assert_eq!(status(Some(name)).expect("it is there").hosts[0].pid, None);
    let dead = fault(Some(name), &Fault::Stop { host: h1() });
    assert!(matches!(dead, Err(LabError::NotRunning { .. })), "{dead:?}");
    let unknown = fault(Some(name), &Fault::Heal { host: "h9".into() }).expect_err("it has two");
    assert_eq!(unknown.exit_status(), 4);

    let service = Fault::KillService { host: h1(), container: "h1-c1".into() };
    assert!(matches!(fault(Some(name), &service), Err(LabError::NoSuchContainer { .. })));

    let sh = |script: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
    let ended = exec(Some(name), "h2", &sh("ip -o -4 addr | grep -q 10.77.0.2/24 && test -n \"$RINGMESH_HOST\""));
    assert!(ended.expect("run").success());
    assert_eq!(exec(Some(name), "h2", &sh("exit 7")).expect("run").code(), Some(7));

    // The lock is not held between commands.
    drop(Lock::take(name).expect("free"));
    down(Some(name)).expect("taken down");
    assert!(!files.exists());
    assert!(matches!(status(Some(name)), Err(LabError::NoSuchLab { .. })));
}

#[test]
fn what_cannot_be_made_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let good = options("test-refused", dir.path(), "/bin/true".into());
    let refused = |change: &dyn Fn(&mut UpOptions)| {
        let mut options = good.clone();
        change(&mut options);
        let error = up(&options, &mut |_| {}).expect_err("refused");
        assert!(!error.to_string().contains('\n'), "one line: {error}");
        error
    };
    assert!(matches!(refused(&|o| o.hosts = 1), LabError::HostCount(1)));
    assert!(matches!(refused(&|o| o.hosts = 65), LabError::HostCount(65)));
    assert!(matches!(refused(&|o| o.containers = 65), LabError::ContainerCount(65)));
    assert!(matches!(refused(&|o| o.mode = Mode::Cabled), LabError::Cabled));
    assert!(matches!(refused(&|o| o.name = "../x".into()), LabError::BadName(_)));
    assert!(!plan::record_dir("test-refused").exists());
}

#[test]
#[ignore = "needs root"]
fn root_a_directory_in_use_and_a_lab_that_is_there_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut options = options("test-there", dir.path(), "/bin/true".into());
    options.dir = Some(dir.path().into());
    fs::write(dir.path().join("precious"), "").expect("written");
    assert!(matches!(up(&options, &mut |_| {}), Err(LabError::DirInUse { .. })));
    options.dir = Some(dir.path().join("x".repeat(100)));
    assert!(matches!(up(&options, &mut |_| {}), Err(LabError::DirTooLong { .. })));
    assert!(!plan::record_dir("test-there").exists());
    options.dir = None;
    let (_network, _) = Network::new("test-there", 2);
    let there = up(&options, &mut |_| {});
    assert!(matches!(there, Err(LabError::Exists { .. })), "{there:?}");
    assert!(dir.path().join("precious").exists());
}

#[test]
#[ignore = "needs root"]
fn root_the_first_process_of_a_container_keeps_running_without_its_service() {
    let dir = tempfile::tempdir().expect("a directory");
    rootfs::create(&dir.path().join("rootfs")).expect("busybox-static");
    let (network, hosts) = Network::new("test-init", 2);
    let mark = plan::container_mark(network.0, "h1-c1");
    let log = dir.path().join("log");
    // As a runtime would start it, as far as the lab can tell: own pid namespace, own root.
    let root = dir.path().join("rootfs").display().to_string();
    let null = std::process::Command::new("mknod").args([&format!("{root}/dev/null"), "c", "1", "3"]).status();
    assert!(null.expect("coreutils").success(), "a runtime mounts the devices that a shell needs");
    let mut args = vec!["--pid", "--fork", "--kill-child", "chroot", &root];
    let init = rootfs::init_args(&mark);
    args.extend(init.iter().map(String::as_str));
    process::spawn_detached(&hosts[0].netns(network.0), Path::new("/usr/bin/unshare"), &args, &log).expect("started");
    let found = || process::container_inits(|argument| argument == mark).first().copied();
    assert!(wait::until_true(Duration::from_secs(5), || found().is_some()), "{:?}", fs::read_to_string(&log));
    let init = found().expect("just seen");
    let services = || process::children(init.pid, |name| name == rootfs::SERVICE);
    let page = || {
        netns::enter(&hosts[0].netns(network.0), || {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, rootfs::PORT))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        })
    };
    assert!(wait::until_true(Duration::from_secs(5), || page().is_ok_and(|page| page.contains(" 200 OK"))));
    for round in 0..3 {
        process::kill_all(&services(), SOON);
        assert!(page().is_err(), "round {round}: nobody serves");
        assert_eq!(init.state(), AgentState::Running);
        init.signal(nix::sys::signal::Signal::SIGUSR1).expect("ours");
        assert!(wait::until_true(Duration::from_secs(5), || page().is_ok()), "round {round}");
        assert_eq!(services().len(), 1);
        assert_eq!(process::children(init.pid, |_| true).len(), 2, "the service and one that sleeps");
    }
    down(Some(network.0)).expect("also the container");
    assert_eq!(init.state(), AgentState::Dead);
}
