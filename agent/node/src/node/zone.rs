//! This host's part in its zone's word to the other zones: whether it is a delegate, what the zone's record says, and what it
//! learns of other zones, which it passes on within its own.

use std::{collections::BTreeMap, time::Duration};

use ringmesh_proto::{
    HostId, Instant, Now, UnixMillis, ZoneId,
    digest::Digest,
    member::Member,
    peer::{Delegate, EventRecord, Gossip, HostRecord, ZoneRecord, ZoneVector},
    shared::Shared,
    v1::event::Severity,
    zone_digest::ZoneDigest,
};
use ringmesh_topology::zone::{concerns_delegates, delegates};

use super::Node;
use crate::{
    gossip::CONCLUDED,
    membership::SwimState,
    overlay::Wiring,
    zones::{Accepted, HeardZone, crosses},
};

/// A host that starts among others speaks for its zone only when it has heard from one of them, or has waited so long.
const SPEAK_AFTER: Duration = Duration::from_secs(5);

/// A delegate that is found down can have told nothing for so long.
const DYING_FOR: Duration = Duration::from_secs(5);

/// Events that are remembered in case that it has.
const MAX_CONCLUDED: usize = 16;

/// What this host knows of its own zone as a whole.
pub(super) struct OwnZone {
    pub(super) id: ZoneId,
    /// The first one writes the record.
    pub(super) delegates: Vec<HostId>,
    /// Members, delegates or zones have changed since they were last looked at.
    pub(super) dirty: bool,
    /// It begins to speak then; it does so already if there is none.
    speaks_from: Option<Instant>,
    /// What the hosts say of themselves may have changed.
    pub(super) stale: bool,
    written: Option<Written>,
    /// Hosts that this host found down lately, while another one spoke for the zone.
    concluded: Vec<(Instant, EventRecord)>,
    /// Zones of which nothing has come for long, and since when they are so.
    pub(super) lost: BTreeMap<ZoneId, Now>,
    /// Since when the others are not.
    pub(super) found: BTreeMap<ZoneId, Now>,
}

/// The record that this host wrote last.
struct Written {
    at: Instant,
    epoch: u32,
    seq: u32,
    digest: ZoneDigest,
    delegates: Vec<Member>,
}

impl OwnZone {
    /// `among`: there should be others.
    pub(super) fn new(now: Instant, name: &str, among: bool) -> Self {
        Self {
            id: ZoneId::of(name),
            delegates: Vec::new(),
            dirty: true,
            speaks_from: among.then(|| now + SPEAK_AFTER),
            stale: false,
            concluded: Vec::new(),
            written: None,
            lost: BTreeMap::new(),
            found: BTreeMap::new(),
        }
    }
}

impl Node {
    /// This host has heard what others of its zone know.
    pub(super) fn begin_to_speak(&mut self) {
        self.zone.dirty |= self.zone.speaks_from.take().is_some();
    }

    /// The seed that places delegates and zones; all hosts of a cluster have the same.
    pub(super) fn zone_seed(&self) -> u64 {
        match self.config.wiring {
            Wiring::Switched { seed } => seed,
            Wiring::Cabled => 0,
        }
    }

    /// This host's place among the delegates, if it is one.
    pub(super) fn place(&self) -> Option<usize> {
        let me = self.me().id;
        let place = self.zone.delegates.iter().position(|id| *id == me);
        place.filter(|_| self.zone.speaks_from.is_none())
    }

    /// Whether this host writes its zone's record.
    fn is_writer(&self) -> bool {
        self.place() == Some(0)
    }

    pub(super) fn next_zone(&self) -> Option<Instant> {
        let limit = self.zones.lost_after();
        let waiting = self.zones.others().filter(|(id, ..)| !self.zone.lost.contains_key(id));
        let lost = waiting.map(|(_, _, heard)| heard.map_or(self.started + limit, |heard| heard.aged(limit)));
        lost.chain(self.zone.speaks_from).chain(self.next_zone_record()).min()
    }

    fn next_zone_record(&self) -> Option<Instant> {
        let written = self.zone.written.as_ref()?;
        let news = self.zone.stale || self.is_outwritten();
        Some(written.at + if news { self.zones.min_interval() } else { self.zones.refresh() })
    }

