//! The end-to-end cases of a cluster, in virtual time, over several seeds.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{sync::Arc, time::Duration};

use ringmesh_node::health::spec::{Check, ContainerSpec, ServiceSpec, Verbs};
use ringmesh_proto::{Uplink, v1};
use ringmesh_simulator::World;
use v1::{host::State, uplink::State as UplinkState, verdict::Value};

const SEEDS: std::ops::Range<u64> = 0..10;
const SECOND: Duration = Duration::from_secs(1);

fn container(name: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
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
            threshold_down: 2,
            ..ServiceSpec::new("web", Check::Tcp { address: ([127, 0, 0, 1], 80).into() })
        }],
    }
}

fn all_alive(world: &World, hosts: usize) -> bool {
    world.hosts().filter(|host| world.runs(*host)).all(|host| {
        let view = world.view(host);
        view.hosts.len() == hosts
            && view.hosts.iter().all(|host| {
                let uplinks = host.uplinks.unwrap_or_default();
                host.state() == State::Alive && uplinks.a() == UplinkState::Up && uplinks.b() == UplinkState::Up
            })
            && view.rings.iter().all(|ring| ring.hosts.len() == hosts)
    })
}

fn state(world: &World, at: usize, of: &str) -> State {
    world.view(at).hosts.iter().find(|host| host.name == of).map_or(State::Unknown, |host| host.state())
}

/// Whether every running host but `but` says this of `of`.
fn all_say(world: &World, but: usize, of: &str, expected: State) -> bool {
    world.hosts().filter(|host| *host != but && world.runs(*host)).all(|host| state(world, host, of) == expected)
}

/// Whether any host ever told this kind of event of a host.
fn told(world: &World, kind: &str, of: &str) -> bool {
    world.hosts().any(|host| world.view(host).events.iter().any(|event| event.kind == kind && event.host == of))
}

fn texts(world: &World, at: usize) -> Vec<String> {
    let text = |event: &Arc<v1::Event>| {
        let time = event.time.unwrap_or_default();
        format!("{}.{:03} {}", time.seconds % 1000, time.nanos / 1_000_000, event.text)
    };
    world.view(at).events.iter().map(text).collect()
}

fn converged(seed: u64, hosts: usize) -> World {
    let mut world = World::new(seed);
    for host in 0..hosts {
        world.add_host(vec![container(&format!("h{}-c1", host + 1))]);
    }
    let took = world.run_until(SECOND * 30, |world| all_alive(world, hosts));
    assert!(took.is_some(), "seed {seed}: {hosts} hosts did not find each other: {:#?}", world.view(0).hosts);
    world
}

/// SWIM's own messages are too small to tell all of all at once, and the first ordinary sync comes after 10 s.
#[test]
fn a_hundred_hosts_find_each_other_before_the_first_ordinary_sync() {
    let mut world = World::new(1);
    for _ in 0..100 {
        world.add_host(vec![]);
    }
    let took = world.run_until(SECOND * 30, |world| all_alive(world, 100));
    assert!(took.is_some_and(|took| took < SECOND * 5), "{took:?}");
}

#[test]
fn hosts_find_each_other_and_agree_on_the_rings() {
    for seed in SEEDS {
        let world = converged(seed, 9);
        for host in world.hosts() {
            assert_eq!(world.view(host).rings, world.view(0).rings, "seed {seed}");
            let joined = texts(&world, host).iter().filter(|text| text.ends_with("joined")).count();
            let named =
                texts(&world, host).iter().filter(|text| text.contains(" h") && text.ends_with("joined")).count();
            assert_eq!((joined, named), (8, 8), "seed {seed}: each other host joined once, by its name");
        }
    }
}

#[test]
fn a_killed_host_is_down_at_all_others_with_accusers_and_comes_back_in_a_new_generation() {
    for seed in SEEDS {
        let mut world = converged(seed, 5);
        let generation = world.view(0).hosts[2].generation;
        world.kill(2);
        let took = world.run_until(SECOND * 20, |world| all_say(world, 2, "h3", State::Down));
        assert!(took.is_some(), "seed {seed}");
        for host in [0, 1, 3, 4] {
            let event = world.view(host).events.iter().rfind(|event| event.kind == "host-down").unwrap();
            assert_eq!(event.host, "h3");
            assert!(!event.accusers.is_empty(), "seed {seed}: no accusers at h{}", host + 1);
        }
        world.start(2);
        assert!(world.run_until(SECOND * 20, |world| all_alive(world, 5)).is_some(), "seed {seed}");
        assert!(world.view(0).hosts[2].generation > generation);
    }
}

