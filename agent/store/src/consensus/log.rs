//! The part of the log that is in memory, as the crate raft reads it.
//!
//! It holds what was given out to be stored, whether the disk has it already or not.

use std::{
    cell::RefCell,
    collections::{BTreeSet, VecDeque},
};

use raft::{
    Error, GetEntriesContext, RaftState, Result, Storage, StorageError,
    eraftpb::{ConfState, Entry, HardState, Snapshot},
};

use super::{entry::Position, message::MAX_ENTRIES};

/// What an entry takes besides its data, in bytes.
const ENTRY_OVERHEAD: u64 = 96;

pub(super) struct Log {
    /// The place before the first entry.
    base: Position,
    entries: VecDeque<Entry>,
    bytes: u64,
    /// What raft starts with; not kept up to date.
    initial: RaftState,
    /// A snapshot for this peer, while it is being begun.
    offer: Option<(u64, Snapshot)>,
    /// Peers that need one.
    wanted: RefCell<BTreeSet<u64>>,
}

impl Log {
    pub(super) fn new(base: Position, entries: Vec<Entry>, hard_state: HardState, conf_state: ConfState) -> Self {
        let bytes = entries.iter().map(size).sum();
        let initial = RaftState { hard_state, conf_state };
        Self { base, entries: entries.into(), bytes, initial, offer: None, wanted: RefCell::default() }
    }

    /// The first index that is here.
    pub(super) fn first(&self) -> u64 {
        self.base.index + 1
    }

    pub(super) fn last(&self) -> Position {
        self.entries.back().map_or(self.base, position)
    }

    /// Bytes of all entries, with what they take besides.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether those up to `index` are more than so many bytes.
    pub(super) fn has_more_up_to(&self, index: u64, bytes: u64) -> bool {
        let older = self.entries.iter().take_while(|entry| entry.index <= index);
        let mut sums = older.scan(0, |sum, entry| {
            *sum += size(entry);
            Some(*sum)
        });
        sums.any(|sum| sum > bytes)
    }

    /// Replaces what is here from the first one's index on.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        debug_assert!(first.index > self.base.index && first.index <= self.last().index + 1, "raft leaves no holes");
        while self.last().index >= first.index {
            let Some(replaced) = self.entries.pop_back() else { break };
            self.bytes -= size(&replaced);
        }
        self.bytes += entries.iter().map(size).sum::<u64>();
        self.entries.extend(entries.iter().cloned());
    }

    /// Begins anew after a snapshot.
    pub(super) fn replace(&mut self, base: Position) {
        (self.base, self.bytes) = (base, 0);
        self.entries.clear();
    }

    /// Forgets all up to `index`, but for as many bytes of them.
    pub(super) fn compact(&mut self, index: u64, retain_bytes: u64) {
        let older = self.entries.iter().take_while(|entry| entry.index <= index);
        let mut surplus = older.map(size).sum::<u64>();
        while surplus > retain_bytes {
            let Some(entry) = self.entries.pop_front() else { break };
            surplus -= size(&entry);
            self.bytes -= size(&entry);
            self.base = position(&entry);
        }
        if self.entries.capacity() > 4 * self.entries.len().max(64) {
            self.entries.shrink_to(self.entries.len());
        }
    }

    pub(super) fn offer(&mut self, offer: Option<(u64, Snapshot)>) {
        self.offer = offer;
    }

    pub(super) fn take_wanted(&mut self) -> BTreeSet<u64> {
        std::mem::take(self.wanted.get_mut())
    }

    fn at(&self, index: u64) -> Result<&Entry> {
        let unavailable = Error::Store(StorageError::Unavailable);
        let offset = index.checked_sub(self.first()).ok_or(Error::Store(StorageError::Compacted))?;
        self.entries.get(offset as usize).ok_or(unavailable)
    }
}

impl Storage for Log {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(&self, low: u64, high: u64, max: impl Into<Option<u64>>, _: GetEntriesContext) -> Result<Vec<Entry>> {
        self.at(low)?;
        self.at(high - 1)?;
        let (max, mut bytes) = (max.into().unwrap_or(u64::MAX), 0);
        let start = (low - self.first()) as usize;
        let range = self.entries.range(start..start + (high - low) as usize);
        let fits = |entry: &&Entry| {
            let is_first = bytes == 0;
            bytes += size(entry);
            is_first || bytes <= max
        };
        Ok(range.take_while(fits).take(MAX_ENTRIES / 2).cloned().collect())
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.base.index { Ok(self.base.term) } else { self.at(index).map(|entry| entry.term) }
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last().index)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        match &self.offer {
            Some((peer, snapshot)) if *peer == to && snapshot.get_metadata().index >= request_index => {
                Ok(snapshot.clone())
            }
            Some(_) | None => {
                self.wanted.borrow_mut().insert(to);
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}

pub(super) fn position(entry: &Entry) -> Position {
    Position { term: entry.term, index: entry.index }
}

fn size(entry: &Entry) -> u64 {
    entry.data.len() as u64 + ENTRY_OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: u64, index: u64) -> Entry {
        Entry { term, index, data: vec![0; 4], ..Entry::default() }
    }

    fn log() -> Log {
        let entries = (6..10).map(|index| entry(2, index)).collect();
        Log::new(Position { term: 1, index: 5 }, entries, HardState::default(), ConfState::default())
    }

    fn indexes(entries: Result<Vec<Entry>>) -> Vec<u64> {
        entries.unwrap().iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn entries_are_those_asked_for_and_at_least_one() {
        let (log, context) = (log(), || GetEntriesContext::empty(false));
        assert_eq!(indexes(log.entries(6, 10, None, context())), [6, 7, 8, 9]);
        assert_eq!(indexes(log.entries(7, 9, 1000, context())), [7, 8]);
        assert_eq!(indexes(log.entries(7, 10, 200, context())), [7, 8]);
        assert_eq!(indexes(log.entries(7, 10, 0, context())), [7]);
        assert_eq!(log.entries(5, 7, None, context()), Err(Error::Store(StorageError::Compacted)));
        assert_eq!(log.entries(9, 11, None, context()), Err(Error::Store(StorageError::Unavailable)));
    }

    #[test]
    fn later_entries_replace_and_bytes_are_counted() {
        let mut log = log();
        log.append(&[entry(3, 8)]);
        assert_eq!(log.last(), Position { term: 3, index: 8 });
        assert_eq!((log.term(5), log.term(7), log.term(8)), (Ok(1), Ok(2), Ok(3)));
        assert_eq!(log.bytes(), 300);
        log.compact(7, 100);
        assert_eq!((log.first(), log.term(6), log.bytes()), (7, Ok(2), 200));
        log.compact(8, 0);
        assert_eq!((log.first(), log.last(), log.bytes()), (9, Position { term: 3, index: 8 }, 0));
        log.replace(Position { term: 4, index: 20 });
        assert_eq!((log.first(), log.term(20)), (21, Ok(4)));
    }
}
