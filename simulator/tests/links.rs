//! Uplinks and links that fail, in virtual time: how soon it is known, what it costs, and what is lost.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use proptest::prelude::*;
use ringmesh_node::{
    Detection, Path,
    health::{
        Damping, Judgement,
        spec::{Check, ContainerSpec, ServiceSpec, Verbs},
    },
};
use ringmesh_proto::{Uplink, v1};
use ringmesh_simulator::World;
use v1::{host::State, uplink::State as UplinkState};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Services of each host where verdicts count: so many that some change just when a cable breaks.
const SERVICES: usize = 8;

fn container(host: usize, nth: usize) -> ContainerSpec {
    ContainerSpec {
        name: format!("h{}-c{nth}", host + 1),
        driver: "oci".into(),
        tenant: String::new(),
        labels: Arc::default(),
        verbs: Verbs::default(),
        address: String::new(),
        score: None,
        member: false,
        services: vec![ServiceSpec {
            interval: SECOND,
            timeout: SECOND / 2,
            threshold_down: 1,
            ..ServiceSpec::new("web", Check::Tcp { address: ([127, 0, 0, 1], 80).into() })
        }],
    }
}

fn converged(seed: u64, hosts: usize, services: usize) -> World {
    let mut world = World::new(seed);
    // These services flap, to have much to tell.
    let damping = Damping { suppress: u32::MAX, ..Damping::default() };
    world.use_judgement(Judgement { damping, ..Judgement::default() });
    for host in 0..hosts {
        world.add_host((0..services).map(|nth| container(host, nth)).collect());
    }
    assert!(world.run_until(SECOND * 30, well).is_some(), "seed {seed}: {hosts} hosts did not find each other");
    world.run_for(SECOND * 5);
    world
}

fn well(world: &World) -> bool {
    world.hosts().all(|at| {
        let well = |host: &&v1::Host| {
            let uplinks = host.uplinks.unwrap_or_default();
            host.state() == State::Alive && (uplinks.a(), uplinks.b()) == (UplinkState::Up, UplinkState::Up)
        };
        world.view(at).hosts.iter().filter(well).count() == world.hosts().len()
    })
}

/// What a host says of another's uplink.
fn uplink(world: &World, at: usize, of: usize, uplink: Uplink) -> UplinkState {
    let name = format!("h{}", of + 1);
    let host = world.view(at).hosts.iter().find(|host| host.name == name).cloned().unwrap_or_default();
    let uplinks = host.uplinks.unwrap_or_default();
    if uplink == Uplink::A { uplinks.a() } else { uplinks.b() }
}

fn all_say(world: &World, of: usize, over: Uplink, state: UplinkState) -> bool {
    world.hosts().all(|at| uplink(world, at, of, over) == state)
}

fn told(world: &World, at: usize, kind: &str) -> Vec<String> {
    let events = world.view(at).events.iter().filter(|event| event.kind == kind);
    events.map(|event| event.text.clone()).collect()
}

fn membership_changes(world: &World) -> Vec<String> {
    let kinds = ["host-suspect", "host-down", "host-left", "host-isolated"];
    world.hosts().flat_map(|at| kinds.iter().flat_map(move |kind| told(world, at, kind))).collect()
}

fn verdicts(world: &World, at: usize) -> BTreeSet<String> {
    let events = world.view(at).events.iter().filter(|event| event.kind == "service-verdict");
    events.map(|event| event.id.clone()).collect()
}

fn counter(world: &World, name: &str) -> u64 {
    world.hosts().map(|at| world.view(at).counters.get(name).copied().unwrap_or(0)).sum()
}

