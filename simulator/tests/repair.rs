//! Repair on simulated hosts: nothing is done on a host that is cut off, budgets hold, and whatever crashes when, each
//! container is there once and well in the end.

use std::{sync::Arc, time::Duration};

use ringmesh_node::{
    ContainerRow,
    health::spec::{Check, ContainerSpec, ServiceSpec, Verbs},
    remedy::{Limits, Policy, Settings, base},
};
use ringmesh_proto::{
    Uplink,
    peer::{ArmingRecord, OrderRequest, order_request::Order},
    v1::{self, OrderContainerRequest, arming, operation::Kind},
};
use ringmesh_simulator::{
    World,
    world::{Cure, RESTART},
};

const SECOND: Duration = Duration::from_secs(1);
const HOSTS: usize = 5;
const CONTAINERS: usize = 8;

fn container(host: usize, nth: usize) -> ContainerSpec {
    ContainerSpec {
        name: format!("h{}-c{nth}", host + 1),
        driver: "oci".into(),
        tenant: String::new(),
        labels: Arc::default(),
        verbs: Verbs { restart: true, clone: true, pause: true, mount: true },
        address: String::new(),
        score: None,
        member: false,
        services: vec![ServiceSpec {
            interval: SECOND,
            timeout: SECOND / 2,
            threshold_down: 2,
            restart: vec![RESTART.into()],
            ..ServiceSpec::new("web", Check::Tcp { address: ([127, 0, 0, 1], 80).into() })
        }],
    }
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    for step in &mut settings.default.steps {
        (step.attempts, step.timeout) = (1, SECOND * 5);
    }
    settings
}

fn cluster(seed: u64, settings: Settings) -> World {
    let mut world = World::new(seed);
    world.use_repair(settings);
    for host in 0..HOSTS {
        world.add_host((1..=CONTAINERS).map(|nth| container(host, nth)).collect());
    }
    let well = world.run_until(SECOND * 30, |world| world.hosts().all(|host| is_well(world, host)));
    assert!(well.is_some(), "seed {seed}: the cluster is well at first");
    world
}

/// All containers of a host run and pass, as its agent sees it.
fn is_well(world: &World, host: usize) -> bool {
    let containers = &world.view(host).containers;
    let passes = |container: &&Arc<ContainerRow>| container.verdict == v1::verdict::Value::Passing;
    containers.len() == CONTAINERS && containers.iter().filter(passes).count() == CONTAINERS
}

fn told(world: &World, host: usize, kind: &str) -> usize {
    let name = format!("h{}", host + 1);
    world.view(host).events.iter().filter(|event| event.kind == kind && event.host == name).count()
}

/// What must hold at any time.
fn check(world: &World, at_once: usize) {
    for host in world.hosts() {
        let isolated = world.acted(host).iter().find(|acted| acted.isolated);
        assert!(isolated.is_none(), "h{} acted while it was cut off: {isolated:?}", host + 1);
        let mut names: Vec<&str> = world.containers(host).into_iter().map(base).collect();
        names.dedup();
        assert_eq!(names.len(), world.containers(host).len(), "two of one: {:?}", world.containers(host));
        let running = world.view(host).operations.iter().filter(|o| o.state() == v1::operation::State::Running).count();
        assert!(running <= at_once, "h{}: {running} at once", host + 1);
    }
}

#[test]
fn each_illness_is_cured_by_its_rung() {
    let mut world = cluster(1, settings());
    let cures = [(Cure::Command, 0), (Cure::Restart, 1), (Cure::Clone, 2)];
    for (host, (cure, _)) in cures.iter().enumerate() {
        world.fall_ill(host, &format!("h{}-c1", host + 1), *cure);
    }
    world.end_container(3, "h4-c1");
    let took = world.run_until(SECOND * 60, |world| {
        check(world, Limits::default().at_once);
        (0..3).all(|host| told(world, host, "operation-done") == 1) && world.hosts().all(|host| is_well(world, host))
    });
    assert!(took.is_some());
    for (host, (_, acts)) in cures.iter().enumerate() {
        assert_eq!(world.acted(host).len(), *acts, "h{}: {:?}", host + 1, world.acted(host));
    }
    assert_eq!(world.acted(3).len(), 1);
    assert!(world.containers(2).contains(&"h3-c1.1"));

    world.fall_ill(4, "h5-c2", Cure::Nothing);
    let frozen = world
        .run_until(SECOND * 120, |world| world.view(0).hosts.len() == HOSTS && told(world, 4, "operation-done") == 1);
    assert!(frozen.is_some());
    let held: Vec<&str> = world
        .view(4)
        .containers
        .iter()
        .filter(|container| container.marks.hold.is_some())
        .map(|c| c.spec.name.as_str())
        .collect();
    assert_eq!(held, ["h5-c2.1"]);
}

#[test]
fn a_host_that_is_cut_off_repairs_nothing_until_it_is_back() {
    let mut world = cluster(2, settings());
    for uplink in Uplink::BOTH {
        world.cut(2, uplink);
    }
    let isolated = world.run_until(SECOND * 30, |world| world.node(2).is_some_and(|node| node.is_isolated()));
    assert!(isolated.is_some());
    world.fall_ill(2, "h3-c1", Cure::Restart);
    world.run_for(SECOND * 60);
    assert!(world.acted(2).is_empty(), "{:?}", world.acted(2));
    world.heal(2);
    let well = world.run_until(SECOND * 60, |world| {
        check(world, Limits::default().at_once);
        !world.acted(2).is_empty() && is_well(world, 2)
    });
    assert!(well.is_some());
}

