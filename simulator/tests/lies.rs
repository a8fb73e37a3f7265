//! A member that lies about others: in their names, with their old words, or with words of its own changed by one bit.

#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use foca::{Codec, Header, Message, PostcardCodec, State};
use ringmesh_node::membership::SwimState;
use ringmesh_proto::{
    HostId,
    member::Member,
    peer::{AccusationRecord, Gossip, HostRecord, SyncResponse},
};
use ringmesh_simulator::{World, world::id};

const SEEDS: std::ops::Range<u64> = 0..4;
const SECOND: Duration = Duration::from_secs(1);
const HOSTS: usize = 5;
const LIAR: usize = 0;
const VICTIM: usize = 4;

/// The others: all but the liar and its victim.
const OTHERS: [usize; 3] = [1, 2, 3];

fn converged(seed: u64) -> World {
    let mut world = World::new(seed);
    for _ in 0..HOSTS {
        world.add_host(vec![]);
    }
    assert!(world.run_until(SECOND * 30, |world| all_alive(world, HOSTS)).is_some(), "seed {seed}");
    world.run_for(SECOND * 5);
    world
}

fn all_alive(world: &World, hosts: usize) -> bool {
    world.hosts().filter(|host| world.runs(*host)).all(|at| {
        let others = world.node(at).unwrap().states().filter(|(_, state)| *state == SwimState::Alive).count();
        others == hosts - 1 && world.view(at).hosts.iter().all(|host| host.name.starts_with('h'))
    })
}

/// Kinds of events that were ever told of the victim, but that it came.
fn told(world: &World) -> Vec<String> {
    let of = |at: usize| world.view(at).events.iter().filter(|event| event.host == "h5" && event.kind != "host-alive");
    world.hosts().flat_map(|at| of(at).map(move |event| format!("h{}: {}", at + 1, event.text))).collect()
}

fn counted(world: &World, name: &str) -> Vec<u64> {
    world.hosts().map(|at| world.node(at).map_or(0, |node| node.counted(name))).collect()
}

fn record(world: &mut World, of: usize) -> HostRecord {
    (**world.known(LIAR).hosts.iter().find(|record| record.host == id(of).raw()).unwrap()).clone()
}

fn generation(world: &World, of: usize) -> u32 {
    world.node(of).unwrap().me().generation
}

fn accusation(world: &World, by: usize) -> AccusationRecord {
    AccusationRecord {
        accuser: id(by).raw(),
        accuser_generation: generation(world, by),
        seq: 1000,
        accused: id(VICTIM).raw(),
        accused_generation: generation(world, VICTIM),
        evidence: "no answer over any uplink for 2000 ms".into(),
        ..AccusationRecord::default()
    }
}

fn accusations(world: &World, accusations: Vec<AccusationRecord>) -> Gossip {
    Gossip { accusations, zone: world.node(LIAR).unwrap().zone_id().raw(), ..Gossip::default() }
}

fn records(world: &World, hosts: Vec<HostRecord>) -> Gossip {
    Gossip { hosts: hosts.into_iter().map(Into::into).collect(), ..accusations(world, Vec::new()) }
}

fn say_to(world: &mut World, to: &[usize], gossip: &Gossip) {
    to.iter().for_each(|to| world.say(LIAR, *to, gossip.clone()));
}

/// What the liar says of its victim in its own name, as it may: one vote.
fn accuse_alone(world: &mut World) {
    let mut own = accusation(world, LIAR);
    world.seal(LIAR, &mut own);
    let own = accusations(world, vec![own]);
    say_to(world, &OTHERS, &own);
}

#[test]
fn nobody_can_accuse_in_the_name_of_others() {
    for seed in SEEDS {
        let mut world = converged(seed);
        accuse_alone(&mut world);
        let forgers: [fn(&mut World, &mut AccusationRecord); 3] = [
            |_, record| record.seal = Bytes::new(),
            |world, record| world.seal(LIAR, record),
            // The seal of something else that this host said.
            |world, forged| forged.seal = record(world, (forged.accuser - 1) as usize).seal,
        ];
        for forge in forgers {
            let mut forged: Vec<_> = OTHERS.iter().map(|by| accusation(&world, *by)).collect();
            forged.iter_mut().for_each(|record| forge(&mut world, record));
            // To one host only: it tells nobody else.
            let lie = accusations(&world, forged);
            say_to(&mut world, &OTHERS[..1], &lie);
        }
        world.run_for(SECOND * 30);
        assert_eq!(told(&world), [""; 0], "seed {seed}");
        // Its own forged accusation that host drops without a look at the seal.
        assert_eq!(counted(&world, "seals_refused"), [0, 6, 0, 0, 0], "seed {seed}");
        let believed = |at: usize| world.node(at).unwrap().accusers(id(VICTIM));
        assert!(OTHERS.iter().all(|at| believed(*at) == [id(LIAR)]), "seed {seed}: one vote, and it is the liar's own");
    }
}

