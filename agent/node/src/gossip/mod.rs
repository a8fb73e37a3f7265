//! What every host knows of every other: records, accusations and events, each with one writer and a version.
//!
//! It owns what was learned, decides what is new, and answers which of it another host lacks. It does not know links
//! or SWIM. Newest version wins, so it does not matter how often, in which order or over which path things arrive.

mod events;
mod signed;
#[cfg(test)]
mod tests;

pub use events::{EVENT_CAPACITY, EventLog, LoggedEvent};
pub use signed::{MAX_SIGNED, SignedStore};

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use ringmesh_proto::{
    Generation, HostId, Now,
    digest::{self, Digest},
    member::Member,
    peer::{AccusationRecord, EventRecord, Gossip, HostRecord, SyncRequest, SyncResponse, Version},
    seal::{MAX_CERTIFICATE, MAX_MORE, MAX_SEAL},
    shared::Shared,
};
use ringmesh_topology::hash;

/// The most hosts of a pool, and so of records kept: a zone.
pub const MAX_HOSTS: usize = 512;

/// In the number of an event, sets what a delegate concluded for itself, as every host does, and tells other zones, apart from
/// what it sends to all.
pub(crate) const CONCLUDED: u32 = 1 << 31;

/// The most accusations kept of one host; further accusers change nothing.
const MAX_ACCUSERS: usize = 32;

/// The most accusations kept in all: 16 accusers of every host.
const MAX_ACCUSATIONS: usize = 16 * MAX_HOSTS;

/// The most bytes of any text in a record.
const MAX_TEXT: usize = 512;

/// The most numbers of a position in a host's record: a later version may have more than ours.
const MAX_DIMENSIONS: usize = 8;

/// The most bytes of a rule of chords: "rack-aware:2", and what a later version may add.
const MAX_CHORDS: usize = 32;

/// The most links in a host's record.
const MAX_LINKS: usize = 64;

/// Into so many groups hosts are divided when two compare what they have.
const GROUPS: usize = 16;

/// Some of the groups of hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Groups(u32);

impl Groups {
    /// All of them.
    pub const ALL: Self = Self((1 << GROUPS) - 1);

    /// As a message says it, where 0 is all.
    pub fn from_mask(mask: u32) -> Self {
        if mask == 0 { Self::ALL } else { Self(mask & Self::ALL.0) }
    }

    /// A bit for each.
    pub fn mask(self) -> u32 {
        self.0
    }

    fn of(host: HostId) -> usize {
        host.raw() as usize % GROUPS
    }

    fn hold(self, host: HostId) -> bool {
        self.0 & 1 << Self::of(host) != 0
    }
}

/// A host's newest record and when it came.
#[derive(Clone, Debug)]
pub struct HeardRecord {
    /// As the host wrote it.
    pub record: Shared<HostRecord>,
    /// Decoded from it.
    pub digest: Digest,
    /// When this host received it.
    pub heard: Now,
}

/// Everything that was learned by gossip.
#[derive(Default)]
pub struct Store {
    hosts: BTreeMap<HostId, Arc<HeardRecord>>,
    /// Those whose newest record says that they leave.
    leaving: BTreeSet<HostId>,
    /// By accused, then accuser.
    accusations: BTreeMap<(HostId, HostId), AccusationRecord>,
    /// Lives of hosts that others may still tell of, and that are not to be learnt of again; and what such a host said of its
    /// life, for it may be back in it.
    forgotten: BTreeMap<HostId, (Generation, Option<Member>)>,
    events: EventLog,
    signed: SignedStore,
    refused: u64,
    duplicates: u64,
    void: u64,
}

impl Store {
    /// The newest record of a host.
    pub fn host(&self, host: HostId) -> Option<&Arc<HeardRecord>> {
        self.hosts.get(&host)
    }

    /// Whether a host says itself that it lives this life, at these addresses.
    pub fn vouches(&self, member: Member) -> bool {
        let said = self.hosts.get(&member.id).and_then(|heard| life(&heard.record));
        said.or_else(|| self.forgotten.get(&member.id)?.1) == Some(member)
    }

