//! Chords: links across the rings that make them a partial mesh.
//!
//! Each host draws some by a rule that the whole cluster shares, and both ends of a chord find it. All rules look for
//! places on ring A's circle of hashes and take whoever owns them, as in Chord (Stoica et al., 2001), so that a join or a
//! leave moves only the chords that point at its place. It does not know how a cluster agrees on the rule.

use std::{collections::BTreeMap, fmt, str::FromStr};

use ringmesh_proto::{HostId, Uplink};

use crate::{DualRing, Link, Mode, Ring, Role, hash::hash};

/// Sets chords apart from rings 0 and 1 in the hash.
const TAG: u64 = 2;

/// Sets the choice of a chord's uplink apart from the choice of its target.
const UPLINK_TAG: u64 = 3;

/// Sets apart which of the chords that point at a crowded host stay.
const CROWD_TAG: u64 = 4;

/// Sets apart which hosts jump by the next power of two.
const SCALE_TAG: u64 = 5;

/// The fewest hosts for which "auto" draws chords: with fewer, most hosts are neighbours anyway.
const MIN_HOSTS: usize = 8;

/// The most chords that a host draws. With those drawn to it and its ring links it has 44 links at most.
pub const MAX_COUNT: u8 = 8;

/// A host takes so many chords of others for each that it may draw; further ones are not there.
const CROWD: usize = 4;

/// Hosts from a chord's place on among which one of another rack is looked for.
const RACK_SCAN: usize = 64;

/// The rack of each host that names one.
pub type Racks = BTreeMap<HostId, String>;

/// Which chords a cluster has: the same rule at all hosts, from its creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chords {
    /// Two random ones a host from eight hosts on, none below.
    #[default]
    Auto,
    /// None.
    None,
    /// Some of one kind, at any number of hosts.
    Of(Drawn),
}

/// A kind of chord, and how many of it each host draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    kind: ChordKind,
    count: u8,
}

/// Where a host's chords lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChordKind {
    /// Anywhere, by hash.
    Random,
    /// √n hosts on along ring A, twice as far, and so on.
    Sqrt,
    /// Half of ring A on, a quarter, an eighth, and so on.
    Fingers,
    /// Anywhere, by hash, but rather into another rack, and each into another one.
    RackAware,
}

impl ChordKind {
    /// All, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::Random, Self::Sqrt, Self::Fingers, Self::RackAware];

    /// As in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Sqrt => "sqrt",
            Self::Fingers => "fingers",
            Self::RackAware => "rack-aware",
        }
    }
}

/// A text that names no chords.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoChords;

impl Chords {
    /// `count` chords of a kind a host; `None` unless it is 1 to [`MAX_COUNT`].
    pub fn of(kind: ChordKind, count: u8) -> Option<Self> {
        (1..=MAX_COUNT).contains(&count).then_some(Self::Of(Drawn { kind, count }))
    }

    /// Whether racks count.
    pub fn heeds_racks(self) -> bool {
        matches!(self, Self::Of(Drawn { kind: ChordKind::RackAware, .. }))
    }

    /// What each of so many hosts draws.
    fn drawn(self, hosts: usize) -> Option<Drawn> {
        match self {
            Self::Auto if hosts >= MIN_HOSTS => Some(Drawn { kind: ChordKind::Random, count: 2 }),
            Self::Auto | Self::None => None,
            Self::Of(drawn) => Some(drawn),
        }
    }
}

/// "auto", "none" or "KIND:COUNT".
impl fmt::Display for Chords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Of(Drawn { kind, count }) => write!(f, "{}:{count}", kind.as_str()),
        }
    }
}

impl FromStr for Chords {
    type Err = NoChords;

    fn from_str(text: &str) -> Result<Self, NoChords> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            _ => {
                let (kind, count) = text.split_once(':').ok_or(NoChords)?;
                let kind = ChordKind::ALL.into_iter().find(|known| known.as_str() == kind).ok_or(NoChords)?;
                let count = count.parse().map_err(|_| NoChords)?;
                Self::of(kind, count).ok_or(NoChords)
            }
        }
    }
}

impl DualRing {
    /// The hosts to which this host would draw chords: none twice, never itself nor a ring neighbour. None in cabled mode,
    /// where there is no cable for them.
    fn targets(&self, host: HostId, drawn: Drawn, racks: &Racks) -> Vec<HostId> {
        let mut targets: Vec<HostId> = Vec::new();
        let Some(seat) = self.position(Ring::A, host).filter(|_| self.mode() == Mode::Switched) else { return targets };
        let point = self.points[seat];
        let near: Vec<HostId> = self.neighbours(host).iter().map(|link| link.peer).chain([host]).collect();
        for nth in 0..drawn.count {
            let nth = u64::from(nth);
            let place = match drawn.kind {
                ChordKind::Random | ChordKind::RackAware => hash(&[self.seed(), TAG, u64::from(host.raw()), nth]),
                ChordKind::Sqrt => point.wrapping_add((nth + 1).wrapping_mul(self.jump(host))),
                ChordKind::Fingers => point.wrapping_add(1 << (63 - nth)),
            };
            let target = match drawn.kind {
                ChordKind::RackAware => self.owner_in_another_rack(place, host, (&near, &targets), racks),
                ChordKind::Random | ChordKind::Sqrt | ChordKind::Fingers => self.owner(place, &near),
            };
            targets.extend(target.filter(|peer| !targets.contains(peer)));
        }
        targets
    }

