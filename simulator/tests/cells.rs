//! Containers that watch each other, on one host and over hosts, in virtual time and over several seeds.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{sync::Arc, time::Duration};

use ringmesh_node::{
    health::spec::{Check, ContainerSpec, ContainerState, ServiceSpec, Verbs},
    remedy::Settings,
};
use ringmesh_proto::{Uplink, v1};
use ringmesh_simulator::{World, world::Cure};
use v1::cell_member::State;

const SEEDS: std::ops::Range<u64> = 0..5;
const SECOND: Duration = Duration::from_secs(1);
const HOSTS: usize = 5;

/// Four containers of the same service, probed every two seconds.
fn containers(host: usize) -> Vec<ContainerSpec> {
    many_containers(host, 4)
}

fn many_containers(host: usize, count: usize) -> Vec<ContainerSpec> {
    let service = ServiceSpec {
        interval: SECOND * 2,
        ..ServiceSpec::new("web", Check::Tcp { address: ([127, 0, 0, 1], 80).into() })
    };
    let container = |number: usize| ContainerSpec {
        name: format!("h{}-c{number}", host + 1),
        driver: "oci".into(),
        tenant: "acme".into(),
        services: vec![service.clone()],
        ..ContainerSpec::default()
    };
    (1..=count).map(container).collect()
}

fn converged(seed: u64) -> World {
    let mut world = World::new(seed);
    for host in 0..HOSTS {
        world.add_host(containers(host));
    }
    let took = world.run_until(SECOND * 60, |world| world.hosts().all(|host| hosted(world, host) == [4, 0, 0, 0]));
    assert!(took.is_some(), "seed {seed}: {:?}", cells(&world, 0));
    let all = |world: &World| world.hosts().all(|host| service(world, host) == [15, 0, 0, 0]);
    assert!(world.run_until(SECOND * 120, all).is_some(), "seed {seed}: {:#?}", cells(&world, 0));
    world
}

fn cells(world: &World, host: usize) -> &[v1::Cell] {
    &world.view(host).cells
}

fn counts(cell: Option<&v1::Cell>) -> [u32; 4] {
    cell.map_or([0; 4], |cell| [cell.alive, cell.suspect, cell.down, cell.frozen])
}

/// Alive, suspect, down and frozen members of the one hosted cell.
fn hosted(world: &World, host: usize) -> [u32; 4] {
    counts(cells(world, host).iter().find(|cell| cell.service.is_empty()))
}

/// The same of the one cell of a service, as this host sees it.
fn service(world: &World, host: usize) -> [u32; 4] {
    counts(cells(world, host).iter().find(|cell| cell.service == "acme/web"))
}

fn member(world: &World, host: usize, container: &str) -> Option<State> {
    let containers = &world.view(host).containers;
    containers.iter().find(|shown| shown.spec.name == container)?.member.as_ref().map(|member| member.state())
}

/// All events of these kinds that a host knows of: kind, container, accusers.
fn told(world: &World, host: usize) -> Vec<(String, String, Vec<String>)> {
    let of_cells =
        |event: &&Arc<v1::Event>| ["container-silent", "container-heard", "service-unheard"].contains(&&*event.kind);
    let events = world.view(host).events.iter().filter(of_cells);
    events.map(|event| (event.kind.clone(), event.container.clone(), event.accusers.clone())).collect()
}

#[test]
fn containers_that_are_well_are_told_as_nothing_else_whatever_happens_to_their_hosts() {
    for seed in SEEDS {
        let mut world = converged(seed);
        world.pause(1, SECOND * 3);
        world.run_for(SECOND * 30);
        world.kill(2);
        world.run_for(SECOND * 60);
        world.start(2);
        world.run_for(SECOND * 60);
        world.cut(3, Uplink::A);
        world.run_for(SECOND * 60);
        world.cut(3, Uplink::B);
        world.run_for(SECOND * 60);
        world.heal(3);
        let well = |world: &World| {
            world.hosts().all(|host| hosted(world, host) == [4, 0, 0, 0] && service(world, host) == [15, 0, 0, 0])
        };
        assert!(world.run_until(SECOND * 240, well).is_some(), "seed {seed}: {:#?}", cells(&world, 0));
        for host in world.hosts() {
            assert_eq!(told(&world, host), [], "seed {seed}");
        }
    }
}

