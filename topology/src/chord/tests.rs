use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::graph::Graph;

fn ids(range: std::ops::Range<u32>) -> impl Iterator<Item = HostId> {
    range.map(HostId::new)
}

fn two(kind: ChordKind) -> Chords {
    Chords::of(kind, 2).expect("two is a good count")
}

/// Racks of sixteen.
fn racks(hosts: impl Iterator<Item = HostId>) -> Racks {
    hosts.map(|host| (host, format!("r{}", host.raw() / 16))).collect()
}

type Pairs = BTreeSet<(HostId, HostId)>;

fn pairs(rings: &DualRing, chords: Chords) -> Pairs {
    rings.chord_pairs(chords, &racks(rings.hosts())).into_iter().collect()
}

fn degrees(pairs: &Pairs) -> BTreeMap<HostId, usize> {
    let mut degrees = BTreeMap::new();
    for (low, high) in pairs {
        *degrees.entry(*low).or_default() += 1;
        *degrees.entry(*high).or_default() += 1;
    }
    degrees
}

#[test]
fn chords_are_written_as_they_are_read() {
    for text in ["auto", "none", "random:2", "sqrt:1", "fingers:8", "rack-aware:3"] {
        assert_eq!(text.parse::<Chords>().map(|chords| chords.to_string()), Ok(text.to_owned()));
    }
    for bad in ["", "random", "random:0", "random:9", "random:-1", "ring:2", "auto:2", "sqrt:2 "] {
        assert_eq!(bad.parse::<Chords>(), Err(NoChords), "{bad}");
    }
}

#[test]
fn small_meshes_and_cabled_ones_have_none() {
    let none = Racks::new();
    let count = |rings: &DualRing, chords| rings.chord_pairs(chords, &none).len();
    assert_eq!(count(&DualRing::switched(1, ids(0..7)), Chords::Auto), 0);
    assert!(count(&DualRing::switched(1, ids(0..8)), Chords::Auto) > 0);
    assert_eq!(count(&DualRing::switched(1, ids(0..99)), Chords::None), 0);
    for kind in ChordKind::ALL {
        for hosts in 0..4 {
            assert_eq!(count(&DualRing::switched(1, ids(0..hosts)), two(kind)), 0, "{kind:?}, {hosts} hosts");
        }
        assert_eq!(count(&DualRing::cabled((0..9).zip(ids(0..9))), two(kind)), 0);
    }
    assert_eq!(DualRing::switched(1, ids(0..20)).chord_links(HostId::new(99), Chords::Auto, &none), []);
}

/// The figures of docs/operations.md: 512 hosts in racks of 16, two chords a host.
#[test]
fn at_512_hosts_chords_take_two_hops_off_and_no_host_has_many() {
    let rings = DualRing::switched(3, ids(0..512));
    let racks = racks(rings.hosts());
    let bare = Graph::of(&rings, Chords::None, &racks).hops().expect("connected");
    assert!(bare.diameter <= 10);
    for kind in ChordKind::ALL {
        let chords = pairs(&rings, two(kind));
        let hops = Graph::of(&rings, two(kind), &racks).hops().expect("connected");
        let most = degrees(&chords).into_values().max().expect("there are chords");
        let over_a = chords.iter().filter(|(low, high)| rings.chord_uplink(*low, *high) == Uplink::A).count();
        assert!(hops.diameter <= 7 && hops.mean < bare.mean - 0.5, "{kind:?}: {hops:?}");
        assert!((900..=1024).contains(&chords.len()) || kind == ChordKind::Fingers, "{kind:?}: {}", chords.len());
        assert!(most <= 10, "{kind:?}: one host has {most} chords");
        assert!((chords.len() / 3..chords.len() * 2 / 3).contains(&over_a), "{kind:?}: {over_a} over A");
    }
}

#[test]
fn rack_aware_chords_lead_to_other_racks() {
    let rings = DualRing::switched(3, ids(0..64));
    // Two racks only: half of the random chords stay at home.
    let racks: Racks = rings.hosts().map(|host| (host, format!("r{}", host.raw() % 2))).collect();
    let at_home = |kind| {
        let chords = rings.chord_pairs(two(kind), &racks);
        let home = chords.iter().filter(|(low, high)| racks[low] == racks[high]).count();
        (home, chords.len())
    };
    assert_eq!(at_home(ChordKind::RackAware).0, 0);
    let (home, all) = at_home(ChordKind::Random);
    assert!(home * 4 > all, "{home} of {all}");
    // Without a label nobody is at home, and the chords are the random ones.
    let none = Racks::new();
    let random = rings.chord_pairs(two(ChordKind::Random), &none).len();
    assert!(rings.chord_pairs(two(ChordKind::RackAware), &none).len().abs_diff(random) < 10);
    // With one rack for all they lead somewhere all the same.
    let one: Racks = rings.hosts().map(|host| (host, "r".to_owned())).collect();
    assert!(rings.chord_pairs(two(ChordKind::RackAware), &one).len().abs_diff(random) < 10);
}

