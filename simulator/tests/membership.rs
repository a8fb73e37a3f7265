//! Who is called down, by whom and how soon: in virtual time, over several seeds and sizes.

#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use ringmesh_proto::{Uplink, v1};
use ringmesh_simulator::{FORGET_AFTER, World};
use v1::{host::State, uplink::State as UplinkState};

const SEEDS: std::ops::Range<u64> = 0..8;
const SECOND: Duration = Duration::from_secs(1);

fn converged(seed: u64, hosts: usize) -> World {
    let mut world = World::new(seed);
    for _ in 0..hosts {
        world.add_host(vec![]);
    }
    let took = world.run_until(SECOND * 30, all_alive);
    assert!(took.is_some(), "seed {seed}: {hosts} hosts did not find each other");
    world.run_for(SECOND * 5);
    world
}

fn all_alive(world: &World) -> bool {
    let hosts = world.hosts().filter(|host| world.runs(*host)).count();
    world.hosts().filter(|host| world.runs(*host)).all(|host| {
        let alive = |host: &v1::Host| {
            let uplinks = host.uplinks.unwrap_or_default();
            host.state() == State::Alive && uplinks.a() == UplinkState::Up && uplinks.b() == UplinkState::Up
        };
        world.view(host).hosts.iter().filter(|host| alive(host)).count() == hosts
    })
}

fn state(world: &World, at: usize, of: usize) -> State {
    let name = format!("h{}", of + 1);
    world.view(at).hosts.iter().find(|host| host.name == name).map_or(State::Unknown, |host| host.state())
}

fn all_say_down(world: &World, dead: &[usize]) -> bool {
    let mut live = world.hosts().filter(|host| world.runs(*host) && !dead.contains(host));
    live.all(|at| dead.iter().all(|of| state(world, at, *of) == State::Down))
}

/// Every "down" that any host ever told, as "observer: host".
fn downs(world: &World) -> Vec<String> {
    let of = |at: usize| {
        let events = world.view(at).events.iter().filter(|event| event.kind == "host-down");
        events.map(move |event| format!("h{}: {} by {:?}", at + 1, event.host, event.accusers)).collect::<Vec<_>>()
    };
    world.hosts().flat_map(of).collect()
}

/// What a host was told, with times in seconds since the clocks' origin.
fn log(world: &World) -> String {
    let of = |at: usize| {
        let line = |event: &std::sync::Arc<v1::Event>| {
            let time = event.time.unwrap_or_default();
            format!(
                "h{} {}.{:03} {} {:?}",
                at + 1,
                time.seconds % 10_000,
                time.nanos / 1_000_000,
                event.text,
                event.accusers
            )
        };
        world.view(at).events.iter().map(line).collect::<Vec<_>>()
    };
    let mut lines: Vec<_> = world.hosts().flat_map(of).collect();
    lines.sort_by_key(|line| line.split_once(' ').map(|(_, rest)| rest.to_owned()));
    lines.join("\n")
}

fn generations(world: &World) -> Vec<u32> {
    world.hosts().map(|at| world.view(at).hosts.iter().find(|host| host.local).unwrap().generation).collect()
}

#[test]
fn a_dead_host_is_down_everywhere_within_three_seconds_whatever_the_size() {
    for (hosts, seeds) in [(2, SEEDS), (3, SEEDS), (5, SEEDS), (32, 0..3)] {
        for seed in seeds {
            for power in [false, true] {
                let mut world = converged(seed, hosts);
                let dead = seed as usize % hosts;
                if power {
                    world.power_off(dead)
                } else {
                    world.kill(dead)
                }
                let took = world.run_until(SECOND * 20, |world| all_say_down(world, &[dead]));
                assert!(
                    took.is_some_and(|took| took <= SECOND * 3),
                    "{hosts} hosts, seed {seed}, power {power}: {took:?}"
                );
                world.run_for(SECOND * 10);
                let others = downs(&world).iter().filter(|down| !down.contains(&format!(": h{} ", dead + 1))).count();
                assert_eq!(others, 0, "{hosts} hosts, seed {seed}: {:?}", downs(&world));
            }
        }
    }
}