#[test]
fn a_container_that_hangs_is_told_by_its_cell_and_its_peers_on_other_hosts_once_each() {
    for seed in SEEDS {
        let mut world = converged(seed);
        world.mute_container(1, "h2-c1", true);
        world.run_for(SECOND * 180);
        for host in world.hosts() {
            let told = told(&world, host);
            let kinds: Vec<&str> = told.iter().map(|(kind, ..)| kind.as_str()).collect();
            assert_eq!(kinds, ["container-silent", "service-unheard"], "seed {seed}: {told:?}");
            assert!(told.iter().all(|(_, container, _)| container == "h2-c1"), "seed {seed}: {told:?}");
            let accusers = &told[1].2;
            assert!(!accusers.is_empty() && !accusers.contains(&"h2".to_owned()), "seed {seed}: {told:?}");
        }
        assert_eq!(member(&world, 1, "h2-c1"), Some(State::Down));
        // Its fourth container stands for the service now.
        assert!(world.hosts().all(|host| service(&world, host)[0] == 15), "seed {seed}: {:#?}", cells(&world, 0));
        world.mute_container(1, "h2-c1", false);
        world.run_for(SECOND * 60);
        assert_eq!(member(&world, 1, "h2-c1"), Some(State::Alive));
        let told = told(&world, 0);
        assert_eq!(told[2..], [("container-heard".into(), "h2-c1".into(), vec![])], "seed {seed}");
    }
}

#[test]
fn containers_of_whole_cells_that_hang_together_are_told_to_all_hosts_within_four_periods() {
    const HUNG: usize = 320;
    for seed in SEEDS {
        let mut world = World::new(seed);
        world.add_host(many_containers(0, 400));
        for _ in 1..3 {
            world.add_host(Vec::new());
        }
        let alive = |world: &World| cells(world, 0).iter().map(|cell| cell.alive).sum::<u32>() == 400;
        assert!(world.run_until(SECOND * 60, alive).is_some(), "seed {seed}: {:?}", cells(&world, 0));
        (1..=HUNG).for_each(|number| world.mute_container(0, &format!("h1-c{number}"), true));
        // One by one, or as a number when there are too many.
        let silent = |world: &World, host| {
            let one_by_one = told(world, host).iter().filter(|(kind, ..)| kind == "container-silent").count();
            let summaries = world.view(host).events.iter().filter(|event| event.kind == "changes-summed-up");
            let number = |event: &Arc<v1::Event>| {
                let parts = event.text.split([',', ':', ';']).map(str::trim);
                parts.filter_map(|part| part.strip_suffix(" containers silent")?.parse::<usize>().ok()).sum::<usize>()
            };
            one_by_one + summaries.map(number).sum::<usize>()
        };
        let all = |world: &World| world.hosts().all(|host| silent(world, host) == HUNG);
        let took = world.run_until(SECOND * 20, all);
        assert!(took.is_some(), "seed {seed}: {} of {HUNG} after 20 s", silent(&world, 2));
    }
}

