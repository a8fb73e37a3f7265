//! What this host does as a delegate: holds the trunks, passes news over them, and compares with the other ends what both
//! have.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::{Buf, Bytes};
use ringmesh_proto::{
    HostId, Instant, Now, Uplink, ZoneId,
    datagram::Kind,
    member::Member,
    peer::{EventRecord, Gossip, SignedRecord},
};
use ringmesh_topology::zone::{FULL_MESH_ZONES, trunk_places, zone_neighbours};

use super::{
    Class, Node, Output,
    links::{PROBE_LEN, link_probe},
};
use crate::{
    overlay::UplinkState,
    zones::{Bucket, Budgets, Slot},
};

/// The least time between two batches.
const INTERVAL: Duration = Duration::from_millis(20);

/// Between two vectors on each trunk.
const VECTOR_INTERVAL: Duration = Duration::from_secs(10);

/// Events that wait for a batch; beyond them the vectors fetch what is missing.
const MAX_WAITING: usize = 512;

/// Classes of traffic over trunks, in the order of their urgency.
#[derive(Clone, Copy)]
enum Traffic {
    Events,
    Digests,
    Syncs,
}

/// What waits for the trunks.
pub(super) struct TrunkOutbox {
    events: Vec<(EventRecord, Option<ZoneId>)>,
    /// And over which zone's trunk they came.
    zones: BTreeMap<ZoneId, Option<ZoneId>>,
    sent: Instant,
    buckets: [Bucket; 3],
    next_vector: Instant,
}

impl TrunkOutbox {
    pub(super) fn new(budgets: Budgets) -> Self {
        let Budgets { events, digests, syncs } = budgets;
        let buckets = [events, digests, syncs].map(Bucket::new);
        Self { events: Vec::new(), zones: BTreeMap::new(), sent: Instant::ZERO, buckets, next_vector: Instant::ZERO }
    }

    /// `source`: it came over a trunk from there.
    pub(super) fn add_event(&mut self, event: EventRecord, source: Option<ZoneId>) {
        if self.events.len() < MAX_WAITING {
            self.events.push((event, source));
        }
    }

    pub(super) fn add_zone(&mut self, zone: ZoneId, source: Option<ZoneId>) {
        self.zones.insert(zone, source);
    }

    /// Frames that were dropped because their class had no room: events, zone records, syncs.
    pub(super) fn dropped(&self) -> [u64; 3] {
        [0, 1, 2].map(|class: usize| self.buckets[class].dropped())
    }
}

impl Node {
    pub(super) fn next_trunk(&self) -> Option<Instant> {
        let probe = self.trunks.poll_timeout()?;
        let waits = !self.trunk_outbox.events.is_empty() || !self.trunk_outbox.zones.is_empty();
        let batch = waits.then_some(self.trunk_outbox.sent + INTERVAL);
        let buckets = self.trunk_outbox.buckets.iter().filter_map(Bucket::poll_timeout);
        buckets.chain(batch).chain([probe, self.trunk_outbox.next_vector]).min()
    }

    /// Whether a trunk may use this uplink.
    fn is_usable(&self) -> impl Fn(Member, Uplink) -> bool + use<> {
        let own = self.overlay.uplinks();
        move |to: Member, uplink: Uplink| to.address(uplink).is_some() && own[uplink.index()] != UplinkState::None
    }

    /// Keeps just the trunks that are this host's, by the delegates of both zones.
    pub(super) fn rewire_trunks(&mut self, now: Now) {
        let zones: BTreeSet<ZoneId> = self.zones.others().map(|(id, ..)| id).collect();
        let Some(place) = self.place() else {
            // One that leaves passes on what comes until it is gone.
            if !self.own.leaving && self.trunks.clear() {
                self.trunk_outbox.buckets.iter_mut().for_each(Bucket::clear);
                self.pin();
            }
            return;
        };
        let ours = self.zone.delegates.len();
        let mut wanted: BTreeSet<Slot> = BTreeSet::new();
        for zone in zone_neighbours(self.zone_seed(), self.zone.id, &zones) {
            let (delegates, others) = self.zones.candidates(zone);
            let theirs = if delegates.is_empty() { others.len().min(ours) } else { delegates.len() };
            wanted.extend(trunk_places(place, ours, theirs).into_iter().map(|place| (zone, place)));
        }
        let (usable, zones) = (self.is_usable(), &self.zones);
        let candidates = |(zone, place): Slot| {
            let (delegates, others) = zones.candidates(zone);
            (delegates.get(place).copied(), others)
        };
        if self.trunks.rewire(now.instant, &wanted, candidates, usable) {
            self.pin();
        }
    }

