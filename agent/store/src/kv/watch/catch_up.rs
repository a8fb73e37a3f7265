//! History, for watchers that begin in the past or fell behind: some of it a turn, for many of them at once.

use std::collections::BTreeSet;

use ringmesh_proto::etcd::{
    etcdserverpb::WatchResponse,
    mvccpb::{Event, KeyValue, event::EventType},
};

use super::{
    super::{Kv, Refusal, header, record},
    Number, Place, Watcher, Watchers,
};

/// Watchers of a turn: what is done for each at its end is some hundred nanoseconds. In tests few, so that turns meet.
const WATCHERS_A_TURN: usize = if cfg!(test) { 2 } else { 4096 };

/// Records of a turn, about a millisecond, and their bytes. A revision is read whole even if it has more.
const RECORDS_A_TURN: usize = if cfg!(test) { 3 } else { 512 };
const BYTES_A_TURN: usize = 1 << 20;

/// The watchers of a turn: those behind up to one, in the order in which they are.
struct Turn {
    from: i64,
    last: (i64, Number),
}

impl Kv {
    /// Reads history for watches that are behind, for one bounded turn. Returns whether there is more to do at once.
    pub fn catch_up(&mut self) -> bool {
        if self.failure.is_some() {
            return false;
        }
        self.watchers.release(self.compacted, self.revision);
        if let Some(turn) = self.watchers.turn() {
            match self.tell_history(&turn) {
                Ok(to) => self.watchers.advance(&turn, to, self.revision),
                Err(failure) => self.failure = Some(failure),
            }
        }
        self.watchers.answer_progress(self.revision);
        !self.watchers.behind.is_empty() && self.failure.is_none()
    }

    /// Tells a turn's watchers of history from where the first of them is. Returns up to which revision.
    fn tell_history(&mut self, turn: &Turn) -> Result<i64, Refusal> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        let mut to = self.revision;
        for record in self.records.since(turn.from)? {
            let record = record?;
            let is_enough = records.len() >= RECORDS_A_TURN || bytes >= BYTES_A_TURN;
            if let Some(last) = records.last().map(|last: &KeyValue| last.mod_revision)
                && is_enough
                && last != record.mod_revision
            {
                to = last;
                break;
            }
            bytes += record.key.len() + record.value.len();
            records.push(record);
        }
        let mut told = Vec::new();
        for of_revision in records.chunk_by(|a, b| a.mod_revision == b.mod_revision) {
            let events: Result<Vec<_>, _> = of_revision.iter().map(|record| self.event(record.clone())).collect();
            told.push((of_revision[0].mod_revision, events?));
        }
        // All or none: what was told of a turn that fails would be told again.
        for (revision, events) in told {
            let is_of_turn =
                |watcher: &Watcher, number| watcher.place.is_behind() && (watcher.next, number) <= turn.last;
            self.watchers.tell_all(revision, events, is_of_turn);
        }
        Ok(to)
    }

    /// What a record says to watchers.
    pub(in super::super) fn event(&self, kv: KeyValue) -> Result<Event, Refusal> {
        let prev_kv = if self.watchers.wants_previous(&kv.key) { self.previous(&kv)? } else { None };
        let kind = if record::is_tombstone(&kv) { EventType::Delete } else { EventType::Put };
        Ok(Event { r#type: kind.into(), kv: Some(kv), prev_kv })
    }

    /// What a key was before a revision that wrote it, if that can still be read.
    fn previous(&self, record: &KeyValue) -> Result<Option<KeyValue>, Refusal> {
        let before = record.mod_revision - 1;
        if before < self.compacted || record.create_revision == record.mod_revision {
            return Ok(None);
        }
        let at = self.index.history(&record.key).and_then(|history| history.at(before));
        at.map(|at| self.records.record(at)).transpose()
    }
}

impl Watchers {
    /// Ends watchers whose history is compacted away, and makes those live that need none.
    fn release(&mut self, compacted: i64, revision: i64) {
        while let Some((next, number)) = self.behind.first().copied()
            && next < compacted
        {
            let header = Some(header(0));
            self.cancel(number, WatchResponse { header, compact_revision: compacted, ..WatchResponse::default() });
        }
        while let Some((next, number)) = self.behind.last().copied()
            && next > revision
        {
            self.move_to(number, Place::Live, next);
        }
    }

    fn turn(&self) -> Option<Turn> {
        let (from, _) = *self.behind.first()?;
        let last = *self.behind.iter().nth(self.behind.len().min(WATCHERS_A_TURN) - 1)?;
        Some(Turn { from, last })
    }

    /// A turn's watchers have been told of all up to a revision: those that still are behind it.
    fn advance(&mut self, turn: &Turn, to: i64, revision: i64) {
        let is_told = |&&(next, number): &&(i64, Number)| next <= to && (next, number) <= turn.last;
        let told: Vec<_> = self.behind.iter().take_while(is_told).copied().collect();
        let mut streams = BTreeSet::new();
        for (_, number) in told {
            let watcher = self.watcher(number);
            streams.insert(watcher.stream);
            let place = if to == revision { Place::Live } else { watcher.place };
            self.move_to(number, place, to + 1);
        }
        streams.into_iter().for_each(|id| self.release_blocked(id));
    }

    /// All go back to history: what they are told next comes from another replica, which may be far ahead.
    pub(super) fn leave(&mut self, revision: i64) {
        for number in 0..self.watchers.len() as Number {
            if let Some(watcher) = &self.watchers[number as usize]
                && watcher.place == Place::Live
            {
                self.move_to(number, Place::Behind, watcher.next.max(revision + 1));
            }
        }
    }
}