#[test]
fn nobody_can_change_what_another_says_of_itself() {
    let lies: [fn(&mut HostRecord); 7] = [
        |record| record.leaving = true,
        |record| record.isolated = true,
        |record| record.generation += 7,
        |record| record.uplink_a = 3,
        |record| record.address_a = "10.9.9.9:1".into(),
        |record| record.links.clear(),
        |record| record.accuses_from = u32::MAX,
    ];
    for seed in SEEDS {
        let mut world = converged(seed);
        let before = generation(&world, VICTIM);
        for lie in lies {
            let mut forged = record(&mut world, VICTIM);
            forged.seq += 1000;
            lie(&mut forged);
            let sealed_by_another = {
                let mut forged = forged.clone();
                world.seal(LIAR, &mut forged);
                forged
            };
            // With the liar's own certificate, too.
            let mut shown = HostRecord { certificate: record(&mut world, LIAR).certificate, ..forged.clone() };
            world.seal(LIAR, &mut shown);
            let lie = records(&world, vec![forged, sealed_by_another, shown]);
            // The victim itself is told, too: it would live another life, beyond that of which it hears.
            say_to(&mut world, &[1, 2, 3, VICTIM], &lie);
            world.run_for(SECOND * 2);
        }
        world.run_for(SECOND * 30);
        assert_eq!(told(&world), [""; 0], "seed {seed}");
        assert!(all_alive(&world, HOSTS), "seed {seed}");
        assert_eq!(generation(&world, VICTIM), before, "seed {seed}");
        let refused = counted(&world, "seals_refused");
        assert_eq!(refused, [0, 21, 21, 21, 21], "seed {seed}: by whom the liar told it, and nobody passed it on");
    }
}

#[test]
fn what_was_said_of_an_earlier_life_does_not_count_in_the_next() {
    for seed in SEEDS {
        let mut world = converged(seed);
        world.kill(VICTIM);
        let down = |world: &World| {
            OTHERS.iter().all(|at| {
                let state = world.node(*at).unwrap().state(id(VICTIM));
                matches!(state, Some((_, SwimState::Down)))
            })
        };
        assert!(world.run_until(SECOND * 20, down).is_some(), "seed {seed}");
        let old = world.known(LIAR);
        assert!(old.accusations.len() > 1, "seed {seed}");
        world.start(VICTIM);
        assert!(world.run_until(SECOND * 20, |world| all_alive(world, HOSTS)).is_some(), "seed {seed}");
        world.run_for(SECOND * 200);
        let before = told(&world).len();
        for _ in 0..10 {
            say_to(&mut world, &OTHERS, &old);
            world.run_for(SECOND);
        }
        assert_eq!(told(&world).len(), before, "seed {seed}: {:?}", told(&world));
        assert!(all_alive(&world, HOSTS), "seed {seed}");
    }
}

/// Each of the others has missed the victim once, and has taken that back. The liar has kept all of it.
#[test]
fn what_was_taken_back_does_not_count_again_however_long_ago() {
    for seed in SEEDS {
        for dead_host in [false, true] {
            let mut world = converged(seed);
            let dead = dead_host.then(|| world.add_host(vec![]));
            world.run_for(SECOND * 10);
            if let Some(dead) = dead {
                // An accusation that stands from before all of it.
                world.kill(dead);
                world.run_for(SECOND * 10);
            }
            let mut kept = Vec::new();
            for by in OTHERS {
                world.cut_pair(by, VICTIM);
                let accused = |world: &World| world.node(LIAR).unwrap().accusers(id(VICTIM)).contains(&id(by));
                assert!(world.run_until(SECOND * 30, accused).is_some(), "seed {seed}: h{} does not accuse", by + 1);
                let said = world.known(LIAR).accusations;
                kept.extend(said.into_iter().filter(|record| record.accused == id(VICTIM).raw() && !record.withdrawn));
                world.heal(by);
                let back = |world: &World| world.node(LIAR).unwrap().accusers(id(VICTIM)).is_empty();
                assert!(world.run_until(SECOND * 30, back).is_some(), "seed {seed}: h{} still accuses", by + 1);
            }
            assert_eq!(kept.len(), OTHERS.len());
            let down = format!("h{} is down", VICTIM + 1);
            let of_victim = |world: &World| told(world).into_iter().filter(|text| text.contains(&down)).count();
            for wait in [0, 30, 90, 300] {
                world.run_for(SECOND * wait);
                accuse_alone(&mut world);
                let lie = accusations(&world, kept.clone());
                say_to(&mut world, &OTHERS, &lie);
                world.run_for(SECOND);
                assert_eq!(of_victim(&world), 0, "seed {seed}, {wait} s: {:#?}", told(&world));
                let voters = OTHERS.map(|at| world.node(at).unwrap().accusers(id(VICTIM)));
                assert!(voters.iter().all(|voters| voters == &[id(LIAR)]), "seed {seed}, {wait} s: {voters:?}");
            }
            // And nobody remembers more than what stands, and the last that was taken back.
            let remembered = world.known(1).accusations.len();
            assert!(remembered <= 1 + if dead_host { HOSTS } else { 0 }, "seed {seed}: {remembered}");
        }
    }
}

