//! Coordinates, chords and paths of a whole cluster, in virtual time.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{collections::BTreeSet, time::Duration};

use ringmesh_proto::{HostId, v1};
use ringmesh_simulator::World;
use ringmesh_topology::{ChordKind, Chords};
use v1::{host::State, link::State as LinkState};

const SECOND: Duration = Duration::from_secs(1);

fn all_alive(world: &World) -> bool {
    world.hosts().all(|host| {
        let view = world.view(host);
        view.hosts.len() == world.hosts().len()
            && view.hosts.iter().all(|host| host.state() == State::Alive)
            && view.rings.iter().all(|ring| ring.hosts.len() == world.hosts().len())
    })
}

/// (from, to, uplink, role) of all links that a host knows of and that are up.
fn links(world: &World, at: usize) -> BTreeSet<(String, String, String, String)> {
    let links = world.view(at).links.list().into_iter().filter(|link| link.state() == LinkState::Up);
    links.map(|link| (link.from, link.to, link.uplink, link.role)).collect()
}

/// Whether each link is there from both ends, at every host.
fn links_have_two_ends(world: &World) -> bool {
    world.hosts().all(|at| {
        let links = links(world, at);
        links
            .iter()
            .all(|(from, to, uplink, role)| links.contains(&(to.clone(), from.clone(), uplink.clone(), role.clone())))
    })
}

fn told(world: &World, at: usize, kind: &str) -> usize {
    world.view(at).events.iter().filter(|event| event.kind == kind).count()
}

/// Places on a plane, in milliseconds, one way; and up to 1.4 ms of jitter on top in each direction.
fn place(host: usize) -> (f64, f64) {
    ((host * 7 % 16) as f64, (host * 5 % 11) as f64)
}

#[test]
fn any_host_estimates_the_round_trip_of_any_two() {
    let mut world = World::new(3);
    for host in 0..16usize {
        world.add_host(Vec::new());
        for other in 0..host {
            let (one, two) = (place(host), place(other));
            world.delay(host, other, Duration::from_secs_f64((one.0 - two.0).hypot(one.1 - two.1) / 1000.0));
        }
    }
    assert!(world.run_until(SECOND * 60, all_alive).is_some(), "{:#?}", world.view(0).hosts);
    world.run_for(SECOND * 300);
    let view = world.view(5);
    let mut errors = Vec::new();
    for one in view.hosts.iter() {
        for other in view.hosts.iter().filter(|other| other.name < one.name) {
            let index = |host: &v1::Host| usize::from_str_radix(&host.id, 16).unwrap() - 1;
            let (at, to) = (place(index(one)), place(index(other)));
            // Twice the way, and twice the mean of what the network adds.
            let rtt_us = (at.0 - to.0).hypot(at.1 - to.1) * 2000.0 + 1600.0;
            let estimate = view.round_trip(one, other).expect("both have a coordinate");
            errors.push((f64::from(estimate.estimate_us) - rtt_us).abs() / rtt_us);
            if one.local {
                // Our own coordinate moves on, and the snapshot holds all of one moment.
                assert_eq!(estimate.estimate_us, other.rtt_estimate_us);
            }
        }
    }
    errors.sort_by(f64::total_cmp);
    let (half, most) = (errors[errors.len() / 2], errors[errors.len() * 9 / 10]);
    println!("median {half:.3}, 90 % {most:.3}");
    assert!(half < 0.15 && most < 0.5, "median {half:.3}, 90 % within {most:.3}");
    let local = view.hosts.iter().find(|host| host.local).unwrap();
    assert_eq!((local.rtt_estimate_us, view.round_trip(local, local).unwrap().estimate_us), (0, 0));
}

#[test]
fn chords_of_every_kind_come_up_from_both_ends_and_shorten_paths() {
    let kinds = ChordKind::ALL.map(|kind| Chords::of(kind, 2).unwrap());
    for chords in kinds.into_iter().chain([Chords::Auto, Chords::None]) {
        let mut world = World::new(9);
        world.use_chords(chords);
        for host in 0..16 {
            world.use_rack(&format!("r{}", host % 2));
            world.add_host(Vec::new());
        }
        assert!(world.run_until(SECOND * 60, all_alive).is_some(), "{chords}");
        let settled =
            |world: &World| links_have_two_ends(world) && (links(world, 0).len() > 16 * 4) != (chords == Chords::None);
        assert!(world.run_until(SECOND * 90, settled).is_some(), "{chords}: {:#?}", links(&world, 0));
        let of_role = |role: &str| links(&world, 3).into_iter().filter(|link| link.3 == role).collect::<Vec<_>>();
        assert_eq!(of_role("chord").is_empty(), chords == Chords::None, "{chords}");
        if chords.heeds_racks() {
            let rack = |name: &str| name.trim_start_matches('h').parse::<u32>().unwrap() % 2;
            assert!(of_role("chord").iter().all(|link| rack(&link.0) != rack(&link.1)), "{:?}", of_role("chord"));
        }
        let id = |host: u32| HostId::new(host + 1);
        let avoid = BTreeSet::from([id(4)]);
        for to in (0..16u32).filter(|to| *to != 4) {
            let path = world.view(7).path(id(0), id(to), &avoid).expect("the mesh holds without one host");
            assert!(path.len() <= 5 && path.iter().all(|link| link.from != "h5" && link.to != "h5"), "{path:?}");
            assert_eq!(path.last().map(|link| link.to.clone()), (to > 0).then(|| format!("h{}", to + 1)));
        }
        assert!(world.hosts().all(|host| told(&world, host, "chords-differ") == 0), "{chords}");
    }
}

#[test]
fn a_host_with_another_rule_of_chords_is_told_of_once_and_breaks_no_ring() {
    let mut world = World::new(4);
    for _ in 0..9 {
        world.add_host(Vec::new());
    }
    world.use_chords("fingers:3".parse().unwrap());
    let odd = world.add_host(Vec::new());
    assert!(world.run_until(SECOND * 60, all_alive).is_some());
    world.run_for(SECOND * 120);
    assert!(all_alive(&world), "{:#?}", world.view(0).hosts);
    for host in world.hosts() {
        assert_eq!(told(&world, host, "host-down"), 0);
        assert_eq!(told(&world, host, "chords-differ"), if host == odd { 8 } else { 1 }, "h{}", host + 1);
        assert_eq!(world.view(host).rings, world.view(0).rings);
    }
    let event = world.view(0).events.iter().find(|event| event.kind == "chords-differ").cloned().unwrap();
    assert_eq!((event.host.as_str(), event.severity()), ("h10", v1::event::Severity::Warning));
    assert!(event.text.starts_with("h10 goes by chords \"fingers:3\", h1 by \"auto\""), "{}", event.text);
}
