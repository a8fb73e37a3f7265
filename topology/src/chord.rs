//! Chords: links across the rings, placed as fingers are in Chord (Stoica et al., 2001), so that a join or a leave
//! moves only those that point at its place.

use ringmesh_proto::{HostId, Uplink};

use crate::{DualRing, Link, Mode, Ring, Role, hash::hash};

/// Sets chords apart from rings 0 and 1 in the hash.
const TAG: u64 = 2;

/// Sets the choice of a chord's uplink apart from the choice of its target.
const UPLINK_TAG: u64 = 3;

/// The fewest hosts for which chords are worth their connections: with fewer, most hosts are neighbours anyway.
const MIN_HOSTS: usize = 8;

/// Chords that each host draws in a mesh of `hosts` hosts: 0 below 8 hosts, 2 from there on.
pub const fn default_chords(hosts: usize) -> usize {
    if hosts < MIN_HOSTS { 0 } else { 2 }
}

impl DualRing {
    /// The hosts to which this host draws chords: at most `per_host`, none twice, never itself nor a ring neighbour.
    ///
    /// Chord i goes to the host that owns the hash of (seed, host, i) on ring A, or to the next one that is allowed.
    /// When another host joins, chords move to it alone, except those that its ring neighbours draw. None in cabled
    /// mode, where there is no cable for them.
    pub fn chords(&self, host: HostId, per_host: usize) -> Vec<HostId> {
        let mut chords = Vec::new();
        if self.mode() == Mode::Cabled || !self.contains(host) {
            return chords;
        }
        for nth in 0..per_host as u64 {
            let target = hash(&[self.seed(), TAG, u64::from(host.raw()), nth]);
            chords.extend(self.owner(target, host).filter(|peer| !chords.contains(peer)));
        }
        chords
    }

    /// [`chords`](Self::chords) as links. Both ends agree on the uplink, which is A for about half of all pairs.
    pub fn chord_links(&self, host: HostId, per_host: usize) -> Vec<Link> {
        let link = |peer| Link { peer, uplink: self.chord_uplink(host, peer), role: Role::Chord };
        self.chords(host, per_host).into_iter().map(link).collect()
    }

    /// All chords of the mesh as (lower id, higher id), ascending, each once; O(n · per_host · log n).
    pub fn chord_pairs(&self, per_host: usize) -> Vec<(HostId, HostId)> {
        let pair = |host: HostId, peer: HostId| (host.min(peer), host.max(peer));
        let of = |host| self.chords(host, per_host).into_iter().map(move |peer| pair(host, peer));
        let mut pairs: Vec<_> = self.hosts().flat_map(of).collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }

    /// The uplink over which these two hosts would run a chord; the same from both ends.
    pub fn chord_uplink(&self, one: HostId, other: HostId) -> Uplink {
        let (low, high) = (one.min(other), one.max(other));
        match hash(&[self.seed(), UPLINK_TAG, u64::from(low.raw()), u64::from(high.raw())]) & 1 {
            0 => Uplink::A,
            _ => Uplink::B,
        }
    }

    /// The first host at or after `target` on ring A that is neither `host` nor its neighbour.
    fn owner(&self, target: u64, host: HostId) -> Option<HostId> {
        let order = self.order(Ring::A);
        let start = self.points.partition_point(|point| *point < target);
        // Itself and four neighbours are not allowed: the sixth candidate always is.
        let candidates = order[start..].iter().chain(&order[..start]).take(6).copied();
        candidates.into_iter().find(|peer| *peer != host && !self.are_neighbours(host, *peer))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn ids(range: std::ops::Range<u32>) -> impl Iterator<Item = HostId> {
        range.map(HostId::new)
    }

    #[test]
    fn small_meshes_and_cabled_ones_have_none() {
        assert_eq!((default_chords(7), default_chords(8)), (0, 2));
        let rings = DualRing::switched(1, ids(0..3));
        assert!(rings.hosts().all(|host| rings.chords(host, 4).is_empty()));
        let rings = DualRing::cabled((0..9).zip(ids(0..9)));
        assert!(rings.hosts().all(|host| rings.chords(host, 4).is_empty()));
        assert!(DualRing::switched(1, ids(0..20)).chords(HostId::new(99), 2).is_empty());
    }

    #[test]
    fn load_is_spread_and_both_uplinks_carry_it() {
        let rings = DualRing::switched(3, ids(0..512));
        let mut degree = BTreeMap::<HostId, usize>::new();
        let pairs = rings.chord_pairs(2);
        for (low, high) in &pairs {
            *degree.entry(*low).or_default() += 1;
            *degree.entry(*high).or_default() += 1;
        }
        assert!((900..=1024).contains(&pairs.len()), "{} chords", pairs.len());
        let most = degree.values().max().expect("there are chords");
        assert!(*most <= 20, "one host has {most} chords");
        let over_a = pairs.iter().filter(|(low, high)| rings.chord_uplink(*low, *high) == Uplink::A).count();
        assert!((pairs.len() / 3..pairs.len() * 2 / 3).contains(&over_a), "{over_a} of {} over A", pairs.len());
    }

    #[test]
    fn a_join_at_512_hosts_moves_a_handful_of_chords() {
        let mut moved = 0;
        for newcomer in 511..531 {
            let before = DualRing::switched(5, ids(0..511));
            let after = DualRing::switched(5, ids(0..511).chain([HostId::new(newcomer)]));
            let set = |rings: &DualRing| -> BTreeSet<(HostId, HostId)> {
                let of = |host| rings.chords(host, 2).into_iter().map(move |peer| (host, peer));
                before.hosts().flat_map(of).collect()
            };
            moved += set(&after).difference(&set(&before)).count();
        }
        assert!(moved <= 20 * 6, "{moved} chords moved in 20 joins, of 1,022 each time");
    }

    proptest! {
        #[test]
        fn chords_are_allowed_and_all_there_from_eight_hosts_on(
            seed: u64, all in prop::collection::btree_set(any::<u32>().prop_map(HostId::new), 8..60),
        ) {
            let rings = DualRing::switched(seed, all);
            for host in rings.hosts() {
                let chords = rings.chords(host, 2);
                prop_assert!((1..=2).contains(&chords.len()));
                prop_assert!(chords.iter().all(|peer| *peer != host && !rings.are_neighbours(host, *peer)));
                for link in rings.chord_links(host, 2) {
                    prop_assert_eq!(link.uplink, rings.chord_uplink(link.peer, host));
                }
            }
        }

        #[test]
        fn only_the_newcomer_gains_chords_except_at_its_neighbours(
            seed: u64,
            all in prop::collection::btree_set(any::<u32>().prop_map(HostId::new), 9..60),
            pick: prop::sample::Index,
        ) {
            let with = DualRing::switched(seed, all.iter().copied());
            let newcomer = **pick.get(&Vec::from_iter(&all));
            let without = DualRing::switched(seed, all.iter().copied().filter(|host| *host != newcomer));
            for host in without.hosts().filter(|host| !with.are_neighbours(*host, newcomer)) {
                let before = without.chords(host, 2);
                for gained in with.chords(host, 2).into_iter().filter(|peer| !before.contains(peer)) {
                    prop_assert_eq!(gained, newcomer);
                }
            }
        }
    }
}