#[test]
fn a_quarter_of_the_hosts_dies_at_once_and_is_down_soon() {
    for seed in 0..3 {
        for power in [false, true] {
            let mut world = converged(seed, 16);
            let dead: Vec<usize> = (0..4).map(|nth| (nth * 4 + seed as usize) % 16).collect();
            dead.iter().for_each(|host| if power { world.power_off(*host) } else { world.kill(*host) });
            let took = world.run_until(SECOND * 20, |world| all_say_down(world, &dead));
            assert!(
                took.is_some_and(|took| took <= SECOND * 5),
                "seed {seed}, power {power}: {took:?}\n{}",
                log(&world)
            );
        }
    }
}

#[test]
fn a_silent_cut_of_an_uplink_is_noticed_by_all_within_half_a_second() {
    let mut slowest = Duration::ZERO;
    for seed in SEEDS {
        let mut world = converged(seed, 5);
        for cut in 0..5 {
            world.cut(cut, Uplink::A);
            let noticed = |world: &World| {
                world.hosts().all(|at| {
                    let name = format!("h{}", cut + 1);
                    let host = world.view(at).hosts.iter().find(|host| host.name == name).unwrap();
                    host.uplinks.unwrap_or_default().a() == UplinkState::Down
                })
            };
            let took = world.run_until(SECOND * 5, noticed).unwrap();
            slowest = slowest.max(took);
            world.heal(cut);
            assert!(world.run_until(SECOND * 10, all_alive).is_some(), "seed {seed}");
            world.run_for(SECOND + Duration::from_millis(137 * seed));
        }
        assert_eq!(downs(&world), [""; 0]);
    }
    assert!(slowest <= SECOND / 2, "{slowest:?}");
}

#[test]
fn a_paused_agent_is_never_down_for_three_seconds_and_soon_back_after_eight() {
    for seed in SEEDS {
        let mut world = converged(seed, 5);
        let before = generations(&world);
        world.pause(1, SECOND * 3);
        world.run_for(SECOND * 10);
        assert_eq!((downs(&world), generations(&world)), (vec![], before.clone()), "seed {seed}");
        world.pause(1, SECOND * 8);
        world.run_for(SECOND * 8);
        let back = world.run_until(SECOND * 10, all_alive);
        assert!(back.is_some_and(|back| back <= SECOND), "seed {seed}: {back:?}");
        world.run_for(SECOND * 10);
        let others: Vec<_> = downs(&world).into_iter().filter(|down| !down.contains(": h2 ")).collect();
        assert_eq!(others, [""; 0], "seed {seed}\n{}", log(&world));
        let after = generations(&world);
        assert!([0, 2, 3, 4].iter().all(|host| before[*host] == after[*host]), "seed {seed}: nobody else is touched");
    }
}

#[test]
fn an_isolated_host_accuses_nobody_and_forces_nobody_to_renew() {
    for (hosts, seeds) in [(3, SEEDS), (5, SEEDS), (32, 0..2)] {
        for seed in seeds {
            let mut world = converged(seed, hosts);
            let before = generations(&world);
            let cut = seed as usize % hosts;
            Uplink::BOTH.into_iter().for_each(|uplink| world.cut(cut, uplink));
            world.run_for(SECOND * 30);
            assert!(all_say_down_but(&world, cut), "{hosts} hosts, seed {seed}");
            assert_eq!(state(&world, cut, cut), State::Isolated, "{hosts} hosts, seed {seed}: it says so itself");
            let own = world.view(cut).hosts.iter().find(|host| host.local).unwrap().uplinks.unwrap_or_default();
            assert_eq!((own.a(), own.b()), (UplinkState::Down, UplinkState::Down), "{hosts} hosts, seed {seed}");
            world.heal(cut);
            let took = world.run_until(SECOND * 20, all_alive);
            assert!(
                took.is_some_and(|took| took <= SECOND * 2),
                "{hosts} hosts, seed {seed}: one view after {took:?}\n{}",
                log(&world)
            );
            world.run_for(SECOND * 20);
            assert!(all_alive(&world), "{hosts} hosts, seed {seed}");
            let wrong: Vec<_> =
                downs(&world).into_iter().filter(|down| !down.contains(&format!(": h{} ", cut + 1))).collect();
            assert_eq!(wrong, [""; 0], "{hosts} hosts, seed {seed}\n{}", log(&world));
            let after = generations(&world);
            assert!(world.hosts().all(|host| host == cut || before[host] == after[host]), "{hosts} hosts, seed {seed}");
        }
    }
}

fn all_say_down_but(world: &World, cut: usize) -> bool {
    world.hosts().filter(|host| *host != cut).all(|at| state(world, at, cut) == State::Down)
}

