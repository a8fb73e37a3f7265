//! What the checks of a host take in memory, with their histories, and how long a probe's outcome takes: 32,000 checks that
//! live for two days of probes every 10 s, on a virtual clock.
//!
//! `cargo run --release -p ringmesh-node --example health-memory`

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use ringmesh_node::health::{
    Health,
    history::{History, MAX_CHANGES},
    spec::{Check, ContainerSpec, ContainerState, ContainerStatus, ProbeReply, ServiceSpec},
};
use ringmesh_proto::{Instant, Now, UnixMillis};

const CHECKS: usize = 32_000;

/// Rounds of probes: enough that both spans of each window have counts.
const ROUNDS: u64 = 400;

/// Between two of them, so that the rounds are spread over two days.
const STEP: Duration = Duration::from_secs(432);

fn main() {
    let before = rss();
    let mut health = Health::new(Instant::ZERO, "h1", (0..CHECKS).map(container).collect(), StdRng::seed_from_u64(1));
    for number in 0..CHECKS {
        let status = ContainerStatus { name: name(number), state: ContainerState::Running, ..Default::default() };
        health.handle_status(at(Instant::ZERO), status);
    }
    let empty = rss();
    let mut rng = StdRng::seed_from_u64(2);
    let (mut replies, mut spent) = (0u32, Duration::ZERO);
    for round in 1..=ROUNDS {
        let now = Instant::ZERO + STEP * round as u32;
        let requests = health.handle_timeout(now, usize::MAX);
        let answers: Vec<ProbeReply> = requests.iter().map(|request| reply(&mut rng, request.id, round)).collect();
        let started = cpu();
        replies += answers.len() as u32;
        answers.into_iter().for_each(|reply| health.handle_reply(at(now), reply));
        spent += cpu().saturating_sub(started);
        while health.poll_change().is_some() {}
    }
    let full = rss();
    let kb = |bytes: usize| bytes as f64 / 1024.0;
    println!(
        "{CHECKS} checks: {:.1} MB before a probe, {:.1} MB with full histories",
        kb(empty - before) / 1024.0,
        kb(full - before) / 1024.0
    );
    println!(
        "a check: {:.2} KB, of which {:.2} KB came with its history",
        kb(full - before) / CHECKS as f64,
        kb(full - empty) / CHECKS as f64
    );
    println!("a history's own part of a check, there from the start: {} B", size_of::<History>());
    println!("an outcome: {:.2} µs of processor time", spent.as_secs_f64() * 1e6 / f64::from(replies));
    let shards = health.take_all(at(Instant::ZERO + STEP * ROUNDS as u32));
    let bytes: usize = shards.iter().map(|(_, records)| ringmesh_proto::history_file::encode(records).len()).sum();
    println!("on disk: {} shards, {:.2} KB a check", shards.len(), kb(bytes) / CHECKS as f64);
    let full = rss();
    for (nth, number) in (0..MAX_CHANGES).flat_map(|nth| (0..CHECKS).map(move |number| (nth, number))) {
        let state = if nth % 2 == 0 { ContainerState::Paused } else { ContainerState::Running };
        health.handle_status(
            at(Instant::ZERO + STEP * ROUNDS as u32),
            ContainerStatus { name: name(number), state, ..Default::default() },
        );
        while health.poll_change().is_some() {}
    }
    println!("with {MAX_CHANGES} changes each: {:.2} KB a check more", kb(rss() - full) / CHECKS as f64);
}

fn reply(rng: &mut StdRng, id: ringmesh_node::health::spec::CheckId, round: u64) -> ProbeReply {
    // Most are steady, some slow, one in ten thousand fails; one check in a hundred says something else each time.
    let latency = Duration::from_micros(rng.random_range(800..1600) * if rng.random_ratio(1, 50) { 8 } else { 1 });
    let success = !rng.random_ratio(1, 10_000);
    let answer = match (success, id.0 % 100) {
        (false, _) => "connection refused".to_owned(),
        (true, 0) => format!("OK, {round} requests so far by {}", id.0),
        (true, _) => "HTTP 200 OK".to_owned(),
    };
    ProbeReply { id, sign: success.into(), answer, latency }
}

fn container(number: usize) -> ContainerSpec {
    let service = ServiceSpec::new("http", Check::Tcp { address: ([127, 0, 0, 1], 8080).into() });
    ContainerSpec { name: name(number), driver: "oci".into(), services: vec![service], ..ContainerSpec::default() }
}

fn name(number: usize) -> String {
    format!("h1-c{number}")
}

fn at(instant: Instant) -> Now {
    Now { instant, unix: UnixMillis(1_700_000_000_000 + instant.as_nanos() / 1_000_000) }
}

/// Bytes of this process in memory that are no file's.
fn rss() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("Linux 4.5");
    let kb: usize = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number");
    kb * 1024
}

/// Processor time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").expect("Linux with CONFIG_SCHED_INFO");
    let nanos = stat.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number");
    Duration::from_nanos(nanos)
}
