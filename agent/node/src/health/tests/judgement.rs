//! What is a deviation, and what is done about one.

use super::*;
use crate::health::{Damping, Judgement, LatencyLimits, spec::Alarm};

fn bench(change: impl FnOnce(&mut ServiceSpec)) -> Bench {
    let mut container = spec("c1", &[("web", 1)]);
    container.services[0].threshold_up = 1;
    container.services[0].threshold_down = 2;
    change(&mut container.services[0]);
    let mut bench = Bench::new(vec![container]);
    bench.status("c1", ContainerState::Running);
    bench.probe(true);
    bench
}

fn plan() -> Check {
    Check::Exec { argv: vec!["look".to_owned()] }
}

impl Bench {
    /// Makes the next probe, which must be the service's own, and answers it so.
    fn answer(&mut self, success: bool, outright: bool, latency: Duration) {
        let request = self.next();
        assert!(!matches!(*request.check, Check::Exec { .. }), "not a plan");
        let answer = if success { "200" } else { "503" }.to_owned();
        let reply =
            ProbeReply { id: request.id, sign: if outright { Sign::Error } else { success.into() }, answer, latency };
        self.health.handle_reply(at(self.now), reply);
    }

    fn next(&mut self) -> ProbeRequest {
        loop {
            self.now = self.now.max(self.health.poll_timeout().expect("there are checks"));
            if let Some(request) = self.health.handle_timeout(self.now, 1).pop() {
                return request;
            }
        }
    }

    fn changes(&mut self) -> Vec<Change> {
        std::iter::from_fn(|| self.health.poll_change()).collect()
    }

    fn kinds(&self) -> Vec<Kind> {
        let history = self.health.histories(UnixMillis(0), "c1", "web").remove(0);
        history.changes.iter().map(|change| change.kind()).collect()
    }
}

#[test]
fn an_outright_error_alarms_at_once_if_that_is_wanted() {
    let mut usual = bench(|_| {});
    usual.answer(false, true, Duration::ZERO);
    assert_eq!(usual.verdicts(), [], "its threshold is two");
    let mut at_once = bench(|service| service.alarm = Alarm::AtOnce);
    at_once.answer(false, false, Duration::ZERO);
    assert_eq!(at_once.verdicts(), [], "silence may be a lost packet");
    at_once.answer(true, false, Duration::ZERO);
    at_once.answer(false, true, Duration::ZERO);
    assert_eq!(at_once.verdicts(), [(Value::Passing, Value::Critical)]);
}

#[test]
fn a_service_that_flaps_is_told_twice_and_is_a_warning_meanwhile() {
    let mut bench = bench(|service| service.threshold_down = 1);
    let told = |bench: &mut Bench, outcomes: &str| {
        outcomes.chars().for_each(|outcome| bench.answer(outcome == '1', false, Duration::ZERO));
        bench.verdicts()
    };
    told(&mut bench, "010101");
    use Value::{Critical, Passing, Warning};
    assert_eq!(told(&mut bench, "0"), [(Passing, Warning)], "the fourth time");
    assert_eq!(told(&mut bench, "101010101101010"), []);
    let service = &bench.services()[0];
    assert!(service.flapping && service.verdict() == Warning);
    // 2 s a probe: after some minutes of quiet it is over.
    let quiet = told(&mut bench, &"1".repeat(600));
    assert_eq!(quiet, [(Warning, Passing)]);
    assert!(
        bench.kinds().ends_with(&[Kind::Flapping, Kind::Verdict, Kind::Steady, Kind::Verdict]),
        "{:?}",
        bench.kinds()
    );

    told(&mut bench, "0101010");
    assert!(bench.services()[0].flapping);
    // Down for good: that is no flapping, and not to be hidden.
    let down = Damping::default().steady.as_secs() as usize / 2 + 20;
    assert_eq!(told(&mut bench, &"0".repeat(down)), [(Warning, Critical)]);
}

#[test]
fn a_container_that_stopped_is_critical_however_often_it_does() {
    let mut bench = bench(|_| {});
    for _ in 0..10 {
        bench.status("c1", ContainerState::Stopped);
        assert_eq!(bench.services()[0].verdict(), Value::Critical);
        bench.status("c1", ContainerState::Running);
        bench.answer(true, false, Duration::ZERO);
    }
    assert_eq!(bench.services()[0].verdict(), Value::Warning, "it runs, and flaps");
}

