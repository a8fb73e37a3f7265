//! News on its way to all neighbours: at once when it is quiet, in batches when much happens.
//!
//! Each host passes on what is new to it, so that one event costs each host a frame from every neighbour. A rack that fails
//! tells thousands: what comes within a moment goes on together, encoded once.

use std::time::Duration;

use prost::Message;
use ringmesh_proto::{
    HostId, Instant, Now, Uplink,
    member::Member,
    peer::{AccusationRecord, EventRecord, Gossip, HostRecord},
};

use super::{Class, Frame, Node, Output};
use crate::overlay::UplinkState;

/// The least time between two batches of each class.
const INTERVAL: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(50)];

/// Bytes of records in one gossip frame, of which the receiver takes [`ringmesh_proto::frame::MAX_GOSSIP`].
const PART: usize = 64 * 1024;

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
    pub(super) fn add_host(&mut self, record: HostRecord) {
        self.put_host(record, Source::Several);
    }

    /// What is new of what `from` sent.
    pub(super) fn relay(&mut self, new: Gossip, from: HostId) {
        let source = Source::Peer(from);
        if !new.events.is_empty() || !new.accusations.is_empty() {
            let batch = self.add(Class::Event, source);
            batch.events.extend(new.events);
            batch.accusations.extend(new.accusations);
        }
        new.hosts.into_iter().for_each(|record| self.put_host(record, source));
    }

    fn put_host(&mut self, record: HostRecord, source: Source) {
        let hosts = &mut self.add(Class::Digest, source).hosts;
        hosts.retain(|old| old.host != record.host);
        hosts.push(record);
    }

    fn add(&mut self, class: Class, source: Source) -> &mut Gossip {
        let batch = &mut self.batches[class as usize];
        batch.source = batch.source.and(source);
        &mut batch.gossip
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.batches.iter().zip(INTERVAL).filter(|(batch, _)| batch.source != Source::Nobody);
        waiting.map(|(batch, interval)| batch.sent.map_or(Instant::ZERO, |sent| sent + interval)).min()
    }

    /// The batch of a class, if it is its time.
    fn take(&mut self, now: Instant, class: Class) -> Option<(Gossip, Source)> {
        let batch = &mut self.batches[class as usize];
        let due = batch.sent.is_none_or(|sent| sent + INTERVAL[class as usize] <= now);
        if batch.source == Source::Nobody || !due {
            return None;
        }
        batch.sent = Some(now);
        Some((std::mem::take(&mut batch.gossip), std::mem::take(&mut batch.source)))
    }
}

impl Node {
    /// Sends what it is time for to all neighbours but the one that all of it came from.
    pub(super) fn flood(&mut self, now: Now) {
        for class in [Class::Event, Class::Digest] {
            let Some((gossip, source)) = self.outbox.take(now.instant, class) else { continue };
            let frames = self.frames(&gossip);
            for to in self.overlay.members().into_iter().filter(|peer| source != Source::Peer(peer.id)) {
                self.send_frames(to, class, &frames);
            }
        }
    }

    /// Sends to one host.
    pub(super) fn send_gossip(&mut self, to: Member, gossip: &Gossip) {
        let frames = self.frames(gossip);
        let urgent = !gossip.events.is_empty() || !gossip.accusations.is_empty();
        self.send_frames(to, if urgent { Class::Event } else { Class::Digest }, &frames);
    }

    fn send_frames(&mut self, to: Member, class: Class, frames: &[Frame]) {
        let uplink = self.best_uplink(to);
        for frame in frames {
            self.outputs.push_back(Output::Gossip { to, uplink, class, frame: frame.clone() });
        }
    }

    /// In frames that are far below the bound of the receiver.
    fn frames(&self, gossip: &Gossip) -> Vec<Frame> {
        let cluster = self.config.cluster.raw();
        split(gossip).into_iter().map(|part| Frame::new(cluster, part)).collect()
    }

    /// The uplink of the best link to a host, or of no link the one that is in order.
    fn best_uplink(&self, to: Member) -> Uplink {
        let usable = Uplink::BOTH.into_iter().filter(|uplink| {
            to.address(*uplink).is_some() && self.overlay.uplinks()[uplink.index()] != UplinkState::None
        });
        let badness = |uplink: &Uplink| {
            let link = self.overlay.links().find(|(over, link)| over == uplink && link.peer.id == to.id);
            let state = link.map(|(_, link)| link.monitor.state() as u8);
            (self.overlay.uplinks()[uplink.index()], state.unwrap_or(0))
        };
        usable.min_by_key(badness).unwrap_or(Uplink::A)
    }
}

/// The same gossip in parts, each of some [`PART`] bytes.
fn split(gossip: &Gossip) -> Vec<Gossip> {
    let mut parts = vec![Gossip::default()];
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
    for record in &gossip.accusations {
        part(record.encoded_len(), &|out| out.accusations.push(record.clone()));
    }
    for record in &gossip.events {
        part(record.encoded_len(), &|out| out.events.push(record.clone()));
    }
    parts
}