    /// Finds the delegates anew, if something changed, writes the zone's record if it is this host's and its time, and says
    /// which zones are lost.
    pub(super) fn tend_zone(&mut self, now: Now) {
        if self.zone.speaks_from.is_some_and(|from| from <= now.instant) {
            self.begin_to_speak();
        }
        if std::mem::take(&mut self.zone.dirty) {
            self.find_delegates();
            self.rewire_trunks(now);
        }
        if self.is_writer() {
            self.tell_concluded(now);
            self.write_zone_record(now);
        } else {
            self.zone.written = None;
        }
        self.judge_zones(now);
    }

    fn find_delegates(&mut self) {
        let me = (!self.own.leaving).then_some(self.me().id);
        let others = self.membership.states().filter(|(_, state)| *state != SwimState::Down);
        let others = others.map(|(member, _)| member.id).filter(|id| !self.has_left(*id));
        let delegates = delegates(self.zone_seed(), self.zone.id, me.into_iter().chain(others));
        if delegates != self.zone.delegates {
            self.zone.delegates = delegates;
            self.shown.hosts_stale();
        }
    }

    /// Tells what this host concluded while the first delegate was dying, which could not tell it.
    fn tell_concluded(&mut self, now: Now) {
        for (at, event) in std::mem::take(&mut self.zone.concluded) {
            if now.instant.since(at) < DYING_FOR {
                self.cross(now, &event, true);
            }
        }
    }

    fn write_zone_record(&mut self, now: Now) {
        let delegates: Vec<Member> = self.zone.delegates.iter().filter_map(|id| self.member_of(*id)).collect();
        let outwritten = self.is_outwritten();
        let due = match &self.zone.written {
            Some(written) => {
                written.delegates != delegates || self.next_zone_record().is_some_and(|at| at <= now.instant)
            }
            None => true,
        };
        if !due {
            return;
        }
        let digest = self.zone_digest();
        self.zone.stale = false;
        let newest = self.zones.heard(self.zone.id).map_or(0, |heard| heard.record.epoch);
        let (epoch, seq) = match &self.zone.written {
            Some(written) if !outwritten => {
                let same = written.digest == digest && written.delegates == delegates;
                if same && now.instant < written.at + self.zones.refresh() {
                    return;
                }
                (written.epoch, written.seq.saturating_add(1))
            }
            Some(_) | None => (newest.saturating_add(1), 1),
        };
        let delegate =
            |member: &Member| Delegate { member: Some(member.to_record(0, 0)), name: self.name_of(member.id) };
        let record = ZoneRecord {
            zone: self.zone.id.raw(),
            epoch,
            seq,
            writer: self.me().id.raw(),
            name: self.config.zone.clone(),
            digest: digest.encode(),
            delegates: delegates.iter().map(delegate).collect(),
            age_ms: 0,
        };
        self.zone.written = Some(Written { at: now.instant, epoch, seq, digest, delegates });
        let new = self.accept_zones(now, vec![record], None);
        self.outbox.add_zones(new);
    }

    /// Whether somebody else has written a newer record of this zone than this host: it had not heard of this one's, or was
    /// the writer in an earlier life of the zone.
    fn is_outwritten(&self) -> bool {
        let (Some(written), Some(heard)) = (&self.zone.written, self.zones.heard(self.zone.id)) else { return false };
        let ZoneRecord { epoch, seq, writer, .. } = heard.record;
        (epoch, seq, writer) > (written.epoch, written.seq, self.me().id.raw())
    }

    /// The newest life of a host of this zone, this one included.
    pub(super) fn member_of(&self, host: HostId) -> Option<Member> {
        let me = self.me();
        if host == me.id { Some(me) } else { self.membership.state(host).map(|(member, _)| member) }
    }

    pub(super) fn zone_digest(&self) -> ZoneDigest {
        let me = self.me().id;
        let mut sum = ZoneDigest { worst: 0, ..ZoneDigest::default() };
        let mut scores = (0_u64, 0_u64);
        let own = std::iter::once((me, SwimState::Alive)).filter(|_| !self.own.leaving);
        let others = self.membership.states().map(|(member, state)| (member.id, state));
        for (id, state) in own.chain(others.filter(|(id, _)| !self.has_left(*id))) {
            let heard = self.store.host(id);
            let isolated = heard.is_some_and(|heard| heard.record.isolated);
            sum.hosts += 1;
            *match state {
                SwimState::Down => &mut sum.down,
                SwimState::Alive | SwimState::Suspect if isolated => &mut sum.isolated,
                SwimState::Alive => &mut sum.alive,
                SwimState::Suspect => &mut sum.suspect,
            } += 1;
            if let Some(digest) = heard.map(|heard| heard.digest).filter(|_| state != SwimState::Down) {
                add(&mut sum, &digest, id);
                let weight = u64::from(digest.containers);
                scores = (scores.0 + weight * u64::from(digest.score), scores.1 + weight);
            }
        }
        sum.score = scores.0.checked_div(scores.1).map_or(100, |mean| u8::try_from(mean).unwrap_or(100));
        sum
    }

