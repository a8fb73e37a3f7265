mod implicit;
mod judgement;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use ringmesh_proto::{Instant, Now, UnixMillis, v1, v1::verdict::Value};

use super::{
    Change, Damping, Health, Judgement, LatencyLimits, Marks,
    history::Kind,
    latency::Normal,
    spec::{
        Beat, Check, CheckId, ContainerSpec, ContainerState, ContainerStatus, Heartbeat, ProbeReply, ProbeRequest,
        Purpose, ServiceKind, ServiceSpec, Sign, Verbs,
    },
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
        labels: Arc::default(),
        verbs: Verbs::default(),
        address: String::new(),
        score: None,
        member: false,
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

    fn containers(&mut self) -> Vec<v1::Container> {
        self.health.containers().iter().map(|row| row.show()).collect()
    }

    fn services(&mut self) -> Vec<v1::Service> {
        self.health.services().iter().map(|row| row.show()).collect()
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
                    ProbeReply { id, sign: success.into(), answer, latency: Duration::ZERO },
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
            let (before, nth) = last.insert(request.id, (due, 1)).unwrap_or((due, 0));
            if nth > 0 {
                last.insert(request.id, (due, nth + 1));
                most = most.max(due.since(before));
            }
            // The second comes as soon as it must for the check to get its place.
            if nth > 1 {
                least = least.min(due.since(before));
            }
            let (answer, latency) = (String::new(), Duration::ZERO);
            let reply = ProbeReply { id: request.id, sign: Sign::Right, answer, latency };
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

/// What a check draws is its own: others that are there, and what becomes of them, move it nowhere.
#[test]
fn when_a_check_is_probed_does_not_depend_on_others() {
    let times = |containers: usize, success: bool| {
        let names: Vec<String> = (0..containers).map(|number| format!("c{number:03}")).collect();
        let mut bench = Bench::new(names.iter().map(|name| spec(name, &[("web", 1)])).collect());
        names.iter().for_each(|name| bench.status(name, ContainerState::Running));
        let mut times = Vec::new();
        while let Some(due) = bench.health.poll_timeout().filter(|due| due.since(Instant::ZERO) < INTERVAL * 20) {
            for request in bench.health.handle_timeout(due, 64) {
                let first = request.id == CheckId::new(Purpose::Check, 1);
                times.extend(first.then_some(due));
                let (success, answer, latency) = (success || first, String::new(), Duration::ZERO);
                let reply = ProbeReply { id: request.id, sign: success.into(), answer, latency };
                bench.health.handle_reply(at(due), reply);
            }
        }
        times
    };
    let alone = times(300, true);
    assert!(alone.len() >= 20);
    assert_eq!((times(400, true), times(300, false)), (alone.clone(), alone));
}

#[test]
fn many_checks_stay_spread_out() {
    let (sizes, least, most) = groups(400, INTERVAL * 60);
    assert!(sizes.iter().all(|size| *size <= super::schedule::TOGETHER), "{sizes:?}");
    assert!(least >= INTERVAL * 7 / 10 && most <= INTERVAL, "{least:?} to {most:?}");
    // When all have been made and none is due for a while, the last ones join: soon after the start only.
    let joined = sizes.iter().filter(|size| **size > 1).count();
    assert!(joined * 100 < sizes.len(), "{joined} of {} times", sizes.len());
}

#[test]
fn what_was_noted_is_found_by_the_next_life_of_the_agent() {
    let containers = || vec![spec("c1", &[("web", 1)]), spec("c2", &[("web", 1)])];
    let mut bench = Bench::new(containers());
    bench.status("c1", ContainerState::Running);
    "1100011".chars().for_each(|outcome| {
        bench.probe(outcome == '1');
    });
    bench.status("c1", ContainerState::Stopped);
    let told = |health: &Health, container: &str| {
        let history = health.histories(UnixMillis(0), container, "web").pop().expect("it is configured");
        let changes: Vec<(Kind, Value)> = history.changes.iter().map(|change| (change.kind(), change.to())).collect();
        (history.outcomes.len(), changes)
    };
    let expected = vec![
        (Kind::Verdict, Value::Passing),
        (Kind::Verdict, Value::Critical),
        (Kind::Verdict, Value::Passing),
        (Kind::ContainerStopped, Value::Unknown),
        (Kind::Verdict, Value::Critical),
    ];
    assert_eq!(told(&bench.health, "c1"), (7, expected.clone()));
    assert_eq!(bench.health.histories(UnixMillis(0), "", "web").len(), 2, "the name is not clear");
    let records = bench.health.take_all(at(bench.now)).into_iter().flat_map(|(_, records)| records).collect();

    // Only c1 is left, and its service asks for something else.
    let mut left = spec("c1", &[("web", 1)]);
    left.services[0].definition = 7;
    let mut bench = Bench::new(vec![left, spec("c3", &[("web", 1)])]);
    bench.health.recall(at(Instant::ZERO), records);
    let mut expected = expected;
    expected.push((Kind::Redefined, Value::Unknown));
    assert_eq!(told(&bench.health, "c1"), (7, expected));
    let shown = bench.health.histories(UnixMillis(0), "c1", "web");
    assert!(shown[0].retired.is_none() && shown[0].changes[5].cause.contains("tcp://127.0.0.1:80"));
    assert_eq!(told(&bench.health, "c3"), (0, Vec::new()));
}

#[test]
fn the_history_of_a_service_that_is_gone_is_shown_as_such() {
    let mut bench = Bench::new(vec![spec("c1", &[("web", 1)])]);
    bench.status("c1", ContainerState::Running);
    bench.probe(true);
    let records = bench.health.take_all(at(bench.now)).into_iter().flat_map(|(_, records)| records).collect();
    let mut bench = Bench::new(vec![spec("c2", &[("web", 1)])]);
    bench.health.recall(Now { instant: Instant::ZERO, unix: UnixMillis(5000) }, records);
    let shown = bench.health.histories(UnixMillis(0), "c1", "web");
    assert_eq!(shown[0].retired, Some(UnixMillis(5000).into()));
    assert_eq!(shown[0].outcomes.len(), 1);
    let written = bench.health.take_all(at(Instant::ZERO));
    assert!(written.iter().any(|(_, records)| records[0].retired_ms == 5000), "that it is gone is written down");
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
    let service = &bench.services()[0];
    assert_eq!((service.verdict(), service.last_answer.as_str()), (Value::Passing, "told"));
}

#[test]
fn probes_come_never_later_than_their_interval() {
    let mut bench = Bench::new(vec![spec("c1", &[("web", 1)])]);
    bench.status("c1", ContainerState::Running);
    bench.probe(true);
    assert!(bench.probe(true) <= INTERVAL, "it gets its place in the interval");
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
    assert_eq!(bench.containers()[0].verdict(), Value::Critical);
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
                sign: (request.id.0 == 1).into(),
                answer: String::new(),
                latency: INTERVAL,
            };
            bench.health.handle_reply(at(bench.now), reply);
        }
    }
    let container = &bench.containers()[0];
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
            bench.health.handle_busy(request.id, true);
        }
    }
    assert_eq!(bench.verdicts(), []);
    assert!(bench.health.postponed() >= 4);
    bench.probe(true);
    bench.probe(true);
    assert_eq!(bench.services()[0].verdict(), Value::Passing);
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
                ProbeReply { id: request.id, sign: success.into(), answer: String::new(), latency: Duration::ZERO };
            bench.health.handle_reply(at(due), reply);
        }
    }
    bench.now = end;
    asked.sort_unstable();
    asked.dedup();
    asked
}

