//! What hosts tell of very many services, and what they remember of them, in virtual time.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{sync::Arc, time::Duration};

use ringmesh_node::health::spec::{Check, ContainerSpec, ServiceSpec};
use ringmesh_proto::{Now, UnixMillis, v1};
use ringmesh_simulator::World;
use v1::{history::behaviour::Kind, verdict::Value};

const SECOND: Duration = Duration::from_secs(1);

fn container(number: usize) -> ContainerSpec {
    let service = ServiceSpec {
        interval: SECOND,
        timeout: SECOND / 2,
        threshold_down: 2,
        ..ServiceSpec::new("web", Check::Tcp { address: ([127, 0, 0, 1], 80).into() })
    };
    ContainerSpec { name: format!("c{number}"), driver: "oci".into(), services: vec![service], ..Default::default() }
}

fn critical(world: &World, host: usize) -> usize {
    world.view(host).services.iter().filter(|service| service.told.verdict == Value::Critical).count()
}

fn events<'a>(world: &'a World, at: usize, kind: &'a str) -> impl Iterator<Item = &'a Arc<v1::Event>> {
    world.view(at).events.iter().filter(move |event| event.kind == kind)
}

#[test]
fn services_that_all_fail_at_once_are_told_in_few_events_and_none_is_lost() {
    const SERVICES: usize = 1000;
    for seed in 0..3 {
        let mut world = World::new(seed);
        world.add_host((0..SERVICES).map(container).collect());
        world.add_host(Vec::new());
        world.run_for(SECOND * 10);
        assert_eq!(critical(&world, 0), 0);
        world.sicken(0, true);
        let all = world.run_until(SECOND * 20, |world| critical(world, 0) == SERVICES);
        assert!(all.is_some(), "seed {seed}: all are critical");
        world.run_for(SECOND * 5);
        // At the other host.
        let told = events(&world, 1, "service-verdict").count();
        assert!((50..100).contains(&told), "seed {seed}: {told}");
        let numbers = events(&world, 1, "changes-summed-up").map(|event| {
            let (_, rest) = event.text.split_once(": ").unwrap();
            assert!(
                event.text.ends_with("services critical; `ringmesh service list --on h1` has them"),
                "{}",
                event.text
            );
            rest.split(' ').next().unwrap().parse::<usize>().unwrap()
        });
        assert_eq!(told + numbers.sum::<usize>(), SERVICES, "seed {seed}");
    }
}

#[test]
fn what_a_host_remembers_survives_its_agent() {
    let mut world = World::new(1);
    let host = world.add_host(vec![container(1)]);
    world.run_for(SECOND * 10);
    world.sicken(host, true);
    world.run_for(SECOND * 10);
    // Killed: of outcomes some minutes are lost, of changes two seconds.
    world.kill(host);
    world.start(host);
    let remembered = || {
        let now = Now { unix: UnixMillis(u64::MAX), ..Now::default() };
        world.node(host).unwrap().histories(now, "c1", "web").remove(0)
    };
    let changes: Vec<(Kind, Value)> = remembered().changes.iter().map(|change| (change.kind(), change.to())).collect();
    assert_eq!(changes, [(Kind::Verdict, Value::Passing), (Kind::Verdict, Value::Critical)]);
    assert!(remembered().outcomes.len() > 5);
    world.run_for(SECOND * 10);
    let history = world.node(host).unwrap().histories(Now::default(), "c1", "web").remove(0);
    assert_eq!(history.changes.len(), 2, "it is as critical as before: no change");
}

#[test]
fn a_full_disk_ends_nothing_and_histories_are_written_when_there_is_room() {
    let mut world = World::new(2);
    let host = world.add_host(vec![container(1)]);
    world.fill_disk(host, true);
    world.run_for(SECOND * 30);
    world.fill_disk(host, false);
    world.run_for(SECOND * 90);
    world.kill(host);
    world.start(host);
    let history = world.node(host).unwrap().histories(Now::default(), "c1", "web").remove(0);
    assert_eq!(history.changes.len(), 1, "that it began to pass");
}