    /// About √n hosts as a part of the circle, in powers of two. Between two powers of four the hosts go over to the next
    /// one by one, so that no join moves the chords of all.
    fn jump(&self, host: HostId) -> u64 {
        let hosts = self.len() as u64;
        let power = hosts.ilog2() / 2;
        let low = 1u64 << (2 * power);
        // From 0 at a power of four to 1 at the next, in 64 bits of fraction.
        let grown = (u128::from(hosts - low) << 64) / u128::from(3 * low);
        let draw = hash(&[self.seed(), SCALE_TAG, u64::from(host.raw())]);
        let power = power + u32::from(u128::from(draw) < grown);
        1u64.checked_shl(64 - power).unwrap_or(0)
    }

    /// All chords of the mesh as (lower id, higher id), ascending, each once; O(n · count · log n).
    ///
    /// A host draws at most `count` of them, and at most four times as many are drawn to it.
    pub fn chord_pairs(&self, chords: Chords, racks: &Racks) -> Vec<(HostId, HostId)> {
        let Some(drawn) = chords.drawn(self.len()) else { return Vec::new() };
        let mut by_target: BTreeMap<HostId, Vec<HostId>> = BTreeMap::new();
        for host in self.hosts() {
            for target in self.targets(host, drawn, racks) {
                by_target.entry(target).or_default().push(host);
            }
        }
        let mut pairs = Vec::new();
        for (target, mut drawers) in by_target {
            let room = CROWD * usize::from(drawn.count);
            if drawers.len() > room {
                let rank = |host: &HostId| hash(&[self.seed(), CROWD_TAG, target.raw().into(), host.raw().into()]);
                drawers.sort_by_cached_key(rank);
                drawers.truncate(room);
            }
            pairs.extend(drawers.into_iter().map(|host| (host.min(target), host.max(target))));
        }
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }

    /// The chords of one host, those that others draw to it included, ascending by peer. Both ends find the same chord
    /// over the same uplink, which is A for about half of all pairs.
    pub fn chord_links(&self, host: HostId, chords: Chords, racks: &Racks) -> Vec<Link> {
        let end = |(low, high): (HostId, HostId)| match host {
            _ if host == low => Some(high),
            _ if host == high => Some(low),
            _ => None,
        };
        let link = |peer| Link { peer, uplink: self.chord_uplink(host, peer), role: Role::Chord };
        let mut links: Vec<Link> = self.chord_pairs(chords, racks).into_iter().filter_map(end).map(link).collect();
        links.sort_unstable();
        links
    }

    /// The uplink over which these two hosts would run a chord; the same from both ends.
    pub fn chord_uplink(&self, one: HostId, other: HostId) -> Uplink {
        let (low, high) = (one.min(other), one.max(other));
        match hash(&[self.seed(), UPLINK_TAG, u64::from(low.raw()), u64::from(high.raw())]) & 1 {
            0 => Uplink::A,
            _ => Uplink::B,
        }
    }

    /// The hosts at or after a place on ring A, all of them.
    fn onwards(&self, place: u64) -> impl Iterator<Item = HostId> + '_ {
        let order = self.order(Ring::A);
        let start = self.points.partition_point(|point| *point < place);
        order[start..].iter().chain(&order[..start]).copied()
    }

    /// The first host at or after a place that is none of `near`: a host and its at most four neighbours.
    fn owner(&self, place: u64, near: &[HostId]) -> Option<HostId> {
        self.onwards(place).take(near.len() + 1).find(|peer| !near.contains(peer))
    }

    /// The same, if possible in a rack to which `host` has no chord yet, else in another than its own, else in any. A host
    /// that names no rack is in one of its own. Those of `taken` are not taken again.
    fn owner_in_another_rack(
        &self,
        place: u64,
        host: HostId,
        (near, taken): (&[HostId], &[HostId]),
        racks: &Racks,
    ) -> Option<HostId> {
        let rack = |host: &HostId| racks.get(host);
        let (own, others): (_, Vec<_>) = (rack(&host), taken.iter().filter_map(rack).collect());
        let (mut any, mut other) = (None, None);
        let allowed = |peer: &HostId| !near.contains(peer) && !taken.contains(peer);
        for peer in self.onwards(place).take(RACK_SCAN).filter(allowed) {
            let there = rack(&peer);
            any = any.or(Some(peer));
            if there.is_none() || there != own {
                other = other.or(Some(peer));
                if there.is_none_or(|there| !others.contains(&there)) {
                    return Some(peer);
                }
            }
        }
        other.or(any)
    }
}

#[cfg(test)]
mod tests;
