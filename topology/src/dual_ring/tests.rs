use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Every (ring, host, 0 predecessor or 1 successor, peer).
type Pointers = BTreeSet<(Ring, HostId, u8, HostId)>;

fn pointers(rings: &DualRing) -> Pointers {
    let mut all = Pointers::new();
    for ring in Ring::BOTH {
        for host in rings.hosts() {
            all.extend(rings.predecessor(ring, host).map(|peer| (ring, host, 0, peer)));
            all.extend(rings.successor(ring, host).map(|peer| (ring, host, 1, peer)));
        }
    }
    all
}

/// How many (host, side) pointers of this ring have another value, or exist in one of the two only.
fn changed(before: &DualRing, after: &DualRing, ring: Ring) -> usize {
    let sides = |all: &Pointers, other: &Pointers| -> BTreeSet<(HostId, u8)> {
        all.difference(other).filter(|entry| entry.0 == ring).map(|(_, host, side, _)| (*host, *side)).collect()
    };
    let (before, after) = (pointers(before), pointers(after));
    sides(&before, &after).union(&sides(&after, &before)).count()
}

fn ids(range: std::ops::Range<u32>) -> Vec<HostId> {
    range.map(HostId::new).collect()
}

fn hosts(size: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = BTreeSet<HostId>> {
    prop::collection::btree_set(any::<u32>().prop_map(HostId::new), size)
}

/// Hosts at distinct positions.
fn places(size: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<(u16, HostId)>> {
    prop::collection::btree_map(any::<u16>(), any::<u32>(), size).prop_map(|map| {
        let mut seen = BTreeSet::new();
        map.into_iter().filter(|(_, id)| seen.insert(*id)).map(|(at, id)| (at, HostId::new(id))).collect()
    })
}

#[test]
fn no_host_one_host_two_hosts() {
    let none = DualRing::switched(1, []);
    assert!(none.is_empty() && none.order(Ring::A).is_empty());
    assert_eq!(none.successor(Ring::A, HostId::new(1)), None);
    assert_eq!(none.neighbours(HostId::new(1)), []);

    let one = DualRing::switched(1, ids(1..2));
    assert_eq!(one.order(Ring::B), ids(1..2));
    assert_eq!(one.successor(Ring::A, HostId::new(1)), None);
    assert_eq!(one.neighbours(HostId::new(1)), []);
    assert_eq!(changed(&none, &one, Ring::A), 0);

    for two in [DualRing::switched(1, ids(1..3)), DualRing::cabled([(1, HostId::new(1)), (2, HostId::new(2))])] {
        let peer = HostId::new(2);
        for ring in Ring::BOTH {
            assert_eq!(two.successor(ring, HostId::new(1)), Some(peer));
            assert_eq!(two.predecessor(ring, HostId::new(1)), Some(peer));
            assert_eq!(changed(&one, &two, ring), 4);
        }
        let link = |uplink, role| Link { peer, uplink, role };
        assert_eq!(two.neighbours(HostId::new(1)), [link(Uplink::A, Role::RingA), link(Uplink::B, Role::RingB)]);
    }
}

#[test]
fn three_hosts_have_four_links_each_in_switched_and_two_in_cabled_mode() {
    let host = HostId::new(1);
    let switched = DualRing::switched(9, ids(1..4));
    let links: BTreeSet<_> = switched.neighbours(host).into_iter().map(|link| (link.peer.raw(), link.uplink)).collect();
    assert_eq!(links, BTreeSet::from([(2, Uplink::A), (2, Uplink::B), (3, Uplink::A), (3, Uplink::B)]));

    let cabled = DualRing::cabled([(30, HostId::new(3)), (10, host), (20, HostId::new(2))]);
    assert_eq!(cabled.order(Ring::A), ids(1..4));
    let links: Vec<_> = cabled.neighbours(host).into_iter().map(|link| (link.peer.raw(), link.uplink)).collect();
    assert_eq!(links, [(2, Uplink::A), (3, Uplink::B)]);
}

#[test]
fn a_host_named_twice_counts_once_and_equal_positions_are_ordered_by_id() {
    assert_eq!(DualRing::switched(1, [ids(1..9), ids(1..9)].concat()), DualRing::switched(1, ids(1..9)));
    let id = HostId::new;
    let rings = DualRing::cabled([(5, id(2)), (5, id(1)), (1, id(3)), (9, id(3))]);
    assert_eq!(rings.order(Ring::A), [id(3), id(1), id(2)]);
}

/// The orders are part of the protocol: a release that draws them differently cannot share a cluster with this one.
#[test]
fn the_orders_of_a_known_set_never_change() {
    let rings = DualRing::switched(7, ids(1..9));
    let raw = |ring| rings.order(ring).iter().map(|host| host.raw()).collect::<Vec<_>>();
    assert_eq!((raw(Ring::A), raw(Ring::B)), (vec![8, 6, 7, 4, 3, 2, 5, 1], vec![7, 4, 8, 6, 2, 5, 3, 1]));
}

/// Of n hosts, two independent orders share some 2 neighbour pairs, whatever n is; equal or reversed ones share n.
#[test]
fn ring_b_is_independent_of_ring_a() {
    for seed in 0..20 {
        let rings = DualRing::switched(seed, ids(0..256));
        let pairs = |ring| -> BTreeSet<(HostId, HostId)> {
            let pair = |host| {
                let next = rings.successor(ring, host).expect("256 hosts are not alone");
                (host.min(next), host.max(next))
            };
            rings.hosts().map(pair).collect()
        };
        let shared = pairs(Ring::A).intersection(&pairs(Ring::B)).count();
        assert!(shared <= 10, "seed {seed}: {shared} of 256 pairs are neighbours on both rings");
    }
}

proptest! {
    #[test]
    fn rings_that_turn_are_rings_made_anew(seed: u64, first in hosts(0..40), steps in prop::collection::vec(hosts(0..40), 1..6)) {
        let mut rings = DualRing::switched(seed, first.iter().copied());
        let mut there = first;
        for (number, step) in steps.into_iter().enumerate() {
            // Few come and few go, or all are others.
            let some: BTreeSet<HostId> = there.iter().copied().skip(number).step_by(7).chain(step.iter().copied().take(3)).collect();
            there = if number % 3 == 2 { step } else { there.symmetric_difference(&some).copied().collect() };
            rings.turn_into(seed, there.iter().copied());
            prop_assert_eq!(&rings, &DualRing::switched(seed, there.iter().copied()));
        }
    }

    #[test]
    fn a_join_or_leave_changes_exactly_four_pointers_a_ring(seed: u64, all in hosts(2..80), pick: prop::sample::Index) {
        let with = DualRing::switched(seed, all.iter().copied());
        let newcomer = *pick.get(&Vec::from_iter(&all));
        let without = DualRing::switched(seed, all.iter().copied().filter(|host| host != newcomer));
        for ring in Ring::BOTH {
            prop_assert_eq!(changed(&without, &with, ring), 4);
            prop_assert_eq!(changed(&with, &without, ring), 4);
        }
    }

    #[test]
    fn so_does_a_join_in_cabled_mode(all in places(3..40), pick: prop::sample::Index) {
        prop_assume!(all.len() >= 2);
        let with = DualRing::cabled(all.iter().copied());
        let newcomer = *pick.get(&all);
        let without = DualRing::cabled(all.iter().copied().filter(|place| *place != newcomer));
        for ring in Ring::BOTH {
            prop_assert_eq!(changed(&without, &with, ring), 4);
        }
    }

    #[test]
    fn each_ring_is_one_cycle_through_all_hosts(seed: u64, all in hosts(2..80)) {
        let rings = DualRing::switched(seed, all.iter().copied());
        for ring in Ring::BOTH {
            let start = rings.order(ring)[0];
            let mut seen = BTreeSet::new();
            let mut at = start;
            while seen.insert(at) {
                let next = rings.successor(ring, at).expect("two or more hosts");
                prop_assert_eq!(rings.predecessor(ring, next), Some(at));
                prop_assert_eq!(rings.order(ring)[rings.position(ring, at).expect("a member")], at);
                at = next;
            }
            prop_assert_eq!(at, start);
            prop_assert_eq!(&seen, &all);
        }
    }

    #[test]
    fn a_link_has_two_ends(seed: u64, all in hosts(2..80), places in places(2..40)) {
        for rings in [DualRing::switched(seed, all), DualRing::cabled(places)] {
            for host in rings.hosts() {
                let links = rings.neighbours(host);
                prop_assert_eq!(links.iter().collect::<BTreeSet<_>>().len(), links.len(), "each link once");
                for link in links {
                    let uplink = match rings.mode() {
                        Mode::Switched => link.uplink,
                        Mode::Cabled => link.uplink.other(),
                    };
                    let back = rings.neighbours(link.peer);
                    prop_assert!(back.iter().any(|back| back.peer == host && back.uplink == uplink));
                    prop_assert!(rings.are_neighbours(host, link.peer));
                }
            }
        }
    }

    #[test]
    fn the_order_of_names_does_not_matter(seed: u64, all in hosts(0..40)) {
        prop_assert_eq!(DualRing::switched(seed, all.iter().copied()), DualRing::switched(seed, all.into_iter().rev()));
    }
}
