//! The network: two ports a host, a switch for each uplink of each rack, and what of it is cut.
//!
//! It owns which messages arrive and when. It does not know what they say, nor whether anybody listens.
//!
//! ```text
//!  host ── cable (out, in) ── switch of its rack and uplink ── core ── switch ── cable ── host
//! ```
//! A cut is counted, so that two faults may cut the same and each may heal by itself.

use std::{collections::BTreeMap, time::Duration};

use ringmesh_proto::Uplink;

use crate::{
    draw::{Draw, Purpose},
    link::{Link, LinkSpec, Passage},
};

/// One way of a cable, from its host's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From the host.
    Out,
    /// To the host.
    In,
}

impl Way {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Out, Self::In];
}

/// Both ways of one cable.
struct Port {
    links: [Link; 2],
    cuts: [u16; 2],
}

/// All of it.
pub(crate) struct Network {
    specs: Vec<LinkSpec>,
    /// By host, then uplink.
    ports: Vec<[Port; 2]>,
    racks: Vec<u16>,
    /// By lower host, higher host and uplink.
    pairs: BTreeMap<(u32, u32, Uplink), u16>,
    /// Each host's side, of every partition under way.
    partitions: BTreeMap<u64, Vec<bool>>,
    /// Switches without power, by rack and uplink.
    switches: BTreeMap<(u16, Uplink), u16>,
    /// What lies between two hosts besides their links; the lower first.
    distances: BTreeMap<(u32, u32), Duration>,
    /// How many of all of these there are: nothing need be looked up while there is none.
    cuts: u32,
}

impl Network {
    pub(crate) fn new(specs: Vec<LinkSpec>) -> Self {
        Self {
            specs,
            ports: Vec::new(),
            racks: Vec::new(),
            pairs: BTreeMap::new(),
            partitions: BTreeMap::new(),
            switches: BTreeMap::new(),
            distances: BTreeMap::new(),
            cuts: 0,
        }
    }

    /// Connects one more host; `spec` names the behaviour of each uplink's ways.
    pub(crate) fn add_host(&mut self, seed: u64, rack: u16, spec: [[u16; 2]; 2]) {
        let host = self.ports.len() as u32;
        let purposes = [[Purpose::SendA, Purpose::ReceiveA], [Purpose::SendB, Purpose::ReceiveB]];
        let port = |uplink: usize| Port {
            links: [0, 1].map(|way| Link::new(spec[uplink][way], Draw::new(seed, host, purposes[uplink][way]))),
            cuts: [0; 2],
        };
        self.ports.push([port(0), port(1)]);
        self.racks.push(rack);
    }

    /// What becomes of a datagram on its way. Whether something is cut counts when it arrives: [`Self::is_open`].
    pub(crate) fn pass(&mut self, from: u32, to: u32, uplink: Uplink, now: u64, len: usize) -> Passage {
        let distance = self.distance(from, to);
        let Self { ports, specs, .. } = self;
        let sent = ports[from as usize][uplink.index()].links[Way::Out as usize].pass(specs, now, len);
        let Passage::Arrives(delay, copy) = sent else { return sent };
        let (delay, copy) = (delay + distance, copy.map(|copy| copy + distance));
        let link = &mut ports[to as usize][uplink.index()].links[Way::In as usize];
        match link.pass(specs, now + delay.as_nanos() as u64, len) {
            Passage::Arrives(more, again) => {
                let copy = copy.map(|copy| copy + more).or(again.map(|again| delay + again));
                Passage::Arrives(delay + more, copy)
            }
            lost @ (Passage::Lost | Passage::Full) => lost,
        }
    }

    /// How long a part of a stream is under way, and how often it was lost meanwhile.
    pub(crate) fn carry(&mut self, from: u32, to: u32, uplink: Uplink, now: u64, len: usize) -> (Duration, u32) {
        let distance = self.distance(from, to);
        let Self { ports, specs, .. } = self;
        let (delay, lost) = ports[from as usize][uplink.index()].links[Way::Out as usize].carry(specs, now, len);
        let link = &mut ports[to as usize][uplink.index()].links[Way::In as usize];
        let (more, again) = link.carry(specs, now + delay.as_nanos() as u64, len);
        (delay + more + distance, lost + again)
    }

    /// Sets what lies between two hosts besides their links.
    pub(crate) fn delay(&mut self, one: u32, other: u32, span: Duration) {
        self.distances.insert((one.min(other), one.max(other)), span);
    }

    fn distance(&self, one: u32, other: u32) -> Duration {
        if self.distances.is_empty() {
            return Duration::ZERO;
        }
        self.distances.get(&(one.min(other), one.max(other))).copied().unwrap_or_default()
    }