/// The bound that docs/operations.md states: of some 1,000 chords a join or a leave changes 10 in the mean, 30 at most.
#[test]
fn a_join_at_512_hosts_changes_a_handful_of_chords() {
    for kind in ChordKind::ALL {
        let (mut sum, mut most) = (0, 0);
        let before = DualRing::switched(5, ids(0..511));
        for newcomer in 511..551 {
            let after = DualRing::switched(5, ids(0..511).chain([HostId::new(newcomer)]));
            let changed = pairs(&after, two(kind)).symmetric_difference(&pairs(&before, two(kind))).count();
            sum += changed;
            most = most.max(changed);
        }
        assert!(sum <= 40 * 10 && most <= 30, "{kind:?}: {sum} in 40 joins, {most} in one");
    }
}

/// √n grows by powers of two, but host by host.
#[test]
fn no_join_changes_the_sqrt_chords_of_all() {
    let mut before = pairs(&DualRing::switched(5, ids(0..200)), two(ChordKind::Sqrt));
    for hosts in 201..300 {
        let after = pairs(&DualRing::switched(5, ids(0..hosts)), two(ChordKind::Sqrt));
        let changed = after.symmetric_difference(&before).count();
        assert!(changed <= 40, "{changed} of {} at the join of host {hosts}", before.len());
        before = after;
    }
}

fn any_kind() -> impl Strategy<Value = ChordKind> {
    prop::sample::select(&ChordKind::ALL)
}

fn hosts() -> impl Strategy<Value = BTreeSet<HostId>> {
    prop::collection::btree_set(any::<u32>().prop_map(HostId::new), 8..50)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn chords_are_the_same_from_both_ends_and_from_every_host(
        seed: u64, all in hosts(), kind in any_kind(), count in 1u8..=MAX_COUNT,
    ) {
        let chords = Chords::of(kind, count).expect("within the range");
        let rings = DualRing::switched(seed, all.iter().copied());
        let again = DualRing::switched(seed, all.iter().rev().copied());
        let racks = racks(rings.hosts());
        let links: BTreeMap<HostId, Vec<Link>> =
            rings.hosts().map(|host| (host, again.chord_links(host, chords, &racks))).collect();
        let mut seen = Pairs::new();
        for (host, links_here) in &links {
            for link in links_here {
                prop_assert!(link.peer != *host && !rings.are_neighbours(*host, link.peer));
                let back = Link { peer: *host, ..*link };
                prop_assert!(links[&link.peer].contains(&back), "{:?}", back);
                seen.insert((link.peer.min(*host), link.peer.max(*host)));
            }
        }
        prop_assert_eq!(seen, pairs(&rings, chords));
    }

    #[test]
    fn no_host_has_more_than_five_chords_for_each_that_it_may_draw(
        seed: u64, all in hosts(), kind in any_kind(), count in 1u8..=MAX_COUNT,
    ) {
        let rings = DualRing::switched(seed, all);
        let degrees = degrees(&pairs(&rings, Chords::of(kind, count).expect("within the range")));
        prop_assert!(degrees.values().all(|degree| *degree <= (1 + CROWD) * usize::from(count)), "{:?}", degrees);
    }

    #[test]
    fn a_leave_changes_only_the_chords_of_a_few(
        seed: u64, all in prop::collection::btree_set(any::<u32>().prop_map(HostId::new), 24..80),
        kind in any_kind(), pick: prop::sample::Index,
    ) {
        let with = DualRing::switched(seed, all.iter().copied());
        let leaver = *pick.get(&Vec::from_iter(&all));
        let without = DualRing::switched(seed, all.iter().copied().filter(|host| host != leaver));
        let changed = pairs(&with, two(kind)).symmetric_difference(&pairs(&without, two(kind))).count();
        prop_assert!(changed <= 60, "{} changed", changed);
    }
}