#[test]
fn a_lost_carrier_is_known_to_all_within_fifty_milliseconds() {
    for hosts in [2, 5, 32] {
        let mut slowest = Duration::ZERO;
        for seed in 0..4 {
            let mut world = converged(seed, hosts, 0);
            for nth in 0..hosts.min(5) {
                let over = Uplink::BOTH[nth % 2];
                world.carrier(nth, over, false);
                let took = world.run_until(SECOND, |world| all_say(world, nth, over, UplinkState::Down));
                slowest = slowest.max(took.unwrap_or(SECOND));
                world.run_for(SECOND * 2);
                world.carrier(nth, over, true);
                assert!(world.run_until(SECOND * 5, well).is_some(), "{hosts} hosts, seed {seed}: it is up again");
                world.run_for(SECOND + MS * 37 * seed as u32);
            }
            assert_eq!(membership_changes(&world), [""; 0], "{hosts} hosts, seed {seed}");
        }
        eprintln!("{hosts} hosts: carrier loss known to all after {slowest:?} at the most");
        assert!(slowest <= MS * 50, "{hosts} hosts: {slowest:?}");
    }
}

/// Cuts 100 uplinks while services change their verdicts all the time. Returns how long it took until all knew of each cut.
fn hundred(break_it: impl Fn(&mut World, usize, Uplink), mend: impl Fn(&mut World, usize, Uplink)) -> Vec<Duration> {
    let mut times = Vec::new();
    for seed in 0..5 {
        let mut world = converged(seed, 5, SERVICES);
        for nth in 0..20 {
            let (host, over) = (nth % 5, Uplink::BOTH[nth / 5 % 2]);
            world.hosts().for_each(|host| world.sicken(host, nth % 2 == 0));
            world.run_for(MS * (53 * nth as u32 % 700));
            break_it(&mut world, host, over);
            let took = world.run_until(SECOND * 5, |world| all_say(world, host, over, UplinkState::Down));
            times.push(took.unwrap_or_else(|| panic!("seed {seed}, cut {nth}: not noticed")));
            world.run_for(SECOND);
            // What was told up to now has come everywhere but for what is on its way: no sync made up for it.
            let owners: Vec<_> = world.hosts().map(|at| verdicts(&world, at)).collect();
            world.run_for(MS * 100);
            for at in world.hosts() {
                let here = verdicts(&world, at);
                let lost: Vec<_> = owners.iter().flatten().filter(|id| !here.contains(*id)).collect();
                assert!(lost.is_empty(), "seed {seed}, cut {nth}: h{} lacks {lost:?}", at + 1);
            }
            mend(&mut world, host, over);
            assert!(world.run_until(SECOND * 10, well).is_some(), "seed {seed}, cut {nth}");
            world.run_for(SECOND);
        }
        assert_eq!(membership_changes(&world), [""; 0], "seed {seed}");
        let counts: BTreeSet<_> = world.hosts().map(|at| verdicts(&world, at).len()).collect();
        assert_eq!(counts.len(), 1, "seed {seed}: all have the same verdicts");
        assert!(counts.first() >= Some(&(5 * SERVICES * 20)), "seed {seed}: {counts:?}");
    }
    times.sort();
    times
}

#[test]
fn a_hundred_silent_cuts_change_no_membership_and_lose_no_verdict() {
    let times = hundred(|world, host, over| world.cut(host, over), |world, host, _| world.heal(host));
    eprintln!("silent cut known to all: median {:?}, longest {:?}", times[50], times[99]);
    assert!(times[99] <= SECOND / 2, "{:?}", times[99]);
}

#[test]
fn a_hundred_unplugged_cables_change_no_membership_and_lose_no_verdict() {
    let pull = |world: &mut World, host, over| world.carrier(host, over, false);
    let times = hundred(pull, |world, host, over| world.carrier(host, over, true));
    eprintln!("carrier loss known to all: median {:?}, longest {:?}", times[50], times[99]);
    assert!(times[99] <= MS * 50, "{:?}", times[99]);
}

