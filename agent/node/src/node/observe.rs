//! What can be seen of a node without a snapshot: for the simulator, which looks at thousands of them at every event.

use ringmesh_proto::{HostId, Uplink, ZoneId, digest::Digest, member::Member, peer::EventRecord};
use ringmesh_topology::DualRing;

use super::Node;
use crate::{
    membership::{Change, SwimState},
    overlay::{OwnLink, UplinkState},
};

impl Node {
    /// Makes no snapshots from now on, and keeps the changes of the membership for [`Self::take_changes`] instead.
    pub fn observe(&mut self) {
        self.shown.hide();
        self.changes = Some(Vec::new());
    }

    /// What changed in the membership since the last call, if this node is observed.
    pub fn take_changes(&mut self) -> Vec<Change> {
        self.changes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What SWIM says of another host.
    pub fn state(&self, host: HostId) -> Option<(Member, SwimState)> {
        self.membership.state(host)
    }

    /// What SWIM says of all other hosts.
    pub fn states(&self) -> impl Iterator<Item = (Member, SwimState)> {
        self.membership.states()
    }

    /// Whether a host said, in its present life, that it leaves.
    pub fn knows_left(&self, host: HostId) -> bool {
        self.has_left(host)
    }

    /// Who accuses the present life of a host, as far as this one knows.
    pub fn accusers(&self, host: HostId) -> Vec<HostId> {
        let generation = self.membership.state(host).map_or(0, |(member, _)| member.generation);
        self.store.accusations(host, generation).iter().map(|record| HostId::new(record.accuser)).collect()
    }

    /// The zone that it belongs to.
    pub fn zone_id(&self) -> ZoneId {
        self.zone.id
    }

    /// Zones that this host hears of, its own among them.
    pub fn zones_heard(&self) -> usize {
        1 + self.zones.others().filter(|(id, _, heard)| heard.is_some() && !self.zone.lost.contains_key(id)).count()
    }

    /// What was refused or dropped so far, by this name.
    pub fn counted(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// Whether this host takes itself for cut off.
    pub fn is_isolated(&self) -> bool {
        self.isolated.is_some()
    }

    /// The orders of the hosts that are not down.
    pub fn rings(&self) -> &DualRing {
        self.overlay.rings()
    }

    /// This host's links.
    pub fn links(&self) -> impl Iterator<Item = (Uplink, &OwnLink)> {
        self.overlay.links()
    }

    /// How this host's uplinks do.
    pub fn uplinks(&self) -> [UplinkState; 2] {
        self.overlay.uplinks()
    }

    /// The newest generation of a host's events and the number up to which all of them arrived, or were covered.
    pub fn events_of(&self, origin: HostId) -> (u32, u32) {
        self.store.events().contiguous(origin)
    }

    /// The events that came from other hosts or are for them, oldest first, as (origin, generation, number).
    pub fn events(&self) -> impl Iterator<Item = (u32, u32, u32)> {
        let shared = self.store.events().iter().filter(|event| !event.local);
        shared.map(|event| (event.record.origin, event.record.generation, event.record.seq))
    }

    /// The events that this process told all others after this number, oldest first, as far as they are still kept.
    pub fn told(&self, after: u32) -> Vec<&EventRecord> {
        let me = self.me().id.raw();
        let own = |event: &&EventRecord| event.origin == me && event.generation == self.born;
        let shared = self.store.events().iter().rev().filter(|event| !event.local).map(|event| &event.record);
        let mut told: Vec<&EventRecord> = shared.filter(own).take_while(|event| event.seq > after).collect();
        told.reverse();
        told
    }

    /// What this host knows of all that runs on a host, itself or another.
    pub fn digest_of(&self, host: HostId) -> Option<Digest> {
        Digest::decode(&self.store.host(host)?.record.digest)
    }

    /// Records that were refused because they broke a bound or had no good seal: among honest hosts there are none.
    pub fn refused(&self) -> u64 {
        self.store.refused() + self.counted("seals_refused") + self.counted("seals_too_many")
    }
}
