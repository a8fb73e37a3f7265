//! Comparing what is known with another host, now and then: what was missed is asked for.
//!
//! First by digests of groups of hosts, of which most are the same as the other's; then, of the groups that differ, by the versions
//! of all. It owns when that is done and with whom. What there is to compare is `gossip`'s and `membership`'s.

use std::{collections::BTreeSet, time::Duration};

use rand::{RngExt, rngs::StdRng};
use ringmesh_proto::{
    HostId, Instant, Now,
    member::Member,
    peer::{Gossip, MemberRecord, SyncRequest, SyncResponse},
};

use super::{Node, Output};
use crate::{gossip::Groups, health::random_below, membership::SwimState};

/// Between two syncs with a neighbour, less up to a fifth.
const SYNC_INTERVAL: Duration = Duration::from_secs(10);

/// The same while syncs still bring members: a cluster that starts is known to all before its first round of probes is
/// over. It doubles with each sync that brings none.
const SYNC_INTERVAL_NEW: Duration = Duration::from_millis(500);

/// The least time between two syncs that links ask for by coming up.
const MIN_SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// When hosts are asked, and who was.
pub(super) struct Syncs {
    next: Instant,
    /// Between that sync and the one after it.
    interval: Duration,
    /// When another host was last asked.
    asked: Instant,
    /// Hosts that were asked by digests and have not answered. Members only.
    comparing: BTreeSet<HostId>,
}

impl Syncs {
    pub(super) fn new(now: Instant) -> Self {
        let next = now + SYNC_INTERVAL;
        Self { next, interval: SYNC_INTERVAL, asked: Instant::ZERO, comparing: BTreeSet::new() }
    }

    /// When the next one is due.
    pub(super) fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// If it is, sets the one after it.
    pub(super) fn take_due(&mut self, now: Instant, rng: &mut StdRng) -> bool {
        let due = self.next <= now;
        if due {
            self.next = now + self.interval - random_below(rng, self.interval / 5);
            self.interval = (self.interval * 2).min(SYNC_INTERVAL);
        }
        due
    }

    /// Nothing is awaited of a host that is no member any more.
    pub(super) fn forget(&mut self, host: HostId) {
        self.comparing.remove(&host);
    }
}

impl Node {
    /// Another host asks for what it lacks.
    pub fn handle_sync_request(&mut self, now: Now, request: &SyncRequest) -> SyncResponse {
        self.begin_turn(now);
        let zone = self.zone.id.raw();
        if request.zone != zone {
            self.count("sync_zone");
            return SyncResponse { zone, ..SyncResponse::default() };
        }
        let mut response = self.store.compare(request);
        if let Some(has) = &request.has {
            let lacking = self.zone_lacking(now, has, self.zone.id);
            let missing = response.missing.get_or_insert_default();
            missing.zones = lacking.zones;
            missing.events.extend(lacking.events);
        }
        // By what they are vouched for comes with them, or is here already.
        let complete = response.differ == 0 && request.members_digest != self.membership.digest();
        let members = if complete { self.membership.records() } else { Vec::new() };
        SyncResponse { zone, has: request.has.is_some().then(|| self.zone_vector()), members, ..response }
    }

    /// A host answered an [`Output::Sync`].
    pub fn handle_sync_response(&mut self, now: Now, from: HostId, response: SyncResponse) {
        self.begin_turn(now);
        if response.zone != self.zone.id.raw() {
            return self.count("sync_zone");
        }
        let mut missing = response.missing.unwrap_or_default();
        missing.events.sort_by_key(|event| event.unix_ms);
        let beyond = if response.signed_differ { self.store.signed().beyond(&missing.signed) } else { Vec::new() };
        // First the records: they vouch for the members.
        self.learn(now, from, missing);
        let known = |record: &MemberRecord| !self.store.is_forgotten(HostId::new(record.host), record.generation);
        let members: Vec<_> = response.members.into_iter().filter(known).collect();
        if self.membership.handle_members(now.instant, &members, |member| self.store.vouches(member)) {
            self.sync_soon(now);
        }
        self.store.cover(&response.covers);
        let mut gossip = self.store.select(&response.lack);
        if let Some(has) = response.has {
            let lacking = self.zone_lacking(now, &has, self.zone.id);
            gossip.zones = lacking.zones;
            gossip.events.extend(lacking.events);
        }
        if let Some((to, _)) = self.membership.state(from).filter(|_| gossip != Gossip::default()) {
            match self.relay_to(now, to.id) {
                Some(relay) => self.send_by(relay, to.id, gossip),
                None => self.send_gossip(to, &gossip),
            }
        }
        if let Some((to, _)) = self.membership.state(from).filter(|_| !beyond.is_empty()) {
            self.send_gossip(to, &Gossip { signed: beyond, ..Gossip::default() });
        }
        self.settle(now);
        let compared = self.syncs.comparing.remove(&from);
        if response.differ == 0 {
            self.begin_to_speak();
        } else if let Some((to, _)) = self.membership.state(from).filter(|_| compared) {
            self.sync_groups(now, to, Groups::from_mask(response.differ));
        }
        self.settle(now);
    }

    pub(super) fn sync_with_any(&mut self, now: Now) {
        let alive: Vec<Member> = self
            .membership
            .states()
            .filter(|(member, state)| *state == SwimState::Alive && !self.has_left(member.id))
            .map(|(member, _)| member)
            .collect();
        let neighbours: Vec<Member> = self.overlay.links().map(|(_, link)| link.peer).collect();
        let pool = if neighbours.is_empty() { alive } else { neighbours };
        if !pool.is_empty() {
            let to = pool[self.rng.random_range(0..pool.len())];
            self.sync_with(now, to);
        }
    }

    /// There is more to learn than usual, and one sync may not bring it all.
    pub(super) fn sync_soon(&mut self, now: Now) {
        self.syncs.interval = SYNC_INTERVAL_NEW;
        self.hasten_sync(now);
    }

    pub(super) fn hasten_sync(&mut self, now: Now) {
        self.syncs.next = self.syncs.next.min(now.instant + SYNC_INTERVAL_NEW);
    }

    fn sync_with(&mut self, now: Now, to: Member) {
        self.syncs.asked = now.instant;
        self.syncs.comparing.insert(to.id);
        let request =
            SyncRequest { digests: self.store.digests(), has: Some(self.zone_vector()), ..SyncRequest::default() };
        self.ask_for_sync(now, to, request);
    }

    /// What differs by its digests is compared one by one.
    fn sync_groups(&mut self, now: Now, to: Member, groups: Groups) {
        let request =
            SyncRequest { have: self.store.versions(groups), groups: groups.mask(), ..SyncRequest::default() };
        self.ask_for_sync(now, to, request);
    }

    fn ask_for_sync(&mut self, now: Now, to: Member, request: SyncRequest) {
        let request = SyncRequest {
            zone: self.zone.id.raw(),
            signed_digest: self.store.signed().digest(),
            members_digest: self.membership.digest(),
            ..request
        };
        let way = self.way(now, to);
        if way.via.is_some() {
            self.count("sent_by_relay");
        }
        self.outputs.push_back(Output::Sync { to, way, request });
    }

    /// A link to a host came up. Those of a starved host come up often: what was missed is asked for once in a while all the same.
    pub(super) fn sync_unless_lately(&mut self, now: Now, to: Member) {
        if now.instant.since(self.syncs.asked) >= MIN_SYNC_INTERVAL {
            self.sync_with(now, to);
        }
    }
}
