//! What a member can do that lies: its own keys, all that it was told, and any frame to any other member.

use bytes::Bytes;
use ringmesh_node::Seals;
use ringmesh_proto::{
    Uplink,
    datagram::{Datagram, Kind},
    peer::{Gossip, SyncRequest, SyncResponse},
    seal::{Sealed, sealed_bytes},
};

use super::{CLUSTER, HostIndex, World};

impl World {
    /// All that a host has heard, sealed by whoever said it.
    pub fn known(&mut self, index: HostIndex) -> Gossip {
        let now = self.time(index);
        let Some(node) = &mut self.hosts[index].node else { return Gossip::default() };
        let zone = node.zone_id().raw();
        let response = node.handle_sync_request(now, &SyncRequest { zone, ..SyncRequest::default() });
        Gossip { zone, ..response.missing.unwrap_or_default() }
    }

    /// Seals with a host's own key, whatever the record says.
    pub fn seal(&mut self, index: HostIndex, record: &mut impl Sealed) {
        let bytes = sealed_bytes(record, CLUSTER);
        let mut seals = self.hosts[index].seals();
        seals.certificate();
        *record.seal_mut() = seals.seal(&bytes);
    }

    /// One host says this to another, at once.
    pub fn say(&mut self, from: HostIndex, to: HostIndex, gossip: Gossip) {
        let now = self.time(to);
        if let Some(node) = &mut self.hosts[to].node {
            node.handle_gossip(now, super::id(from), gossip);
            self.drain(to);
        }
    }

    /// One host sends this SWIM message to another, at once. `sequence`: another one each time.
    pub fn say_in_swim(&mut self, from: HostIndex, to: HostIndex, sequence: u32, payload: Bytes) {
        let now = self.time(to);
        if let Some(node) = &mut self.hosts[to].node {
            let datagram = Datagram { kind: Kind::Swim, cell: 0, zone: node.zone_id(), sequence, payload };
            node.handle_datagram(now, super::id(from), Uplink::A, datagram.encode(CLUSTER));
            self.drain(to);
        }
    }

    /// One host gives another this answer, at once.
    pub fn answer_with(&mut self, from: HostIndex, to: HostIndex, response: SyncResponse) {
        let now = self.time(to);
        if let Some(node) = &mut self.hosts[to].node {
            node.handle_sync_response(now, super::id(from), response);
            self.drain(to);
        }
    }

    /// A host gets another certificate, and its agent is told.
    pub fn renew_certificate(&mut self, index: HostIndex) {
        let renewals = self.hosts[index].renew();
        let now = self.time(index);
        if let Some(node) = &mut self.hosts[index].node {
            let certificate = ringmesh_node::Certificate { ends_unix: renewals.into(), ..Default::default() };
            node.handle_certificate(now, certificate);
            self.drain(index);
        }
    }
}
