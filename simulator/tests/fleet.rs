//! Containers by the thousand: what is not kept of those that are well is what the agents' code would have had of them.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ringmesh_proto::digest::Digest;
use ringmesh_simulator::{
    HostIndex, World,
    fault::{Fault, Kind},
    fleet::{Fleet, How, Repair},
    run::{Report, Run},
    scenario::Scenario,
    span::Span,
    world::{Cure, Settings, id},
};

const SECOND: Duration = Duration::from_secs(1);
const HOSTS: usize = 4;

fn fleet(implicit: bool, repair: bool) -> Arc<Fleet> {
    let repair = repair.then(|| Repair {
        attempts: 1,
        timeout: Span::from_secs(12),
        quiet: Span::from_secs(30),
        ..Repair::default()
    });
    Arc::new(Fleet {
        containers: 150,
        services: 2,
        apps: 5,
        interval: Span::from_secs(5),
        threshold_down: 2,
        implicit,
        repair,
        ..Fleet::default()
    })
}

fn world(seed: u64, fleet: &Arc<Fleet>) -> World {
    let mut world = World::with(Settings { views: false, ..Settings::new(seed) });
    for _ in 0..HOSTS {
        world.add_fleet(fleet);
    }
    world
}

/// An event: when in milliseconds, kind, container, service, text.
type Told = (u64, String, String, String, String);

/// What a host told of its containers.
fn told(world: &World, host: HostIndex) -> Vec<Told> {
    let events = world.node(host).unwrap().told(0).into_iter();
    // Who hears whom over the network differs with every message; that is looked at by itself.
    let events = events.filter(|event| event.kind != "service-unheard" && !event.kind.starts_with("host-"));
    let text = |event: &ringmesh_proto::peer::EventRecord| event.text.clone();
    events.map(|e| (e.unix_ms, e.kind.clone(), e.container.clone(), e.service.clone(), text(e))).collect()
}

/// The containers that others on other hosts did not hear.
fn unheard(world: &World, host: HostIndex) -> BTreeSet<String> {
    let events = world.node(host).unwrap().told(0).into_iter();
    events.filter(|event| event.kind == "service-unheard").map(|event| event.container.clone()).collect()
}

/// What each host says of itself, but for what names the state and counts its changes.
fn digests(world: &World) -> Vec<Digest> {
    let own = |host| world.node(host).unwrap().digest_of(id(host)).unwrap();
    world.hosts().map(|host| Digest { fingerprint: 0, ..own(host) }).collect()
}

/// `slack`: by how many milliseconds what is told of one container may differ. The two networks do not draw the same.
fn assert_same(one: &World, other: &World, when: &str, slack: u64) -> usize {
    for host in one.hosts() {
        let [mut real, mut modelled] = [told(one, host), told(other, host)];
        if slack > 0 {
            let by_what = |event: &Told| (event.2.clone(), event.3.clone(), event.1.clone(), event.4.clone());
            real.sort_by_key(by_what);
            modelled.sort_by_key(by_what);
        }
        let same = |one: &Told, other: &Told| {
            one.0.abs_diff(other.0) <= slack
                && (&one.1, &one.2, &one.3, &one.4) == (&other.1, &other.2, &other.3, &other.4)
        };
        let differ = real.iter().zip(&modelled).position(|(real, modelled)| !same(real, modelled));
        if let Some(at) = differ.or((real.len() != modelled.len()).then_some(real.len().min(modelled.len()))) {
            panic!("{when}, h{}, event {at}: {:#?} is not {:#?}", host + 1, real.get(at), modelled.get(at));
        }
        assert_eq!(unheard(one, host), unheard(other, host), "{when}, h{}", host + 1);
    }
    assert_eq!(digests(one), digests(other), "{when}");
    assert_eq!(other.misjudged(), 0, "{when}");
    one.hosts().map(|host| told(one, host).len()).sum()
}

/// The same is done to both; so much later they must have told the same.
fn both(worlds: &mut [World; 2], span: Duration, what: impl Fn(&mut World)) {
    for world in worlds {
        what(world);
        for _ in 0..span.as_secs() {
            world.run_for(SECOND);
            if world.now().as_nanos() % 5_000_000_000 < 1_000_000_000 {
                world.rest();
            }
        }
    }
}

