use std::{collections::BTreeMap, time::Duration};

use rand::{SeedableRng, rngs::StdRng};
use ringmesh_proto::{Instant, Now, UnixMillis, v1::verdict::Value};

use super::{
    Change, Health,
    spec::{Check, ContainerSpec, ContainerState, ContainerStatus, ProbeReply, ServiceKind, ServiceSpec},
};

const INTERVAL: Duration = Duration::from_secs(2);

fn spec(name: &str, services: &[(&str, u32)]) -> ContainerSpec {
    let service = |(name, weight): &(&str, u32)| ServiceSpec {
        weight: *weight,
        interval: INTERVAL,
        threshold_up: 2,
        ..ServiceSpec::new(name, Check::Tcp { address: ([127, 0, 0, 1], 80).into() })
    };
    ContainerSpec {
        name: name.to_owned(),
        driver: "oci".to_owned(),
        tenant: String::new(),
        labels: BTreeMap::new(),
        services: services.iter().map(service).collect(),
    }
}

fn at(instant: Instant) -> Now {
    Now { instant, unix: UnixMillis(instant.as_nanos() / 1_000_000) }
}

struct Bench {
    health: Health,
    now: Instant,
}

impl Bench {
    fn new(containers: Vec<ContainerSpec>) -> Self {
        let health = Health::new(Instant::ZERO, "h1", containers, StdRng::seed_from_u64(1));
        Self { health, now: Instant::ZERO }
    }

    fn status(&mut self, name: &str, state: ContainerState) {
        let status = ContainerStatus { name: name.to_owned(), state, ..ContainerStatus::default() };
        self.health.handle_status(at(self.now), status);
    }

    /// Makes the next probe and answers it.
    fn probe(&mut self, success: bool) -> Duration {
        loop {
            let before = self.now;
            self.now = self.health.poll_timeout().expect("there are checks");
            if let Some(request) = self.health.handle_timeout(self.now, 1).pop() {
                let (id, answer) = (request.id, "told".to_owned());
                self.health.handle_reply(
                    at(self.now),
                    ProbeReply { id, success, silent: false, answer, latency: Duration::ZERO },
                );
                return self.now.since(before);
            }
        }
    }

    fn verdicts(&mut self) -> Vec<(Value, Value)> {
        let mut found = Vec::new();
        while let Some(change) = self.health.poll_change() {
            if let Change::Verdict { old, new, .. } = change {
                found.push((old, new));
            }
        }
        found
    }
}

/// Runs `containers` of one service each for so long, all probes answered at once; the sizes of the groups in which they came
/// and the least and the longest time between two probes of one.
fn groups(containers: usize, span: Duration) -> (Vec<usize>, Duration, Duration) {
    let names: Vec<String> = (0..containers).map(|number| format!("c{number}")).collect();
    let mut bench = Bench::new(names.iter().map(|name| spec(name, &[("web", 1)])).collect());
    for name in &names {
        bench.status(name, ContainerState::Running);
    }
    let (mut groups, mut last) = (Vec::new(), BTreeMap::new());
    let (mut least, mut most) = (Duration::MAX, Duration::ZERO);
    while let Some(due) = bench.health.poll_timeout().filter(|due| due.since(Instant::ZERO) < span) {
        bench.now = due;
        let requests = bench.health.handle_timeout(due, 64);
        groups.push(requests.len());
        for request in requests {
            if let Some(before) = last.insert(request.id, due) {
                (least, most) = (least.min(due.since(before)), most.max(due.since(before)));
            }
            let (answer, latency) = (String::new(), Duration::ZERO);
            let reply = ProbeReply { id: request.id, success: true, silent: false, answer, latency };
            bench.health.handle_reply(at(bench.now), reply);
        }
    }
    (groups, least, most)
}

#[test]
fn few_checks_come_together_and_none_much_too_early_or_late() {
    let (sizes, least, most) = groups(4, INTERVAL * 60);
    assert!(sizes.iter().rev().take(50).all(|size| *size == 4), "{sizes:?}");
    assert!(least >= INTERVAL * 7 / 10 && most <= INTERVAL, "{least:?} to {most:?}");
}