#[test]
fn a_pair_that_does_not_hear_each_other_is_named_and_nobody_is_down() {
    for hosts in [3, 5, 16] {
        for seed in SEEDS {
            let mut world = converged(seed, hosts);
            let before = generations(&world);
            let one = seed as usize % hosts;
            let rings = &world.view(one).rings;
            let place = rings[0].hosts.iter().position(|name| *name == format!("h{}", one + 1)).unwrap();
            let other = &rings[0].hosts[(place + 1) % hosts];
            let other = other[1..].parse::<usize>().unwrap() - 1;
            world.cut_pair(one, other);
            let named = |world: &World| {
                world.hosts().all(|at| world.view(at).events.iter().any(|event| event.kind == "pair-broken"))
            };
            let took = world.run_until(SECOND * 10, named);
            assert!(
                took.is_some_and(|took| took <= SECOND * 4),
                "{hosts} hosts, seed {seed}: {took:?}\n{}",
                log(&world)
            );
            world.run_for(SECOND * 60);
            assert_eq!(downs(&world), [""; 0], "{hosts} hosts, seed {seed}");
            assert_eq!(generations(&world), before, "{hosts} hosts, seed {seed}");
        }
    }
}

#[test]
fn a_partition_of_two_and_three_heals_without_help() {
    for seed in SEEDS {
        let mut world = converged(seed, 5);
        for one in [0, 1] {
            for other in [2, 3, 4] {
                world.cut_pair(one, other);
            }
        }
        world.run_for(SECOND * 120);
        (0..5).for_each(|host| world.heal(host));
        let took = world.run_until(SECOND * 20, all_alive);
        assert!(took.is_some(), "seed {seed}: {:?}", downs(&world));
        world.run_for(SECOND * 20);
        assert!(all_alive(&world), "seed {seed}");
    }
}

#[test]
fn a_death_during_a_rejoin_is_found_and_costs_nobody_else() {
    for seed in SEEDS {
        let mut world = converged(seed, 8);
        world.kill(0);
        world.run_for(SECOND * 10);
        world.start(0);
        world.run_for(Duration::from_millis(100 * seed));
        world.power_off(4);
        let took = world.run_until(SECOND * 20, |world| all_say_down(world, &[4]));
        assert!(took.is_some_and(|took| took <= SECOND * 3), "seed {seed}: {took:?}");
        world.run_for(SECOND * 20);
        let wrong: Vec<_> =
            downs(&world).into_iter().filter(|down| !down.contains(": h1 ") && !down.contains(": h5 ")).collect();
        assert_eq!(wrong, [""; 0], "seed {seed}");
    }
}

#[test]
fn who_is_down_or_gone_for_long_is_forgotten_everywhere_and_welcome_again() {
    let shown = |world: &World, at: usize| world.view(at).hosts.len();
    for seed in 0..2 {
        let mut world = converged(seed, 5);
        world.kill(1);
        world.leave(2);
        world.run_for(FORGET_AFTER - SECOND * 10);
        assert!([0, 3, 4].iter().all(|at| shown(&world, *at) == 5), "seed {seed}: not yet");
        // One that starts anew counts anew, and tells those who have forgotten; they do not learn it again.
        world.kill(4);
        world.start(4);
        world.run_for(SECOND * 60);
        assert_eq!([0, 3].map(|at| shown(&world, at)), [3; 2], "seed {seed}");
        world.run_for(FORGET_AFTER);
        assert_eq!([0, 3, 4].map(|at| shown(&world, at)), [3; 3], "seed {seed}");
        world.start(1);
        let back = world.run_until(SECOND * 10, |world| [0, 3, 4].iter().all(|at| shown(world, *at) == 4));
        assert!(back.is_some(), "seed {seed}\n{}", log(&world));
    }
}

#[test]
fn a_partition_that_outlasts_all_memory_of_it_heals_without_help() {
    for seed in 0..2 {
        let mut world = converged(seed, 5);
        for one in [0, 1] {
            (2..5).for_each(|other| world.cut_pair(one, other));
        }
        world.run_for(FORGET_AFTER + SECOND * 60);
        assert_eq!(world.view(2).hosts.len(), 3, "seed {seed}: the other side is forgotten");
        (0..5).for_each(|host| world.heal(host));
        let took = world.run_until(SECOND * 90, all_alive);
        assert!(took.is_some(), "seed {seed}\n{}", log(&world));
    }
}
