//! What makes old revisions unreadable at once, and frees what they take bit by bit.

use super::{Kv, Refusal};

/// Keys of a turn: some hundred microseconds. In tests few, so that other things come between turns.
const KEYS_A_TURN: usize = if cfg!(test) { 2 } else { 2048 };

/// How far clearing up has come.
#[derive(Debug)]
pub(super) struct Tidying {
    /// The compacted revision that it is for.
    main: i64,
    /// The last key that it has seen.
    after: Option<Box<[u8]>>,
}

impl Kv {
    /// Makes revisions before one unreadable.
    pub(super) fn compact(&mut self, revision: i64) -> Result<(), Refusal> {
        if revision <= self.compacted {
            return Err(Refusal::Compacted);
        }
        if revision > self.revision {
            return Err(Refusal::FutureRevision);
        }
        self.compacted = revision;
        self.tidying = self.tidying_of_all();
        Ok(())
    }

    /// Clears up after a compaction for one bounded turn. Returns whether there is more to do.
    pub fn tidy(&mut self) -> bool {
        let Some(Tidying { main, after }) = self.tidying.take() else { return false };
        let forget = |at| self.records.forget(at);
        let last = self.index.compact(main, after.as_deref(), KEYS_A_TURN, forget);
        self.tidying = last.map(|last| Tidying { main, after: Some(last) });
        self.tidying.is_some()
    }

    /// To clear up again what was not on disk yet when the store was closed.
    pub(super) fn tidying_of_all(&self) -> Option<Tidying> {
        (self.compacted > 0).then_some(Tidying { main: self.compacted, after: None })
    }

    /// Clears up all that is left to clear up.
    pub(super) fn tidy_all(&mut self) {
        while self.tidy() {}
    }
}
