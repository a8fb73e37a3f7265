//! The versions of one key, but for their values.

use super::revision::{Mark, Revision};

/// The versions of one key that may be asked for. Never without a mark.
#[derive(Debug)]
pub(super) struct History {
    /// Where the key that is there now began; 0 if it is not there.
    pub(super) create_revision: i64,
    /// How often it was put since; 0 if it is not there.
    pub(super) version: i64,
    /// With which lease it ends; 0 of none.
    pub(super) lease: i64,
    last: Mark,
    /// Before [`History::last`], in order. Most keys have none, and pay no allocation.
    older: Vec<Mark>,
}

/// What a put makes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) create_revision: i64,
    pub(super) version: i64,
}

impl History {
    /// A key that is put for the first time that is remembered.
    pub(super) fn new(at: Revision, lease: i64) -> Self {
        Self { create_revision: at.main, version: 1, lease, last: Mark::put(at), older: Vec::new() }
    }

    /// As a record says it: what came before was compacted away.
    pub(super) fn loaded(at: Revision, version: Version, lease: i64) -> Self {
        let mut history = Self::new(at, lease);
        history.set(at, version, lease);
        history
    }

    /// What a put at `at` would make of the key.
    pub(super) fn next_version(&self, at: Revision) -> Version {
        match self.is_alive() {
            true => Version { create_revision: self.create_revision, version: self.version.saturating_add(1) },
            false => Version { create_revision: at.main, version: 1 },
        }
    }

    /// The next record of the key: a version of 0 is a delete.
    pub(super) fn push(&mut self, at: Revision, version: Version, lease: i64) {
        if self.older.capacity() == 0 {
            // A vector would begin with four, and most keys are not written so often before a compaction.
            self.older.reserve_exact(1);
        }
        self.older.push(self.last);
        self.set(at, version, lease);
    }

    fn set(&mut self, at: Revision, Version { create_revision, version }: Version, lease: i64) {
        self.last = if version == 0 { Mark::delete(at) } else { Mark::put(at) };
        (self.create_revision, self.version, self.lease) = (create_revision, version, lease);
    }

    /// Whether the key is there now.
    pub(super) const fn is_alive(&self) -> bool {
        !self.last.is_delete()
    }

    /// Where the key was last written.
    pub(super) const fn last(&self) -> Revision {
        self.last.revision()
    }

    /// Where what stood at the key at a revision was written; `None` if it was not there.
    pub(super) fn at(&self, main: i64) -> Option<Revision> {
        let mark = if self.last.revision().main <= main {
            self.last
        } else {
            let later = self.older.partition_point(|mark| mark.revision().main <= main);
            *self.older.get(later.checked_sub(1)?)?
        };
        (!mark.is_delete()).then_some(mark.revision())
    }

    /// Forgets what nobody can ask for once `main` is compacted, but no more than `most`, and tells of each what it was.
    ///
    /// What was written at `main` itself stays, deletes too: a watch may begin there.
    pub(super) fn compact(&mut self, main: i64, most: usize, mut forgotten: impl FnMut(Revision)) -> Rest {
        let before = self.older.partition_point(|mark| mark.revision().main < main);
        let is_last_alone = before == self.older.len() && self.last.revision().main < main;
        let next = self.older.get(before).unwrap_or(&self.last).revision();
        let is_read = |mark: &&Mark| next.main > main && !mark.is_delete();
        let kept = self.older[..before].last().filter(|mark| !is_last_alone && is_read(mark)).map_or(0, |_| 1);
        let gone = before - kept;
        self.older.drain(..gone.min(most)).for_each(|mark| forgotten(mark.revision()));
        if gone > most {
            return Rest::More;
        }
        if self.older.len() < self.older.capacity() / 2 {
            self.older.shrink_to_fit();
        }
        if is_last_alone && self.last.is_delete() {
            forgotten(self.last.revision());
            return Rest::Nothing;
        }
        Rest::Needed
    }
}

/// What is left of a history after a compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// What may still be asked for.
    Needed,
    /// Also what is to be forgotten still.
    More,
    /// Nothing: the key can go.
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;

    const GONE: Version = Version { create_revision: 0, version: 0 };

    fn at(main: i64) -> Revision {
        Revision::first_of(main)
    }

    /// Put at 2 and 4, deleted at 6, put at 8.
    fn history() -> History {
        let mut history = History::new(at(2), 0);
        history.push(at(4), history.next_version(at(4)), 0);
        history.push(at(6), GONE, 0);
        history.push(at(8), history.next_version(at(8)), 0);
        history
    }

    fn forgotten(history: &mut History, main: i64) -> (Vec<i64>, Rest) {
        let mut list = Vec::new();
        let rest = history.compact(main, usize::MAX, |revision| list.push(revision.main));
        (list, rest)
    }

    #[test]
    fn a_key_is_read_as_it_was() {
        let history = history();
        let expected = [None, None, Some(2), Some(2), Some(4), Some(4), None, None, Some(8), Some(8)];
        assert_eq!((0..10).map(|main| history.at(main).map(|at| at.main)).collect::<Vec<_>>(), expected);
        assert_eq!((history.create_revision, history.version), (8, 1));
    }

    #[test]
    fn compaction_forgets_what_cannot_be_asked_for() {
        for (main, expected) in [
            (1, vec![]),
            (2, vec![]),
            (3, vec![]),
            (4, vec![2]),
            (5, vec![2]),
            (6, vec![2, 4]),
            (7, vec![2, 4, 6]),
            (8, vec![2, 4, 6]),
            (9, vec![2, 4, 6]),
        ] {
            let (mut compacted, whole) = (history(), history());
            assert_eq!(forgotten(&mut compacted, main), (expected, Rest::Needed), "at {main}");
            assert!((main..10).all(|main| compacted.at(main) == whole.at(main)), "at {main}");
        }
    }

    #[test]
    fn a_deleted_key_is_forgotten_once_the_revision_after_is_compacted() {
        let mut history = History::new(at(2), 0);
        history.push(at(6), GONE, 0);
        assert_eq!(forgotten(&mut history, 6), (vec![2], Rest::Needed));
        assert_eq!(forgotten(&mut history, 7), (vec![6], Rest::Nothing));
    }

    #[test]
    fn two_compactions_forget_what_one_does() {
        for first in 1..10 {
            for second in first..10 {
                let (mut twice, mut once) = (history(), history());
                let mut list = forgotten(&mut twice, first).0;
                list.extend(forgotten(&mut twice, second).0);
                assert_eq!(list, forgotten(&mut once, second).0, "{first} {second}");
            }
        }
    }
}