    /// Probes trunks, compares with their other ends, and sends what waits.
    pub(super) fn tend_trunks(&mut self, now: Now) {
        let (usable, zones) = (self.is_usable(), &self.zones);
        let (probes, moved) = self.trunks.handle_timeout(now.instant, |(zone, _)| zones.candidates(zone), usable);
        if moved {
            self.pin();
        }
        for probe in probes {
            if probe.first {
                self.greet(now, probe.to);
            }
            let payload = link_probe(probe.number, true, probe.rtt);
            self.send_datagram(probe.to, probe.uplink, Kind::TrunkProbe, payload, 0);
        }
        if self.trunk_outbox.next_vector <= now.instant {
            self.trunk_outbox.next_vector = now.instant + VECTOR_INTERVAL;
            let up = self.trunks.iter().filter(|(_, trunk)| trunk.is_usable());
            for to in up.map(|(_, trunk)| trunk.peer).collect::<Vec<_>>() {
                self.send_vector(now, to);
            }
        }
    }

    /// Introduces this zone to a host that may not know it, and asks what it has: both in one, for only who is introduced is
    /// answered.
    fn greet(&mut self, now: Now, to: Member) {
        let own = self.zones.heard(self.zone.id).map(|heard| heard.to_send(now));
        let (zones, has) = (own.into_iter().collect(), Some(self.zone_vector()));
        self.send_over_trunk(now, Traffic::Digests, to, Gossip { zones, has, ..Gossip::default() });
    }

    fn send_vector(&mut self, now: Now, to: Member) {
        let has = Some(self.zone_vector());
        self.send_over_trunk(now, Traffic::Syncs, to, Gossip { has, ..Gossip::default() });
    }

    /// Sends what is new to all trunks that it did not come from: what other zones say, only where not every zone hears every
    /// other itself.
    pub(super) fn flush_trunks(&mut self, now: Now) {
        let waits = !self.trunk_outbox.events.is_empty() || !self.trunk_outbox.zones.is_empty();
        if waits && now.instant >= self.trunk_outbox.sent + INTERVAL {
            self.trunk_outbox.sent = now.instant;
            let events = std::mem::take(&mut self.trunk_outbox.events);
            let zones = std::mem::take(&mut self.trunk_outbox.zones);
            let relays = self.zones.count() > FULL_MESH_ZONES;
            let own = self.zone.id;
            let ends: Vec<(ZoneId, Member)> = self
                .trunks
                .iter()
                .filter(|(_, trunk)| trunk.is_usable())
                .map(|((zone, _), trunk)| (zone, trunk.peer))
                .collect();
            for (to_zone, to) in ends {
                let goes = |of: ZoneId, source: Option<ZoneId>| {
                    of == own || (relays && of != to_zone && source != Some(to_zone))
                };
                let events = events.iter().filter(|(event, source)| goes(ZoneId::new(event.zone), *source));
                let events: Vec<EventRecord> = events.map(|(event, _)| event.clone()).collect();
                let zones = zones.iter().filter(|(zone, source)| goes(**zone, **source));
                let zones = zones.filter_map(|(zone, _)| Some(self.zones.heard(*zone)?.to_send(now))).collect();
                self.send_over_trunk(now, Traffic::Events, to, Gossip { events, ..Gossip::default() });
                self.send_over_trunk(now, Traffic::Digests, to, Gossip { zones, ..Gossip::default() });
            }
        }
        self.drain_buckets(now);
    }