#[test]
fn a_slow_service_is_a_warning_and_says_what_is_normal() {
    let mut bench = bench(|_| {});
    let ms = Duration::from_millis;
    (0..60).for_each(|_| bench.answer(true, false, ms(10)));
    assert_eq!(bench.changes(), []);
    (0..5).for_each(|_| bench.answer(true, false, ms(200)));
    let changes = bench.changes();
    let [Change::Verdict { old: Value::Passing, new: Value::Warning, answer, .. }] = &changes[..] else {
        panic!("{changes:?}");
    };
    assert!(answer.starts_with("answers after 200.0 ms, normal are 10.") && answer.ends_with(": 200"), "{answer}");
    assert!(bench.services()[0].slow);
    // What was learned is there in the next life of the agent.
    let records: Vec<_> = bench.health.take_all(at(bench.now)).into_iter().flat_map(|(_, records)| records).collect();
    let mut next = Bench::new(vec![spec("c1", &[("web", 1)])]);
    next.health.recall(at(Instant::ZERO), records);
    assert_eq!(next.services()[0].normal_latency, bench.services()[0].normal_latency);
    (0..5).for_each(|_| bench.answer(true, false, ms(10)));
    assert_eq!(bench.verdicts(), [(Value::Warning, Value::Passing)]);
    assert!(bench.kinds().ends_with(&[Kind::Slow, Kind::Verdict, Kind::Normal, Kind::Verdict]));

    bench.health.judge_by(Judgement {
        latency: LatencyLimits { factor: 0, ..LatencyLimits::default() },
        ..Judgement::default()
    });
    (0..50).for_each(|_| bench.answer(true, false, ms(900)));
    assert_eq!(bench.verdicts(), [], "nobody wants to know");
}

#[test]
fn the_first_failure_has_the_plan_run_and_its_answer_told() {
    let mut bench = bench(|service| service.plan = Some(Arc::new(plan())));
    bench.answer(false, false, Duration::ZERO);
    let request = bench.next();
    assert_eq!((&*request.check, request.netns), (&plan(), None));
    let reply = ProbeReply {
        id: request.id,
        sign: Sign::Error,
        answer: "step login: HTTP 500".to_owned(),
        latency: Duration::ZERO,
    };
    bench.health.handle_reply(at(bench.now), reply.clone());
    let changes = bench.changes();
    assert!(matches!(&changes[..], [Change::Plan { success: false, answer, .. }] if answer == "step login: HTTP 500"));
    // It comes once, and what it found belongs to the verdict that follows.
    bench.health.handle_reply(at(bench.now), reply);
    bench.answer(false, false, Duration::ZERO);
    let changes = bench.changes();
    assert!(
        matches!(&changes[..], [Change::Verdict { answer, .. }] if answer == "503; plan failed: step login: HTTP 500"),
        "{changes:?}"
    );
    bench.answer(true, false, Duration::ZERO);
    bench.answer(false, false, Duration::ZERO);
    bench.answer(false, false, Duration::ZERO);
    assert!(bench.kinds().iter().filter(|kind| **kind == Kind::Plan).count() == 1, "once a minute");
}

#[test]
fn an_outright_error_of_the_plan_alarms_at_once_if_that_is_wanted() {
    let mut bench = bench(|service| {
        service.plan = Some(Arc::new(plan()));
        service.alarm = Alarm::AtOnce;
        service.threshold_down = 100;
    });
    bench.answer(false, false, Duration::ZERO);
    let id = bench.next().id;
    let answer = "step login: HTTP 500".to_owned();
    bench.health.handle_reply(at(bench.now), ProbeReply { id, sign: Sign::Error, answer, latency: Duration::ZERO });
    assert_eq!(bench.verdicts(), [(Value::Passing, Value::Critical)]);
}

#[test]
fn when_all_fail_at_once_only_some_plans_run() {
    let mut containers: Vec<ContainerSpec> = (0..500).map(|n| spec(&format!("c{n}"), &[("web", 1)])).collect();
    containers.iter_mut().for_each(|container| {
        container.services[0].plan = Some(Arc::new(plan()));
        container.services[0].threshold_up = 1;
    });
    let mut bench = Bench::new(containers);
    (0..500).for_each(|n| bench.status(&format!("c{n}"), ContainerState::Running));
    let mut plans = 0;
    while bench.now < Instant::ZERO + INTERVAL * 5 {
        let request = bench.next();
        let success = bench.now < Instant::ZERO + INTERVAL * 2;
        plans += u32::from(matches!(*request.check, Check::Exec { .. }));
        let (id, answer, latency) = (request.id, String::new(), Duration::ZERO);
        bench.health.handle_reply(at(bench.now), ProbeReply { id, sign: success.into(), answer, latency });
    }
    assert!((1..=64).contains(&plans), "{plans}");
    assert_eq!(u64::from(plans) + bench.health.plans_skipped(), 500);
}
