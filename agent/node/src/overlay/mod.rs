//! The links of this host: its neighbours on both rings and its chords, each watched by probes.
//!
//! It owns who is a neighbour (from `ringmesh-topology`) and how each link does. It does not know how bytes are
//! carried, and it judges links and uplinks only: whether a host lives is SWIM's question.

mod link;
mod protection;
#[cfg(test)]
mod tests;

use link::CHORD_INTERVAL;
pub(crate) use link::{HEARD_FOR, TIMEOUT};
pub use link::{LinkMonitor, LinkState, PROBE_INTERVAL};
pub(crate) use protection::Preference;
pub use protection::{Order, Timers};

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ringmesh_proto::{HostId, Instant, Uplink, member::Member};
use ringmesh_topology::{Chords, DualRing, Link, Racks, Ring, Role};

use protection::Side;

/// How the hosts are wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// Each uplink is a segment; the seed orders the rings.
    Switched {
        /// From the cluster's creation.
        seed: u64,
    },
    /// Each uplink is a cable; the hosts' positions order the rings.
    Cabled,
}

/// How an uplink of this host does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum UplinkState {
    /// The host has no such uplink.
    #[default]
    None,
    /// No link over it fails, or nothing is known yet.
    Up,
    /// Some links over it fail although the other ends are well.
    Degraded,
    /// All links over it fail although the other ends are well.
    Down,
}

/// Neighbours and their links.
pub struct Overlay {
    me: HostId,
    wiring: Wiring,
    rings: DualRing,
    /// The rings with the hosts that were lost lately.
    before: DualRing,
    links: BTreeMap<(HostId, Uplink), OwnLink>,
    sides: [Side; 2],
    timers: Timers,
    order: Order,
    /// When something last came over an uplink.
    heard: [Instant; 2],
    /// When an uplink over which nothing came was last tried.
    tried: [Instant; 2],
    /// The rule of chords, and the racks that it heeds.
    chords: (Chords, Racks),
    /// Measured last, by either end, and not taken yet.
    round_trip: Option<(HostId, Uplink, Duration)>,
    revision: u64,
}

/// A probe to be sent.
#[derive(Clone, Copy, Debug)]
pub struct LinkProbe {
    /// To whom.
    pub to: Member,
    /// Over which uplink.
    pub uplink: Uplink,
    /// To be echoed.
    pub number: u64,
    /// Whether this end hears the other on this link.
    pub hears: bool,
    /// The round trip that this end measured.
    pub rtt: Option<Duration>,
}

/// A link as this end sees it.
#[derive(Clone, Debug)]
pub struct OwnLink {
    /// The other end.
    pub peer: Member,
    /// What the link is for: the ring, if it is a ring's and a chord.
    pub role: Role,
    /// How it does.
    pub monitor: LinkMonitor,
}

/// An uplink over which nothing came for so long is tried at once, whatever the turn of its links is.
pub(crate) const UPLINK_SILENCE: Duration = Duration::from_millis(240);

/// Probes without an answer after which a link does not speak for its uplink, if another one is down and all are silent.
pub(crate) const MISSES_OF_MANY: u32 = 2;

impl Overlay {
    /// A host without neighbours.
    pub fn new(me: HostId, wiring: Wiring, has_uplink: [bool; 2], timers: Timers) -> Self {
        let rings = DualRing::switched(0, [me]);
        Self {
            me,
            wiring,
            before: rings.clone(),
            rings,
            links: BTreeMap::new(),
            sides: has_uplink.map(Side::new),
            timers,
            order: Order::None,
            heard: [Instant::ZERO; 2],
            tried: [Instant::ZERO; 2],
            chords: (Chords::Auto, Racks::new()),
            round_trip: None,
            revision: 0,
        }
    }

    /// From the next rebuilding on, chords follow this rule.
    pub fn plan_chords(&mut self, chords: Chords, racks: Racks) {
        self.chords = (chords, racks);
    }

