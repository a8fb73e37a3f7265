//! Zones in virtual time: pools that find each other, tell each other what matters, and never become one.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{collections::BTreeSet, time::Duration};

use ringmesh_proto::{Uplink, v1};
use ringmesh_simulator::{HostIndex, World};
use v1::{host::State, zone::State as ZoneState};

const SEEDS: std::ops::Range<u64> = 0..4;
const SECOND: Duration = Duration::from_secs(1);

/// The time in which the rest of a zone finds that all its delegates are dead, and others speak for it: a silent link is
/// found in a second, a host is accused after 2 s of silence, or 6 s if its kernel may live, and the first try of a trunk takes
/// a second.
const TAKEOVER: Duration = Duration::from_secs(8);

/// Zones of so many hosts each; host i is in zone i modulo their number, and knows the first host of each zone.
fn add(world: &mut World, zones: usize, hosts: usize) {
    for index in 0..zones * hosts {
        let knows: Vec<HostIndex> = (0..index.min(zones)).chain((index >= zones).then(|| index - zones)).collect();
        world.add_host_in(&zone_name(index, zones), &knows, Vec::new());
    }
}

fn zone_name(index: HostIndex, zones: usize) -> String {
    format!("z{}", index % zones + 1)
}

/// Every host knows all hosts of its own zone and no others, and the record of each other zone.
fn agreed(world: &World, zones: usize, hosts: usize) -> bool {
    world.hosts().filter(|host| world.runs(*host)).all(|host| {
        let view = world.view(host);
        view.hosts.len() == hosts
            && view.hosts.iter().all(|other| other.state() == State::Alive && other.zone == zone_name(host, zones))
            && view.zones.len() == zones
            && view.zones.iter().all(|zone| {
                zone.state() == ZoneState::Reachable
                    && (zone.hosts, zone.alive) == (hosts as u32, hosts as u32)
                    && zone.delegates.len() == hosts.min(3)
            })
    })
}

fn converged(seed: u64, zones: usize, hosts: usize) -> World {
    let mut world = World::new(seed);
    add(&mut world, zones, hosts);
    // To look at so many hosts after every message would take longer than all the rest.
    let took = (0..160).find(|_| {
        world.run_for(SECOND / 4);
        agreed(&world, zones, hosts)
    });
    assert!(took.is_some(), "seed {seed}: {:#?}", describe(&world));
    world
}

fn describe(world: &World) -> Vec<String> {
    let describe = |host: HostIndex| {
        let view = world.view(host);
        let zones: Vec<_> = view
            .zones
            .iter()
            .map(|zone| {
                let delegates: Vec<_> = zone.delegates.iter().map(|delegate| delegate.name.as_str()).collect();
                format!(
                    "{} {:?} {}/{} {} {} ms",
                    zone.name,
                    zone.state(),
                    zone.alive,
                    zone.hosts,
                    delegates.join("+"),
                    zone.age_ms
                )
            })
            .collect();
        format!("{} ({} hosts): {}", view.name, view.hosts.len(), zones.join("; "))
    };
    world.hosts().map(describe).collect()
}

/// The delegates of a zone, as a host of it sees them.
fn delegates(world: &World, at: HostIndex) -> Vec<HostIndex> {
    let own = world.view(at).zones.iter().find(|zone| zone.local).unwrap();
    own.delegates.iter().map(|delegate| delegate.name[1..].parse::<usize>().unwrap() - 1).collect()
}

fn of_zone(world: &World, zone: usize, zones: usize) -> Vec<HostIndex> {
    world.hosts().filter(|host| host % zones == zone).collect()
}

/// Events of this kind and host, as many as a host has.
fn events(world: &World, at: HostIndex, kind: &str, of: HostIndex) -> usize {
    let name = format!("h{}", of + 1);
    world.view(at).events.iter().filter(|event| event.kind == kind && event.host == name).count()
}

fn knows(world: &World, kind: &str, of: HostIndex) -> bool {
    world.hosts().filter(|host| world.runs(*host) && *host != of).all(|at| events(world, at, kind, of) > 0)
}

fn shown(world: &World, at: HostIndex, zone: &str) -> v1::Zone {
    world.view(at).zones.iter().find(|shown| shown.name == zone).cloned().unwrap()
}

#[test]
fn three_zones_of_five_find_each_other_and_stay_apart() {
    for seed in SEEDS {
        let mut world = converged(seed, 3, 5);
        world.run_for(SECOND * 60);
        assert!(agreed(&world, 3, 5), "seed {seed}: {:#?}", describe(&world));
        for host in world.hosts() {
            let events = &world.view(host).events;
            assert!(events.iter().all(|event| !event.kind.starts_with("zone-")), "seed {seed}: {events:?}");
        }
    }
}

