//! The two cyclic orders of the hosts, and who is whose neighbour.

use std::fmt;

use ringmesh_proto::{HostId, Uplink};

use crate::hash::hash;

/// One of the two rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ring {
    /// Runs over uplink A; clockwise in cabled mode.
    A,
    /// Runs over uplink B; counter-clockwise in cabled mode.
    B,
}

impl Ring {
    /// Both, A first.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// 0 for A, 1 for B.
    pub const fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    /// The uplink over which a host sends to its successor on this ring.
    pub const fn uplink(self) -> Uplink {
        match self {
            Self::A => Uplink::A,
            Self::B => Uplink::B,
        }
    }

    /// "a" or "b".
    pub const fn as_str(self) -> &'static str {
        self.uplink().as_str()
    }
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Uplink> for Ring {
    fn from(uplink: Uplink) -> Self {
        match uplink {
            Uplink::A => Self::A,
            Uplink::B => Self::B,
        }
    }
}

/// How the hosts are wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each uplink is a segment that reaches every host; the rings are orders that we choose.
    Switched,
    /// Each uplink is a cable to a neighbour; the rings are the two directions of one physical cycle.
    Cabled,
}

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Joins two neighbours on ring A.
    RingA,
    /// Joins two neighbours on ring B.
    RingB,
    /// Makes the rings a partial mesh.
    Chord,
}

impl Role {
    /// "ring-a", "ring-b" or "chord", as in ringmesh.v1.Link.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RingA => "ring-a",
            Self::RingB => "ring-b",
            Self::Chord => "chord",
        }
    }
}

impl From<Ring> for Role {
    fn from(ring: Ring) -> Self {
        match ring {
            Ring::A => Self::RingA,
            Ring::B => Self::RingB,
        }
    }
}

/// A link as one of its ends sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link {
    /// The host at the other end.
    pub peer: HostId,
    /// The uplink of this end.
    pub uplink: Uplink,
    /// What it is for.
    pub role: Role,
}

/// So many hosts come and go one by one; more make the orders anew.
const MAX_STEPS: usize = 8;

/// Two cyclic orders of one set of hosts.
///
/// A join or a leave changes exactly four (host, predecessor or successor) pointers on each ring: two of the host
/// itself and one at each of its neighbours. With two hosts each is the other's predecessor and successor; a host
/// alone has neither, so the first join and the last leave change none.
///
/// Building costs O(n log n), a query O(log n), a change of few hosts by [`Self::turn_into`] O(n) moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DualRing {
    mode: Mode,
    seed: u64,
    orders: [Vec<HostId>; 2],
    /// Hashes of `orders[0]`, ascending; empty in cabled mode.
    pub(crate) points: Vec<u64>,
    /// Sorted by host.
    seats: Vec<Seat>,
}

/// A host's index in each order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seat {
    host: HostId,
    index: [u32; 2],
}

impl DualRing {
    /// Two independent orders by a hash of seed, ring and host. A host named twice counts once.
    pub fn switched(seed: u64, hosts: impl IntoIterator<Item = HostId>) -> Self {
        let mut hosts: Vec<HostId> = hosts.into_iter().collect();
        hosts.sort_unstable();
        hosts.dedup();
        let [a, b] = Ring::BOTH.map(|ring| {
            let mut points: Vec<(u64, HostId)> = hosts.iter().map(|host| (point(seed, ring, *host), *host)).collect();
            points.sort_unstable();
            points
        });
        let points = a.iter().map(|(point, _)| *point).collect();
        let orders = [a, b].map(|points| points.into_iter().map(|(_, host)| host).collect());
        Self::new(Mode::Switched, seed, orders, points)
    }

    /// One physical cycle in the order of the positions: ring A runs up, ring B runs down.
    ///
    /// Hosts with the same position are ordered by id; a host named twice keeps its lowest position.
    pub fn cabled(positions: impl IntoIterator<Item = (u16, HostId)>) -> Self {
        let mut places: Vec<(HostId, u16)> = positions.into_iter().map(|(position, host)| (host, position)).collect();
        places.sort_unstable();
        places.dedup_by_key(|(host, _)| *host);
        places.sort_unstable_by_key(|(host, position)| (*position, *host));
        let a: Vec<HostId> = places.into_iter().map(|(host, _)| host).collect();
        let b = a.iter().rev().copied().collect();
        Self::new(Mode::Cabled, 0, [a, b], Vec::new())
    }

    fn new(mode: Mode, seed: u64, orders: [Vec<HostId>; 2], points: Vec<u64>) -> Self {
        let mut seats: Vec<Seat> =
            (0..).zip(&orders[0]).map(|(index, host)| Seat { host: *host, index: [index, 0] }).collect();
        seats.sort_unstable_by_key(|seat| seat.host);
        for (index, host) in (0..).zip(&orders[1]) {
            let seat = seats.binary_search_by_key(host, |seat| seat.host).expect("both orders hold the same hosts");
            seats[seat].index[1] = index;
        }
        Self { mode, seed, orders, points, seats }
    }