#[test]
fn many_checks_stay_spread_out() {
    let (sizes, least, most) = groups(400, INTERVAL * 60);
    assert!(sizes.iter().all(|size| *size <= super::TOGETHER), "{sizes:?}");
    assert!(least >= INTERVAL * 7 / 10 && most <= INTERVAL, "{least:?} to {most:?}");
    // When all have been made and none is due for a while, the last ones join: soon after the start only.
    let joined = sizes.iter().filter(|size| **size > 1).count();
    assert!(joined * 100 < sizes.len(), "{joined} of {} times", sizes.len());
}

#[test]
fn thresholds_decide_and_only_changes_are_told() {
    let mut bench = Bench::new(vec![spec("c1", &[("web", 1)])]);
    bench.status("c1", ContainerState::Running);
    let told = |bench: &mut Bench, outcomes: &str| {
        for outcome in outcomes.chars() {
            bench.probe(outcome == '1');
        }
        bench.verdicts()
    };
    assert_eq!(told(&mut bench, "11"), [], "the first verdict is no change when it is good");
    assert_eq!(told(&mut bench, "0010010"), [], "no three failures in a row");
    assert_eq!(told(&mut bench, "00"), [(Value::Passing, Value::Critical)]);
    assert_eq!(told(&mut bench, "0101"), [], "no two successes in a row");
    assert_eq!(told(&mut bench, "1"), [(Value::Critical, Value::Passing)]);
    let service = &bench.health.services()[0];
    assert_eq!((service.verdict(), service.last_answer.as_str()), (Value::Passing, "told"));
}

#[test]
fn probes_come_never_later_than_their_interval() {
    let mut bench = Bench::new(vec![spec("c1", &[("web", 1)])]);
    bench.status("c1", ContainerState::Running);
    bench.probe(true);
    for _ in 0..200 {
        let gap = bench.probe(true);
        assert!(gap <= INTERVAL && gap >= INTERVAL * 9 / 10, "{gap:?}");
    }
}

#[test]
fn a_stopped_container_is_critical_at_once_and_not_probed() {
    let mut bench = Bench::new(vec![spec("c1", &[("web", 1)])]);
    bench.status("c1", ContainerState::Running);
    bench.probe(true);
    bench.probe(true);
    bench.status("c1", ContainerState::Stopped);
    assert_eq!(bench.verdicts(), [(Value::Passing, Value::Critical)]);
    assert!(bench.health.handle_timeout(bench.now + INTERVAL * 3, 10).is_empty());
    assert_eq!(bench.health.containers()[0].verdict(), Value::Critical);
}

#[test]
fn scores_follow_the_weights_and_the_digest_counts() {
    let mut bench = Bench::new(vec![spec("c1", &[("web", 3), ("log", 1)]), spec("c2", &[])]);
    bench.status("c1", ContainerState::Running);
    bench.status("c2", ContainerState::Running);
    let before = bench.health.revision();
    for _ in 0..10 {
        bench.now = bench.health.poll_timeout().expect("there are checks");
        for request in bench.health.handle_timeout(bench.now, 10) {
            // The first check is the web service's.
            let reply = ProbeReply {
                id: request.id,
                success: request.id.0 == 1,
                silent: false,
                answer: String::new(),
                latency: INTERVAL,
            };
            bench.health.handle_reply(at(bench.now), reply);
        }
    }
    let container = &bench.health.containers()[0];
    assert_eq!((container.score, container.verdict()), (75, Value::Critical));
    let digest = bench.health.digest();
    assert_eq!((digest.containers, digest.running, digest.services), (2, 2, 2));
    assert_eq!((digest.passing, digest.critical, digest.score, digest.worst), (1, 1, 87, Value::Critical as u8));
    assert!(bench.health.revision() > before);
}

#[test]
fn a_busy_prober_delays_and_does_not_condemn() {
    let mut bench = Bench::new(vec![spec("c1", &[("web", 1)])]);
    bench.status("c1", ContainerState::Running);
    for _ in 0..5 {
        bench.now = bench.health.poll_timeout().expect("there are checks");
        for request in bench.health.handle_timeout(bench.now, 1) {
            bench.health.handle_busy(request.id);
        }
    }
    assert_eq!(bench.verdicts(), []);
    assert!(bench.health.postponed() >= 4);
    bench.probe(true);
    bench.probe(true);
    assert_eq!(bench.health.services()[0].verdict(), Value::Passing);
}

