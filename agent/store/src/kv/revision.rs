//! Where a change stands among all changes.

/// The revision of a change, and its place among the changes of that revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Revision {
    /// From 2 on, for the first revision is that of the empty store.
    pub(super) main: i64,
    /// From 0 on.
    pub(super) sub: u32,
}

/// Of [`Revision::to_bytes`].
pub(super) const REVISION_BYTES: usize = 12;

impl Revision {
    /// Before all changes of a revision.
    pub(super) const fn first_of(main: i64) -> Self {
        Self { main, sub: 0 }
    }

    /// Bytes in whose order revisions are ordered.
    pub(super) fn to_bytes(self) -> [u8; REVISION_BYTES] {
        let mut bytes = [0; REVISION_BYTES];
        bytes[..8].copy_from_slice(&self.main.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sub.to_be_bytes());
        bytes
    }

    /// Whether a store whose newest revision is `newest` may have it.
    pub(super) fn is_possible(self, newest: i64) -> bool {
        (2..=newest).contains(&self.main) && self.sub < DELETE
    }

    /// The opposite of [`Revision::to_bytes`].
    pub(super) fn from_bytes(bytes: &[u8; REVISION_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
        Self { main: i64::from_be_bytes([a, b, c, d, e, f, g, h]), sub: u32::from_be_bytes([i, j, k, l]) }
    }
}

/// A revision of one key, and whether the key is absent from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    main: i64,
    /// The place, and in the highest bit whether it is a delete: there are so many marks that each byte counts.
    sub: u32,
}

const DELETE: u32 = 1 << 31;

impl Mark {
    /// The key was put.
    pub(super) fn put(at: Revision) -> Self {
        debug_assert!(at.sub < DELETE, "no command has so many changes");
        Self { main: at.main, sub: at.sub }
    }

    /// The key was deleted.
    pub(super) fn delete(at: Revision) -> Self {
        Self { sub: at.sub | DELETE, ..Self::put(at) }
    }

    pub(super) const fn is_delete(self) -> bool {
        self.sub & DELETE != 0
    }

    pub(super) const fn revision(self) -> Revision {
        Revision { main: self.main, sub: self.sub & !DELETE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_ordered_as_revisions_are() {
        let revisions = [(2, 0), (2, 1), (2, 256), (3, 0), (256, 0), (i64::MAX, u32::MAX)];
        let revisions = revisions.map(|(main, sub)| Revision { main, sub });
        for pair in revisions.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].to_bytes() < pair[1].to_bytes());
        }
        assert!(revisions.iter().all(|revision| Revision::from_bytes(&revision.to_bytes()) == *revision));
    }

    #[test]
    fn a_mark_knows_its_revision_and_whether_it_is_a_delete() {
        let at = Revision { main: 7, sub: 3 };
        assert_eq!((Mark::put(at).revision(), Mark::put(at).is_delete()), (at, false));
        assert_eq!((Mark::delete(at).revision(), Mark::delete(at).is_delete()), (at, true));
        assert_eq!(size_of::<Mark>(), 16);
    }
}
