//! This host's uplinks: what is told of them, and which is used for what.
//!
//! Verdicts and votes go over both, so that the fault of one delays none (IEC 62439-3's PRP); all else goes over the
//! better one. How well an uplink does is `overlay`'s to say.

use ringmesh_proto::{HostId, Now, Uplink, member::Member, peer::EventRecord, v1};

use super::{Node, show};
use crate::overlay::{LinkState, Order, Preference, UplinkState};

/// How to reach a host with what does not go over both uplinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Preferably over this one.
    pub uplink: Uplink,
    /// By this host, which hears both: it is not heard directly.
    pub via: Option<Member>,
}

impl Way {
    /// Directly, preferably over this uplink.
    pub const fn over(uplink: Uplink) -> Self {
        Self { uplink, via: None }
    }
}

impl Node {
    /// The interface of an uplink lost its carrier or its address, or has both again.
    pub fn handle_carrier(&mut self, now: Now, uplink: Uplink, up: bool) {
        self.begin_turn(now);
        if self.overlay.handle_carrier(now.instant, uplink, up) {
            self.judge_uplinks(now);
            self.shown.links_stale(true);
        }
        self.settle(now);
    }

    /// An operator says over which uplink to send. It holds until the next order or the end of this life.
    pub fn handle_order(&mut self, now: Now, order: Order) {
        self.begin_turn(now);
        if self.overlay.order() != order {
            self.overlay.set_order(order);
            let name = &self.config.name;
            let text = match order {
                Order::None => format!("{name} uses its better uplink again, by order"),
                Order::Forced(uplink) => format!("{name} uses uplink {uplink}, by order, however it does"),
                Order::Manual(uplink) => format!("{name} uses uplink {uplink}, by order, as long as it is well"),
            };
            self.tell_of_uplink(now, "uplink-switched", v1::event::Severity::Info, text);
            self.write_record_urgently(now);
        }
        self.settle(now);
    }

    /// To be called after every probe of a link, whichever end sent it, and when a wait ends.
    pub(super) fn judge_uplinks(&mut self, now: Now) {
        let (store, heard, membership) = (&self.store, &self.heard, &self.membership);
        // A failing link is held against our own uplink only if its other end was heard of since, is suspected by
        // nobody, and does not report that its own uplink is the one that fails. A host that is cut off has no other one
        // to blame.
        let isolated = self.isolated.is_some();
        let well = |peer: HostId, uplink: Uplink, since: ringmesh_proto::Instant| {
            let record = store.host(peer);
            let last = heard.get(&peer).copied().max(record.map(|heard| heard.heard.instant));
            let states = record.map_or([0; 2], |heard| [heard.record.uplink_a, heard.record.uplink_b]);
            isolated
                || last.is_some_and(|last| last > since)
                    && states[uplink.index()] != v1::uplink::State::Down as u32
                    && matches!(membership.state(peer), Some((_, crate::membership::SwimState::Alive)))
        };
        let order = self.overlay.order();
        let changed = self.overlay.judge_uplinks(now.instant, well);
        if order != self.overlay.order() {
            let text = format!("{} uses its better uplink again: the one of the order fails", self.config.name);
            self.tell_of_uplink(now, "uplink-switched", v1::event::Severity::Warning, text);
        }
        self.tell_uplinks(now, changed);
    }

    /// Tells what it is time to tell. `changed`: the record says something else now.
    fn tell_uplinks(&mut self, now: Now, changed: bool) {
        let told = self.overlay.poll_told(now.instant);
        for (uplink, state) in &told {
            let severity =
                if *state == UplinkState::Up { v1::event::Severity::Info } else { v1::event::Severity::Warning };
            let why = if self.overlay.has_carrier(*uplink) { "" } else { ": its interface has no carrier or address" };
            let text = format!("{} uplink {uplink} is {}{why}", self.config.name, show::uplink_word(*state));
            self.tell_of_uplink(now, "uplink-changed", severity, text);
        }
        if !told.is_empty() || changed {
            // Not with the next record but now: others hold a silent link against their own uplinks until they know.
            self.write_record_urgently(now);
        }
        self.shown.links_stale(changed || !told.is_empty());
    }

    fn tell_of_uplink(&mut self, now: Now, kind: &str, severity: v1::event::Severity, text: String) {
        let (host, severity) = (self.me().id.raw(), severity as u32);
        self.tell(now, EventRecord { kind: kind.into(), host, severity, text, ..EventRecord::default() }, false);
    }

    /// How to reach a host.
    pub(super) fn way(&self, now: Now, to: Member) -> Way {
        Way { uplink: self.best_uplink(to), via: self.relay_to(now, to.id) }
    }

    /// The uplink of the best link to a host, or of no link the one that is in order.
    pub(super) fn best_uplink(&self, to: Member) -> Uplink {
        self.usable_uplinks(to).min_by_key(|uplink| self.badness(to.id, *uplink)).unwrap_or(Uplink::A)
    }

    /// The uplink for the second copy of what goes over both; none if it would be lost for sure.
    pub(super) fn second_uplink(&self, to: Member, first: Uplink) -> Option<Uplink> {
        let other = self.usable_uplinks(to).find(|uplink| *uplink != first)?;
        let (_, uplink, ..) = self.overlay.preference(other);
        let link_down = self.link_state(to.id, other) == Some(LinkState::Down);
        (uplink != UplinkState::Down && !link_down).then_some(other)
    }

    fn usable_uplinks(&self, to: Member) -> impl Iterator<Item = Uplink> {
        let here = self.config.me.addresses;
        Uplink::BOTH.into_iter().filter(move |uplink| to.address(*uplink).is_some() && here[uplink.index()].is_some())
    }

    /// An order first, then the uplink, then the link.
    fn badness(&self, to: HostId, uplink: Uplink) -> (Preference, LinkState) {
        let mut preference = self.overlay.preference(uplink);
        let link = self.link_state(to, uplink).unwrap_or_default();
        // A link that is down is no way, however well the uplink does otherwise.
        if link == LinkState::Down {
            preference.1 = UplinkState::Down;
        }
        (preference, link)
    }

    fn link_state(&self, to: HostId, uplink: Uplink) -> Option<LinkState> {
        let link = self.overlay.links().find(|(over, link)| *over == uplink && link.peer.id == to);
        link.map(|(_, link)| link.monitor.state())
    }
}
