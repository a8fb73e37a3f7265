//! What the host loop's machine costs for a host full of checks: 32,000 containers with one service each, every 10 s, in virtual
//! time; all probes are answered at once. `cargo bench --bench schedule`.
//!
//! A core that is busy for a tenth of the time that passes here is a tenth of a core for the schedule, verdicts and snapshots of
//! a real host. Making the probes comes on top: see the bench `probe`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ringmesh_node::{
    Chords, Config, Node, Output, Seals,
    health::spec::{Check, ContainerSpec, ContainerState, ContainerStatus, HttpCheck, ProbeReply, ServiceSpec, Sign},
    overlay::{Timers, Wiring},
    zones::Budgets,
};
use ringmesh_proto::{ClusterId, HostId, Now, UnixMillis, member::Member};

const CONTAINERS: usize = 32_000;

/// The grid on which the host loop wakes up for probes.
const GRID: Duration = Duration::from_millis(100);

/// Virtual time that is measured, after as much to settle.
const SPAN: Duration = Duration::from_secs(60);

struct NoSeals;

impl Seals for NoSeals {
    fn certificate(&mut self) -> Bytes {
        Bytes::new()
    }

    fn seal(&mut self, _: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn verify(&mut self, _: HostId, _: &Bytes, _: &[u8], _: &[u8]) -> bool {
        true
    }
}

fn main() {
    let mut now = Now { instant: ringmesh_proto::Instant::ZERO, unix: UnixMillis(1_700_000_000_000) };
    let mut node = Node::new(now, config(), Box::new(NoSeals));
    for nth in 0..CONTAINERS {
        let (name, state) = (name(nth), ContainerState::Running);
        node.handle_status(
            now,
            ContainerStatus { name, state, pid: Some(nth as u32 + 1), ..ContainerStatus::default() },
        );
    }
    run(&mut node, &mut now);
    let begun = Instant::now();
    let (probes, views, most) = run(&mut node, &mut now);
    let took = begun.elapsed();
    let share = took.as_secs_f64() / SPAN.as_secs_f64() * 100.0;
    let each = took.as_secs_f64() * 1e6 / probes as f64;
    println!("{probes} probes of {CONTAINERS} checks in {} s of virtual time, {views} snapshots", SPAN.as_secs());
    println!("{share:.1} % of a core, {each:.1} µs a probe; at the most {most} probes within {GRID:?}");
    let due = CONTAINERS as f64 * SPAN.as_secs_f64() / 10.0;
    assert!(probes as f64 >= due, "no interval is missed: {probes} of {due}");
}

/// Probes and snapshots made, and the most probes of one point of the grid.
fn run(node: &mut Node, now: &mut Now) -> (usize, usize, usize) {
    let (mut probes, mut views, mut most) = (0, 0, 0);
    let end = now.instant + SPAN;
    while now.instant < end {
        now.instant += GRID;
        now.unix.0 += GRID.as_millis() as u64;
        let before = probes;
        // As the host loop: some in each turn, until nothing is due.
        while node.poll_timeout() <= now.instant {
            node.handle_timeout(*now);
            views += usize::from(node.poll_view(*now).is_some());
            while let Some(output) = node.poll_output() {
                let Output::Probe(request) = output else { continue };
                probes += 1;
                let (answer, latency) = ("HTTP 200 OK: fine".to_owned(), Duration::from_micros(80));
                node.handle_probe_reply(*now, ProbeReply { id: request.id, sign: Sign::Right, answer, latency });
            }
        }
        most = most.max(probes - before);
    }
    (probes, views, most)
}

fn name(nth: usize) -> String {
    format!("c{nth}")
}

fn config() -> Config {
    let containers = (0..CONTAINERS).map(|nth| ContainerSpec {
        name: name(nth),
        driver: "oci".into(),
        tenant: String::new(),
        labels: std::sync::Arc::new(BTreeMap::from([("app".into(), "web".into())])),
        verbs: Default::default(),
        address: String::new(),
        score: None,
        member: false,
        services: vec![ServiceSpec::new(
            "web",
            Check::Http(Box::new(HttpCheck::get(([127, 0, 0, 1], 80).into(), "/"))),
        )],
    });
    let address = |net| Some(([10, net, 0, 1], 7400).into());
    Config {
        cluster: ClusterId::new(7),
        me: Member { id: HostId::new(1), generation: 0, addresses: [address(77), address(78)] },
        name: "h1".into(),
        zone: "default".into(),
        rack: String::new(),
        chords: Chords::Auto,
        configured_chords: None,
        version: "bench".into(),
        wiring: Wiring::Switched { seed: 1 },
        position: 0,
        known: Vec::new(),
        forget_after: Duration::from_secs(3600),
        zones: Vec::new(),
        budgets: Budgets::default(),
        containers: containers.collect(),
        repair: Default::default(),
        repairs: Default::default(),
        judgement: Default::default(),
        histories: Vec::new(),
        protection: Timers::default(),
        tick: GRID,
        seed: 1,
    }
}
