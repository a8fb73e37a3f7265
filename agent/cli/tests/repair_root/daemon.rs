//! Repair of a container that dockerd runs: restarted, cloned with an address of the pool; and what becomes of it while the
//! daemon is dead.

use std::{collections::BTreeMap, fs};

use ringmesh_agentd::config::{Docker, Pool, RungName};

use super::*;
use crate::daemons::{Daemon, Dockerd, IMAGE};

#[test]
#[ignore = "needs root"]
fn a_container_of_dockerd_is_repaired_and_waits_while_the_daemon_is_dead() {
    let before = Traces::of("repair-daemon");
    let lab = Lab::up("repair-daemon", 2, 3);
    let mut dockerd = Dockerd::start();
    with_a_box(&lab, &dockerd);
    lab.until("the container of the daemon is well", &BOTH, well("h1/box"));

    let past = lab.past(&BOTH);
    spoil(pid(&lab, "h1/box"));
    let done = repaired(&lab, &past, "box", "it is restarted");
    assert!(done.text.contains("restart of box"), "{}", done.text);

    reconfigure(&lab, |config| config.repair.rungs = vec![RungName::Clone], |_| ());
    lab.until("well again", &BOTH, well("h1/box"));
    let past = lab.past(&BOTH);
    spoil(pid(&lab, "h1/box"));
    repaired(&lab, &past, "box", "or cloned");
    let has_address = |c: &v1::Container| is_well(c) && c.addresses == ["10.200.1.129/24"];
    lab.until("with an address of the pool", &BOTH, container("h1/box.1", has_address));
    assert!(matches!(&dockerd.containers()[..], [name] if name.starts_with("box.1.")), "{:?}", dockerd.containers());

    while_the_daemon_is_dead(&lab, &mut dockerd);
    drop(dockerd);
    drop(lab);
    assert_eq!(Traces::of("repair-daemon"), before);
}

fn while_the_daemon_is_dead(lab: &Lab, dockerd: &mut Dockerd) {
    let (running, past) = (pid(lab, "h1/box.1"), lab.past(&BOTH));
    dockerd.kill();
    let told = lab.until_event("its death is told", &BOTH, &past, |event| event.kind == "runtime-silent");
    assert!(told[0].text.contains("the container daemon at"), "{}", told[0].text);
    lab.until(
        "the container is seen to run on",
        &BOTH,
        container("h1/box.1", |c| is_well(c) && c.pid == running && c.problem.contains("does it run?")),
    );
    let output = ringmesh(lab, H1, &["container", "restart", "h1/box.1", "--wait"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("the container daemon at"), "{error}");
    assert_eq!(pid(lab, "h1/box.1"), running);

    // It becomes sick: nothing is tried until somebody is there to do it, and nothing is given up.
    let past = lab.past(&BOTH);
    spoil(running);
    let down = |event: &v1::Event| event.kind == "service-verdict" && event.container == "box.1";
    lab.until_event("it is critical", &[H1], &past, down);
    let called_down =
        ["container-state", "operation-started", "operation-failed", "container-silent", "repair-exhausted"];
    let about = |event: &v1::Event| called_down.contains(&&*event.kind) && event.container.starts_with("box");
    lab.no_event(Duration::from_secs(3), &BOTH, &past, about);
    assert_eq!(pid(lab, "h1/box.1"), running);

    dockerd.serve();
    repaired(lab, &past, "box.1", "when it is back, that is done");
    lab.until_event("it is told", &BOTH, &past, |event| event.kind == "runtime-heard");
    lab.until("the clone is well", &BOTH, well("h1/box.2"));
    assert_eq!(dockerd.containers().len(), 1, "{:?}", dockerd.containers());
}

/// Beside the three of the lab, one that the daemon runs. A file in it fails its check.
fn with_a_box(lab: &Lab, dockerd: &Dockerd) {
    reconfigure(
        lab,
        |config| {
            config.repair.mode = RepairMode::Automatic;
            config.repair.rungs = vec![RungName::RestartContainer];
            for step in [&mut config.repair.restart_container, &mut config.repair.clone] {
                (step.attempts, step.timeout, step.back_off) = (2, Duration::from_secs(10), Duration::from_millis(200));
            }
            config.repair.quiet = Duration::from_secs(1);
            let like = config.containers[0].clone();
            let mut network = like.network.clone().expect("the lab's containers have one");
            network.address = "10.200.1.100/24".into();
            config.containers.push(ringmesh_agentd::config::Container {
                member: false,
                name: "box".into(),
                tenant: "green".into(),
                labels: BTreeMap::new(),
                oci: None,
                docker: Some(Docker {
                    socket: dockerd.socket(),
                    image: Some(IMAGE.into()),
                    container: None,
                    args: ["/bin/sh", "-c", "mkdir -p /tmp; exec sleep 600"].map(str::to_owned).to_vec(),
                    env: Vec::new(),
                    memory_limit: None,
                    network: None,
                }),
                network: Some(network),
                services: vec![checked_by_file(&like.services[0])],
                declared: None,
            });
            let prefix = "10.200.1.128/28".to_owned();
            config.pools.push(Pool { tenant: "green".into(), prefix, reserved: Default::default() });
        },
        |_| (),
    );
}

fn spoil(pid: u32) {
    fs::write(inside(pid, "tmp/bad"), "").expect("it runs");
}

fn pid(lab: &Lab, container: &str) -> u32 {
    let shown = json(&ringmesh(lab, H1, &["container", "show", container]));
    u32::try_from(shown["pid"].as_u64().expect("it runs")).expect("a pid")
}