fn shown(bench: &mut Bench) -> Vec<Value> {
    bench.services().iter().map(|service| service.verdict()).collect()
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
    assert_eq!(bench.containers()[0].verdict(), Value::Passing);
}

#[test]
fn what_repair_forgets_of_a_startup_check_is_asked_anew() {
    let mut bench = Bench::new(vec![starting_spec()]);
    bench.status("c1", ContainerState::Running);
    asked(&mut bench, INTERVAL * 5, true);
    // A restart of a service, then a freeze and its end: the container lives on.
    let hold = Marks { hold: Some(v1::Hold::default().into()), ..Marks::default() };
    bench.health.unjudge(at(bench.now), "c1");
    assert_eq!(shown(&mut bench), [Value::Unknown; 3]);
    assert_eq!(asked(&mut bench, INTERVAL * 2, false), [1], "the others wait for it");
    for marks in [Marks::default(), hold, Marks::default()] {
        bench.health.mark(at(bench.now), "c1", marks.clone());
        let all: &[u64] = if marks.hold.is_some() { &[] } else { &[1, 2, 3] };
        assert_eq!(asked(&mut bench, INTERVAL * 5, true), all);
    }
    assert_eq!(shown(&mut bench), [Value::Passing; 3]);
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
        let reply = ProbeReply { id, sign: Sign::Right, answer: "of the life before".into(), latency: Duration::ZERO };
        bench.health.handle_reply(at(bench.now), reply);
    }
    assert!(bench.services().iter().all(|service| service.last_answer != "of the life before"));
}