#[test]
fn a_pause_of_three_seconds_takes_nobody_down() {
    for seed in SEEDS {
        let mut world = converged(seed, 5);
        for _ in 0..3 {
            world.pause(1, SECOND * 3);
            world.run_for(SECOND * 20);
        }
        for host in world.hosts() {
            let log = || world.hosts().map(|at| format!("h{}: {:#?}", at + 1, texts(&world, at))).collect::<Vec<_>>();
            assert!(!told(&world, "host-down", &format!("h{}", host + 1)), "seed {seed}: {}", log().join("\n"));
        }
        assert!(all_alive(&world, 5), "seed {seed}");
    }
}

#[test]
fn a_cut_uplink_degrades_and_takes_nobody_down() {
    for seed in SEEDS {
        let mut world = converged(seed, 5);
        // Each in turn: of the ends of a link, the one with the lower id probes.
        let cut = seed as usize % 5;
        world.cut(cut, Uplink::A);
        let seen = |world: &World| {
            world.hosts().all(|host| {
                let uplinks = world.view(host).hosts[cut].uplinks.unwrap_or_default();
                uplinks.a() == UplinkState::Down && uplinks.b() == UplinkState::Up
            })
        };
        let took = world.run_until(SECOND * 20, seen);
        assert!(took.is_some(), "seed {seed}: {:#?}", world.view(cut).hosts);
        world.run_for(SECOND * 60);
        for host in 1..=5 {
            let name = format!("h{host}");
            assert!(!told(&world, "host-down", &name) && !told(&world, "host-suspect", &name), "seed {seed}: {name}");
            let uplinks = world.view(0).hosts[host - 1].uplinks.unwrap_or_default();
            assert!(
                host == cut + 1 || uplinks.a() == UplinkState::Up,
                "seed {seed}: {name} is not the one that was cut"
            );
        }
        world.heal(cut);
        assert!(world.run_until(SECOND * 20, |world| all_alive(world, 5)).is_some(), "seed {seed}");
    }
}

#[test]
fn a_cut_off_host_is_down_and_all_are_alive_again_after_it_heals() {
    for seed in SEEDS {
        let mut world = converged(seed, 5);
        for uplink in Uplink::BOTH {
            world.cut(4, uplink);
        }
        assert!(world.run_until(SECOND * 20, |world| all_say(world, 4, "h5", State::Down)).is_some(), "seed {seed}");
        world.run_for(SECOND * 60);
        world.heal(4);
        let took = world.run_until(SECOND * 30, |world| all_alive(world, 5));
        assert!(took.is_some(), "seed {seed}: {:#?}", world.view(4).hosts);
    }
}

#[test]
fn a_late_host_joins_and_a_leaving_one_has_left_and_is_never_down() {
    for seed in SEEDS {
        let mut world = converged(seed, 5);
        world.add_host(vec![]);
        assert!(world.run_until(SECOND * 10, |world| all_alive(world, 6)).is_some(), "seed {seed}");
        world.leave(1);
        let took = world.run_until(SECOND * 10, |world| all_say(world, 1, "h2", State::Left) && !world.runs(1));
        assert!(took.is_some(), "seed {seed}");
        world.run_for(SECOND * 30);
        assert!(all_say(&world, 1, "h2", State::Left), "seed {seed}");
        assert!(!told(&world, "host-down", "h2"), "seed {seed}");
        for host in world.hosts().filter(|host| *host != 1) {
            let left = world.view(host).events.iter().filter(|event| event.kind == "host-left").count();
            assert_eq!(left, 1, "seed {seed}: told once at h{}", host + 1);
        }
        world.start(1);
        assert!(world.run_until(SECOND * 20, |world| all_alive(world, 6)).is_some(), "seed {seed}: it may come back");
    }
}

#[test]
fn all_restart_at_once_and_one_with_a_new_address() {
    for seed in SEEDS {
        let mut world = converged(seed, 5);
        world.run_for(SECOND * 3);
        for host in world.hosts() {
            world.kill(host);
        }
        world.run_for(SECOND);
        world.readdress(2);
        for host in world.hosts() {
            world.start(host);
        }
        let took = world.run_until(SECOND * 30, |world| all_alive(world, 5));
        assert!(took.is_some(), "seed {seed}: {:#?}", world.view(2).hosts);
    }
}