/// Services "boot" (startup), "web" (liveness) and "ready" (readiness), in this order.
fn starting_spec() -> ContainerSpec {
    let mut spec = spec("c1", &[("boot", 1), ("web", 1), ("ready", 1)]);
    spec.services[0].kind = ServiceKind::Startup;
    spec.services[2].kind = ServiceKind::Readiness;
    spec
}

/// Probes for so long; which services were asked, and "boot" is answered with this, the others well.
fn asked(bench: &mut Bench, span: Duration, boot: bool) -> Vec<u64> {
    let end = bench.now + span;
    let mut asked = Vec::new();
    while let Some(due) = bench.health.poll_timeout().filter(|due| *due <= end) {
        bench.now = due;
        for request in bench.health.handle_timeout(due, 10) {
            asked.push(request.id.0);
            let success = request.id.0 != 1 || boot;
            let reply =
                ProbeReply { id: request.id, success, silent: false, answer: String::new(), latency: Duration::ZERO };
            bench.health.handle_reply(at(due), reply);
        }
    }
    bench.now = end;
    asked.sort_unstable();
    asked.dedup();
    asked
}

fn shown(bench: &mut Bench) -> Vec<Value> {
    bench.health.services().iter().map(|service| service.verdict()).collect()
}

#[test]
fn nothing_but_the_startup_check_is_probed_until_it_passes() {
    let mut bench = Bench::new(vec![starting_spec()]);
    bench.status("c1", ContainerState::Running);
    assert_eq!(asked(&mut bench, INTERVAL * 10, false), [1]);
    assert_eq!(shown(&mut bench), [Value::Critical, Value::Unknown, Value::Unknown]);
    assert_eq!(bench.verdicts(), [(Value::Unknown, Value::Critical)]);
    assert_eq!(asked(&mut bench, INTERVAL * 5, true), [1, 2, 3]);
    assert_eq!(shown(&mut bench), [Value::Passing; 3]);
    assert_eq!(asked(&mut bench, INTERVAL * 5, false), [2, 3], "it has passed, and is asked no more");
    assert_eq!(bench.health.containers()[0].verdict(), Value::Passing);
}

#[test]
fn another_life_of_a_container_starts_anew_and_a_pause_does_not() {
    let mut bench = Bench::new(vec![starting_spec()]);
    bench.status("c1", ContainerState::Running);
    asked(&mut bench, INTERVAL * 5, true);
    bench.status("c1", ContainerState::Paused);
    bench.status("c1", ContainerState::Running);
    assert_eq!(asked(&mut bench, INTERVAL * 2, true), [2, 3]);
    // Its end and its start were reported as one.
    let (name, state) = ("c1".to_owned(), ContainerState::Running);
    bench.verdicts();
    bench.health.handle_status(at(bench.now), ContainerStatus { name, state, pid: Some(7), ..Default::default() });
    assert_eq!(shown(&mut bench), [Value::Unknown; 3]);
    assert_eq!(asked(&mut bench, INTERVAL, false), [1]);
    assert_eq!(asked(&mut bench, INTERVAL * 5, true), [1, 2, 3]);
    let told = bench.verdicts();
    assert_eq!(told.iter().filter(|told| **told == (Value::Passing, Value::Unknown)).count(), 3);
    assert_eq!(told.iter().filter(|told| **told == (Value::Unknown, Value::Passing)).count(), 3);
}

#[test]
fn an_answer_from_before_the_start_counts_for_nothing() {
    let mut bench = Bench::new(vec![starting_spec()]);
    bench.status("c1", ContainerState::Running);
    bench.now = bench.health.poll_timeout().expect("there are checks");
    let requests = bench.health.handle_timeout(bench.now + INTERVAL, 10);
    let (name, state) = ("c1".to_owned(), ContainerState::Running);
    bench.health.handle_status(at(bench.now), ContainerStatus { name, state, pid: Some(7), ..Default::default() });
    for id in requests.iter().map(|request| request.id) {
        let reply = ProbeReply {
            id,
            success: true,
            silent: false,
            answer: "of the life before".into(),
            latency: Duration::ZERO,
        };
        bench.health.handle_reply(at(bench.now), reply);
    }
    assert!(bench.health.services().iter().all(|service| service.last_answer != "of the life before"));
}
