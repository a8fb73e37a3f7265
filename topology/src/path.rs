//! Shortest paths over the links of rings and chords as they do now.
//!
//! It owns the order of paths: fewest hops, then fewest degraded links, then the least round trip. Which links there are,
//! and how they do, it is told.

use std::collections::{BTreeMap, BTreeSet};

use ringmesh_proto::{HostId, Uplink};

use crate::Role;

/// A link that carries traffic, as one goes over it in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hop {
    /// Where it begins.
    pub from: HostId,
    /// Where it ends.
    pub to: HostId,
    /// The uplink at its beginning.
    pub uplink: Uplink,
    /// What the link is for.
    pub role: Role,
    /// Many packets are lost on it.
    pub degraded: bool,
    /// Round trip in microseconds; `None` if it was not measured, which counts as the longest.
    pub rtt_us: Option<u32>,
}

/// How long a path is: the lesser is the better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Length {
    hops: u32,
    degraded: u32,
    rtt_us: u64,
}

impl Length {
    fn and(self, hop: &Hop) -> Self {
        Self {
            hops: self.hops + 1,
            degraded: self.degraded + u32::from(hop.degraded),
            rtt_us: self.rtt_us.saturating_add(hop.rtt_us.unwrap_or(u32::MAX).into()),
        }
    }
}

/// The best path from one host to another that goes over none of `avoid`; empty from a host to itself, `None` if there is
/// none. Of equal paths always the same one. Dijkstra, O(m log n).
pub fn shortest_path(
    hops: impl IntoIterator<Item = Hop>,
    from: HostId,
    to: HostId,
    avoid: &BTreeSet<HostId>,
) -> Option<Vec<Hop>> {
    let mut leaving: BTreeMap<HostId, Vec<Hop>> = BTreeMap::new();
    for hop in hops.into_iter().filter(|hop| !avoid.contains(&hop.from) && !avoid.contains(&hop.to)) {
        leaving.entry(hop.from).or_default().push(hop);
    }
    leaving.values_mut().for_each(|hops| hops.sort_unstable());
    let mut best: BTreeMap<HostId, (Length, Option<Hop>)> = BTreeMap::from([(from, (Length::default(), None))]);
    let mut queue = BTreeSet::from([(Length::default(), from)]);
    while let Some((length, at)) = queue.pop_first() {
        if at == to {
            return Some(back(&best, to));
        }
        for hop in leaving.get(&at).into_iter().flatten() {
            let longer = length.and(hop);
            let known = best.get(&hop.to).map(|(length, _)| *length);
            if known.is_none_or(|known| longer < known) {
                queue.extend([(longer, hop.to)]);
                known.map(|known| queue.remove(&(known, hop.to)));
                best.insert(hop.to, (longer, Some(*hop)));
            }
        }
    }
    None
}

/// The hops that led to a host.
fn back(best: &BTreeMap<HostId, (Length, Option<Hop>)>, to: HostId) -> Vec<Hop> {
    let mut path: Vec<Hop> = Vec::new();
    let mut at = to;
    while let Some((_, Some(hop))) = best.get(&at) {
        path.push(*hop);
        at = hop.from;
    }
    path.reverse();
    path
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Chords, DualRing, Racks, graph::Graph};

    fn id(raw: u32) -> HostId {
        HostId::new(raw)
    }

    /// Both directions of a link.
    fn link(one: u32, other: u32, uplink: Uplink, rtt_us: u32) -> [Hop; 2] {
        let hop = |from, to| Hop {
            from: id(from),
            to: id(to),
            uplink,
            role: Role::RingA,
            degraded: false,
            rtt_us: (rtt_us > 0).then_some(rtt_us),
        };
        [hop(one, other), hop(other, one)]
    }

    fn ends(path: Option<Vec<Hop>>) -> Option<Vec<u32>> {
        path.map(|path| path.iter().map(|hop| hop.to.raw()).collect())
    }

    #[test]
    fn hops_come_first_then_degradation_then_round_trips() {
        let none = BTreeSet::new();
        let mut hops: Vec<Hop> =
            [link(1, 2, Uplink::A, 10), link(2, 3, Uplink::A, 10), link(1, 3, Uplink::B, 900)].concat();
        assert_eq!(
            ends(shortest_path(hops.clone(), id(1), id(3), &none)),
            Some(vec![3]),
            "one slow hop beats two fast"
        );
        hops.extend(link(3, 4, Uplink::A, 10));
        hops.extend(link(2, 4, Uplink::A, 10));
        assert_eq!(ends(shortest_path(hops.clone(), id(1), id(4), &none)), Some(vec![2, 4]), "the faster of two");
        for hop in hops.iter_mut().filter(|hop| hop.to == id(2) || hop.from == id(2)) {
            hop.degraded = true;
        }
        assert_eq!(ends(shortest_path(hops.clone(), id(1), id(4), &none)), Some(vec![3, 4]), "the healthier of two");
        hops.extend(link(1, 3, Uplink::A, 0));
        let path = shortest_path(hops.clone(), id(1), id(3), &none).expect("there is one");
        assert_eq!((path.len(), path[0].uplink), (1, Uplink::B), "what was measured before what was not");
        let avoid = BTreeSet::from([id(3)]);
        assert_eq!(ends(shortest_path(hops.clone(), id(1), id(4), &avoid)), Some(vec![2, 4]));
        let avoid = BTreeSet::from([id(2), id(3)]);
        assert_eq!(shortest_path(hops.clone(), id(1), id(4), &avoid), None);
        assert_eq!(shortest_path(hops.clone(), id(1), id(1), &none), Some(Vec::new()));
        assert_eq!(shortest_path(hops, id(1), id(99), &none), None);
    }

    proptest! {
        #[test]
        fn paths_are_whole_and_as_short_as_the_graph_allows(seed: u64, hosts in 8u32..60, to: prop::sample::Index) {
            let rings = DualRing::switched(seed, (0..hosts).map(id));
            let graph = Graph::of(&rings, Chords::Auto, &Racks::new());
            let hops: Vec<Hop> = graph
                .edges()
                .iter()
                .flat_map(|(one, other, uplink)| link(one.raw(), other.raw(), uplink.unwrap_or(Uplink::A), 100))
                .collect();
            let to = to.index(hosts as usize);
            let avoided = Some(id((to as u32 + 1) % hosts)).filter(|host| *host != id(0));
            let avoid: BTreeSet<HostId> = avoided.into_iter().collect();
            let left = graph.hosts().iter().filter(|host| !avoid.contains(*host)).copied();
            let graph = Graph::new(left, graph.edges().iter().copied());
            let place = graph.hosts().iter().position(|host| *host == id(to as u32)).expect("is there");
            let path = shortest_path(hops, id(0), id(to as u32), &avoid);
            let expected = graph.distances(id(0))[place];
            prop_assert_eq!(path.as_ref().map(|path| path.len() as u32), expected);
            let mut at = id(0);
            for hop in path.unwrap_or_default() {
                prop_assert_eq!(hop.from, at);
                prop_assert!(!avoid.contains(&hop.to));
                at = hop.to;
            }
            prop_assert!(expected.is_none() || at == id(to as u32));
        }
    }
}