#[test]
fn a_flapping_uplink_is_told_twice_and_used_when_it_has_been_well_for_long() {
    for seed in 0..4 {
        for silent in [false, true] {
            let mut world = converged(seed, 5, 0);
            for _ in 0..10 {
                if silent {
                    world.cut(1, Uplink::A)
                } else {
                    world.carrier(1, Uplink::A, false)
                }
                world.run_for(SECOND * 2);
                if silent {
                    world.heal(1)
                } else {
                    world.carrier(1, Uplink::A, true)
                }
                world.run_for(SECOND * 2);
            }
            let restoring =
                |world: &World, at: usize| world.view(at).hosts[1].uplinks.unwrap_or_default().restored_at_a.is_some();
            assert!(world.run_until(SECOND * 5, well).is_some(), "seed {seed}, silent {silent}");
            world.run_for(SECOND * 2);
            assert!(world.hosts().all(|at| restoring(&world, at)), "seed {seed}, silent {silent}: all see it restore");
            world.run_for(SECOND * 40);
            for at in world.hosts() {
                let text = told(&world, at, "uplink-changed");
                assert_eq!(text.len(), 2, "seed {seed}, silent {silent}: {text:?}");
                assert!(text[1].ends_with("uplink a is up"), "{text:?}");
                assert!(!restoring(&world, at), "seed {seed}, silent {silent}");
            }
            assert_eq!(membership_changes(&world), [""; 0], "seed {seed}, silent {silent}");
        }
    }
}

#[test]
fn what_the_second_copies_cost() {
    let mut world = converged(1, 5, SERVICES);
    let before = ["event_bytes", "event_bytes_second", "digest_bytes", "gossip_duplicates"].map(|n| counter(&world, n));
    let events = verdicts(&world, 0).len();
    for nth in 0..30 {
        world.hosts().for_each(|host| world.sicken(host, nth % 2 == 0));
        world.run_for(SECOND * 2);
    }
    let events = (verdicts(&world, 0).len() - events) as u64;
    let names = ["event_bytes", "event_bytes_second", "digest_bytes", "gossip_duplicates"];
    let [first, second, digests, duplicates] = [0, 1, 2, 3].map(|n| counter(&world, names[n]) - before[n]);
    eprintln!(
        "{events} verdicts at 5 hosts: {} B each in first copies, {} B in second; digests {digests} B; {} duplicates each",
        first / events,
        second / events,
        duplicates / events
    );
    assert!(events >= 5 * SERVICES as u64 * 29);
    assert_eq!(first, second, "both uplinks are well: each goes over both");
}

#[test]
fn a_pair_that_does_not_hear_each_other_is_shown_and_a_third_host_carries_for_it() {
    for (hosts, seeds) in [(3, 0..4), (5, 0..4), (16, 0..3)] {
        for seed in seeds {
            let mut world = converged(seed, hosts, 0);
            let one = seed as usize % hosts;
            let order = &world.view(one).rings[0].hosts;
            let place = order.iter().position(|name| *name == format!("h{}", one + 1)).unwrap();
            let name = order[(place + 1) % hosts].clone();
            let other = name[1..].parse::<usize>().unwrap() - 1;
            world.cut_pair(one, other);
            let shown = |world: &World| {
                world.hosts().all(|at| {
                    let links = world.view(at).links.list();
                    let pair = |from: usize, to: usize| {
                        links.iter().any(|link| {
                            let ends = (link.from.as_str(), link.to.as_str());
                            ends == (&format!("h{}", from + 1), &format!("h{}", to + 1))
                                && link.pair_broken
                                && !link.via.is_empty()
                        })
                    };
                    pair(one, other) && pair(other, one)
                })
            };
            let took = world.run_until(SECOND * 10, shown);
            assert!(took.is_some_and(|took| took <= SECOND * 4), "{hosts} hosts, seed {seed}: {took:?}");
            world.run_for(SECOND * 120);
            assert!(counter(&world, "sent_by_relay") > 0, "{hosts} hosts, seed {seed}: syncs go by a third host");
            assert_eq!(membership_changes(&world).iter().filter(|text| text.contains("down")).count(), 0);
            world.heal(one);
            let gone = |world: &World| {
                world.hosts().all(|at| world.view(at).links.list().iter().all(|link| !link.pair_broken))
            };
            assert!(world.run_until(SECOND * 10, gone).is_some(), "{hosts} hosts, seed {seed}: it is forgotten");
        }
    }
}

