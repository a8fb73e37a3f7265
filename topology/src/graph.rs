//! Measures of a graph of hosts: what is reachable, how far, and after which losses.

use std::collections::VecDeque;

use ringmesh_proto::{HostId, Uplink};

use crate::{Chords, DualRing, Mode, Racks, Ring};

/// An undirected edge; `None` for the uplink if it stands for something else than one.
type Edge = (HostId, HostId, Option<Uplink>);

/// An undirected graph of hosts. Two hosts may be joined by several edges, one an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// Ascending.
    hosts: Vec<HostId>,
    /// The lower host first, ascending, each once.
    edges: Vec<Edge>,
}

impl Graph {
    /// The graph of these hosts and edges. Edges from a host to itself or to a host that is not there are left out.
    pub fn new(hosts: impl IntoIterator<Item = HostId>, edges: impl IntoIterator<Item = Edge>) -> Self {
        let mut hosts: Vec<HostId> = hosts.into_iter().collect();
        hosts.sort_unstable();
        hosts.dedup();
        let known = |host: &HostId| hosts.binary_search(host).is_ok();
        let mut edges: Vec<Edge> = edges
            .into_iter()
            .filter(|(one, other, _)| one != other && known(one) && known(other))
            .map(|(one, other, uplink)| (one.min(other), one.max(other), uplink))
            .collect();
        edges.sort_unstable();
        edges.dedup();
        Self { hosts, edges }
    }

    /// The links of a dual ring and its chords.
    ///
    /// In cabled mode an edge is a cable and bears A, the uplink of its counter-clockwise end; the other end's is B.
    pub fn of(rings: &DualRing, chords: Chords, racks: &Racks) -> Self {
        let mut edges = Vec::new();
        let cycles: &[Ring] = match rings.mode() {
            Mode::Switched => &Ring::BOTH,
            Mode::Cabled => &[Ring::A],
        };
        for ring in cycles.iter().copied() {
            let pair = |host| Some((host, rings.successor(ring, host)?, Some(ring.uplink())));
            edges.extend(rings.hosts().filter_map(pair));
        }
        let chord = |(low, high)| (low, high, Some(rings.chord_uplink(low, high)));
        edges.extend(rings.chord_pairs(chords, racks).into_iter().map(chord));
        Self::new(rings.hosts(), edges)
    }

    /// Ascending.
    pub fn hosts(&self) -> &[HostId] {
        &self.hosts
    }

    /// The lower host first, ascending.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// What is left when a host fails.
    #[must_use]
    pub fn without_host(&self, lost: HostId) -> Self {
        Self::new(self.hosts.iter().copied().filter(|host| *host != lost), self.edges.iter().copied())
    }

    /// What is left when all edges fail for which `lost` is true.
    #[must_use]
    pub fn without_edges(&self, lost: impl Fn(&Edge) -> bool) -> Self {
        Self { hosts: self.hosts.clone(), edges: self.edges.iter().copied().filter(|edge| !lost(edge)).collect() }
    }

    /// Hops from a host to each of [`hosts`](Self::hosts); `None` where no path leads. All `None` for an unknown host.
    pub fn distances(&self, from: HostId) -> Vec<Option<u32>> {
        match self.hosts.binary_search(&from) {
            Ok(from) => breadth_first(&self.adjacency(), from),
            Err(_) => vec![None; self.hosts.len()],
        }
    }

    /// Whether a path leads from each host to each other; true for none and for one.
    pub fn is_connected(&self) -> bool {
        self.hosts.first().is_none_or(|first| self.distances(*first).iter().all(Option::is_some))
    }

    /// The most hops between two hosts, and the mean over all pairs; `None` if some have no path or there is no pair.
    pub fn hops(&self) -> Option<Hops> {
        let adjacency = self.adjacency();
        let (mut diameter, mut sum) = (0, 0);
        for from in 0..adjacency.len() {
            for hops in breadth_first(&adjacency, from) {
                diameter = diameter.max(hops?);
                sum += u64::from(hops?);
            }
        }
        let pairs = adjacency.len() * adjacency.len().checked_sub(1)?;
        (pairs > 0).then(|| Hops { diameter, mean: sum as f64 / pairs as f64 })
    }

    /// For each of `hosts`, the indices of the hosts it has an edge to.
    fn adjacency(&self) -> Vec<Vec<usize>> {
        let index = |host: &HostId| self.hosts.binary_search(host).expect("new() leaves out edges to unknown hosts");
        let mut adjacency = vec![Vec::new(); self.hosts.len()];
        for (one, other, _) in &self.edges {
            let (one, other) = (index(one), index(other));
            adjacency[one].push(other);
            adjacency[other].push(one);
        }
        adjacency
    }
}