    /// What the CA says goes to every zone.
    pub(super) fn signed_over_trunks(&mut self, now: Now, new: &[SignedRecord], from: Option<HostId>) {
        let up = self.trunks.iter().filter(|(_, trunk)| trunk.is_usable()).map(|(_, trunk)| trunk.peer);
        let ends: Vec<Member> = up.filter(|to| Some(to.id) != from).collect();
        for to in ends {
            let gossip = Gossip { signed: new.to_vec(), ..Gossip::default() };
            self.send_over_trunk(now, Traffic::Events, to, gossip);
        }
    }

    fn send_over_trunk(&mut self, now: Now, traffic: Traffic, to: Member, gossip: Gossip) {
        if gossip == Gossip::default() {
            return;
        }
        for frame in self.frames(&gossip) {
            self.trunk_outbox.buckets[traffic as usize].push(now.instant, to, frame);
        }
    }

    fn drain_buckets(&mut self, now: Now) {
        for (place, class) in [Class::Event, Class::Digest, Class::Digest].into_iter().enumerate() {
            while let Some((to, frame)) = self.trunk_outbox.buckets[place].pop(now.instant) {
                let uplink = self.trunks.to(to.id).map_or(Uplink::A, |(_, trunk)| trunk.uplink);
                self.outputs.push_back(Output::Gossip { to, uplink, class, frame, second: false });
            }
        }
    }

    /// A host of another zone says what it knows of zones.
    pub(super) fn learn_from_zone(&mut self, now: Now, from: HostId, gossip: Gossip) {
        let source = ZoneId::new(gossip.zone);
        // A delegate that nobody has told us of says itself where it is.
        let delegates = gossip.zones.iter().flat_map(|record| &record.delegates);
        let mut members = delegates.filter_map(|delegate| Member::try_from(delegate.member.as_ref()?).ok());
        let sender = self.zones.find(from).or_else(|| members.find(|member| member.id == from));
        let zones = self.accept_zones(now, gossip.zones, Some(source));
        let events = self.accept_crossing(gossip.events, Some(source));
        if !zones.is_empty() || !events.is_empty() {
            self.outbox.relay(Gossip { zones, events, ..Gossip::default() }, from, false);
        }
        if let (Some(has), Some(sender)) = (gossip.has, sender) {
            let mut lacking = self.zone_lacking(now, &has, source);
            if has.signed_digest != self.store.signed().digest() {
                lacking.signed = self.store.signed().all();
            }
            self.send_over_trunk(now, Traffic::Syncs, sender, lacking);
        }
    }

    pub(super) fn handle_trunk_probe(&mut self, now: Now, from: HostId, uplink: Uplink, mut payload: Bytes) {
        if payload.len() != PROBE_LEN {
            return self.count("datagram_malformed");
        }
        let number = payload.split_to(8);
        let rtt_us = payload.get_u32();
        // Who is no delegate does not answer, so that the other end finds one that is. Whom it does not know yet greets.
        let known = self.zones.find(from).filter(|_| self.place().is_some() || self.own.leaving);
        let Some(to) = known else { return };
        self.send_datagram(to, uplink, Kind::TrunkAck, number, 0);
        if from < self.me().id {
            let rtt = (rtt_us != 0).then(|| Duration::from_micros(u64::from(rtt_us)));
            if self.trunks.handle_probe(now.instant, from, uplink, rtt) {
                self.send_vector(now, to);
            }
        }
    }

    pub(super) fn handle_trunk_ack(&mut self, now: Now, from: HostId, uplink: Uplink, mut payload: Bytes) {
        let Ok(number) = payload.try_get_u64() else { return self.count("datagram_malformed") };
        if self.trunks.handle_ack(now.instant, from, uplink, number)
            && let Some(to) = self.trunks.to(from).map(|(_, trunk)| trunk.peer)
        {
            self.send_vector(now, to);
        }
    }

    /// Says which connections to keep.
    pub(super) fn pin(&mut self) {
        let links = self.overlay.links().map(|(uplink, link)| (link.peer, uplink));
        let trunks = self.trunks.iter().map(|(_, trunk)| (trunk.peer, trunk.uplink));
        let pins = links.chain(trunks).collect();
        self.outputs.push_back(Output::Pin(pins));
    }
}