/// A container with the service "beats", which is to be heard of every [`INTERVAL`].
fn beating() -> Bench {
    beating_at("/run/ringmesh/heartbeat", Verbs { mount: true, ..Verbs::default() })
}

fn beating_at(socket: &str, verbs: Verbs) -> Bench {
    let mut spec = ContainerSpec { verbs, ..spec("c1", &[("beats", 1), ("web", 1)]) };
    let check = Check::Heartbeat { socket: socket.into() };
    spec.services[0] = ServiceSpec { interval: INTERVAL, ..ServiceSpec::new("beats", check) };
    spec.services.truncate(1);
    let mut bench = Bench::new(vec![spec]);
    bench.status("c1", ContainerState::Running);
    bench
}

impl Bench {
    fn beat(&mut self, service: &str, beat: Beat) -> bool {
        let (container, service, text) = ("c1".to_owned(), service.to_owned(), format!("{beat:?}"));
        self.health.handle_heartbeat(at(self.now), Heartbeat { container, service, beat, text }).is_some()
    }

    /// Lets so much time pass.
    fn wait(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(due) = self.health.poll_timeout().filter(|due| *due <= end) {
            self.now = due;
            self.health.handle_missed(at(due));
            assert!(self.health.handle_timeout(due, 10).is_empty(), "nobody asks");
        }
        self.now = end;
    }
}

#[test]
fn silence_from_the_first_on_of_what_somebody_else_made_has_a_hint() {
    let mut bench = beating_at("/state/heartbeat/c1/heartbeat", Verbs::default());
    bench.wait(INTERVAL * 2);
    let hint = "no heartbeat for 2s; who made its container has to mount /state/heartbeat/c1 into it";
    assert_eq!(bench.services()[0].last_answer, hint);
    assert!(bench.beat("beats", Beat::Ok));
    assert!(bench.beat("beats", Beat::Ok));
    bench.wait(INTERVAL * 2);
    assert_eq!(bench.services()[0].last_answer, "no heartbeat for 2s", "it has the socket");
}

#[test]
fn who_is_not_heard_of_in_time_is_missed_once() {
    let mut bench = beating();
    bench.wait(INTERVAL * 9 / 10);
    assert_eq!(shown(&mut bench), [Value::Unknown], "it has a whole interval from the start");
    bench.wait(INTERVAL);
    assert_eq!(bench.verdicts(), [(Value::Unknown, Value::Critical)]);
    assert_eq!(bench.services()[0].last_answer, "no heartbeat for 2s");
    assert_eq!(bench.health.poll_timeout(), None, "it is known");
    assert!(bench.beat("beats", Beat::Ok));
    for _ in 0..5 {
        bench.wait(INTERVAL * 9 / 10);
        assert!(bench.beat("beats", Beat::Ok));
    }
    assert_eq!(bench.verdicts(), [(Value::Critical, Value::Passing)]);
    bench.wait(INTERVAL);
    assert_eq!(bench.verdicts(), [(Value::Passing, Value::Critical)]);
}