#[test]
fn failures_of_an_implicit_fleet_are_told_as_by_the_real_code() {
    for seed in 0..3 {
        let mut worlds = [false, true].map(|implicit| world(seed, &fleet(implicit, false)));
        both(&mut worlds, SECOND * 33, |world| world.run_for(Duration::from_millis(371)));
        assert_same(&worlds[0], &worlds[1], "at first", 0);
        assert_eq!(worlds[1].awake(0), 0);
        both(&mut worlds, SECOND * 60, |world| {
            world.ail(0, 17, How::Wrong, Cure::Nothing);
            world.ail(1, 3, How::Silent, Cure::Nothing);
            world.ail(2, 99, How::End, Cure::Nothing);
            world.ail(3, 149, How::Late(Span::from_secs(3)), Cure::Nothing);
            world.freeze(3, 64, true);
        });
        assert!(assert_same(&worlds[0], &worlds[1], "single ones", 0) >= 5);
        assert!(worlds[1].hosts().all(|host| worlds[1].awake(host) <= 2));
        both(&mut worlds, SECOND * 60, |world| {
            world.recover(0, 17, How::Wrong);
            world.recover(1, 3, How::Silent);
            world.recover(2, 99, How::End);
            world.recover(3, 149, How::Late(Span::from_secs(3)));
            world.freeze(3, 64, false);
        });
        assert_same(&worlds[0], &worlds[1], "healed", 0);
        // All of an app on all hosts, an agent that ends meanwhile, and all of a host.
        both(&mut worlds, SECOND * 20, |world| {
            for host in 0..HOSTS {
                (30..60).for_each(|number| world.ail(host, number, How::Wrong, Cure::Nothing));
            }
        });
        both(&mut worlds, SECOND * 5, |world| world.kill(2));
        both(&mut worlds, SECOND * 40, |world| world.start(2));
        assert_same(&worlds[0], &worlds[1], "an app", 0);
        both(&mut worlds, SECOND * 20, |world| {
            for host in 0..HOSTS {
                (30..60).for_each(|number| world.recover(host, number, How::Wrong));
            }
            world.sicken(1, true);
        });
        both(&mut worlds, SECOND * 60, |world| world.sicken(1, false));
        let told = assert_same(&worlds[0], &worlds[1], "in the end", 0);
        assert!(told > 400, "{told}");
    }
}

#[test]
fn repairs_of_an_implicit_fleet_are_those_of_the_real_code_and_it_goes_to_sleep_again() {
    for seed in 10..13 {
        let mut worlds = [false, true].map(|implicit| world(seed, &fleet(implicit, true)));
        both(&mut worlds, SECOND * 40, |_| {});
        both(&mut worlds, SECOND * 60, |world| {
            world.ail(0, 17, How::Wrong, Cure::Command);
            world.ail(0, 80, How::Wrong, Cure::Restart);
            world.ail(1, 3, How::Wrong, Cure::Clone);
            world.ail(2, 99, How::End, Cure::Nothing);
            world.ail(3, 12, How::Wrong, Cure::Nothing);
        });
        assert_same(&worlds[0], &worlds[1], "repaired", 300);
        both(&mut worlds, SECOND * 30, |world| {
            world.disarm(0, true);
            world.run_for(SECOND * 3);
            world.ail(1, 60, How::Wrong, Cure::Restart);
        });
        both(&mut worlds, SECOND * 60, |world| {
            world.disarm(0, false);
            world.recover(3, 12, How::Wrong);
        });
        assert_same(&worlds[0], &worlds[1], "disarmed and armed", 300);
        let acted = |world: &World| world.hosts().map(|host| world.acted(host).len()).collect::<Vec<_>>();
        assert_eq!(acted(&worlds[0]), acted(&worlds[1]));
        assert!(acted(&worlds[1]).iter().sum::<usize>() >= 4, "{:?}", acted(&worlds[1]));
        // What was restarted or cloned has another process; what was well again by itself sleeps.
        let awake = worlds[1].awake(2);
        both(&mut worlds, SECOND * 40, |world| {
            world.disarm(0, true);
            world.run_for(SECOND * 3);
            (20..24).for_each(|number| world.ail(2, number, How::Silent, Cure::Nothing));
        });
        assert_eq!(worlds[1].awake(2), awake + 4);
        both(&mut worlds, SECOND * 30, |world| (20..24).for_each(|number| world.recover(2, number, How::Silent)));
        both(&mut worlds, SECOND * 60, |world| world.disarm(0, false));
        assert_same(&worlds[0], &worlds[1], "asleep", 300);
        assert_eq!(worlds[1].awake(2), awake, "seed {seed}");
        both(&mut worlds, SECOND * 60, |world| world.ail(2, 22, How::Silent, Cure::Nothing));
        assert_same(&worlds[0], &worlds[1], "and awake again", 300);
    }
}

