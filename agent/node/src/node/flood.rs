//! News on its way to all neighbours: at once when it is quiet, in batches when much happens.
//!
//! Each host passes on what is new to it, so that one event costs each host a frame from every neighbour. A rack that fails
//! tells thousands: what comes within a moment goes on together, encoded once.

use std::time::Duration;

use prost::Message;
use ringmesh_proto::{
    HostId, Instant, Now,
    member::Member,
    peer::{AccusationRecord, EventRecord, Gossip, HostRecord, SignedRecord, ZoneRecord},
    shared::Shared,
};

use super::{Class, Frame, Node, Output};

/// The least time between two batches of each class.
const INTERVAL: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(50)];

/// The same for a batch with a record: an uplink is lost, and traffic is to go another way.
const URGENT_INTERVAL: Duration = Duration::from_millis(2);

/// Bytes of records in one gossip frame, of which the receiver takes [`ringmesh_proto::frame::MAX_GOSSIP`].
const PART: usize = 64 * 1024;

/// Records in one frame, up to which they may be urgent.
const URGENT_HOSTS: usize = 4;

/// From whom a batch is: it need not be sent back there.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Source {
    #[default]
    Nobody,
    Peer(HostId),
    Several,
}

impl Source {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nobody, other) | (other, Self::Nobody) => other,
            (one, other) if one == other => one,
            _ => Self::Several,
        }
    }
}

#[derive(Default)]
struct Batch {
    gossip: Gossip,
    source: Source,
    /// When the one before was sent.
    sent: Option<Instant>,
}

impl Batch {
    /// When it is sent, if it holds anything.
    fn due(&self, class: Class) -> Option<Instant> {
        let urgent = class == Class::Event && !self.gossip.hosts.is_empty();
        let interval = if urgent { URGENT_INTERVAL } else { INTERVAL[class as usize] };
        let holds = self.source != Source::Nobody;
        holds.then(|| self.sent.map_or(Instant::ZERO, |sent| sent + interval))
    }
}

/// What waits for all neighbours, by [`Class`].
#[derive(Default)]
pub(super) struct Outbox {
    batches: [Batch; 2],
}

impl Outbox {
    pub(super) fn add_event(&mut self, record: EventRecord) {
        self.add(Class::Event, Source::Several).events.push(record);
    }

    pub(super) fn add_accusation(&mut self, record: AccusationRecord) {
        self.add(Class::Event, Source::Several).accusations.push(record);
    }

    /// A newer record of a host takes the place of the one before.
    pub(super) fn add_host(&mut self, record: Shared<HostRecord>) {
        self.put_host(Class::Digest, record, Source::Several);
    }

    /// The same, of a record that cannot wait: it goes with the events.
    pub(super) fn add_urgent_host(&mut self, record: Shared<HostRecord>) {
        self.put_host(Class::Event, record, Source::Several);
    }

    /// Records of zones.
    pub(super) fn add_zones(&mut self, records: Vec<ZoneRecord>) {
        records.into_iter().for_each(|record| self.put_zone(record, Source::Several));
    }

    /// What is new of what `from` sent.
    ///
    /// `urgent`: a record says that an uplink is down, or shows another certificate, and the one before did not.
    pub(super) fn relay(&mut self, new: Gossip, from: HostId, urgent: bool) {
        let source = Source::Peer(from);
        // Many records came with a sync.
        let urgent = urgent && new.hosts.len() <= URGENT_HOSTS;
        let class = if urgent { Class::Event } else { Class::Digest };
        if !new.events.is_empty() || !new.accusations.is_empty() {
            let batch = self.add(Class::Event, source);
            batch.events.extend(new.events);
            batch.accusations.extend(new.accusations);
        }
        new.hosts.into_iter().for_each(|record| self.put_host(class, record, source));
        new.zones.into_iter().for_each(|record| self.put_zone(record, source));
    }

    fn put_zone(&mut self, record: ZoneRecord, source: Source) {
        let zones = &mut self.add(Class::Digest, source).zones;
        zones.retain(|old| old.zone != record.zone);
        zones.push(record);
    }

    /// Verified statements of the CA; as urgent as events.
    pub(super) fn relay_signed(&mut self, new: Vec<SignedRecord>, from: Option<HostId>) {
        if !new.is_empty() {
            self.add(Class::Event, from.map_or(Source::Several, Source::Peer)).signed.extend(new);
        }
    }