#[test]
fn an_event_in_one_zone_is_known_in_all_within_two_seconds_and_once() {
    for seed in SEEDS {
        let mut world = converged(seed, 3, 5);
        let victim = seed as usize % 15;
        world.cut(victim, Uplink::A);
        // The host that is concerned says it first.
        let told = world.run_until(SECOND * 10, |world| events(world, victim, "uplink-changed", victim) > 0);
        assert!(told.is_some(), "seed {seed}");
        let took = world.run_until(SECOND * 2, |world| knows(world, "uplink-changed", victim));
        assert!(took.is_some(), "seed {seed}: {:#?}", describe(&world));
        world.run_for(SECOND * 30);
        for at in world.hosts() {
            assert_eq!(events(&world, at, "uplink-changed", victim), 1, "seed {seed}, at h{}", at + 1);
            let event = world.view(at).events.iter().find(|event| event.kind == "uplink-changed").unwrap().clone();
            assert_eq!(event.zone, zone_name(victim, 3));
        }
    }
}

#[test]
fn the_death_of_a_host_is_told_to_other_zones_once_with_its_accusers() {
    for seed in SEEDS {
        let mut world = converged(seed, 3, 5);
        let victim = seed as usize % 15;
        world.power_off(victim);
        let took = world.run_until(SECOND * 10, |world| knows(world, "host-down", victim));
        assert!(took.is_some(), "seed {seed}: {:#?}", describe(&world));
        world.run_for(SECOND * 30);
        for at in world.hosts().filter(|at| *at != victim && at % 3 != victim % 3) {
            let told: Vec<_> =
                world.view(at).events.iter().filter(|event| event.kind == "host-down").cloned().collect();
            assert_eq!(told.len(), 1, "seed {seed}, at h{}: {told:?}", at + 1);
            assert!(told[0].accusers.iter().all(|name| name.starts_with('h')) && !told[0].accusers.is_empty());
            let zone = shown(&world, at, &zone_name(victim, 3));
            assert_eq!((zone.hosts, zone.alive, zone.down), (5, 4, 1), "seed {seed}");
        }
    }
}

#[test]
fn all_delegates_of_a_zone_die_at_once_and_the_rest_speaks_for_it() {
    for seed in SEEDS {
        let mut world = converged(seed, 3, 9);
        let dead = delegates(&world, 0);
        dead.iter().for_each(|host| world.power_off(*host));
        let took = world.run_until(SECOND * 40, |world| {
            world.hosts().filter(|at| at % 3 != 0).all(|at| {
                let zone = shown(world, at, "z1");
                zone.down == 3
                    && zone.delegates.len() == 3
                    && zone
                        .delegates
                        .iter()
                        .all(|delegate| dead.iter().all(|dead| delegate.name != format!("h{}", dead + 1)))
            })
        });
        assert!(took.is_some_and(|took| took <= TAKEOVER), "seed {seed}: {took:?} {:#?}", describe(&world));
        // News of the zone still goes out.
        let victim = of_zone(&world, 0, 3).into_iter().find(|host| world.runs(*host)).unwrap();
        world.cut(victim, Uplink::B);
        let took = world.run_until(SECOND * 12, |world| knows(world, "uplink-changed", victim));
        assert!(took.is_some(), "seed {seed}: {:#?}", describe(&world));
    }
}

#[test]
fn a_delegate_that_leaves_hands_over() {
    for seed in SEEDS {
        let mut world = converged(seed, 3, 5);
        let leaver = delegates(&world, 0)[seed as usize % 3];
        world.leave(leaver);
        let gone = format!("h{}", leaver + 1);
        let took = world.run_until(SECOND * 10, |world| {
            world.hosts().filter(|at| at % 3 != 0).all(|at| {
                let zone = shown(world, at, "z1");
                zone.hosts == 4 && zone.delegates.len() == 3 && zone.delegates.iter().all(|d| d.name != gone)
            })
        });
        assert!(took.is_some_and(|took| took <= SECOND * 4), "seed {seed}: {took:?} {:#?}", describe(&world));
    }
}

#[test]
fn a_zone_that_is_cut_off_for_ten_minutes_is_unreachable_and_heals() {
    for seed in 0..2 {
        let mut world = converged(seed, 3, 5);
        let inside = of_zone(&world, 2, 3);
        let outside: Vec<_> = world.hosts().filter(|host| !inside.contains(host)).collect();
        for one in &inside {
            outside.iter().for_each(|other| world.cut_pair(*one, *other));
        }
        world.run_for(SECOND * 300);
        // What happens meanwhile is told afterwards.
        world.cut(inside[1], Uplink::A);
        world.run_for(SECOND * 300);
        for at in &outside {
            assert_eq!(shown(&world, *at, "z3").state(), ZoneState::Unreachable, "seed {seed}");
            assert_eq!(shown(&world, *at, "z3").alive, 5, "seed {seed}: nobody outside calls its hosts down");
            assert!(shown(&world, *at, "z3").age_ms >= 590_000, "seed {seed}");
        }
        for at in &inside {
            let view = world.view(*at);
            assert!(view.hosts.iter().all(|host| host.state() == State::Alive), "seed {seed}");
            assert_eq!(view.zones.iter().filter(|zone| zone.state() == ZoneState::Unreachable).count(), 2);
        }
        assert!(!events_at(&world, outside[0]).contains("host-down"), "seed {seed}");
        inside.iter().for_each(|host| world.heal(*host));
        let took =
            world.run_until(SECOND * 60, |world| agreed(world, 3, 5) && knows(world, "uplink-changed", inside[1]));
        assert!(took.is_some_and(|took| took <= SECOND * 25), "seed {seed}: {took:?} {:#?}", describe(&world));
        assert!(events_at(&world, outside[0]).contains("zone-found"), "seed {seed}");
    }
}