    /// Makes this what [`Self::switched`] would make of these hosts with this seed, at once if few came or went. In cabled mode
    /// it becomes switched.
    pub fn turn_into(&mut self, seed: u64, hosts: impl IntoIterator<Item = HostId>) {
        let mut hosts: Vec<HostId> = hosts.into_iter().collect();
        hosts.sort_unstable();
        hosts.dedup();
        let came = without(hosts.iter().copied(), self.hosts());
        let went = without(self.hosts(), hosts.iter().copied());
        if self.mode == Mode::Cabled || self.seed != seed || came.len() + went.len() > MAX_STEPS {
            *self = Self::switched(seed, hosts);
            return;
        }
        came.into_iter().for_each(|host| self.insert(host));
        went.into_iter().for_each(|host| self.remove(host));
    }

    fn insert(&mut self, host: HostId) {
        let index = Ring::BOTH.map(|ring| {
            let at = self.place_of(ring, host);
            self.orders[ring.index()].insert(at, host);
            at
        });
        self.points.insert(index[0], point(self.seed, Ring::A, host));
        let index = index.map(|at| at as u32);
        for seat in &mut self.seats {
            for (place, new) in seat.index.iter_mut().zip(index) {
                *place += u32::from(*place >= new);
            }
        }
        let at = self.seats.partition_point(|seat| seat.host < host);
        self.seats.insert(at, Seat { host, index });
    }

    fn remove(&mut self, host: HostId) {
        let Ok(at) = self.seats.binary_search_by_key(&host, |seat| seat.host) else { return };
        let Seat { index, .. } = self.seats.remove(at);
        for (order, gone) in self.orders.iter_mut().zip(index) {
            order.remove(gone as usize);
        }
        self.points.remove(index[0] as usize);
        for seat in &mut self.seats {
            for (place, gone) in seat.index.iter_mut().zip(index) {
                *place -= u32::from(*place > gone);
            }
        }
    }

    /// The index that a host has, or would have, in a switched order.
    fn place_of(&self, ring: Ring, host: HostId) -> usize {
        let key = |host: HostId| (point(self.seed, ring, host), host);
        let place = key(host);
        self.orders[ring.index()].partition_point(|other| key(*other) < place)
    }

    /// How the hosts are wired.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The seed of both orders; 0 in cabled mode.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The number of hosts.
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// Whether there is no host at all.
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// Whether the host is on the rings.
    pub fn contains(&self, host: HostId) -> bool {
        self.position(Ring::A, host).is_some()
    }

    /// All hosts, ascending by id.
    pub fn hosts(&self) -> impl ExactSizeIterator<Item = HostId> + '_ {
        self.seats.iter().map(|seat| seat.host)
    }

    /// The hosts in ring order; the last one is followed by the first.
    pub fn order(&self, ring: Ring) -> &[HostId] {
        &self.orders[ring.index()]
    }

    /// The index of a host in [`order`](Self::order), if it is on the rings.
    pub fn position(&self, ring: Ring, host: HostId) -> Option<usize> {
        let seat = self.seats.binary_search_by_key(&host, |seat| seat.host).ok()?;
        Some(self.seats[seat].index[ring.index()] as usize)
    }

    /// The next host on the ring; `None` for a host that is alone or not on it.
    pub fn successor(&self, ring: Ring, host: HostId) -> Option<HostId> {
        self.step(ring, host, 1)
    }

    /// The host before it on the ring; `None` for a host that is alone or not on it.
    pub fn predecessor(&self, ring: Ring, host: HostId) -> Option<HostId> {
        self.step(ring, host, self.len().saturating_sub(1))
    }

    fn step(&self, ring: Ring, host: HostId, steps: usize) -> Option<HostId> {
        let position = self.position(ring, host)?;
        if self.len() < 2 {
            return None;
        }
        Some(self.order(ring)[(position + steps) % self.len()])
    }

    /// The ring links of a host, each once, successors before predecessors.
    ///
    /// Switched: four (two hosts that are alone together have one a ring). A peer that is a neighbour on both rings
    /// has a link on each. Cabled: two, for a cable serves both rings; it is seen as the ring on which the peer is
    /// the successor, since that is the uplink it is plugged into.
    pub fn neighbours(&self, host: HostId) -> Vec<Link> {
        let mut links = Vec::with_capacity(4);
        for ring in Ring::BOTH {
            let successor = self.successor(ring, host);
            let predecessor = match self.mode {
                Mode::Switched => self.predecessor(ring, host).filter(|peer| Some(*peer) != successor),
                Mode::Cabled => None,
            };
            let link = |peer| Link { peer, uplink: ring.uplink(), role: ring.into() };
            links.extend(successor.into_iter().chain(predecessor).map(link));
        }
        links
    }

    /// Whether two hosts stand side by side on either ring.
    pub fn are_neighbours(&self, one: HostId, other: HostId) -> bool {
        Ring::BOTH
            .into_iter()
            .any(|ring| self.successor(ring, one) == Some(other) || self.predecessor(ring, one) == Some(other))
    }
}

/// The hosts of one list that are not in the other; both ascend.
fn without(of: impl Iterator<Item = HostId>, others: impl Iterator<Item = HostId>) -> Vec<HostId> {
    let mut others = others.peekable();
    let lacks = |host: &HostId| {
        while others.next_if(|other| other < host).is_some() {}
        others.peek() != Some(host)
    };
    of.filter(lacks).collect()
}

/// Where a host stands on the circle of 64-bit numbers.
fn point(seed: u64, ring: Ring, host: HostId) -> u64 {
    hash(&[seed, ring.index() as u64, u64::from(host.raw())])
}

#[cfg(test)]
mod tests;