    /// All newest records.
    pub fn hosts(&self) -> impl Iterator<Item = (HostId, &Arc<HeardRecord>)> {
        self.hosts.iter().map(|(id, record)| (*id, record))
    }

    /// The hosts whose newest record says that they leave.
    pub fn leaving(&self) -> impl Iterator<Item = HostId> {
        self.leaving.iter().copied()
    }

    /// Who accuses this life of a host, newest first.
    pub fn accusations(&self, accused: HostId, generation: u32) -> Vec<&AccusationRecord> {
        let range = (accused, HostId::new(0))..=(accused, HostId::new(u32::MAX));
        let mut found: Vec<_> = self
            .accusations
            .range(range)
            .map(|(_, record)| record)
            .filter(|record| !record.withdrawn && record.accused_generation == generation)
            .collect();
        found.sort_by_key(|record| std::cmp::Reverse(record.unix_ms));
        found
    }

    /// The hosts that somebody accuses.
    pub fn accused(&self) -> Vec<HostId> {
        let standing = self.accusations.iter().filter(|(_, record)| !record.withdrawn);
        let mut accused: Vec<_> = standing.map(|((accused, _), _)| *accused).collect();
        accused.dedup();
        accused
    }

    /// What a host accuses others of.
    pub fn standing(&self, accuser: HostId) -> impl Iterator<Item = &AccusationRecord> {
        self.accusations.values().filter(move |record| record.accuser == accuser.raw() && !record.withdrawn)
    }

    /// Drops what a host accused others of: its life is over.
    pub fn end_accusations(&mut self, accuser: HostId) {
        self.accusations.retain(|(_, by), _| *by != accuser);
    }

    /// Drops all that is known of a host, and does not learn of this life of it again. What it told stays in the log.
    pub fn forget(&mut self, host: HostId, generation: Generation) {
        let said = self.hosts.remove(&host).and_then(|heard| life(&heard.record));
        self.accusations.retain(|(accused, accuser), _| *accused != host && *accuser != host);
        self.events.forget(host);
        if self.forgotten.len() >= MAX_HOSTS {
            self.forgotten.pop_first();
        }
        self.forgotten.insert(host, (generation, said));
    }

    /// Whether this life of a host was forgotten.
    pub fn is_forgotten(&self, host: HostId, generation: Generation) -> bool {
        self.forgotten.get(&host).is_some_and(|(forgotten, _)| generation <= *forgotten)
    }

    /// A host that was forgotten is alive.
    pub fn recall(&mut self, host: HostId) {
        self.forgotten.remove(&host);
    }

    /// The event log.
    pub fn events(&self) -> &EventLog {
        &self.events
    }

    /// The event log, to append this host's own.
    pub fn events_mut(&mut self) -> &mut EventLog {
        &mut self.events
    }

    /// Records that were refused because they broke a bound.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Events and accusations that came and were here: second copies, and what came round from several neighbours.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Accusations that came after their accuser had taken them back or had ended that life: replayed, or from a host that was
    /// away.
    pub fn void(&self) -> u64 {
        self.void
    }

    /// Takes records and accusations out of `gossip` that are not news or break a bound: they are not worth a look at their
    /// seals.
    pub fn sift(&mut self, gossip: &mut Gossip) {
        gossip.hosts.retain(|record| self.admits_host(record));
        gossip.accusations.retain(|record| self.admits_accusation(record));
    }

    /// Whether just this record was taken before.
    pub fn holds_host(&self, record: &Shared<HostRecord>) -> bool {
        self.hosts.get(&HostId::new(record.host)).is_some_and(|heard| heard.record == *record)
    }

    /// Whether just this accusation was taken before.
    pub fn holds_accusation(&self, record: &AccusationRecord) -> bool {
        self.accusation(HostId::new(record.accused), HostId::new(record.accuser)) == Some(record)
    }

