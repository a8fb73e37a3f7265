//! Which versions each key has: all in memory, without the values.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
};

use super::{
    history::{History, Rest, Version},
    revision::Revision,
    span::Span,
};

/// Keys and their histories.
///
/// Keys are copies: one that shared the bytes of the command it came with would keep all of them.
#[derive(Debug, Default)]
pub(super) struct Index {
    keys: BTreeMap<Box<[u8]>, History>,
}

impl Index {
    /// The history of a key.
    pub(super) fn history(&self, key: &[u8]) -> Option<&History> {
        self.keys.get(key)
    }

    /// A key as it is now; `None` if it is not there.
    pub(super) fn alive(&self, key: &[u8]) -> Option<&History> {
        self.keys.get(key).filter(|history| history.is_alive())
    }

    /// A key is put. Returns what that makes of it.
    pub(super) fn put(&mut self, key: &[u8], at: Revision, lease: i64) -> Version {
        let Some(history) = self.keys.get_mut(key) else {
            self.keys.insert(key.into(), History::new(at, lease));
            return Version { create_revision: at.main, version: 1 };
        };
        let version = history.next_version(at);
        history.push(at, version, lease);
        version
    }

    /// A key that is there is deleted.
    pub(super) fn delete(&mut self, key: &[u8], at: Revision) {
        let history = self.keys.get_mut(key).expect("only keys that are there are deleted");
        history.push(at, Version { create_revision: 0, version: 0 }, 0);
    }

    /// A record from disk. They come in the order of their revisions.
    pub(super) fn load(&mut self, key: &[u8], at: Revision, version: Version, lease: i64) {
        match self.keys.get_mut(key) {
            Some(history) => history.push(at, version, lease),
            None => _ = self.keys.insert(key.into(), History::loaded(at, version, lease)),
        }
    }

    /// All keys, whether they are there or not.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &History)> {
        self.keys.iter().map(|(key, history)| (key.as_ref(), history))
    }

    /// The keys inside that are there now.
    pub(super) fn range_alive<'a>(&'a self, span: Span<'a>) -> impl Iterator<Item = (&'a [u8], &'a History)> {
        let keys = span.bounds().map(|bounds| self.keys.range::<[u8], _>(bounds));
        let keys = keys.into_iter().flatten().map(|(key, history)| (key.as_ref(), history));
        keys.filter(|(_, history)| history.is_alive())
    }

    /// Where the keys inside that were there at a revision were written, in the order of the keys.
    pub(super) fn range_at<'a>(&'a self, span: Span<'a>, main: i64) -> impl Iterator<Item = (&'a [u8], Revision)> + 'a {
        let keys = span.bounds().map(|bounds| self.keys.range::<[u8], _>(bounds));
        keys.into_iter().flatten().filter_map(move |(key, history)| Some((&**key, history.at(main)?)))
    }

    /// Forgets what a compaction makes unreadable, for so many keys after one, or until so many revisions are forgotten.
    /// Returns how far that is.
    pub(super) fn compact(
        &mut self,
        main: i64,
        after: Option<Box<[u8]>>,
        (keys, mut revisions): (usize, usize),
        mut forgotten: impl FnMut(Revision),
    ) -> Cleared {
        let from = after.as_deref().map_or(Unbounded, Excluded);
        let (mut empty, mut seen, mut last) = (Vec::new(), 0, None);
        let mut is_cut_short = false;
        for (key, history) in self.keys.range_mut::<[u8], _>((from, Unbounded)) {
            is_cut_short = seen == keys || revisions == 0;
            if is_cut_short {
                break;
            }
            let rest = history.compact(main, revisions, |at| {
                revisions = revisions.saturating_sub(1);
                forgotten(at);
            });
            is_cut_short = rest == Rest::More;
            if is_cut_short {
                break;
            }
            seen += 1;
            last = Some(key);
            if rest == Rest::Nothing {
                empty.push(key.clone());
            }
        }
        let last = last.cloned().or_else(|| after.clone());
        for key in empty {
            self.keys.remove(&key);
        }
        if is_cut_short { Cleared::After(last) } else { Cleared::All }
    }
}

/// How far a compaction has come.
#[derive(Debug)]
pub(super) enum Cleared {
    /// Up to and with this key; none of them for `None`.
    After(Option<Box<[u8]>>),
    /// All keys.
    All,
}
