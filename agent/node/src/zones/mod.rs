//! What a host knows of the zones of its cluster: one record a zone, who can be called there, and the events that pass
//! between zones. All of it has a bound that does not grow with the hosts of other zones.
//!
//! It owns what was learned and decides what is new; which host sends what over which trunk it does not know.

mod budget;
mod crossing;
#[cfg(test)]
mod tests;
mod trunk;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ringmesh_proto::{
    HostId, Instant, Now, ZoneId,
    member::Member,
    peer::{ZoneRecord, ZoneVector, ZoneVersion},
    zone_digest::{self, ZoneDigest},
};
use ringmesh_topology::zone::DELEGATES;

pub use budget::{Bucket, Budgets};
pub use crossing::{Crossing, crosses};
pub use trunk::{Slot, Trunk, TrunkProbe, Trunks};

/// The most zones of a cluster.
pub const MAX_ZONES: usize = 64;

/// The most entries of each kind in a vector.
pub const MAX_VECTOR: usize = 64;

/// Hosts of another zone that are or were its delegates, and may be called.
const MAX_CANDIDATES: usize = 8;

/// The most bytes of a zone's or a delegate's name.
const MAX_NAME: usize = 63;

/// The bounds of the time after which an unchanged record is written anew, and what each zone adds to it.
const REFRESH: (Duration, Duration, Duration) =
    (Duration::from_secs(10), Duration::from_secs(2), Duration::from_secs(60));

/// Records that a zone may miss before it counts as unreachable, and the time that the last one may take.
const MISSED: (u32, Duration) = (3, Duration::from_secs(5));

/// A zone whose delegates are known from before this host started, or from its token.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KnownZone {
    /// Its name.
    pub name: String,
    /// Hosts of it that may be called.
    pub delegates: Vec<Member>,
}

/// A zone's newest record and when it came.
#[derive(Clone, Debug)]
pub struct HeardZone {
    /// As the zone's first delegate wrote it.
    pub record: ZoneRecord,
    /// Decoded from it.
    pub digest: ZoneDigest,
    /// Decoded from it: who speaks for the zone, and their names.
    pub delegates: Vec<(Member, String)>,
    /// When this host received it.
    pub heard: Now,
}

impl HeardZone {
    /// The time since the record was written.
    pub fn age(&self, now: Now) -> Duration {
        Duration::from_millis(self.record.age_ms.into()) + now.instant.since(self.heard.instant)
    }

    /// When its age will be this.
    pub fn aged(&self, age: Duration) -> Instant {
        self.heard.instant + age.saturating_sub(Duration::from_millis(self.record.age_ms.into()))
    }

    /// The record, to be sent now.
    pub fn to_send(&self, now: Now) -> ZoneRecord {
        let age_ms = u32::try_from(self.age(now).as_millis()).unwrap_or(u32::MAX);
        ZoneRecord { age_ms, ..self.record.clone() }
    }
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is news.
    New,
    /// It was here, or a newer one.
    Old,
    /// It breaks a bound, or makes no sense.
    Refused,
    /// Another zone has this id: a name that hashes alike. It is refused.
    Clash {
        /// The zone that has it.
        known: String,
    },
}

/// The zones.
pub struct Zones {
    own: ZoneId,
    zones: BTreeMap<ZoneId, Entry>,
}

struct Entry {
    name: String,
    heard: Option<Arc<HeardZone>>,
    /// The newest first.
    candidates: Vec<Member>,
}

impl Zones {
    /// A host of the zone `own` that knows these others.
    pub fn new(own: &str, known: &[KnownZone]) -> Self {
        let mut zones = Self { own: ZoneId::of(own), zones: BTreeMap::new() };
        let own = KnownZone { name: own.to_owned(), delegates: Vec::new() };
        for zone in std::iter::once(&own).chain(known).take(MAX_ZONES) {
            let candidates = zone.delegates.iter().copied().take(MAX_CANDIDATES).collect();
            let entry = Entry { name: zone.name.clone(), heard: None, candidates };
            zones.zones.entry(ZoneId::of(&zone.name)).or_insert(entry);
        }
        zones
    }

    /// All zones but the own one, and their newest records.
    pub fn others(&self) -> impl Iterator<Item = (ZoneId, &str, Option<&Arc<HeardZone>>)> {
        let others = self.zones.iter().filter(|(id, _)| **id != self.own);
        others.map(|(id, entry)| (*id, entry.name.as_str(), entry.heard.as_ref()))
    }

    /// The newest record of a zone.
    pub fn heard(&self, zone: ZoneId) -> Option<&Arc<HeardZone>> {
        self.zones.get(&zone)?.heard.as_ref()
    }

    /// A zone's name, or its id if that is all that is known.
    pub fn name_of(&self, zone: ZoneId) -> String {
        self.zones.get(&zone).map_or_else(|| zone.to_string(), |entry| entry.name.clone())
    }