/// From the verdict of those who watch to its being seen at all: hosts on the way, each some 20 ms of batching, and a view.
fn spread(hosts: usize) -> Duration {
    let hops = if hosts <= 5 { 2 } else { 4 };
    (MS * 20 + MS * 3) * hops + MS * 20 + Duration::from_micros(500) * hosts as u32
}

/// A fault of one host, and when all others know of it.
struct Fault {
    what: &'static str,
    strikes: fn(&mut World, usize),
    is_known: fn(&World, usize) -> bool,
    bound: fn(Detection) -> Duration,
}

const FAULTS: [Fault; 4] = [
    Fault {
        what: "silent uplink",
        strikes: |world, victim| world.cut(victim, Uplink::A),
        is_known: |world, victim| all_say(world, victim, Uplink::A, UplinkState::Down),
        bound: |worst| worst.silent_uplink,
    },
    Fault { what: "refused port", strikes: World::kill, is_known: is_down, bound: |worst| worst.refused_port },
    Fault { what: "dead host", strikes: World::power_off, is_known: is_down, bound: |worst| worst.dead_host },
    Fault {
        what: "stuck agent",
        strikes: |world, victim| world.pause(victim, SECOND * 30),
        is_known: is_down,
        bound: |worst| worst.stuck_agent,
    },
];

fn is_down(world: &World, victim: usize) -> bool {
    let name = format!("h{}", victim + 1);
    world
        .hosts()
        .filter(|at| *at != victim)
        .all(|at| world.view(at).hosts.iter().any(|host| host.name == name && host.state() == State::Down))
}

impl Fault {
    /// How long it takes to be known when it strikes after `wait` ms, and the longest that it may.
    fn takes(&self, seed: u64, hosts: usize, wait: u32) -> (Option<Duration>, Duration) {
        // Of a packet there and back in this world.
        let worst = Detection::worst_case(Path { rtt: MS * 3, deviation: MS, ..Path::default() });
        let victim = seed as usize % hosts;
        let mut world = converged(seed, hosts, 0);
        world.run_for(MS * wait);
        (self.strikes)(&mut world, victim);
        let took = world.run_until(SECOND * 20, |world| (self.is_known)(world, victim));
        (took, (self.bound)(worst) + spread(hosts))
    }
}

/// When a fault is known depends on the moment at which it strikes: right after a probe was answered it takes the longest,
/// and while a probe is on its way two answers that do not come are enough.
#[test]
fn the_worst_case_is_not_far_from_what_happens() {
    for fault in FAULTS {
        let runs = (0..12).map(|seed| fault.takes(seed, 6, seed as u32 * 97));
        let (took, bound) = runs.max().expect("there are some");
        let took = took.expect("it is known in the end");
        assert!(took * 3 >= bound * 2, "{}: {took:?} makes {bound:?} a bound of nothing", fault.what);
    }
}

#[test]
fn a_fault_that_strikes_while_a_probe_is_on_its_way_is_known_sooner() {
    let (took, bound) = FAULTS[0].takes(109_994_339_610_129_926, 6, 1276);
    assert!(took.is_some_and(|took| took * 3 < bound), "{took:?} of {bound:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_fault_takes_longer_than_the_worst_case_says(seed: u64, hosts in 3..9usize, wait in 0..3000u32) {
        for fault in FAULTS {
            let (took, bound) = fault.takes(seed, hosts, wait);
            prop_assert!(took.is_some_and(|took| took <= bound), "{}: {took:?}, at the most {bound:?}", fault.what);
        }
    }
}