#[test]
fn a_service_says_how_it_does() {
    let mut bench = beating();
    for beat in [Beat::Ok, Beat::Warn, Beat::Fail, Beat::Fail, Beat::Ok] {
        assert!(bench.beat("beats", beat));
    }
    let told = [(Value::Passing, Value::Warning), (Value::Warning, Value::Critical), (Value::Critical, Value::Passing)];
    assert_eq!(bench.verdicts(), told, "at once, and each change once");
    assert_eq!(bench.services()[0].last_answer, "Ok");
    assert!(!bench.beat("web", Beat::Ok), "there is no such service");
}

#[test]
fn a_container_that_does_not_run_is_not_listened_to() {
    let mut bench = beating();
    bench.beat("beats", Beat::Ok);
    bench.status("c1", ContainerState::Stopped);
    bench.verdicts();
    bench.beat("beats", Beat::Ok);
    bench.wait(INTERVAL * 3);
    assert_eq!(bench.verdicts(), [], "it is critical, for it has stopped");
    bench.status("c1", ContainerState::Running);
    bench.wait(INTERVAL / 2);
    bench.beat("beats", Beat::Ok);
    assert_eq!(bench.verdicts(), [(Value::Critical, Value::Passing)]);
}

#[test]
fn who_was_frozen_has_a_whole_interval_to_speak_up() {
    let mut bench = beating();
    bench.beat("beats", Beat::Ok);
    bench.wait(INTERVAL / 2);
    let held = Marks { hold: Some(v1::Hold::default().into()), ..Marks::default() };
    bench.health.mark(at(bench.now), "c1", held);
    bench.wait(INTERVAL * 5);
    bench.health.mark(at(bench.now), "c1", Marks::default());
    bench.wait(INTERVAL * 9 / 10);
    assert_eq!(shown(&mut bench), [Value::Unknown]);
    bench.wait(INTERVAL / 5);
    assert_eq!(shown(&mut bench), [Value::Critical]);
}

#[test]
fn many_that_are_found_running_are_probed_evenly() {
    const MANY: usize = 4000;
    let mut bench = Bench::new((0..MANY).map(|nth| spec(&format!("c{nth}"), &[("web", 1)])).collect());
    for nth in 0..MANY {
        bench.status(&format!("c{nth}"), ContainerState::Running);
    }
    let tenth = INTERVAL / 10;
    let mut counts = Vec::new();
    for _ in 0..60 {
        bench.now += tenth;
        let requests = bench.health.handle_timeout(bench.now, usize::MAX);
        counts.push(requests.len());
        for id in requests.iter().map(|request| request.id) {
            let reply = ProbeReply { id, sign: Sign::Right, answer: String::new(), latency: Duration::ZERO };
            bench.health.handle_reply(at(bench.now), reply);
        }
    }
    let fair = MANY / 10;
    for (nth, count) in counts.iter().enumerate().skip(20) {
        assert!((fair * 3 / 4..fair * 4 / 3).contains(count), "tenth {nth}: {counts:?}");
    }
    assert_eq!(bench.health.load(), (0, 1000));
}

#[test]
fn heartbeats_are_remembered_and_damped_as_answers_are() {
    let mut bench = beating();
    bench.beat("beats", Beat::Ok);
    (0..4).for_each(|_| {
        bench.beat("beats", Beat::Fail);
        bench.beat("beats", Beat::Ok);
    });
    let service = &bench.services()[0];
    assert!(service.flapping && service.verdict() == Value::Warning);
    assert_eq!((service.last_latency, service.normal_latency), (None, None), "nobody asked");
    bench.wait(INTERVAL);
    let history = bench.health.histories(UnixMillis(0), "c1", "beats").remove(0);
    let failed: String = history.outcomes.iter().map(|outcome| if outcome.success { '1' } else { '0' }).collect();
    assert_eq!(failed, "1010101010", "the last for its silence");
    let answers: Vec<&str> = history.answers.iter().map(|answer| answer.text.as_str()).collect();
    assert_eq!(answers, ["Fail", "Ok", "no heartbeat for 2s"]);
    assert_eq!(bench.services()[0].verdict(), Value::Warning, "it may be heard of again");
    bench.wait(Damping::default().steady + INTERVAL);
    assert_eq!(bench.services()[0].verdict(), Value::Critical, "it is gone");
    assert_eq!(bench.health.poll_timeout(), None, "and that is known");
}

