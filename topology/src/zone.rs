//! How zones are joined: which hosts speak for a zone, which zones are neighbours, and which delegates of two of them hold
//! a trunk.
//!
//! ```text
//!  zone east:  d0 d1 d2  h h h …        d0 ═══ d0   trunk 0
//!               ║  ║  ║                 d1 ═══ d1   trunk 1
//!  zone west:  d0 d1 d2  h h h …        d2 ═══ d2   trunk 2
//! ```

use std::collections::BTreeSet;

use ringmesh_proto::{HostId, ZoneId};

use crate::hash::hash;

/// The hosts that speak for a zone, and the trunks between two zones.
pub const DELEGATES: usize = 3;

/// Up to so many zones each is every other's neighbour; more make a ring with chords.
pub const FULL_MESH_ZONES: usize = 12;

/// Sets delegates apart from all else that is hashed with the seed.
const DELEGATE_TAG: u64 = 4;

/// Sets the order of the zones apart.
const ZONE_TAG: u64 = 5;

/// The delegates of a zone, the first one first: of its hosts those with the lowest hashes, [`DELEGATES`] or all if they are
/// fewer. A join or a leave changes one of them at the most (rendezvous hashing: Thaler, Ravishankar, 1996).
pub fn delegates(seed: u64, zone: ZoneId, hosts: impl IntoIterator<Item = HostId>) -> Vec<HostId> {
    let mut lowest: Vec<_> = Vec::with_capacity(DELEGATES + 1);
    for host in hosts.into_iter().map(|host| rank(seed, zone, host)) {
        let at = lowest.partition_point(|other| *other < host);
        lowest.insert(at, host);
        lowest.truncate(DELEGATES);
    }
    lowest.into_iter().map(|(_, host)| host).collect()
}

/// Whether it makes another choice of [`delegates`] that this host comes or goes.
pub fn concerns_delegates(seed: u64, zone: ZoneId, delegates: &[HostId], host: HostId) -> bool {
    let last = delegates.last().filter(|_| delegates.len() == DELEGATES);
    last.is_none_or(|last| rank(seed, zone, host) <= rank(seed, zone, *last))
}

fn rank(seed: u64, zone: ZoneId, host: HostId) -> (u64, HostId) {
    (hash(&[seed, DELEGATE_TAG, u64::from(zone.raw()), u64::from(host.raw())]), host)
}

/// The zones to which a zone has trunks, symmetric: all others up to [`FULL_MESH_ZONES`] zones; of more, on a seeded ring of
/// all zones, those 1, 2, 4, 8 … places away in both directions, at most 2 · log₂ n.
pub fn zone_neighbours(seed: u64, me: ZoneId, zones: &BTreeSet<ZoneId>) -> BTreeSet<ZoneId> {
    let mut order: Vec<ZoneId> = zones.iter().copied().chain([me]).collect();
    order.sort_unstable_by_key(|zone| (hash(&[seed, ZONE_TAG, u64::from(zone.raw())]), *zone));
    order.dedup();
    let count = order.len();
    if count <= FULL_MESH_ZONES {
        return order.into_iter().filter(|zone| *zone != me).collect();
    }
    let place = order.iter().position(|zone| *zone == me).expect("it is one of them");
    let steps = std::iter::successors(Some(1), |step| Some(step * 2)).take_while(|step| *step <= count / 2);
    steps.flat_map(|step| [order[(place + step) % count], order[(place + count - step) % count]]).collect()
}

/// The places of the other zone's delegates to which the delegate at `place` holds trunks: of the [`DELEGATES`] trunks between
/// two zones, number i runs between the delegates i modulo their numbers.
pub fn trunk_places(place: usize, ours: usize, theirs: usize) -> BTreeSet<usize> {
    if ours == 0 || theirs == 0 {
        return BTreeSet::new();
    }
    (0..DELEGATES).filter(|trunk| trunk % ours == place).map(|trunk| trunk % theirs).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn zones(count: u32) -> BTreeSet<ZoneId> {
        (0..count).map(|number| ZoneId::of(&format!("zone-{number}"))).collect()
    }

    #[test]
    fn small_zones_have_fewer_delegates_and_still_every_trunk_has_two_ends() {
        assert_eq!(delegates(1, ZoneId::of("a"), []), []);
        assert_eq!(delegates(1, ZoneId::of("a"), [HostId::new(7)]), [HostId::new(7)]);
        for (ours, theirs) in [(1, 1), (1, 3), (2, 3), (3, 3)] {
            let here = (0..ours).flat_map(|a| trunk_places(a, ours, theirs).into_iter().map(move |b| (a, b)));
            let there = (0..theirs).flat_map(|b| trunk_places(b, theirs, ours).into_iter().map(move |a| (a, b)));
            assert_eq!(here.collect::<BTreeSet<_>>(), there.collect::<BTreeSet<_>>(), "{ours} and {theirs}");
        }
        assert_eq!(trunk_places(0, 0, 3), BTreeSet::new());
    }

    #[test]
    fn the_load_of_speaking_is_spread_over_the_hosts() {
        let mut times = BTreeMap::<HostId, usize>::new();
        for zone in zones(300) {
            for host in delegates(3, zone, (0..30).map(HostId::new)) {
                *times.entry(host).or_default() += 1;
            }
        }
        assert!(times.len() == 30 && times.values().all(|times| (10..60).contains(times)), "{times:?}");
    }

    #[test]
    fn many_zones_are_close_to_each_other_over_few_trunks() {
        for count in [2, 12, 13, 64] {
            let all = zones(count);
            let neighbours = |zone: &ZoneId| zone_neighbours(9, *zone, &all);
            for zone in &all {
                let near = neighbours(zone);
                assert!(near.len() <= 12 && near.iter().all(|other| other != zone && neighbours(other).contains(zone)));
            }
            let (mut reached, mut hops) = (BTreeSet::from([*all.first().expect("not empty")]), 0);
            while reached.len() < all.len() {
                let next: BTreeSet<_> = reached.iter().flat_map(neighbours).collect();
                reached.extend(next);
                hops += 1;
            }
            assert!(hops <= 3, "{count} zones, {hops} hops");
        }
    }

    proptest! {
        #[test]
        fn a_join_or_a_leave_changes_one_delegate_at_the_most(
            seed: u64, all in prop::collection::btree_set(any::<u32>().prop_map(HostId::new), 4..60),
            pick: prop::sample::Index,
        ) {
            let zone = ZoneId::of("east");
            let gone = **pick.get(&Vec::from_iter(&all));
            let with: BTreeSet<_> = delegates(seed, zone, all.iter().copied()).into_iter().collect();
            let without: BTreeSet<_> =
                delegates(seed, zone, all.iter().copied().filter(|host| *host != gone)).into_iter().collect();
            prop_assert_eq!(with.difference(&without).count(), usize::from(with.contains(&gone)));
            prop_assert!(with.len() == 3 && without.len() == 3);
            for few in [0, 1, 2, all.len()] {
                let others = all.iter().copied().filter(|host| *host != gone).take(few);
                let (with, without) =
                    (delegates(seed, zone, others.clone().chain([gone])), delegates(seed, zone, others));
                for known in [&with, &without] {
                    prop_assert!(with == without || concerns_delegates(seed, zone, known, gone));
                }
            }
        }
    }
}
