//! Two hosts that do not hear each other, though others hear both: what one has for the other alone goes by a third.
//!
//! News needs no relay, for every host passes it on to all its neighbours. A sync, what is pushed after it, and questions of
//! the API do. Nothing goes by more than one host: what was relayed is passed on directly, or not at all.

use std::time::Duration;

use ringmesh_proto::{
    HostId, Instant, Now,
    member::Member,
    peer::{BrokenPair, Gossip},
    v1,
};

use super::{Class, Frame, Node, Output};
use crate::membership::SwimState;

/// A host is called by another one when nothing has come from it for so long.
const RELAY_AFTER: Duration = Duration::from_secs(1);

/// Gossip frames that are passed on for others in a second; of more, the next sync makes up for it.
const MAX_RELAYED: u32 = 64;

/// Broken pairs in a host's record.
const MAX_PAIRS: usize = 16;

/// The round trip of a path that nobody measured.
const UNMEASURED: Duration = Duration::from_secs(1);

/// How much was passed on in the present second.
#[derive(Default)]
pub(super) struct Relayed {
    since: Instant,
    frames: u32,
}

impl Relayed {
    fn admit(&mut self, now: Instant) -> bool {
        if now.since(self.since) >= Duration::from_secs(1) {
            *self = Self { since: now, frames: 0 };
        }
        self.frames += 1;
        self.frames <= MAX_RELAYED
    }
}

impl Node {
    /// The host by which to reach one that this host does not hear: of those that both hear, the one with the shortest way.
    pub(super) fn relay_to(&self, now: Now, to: HostId) -> Option<Member> {
        let watch = self.watches.get(&to)?;
        if self.isolated.is_some() || !watch.lasts(now.instant, RELAY_AFTER) {
            return None;
        }
        let relays = self.store.hosts().filter_map(|(id, heard)| {
            let theirs =
                heard.record.links.iter().filter(|link| link.peer == to.raw() && matches!(link.state, UP | DEGRADED));
            let theirs = theirs.map(|link| Duration::from_micros(u64::from(link.rtt_us))).min()?;
            let (member, state) = self.membership.state(id)?;
            let usable = state == SwimState::Alive && id != to && !self.has_left(id) && !self.watches.contains_key(&id);
            usable.then(|| (self.rtt_to(id).unwrap_or(UNMEASURED) + theirs, id, member))
        });
        relays.min_by_key(|(rtt, id, _)| (*rtt, *id)).map(|(.., member)| member)
    }

    /// The shortest round trip of our own links to a host that are up.
    fn rtt_to(&self, host: HostId) -> Option<Duration> {
        let links = self.overlay.links().filter(|(_, link)| link.peer.id == host);
        links
            .filter(|(_, link)| link.monitor.state() == crate::overlay::LinkState::Up)
            .filter_map(|(_, link)| link.monitor.rtt())
            .min()
    }

    /// Another host does not hear `to` and sends this for it.
    pub fn handle_relay(&mut self, now: Now, from: HostId, to: HostId, mut gossip: Gossip) {
        self.begin_turn(now);
        if to == self.me().id {
            return self.handle_gossip(now, from, gossip);
        }
        let alive = self.membership.state(to).filter(|(_, state)| *state == SwimState::Alive).map(|(member, _)| member);
        match alive.filter(|member| member.id != from && self.relayed.admit(now.instant)) {
            Some(member) => {
                self.count("relayed");
                self.refuse_unsealed(now, from, &mut gossip);
                let frames = self.frames(&gossip);
                self.send_frames(member, Class::Digest, &frames);
            }
            None => self.count("relay_refused"),
        }
    }

    /// A frame to `relay`, to be passed on.
    pub(super) fn send_by(&mut self, relay: Member, to: HostId, gossip: Gossip) {
        self.count("sent_by_relay");
        let (cluster, zone) = (self.config.cluster.raw(), self.zone.id.raw());
        let frame = Frame::new(cluster, Gossip { zone, ..gossip }, Some(to));
        let uplink = self.best_uplink(relay);
        self.outputs.push_back(Output::Gossip { to: relay, uplink, class: Class::Digest, frame, second: false });
    }

    /// For this host's record.
    pub(super) fn broken_pairs(&self, now: Now) -> Vec<BrokenPair> {
        let told = self.watches.iter().filter(|(_, watch)| watch.is_told());
        let pair = |(peer, _): (&HostId, _)| BrokenPair {
            peer: peer.raw(),
            via: self.relay_to(now, *peer).map_or(0, |relay| relay.id.raw()),
        };
        told.map(pair).take(MAX_PAIRS).collect()
    }
}

const UP: u32 = v1::link::State::Up as u32;
const DEGRADED: u32 = v1::link::State::Degraded as u32;