#[test]
fn a_service_that_is_unwell_by_its_own_word_has_its_plan_run() {
    let mut spec = spec("c1", &[("beats", 1)]);
    let check = Check::Heartbeat { socket: "/run/ringmesh/heartbeat".into() };
    let plan = Some(std::sync::Arc::new(Check::Exec { argv: vec!["look".to_owned()] }));
    spec.services[0] = ServiceSpec { interval: INTERVAL, plan, ..ServiceSpec::new("beats", check) };
    let mut bench = Bench::new(vec![spec]);
    bench.status("c1", ContainerState::Running);
    bench.beat("beats", Beat::Ok);
    assert!(bench.health.handle_timeout(bench.now, 10).is_empty());
    bench.beat("beats", Beat::Warn);
    let requests = bench.health.handle_timeout(bench.now, 10);
    assert_eq!(requests.iter().map(|request| request.id.purpose()).collect::<Vec<_>>(), [Some(Purpose::Plan)]);
}

#[test]
fn a_startup_check_that_passes_slowly_passes() {
    let mut bench = Bench::new(vec![starting_spec()]);
    let limits = LatencyLimits { probes: 1, ..LatencyLimits::default() };
    bench.health.judge_by(Judgement { latency: limits, ..Judgement::default() });
    let mut normal = Normal::default();
    (0..40).for_each(|_| {
        normal.take(Duration::from_millis(1), &limits);
    });
    bench.health.checks.get_mut(&CheckId(1)).expect("the startup check").state.recall(normal);
    bench.status("c1", ContainerState::Running);
    let request = loop {
        bench.now = bench.health.poll_timeout().expect("there are checks");
        if let Some(request) = bench.health.handle_timeout(bench.now, 1).pop() {
            break request;
        }
    };
    let (answer, latency) = (String::new(), Duration::from_millis(900));
    let reply = ProbeReply { id: request.id, sign: Sign::Right, answer, latency };
    bench.health.handle_reply(at(bench.now), reply);
    assert!(bench.services().iter().any(|service| service.slow));
    assert!(asked(&mut bench, INTERVAL * 2, true).contains(&2), "the others are probed");
}

/// A prober that makes at most so many probes a second, and refuses the others.
fn overload(bench: &mut Bench, span: Duration, most: usize) -> Vec<(u32, u32)> {
    let end = bench.now + span;
    let second = Duration::from_secs(1);
    while bench.now < end {
        bench.now += second;
        for (nth, request) in bench.health.handle_timeout(bench.now, usize::MAX).iter().enumerate() {
            let id = request.id;
            if nth >= most {
                bench.health.handle_busy(id, true);
                continue;
            }
            let reply = ProbeReply { id, sign: Sign::Right, answer: String::new(), latency: Duration::ZERO };
            bench.health.handle_reply(at(bench.now), reply);
        }
    }
    let stretched = |change| match change {
        Change::Stretched { old, new, .. } => Some((old, new)),
        Change::Verdict { .. } | Change::Plan { .. } | Change::Container { .. } => None,
    };
    std::iter::from_fn(|| bench.health.poll_change()).filter_map(stretched).collect()
}

#[test]
fn all_intervals_are_stretched_while_probes_do_not_keep_up() {
    let mut bench = Bench::new((0..100).map(|nth| spec(&format!("c{nth}"), &[("web", 1)])).collect());
    for nth in 0..100 {
        bench.status(&format!("c{nth}"), ContainerState::Running);
    }
    assert_eq!(overload(&mut bench, INTERVAL * 20, usize::MAX), []);
    // 50 are due each second, and 30 can be made.
    let told = overload(&mut bench, INTERVAL * 60, 30);
    assert_eq!(told.first().map(|(old, _)| *old), Some(1000), "{told:?}");
    let (late, stretch) = bench.health.load();
    assert!(late > 0 && (1500..4000).contains(&stretch), "{late} late, stretched by {stretch}: {told:?}");
    assert!(
        bench.services().iter().all(|service| service.verdict() == Value::Passing),
        "what was not made says nothing"
    );
    let told = overload(&mut bench, INTERVAL * 400, usize::MAX);
    assert_eq!(told.last().map(|(_, new)| *new), Some(1000), "{told:?}");
}