#[test]
fn an_accuser_with_another_certificate_is_still_believed_by_who_comes_later() {
    for seed in SEEDS {
        let mut world = converged(seed);
        world.kill(VICTIM);
        world.run_for(SECOND * 10);
        let accusers = world.node(1).unwrap().accusers(id(VICTIM));
        assert!(!accusers.is_empty(), "seed {seed}");
        (0..VICTIM).for_each(|host| world.renew_certificate(host));
        world.run_for(SECOND * 5);
        let late = world.add_host(vec![]);
        let same = |world: &World| {
            let mut theirs: Vec<HostId> = world.node(late).unwrap().accusers(id(VICTIM));
            theirs.sort_unstable();
            let mut ours = accusers.clone();
            ours.sort_unstable();
            theirs == ours
        };
        assert!(world.run_until(SECOND * 15, same).is_some(), "seed {seed}");
        assert_eq!(counted(&world, "seals_refused").iter().sum::<u64>(), 0, "seed {seed}");
    }
}

/// A SWIM message from the liar with this news of third hosts: a member is what foca calls an identity.
fn swim(world: &World, to: usize, news: &[(Member, State)]) -> Bytes {
    let member = |host: usize| world.node(host).unwrap().me();
    let header = Header { src: member(LIAR), src_incarnation: 0, dst: member(to), message: Message::Gossip };
    let mut bytes = BytesMut::new();
    PostcardCodec.encode_header(&header, &mut bytes).unwrap();
    bytes.put_u16(news.len() as u16);
    for (member, state) in news {
        PostcardCodec.encode_member(&foca::Member::new(*member, 40, *state), &mut bytes).unwrap();
    }
    bytes.freeze()
}

/// Else the others would look for the host where it is not, and honestly miss it.
#[test]
fn nobody_can_say_that_another_lives_a_later_life_or_elsewhere() {
    let lies: [fn(Member) -> Member; 4] = [
        |victim| Member { generation: victim.generation + 1, ..victim },
        |victim| Member { addresses: [Some(([10, 99, 0, 1], 7400).into()), None], ..victim },
        |victim| Member {
            generation: victim.generation + 1,
            addresses: [Some(([10, 99, 0, 1], 7400).into()); 2],
            ..victim
        },
        |victim| Member { id: HostId::new(99), addresses: [Some(([10, 99, 0, 1], 7400).into()); 2], ..victim },
    ];
    for seed in SEEDS {
        for (number, lie) in (0..).zip(lies) {
            let mut world = converged(seed);
            let victim = world.node(VICTIM).unwrap().me();
            let lie = lie(victim);
            for turn in 0..10 {
                for to in [1, 2, 3, VICTIM] {
                    let news = [(lie, [State::Alive, State::Suspect][turn % 2])];
                    let message = swim(&world, to, &news);
                    world.say_in_swim(LIAR, to, 1_000_000 * (1 + turn as u32), message);
                    let zone = world.node(to).unwrap().zone_id().raw();
                    let members = vec![lie.to_record(40, 2 * (turn as u32 % 2))];
                    world.answer_with(LIAR, to, SyncResponse { members, zone, ..SyncResponse::default() });
                }
                world.run_for(SECOND);
            }
            world.run_for(SECOND * 30);
            assert_eq!(told(&world), [""; 0], "seed {seed}, lie {number}");
            assert!(all_alive(&world, HOSTS), "seed {seed}, lie {number}");
            for at in OTHERS {
                assert_eq!(
                    world.node(at).unwrap().state(id(VICTIM)),
                    Some((victim, SwimState::Alive)),
                    "seed {seed}, lie {number}"
                );
                assert_eq!(world.node(at).unwrap().state(HostId::new(99)), None, "seed {seed}, lie {number}");
            }
        }
    }
}

#[test]
fn certificates_change_while_hosts_die_and_come_back_and_no_seal_is_bad() {
    for seed in SEEDS {
        let mut world = World::new(seed);
        for _ in 0..9 {
            world.add_host(vec![]);
        }
        assert!(world.run_until(SECOND * 30, |world| all_alive(world, 9)).is_some(), "seed {seed}");
        for turn in 0..60 {
            // In the midst of accusations, too: a host is called down some two seconds after it died.
            let (dies, renews) = (turn / 10 % 9, (turn * 4 + 1) % 9);
            match turn % 10 {
                0 => world.power_off(dies),
                6 => world.start(dies),
                _ => {}
            }
            world.renew_certificate(renews);
            world.run_for(Duration::from_millis(500 + 37 * turn as u64));
        }
        assert!(world.run_until(SECOND * 30, |world| all_alive(world, 9)).is_some(), "seed {seed}");
        let accused = |at: usize| world.hosts().any(|of| !world.node(at).unwrap().accusers(id(of)).is_empty());
        assert!(!world.hosts().any(accused), "seed {seed}");
        assert_eq!(counted(&world, "seals_refused"), [0; 9], "seed {seed}");
    }
}