    /// Whether what one host sends to another over an uplink arrives now.
    pub(crate) fn is_open(&self, from: u32, to: u32, uplink: Uplink) -> bool {
        if self.cuts == 0 {
            return true;
        }
        let (one, other) = (from.min(to), from.max(to));
        let (rack, racks) = (self.racks[from as usize], self.racks[to as usize]);
        self.ports[from as usize][uplink.index()].cuts[Way::Out as usize] == 0
            && self.ports[to as usize][uplink.index()].cuts[Way::In as usize] == 0
            && !self.pairs.contains_key(&(one, other, uplink))
            && !self.switches.contains_key(&(rack, uplink))
            && !self.switches.contains_key(&(racks, uplink))
            && self.partitions.values().all(|side| side[from as usize] == side[to as usize])
    }

    /// Whether two hosts hear each other over an uplink.
    pub(crate) fn is_open_both_ways(&self, one: u32, other: u32, uplink: Uplink) -> bool {
        self.is_open(one, other, uplink) && self.is_open(other, one, uplink)
    }

    /// Cuts one way of a host's cable, or ends one such cut.
    pub(crate) fn cut(&mut self, host: u32, uplink: Uplink, way: Way, cut: bool) {
        count(&mut self.ports[host as usize][uplink.index()].cuts[way as usize], cut, &mut self.cuts);
    }

    /// Cuts two hosts off from each other over an uplink, or ends one such cut.
    pub(crate) fn cut_pair(&mut self, one: u32, other: u32, uplink: Uplink, cut: bool) {
        let key = (one.min(other), one.max(other), uplink);
        count(self.pairs.entry(key).or_default(), cut, &mut self.cuts);
        self.pairs.retain(|_, cuts| *cuts > 0);
    }

    /// Takes a switch's power away, or ends one such fault.
    pub(crate) fn cut_switch(&mut self, rack: u16, uplink: Uplink, cut: bool) {
        count(self.switches.entry((rack, uplink)).or_default(), cut, &mut self.cuts);
        self.switches.retain(|_, cuts| *cuts > 0);
    }

    /// Parts the hosts in two; `number` names the partition. `None` ends it.
    pub(crate) fn part(&mut self, number: u64, sides: Option<Vec<bool>>) {
        let before = self.partitions.remove(&number).is_some();
        let parted = sides.is_some();
        if let Some(mut sides) = sides {
            sides.resize(self.ports.len(), false);
            self.partitions.insert(number, sides);
        }
        self.cuts = self.cuts + u32::from(parted) - u32::from(before);
    }

    /// Ends all cuts of a host's own cable and of its pairs.
    pub(crate) fn heal(&mut self, host: u32) {
        for port in &mut self.ports[host as usize] {
            self.cuts -= port.cuts.iter().map(|cuts| u32::from(*cuts)).sum::<u32>();
            port.cuts = [0; 2];
        }
        let cuts = &mut self.cuts;
        self.pairs.retain(|(one, other, _), count| {
            let healed = *one == host || *other == host;
            *cuts -= if healed { u32::from(*count) } else { 0 };
            !healed
        });
    }

    /// Loses so much more of what goes one way.
    pub(crate) fn lose(&mut self, host: u32, uplink: Uplink, way: Way, probability: f64) {
        self.ports[host as usize][uplink.index()].links[way as usize].fault = probability;
    }

    /// What faults lose of what goes one way.
    pub(crate) fn loss(&self, host: u32, uplink: Uplink, way: Way) -> f64 {
        self.ports[host as usize][uplink.index()].links[way as usize].fault
    }

    pub(crate) fn rack(&self, host: u32) -> u16 {
        self.racks[host as usize]
    }
}

fn count(cuts: &mut u16, cut: bool, all: &mut u32) {
    if cut {
        *cuts += 1;
        *all += 1;
    } else if *cuts > 0 {
        *cuts -= 1;
        *all -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_twice_is_open_when_both_have_healed() {
        let mut network = Network::new(vec![LinkSpec::default()]);
        (0..4).for_each(|host| network.add_host(1, host / 2, [[0; 2]; 2]));
        let open = |network: &Network, from, to| network.is_open(from, to, Uplink::A);
        network.cut(0, Uplink::A, Way::Out, true);
        assert!(!open(&network, 0, 1) && open(&network, 1, 0) && network.is_open(0, 1, Uplink::B));
        network.cut(0, Uplink::A, Way::Out, true);
        network.cut(0, Uplink::A, Way::Out, false);
        assert!(!open(&network, 0, 1));
        network.cut(0, Uplink::A, Way::Out, false);
        network.cut(0, Uplink::A, Way::Out, false);
        assert!(open(&network, 0, 1) && network.cuts == 0);

        network.cut_switch(0, Uplink::A, true);
        assert!(!open(&network, 0, 1) && !open(&network, 2, 0) && open(&network, 2, 3));
        network.cut_switch(0, Uplink::A, false);
        network.part(7, Some(vec![true, false, true, false]));
        assert!(!open(&network, 0, 1) && open(&network, 0, 2) && open(&network, 1, 3));
        network.part(7, None);
        network.cut_pair(3, 2, Uplink::A, true);
        network.cut_pair(3, 1, Uplink::A, true);
        assert!(!open(&network, 2, 3));
        network.heal(3);
        assert!(open(&network, 2, 3) && network.cuts == 0);
    }
}