#[test]
fn when_most_of_a_host_fails_repair_stops_there_and_elsewhere_goes_on() {
    let mut world = cluster(3, settings());
    for nth in 1..=6 {
        world.fall_ill(0, &format!("h1-c{nth}"), Cure::Nothing);
    }
    world.fall_ill(1, "h2-c1", Cure::Restart);
    let other = world.run_until(SECOND * 60, |world| {
        check(world, Limits::default().at_once);
        told(world, 0, "repair-stopped") == 1 && !world.acted(1).is_empty() && is_well(world, 1)
    });
    assert!(other.is_some());
    let before = world.acted(0).len();
    world.run_for(SECOND * 120);
    assert_eq!(told(&world, 0, "repair-stopped"), 1);
    assert!(world.acted(0).len() <= before + Limits::default().at_once, "what had begun may end: {:?}", world.acted(0));
}

#[test]
fn a_zone_in_which_most_fails_is_not_repaired_by_anybody() {
    let limits = Limits { host_sick_percent: 100, ..Limits::default() };
    let mut world = cluster(4, Settings { limits, ..settings() });
    for host in 0..HOSTS {
        (1..=5).for_each(|nth| world.fall_ill(host, &format!("h{}-c{nth}", host + 1), Cure::Nothing));
    }
    let stopped = world.run_until(SECOND * 60, |world| {
        check(world, limits.at_once);
        world.hosts().all(|host| told(world, host, "repair-stopped") >= 1)
    });
    assert!(stopped.is_some());
}

/// Agents that end at any moment of any rung.
#[test]
fn whatever_crashes_when_each_container_is_there_once_and_well_in_the_end() {
    for seed in 0..20 {
        let mut world = cluster(100 + seed, settings());
        let cures = [Cure::Command, Cure::Restart, Cure::Clone];
        for (nth, cure) in cures.into_iter().enumerate() {
            world.fall_ill(0, &format!("h1-c{}", nth + 1), cure);
        }
        for crash in 0..6_u64 {
            // From the first verdicts on, at times that differ with the seed.
            world.run_for(Duration::from_millis(1500 + (seed * 37 + crash * 613) % 1800));
            check(&world, Limits::default().at_once);
            world.kill(0);
            world.run_for(Duration::from_millis(40 * crash));
            world.start(0);
        }
        let well = world.run_until(SECOND * 180, |world| {
            check(world, Limits::default().at_once);
            is_well(world, 0) && world.view(0).operations.iter().all(|o| ringmesh_node::remedy::has_ended(o.state()))
        });
        assert!(well.is_some(), "seed {seed}: {:#?} {:?}", world.view(0).operations, world.containers(0));
        assert_eq!(world.containers(0).len(), CONTAINERS, "seed {seed}: {:?}", world.containers(0));
    }
}

#[test]
fn a_disarming_reaches_all_also_those_who_were_down() {
    let mut world = cluster(5, settings());
    world.kill(4);
    world.run_for(SECOND * 10);
    let mode = arming::Mode::Ignore as u32;
    let arming = ArmingRecord { version: 1, host: 1, mode, reason: "work".into(), ..ArmingRecord::default() };
    let order = OrderRequest { order: Some(Order::Arming(arming)), who: "me".into(), nonce: 1 };
    world.order(0, order).expect("it is newer");
    let knows = |world: &World, host: usize| world.view(host).arming.mode() == arming::Mode::Ignore;
    let all = world.run_until(SECOND * 5, |world| (0..4).all(|host| knows(world, host)));
    assert!(all.is_some());
    world.start(4);
    assert!(world.run_until(SECOND * 30, |world| knows(world, 4)).is_some());
    world.fall_ill(4, "h5-c1", Cure::Restart);
    world.run_for(SECOND * 60);
    assert!(world.acted(4).is_empty() && world.view(4).operations.is_empty());
    // And it is remembered.
    world.kill(0);
    world.start(0);
    assert!(world.run_until(SECOND * 5, |world| knows(world, 0)).is_some());
}

#[test]
fn a_frozen_container_stays_so_whatever_becomes_of_its_agent() {
    let policy = Policy::default();
    let mut world = cluster(6, Settings { default: policy, ..settings() });
    let order = OrderContainerRequest { kind: Kind::Freeze as i32, container: "h1-c1".into(), ..Default::default() };
    let order = OrderRequest { order: Some(Order::Container(order)), who: "me".into(), nonce: 2 };
    world.order(0, order).expect("it can be frozen");
    let frozen =
        |world: &World| world.view(0).containers.iter().any(|c| c.spec.name == "h1-c1" && c.marks.hold.is_some());
    assert!(world.run_until(SECOND, frozen).is_some());
    world.run_for(SECOND);
    for _ in 0..3 {
        world.kill(0);
        world.run_for(SECOND);
        world.start(0);
        world.run_for(SECOND * 20);
        assert!(frozen(&world));
        assert_eq!(world.view(0).containers.iter().filter(|c| c.state() == v1::container::State::Paused).count(), 1);
        assert_eq!(world.acted(0).len(), 1, "nothing was done to it: {:?}", world.acted(0));
    }
}