#[test]
fn a_clone_takes_the_place_of_its_container_in_all_cells() {
    for seed in SEEDS {
        let mut world = World::new(seed);
        let mut settings = Settings::default();
        settings.default.steps.iter_mut().for_each(|step| (step.attempts, step.timeout) = (1, SECOND * 5));
        world.use_repair(settings);
        for host in 0..HOSTS {
            let verbs = Verbs { restart: true, clone: true, pause: true, mount: true };
            world.add_host(containers(host).into_iter().map(|spec| ContainerSpec { verbs, ..spec }).collect());
        }
        let well = |world: &World| {
            world.hosts().all(|host| hosted(world, host) == [4, 0, 0, 0] && service(world, host) == [15, 0, 0, 0])
        };
        assert!(world.run_until(SECOND * 120, well).is_some(), "seed {seed}: {:#?}", cells(&world, 0));
        world.fall_ill(1, "h2-c1", Cure::Clone);
        let cloned = |world: &World| member(world, 1, "h2-c1.1") == Some(State::Alive);
        assert!(world.run_until(SECOND * 120, cloned).is_some(), "seed {seed}: {:?}", world.containers(1));
        world.run_for(SECOND * 120);
        assert!(well(&world), "seed {seed}: {:#?}", cells(&world, 1));
        assert_eq!(told(&world, 0), [], "seed {seed}: it was ill, never silent");
        let members = &cells(&world, 1).iter().find(|cell| cell.service == "acme/web").unwrap().members;
        assert!(members.iter().all(|member| member.container != "h2-c1"), "seed {seed}: {members:#?}");
    }
}

#[test]
fn a_container_that_ends_is_told_by_its_runtime_and_by_its_peers() {
    for seed in SEEDS {
        let mut world = converged(seed);
        world.set_container(4, "h5-c2", ContainerState::Stopped);
        world.run_for(SECOND * 180);
        let told = told(&world, 0);
        assert!(
            matches!(told.as_slice(), [(kind, container, accusers)] if kind == "service-unheard" && container == "h5-c2" && !accusers.is_empty()),
            "seed {seed}: {told:?}"
        );
        assert_eq!(member(&world, 4, "h5-c2"), None);
        assert_eq!(hosted(&world, 4), [3, 0, 0, 0]);
        world.set_container(4, "h5-c2", ContainerState::Running);
        world.run_for(SECOND * 60);
        assert_eq!(hosted(&world, 4), [4, 0, 0, 0]);
    }
}

#[test]
fn a_container_that_is_paused_is_frozen_and_nobody_is_told() {
    for seed in SEEDS {
        let mut world = converged(seed);
        world.set_container(0, "h1-c1", ContainerState::Paused);
        world.mute_container(0, "h1-c1", true);
        world.run_for(SECOND * 180);
        assert_eq!(hosted(&world, 0), [3, 0, 0, 1]);
        world.mute_container(0, "h1-c1", false);
        world.set_container(0, "h1-c1", ContainerState::Running);
        let well = |world: &World| {
            world.hosts().all(|host| hosted(world, host) == [4, 0, 0, 0] && service(world, host) == [15, 0, 0, 0])
        };
        assert!(world.run_until(SECOND * 120, well).is_some(), "seed {seed}: {:#?}", cells(&world, 0));
        assert_eq!(told(&world, 2), [], "seed {seed}");
    }
}

/// Beside what hosts say to each other anyway.
#[test]
fn cells_of_services_cost_little() {
    let sent = |services: bool| {
        let mut world = World::new(1);
        for host in 0..HOSTS {
            let mut containers = containers(host);
            // Each host has services of its own, so that nobody else has them.
            if !services {
                containers.iter_mut().for_each(|container| container.tenant = format!("t{host}"));
            }
            world.add_host(containers);
        }
        world.run_for(SECOND * 120);
        let before = world.sent(0);
        world.run_for(SECOND * 600);
        let after = world.sent(0);
        [after.bytes - before.bytes, after.datagrams - before.datagrams].map(|count| count as f64 / 600.0)
    };
    let ([with, datagrams], [without, fewer]) = (sent(true), sent(false));
    println!("{:.0} bytes and {:.2} datagrams a second more", with - without, datagrams - fewer);
    assert!(with - without < 150.0, "{with:.0} bytes a second, {without:.0} without");
    assert!(datagrams - fewer < 1.5, "{datagrams:.2} datagrams a second, {fewer:.2} without");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let hash = |seed| {
        let mut world = converged(seed);
        world.mute_container(1, "h2-c1", true);
        world.run_for(SECOND * 60);
        world.trace_hash()
    };
    assert_eq!(hash(7), hash(7));
}