#[test]
fn a_runner_that_is_gone_is_no_overload() {
    let mut bench = Bench::new((0..20).map(|nth| spec(&format!("c{nth}"), &[("web", 1)])).collect());
    for nth in 0..20 {
        bench.status(&format!("c{nth}"), ContainerState::Running);
    }
    for _ in 0..60 {
        bench.now += INTERVAL / 4;
        for request in bench.health.handle_timeout(bench.now, usize::MAX) {
            bench.health.handle_busy(request.id, false);
        }
    }
    assert_eq!(bench.health.load(), (0, 1000));
    assert!(bench.health.postponed() > 100);
}

/// A list of services and of containers, as one keeps it who is told only what changed since the last time.
#[derive(Default)]
struct Follower {
    revision: u64,
    containers: BTreeMap<String, v1::Container>,
    services: BTreeMap<(String, String), v1::Service>,
}

impl Follower {
    fn follow(&mut self, health: &mut Health) {
        let since = self.revision;
        for name in health.removed().after(since).expect("few were removed") {
            self.containers.remove(name);
            self.services.retain(|(container, _), _| container != name);
        }
        for row in health.containers().iter().filter(|row| row.changed > since) {
            self.containers.insert(row.spec.name.clone(), row.show());
        }
        for row in health.services().iter().filter(|row| row.changed > since) {
            let service = steady(row.show());
            self.services.insert((service.container.clone(), service.name.clone()), service);
        }
        self.revision = health.revision();
    }
}

/// Without what changes with each probe.
fn steady(service: v1::Service) -> v1::Service {
    let (last_answer, last_latency, last_probe, normal_latency) = (String::new(), None, None, None);
    v1::Service { last_answer, last_latency, last_probe, normal_latency, ..service }
}

#[test]
fn who_is_told_what_changed_knows_what_there_is() {
    use ContainerState::{Absent, Paused, Running, Stopped};
    for seed in 0..20 {
        let mut bench = Bench::new((0..4).map(|nth| spec(&format!("c{nth}"), &[("db", 1), ("web", 2)])).collect());
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut follower, mut clones) = (Follower::default(), 0);
        for _ in 0..300 {
            let names: Vec<String> = bench.containers().into_iter().map(|container| container.name).collect();
            let name = names[rng.random_range(0..names.len())].clone();
            let now = at(bench.now);
            match rng.random_range(0..10) {
                0 => bench.status(&name, [Running, Running, Paused, Stopped, Absent][rng.random_range(0..5)]),
                1 => {
                    let hold = rng.random_bool(0.3).then(|| v1::Hold::default().into());
                    bench.health.mark(now, &name, Marks { hold, ..Marks::default() });
                }
                2 => bench.health.unjudge(now, &name),
                3 => bench.health.handle_cell(&name, rng.random_bool(0.5).then(v1::CellMember::default)),
                4 if rng.random_bool(0.2) => {
                    clones += 1;
                    bench.health.replace(bench.now, &name, spec(&format!("{name}.{clones}"), &[("web", 1)]));
                }
                _ if bench.health.poll_timeout().is_some() => {
                    bench.now = bench.health.poll_timeout().expect("it was").max(bench.now);
                    for request in bench.health.handle_timeout(bench.now, 4) {
                        let sign = rng.random_bool(0.7);
                        bench.health.handle_reply(at(bench.now), reply(request.id, sign));
                    }
                }
                _ => {}
            }
            if rng.random_bool(0.5) {
                follower.follow(&mut bench.health);
                let containers: Vec<v1::Container> = follower.containers.values().cloned().collect();
                assert_eq!(containers, bench.containers(), "seed {seed}");
                let services: Vec<v1::Service> = follower.services.values().cloned().collect();
                assert_eq!(services, bench.services().into_iter().map(steady).collect::<Vec<_>>(), "seed {seed}");
            }
        }
    }
}

fn reply(id: CheckId, success: bool) -> ProbeReply {
    let (answer, latency) = ("told".to_owned(), Duration::ZERO);
    ProbeReply { id, sign: success.into(), answer, latency }
}