/// How far hosts are from each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hops {
    /// Between the two that are farthest apart.
    pub diameter: u32,
    /// Over all pairs of different hosts.
    pub mean: f64,
}

fn breadth_first(adjacency: &[Vec<usize>], from: usize) -> Vec<Option<u32>> {
    let mut distances = vec![None; adjacency.len()];
    distances[from] = Some(0);
    let mut queue = VecDeque::from([(from, 0)]);
    while let Some((at, hops)) = queue.pop_front() {
        for next in &adjacency[at] {
            if distances[*next].is_none() {
                distances[*next] = Some(hops + 1);
                queue.push_back((*next, hops + 1));
            }
        }
    }
    distances
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(range: std::ops::Range<u32>) -> impl Iterator<Item = HostId> {
        range.map(HostId::new)
    }

    fn cabled(hosts: u16) -> DualRing {
        DualRing::cabled((0..hosts).zip(ids(0..u32::from(hosts))))
    }

    #[test]
    fn a_plain_ring_has_the_distances_of_a_circle() {
        let graph = plain(&cabled(10), Chords::None);
        let distances: Vec<_> = graph.distances(HostId::new(0)).into_iter().flatten().collect();
        assert_eq!(distances, [0, 1, 2, 3, 4, 5, 4, 3, 2, 1]);
        assert_eq!(graph.hops().map(|hops| hops.diameter), Some(5));
        assert_eq!(graph.distances(HostId::new(99)), [None; 10]);
    }

    #[test]
    fn what_is_cut_off_is_seen() {
        let graph = plain(&cabled(6), Chords::None);
        let two_cables = graph.without_edges(|edge| edge.0 == HostId::new(0));
        assert!(!two_cables.is_connected(), "a host without its two cables is alone");
        assert_eq!(two_cables.hops(), None);
        assert!(Graph::new([], []).is_connected() && Graph::new(ids(1..2), []).is_connected());
        assert_eq!(Graph::new(ids(1..2), []).hops(), None);
    }

    /// The reason for two independent orders: the same four links a host, but an expander.
    #[test]
    fn a_permuted_dual_ring_of_1024_hosts_is_some_ten_hops_wide_where_a_plain_ring_is_512() {
        for seed in 0..3 {
            let rings = DualRing::switched(seed, ids(0..1024));
            let bare = plain(&rings, Chords::None).hops().expect("connected");
            assert!(bare.diameter <= 12 && bare.mean < 6.5, "seed {seed}: {bare:?}");
            let chords = plain(&rings, Chords::Auto).hops().expect("connected");
            assert!(chords.diameter <= 8 && chords.mean < bare.mean, "seed {seed}: {chords:?}");
        }
        assert_eq!(plain(&cabled(1024), Chords::None).hops().map(|hops| hops.diameter), Some(512));
    }

    fn plain(rings: &DualRing, chords: Chords) -> Graph {
        Graph::of(rings, chords, &Racks::new())
    }

    proptest! {
        #[test]
        fn a_dual_ring_survives_any_one_host_link_or_segment(
            seed: u64, all in prop::collection::btree_set(any::<u32>().prop_map(HostId::new), 4..40),
        ) {
            let graph = plain(&DualRing::switched(seed, all), Chords::None);
            for lost in graph.hosts() {
                prop_assert!(graph.without_host(*lost).is_connected(), "without host {lost}");
                for uplink in Uplink::BOTH {
                    let cut = |edge: &Edge| (edge.0 == *lost || edge.1 == *lost) && edge.2 == Some(uplink);
                    prop_assert!(graph.without_edges(cut).is_connected(), "{lost} without uplink {uplink}");
                }
            }
            for lost in graph.edges() {
                prop_assert!(graph.without_edges(|edge| edge == lost).is_connected(), "without {lost:?}");
            }
            for uplink in Uplink::BOTH {
                prop_assert!(graph.without_edges(|edge| edge.2 == Some(uplink)).is_connected(), "segment {uplink}");
            }
        }

        #[test]
        fn a_cabled_ring_survives_any_one_host_or_cable(hosts in 3u16..40) {
            let graph = plain(&cabled(hosts), Chords::None);
            for lost in graph.hosts() {
                prop_assert!(graph.without_host(*lost).is_connected(), "without host {lost}");
            }
            for lost in graph.edges() {
                prop_assert!(graph.without_edges(|edge| edge == lost).is_connected(), "without {lost:?}");
            }
        }
    }
}
