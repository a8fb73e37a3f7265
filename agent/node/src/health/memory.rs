//! The histories of all checks together: which of them are to be written to the disk, and when; those of services that
//! are configured no more; and the texts that they share.
//!
//! Histories go to the disk in shards, each of which is written as a whole: a change of behaviour within seconds,
//! outcomes within minutes. One shard is under way at a time, so that a slow disk holds up nothing and gathers nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ringmesh_proto::{Instant, UnixMillis, disk::HistoryRecord};
use ringmesh_topology::fnv1a;

/// Shards of a host: with 32,000 checks one has some 125 histories, 55 KB if few change.
pub const SHARDS: usize = 256;

/// A change of behaviour is on disk after so long, and those that come with it.
const CHANGE_WITHIN: Duration = Duration::from_secs(2);

/// Outcomes are on disk after so long at least, and twice as long at most, by shard: not all at once.
const OUTCOMES_WITHIN: Duration = Duration::from_secs(300);

/// After a failed write it is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// Histories that are kept of services that are configured no more.
const MAX_RETIRED: usize = 4096;

/// So long they are kept, by the wall clock.
const RETIRED_FOR_MS: u64 = 7 * 24 * 3_600_000;

/// The names of a container and a service.
pub(super) type Key = (String, String);

/// What all histories of a host have in common.
#[derive(Default)]
pub(super) struct Memory {
    texts: Texts,
    /// Shards that differ from what is on disk, and when they are to be written.
    due: BTreeMap<u8, Instant>,
    under_way: Option<u8>,
    retired: BTreeMap<Key, HistoryRecord>,
}

impl Memory {
    /// The one copy of a text.
    pub(super) fn share(&mut self, text: &str) -> Arc<str> {
        self.texts.share(text)
    }

    /// Something was noted of a check of this container.
    pub(super) fn note(&mut self, now: Instant, container: &str, changed: bool) {
        let shard = shard(container);
        let within =
            if changed { CHANGE_WITHIN } else { OUTCOMES_WITHIN + OUTCOMES_WITHIN * u32::from(shard) / SHARDS as u32 };
        let due = self.due.entry(shard).or_insert(now + within);
        *due = (*due).min(now + within);
    }

    /// When a shard is next to be written.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.under_way.is_some() { None } else { self.due.values().min().copied() }
    }

    /// A shard that is to be written now, if none is under way.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<u8> {
        if self.under_way.is_some() {
            return None;
        }
        let shard =
            self.due.iter().filter(|(_, due)| **due <= now).min_by_key(|(_, due)| **due).map(|(shard, _)| *shard)?;
        self.due.remove(&shard);
        self.under_way = Some(shard);
        self.under_way
    }

    /// All shards that are not on disk as they are, the one that is under way among them.
    pub(super) fn take_all(&mut self) -> Vec<u8> {
        let mut shards = std::mem::take(&mut self.due);
        shards.extend(self.under_way.take().map(|shard| (shard, Instant::ZERO)));
        shards.into_keys().collect()
    }

    /// The shard that was under way is written, or could not be.
    pub(super) fn written(&mut self, now: Instant, shard: u8, success: bool) {
        if self.under_way == Some(shard) {
            self.under_way = None;
        }
        if !success {
            self.due.entry(shard).or_insert(now + RETRY);
        }
    }

    /// Keeps the history of a service that is configured no more; false if it has been so for too long.
    pub(super) fn retire(&mut self, now: UnixMillis, mut record: HistoryRecord) -> bool {
        if record.retired_ms == 0 {
            record.retired_ms = now.0;
        }
        if is_over(now, &record) {
            return false;
        }
        if self.retired.len() >= MAX_RETIRED {
            let oldest = self.retired.iter().min_by_key(|(_, record)| record.retired_ms).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.retired.remove(&key));
        }
        self.retired.insert((record.container.clone(), record.service.clone()), record);
        true
    }

    /// The history of a service that is configured again.
    pub(super) fn recall(&mut self, key: &Key) -> Option<HistoryRecord> {
        self.retired.remove(key).map(|record| HistoryRecord { retired_ms: 0, ..record })
    }

    /// Those of a shard that are still worth a place on the disk.
    pub(super) fn retired_of(&mut self, now: UnixMillis, shard: u8) -> Vec<HistoryRecord> {
        self.retired.retain(|_, record| !is_over(now, record));
        self.retired.values().filter(|record| self::shard(&record.container) == shard).cloned().collect()
    }

    /// Those of a service of this name.
    pub(super) fn retired_named<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a HistoryRecord> {
        self.retired.values().filter(move |record| record.service == service)
    }
}

