//! What makes old revisions unreadable at once, and frees what they take bit by bit.

use super::{Kv, Refusal, index::Cleared};

/// Keys of a turn, and revisions that it forgets: some milliseconds at the most. In tests few, so that other things come
/// between turns.
const TURN: (usize, usize) = if cfg!(test) { (2, 3) } else { (2048, 8192) };

/// How far clearing up has come.
#[derive(Debug)]
pub(super) struct Tidying {
    /// The compacted revision that it is for.
    main: i64,
    /// The last key that it has seen.
    after: Option<Box<[u8]>>,
    /// It ends with this key, or with the last one.
    until: Option<Box<[u8]>>,
    /// Then it begins anew, and ends with this key: so far it had come for an earlier compaction.
    again: Option<Box<[u8]>>,
}

impl Tidying {
    fn of_all(main: i64) -> Self {
        Self { main, after: None, until: None, again: None }
    }

    /// For a later compaction. It goes on where it is: who compacts often would never see it reach the last key.
    fn go_on(self, main: i64) -> Self {
        Self { main, again: self.after.clone(), after: self.after, until: None }
    }

    /// After a turn; `None` if nothing is left to do.
    fn next(self, cleared: Cleared) -> Option<Self> {
        match cleared {
            Cleared::After(after) if self.until.is_none() || after < self.until => Some(Self { after, ..self }),
            Cleared::After(_) | Cleared::All => {
                let until = Some(self.again?);
                Some(Self { until, ..Self::of_all(self.main) })
            }
        }
    }
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
        let tidying = self.tidying.take().map(|tidying| tidying.go_on(revision));
        self.tidying = tidying.or_else(|| self.tidying_of_all());
        Ok(())
    }

    /// Clears up after a compaction for one bounded turn. Returns whether there is more to do.
    pub fn tidy(&mut self) -> bool {
        let Some(mut tidying) = self.tidying.take() else { return false };
        let forget = |at| self.records.forget(at);
        let cleared = self.index.compact(tidying.main, tidying.after.take(), TURN, forget);
        self.tidying = tidying.next(cleared);
        self.tidying.is_some()
    }

    /// To clear up again what was not on disk yet when the store was closed.
    pub(super) fn tidying_of_all(&self) -> Option<Tidying> {
        (self.compacted > 0).then(|| Tidying::of_all(self.compacted))
    }

    /// Clears up all that is left to clear up.
    pub(super) fn tidy_all(&mut self) {
        while self.tidy() {}
    }
}
