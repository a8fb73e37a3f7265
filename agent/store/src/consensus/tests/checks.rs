//! What must hold at every moment, whatever breaks.

use std::collections::BTreeMap;

use crate::consensus::{Committed, Position};

#[derive(Default)]
pub(super) struct Checks {
    seed: u64,
    /// Election safety: who has led in a term.
    leaders: BTreeMap<u64, u64>,
    /// State machine safety: what was applied anywhere.
    committed: BTreeMap<u64, Committed>,
    /// Proposals without an outcome, by member and index, with what was known when they were made.
    proposals: BTreeMap<(u64, u64), (Position, u64)>,
    /// Reads without an answer, by member and context.
    reads: BTreeMap<(u64, u64), Read>,
    next_read: u64,
    /// The latest index that anybody was told of: by an acknowledged write or an answered read.
    known: u64,
    pub(super) writes: u64,
    pub(super) answers: u64,
    /// Proposals and messages for which there was no room, and disks that failed.
    pub(super) full: u64,
    pub(super) busy: u64,
    pub(super) disk_failures: u64,
}

struct Read {
    known: u64,
    confirmed: Option<u64>,
}

impl Checks {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub(super) fn leader(&mut self, id: u64, term: u64, us: bool, last: Position) {
        if !us {
            return;
        }
        let leader = *self.leaders.entry(term).or_insert(id);
        assert_eq!(leader, id, "seed {}: two leaders in term {term}", self.seed);
        // Leader completeness. Its own first entry may be in it already.
        if let Some((index, entry)) = self.committed.last_key_value() {
            let knows = last.index >= *index && last.term >= entry.position.term;
            let is_old = entry.position.term > term;
            assert!(knows || is_old, "seed {}: member {id} leads in term {term} without {index}", self.seed);
        }
    }

    pub(super) fn committed(&mut self, id: u64, committed: &Committed) {
        let index = committed.position.index;
        let known = self.committed.entry(index).or_insert_with(|| committed.clone());
        assert_eq!(known, committed, "seed {}: member {id} applies another entry {index}", self.seed);
        if let Some((position, before)) = self.proposals.remove(&(id, index))
            && position == committed.position
        {
            assert!(index > before, "seed {}: write {index} came before what was known", self.seed);
            self.known = self.known.max(index);
            self.writes += 1;
        }
    }

    pub(super) fn last_committed(&self) -> u64 {
        self.committed.last_key_value().map_or(0, |(index, _)| *index)
    }

    pub(super) fn proposed(&mut self, id: u64, position: Position) {
        self.proposals.insert((id, position.index), (position, self.known));
    }

    pub(super) fn next_read(&mut self) -> u64 {
        self.next_read += 1;
        self.next_read
    }

    pub(super) fn asked(&mut self, id: u64, context: u64) {
        self.reads.insert((id, context), Read { known: self.known, confirmed: None });
    }

    pub(super) fn confirmed(&mut self, id: u64, context: u64, index: u64) {
        let read = self.reads.get_mut(&(id, context)).expect("a read is answered that waits");
        assert!(read.confirmed.replace(index).is_none(), "seed {}: a read is answered twice", self.seed);
    }

    pub(super) fn failed(&mut self, id: u64, context: u64) {
        let read = self.reads.remove(&(id, context)).expect("a read fails that waits");
        assert!(read.confirmed.is_none(), "seed {}: a read fails after its answer", self.seed);
    }

    /// A member has applied so much: it answers what may be answered.
    pub(super) fn answer(&mut self, id: u64, applied: u64) {
        let range = (id, 0)..=(id, u64::MAX);
        let ready: Vec<(u64, u64)> = self
            .reads
            .range(range)
            .filter(|(_, read)| read.confirmed.is_some_and(|index| index <= applied))
            .map(|(key, _)| *key)
            .collect();
        for key in ready {
            let Some(read) = self.reads.remove(&key) else { continue };
            assert!(applied >= read.known, "seed {}: a read at {applied} misses {}", self.seed, read.known);
            self.known = self.known.max(applied);
            self.answers += 1;
        }
    }

    /// Reads that are neither confirmed nor given up. One that is confirmed waits as long as its member is behind.
    pub(super) fn open_reads(&self) -> usize {
        self.reads.values().filter(|read| read.confirmed.is_none()).count()
    }

    /// Nobody waits for its outcomes any more.
    pub(super) fn stopped(&mut self, id: u64) {
        self.reads.retain(|(member, _), _| *member != id);
        self.proposals.retain(|(member, _), _| *member != id);
    }
}