fn is_over(now: UnixMillis, record: &HistoryRecord) -> bool {
    now.0.saturating_sub(record.retired_ms) > RETIRED_FOR_MS
}

/// Where the histories of a container are: by the FNV-1a hash of its name. The same in all versions, for a history is
/// looked for in all shards and written into its own.
pub(super) fn shard(container: &str) -> u8 {
    let hash = fnv1a([container.as_bytes()]);
    // The lowest byte alone would hardly mix.
    (hash ^ (hash >> 32)) as u8
}

/// Texts of which there is one copy each, however many checks answer the same.
#[derive(Default)]
struct Texts {
    all: BTreeSet<Arc<str>>,
    /// As many as were in use when it was last looked.
    used: usize,
}

/// So many texts may lie about unused before it is looked which they are.
const SLACK: usize = 1024;

impl Texts {
    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(shared) = self.all.get(text) {
            return Arc::clone(shared);
        }
        if self.all.len() >= self.used * 2 + SLACK {
            self.all.retain(|text| Arc::strong_count(text) > 1);
            self.used = self.all.len();
        }
        let shared: Arc<str> = text.into();
        self.all.insert(Arc::clone(&shared));
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn changes_are_written_soon_outcomes_later_and_one_shard_at_a_time() {
        let (mut memory, start) = (Memory::default(), Instant::ZERO);
        memory.note(start, "quiet", false);
        assert!(memory.poll_timeout() >= Some(start + OUTCOMES_WITHIN));
        memory.note(start, "loud", true);
        assert_eq!(memory.poll_timeout(), Some(start + CHANGE_WITHIN));
        assert_eq!(memory.take_due(start + SECOND), None);
        assert_eq!(memory.take_due(start + SECOND * 3600), Some(shard("loud")));
        assert_eq!((memory.take_due(start + SECOND * 3600), memory.poll_timeout()), (None, None), "one is under way");
        memory.written(start + SECOND * 3600, shard("loud"), true);
        assert_eq!(memory.take_due(start + SECOND * 3600), Some(shard("quiet")));
    }

    #[test]
    fn what_could_not_be_written_is_tried_again() {
        let (mut memory, start) = (Memory::default(), Instant::ZERO);
        memory.note(start, "web", true);
        let shard = memory.take_due(start + CHANGE_WITHIN).expect("it is due");
        memory.written(start + CHANGE_WITHIN, shard, false);
        assert_eq!(memory.poll_timeout(), Some(start + CHANGE_WITHIN + RETRY));
        assert_eq!(memory.take_all(), [shard]);
    }

    #[test]
    fn histories_of_services_that_are_gone_are_kept_for_a_week() {
        let mut memory = Memory::default();
        let record = |container: &str| HistoryRecord { container: container.into(), ..HistoryRecord::default() };
        assert!(memory.retire(UnixMillis(1000), record("c1")));
        assert_eq!(memory.retired_of(UnixMillis(1000 + RETIRED_FOR_MS), shard("c1")).len(), 1);
        assert!(memory.retired_of(UnixMillis(1001 + RETIRED_FOR_MS), shard("c1")).is_empty());
        let late = HistoryRecord { retired_ms: 5, ..record("c2") };
        assert!(!memory.retire(UnixMillis(6 + RETIRED_FOR_MS), late));
        (0..2 * MAX_RETIRED as u64).for_each(|n| {
            memory.retire(UnixMillis(n), record(&n.to_string()));
        });
        assert_eq!(memory.retired.len(), MAX_RETIRED);
        assert!(memory.retired.values().all(|record| record.retired_ms >= MAX_RETIRED as u64), "the oldest go");
    }

    #[test]
    fn a_text_is_there_once_and_goes_with_its_last_user() {
        let mut texts = Texts::default();
        let (one, same) = (texts.share("HTTP 200 OK"), texts.share("HTTP 200 OK"));
        assert!(Arc::ptr_eq(&one, &same));
        (0..10 * SLACK).for_each(|n| drop(texts.share(&n.to_string())));
        assert!(texts.all.len() <= 2 * SLACK && texts.all.contains(&one));
    }

    #[test]
    fn containers_spread_over_the_shards() {
        let mut counts = [0u32; SHARDS];
        (0..32_000).for_each(|n| counts[usize::from(shard(&format!("h1-c{n}")))] += 1);
        assert!(counts.iter().all(|count| (60..250).contains(count)), "{counts:?}");
    }
}
