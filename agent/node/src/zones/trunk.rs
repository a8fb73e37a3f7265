//! Trunks: the connections of a delegate to delegates of other zones, each watched like a link.
//!
//! A trunk that is down is tried over the other uplink, then with another delegate of that zone, and so on, ever more seldom.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ringmesh_proto::{HostId, Instant, Uplink, ZoneId, member::Member};

use crate::overlay::{LinkMonitor, LinkState, PROBE_INTERVAL};

/// Between two tries of a lost trunk: the first and the longest wait.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));

/// Which of the trunks to a zone: the place of the delegate at its other end.
pub type Slot = (ZoneId, usize);

/// One trunk.
#[derive(Clone, Debug)]
pub struct Trunk {
    /// Its other end.
    pub peer: Member,
    /// The one in use.
    pub uplink: Uplink,
    /// How it does.
    pub monitor: LinkMonitor,
    /// The uplink that each host is tried over first.
    first: Uplink,
    /// The delegate that the other zone names for it.
    preferred: Option<Member>,
    /// To the next try, once this one has failed.
    wait: Duration,
}

/// A probe to be sent.
#[derive(Clone, Copy, Debug)]
pub struct TrunkProbe {
    /// To whom.
    pub to: Member,
    /// Over which uplink.
    pub uplink: Uplink,
    /// To be echoed.
    pub number: u64,
    /// The round trip that this end measured.
    pub rtt: Option<Duration>,
    /// The other end may not know us yet: introduce this host first.
    pub first: bool,
}

/// The trunks of a delegate; none of any other host.
#[derive(Default)]
pub struct Trunks {
    trunks: BTreeMap<Slot, Trunk>,
}