fn faults(scenario: &mut Scenario) {
    let fault = |at, lasts, kind| Fault::new(Span::from_secs(at), Some(Span::from_secs(lasts)), kind, &[]);
    let of = |containers: &[&str], fault: Fault| Fault {
        containers: containers.iter().map(|name| (*name).to_owned()).collect(),
        ..fault
    };
    let at = |host: usize, fault: Fault| Fault { hosts: vec![format!("h{host}")], ..fault };
    scenario.fault = vec![
        of(&["h1-c5", "h2-c900", "h6-c2000"], Fault { cure: Some(Cure::Restart), ..fault(40, 40, Kind::Wrong) }),
        of(&["h3-c1234"], fault(41, 60, Kind::End)),
        of(&["h4-c77", "h5-c77"], fault(42, 60, Kind::Silent)),
        of(&["h4-c78"], Fault { by: Some(Span::from_secs(3)), ..fault(43, 60, Kind::Late) }),
        of(&["h5-c1500"], fault(44, 60, Kind::Freeze)),
        Fault { app: Some("app3".into()), ..fault(110, 20, Kind::Wrong) },
        at(2, fault(150, 40, Kind::PowerOff)),
        at(6, fault(160, 30, Kind::Isolate)),
        of(&["h6-c9"], Fault { cure: Some(Cure::Restart), ..fault(175, 14, Kind::Wrong) }),
        at(1, fault(215, 25, Kind::Disarm)),
        of(&["h3-c9"], Fault { cure: Some(Cure::Restart), ..fault(232, 30, Kind::Wrong) }),
    ];
}

fn small() -> Scenario {
    let fleet = Fleet {
        containers: 2000,
        apps: 20,
        threshold_down: 2,
        repair: Some(Repair {
            attempts: 1,
            timeout: Span::from_secs(3),
            quiet: Span::from_secs(30),
            ..Repair::default()
        }),
        ..Fleet::default()
    };
    let mut scenario = Scenario { hosts: 6, duration: Span::from_secs(330), seed: 5, ..Scenario::default() };
    scenario.fleet = Some(fleet);
    faults(&mut scenario);
    scenario
}

fn run(scenario: &Scenario) -> Report {
    Run::new(scenario).unwrap().finish(false)
}

#[test]
fn failures_among_twelve_thousand_containers_are_told_everywhere_in_time_and_repair_keeps_its_bounds() {
    let report = run(&small());
    let failed: Vec<_> = report.failed().collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let fleet = report.fleet.clone().unwrap();
    assert_eq!(fleet.containers, 12_000);
    assert_eq!(fleet.failures, 3 + 1 + 2 + 1 + 600 + 2);
    assert!(fleet.awake_most < 1000 && fleet.awake < 200, "{fleet:#?}");
    assert!(fleet.repairs >= 100 && fleet.spread.count > 1000, "{fleet:#?}");
    let slowest = |kind: &str| fleet.everywhere[kind].max;
    assert!(slowest("end") <= 0.5 && slowest("wrong") <= 10.5, "{fleet:#?}");
    assert!(slowest("silent") <= 21.5 && slowest("late") <= 21.5, "{fleet:#?}");
    assert_eq!(run(&small()), report, "the same seed is the same run");
}

#[test]
fn the_scenario_of_a_hundred_hosts_can_be_run() {
    let text = include_str!("../scenarios/fleet.toml");
    let scenario = Scenario::parse(text).unwrap();
    let fleet = scenario.fleet.clone().unwrap();
    assert_eq!((scenario.hosts, fleet.containers), (100, 32_000));
}