    /// Keeps what is new in `gossip` and returns just that, to be passed on. Their seals are the caller's to check.
    pub fn accept(&mut self, now: Now, gossip: Gossip) -> Gossip {
        let mut new = Gossip::default();
        for record in gossip.hosts {
            if self.admits_host(&record) {
                let record = self.detached(record);
                self.put_own(now, record.clone());
                new.hosts.push(record);
            }
        }
        for record in gossip.accusations {
            if self.accept_accusation(&record) {
                new.accusations.push(record);
            }
        }
        for record in gossip.events {
            if !event_fits(&record) {
                self.refused += 1;
            } else if self.events.accept(&record) {
                new.events.push(record);
            } else {
                self.duplicates += 1;
            }
        }
        new
    }

    /// What this host has of the hosts of these groups, for another to compare.
    pub fn versions(&self, groups: Groups) -> Vec<Version> {
        let hosts = self.hosts.iter().filter(|(id, _)| groups.hold(**id));
        hosts
            .map(|(id, heard)| {
                let (event_generation, event_seq) = self.events.contiguous(*id);
                Version {
                    host: id.raw(),
                    generation: heard.record.generation,
                    seq: heard.record.seq,
                    event_generation,
                    event_seq,
                }
            })
            .collect()
    }

    /// Of what this host has of each group: two hosts that have the same have the same digests.
    pub fn digests(&self) -> Vec<u64> {
        let mut sums = vec![0_u64; GROUPS];
        let mut add = |host: HostId, numbers: [u32; 6]| {
            let sum = &mut sums[Groups::of(host)];
            let [a, b, c, d, e, f] = numbers;
            *sum = sum.wrapping_add(hash(&[host.raw(), a, b, c, d, e, f].map(u64::from)));
        };
        for (id, heard) in &self.hosts {
            let [generation, contiguous, top, ahead] = self.events.arrived_of(*id);
            add(*id, [heard.record.generation, heard.record.seq, generation, contiguous, top, ahead]);
        }
        for ((accused, accuser), record) in &self.accusations {
            let AccusationRecord { accuser_generation, seq, accused_generation, withdrawn, .. } = *record;
            add(*accused, [accuser.raw(), accuser_generation, seq, accused_generation, u32::from(withdrawn), 0]);
        }
        sums
    }

    /// The groups of which another host with these digests has something else.
    pub fn differing(&self, digests: &[u64]) -> Groups {
        if digests.len() != GROUPS {
            return if digests.is_empty() { Groups::default() } else { Groups::ALL };
        }
        let ours = self.digests();
        Groups((0..GROUPS).filter(|group| ours[*group] != digests[*group]).fold(0, |mask, group| mask | 1 << group))
    }

    /// Answers a host that has `request.have`: what it lacks, what this host lacks of it, and which events it has then. One
    /// that sends digests is only told which groups differ.
    pub fn compare(&self, request: &SyncRequest) -> SyncResponse {
        let mut missing = Gossip::default();
        let signed_differ = self.signed_differ(request);
        if signed_differ {
            missing.signed = self.signed.all();
        }
        if !request.digests.is_empty() {
            let differ = self.differing(&request.digests).mask();
            return SyncResponse { missing: Some(missing), differ, signed_differ, ..SyncResponse::default() };
        }
        let groups = Groups::from_mask(request.groups);
        let theirs: BTreeMap<u32, Version> = request.have.iter().take(MAX_HOSTS).map(|v| (v.host, *v)).collect();
        let (mut lack, mut covers) = (Vec::new(), Vec::new());
        for mine in self.versions(groups) {
            let their = theirs.get(&mine.host).copied().unwrap_or(Version { host: mine.host, ..Version::default() });
            covers.push(self.add_missing(their, &mut missing));
            if (their.generation, their.seq) > (mine.generation, mine.seq)
                || (their.event_generation, their.event_seq) > (mine.event_generation, mine.event_seq)
            {
                lack.push(mine);
            }
        }
        let unknown = theirs.values().filter(|v| !self.hosts.contains_key(&HostId::new(v.host)));
        lack.extend(unknown.map(|v| Version { host: v.host, ..Version::default() }));
        let accusations = self.accusations.iter().filter(|((accused, _), _)| groups.hold(*accused));
        missing.accusations = accusations.map(|(_, record)| record.clone()).collect();
        SyncResponse { missing: Some(missing), lack, covers, signed_differ, ..SyncResponse::default() }
    }