impl Trunks {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Trunk)> {
        self.trunks.iter().map(|(slot, trunk)| (*slot, trunk))
    }

    /// The one to this host.
    pub fn to(&self, host: HostId) -> Option<(Slot, &Trunk)> {
        self.iter().find(|(_, trunk)| trunk.peer.id == host)
    }

    /// Keeps the trunks of these slots. `candidates` are, for a slot, the delegate that should be at its other end, and who else
    /// may be called. Returns true if a trunk came, went or has another end.
    pub fn rewire<'a>(
        &mut self,
        now: Instant,
        wanted: &BTreeSet<Slot>,
        candidates: impl Fn(Slot) -> (Option<Member>, &'a [Member]),
        usable: impl Fn(Member, Uplink) -> bool,
    ) -> bool {
        let before = self.trunks.len();
        self.trunks.retain(|slot, _| wanted.contains(slot));
        let mut changed = self.trunks.len() != before;
        for slot in wanted {
            let (preferred, others) = candidates(*slot);
            let Some(peer) = preferred.or_else(|| others.get(slot.1 % others.len().max(1)).copied()) else { continue };
            let keep = self.trunks.get(slot).is_some_and(|trunk| trunk.preferred == preferred);
            if keep {
                continue;
            }
            let first = if slot.1 % 2 == 0 { Uplink::A } else { Uplink::B };
            let Some(uplink) = [first, first.other()].into_iter().find(|uplink| usable(peer, *uplink)) else {
                continue;
            };
            let monitor = LinkMonitor::new(now, Duration::ZERO, PROBE_INTERVAL);
            // Of the same end at the same address what is known stays so, as after its restart.
            let same = self.trunks.remove(slot).filter(|old| old.peer == peer);
            let (uplink, monitor) = same.map_or((uplink, monitor), |old| (old.uplink, old.monitor));
            self.trunks.insert(*slot, Trunk { peer, uplink, monitor, first, preferred, wait: BACKOFF.0 });
            changed = true;
        }
        changed
    }

    /// Ends them all. Returns true if there were any.
    pub fn clear(&mut self) -> bool {
        !std::mem::take(&mut self.trunks).is_empty()
    }

    /// When [`Self::handle_timeout`] is next wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.trunks.values().map(|trunk| trunk.monitor.next_probe()).min()
    }

    /// The probes that are due. A trunk that is found down is tried elsewhere; true if one was.
    pub fn handle_timeout<'a>(
        &mut self,
        now: Instant,
        candidates: impl Fn(Slot) -> (Vec<Member>, &'a [Member]),
        usable: impl Fn(Member, Uplink) -> bool,
    ) -> (Vec<TrunkProbe>, bool) {
        let mut probes = Vec::new();
        let mut moved = false;
        let taken: BTreeSet<HostId> = self.trunks.values().map(|trunk| trunk.peer.id).collect();
        for (slot, trunk) in &mut self.trunks {
            if trunk.monitor.next_probe() > now {
                continue;
            }
            let number = trunk.monitor.probe(now);
            if trunk.monitor.state() == LinkState::Down {
                let (delegates, others) = candidates(*slot);
                if let Some((peer, uplink)) = trunk.next_try(&delegates, others, &taken, &usable) {
                    moved |= (peer, uplink) != (trunk.peer, trunk.uplink);
                    (trunk.peer, trunk.uplink) = (peer, uplink);
                }
                trunk.monitor = LinkMonitor::new(now, trunk.wait, PROBE_INTERVAL);
                trunk.wait = (trunk.wait * 2).min(BACKOFF.1);
                continue;
            }
            let rtt = trunk.monitor.rtt();
            // A monitor counts from 1.
            probes.push(TrunkProbe { to: trunk.peer, uplink: trunk.uplink, number, rtt, first: number == 1 });
        }
        (probes, moved)
    }

    /// The other end echoed this number. True if its trunk just came up.
    pub fn handle_ack(&mut self, now: Instant, from: HostId, uplink: Uplink, number: u64) -> bool {
        self.heard(from, uplink, |trunk| {
            trunk.monitor.ack(now, number);
        })
    }

    /// The other end probed and hears us: of two ends the one with the lower id probes. True if its trunk just came up.
    pub fn handle_probe(&mut self, now: Instant, from: HostId, uplink: Uplink, rtt: Option<Duration>) -> bool {
        self.heard(from, uplink, |trunk| trunk.monitor.heard(now, rtt))
    }

    fn heard(&mut self, from: HostId, uplink: Uplink, note: impl FnOnce(&mut Trunk)) -> bool {
        let mut trunks = self.trunks.values_mut();
        let Some(trunk) = trunks.find(|trunk| trunk.peer.id == from && trunk.uplink == uplink) else { return false };
        let before = trunk.monitor.state();
        note(trunk);
        let up = trunk.monitor.state() == LinkState::Up;
        if up {
            trunk.wait = BACKOFF.0;
        }
        up && before != LinkState::Up
    }
}

impl Trunk {
    /// Whether it carries something.
    pub fn is_usable(&self) -> bool {
        self.monitor.state() == LinkState::Up
    }

    /// Where to try next: over the other uplink, then with another host of that zone, and so on in a circle.
    fn next_try(
        &self,
        delegates: &[Member],
        others: &[Member],
        taken: &BTreeSet<HostId>,
        usable: impl Fn(Member, Uplink) -> bool,
    ) -> Option<(Member, Uplink)> {
        let mut hosts: Vec<Member> = Vec::new();
        for member in self.preferred.iter().chain(delegates).chain(others) {
            let free =
                member.id == self.peer.id || Some(member) == self.preferred.as_ref() || !taken.contains(&member.id);
            if free && hosts.iter().all(|other| other.id != member.id) {
                hosts.push(*member);
            }
        }
        let ways: Vec<(Member, Uplink)> = hosts
            .into_iter()
            .flat_map(|member| [self.first, self.first.other()].map(|uplink| (member, uplink)))
            .filter(|(member, uplink)| usable(*member, *uplink))
            .collect();
        let here = ways.iter().position(|way| *way == (self.peer, self.uplink));
        ways.get(here.map_or(0, |here| here + 1) % ways.len().max(1)).copied()
    }
}