#[test]
fn a_verdict_reaches_every_host_as_an_event_within_its_thresholds() {
    for seed in SEEDS {
        let mut world = converged(seed, 5);
        world.run_for(SECOND * 3);
        let known = |world: &World, text: &str| {
            world.hosts().all(|host| {
                let events = &world.view(host).events;
                events.iter().filter(|event| event.kind == "service-verdict" && event.text.contains(text)).count() == 1
            })
        };
        world.sicken(0, true);
        let took = world.run_until(SECOND * 10, |world| known(world, "is critical")).unwrap();
        assert!(took <= SECOND * 2 + SECOND / 2, "seed {seed}: {took:?}");
        assert_eq!(world.view(0).services[0].told.verdict, Value::Critical);
        let digest =
            |world: &World| world.hosts().all(|host| world.view(host).hosts[0].digest.is_some_and(|d| d.critical == 1));
        assert!(world.run_until(SECOND * 3, digest).is_some(), "seed {seed}: the digest follows");
        world.sicken(0, false);
        assert!(world.run_until(SECOND * 10, |world| known(world, "is passing")).is_some(), "seed {seed}");
    }
}

#[test]
fn what_happened_on_a_cut_off_host_is_told_everywhere_after_it_heals() {
    for seed in SEEDS {
        let mut world = converged(seed, 5);
        world.run_for(SECOND * 3);
        for uplink in Uplink::BOTH {
            world.cut(2, uplink);
        }
        world.run_for(SECOND * 15);
        world.sicken(2, true);
        world.run_for(SECOND * 5);
        world.heal(2);
        let told = |world: &World| {
            world.hosts().all(|host| {
                let events = &world.view(host).events;
                events.iter().filter(|event| event.kind == "service-verdict" && event.host == "h3").count() == 1
            })
        };
        assert!(world.run_until(SECOND * 30, told).is_some(), "seed {seed}: {:#?}", texts(&world, 0));
        assert!(world.run_until(SECOND * 30, |world| all_alive(world, 5)).is_some(), "seed {seed}");
    }
}

#[test]
fn loss_delays_news_and_takes_nobody_down() {
    for seed in SEEDS {
        let mut world = converged(seed, 5);
        world.lose(10);
        for host in world.hosts() {
            world.sicken(host, true);
        }
        world.run_for(SECOND * 60);
        for host in world.hosts() {
            let name = format!("h{}", host + 1);
            assert!(!told(&world, "host-down", &name), "seed {seed}: {name} at 10 % loss");
            let events = &world.view(host).events;
            let verdicts = events.iter().filter(|event| event.kind == "service-verdict").count();
            assert_eq!(verdicts, 5, "seed {seed}: {name} was told of each once: {:#?}", texts(&world, host));
        }
    }
}

#[test]
fn a_host_that_starts_while_another_is_down_knows_of_it() {
    for seed in SEEDS {
        let mut world = converged(seed, 5);
        world.kill(3);
        assert!(world.run_until(SECOND * 20, |world| all_say(world, 3, "h4", State::Down)).is_some(), "seed {seed}");
        world.kill(0);
        world.start(0);
        assert!(world.run_until(SECOND * 20, |world| all_say(world, 3, "h4", State::Down)).is_some(), "seed {seed}");
        world.add_host(vec![]);
        assert!(world.run_until(SECOND * 20, |world| all_say(world, 3, "h4", State::Down)).is_some(), "seed {seed}");
        world.start(3);
        assert!(world.run_until(SECOND * 20, |world| all_alive(world, 6)).is_some(), "seed {seed}");
    }
}

#[test]
fn a_host_whose_disk_was_set_back_is_heard_all_the_same() {
    for seed in SEEDS {
        let mut world = converged(seed, 4);
        for _ in 0..3 {
            world.kill(3);
            world.start(3);
            assert!(world.run_until(SECOND * 30, |world| all_alive(world, 4)).is_some(), "seed {seed}");
        }
        world.run_for(SECOND * 30);
        let before = world.view(0).hosts[3].generation;
        world.kill(3);
        world.forget_generation(3);
        world.start(3);
        let back = |world: &World| all_alive(world, 4) && world.view(0).hosts[3].generation > before;
        let gens = |w: &World| {
            w.hosts()
                .map(|at| {
                    w.view(at).hosts.iter().map(|h| (h.name.clone(), h.generation, h.state())).collect::<Vec<_>>()
                })
                .collect::<Vec<_>>()
        };
        assert!(world.run_until(SECOND * 30, back).is_some(), "seed {seed}: before {before} {:?}", gens(&world));
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut world = converged(seed, 7);
        world.kill(2);
        world.run_for(SECOND * 20);
        (world.delivered(), format!("{:?}", world.view(0)))
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).0, run(4).0);
}
