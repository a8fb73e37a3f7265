//! What every host knows of every other: records, accusations and events, each with one writer and a version.
//!
//! It owns what was learned, decides what is new, and answers which of it another host lacks. It does not know links
//! or SWIM. Newest version wins, so it does not matter how often, in which order or over which path things arrive.

mod events;
#[cfg(test)]
mod tests;

pub use events::{EVENT_CAPACITY, EventLog, LoggedEvent};

use std::collections::BTreeMap;

use ringmesh_proto::{
    HostId, Now,
    digest::{self, Digest},
    peer::{AccusationRecord, EventRecord, Gossip, HostRecord, SyncRequest, Version},
};

/// The most hosts of a pool, and so of records kept: a zone.
pub const MAX_HOSTS: usize = 512;

/// The most accusations kept of one host; further accusers change nothing.
const MAX_ACCUSERS: usize = 32;

/// The most bytes of any text in a record.
const MAX_TEXT: usize = 512;

/// The most links in a host's record.
const MAX_LINKS: usize = 64;

/// A host's newest record and when it came.
#[derive(Clone, Debug)]
pub struct HeardRecord {
    /// As the host wrote it.
    pub record: HostRecord,
    /// Decoded from it.
    pub digest: Digest,
    /// When this host received it.
    pub heard: Now,
}

/// Everything that was learned by gossip.
#[derive(Default)]
pub struct Store {
    hosts: BTreeMap<HostId, HeardRecord>,
    /// By accused, then accuser.
    accusations: BTreeMap<(HostId, HostId), AccusationRecord>,
    events: EventLog,
    refused: u64,
}

impl Store {
    /// The newest record of a host.
    pub fn host(&self, host: HostId) -> Option<&HeardRecord> {
        self.hosts.get(&host)
    }

    /// All newest records.
    pub fn hosts(&self) -> impl Iterator<Item = (HostId, &HeardRecord)> {
        self.hosts.iter().map(|(id, record)| (*id, record))
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

    /// Keeps what is new in `gossip` and returns just that, to be passed on.
    pub fn accept(&mut self, now: Now, gossip: Gossip) -> Gossip {
        let mut new = Gossip::default();
        for record in gossip.hosts {
            if self.accept_host(now, &record) {
                new.hosts.push(record);
            }
        }
        for record in gossip.accusations {
            if self.accept_accusation(&record) {
                new.accusations.push(record);
            }
        }
        for record in gossip.events {
            if !texts_fit(&[&record.kind, &record.container, &record.service, &record.text]) {
                self.refused += 1;
            } else if self.events.accept(&record) {
                new.events.push(record);
            }
        }
        new
    }

    /// What this host has, for another to compare.
    pub fn versions(&self) -> Vec<Version> {
        self.hosts
            .iter()
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

    /// What a host that has `request.have` lacks, and what this host lacks of it.
    pub fn compare(&self, request: &SyncRequest) -> (Gossip, Vec<Version>) {
        let theirs: BTreeMap<u32, &Version> = request.have.iter().take(MAX_HOSTS).map(|v| (v.host, v)).collect();
        let mut missing = Gossip::default();
        let mut lack = Vec::new();
        for mine in self.versions() {
            let their = theirs.get(&mine.host).copied().copied().unwrap_or_default();
            let host = HostId::new(mine.host);
            if (mine.generation, mine.seq) > (their.generation, their.seq) {
                missing.hosts.extend(self.hosts.get(&host).map(|heard| heard.record.clone()));
            }
            self.events.after(host, their.event_generation, their.event_seq, &mut missing.events);
            if (their.generation, their.seq) > (mine.generation, mine.seq)
                || (their.event_generation, their.event_seq) > (mine.event_generation, mine.event_seq)
            {
                lack.push(mine);
            }
        }
        let unknown = theirs.values().filter(|v| !self.hosts.contains_key(&HostId::new(v.host)));
        lack.extend(unknown.map(|v| Version { host: v.host, ..Version::default() }));
        missing.accusations = self.accusations.values().cloned().collect();
        (missing, lack)
    }

    /// Events up to what just arrived are as complete as they get: a gap that even a sync leaves stays.
    pub fn close_gaps(&mut self) {
        self.events.close_gaps();
    }

    /// Writes this host's own record.
    pub fn put_own(&mut self, now: Now, record: HostRecord) {
        let digest = Digest::decode(&record.digest).unwrap_or_default();
        self.hosts.insert(HostId::new(record.host), HeardRecord { record, digest, heard: now });
    }

    /// Writes one of this host's own accusations.
    pub fn put_accusation(&mut self, record: AccusationRecord) {
        self.accusations.insert((HostId::new(record.accused), HostId::new(record.accuser)), record);
    }

    /// What `accuser` says of `accused`.
    pub fn accusation(&self, accused: HostId, accuser: HostId) -> Option<&AccusationRecord> {
        self.accusations.get(&(accused, accuser))
    }

    fn accept_host(&mut self, now: Now, record: &HostRecord) -> bool {
        let id = HostId::new(record.host);
        let newest = self.hosts.get(&id).map(|heard| (heard.record.generation, heard.record.seq));
        if newest.is_some_and(|newest| newest >= (record.generation, record.seq)) {
            return false;
        }
        let fits = texts_fit(&[&record.name, &record.zone, &record.version])
            && record.digest.len() <= digest::MAX_LEN
            && record.links.len() <= MAX_LINKS
            && (newest.is_some() || self.hosts.len() < MAX_HOSTS);
        if !fits {
            self.refused += 1;
            return false;
        }
        self.put_own(now, record.clone());
        true
    }

    fn accept_accusation(&mut self, record: &AccusationRecord) -> bool {
        let accused = HostId::new(record.accused);
        let key = (accused, HostId::new(record.accuser));
        if let Some(old) = self.accusations.get(&key)
            && (old.accuser_generation, old.seq) >= (record.accuser_generation, record.seq)
        {
            return false;
        }
        let of_accused = (accused, HostId::new(0))..=(accused, HostId::new(u32::MAX));
        let full = !self.accusations.contains_key(&key) && self.accusations.range(of_accused).count() >= MAX_ACCUSERS;
        if full || !texts_fit(&[&record.evidence]) {
            self.refused += 1;
            return false;
        }
        self.accusations.insert(key, record.clone());
        true
    }
}

/// This event's text, for people and for the API.
pub fn event_id(event: &EventRecord, local: bool) -> String {
    let mark = if local { "l" } else { "" };
    format!("{}-{}-{mark}{}", HostId::new(event.origin), event.generation, event.seq)
}

fn texts_fit(texts: &[&str]) -> bool {
    texts.iter().all(|text| text.len() <= MAX_TEXT)
}
