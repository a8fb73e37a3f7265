//! Each round trip of a link probe moves this host's coordinate towards or away from that of the other end.

use std::collections::BTreeSet;

use ringmesh_topology::coordinate::Refused;

use super::Node;
use crate::coordinate;

impl Node {
    /// Of links that are no more.
    pub(super) fn forget_round_trips(&mut self) {
        let links: BTreeSet<_> = self.overlay.links().map(|(uplink, link)| (link.peer.id, uplink)).collect();
        self.place.vivaldi().retain(|host, uplink| links.contains(&(host, uplink)));
    }

    /// Takes what the overlay measured last, if it did.
    pub(super) fn take_round_trip(&mut self) {
        let Some((peer, uplink, rtt)) = self.overlay.take_round_trip() else { return };
        let Some(heard) = self.store.host(peer) else { return };
        let refused = match coordinate::decode(heard.record.coordinate.as_ref()) {
            Some(theirs) => match self.place.vivaldi().update(peer, uplink, rtt, &theirs) {
                Ok(()) => {
                    self.place.measured(rtt);
                    false
                }
                Err(Refused::Implausible) => true,
                Err(Refused::RoundTrip) => false,
            },
            // A host of an earlier version says nothing, and that is no fault.
            None => heard.record.coordinate.is_some(),
        };
        if refused {
            self.count("coordinates_refused");
        }
    }
}