fn events_at(world: &World, at: HostIndex) -> BTreeSet<String> {
    world.view(at).events.iter().map(|event| event.kind.clone()).collect()
}

#[test]
fn a_stopped_delegate_costs_nothing() {
    for seed in SEEDS {
        let mut world = converged(seed, 3, 5);
        let stopped = delegates(&world, 0)[seed as usize % 3];
        world.pause(stopped, SECOND * 4);
        world.run_for(SECOND);
        let victim = of_zone(&world, 0, 3).into_iter().find(|host| *host != stopped).unwrap();
        world.cut(victim, Uplink::A);
        let told = world.run_until(SECOND * 10, |world| events(world, victim, "uplink-changed", victim) > 0);
        assert!(told.is_some(), "seed {seed}");
        let took = world.run_until(SECOND * 2, |world| {
            world.hosts().filter(|at| *at != stopped).all(|at| events(world, at, "uplink-changed", victim) > 0)
        });
        assert!(took.is_some(), "seed {seed}: {:#?}", describe(&world));
        world.run_for(SECOND * 20);
        assert!(agreed(&world, 3, 5), "seed {seed}: {:#?}", describe(&world));
    }
}

#[test]
fn a_host_joins_through_another_zone_and_one_founds_a_zone() {
    for seed in SEEDS {
        let mut world = converged(seed, 2, 4);
        // As the answer to a join says it: the delegates of all zones.
        let known: Vec<HostIndex> = delegates(&world, 0).into_iter().chain(delegates(&world, 1)).collect();
        world.add_host_in("z2", &known, Vec::new());
        world.add_host_in("new", &known, Vec::new());
        let took = world.run_until(SECOND * 20, |world| {
            world.hosts().all(|at| {
                shown(world, at, "z2").alive == 5
                    && world.view(at).zones.iter().any(|zone| zone.name == "new" && zone.alive == 1)
            })
        });
        assert!(took.is_some(), "seed {seed}: {:#?}", describe(&world));
        assert_eq!(world.view(8).hosts.len(), 5);
        assert_eq!(world.view(9).hosts.len(), 1);
    }
}

#[test]
fn two_hosts_that_found_a_zone_at_once_find_each_other() {
    for seed in SEEDS {
        let mut world = converged(seed, 2, 4);
        let known: Vec<HostIndex> = delegates(&world, 0).into_iter().chain(delegates(&world, 1)).collect();
        for _ in 0..3 {
            world.add_host_in("new", &known, Vec::new());
        }
        let took = world.run_until(SECOND * 30, |world| {
            world.hosts().all(|at| world.view(at).zones.iter().any(|zone| zone.name == "new" && zone.alive == 3))
        });
        assert!(took.is_some_and(|took| took <= SECOND * 15), "seed {seed}: {took:?} {:#?}", describe(&world));
    }
}

#[test]
fn a_cluster_that_restarts_at_once_finds_its_zones_again() {
    for seed in SEEDS {
        let mut world = converged(seed, 3, 5);
        world.hosts().for_each(|host| world.kill(host));
        world.run_for(SECOND);
        world.hosts().for_each(|host| world.start(host));
        let took = world.run_until(SECOND * 40, |world| agreed(world, 3, 5));
        assert!(took.is_some_and(|took| took <= SECOND * 20), "seed {seed}: {took:?} {:#?}", describe(&world));
    }
}

#[test]
fn zones_keep_together_over_a_lossy_network() {
    for seed in SEEDS {
        let mut world = converged(seed, 3, 5);
        world.lose(5);
        world.run_for(SECOND * 120);
        let lost = world.hosts().find(|at| events_at(&world, *at).contains("zone-lost"));
        assert_eq!(lost, None, "seed {seed}: {:#?}", describe(&world));
    }
}

#[test]
fn many_zones_make_no_host_hear_more() {
    let per_host = |zones: usize, hosts: usize| {
        let mut world = converged(1, zones, hosts);
        world.run_for(SECOND * 10);
        let arrived = |world: &World| world.tally().datagrams_in + world.tally().frames_in;
        let before = arrived(&world);
        // As long as a record takes to be written anew.
        world.run_for(SECOND * 30);
        (arrived(&world) - before) as f64 / 30.0 / (zones * hosts) as f64
    };
    let (one, six) = (per_host(1, 60), per_host(6, 60));
    println!("messages per host and second: 1 zone {one:.1}, 6 zones {six:.1}");
    assert!(six < one * 1.25, "one zone of 60: {one:.1} messages per host and second, six: {six:.1}");
}