    /// The round trip of a link, if one was measured since the last call; the newest one.
    pub fn take_round_trip(&mut self) -> Option<(HostId, Uplink, Duration)> {
        self.round_trip.take()
    }

    /// The current orders.
    pub fn rings(&self) -> &DualRing {
        &self.rings
    }

    /// A host's neighbours on both rings as they were before hosts were lost lately: those who can know whether it lives.
    ///
    /// Of several hosts that are lost at once every host finds the same observers, in whatever order it learns of them.
    pub fn observers(&self, host: HostId) -> BTreeSet<HostId> {
        self.before.neighbours(host).into_iter().map(|link| link.peer).collect()
    }

    /// This host's links.
    pub fn links(&self) -> impl Iterator<Item = (Uplink, &OwnLink)> {
        self.links.iter().map(|((_, uplink), link)| (*uplink, link))
    }

    /// Counts the changes of links and uplinks, other than of round trips and loss.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How this host's uplinks do.
    pub fn uplinks(&self) -> [UplinkState; 2] {
        [self.sides[0].state, self.sides[1].state]
    }

    /// Whether an uplink's interface has a carrier and its address, as far as this host was told.
    pub fn has_carrier(&self, uplink: Uplink) -> bool {
        self.sides[uplink.index()].has_carrier()
    }

    /// When an uplink that is well again will be called so and used for all traffic.
    pub fn restored_at(&self, uplink: Uplink) -> Option<Instant> {
        self.sides[uplink.index()].restored_at(self.timers)
    }

    /// What the operator wants used.
    pub fn order(&self) -> Order {
        self.order
    }

    /// From now on this is to be used.
    pub fn set_order(&mut self, order: Order) {
        self.revision += u64::from(self.order != order);
        self.order = order;
    }

    /// How good an uplink is to send over: the least is the best.
    pub(crate) fn preference(&self, uplink: Uplink) -> Preference {
        self.sides[uplink.index()].preference(uplink, self.order)
    }

    /// The interface of an uplink lost its carrier or its address, or has both again. Returns false if that is no news.
    ///
    /// Its links are down at once: what comes on them now was on its way before.
    pub fn handle_carrier(&mut self, now: Instant, uplink: Uplink, up: bool) -> bool {
        if !self.sides[uplink.index()].set_carrier(now, up) {
            return false;
        }
        for (_, link) in self.links.iter_mut().filter(|((_, over), _)| *over == uplink) {
            if up { link.monitor.hasten(now) } else { link.monitor.fail(now) }
        }
        self.revision += 1;
        true
    }

    /// A neighbour says that its uplink is down: so is our link over it, unless that just came up.
    pub fn handle_peer_uplink_down(&mut self, now: Instant, peer: HostId, uplink: Uplink) {
        let Some(link) = self.links.get_mut(&(peer, uplink)) else { return };
        let stale = link.monitor.risen().is_some_and(|risen| now.since(risen) < self.timers.guard);
        if link.monitor.state() != LinkState::Down && !stale {
            link.monitor.fail(now);
            self.revision += 1;
        }
    }

    /// The uplinks of which it is time to tell how they do, and that.
    pub fn poll_told(&mut self, now: Instant) -> Vec<(Uplink, UplinkState)> {
        let told = Uplink::BOTH.map(|uplink| {
            let told = self.sides[uplink.index()].poll_told(now, self.timers);
            told.map(|state| (uplink, state))
        });
        told.into_iter().flatten().collect()
    }

    /// When an uplink is restored, or a carrier's loss has lasted for its hold-off.
    pub fn poll_protection(&self) -> Option<Instant> {
        let of = |side: &Side| [side.restored_at(self.timers), side.held_until(self.timers)];
        self.sides.iter().flat_map(of).flatten().min()
    }