    /// What a host lacks that named just these versions.
    pub fn select(&self, lack: &[Version]) -> Gossip {
        let mut missing = Gossip::default();
        for their in lack.iter().take(MAX_HOSTS) {
            self.add_missing(*their, &mut missing);
        }
        missing
    }

    /// Adds what is newer than `their` version of one host; returns up to where its events are whole then.
    fn add_missing(&self, their: Version, missing: &mut Gossip) -> Version {
        let host = HostId::new(their.host);
        if let Some(heard) = self.hosts.get(&host)
            && (heard.record.generation, heard.record.seq) > (their.generation, their.seq)
        {
            missing.hosts.push(heard.record.clone());
        }
        let (event_generation, event_seq) =
            self.events.after(host, their.event_generation, their.event_seq, &mut missing.events);
        Version { host: their.host, event_generation, event_seq, ..Version::default() }
    }

    /// Another host has sent all events that it knows of up to these: what is not here by now will not come.
    pub fn cover(&mut self, covers: &[Version]) {
        for version in covers.iter().take(MAX_HOSTS) {
            let host = HostId::new(version.host);
            if self.hosts.contains_key(&host) {
                self.events.cover(host, version.event_generation, version.event_seq);
            }
        }
    }

    /// Writes this host's own record.
    pub fn put_own(&mut self, now: Now, record: Shared<HostRecord>) {
        let digest = Digest::decode(&record.digest).unwrap_or_default();
        let host = HostId::new(record.host);
        if record.leaving {
            self.leaving.insert(host);
        } else {
            self.leaving.remove(&host);
        }
        let before = self.hosts.get(&host).map(|heard| (heard.record.generation, heard.record.accuses_from));
        if before != Some((record.generation, record.accuses_from)) {
            self.accusations.retain(|(_, accuser), accusation| *accuser != host || !is_void(accusation, &record));
        }
        self.hosts.insert(host, Arc::new(HeardRecord { record, digest, heard: now }));
    }

    /// Writes one of this host's own accusations.
    pub fn put_accusation(&mut self, record: AccusationRecord) {
        self.accusations.insert((HostId::new(record.accused), HostId::new(record.accuser)), record);
    }

    /// The record with bytes of its own: as they came they keep the whole frame in memory.
    fn detached(&self, mut record: Shared<HostRecord>) -> Shared<HostRecord> {
        // Of what others hold, too, they have seen to it.
        if let Some(own) = record.get_mut() {
            let before = self.hosts.get(&HostId::new(own.host)).map(|heard| &heard.record.certificate);
            match before.filter(|before| **before == own.certificate) {
                Some(before) => own.certificate = before.clone(),
                None => detach(&mut own.certificate),
            }
            [&mut own.digest, &mut own.more, &mut own.seal].into_iter().for_each(detach);
        }
        record
    }

    /// What `accuser` says of `accused`.
    pub fn accusation(&self, accused: HostId, accuser: HostId) -> Option<&AccusationRecord> {
        self.accusations.get(&(accused, accuser))
    }

    /// Whether a record is news and within its bounds.
    fn admits_host(&mut self, record: &HostRecord) -> bool {
        let id = HostId::new(record.host);
        let newest = self.hosts.get(&id).map(|heard| (heard.record.generation, heard.record.seq));
        if self.is_forgotten(id, record.generation) {
            return false;
        }
        if newest.is_some_and(|newest| newest >= (record.generation, record.seq)) {
            return false;
        }
        let fits = texts_fit(&[
            &record.name,
            &record.zone,
            &record.version,
            &record.rack,
            &record.address_a,
            &record.address_b,
        ]) && record.certificate.len() <= MAX_CERTIFICATE
            && record.seal.len() <= MAX_SEAL
            && record.more.len() <= MAX_MORE
            && record.chords.len() <= MAX_CHORDS
            && record.arming.as_ref().is_none_or(|arming| texts_fit(&[&arming.reason, &arming.who]))
            && record.coordinate.as_ref().is_none_or(|at| at.position_us.len() <= MAX_DIMENSIONS)
            && record.digest.len() <= digest::MAX_LEN
            && record.links.len() <= MAX_LINKS
            && record.broken_pairs.len() <= MAX_LINKS
            && (newest.is_some() || self.hosts.len() < MAX_HOSTS);
        if !fits {
            self.refused += 1;
        }
        fits
    }