    /// Keeps what is news of zones, and returns just that. What came over a trunk came from the zone `source`.
    pub(super) fn accept_zones(
        &mut self,
        now: Now,
        records: Vec<ZoneRecord>,
        source: Option<ZoneId>,
    ) -> Vec<ZoneRecord> {
        let mut new = Vec::new();
        for record in records.into_iter().take(crate::zones::MAX_ZONES) {
            let id = ZoneId::new(record.zone);
            let before = self.zones.candidates(id).1.to_vec();
            match self.zones.accept(now, &record) {
                Accepted::New => {
                    self.zone.dirty |= self.zones.candidates(id).1 != before;
                    if self.zones.candidates(id).1 != before && id != self.zone.id {
                        self.persist();
                    }
                    if id == self.zone.id {
                        self.meet_delegates(now);
                    }
                    self.trunk_outbox.add_zone(id, source);
                    self.zone_is_heard(now, id);
                    self.shown.hosts_stale();
                    new.push(record);
                }
                Accepted::Old => {}
                Accepted::Refused => self.count("zone_records_refused"),
                Accepted::Clash { known } => self.tell_clash(now, &record.name, &known),
            }
        }
        new
    }

    /// A record of this zone names hosts that this one does not know: two hosts founded it without knowing of each other, or it
    /// was cut in two, and other zones know both parts.
    fn meet_delegates(&mut self, now: Now) {
        let delegates = self.zones.candidates(self.zone.id).0;
        for member in delegates.into_iter().filter(|member| !self.has_left(member.id)).collect::<Vec<_>>() {
            self.membership.meet(now.instant, member);
        }
    }

    /// Two zones' names hash alike: to be told, but not with every record.
    fn tell_clash(&mut self, now: Now, name: &str, known: &str) {
        self.count("zone_clashes");
        if self.counters.get("zone_clashes") == Some(&1) {
            let text = format!("zone {name} is refused: its id is that of zone {known}; rename one of them");
            tracing::error!(text);
            let event = EventRecord {
                kind: "zone-clash".into(),
                host: self.me().id.raw(),
                severity: Severity::Critical as u32,
                text,
                ..EventRecord::default()
            };
            self.tell(now, event, true);
        }
    }

    /// Of a gossip within the zone, takes out hosts that are of another zone: its name hashes alike.
    pub(super) fn refuse_other_zones(&mut self, now: Now, hosts: &mut Vec<Shared<HostRecord>>) {
        let own = self.config.zone.clone();
        for record in hosts.extract_if(.., |record| record.zone != own).collect::<Vec<_>>() {
            if record.zone.is_empty() || ZoneId::of(&record.zone) != self.zone.id {
                self.count("zone_records_refused");
            } else {
                self.tell_clash(now, &record.zone, &own);
            }
        }
    }

    /// Keeps what is news of other zones' events, and returns just that.
    pub(super) fn accept_crossing(&mut self, events: Vec<EventRecord>, source: Option<ZoneId>) -> Vec<EventRecord> {
        let mut new = Vec::new();
        for event in events {
            let zone = ZoneId::new(event.zone);
            if zone == self.zone.id {
                continue;
            }
            if !crate::gossip::event_fits(&event) || !crosses(&event) {
                self.count("zone_events_refused");
            } else if self.crossing.accept(&event) {
                self.shown_event(&event, false);
                self.trunk_outbox.add_event(event.clone(), source);
                new.push(event);
            }
        }
        new
    }