    /// How many there are, the own one among them.
    pub fn count(&self) -> usize {
        self.zones.len()
    }

    /// The delegates of another zone by its record, and then whoever else may be called there.
    pub fn candidates(&self, zone: ZoneId) -> (Vec<Member>, &[Member]) {
        let Some(entry) = self.zones.get(&zone) else { return (Vec::new(), &[]) };
        let delegates = entry.heard.as_ref().map(|heard| heard.delegates.iter().map(|(member, _)| *member).collect());
        (delegates.unwrap_or_default(), &entry.candidates)
    }

    /// A host of another zone, if it is or was a delegate.
    pub fn find(&self, host: HostId) -> Option<Member> {
        let mut all = self.zones.values().flat_map(|entry| &entry.candidates);
        all.find(|member| member.id == host).copied()
    }

    /// What a restart needs.
    pub fn known(&self) -> Vec<KnownZone> {
        let others = self.zones.iter().filter(|(id, _)| **id != self.own);
        others.map(|(_, entry)| KnownZone { name: entry.name.clone(), delegates: entry.candidates.clone() }).collect()
    }

    /// Keeps a record if it is news.
    pub fn accept(&mut self, now: Now, record: &ZoneRecord) -> Accepted {
        let id = ZoneId::new(record.zone);
        let delegates: Option<Vec<(Member, String)>> = record
            .delegates
            .iter()
            .map(|delegate| Some((Member::try_from(delegate.member.as_ref()?).ok()?, delegate.name.clone())))
            .collect();
        let fits = !record.name.is_empty()
            && record.name.len() <= MAX_NAME
            && ZoneId::of(&record.name) == id
            && record.delegates.len() <= DELEGATES
            && record.delegates.iter().all(|delegate| delegate.name.len() <= MAX_NAME)
            && record.digest.len() <= zone_digest::MAX_LEN;
        let (Some(delegates), true) = (delegates, fits) else { return Accepted::Refused };
        match self.zones.get(&id) {
            Some(entry) if entry.name != record.name => return Accepted::Clash { known: entry.name.clone() },
            Some(Entry { heard: Some(heard), .. }) if version(&heard.record) >= version(record) => {
                return Accepted::Old;
            }
            None if self.zones.len() >= MAX_ZONES => return Accepted::Refused,
            Some(_) | None => {}
        }
        let name = record.name.clone();
        let entry = self.zones.entry(id).or_insert(Entry { name, heard: None, candidates: Vec::new() });
        let earlier = std::mem::take(&mut entry.candidates);
        entry.candidates = delegates.iter().map(|(member, _)| *member).collect();
        let gone = earlier.into_iter().filter(|member| delegates.iter().all(|(other, _)| other.id != member.id));
        entry.candidates.extend(gone);
        entry.candidates.truncate(MAX_CANDIDATES);
        let digest = ZoneDigest::decode(&record.digest).unwrap_or_default();
        entry.heard = Some(Arc::new(HeardZone { record: record.clone(), digest, delegates, heard: now }));
        Accepted::New
    }

    /// What this host has.
    pub fn versions(&self) -> Vec<ZoneVersion> {
        let records = self.zones.values().filter_map(|entry| entry.heard.as_ref()).map(|heard| &heard.record);
        let version = |record: &ZoneRecord| {
            let ZoneRecord { zone, epoch, seq, writer, .. } = *record;
            ZoneVersion { zone, epoch, seq, writer }
        };
        records.map(version).take(MAX_VECTOR).collect()
    }

    /// The records that a host lacks that has these.
    pub fn lacking(&self, now: Now, theirs: &ZoneVector) -> Vec<ZoneRecord> {
        let has = |zone: u32| theirs.zones.iter().take(MAX_VECTOR).find(|version| version.zone == zone);
        let records = self.zones.values().filter_map(|entry| entry.heard.as_ref());
        let newer = records.filter(|heard| {
            let mine = version(&heard.record);
            has(heard.record.zone).is_none_or(|their| (their.epoch, their.seq, their.writer) < mine)
        });
        newer.map(|heard| heard.to_send(now)).collect()
    }

    /// After so long an unchanged record is written anew: the more zones, the rarer, so that a host hears as much of all
    /// together.
    pub fn refresh(&self) -> Duration {
        (REFRESH.1 * self.zones.len() as u32).clamp(REFRESH.0, REFRESH.2)
    }

    /// The least time between two versions of a record: all zones together write one a second.
    pub fn min_interval(&self) -> Duration {
        Duration::from_secs(self.zones.len().max(2) as u64).min(self.refresh())
    }

    /// A zone whose record is older is unreachable.
    pub fn lost_after(&self) -> Duration {
        self.refresh() * MISSED.0 + MISSED.1
    }
}

fn version(record: &ZoneRecord) -> (u32, u32, u32) {
    (record.epoch, record.seq, record.writer)
}
