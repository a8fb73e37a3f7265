//! A disk that is full: what this host must remember it cannot write down. It says so, does what needs no memory, and goes on
//! when there is room again.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use ringmesh_agentd::config::RungName;
use tempfile::TempDir;

use super::*;

/// So many bytes are enough for the state of the host with its replica of the configuration, and quickly used up.
const SIZE: &str = "size=64m";

/// A small file system, to which the state directory of h1 leads.
struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    fn new() -> Self {
        let disk = Self { directory: tempfile::tempdir().expect("a directory for the test") };
        mount(Some("none"), disk.path(), Some("tmpfs"), MsFlags::empty(), Some(SIZE)).expect("the test is root");
        disk
    }

    /// The agent is started anew with it.
    fn give_to_h1(&self, lab: &Lab) {
        lab.fault(&Fault::Kill { host: H1.into() });
        let state = lab.status().dir.join("h1/state");
        let copied = Command::new("cp").arg("-a").arg(&state).arg(self.path()).status().expect("coreutils");
        assert!(copied.success());
        fs::remove_dir_all(&state).expect("it is ours");
        std::os::unix::fs::symlink(self.path().join("state"), &state).expect("it is ours");
        lab.fault(&Fault::Start { host: H1.into() });
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Nothing more can be written.
    fn fill(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.ballast()).expect("it is ours");
        for size in [65_536, 4096, 1] {
            while ballast.write_all(&vec![1; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("it is ours");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = umount2(self.path(), MntFlags::MNT_DETACH);
        assert!(unmounted.is_ok() || std::thread::panicking());
    }
}

#[test]
#[ignore = "needs root"]
fn a_full_disk_is_said_and_ends_neither_agent_nor_container() {
    let before = Traces::of("repair-disk");
    // It must be there until the lab is gone, also when the test fails.
    let disk = SmallDisk::new();
    let lab = Lab::up("repair-disk", 2, 3);
    disk.give_to_h1(&lab);
    lab.until_well("on the small disk", &BOTH);
    let pids = lab.containers(H1);
    let agent = lab.host(H1).pid;

    disk.fill();
    let past = lab.past(&BOTH);
    let failed = order_that_fails(&lab, &["container", "freeze", "h1-c1", "--reason", "a leak", "--wait"]);
    assert!(failed.contains("a restart of the agent would forget it"), "{failed}");
    let told = lab.until_event("it is said, everywhere", &BOTH, &past, |event| event.kind == "disk-failing");
    assert!(told[0].text.contains("No space left on device"), "{}", told[0].text);
    let shown = json(&ringmesh(&lab, H1, &["host", "show", "h1"]));
    assert!(shown["disk_problem"].as_str().is_some_and(|problem| problem.contains("No space left")), "{shown}");
    lab.until("it is frozen all the same", &BOTH, container("h1/h1-c1", |c| c.frozen && c.state() == State::Paused));
    assert_eq!(frozen_state(pids[0]), "FROZEN");

    disk.fill();
    let failed = order_that_fails(&lab, &["container", "clone", "h1-c2", "--wait"]);
    assert!(failed.contains("not begun, because it cannot be written down"), "{failed}");
    assert_eq!(lab.containers(H1), pids, "nothing was done to it");
    lab.until("it is watched as before", &BOTH, well("h1/h1-c2"));

    // A change of behaviour is written within seconds, if it can be.
    disk.fill();
    let past = lab.past(&BOTH);
    lab.fault(&Fault::KillService { host: H1.into(), container: "h1-c2".into() });
    lab.until_event("what happens is told meanwhile", &BOTH, &past, |event| {
        event.kind == "service-verdict" && event.container == "h1-c2"
    });
    assert_eq!(lab.host(H1).pid, agent, "the same agent");

    // An agent begins on a full disk, too.
    let past = lab.past(&BOTH);
    disk.fill();
    lab.fault(&Fault::Kill { host: H1.into() });
    lab.fault(&Fault::Start { host: H1.into() });
    lab.until("it runs and sees its containers", &BOTH, container("h1/h1-c3", |c| is_well(c) && c.pid == pids[2]));
    assert_eq!(frozen_state(pids[0]), "FROZEN");

    lab.until_event("it is said again", &BOTH, &past, |event| event.kind == "disk-failing");
    heals(&lab, &disk, &pids);
    a_repair_on_a_full_disk(&lab, &disk);
    drop(lab);
    drop(disk);
    assert_eq!(Traces::of("repair-disk"), before);
}

/// What was ordered while the disk was full is written as soon as there is room, without another order.
fn heals(lab: &Lab, disk: &SmallDisk, pids: &[u32]) {
    // The agent that began on the full disk knows nothing of the first freeze, as was said.
    let past = lab.past(&BOTH);
    disk.fill();
    order_that_fails(lab, &["container", "freeze", "h1-c3", "--wait"]);
    disk.make_room();
    lab.until_event("that it is over is said", &BOTH, &past, |event| event.kind == "disk-well");
    lab.fault(&Fault::Kill { host: H1.into() });
    lab.fault(&Fault::Start { host: H1.into() });
    lab.until("it is remembered", &BOTH, container("h1/h1-c3", |c| c.frozen && c.pid == pids[2]));
    for name in ["h1-c1", "h1-c3"] {
        ordered(lab, H1, &["container", "release", name, "--wait"]);
    }
    ordered(lab, H1, &["container", "restart", "h1-c2", "--wait"]);
    lab.until_well("all are well", &BOTH);
    let leader = || json(&ringmesh(lab, H1, &["store", "status"]))["leader"] == H1;
    assert!(wait::until_true(LONG, leader), "its replica of the configuration is back");
}

/// What cannot be written down is not begun, and is done when there is room.
fn a_repair_on_a_full_disk(lab: &Lab, disk: &SmallDisk) {
    reconfigure(
        lab,
        |config| {
            config.repair.mode = RepairMode::Automatic;
            config.repair.rungs = vec![RungName::Clone];
            (config.repair.clone.attempts, config.repair.clone.timeout) = (100, Duration::from_secs(4));
            config.repair.clone.back_off = Duration::from_millis(200);
            // One of three is more than 40 %.
            config.repair.limits.sick_min = 1;
        },
        |_| (),
    );
    lab.until_well("with repair", &BOTH);
    let past = lab.past(&BOTH);
    disk.fill();
    let pid = lab.containers(H1)[1];
    lab.fault(&Fault::KillService { host: H1.into(), container: "h1-c2".into() });
    let failed = event(lab, &past, "operation-failed", "h1-c2", "the clone is not begun");
    assert!(failed.text.contains("it cannot be written down"), "{}", failed.text);
    assert_eq!(lab.containers(H1)[1], pid);
    disk.make_room();
    let done = event(lab, &past, "operation-done", "h1-c2", "it is made when there is room");
    assert!(done.text.contains("clone of h1-c2 as h1-c2.1"), "{}", done.text);
}

/// What it says on stderr.
fn order_that_fails(lab: &Lab, args: &[&str]) -> String {
    let output = ringmesh(lab, H1, args);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}