    /// An event of this zone is in the log: does it concern the others?
    pub(super) fn cross(&mut self, now: Now, event: &EventRecord, local: bool) {
        if !crosses(event) || (local && !event.kind.starts_with("host-")) {
            return;
        }
        if local {
            // It may be about the one who would have told it until now.
            let (seed, host) = (self.zone_seed(), HostId::new(event.host));
            if concerns_delegates(seed, self.zone.id, &self.zone.delegates, host) {
                self.find_delegates();
            }
            if !self.is_writer() {
                if event.kind == "host-down" && self.zone.concluded.len() < MAX_CONCLUDED {
                    self.zone.concluded.push((now.instant, event.clone()));
                }
                self.zone.concluded.retain(|(at, _)| now.instant.since(*at) < DYING_FOR);
                return;
            }
        }
        let name = |id: &u32| self.name_of(HostId::new(*id));
        let event = EventRecord {
            zone: self.zone.id.raw(),
            host_name: name(&event.host),
            accuser_names: event.accusers.iter().map(name).collect(),
            // Every host concludes it: for the others one of them tells.
            seq: if local { event.seq | CONCLUDED } else { event.seq },
            ..event.clone()
        };
        if self.crossing.accept(&event) {
            self.trunk_outbox.add_event(event, None);
        }
    }

    /// What this host has of zones, and of the events of other zones.
    pub(super) fn zone_vector(&self) -> ZoneVector {
        let signed_digest = self.store.signed().digest();
        ZoneVector { zones: self.zones.versions(), events: self.crossing.keys(Some(self.zone.id)), signed_digest }
    }

    /// What a host lacks that has these, the events of the zone `but` left out.
    pub(super) fn zone_lacking(&self, now: Now, theirs: &ZoneVector, but: ZoneId) -> Gossip {
        let zones = self.zones.lacking(now, theirs);
        let events = self.crossing.lacking(&theirs.events, Some(but));
        Gossip { zones, events, ..Gossip::default() }
    }

    fn zone_is_heard(&mut self, now: Now, zone: ZoneId) {
        let fresh = self.zones.heard(zone).is_some_and(|heard| heard.age(now) < self.zones.lost_after());
        if zone == self.zone.id || !fresh {
            return;
        }
        if self.zone.lost.remove(&zone).is_some() {
            let text = format!("zone {} is heard of again", self.zones.name_of(zone));
            self.tell_zone(now, "zone-found", Severity::Info, text);
            self.zone.found.insert(zone, now);
        }
        self.zone.found.entry(zone).or_insert(now);
    }

    fn judge_zones(&mut self, now: Now) {
        let limit = self.zones.lost_after();
        let age = |heard: Option<&std::sync::Arc<HeardZone>>| {
            heard.map_or(now.instant.since(self.started), |heard| heard.age(now))
        };
        let lost =
            self.zones.others().filter(|(id, _, heard)| age(*heard) >= limit && !self.zone.lost.contains_key(id));
        let lost: Vec<_> = lost.map(|(id, name, heard)| (id, name.to_owned(), age(heard))).collect();
        for (id, name, age) in lost {
            let unix = now.unix.0.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            self.zone.lost.insert(id, Now { instant: now.instant - age, unix: UnixMillis(unix) });
            self.zone.found.remove(&id);
            let text = format!("zone {name} is unreachable: nothing has come from it for {} s", age.as_secs());
            self.tell_zone(now, "zone-lost", Severity::Critical, text);
            self.shown.hosts_stale();
        }
    }

    /// Every host concludes it for itself.
    fn tell_zone(&mut self, now: Now, kind: &str, severity: Severity, text: String) {
        let severity = severity as u32;
        self.tell(now, EventRecord { kind: kind.into(), severity, text, ..EventRecord::default() }, true);
    }
}

/// Adds what a host says of itself.
fn add(sum: &mut ZoneDigest, digest: &Digest, host: HostId) {
    sum.containers = sum.containers.saturating_add(digest.containers);
    sum.running = sum.running.saturating_add(digest.running);
    sum.services = sum.services.saturating_add(digest.services);
    sum.passing = sum.passing.saturating_add(digest.passing);
    sum.warning = sum.warning.saturating_add(digest.warning);
    sum.critical = sum.critical.saturating_add(digest.critical);
    sum.frozen = sum.frozen.saturating_add(digest.frozen);
    sum.worst = sum.worst.max(digest.worst);
    // Whatever the order, the sum of numbers that differ by host.
    let mixed = digest.fingerprint.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(host.raw());
    sum.fingerprint = sum.fingerprint.wrapping_add(mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9));
}
