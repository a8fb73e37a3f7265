//! Containers of which nothing is kept are, when they are woken, what they would be if they had been kept.

use std::collections::BTreeMap;

use super::*;
use crate::health::Answered;

const CONTAINERS: u32 = 300;
const MILLI: Duration = Duration::from_millis(1);

fn name(number: u32) -> String {
    format!("h1-c{}", number + 1)
}

fn container(number: u32) -> ContainerSpec {
    spec(&name(number), &[("a", 1), ("b", 2)])
}

fn running(number: u32) -> ContainerStatus {
    ContainerStatus { name: name(number), state: ContainerState::Running, pid: Some(number + 1), ..Default::default() }
}

fn start(containers: Vec<ContainerSpec>) -> Health {
    Health::new(Instant::ZERO, "h1", containers, StdRng::seed_from_u64(7))
}

/// How long a probe takes that is begun then.
fn takes(id: CheckId, asked: Instant) -> Duration {
    Duration::from_micros(200 + (id.0 * 31 + asked.as_nanos()) % 1800)
}

fn answered(id: CheckId, asked: Instant) -> Answered {
    Answered { after: takes(id, asked), latency: MILLI, answer: "right" }
}

/// Answers all probes up to a time; those that were asked of the watched ones, and when. What is under way stays so.
fn run(
    health: &mut Health,
    under_way: &mut BTreeMap<(Instant, CheckId), ()>,
    end: Instant,
    ill: &[u32],
    mut asked: impl FnMut(Instant, CheckId),
) {
    loop {
        let reply = under_way.first_key_value().map(|(key, ())| *key);
        let due = health.poll_timeout();
        let at = reply.map(|(at, _)| at).into_iter().chain(due).min().filter(|at| *at <= end);
        let Some(at) = at else { return };
        if let Some((_, id)) = reply.filter(|(reply, _)| *reply == at) {
            under_way.pop_first();
            let success = !ill.contains(&((id.0 as u32 - 1) / 2));
            let answer = if success { "right" } else { "wrong" }.to_owned();
            let reply = ProbeReply { id, sign: success.into(), answer, latency: MILLI };
            health.handle_reply(super::at(at), reply);
            continue;
        }
        for request in health.handle_timeout(at, 64) {
            asked(at, request.id);
            under_way.insert((at + takes(request.id, at), request.id), ());
        }
    }
}

fn at_second(tenths: u64) -> Instant {
    Instant::from_nanos(tenths * 100_000_000)
}

#[test]
fn one_that_is_woken_is_what_it_would_be_had_it_been_kept() {
    for (tenths, number) in [(3, 0), (97, 17), (123, 150), (250, 299), (617, 42)] {
        let wakes = at_second(tenths);
        let mut kept = start((0..CONTAINERS).map(container).collect());
        (0..CONTAINERS).for_each(|number| kept.handle_status(at(Instant::ZERO), running(number)));
        let mut of_kept = BTreeMap::new();
        run(&mut kept, &mut of_kept, wakes, &[], |_, _| {});

        let mut implicit = start(Vec::new());
        implicit.hush(Instant::ZERO, CONTAINERS, 2, INTERVAL);
        let mut of_implicit = BTreeMap::new();
        run(&mut implicit, &mut of_implicit, wakes, &[], |_, _| panic!("nobody is asked"));
        let woken = implicit.wake(at(wakes), container(number), running(number), u64::from(number) * 2 + 1, answered);
        assert!(!woken.news);
        for (asked, request) in woken.asked {
            of_implicit.insert((asked + takes(request.id, asked), request.id), ());
        }
        let ids: Vec<CheckId> = kept.checks_of(&name(number));
        assert_eq!(implicit.checks_of(&name(number)), ids);
        let own: BTreeMap<_, _> = of_kept.iter().filter(|((_, id), ())| ids.contains(id)).collect();
        assert!(own.into_keys().eq(of_implicit.keys()), "the same are under way");

        // Then it falls ill: asked at the same times, and judged at the same time.
        let end = wakes + INTERVAL * 6;
        let (mut one, mut other) = (Vec::new(), Vec::new());
        run(&mut kept, &mut of_kept, end, &[number], |at, id| {
            if ids.contains(&id) {
                one.push((at, id));
            }
        });
        run(&mut implicit, &mut of_implicit, end, &[number], |at, id| other.push((at, id)));
        assert!(one.len() >= 10, "{}", one.len());
        assert_eq!(one, other, "container {number}, woken at {tenths}");
        let changes = |health: &mut Health| std::iter::from_fn(|| health.poll_change()).collect::<Vec<_>>();
        let (of_one, of_other) = (changes(&mut kept), changes(&mut implicit));
        assert_eq!(of_one.len(), 2, "both services are critical");
        assert_eq!(of_one, of_other);
        for service in ["a", "b"] {
            let history = |health: &Health| health.histories(UnixMillis(u64::MAX), &name(number), service);
            assert_eq!(history(&kept), history(&implicit));
        }
        let mut digests = [kept.digest(), implicit.digest()];
        digests.iter_mut().for_each(|digest| digest.fingerprint = 0);
        assert_eq!(digests[0], digests[1]);
    }
}

#[test]
fn one_rests_only_when_it_is_as_if_it_had_slept() {
    let mut health = start(Vec::new());
    health.hush(Instant::ZERO, CONTAINERS, 2, INTERVAL);
    let mut under_way = BTreeMap::new();
    let wake = |health: &mut Health, under_way: &mut BTreeMap<_, _>, tenths, number: u32| {
        let first = u64::from(number) * 2 + 1;
        let woken = health.wake(at(at_second(tenths)), container(number), running(number), first, answered);
        for (asked, request) in woken.asked {
            under_way.insert((asked + takes(request.id, asked), request.id), ());
        }
    };
    run(&mut health, &mut under_way, at_second(300), &[], |_, _| {});
    let before = health.digest();
    wake(&mut health, &mut under_way, 300, 5);
    wake(&mut health, &mut under_way, 300, 6);
    run(&mut health, &mut under_way, at_second(1000), &[5], |_, _| {});
    assert!(!health.rest(at_second(1000), &running(5)), "it is critical");
    run(&mut health, &mut under_way, at_second(1600), &[], |_, _| {});
    // What hurries its probes, as repair does, moves them.
    health.hurry(at_second(1600), &name(6), MILLI);
    run(&mut health, &mut under_way, at_second(1900), &[], |_, _| {});
    // Between two probes.
    let implicit = (1900..2100).find(|tenths| {
        run(&mut health, &mut under_way, at_second(*tenths), &[], |_, _| {});
        health.rest(at_second(*tenths), &running(5))
    });
    assert!(implicit.is_some());
    assert!(!health.is_at_rest(at_second(2100), &running(6)), "its probes come at another time");
    let other_process = ContainerStatus { pid: Some(999), ..running(5) };
    wake(&mut health, &mut under_way, 2100, 5);
    assert!(!health.rest(at_second(2100), &other_process));
    let mut after = health.digest();
    after.fingerprint = before.fingerprint;
    assert_eq!(after, before);
}