    /// Rebuilds the rings over the hosts that are not down, this one included. Links that stay keep their history.
    ///
    /// `lost` are hosts that went down lately, `position` is a host's place in cabled mode. Returns true if a link came or
    /// went or moved to a new address.
    pub fn rebuild(
        &mut self,
        now: Instant,
        hosts: &[Member],
        lost: &[HostId],
        position: impl Fn(HostId) -> u16,
    ) -> bool {
        let wiring = self.wiring;
        let turn = |rings: &mut DualRing, ids: &mut dyn Iterator<Item = HostId>| match wiring {
            Wiring::Switched { seed } => rings.turn_into(seed, ids),
            Wiring::Cabled => *rings = DualRing::cabled(ids.map(|id| (position(id), id))),
        };
        let ids = || hosts.iter().map(|member| member.id);
        turn(&mut self.rings, &mut ids());
        turn(&mut self.before, &mut ids().chain(lost.iter().copied()));
        let mut wanted = self.rings.neighbours(self.me);
        wanted.extend(self.rings.chord_links(self.me, self.chords.0, &self.chords.1));
        self.relink(now, hosts, &wanted)
    }

    fn relink(&mut self, now: Instant, hosts: &[Member], wanted: &[Link]) -> bool {
        let phase = self.phase(now);
        let mut links = BTreeMap::new();
        let mut changed = false;
        for link in wanted {
            let Some(peer) = hosts.iter().find(|member| member.id == link.peer) else { continue };
            let here = self.uplinks()[link.uplink.index()] != UplinkState::None;
            if !here || peer.address(link.uplink).is_none() || links.contains_key(&(link.peer, link.uplink)) {
                continue;
            }
            let kept = self.links.remove(&(link.peer, link.uplink));
            changed |= kept.as_ref().is_none_or(|kept| kept.peer.addresses != peer.addresses);
            // A restarted host starts with a clean history: what was lost before says nothing of it.
            let monitor = kept.filter(|kept| kept.peer == *peer).map(|kept| kept.monitor);
            let interval = if link.role == Role::Chord { CHORD_INTERVAL } else { PROBE_INTERVAL };
            let mut monitor = monitor.unwrap_or_else(|| LinkMonitor::new(now, phase, interval));
            monitor.set_interval(interval);
            links.insert((link.peer, link.uplink), OwnLink { peer: *peer, role: link.role, monitor });
        }
        changed |= !self.links.is_empty();
        self.links = links;
        self.revision += u64::from(changed);
        for uplink in Uplink::BOTH {
            let idle = !self.links.keys().any(|(_, over)| *over == uplink);
            let side = &mut self.sides[uplink.index()];
            if idle && side.has_carrier() && side.state != UplinkState::None {
                *side = Side::new(true);
            }
        }
        changed
    }

    /// To the next probe of the other links: one wake-up for all costs less than one for each. Of a first link it is
    /// drawn from the id, so that hosts that started together do not probe together.
    fn phase(&self, now: Instant) -> Duration {
        match self.poll_timeout() {
            Some(next) => next.since(now),
            None => PROBE_INTERVAL * (self.me.raw().wrapping_mul(0x9e37_79b9) >> 24) / 256,
        }
    }