    fn put_host(&mut self, class: Class, record: Shared<HostRecord>, source: Source) {
        let hosts = &mut self.add(class, source).hosts;
        hosts.retain(|old| old.host != record.host);
        hosts.push(record);
    }

    fn add(&mut self, class: Class, source: Source) -> &mut Gossip {
        let batch = &mut self.batches[class as usize];
        batch.source = batch.source.and(source);
        &mut batch.gossip
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [Class::Event, Class::Digest].into_iter().filter_map(|class| self.batches[class as usize].due(class)).min()
    }

    /// The batch of a class, if it is its time.
    fn take(&mut self, now: Instant, class: Class) -> Option<(Gossip, Source)> {
        let batch = &mut self.batches[class as usize];
        batch.due(class).filter(|due| *due <= now)?;
        batch.sent = Some(now);
        Some((std::mem::take(&mut batch.gossip), std::mem::take(&mut batch.source)))
    }
}

impl Node {
    /// Sends what it is time for, but not to the one that all of it came from: what is urgent to all neighbours, records to
    /// the next on either ring. Of the two orders one is a permutation of the other, so that in a few steps each host has
    /// them, twice at most.
    pub(super) fn flood(&mut self, now: Now) {
        for class in [Class::Event, Class::Digest] {
            let Some((gossip, source)) = self.outbox.take(now.instant, class) else { continue };
            let frames = self.frames(&gossip);
            let peers = match class {
                Class::Event => self.overlay.members(),
                Class::Digest => self.overlay.successors(),
            };
            for to in peers.into_iter().filter(|peer| source != Source::Peer(peer.id)) {
                self.send_frames(to, class, &frames);
            }
        }
    }

    /// Sends to one host.
    pub(super) fn send_gossip(&mut self, to: Member, gossip: &Gossip) {
        let frames = self.frames(gossip);
        let urgent = !gossip.events.is_empty() || !gossip.accusations.is_empty() || !gossip.signed.is_empty();
        self.send_frames(to, if urgent { Class::Event } else { Class::Digest }, &frames);
    }

    /// Urgent ones go over both uplinks, and whoever has both drops the second copy.
    pub(super) fn send_frames(&mut self, to: Member, class: Class, frames: &[Frame]) {
        let uplink = self.best_uplink(to);
        let second = if class == Class::Event { self.second_uplink(to, uplink) } else { None };
        for frame in frames {
            let (name, twice) = match class {
                Class::Event => ("event_bytes", "event_bytes_second"),
                Class::Digest => ("digest_bytes", ""),
            };
            self.count_by(name, frame.encoded_len() as u64);
            self.outputs.push_back(Output::Gossip { to, uplink, class, frame: frame.clone(), second: false });
            if let Some(uplink) = second {
                self.count_by(twice, frame.encoded_len() as u64);
                self.outputs.push_back(Output::Gossip { to, uplink, class, frame: frame.clone(), second: true });
            }
        }
    }

    /// In frames that are far below the bound of the receiver.
    pub(super) fn frames(&self, gossip: &Gossip) -> Vec<Frame> {
        let (cluster, zone) = (self.config.cluster.raw(), self.zone.id.raw());
        split(gossip).into_iter().map(|part| Frame::new(cluster, Gossip { zone, ..part }, None)).collect()
    }
}

/// The same gossip in parts, each of some [`PART`] bytes.
fn split(gossip: &Gossip) -> Vec<Gossip> {
    // A vector has a bound of its own.
    let mut parts = vec![Gossip { has: gossip.has.clone(), ..Gossip::default() }];
    let mut room = PART;
    let mut part = |len: usize, add: &dyn Fn(&mut Gossip)| {
        if len > room {
            parts.push(Gossip::default());
            room = PART;
        }
        room = room.saturating_sub(len);
        add(parts.last_mut().expect("there is one from the start"));
    };
    for record in &gossip.hosts {
        part(record.encoded_len(), &|out| out.hosts.push(record.clone()));
    }
    for record in &gossip.zones {
        part(record.encoded_len(), &|out| out.zones.push(record.clone()));
    }
    for record in &gossip.accusations {
        part(record.encoded_len(), &|out| out.accusations.push(record.clone()));
    }
    for record in &gossip.signed {
        part(record.encoded_len(), &|out| out.signed.push(record.clone()));
    }
    for record in &gossip.events {
        part(record.encoded_len(), &|out| out.events.push(record.clone()));
    }
    parts
}
