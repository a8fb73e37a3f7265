//! What the kernel says of the uplinks' interfaces, in a network namespace with a veth pair; needs root.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    net::UdpSocket,
    process::{Command, Stdio},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};
use ringmesh_agentd::{
    carrier::{self, CARRIER_BOUND, Carrier},
    counters::Counters,
};
use ringmesh_proto::Uplink;
use tokio::sync::mpsc;

/// Longer than anything here takes on a machine that is busy; a test that waits so long has failed.
const LONG: Duration = Duration::from_secs(20);

/// Runs in a network namespace that ends with its thread.
fn in_namespace(test: fn()) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root");
        test();
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn ip(commands: &[&str]) {
    for command in commands {
        let output = Command::new("ip").args(command.split(' ')).output().expect("iproute2");
        assert!(output.status.success(), "{command}: {output:?}");
    }
}

const CABLE: [&str; 5] = [
    "link set lo up",
    "link add up-a type veth peer name port",
    "link set port up",
    "link set up-a up",
    "address add 10.77.0.1/24 dev up-a",
];

fn watch() -> (mpsc::Receiver<Carrier>, Arc<Counters>) {
    let (sender, changes) = mpsc::channel(CARRIER_BOUND);
    let counters = Arc::new(Counters::default());
    // B's address is nowhere: of that nothing is said.
    let addresses = [Some(([10, 77, 0, 1], 7400).into()), Some(([127, 0, 0, 2], 7400).into())];
    carrier::watch(addresses, sender, Arc::clone(&counters)).expect("route netlink");
    (changes, counters)
}

fn next(changes: &mut mpsc::Receiver<Carrier>) -> Carrier {
    let start = Instant::now();
    loop {
        match changes.try_recv() {
            Ok(change) => return change,
            Err(error) => assert!(start.elapsed() < LONG, "{error}"),
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
#[ignore = "needs root"]
fn a_cable_an_address_and_an_interface_go_and_come_back() {
    in_namespace(|| {
        ip(&CABLE);
        let (mut changes, _) = watch();
        let socket = UdpSocket::bind("10.77.0.1:7400").unwrap();
        let mut slowest = Duration::ZERO;
        let steps: [(&[&str], bool); 6] = [
            (&["link set port down"], false),
            (&["link set port up"], true),
            (&["address del 10.77.0.1/24 dev up-a"], false),
            (&["address add 10.77.0.1/24 dev up-a"], true),
            (&["link del up-a"], false),
            (&CABLE, true),
        ];
        for (commands, up) in steps {
            ip(commands);
            let start = Instant::now();
            assert_eq!(next(&mut changes), Carrier { uplink: Uplink::A, up }, "{commands:?}");
            slowest = slowest.max(start.elapsed());
        }
        eprintln!("the longest that the news took: {slowest:?}");
        // A socket that was bound before serves the new interface: it needs not be bound again.
        socket.send_to(b"still there", "10.77.0.1:7400").unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        let mut bytes = [0; 32];
        assert_eq!(socket.recv(&mut bytes).unwrap(), 11);
        socket.send_to(b"out", "10.77.0.9:7400").unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(changes.try_recv().is_err(), "nothing more");
    });
}

#[test]
#[ignore = "needs root"]
fn an_uplink_that_has_no_carrier_from_the_start_is_told() {
    in_namespace(|| {
        ip(&CABLE);
        ip(&["link set port down"]);
        let (mut changes, _) = watch();
        assert_eq!(next(&mut changes), Carrier { uplink: Uplink::A, up: false });
    });
}

#[test]
#[ignore = "needs root"]
fn after_an_overrun_all_is_looked_at() {
    in_namespace(|| {
        ip(&CABLE);
        let (mut changes, counters) = watch();
        // Nobody takes the news, so the thread stops reading; then far more than a socket holds.
        let flap = "link set port down\nlink set port up\n".repeat(2000);
        let batch = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(batch.path(), flap + "link set port down\n").unwrap();
        let status = Command::new("ip").arg("-batch").arg(batch.path()).stdout(Stdio::null()).status().unwrap();
        assert!(status.success());
        let mut last = next(&mut changes);
        let start = Instant::now();
        while counters.carrier_overruns.load(Ordering::Relaxed) == 0 || last.up {
            assert!(start.elapsed() < LONG, "the last was {last:?}");
            while let Ok(change) = changes.try_recv() {
                last = change;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(100));
        while let Ok(change) = changes.try_recv() {
            last = change;
        }
        assert!(!last.up, "what is so in the end is known");
        ip(&["link set port up"]);
        assert_eq!(next(&mut changes), Carrier { uplink: Uplink::A, up: true }, "and what follows is heard");
    });
}
