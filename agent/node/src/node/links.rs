//! Probes of this host's links, on the wire.
//!
//! When a link is probed and how it does is `overlay`'s to say.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ringmesh_proto::{HostId, Now, Uplink, datagram::Kind};

use super::Node;
use crate::overlay::LinkProbe;

/// Bytes of a link probe's payload: its number, and the sender's round trip in microseconds. The answer is the number.
pub(super) const PROBE_LEN: usize = 12;

/// Instead of a round trip: the sender does not hear us on this link.
const DEAF: u32 = u32::MAX;

impl Node {
    pub(super) fn probe_links(&mut self, now: Now) {
        let probes = self.overlay.handle_timeout(now.instant);
        if probes.is_empty() {
            return;
        }
        for LinkProbe { to, uplink, number, hears, rtt } in probes {
            self.send_datagram(to, uplink, Kind::LinkProbe, link_probe(number, hears, rtt), 0);
        }
        self.judge_uplinks(now);
    }

    pub(super) fn answer_link_probe(&mut self, now: Now, from: HostId, uplink: Uplink, mut payload: Bytes) {
        if payload.len() != PROBE_LEN {
            return self.count("datagram_malformed");
        }
        let number = payload.split_to(8);
        let rtt_us = payload.get_u32();
        // Otherwise a host that we do not know yet; it will be introduced.
        let Some((to, _)) = self.membership.state(from) else { return };
        self.send_datagram(to, uplink, Kind::LinkAck, number, 0);
        let rtt = (rtt_us != 0 && rtt_us != DEAF).then(|| Duration::from_micros(u64::from(rtt_us)));
        if self.overlay.handle_probe(now.instant, from, uplink, rtt_us != DEAF, rtt) {
            self.link_came_up(now, from, uplink);
        }
        self.judge_uplinks(now);
    }

    /// An answer to a probe of a link.
    pub(super) fn handle_link_ack(&mut self, now: Now, from: HostId, uplink: Uplink, mut payload: Bytes) {
        let Ok(number) = payload.try_get_u64() else { return self.count("datagram_malformed") };
        if self.overlay.handle_ack(now.instant, from, uplink, number) {
            self.link_came_up(now, from, uplink);
        }
        self.shown.links_stale(false);
    }

    fn link_came_up(&mut self, now: Now, peer: HostId, uplink: Uplink) {
        self.shown.links_stale(true);
        if let Some((to, _)) = self.membership.state(peer) {
            self.learn_reach(to, uplink);
            self.sync_unless_lately(now, to);
        }
    }
}

/// The payload of a probe of a link.
pub(super) fn link_probe(number: u64, hears: bool, rtt: Option<Duration>) -> Bytes {
    let mut payload = BytesMut::with_capacity(PROBE_LEN);
    payload.put_u64(number);
    let rtt_us = rtt.map_or(0, |rtt| u32::try_from(rtt.as_micros()).unwrap_or(DEAF).min(DEAF - 1));
    payload.put_u32(if hears { rtt_us } else { DEAF });
    payload.freeze()
}