    /// Makes room for one more accuser of a host; what was withdrawn or is of an earlier life goes first.
    fn room_to_accuse(&mut self, accused: HostId, generation: u32) -> bool {
        let of_accused = (accused, HostId::new(0))..=(accused, HostId::new(u32::MAX));
        let mut here = self.accusations.range(of_accused.clone());
        if here.clone().count() < MAX_ACCUSERS {
            return self.accusations.len() < MAX_ACCUSATIONS;
        }
        let idle = here.find(|(_, old)| old.withdrawn || old.accused_generation < generation).map(|(key, _)| *key);
        idle.is_some_and(|key| self.accusations.remove(&key).is_some())
    }

    /// Whether an accusation is news and within its bounds.
    fn admits_accusation(&mut self, record: &AccusationRecord) -> bool {
        let accuser = HostId::new(record.accuser);
        let key = (HostId::new(record.accused), accuser);
        if self.hosts.get(&accuser).is_some_and(|heard| is_void(record, &heard.record)) {
            self.void += 1;
            return false;
        }
        if let Some(old) = self.accusations.get(&key)
            && (old.accuser_generation, old.seq) >= (record.accuser_generation, record.seq)
        {
            self.duplicates += 1;
            return false;
        }
        let fits = texts_fit(&[&record.evidence]) && record.seal.len() <= MAX_SEAL && record.more.len() <= MAX_MORE;
        self.refused += u64::from(!fits);
        fits
    }

    fn accept_accusation(&mut self, record: &AccusationRecord) -> bool {
        if !self.admits_accusation(record) {
            return false;
        }
        let accused = HostId::new(record.accused);
        let key = (accused, HostId::new(record.accuser));
        if !self.accusations.contains_key(&key) && !self.room_to_accuse(accused, record.accused_generation) {
            self.refused += 1;
            return false;
        }
        let mut record = record.clone();
        [&mut record.more, &mut record.seal].into_iter().for_each(detach);
        self.accusations.insert(key, record);
        true
    }
}

/// The life that a host says it lives; none if its addresses are none.
pub(crate) fn life(record: &HostRecord) -> Option<Member> {
    let parse = |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) };
    let addresses = [parse(&record.address_a)?, parse(&record.address_b)?];
    Some(Member { id: HostId::new(record.host), generation: record.generation, addresses })
}

/// Whether an event, be it of another zone, keeps to the bounds of what it says.
pub(crate) fn event_fits(event: &EventRecord) -> bool {
    texts_fit(&[&event.kind, &event.container, &event.service, &event.text, &event.host_name, &event.operation])
        && event.accusers.len() <= MAX_ACCUSERS
        && event.accuser_names.len() <= MAX_ACCUSERS
        && event.accuser_names.iter().all(|name| name.len() <= MAX_TEXT)
}

/// This event's text, for people and for the API.
pub fn event_id(event: &EventRecord, local: bool) -> String {
    let mark = if local || event.seq & CONCLUDED != 0 { "l" } else { "" };
    format!("{}-{}-{mark}{}", HostId::new(event.origin), event.generation, event.seq & !CONCLUDED)
}

/// Whether an accusation is of an earlier life of its accuser than this record, or was taken back before it.
fn is_void(accusation: &AccusationRecord, accuser: &HostRecord) -> bool {
    (accusation.accuser_generation, accusation.seq) < (accuser.generation, accuser.accuses_from)
}

fn detach(bytes: &mut Bytes) {
    *bytes = Bytes::copy_from_slice(bytes);
}

fn texts_fit(texts: &[&str]) -> bool {
    texts.iter().all(|text| text.len() <= MAX_TEXT)
}