    /// When [`Self::handle_timeout`] is next wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.links.values().map(|link| link.monitor.next_probe()).min()
    }

    /// When it is wanted and cannot wait: the answer to a probe is due, or an uplink has been silent for too long.
    pub fn poll_silence(&self) -> Option<Instant> {
        let waiting =
            self.links.values().filter(|link| link.monitor.is_waiting()).map(|link| link.monitor.next_probe());
        let quiet = |uplink: Uplink| {
            let mut links = self.links.iter().filter(|((_, over), _)| *over == uplink).peekable();
            let watched = links.peek().is_some() && links.all(|(_, link)| link.monitor.silent_since().is_none());
            watched.then(|| self.heard[uplink.index()].max(self.tried[uplink.index()]) + UPLINK_SILENCE)
        };
        Uplink::BOTH.into_iter().filter_map(quiet).chain(waiting).min()
    }

    /// Something came from a host over an uplink.
    pub fn hear(&mut self, now: Instant, uplink: Uplink) {
        self.heard[uplink.index()] = now;
    }

    /// Tries the uplinks that have been silent for long, by the link of each that was probed the longest ago.
    fn try_silent_uplinks(&mut self, now: Instant) {
        for uplink in Uplink::BOTH {
            if now < self.heard[uplink.index()].max(self.tried[uplink.index()]) + UPLINK_SILENCE {
                continue;
            }
            self.tried[uplink.index()] = now;
            let links = self.links.iter_mut().filter(|((_, over), _)| *over == uplink);
            if let Some((_, link)) = links.min_by_key(|(_, link)| link.monitor.next_probe()) {
                link.monitor.hasten(now);
            }
        }
    }

    /// The probes that are due.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<LinkProbe> {
        self.try_silent_uplinks(now);
        let mut probes = Vec::new();
        let doubted = self.probe_due(now, &mut probes);
        for uplink in Uplink::BOTH.into_iter().filter(|uplink| doubted[uplink.index()]) {
            // Is it the link or the uplink? The others tell.
            let others = self.links.iter_mut().filter(|((_, over), _)| *over == uplink);
            others.filter(|(_, link)| !link.monitor.is_waiting()).for_each(|(_, link)| link.monitor.hasten(now));
            self.ask_silent_peers(now, uplink, &mut probes);
        }
        self.probe_due(now, &mut probes);
        probes
    }

    /// Whether a silent link is the fault of its other end that end tells over the other uplink, be there a link or not.
    fn ask_silent_peers(&mut self, now: Instant, uplink: Uplink, probes: &mut Vec<LinkProbe>) {
        let silent = |((_, over), link): (&(HostId, Uplink), &OwnLink)| {
            (*over == uplink && link.monitor.silent_since().is_some()).then_some(link.peer)
        };
        let peers: Vec<Member> = self.links.iter().filter_map(silent).collect();
        let over = uplink.other();
        for to in peers.into_iter().filter(|peer| peer.address(over).is_some()) {
            match self.links.get_mut(&(to.id, over)) {
                Some(link) if !link.monitor.is_waiting() => link.monitor.hasten(now),
                Some(_) => {}
                // That it answers is all that is asked: no link counts it.
                None => probes.push(LinkProbe { to, uplink: over, number: 0, hears: true, rtt: None }),
            }
        }
    }

    /// Sends what is due; says over which uplinks a link fell silent.
    fn probe_due(&mut self, now: Instant, probes: &mut Vec<LinkProbe>) -> [bool; 2] {
        let mut doubted = [false; 2];
        for ((_, uplink), link) in self.links.iter_mut().filter(|(_, link)| link.monitor.next_probe() <= now) {
            let before = (link.monitor.state(), link.monitor.silent_since());
            let number = link.monitor.probe(now);
            let state = link.monitor.state();
            let hears = state != LinkState::Down;
            probes.push(LinkProbe { to: link.peer, uplink: *uplink, number, hears, rtt: link.monitor.rtt() });
            self.revision += u64::from(before.0 != state);
            doubted[uplink.index()] |= before.1.is_none() && link.monitor.silent_since().is_some();
        }
        doubted
    }

    /// The hosts that are silent on all links to them, and since when.
    pub fn silent_peers(&self) -> Vec<(HostId, Instant)> {
        let mut silent: BTreeMap<HostId, Option<Instant>> = BTreeMap::new();
        for ((peer, _), link) in &self.links {
            let since = link.monitor.silent_since();
            silent
                .entry(*peer)
                .and_modify(|all| *all = (*all).max(since).filter(|_| all.is_some() && since.is_some()))
                .or_insert(since);
        }
        silent.into_iter().filter_map(|(peer, since)| Some((peer, since?))).collect()
    }

    /// The hosts to which there are links, each once.
    pub fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = self.links.values().map(|link| link.peer).collect();
        members.dedup_by_key(|member| member.id);
        members
    }

    /// The next hosts on both rings, each once.
    pub fn successors(&self) -> Vec<Member> {
        let next = [Ring::A, Ring::B].map(|ring| self.rings.successor(ring, self.me));
        let mut members = self.members();
        members.retain(|member| next.contains(&Some(member.id)));
        members
    }

    /// The ids of [`Self::members`].
    pub fn peers(&self) -> BTreeSet<HostId> {
        self.links.keys().map(|(peer, _)| *peer).collect()
    }

    /// A neighbour probed a link, says whether it hears us on it, and the round trip that it measured. Returns true if
    /// that brought the link up.
    ///
    /// Of two ends that one probes which first has a reason to, and the other is probed.
    pub fn handle_probe(
        &mut self,
        now: Instant,
        from: HostId,
        uplink: Uplink,
        hears: bool,
        rtt: Option<Duration>,
    ) -> bool {
        let Some(link) = self.links.get_mut(&(from, uplink)).filter(|_| hears) else { return false };
        let before = link.monitor.state();
        link.monitor.heard(now, rtt);
        self.round_trip = rtt.map(|rtt| (from, uplink, rtt)).or(self.round_trip);
        self.revision += u64::from(before != link.monitor.state());
        before != LinkState::Up && link.monitor.state() == LinkState::Up
    }

    /// A neighbour echoed this number. Returns true if its link just came up.
    pub fn handle_ack(&mut self, now: Instant, from: HostId, uplink: Uplink, number: u64) -> bool {
        let Some(link) = self.links.get_mut(&(from, uplink)) else { return false };
        let before = link.monitor.state();
        let rtt = link.monitor.ack(now, number);
        self.round_trip = rtt.map(|rtt| (from, uplink, rtt)).or(self.round_trip);
        self.revision += u64::from(before != link.monitor.state());
        before != LinkState::Up && link.monitor.state() == LinkState::Up
    }

    /// Judges the uplinks anew. `well` says whether the other end of a link is known to live, its own uplink in
    /// order, since the given instant. Returns true if an uplink changed.
    pub fn judge_uplinks(&mut self, now: Instant, well: impl Fn(HostId, Uplink, Instant) -> bool) -> bool {
        let mut changed = false;
        for uplink in Uplink::BOTH {
            let place = uplink.index();
            let state = self.uplinks()[place];
            if state == UplinkState::None {
                continue;
            }
            let (mut links, mut down, mut ours) = (0, 0, 0);
            for ((peer, _), link) in self.links.iter().filter(|((_, over), _)| *over == uplink) {
                links += 1;
                let failing_since = link.monitor.failing_since();
                // Where nothing at all comes any more, the last of many links need not be waited for.
                let silent = link.monitor.silent_since().is_some_and(|since| self.heard[place] <= since);
                let down_soon = silent && link.monitor.misses() >= MISSES_OF_MANY;
                down += usize::from(down_soon || link.monitor.state() == LinkState::Down);
                ours += usize::from(failing_since.is_some_and(|since| well(*peer, uplink, since)));
            }
            let looks = match (links, down, ours) {
                // Nobody is there who could tell.
                (1.., _, 0) if links == down => state,
                (_, _, 0) => UplinkState::Up,
                (links, down, _) if links == down => UplinkState::Down,
                _ => UplinkState::Degraded,
            };
            if self.sides[place].settle(now, looks, self.timers) {
                changed = true;
                if self.uplinks()[place] == UplinkState::Down && self.order == Order::Manual(uplink) {
                    self.order = Order::None;
                }
            }
        }
        self.revision += u64::from(changed);
        changed
    }
}
