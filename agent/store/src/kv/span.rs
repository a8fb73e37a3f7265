//! Which keys a request speaks of.

use std::ops::{Bound, RangeBounds};

use bytes::Bytes;

/// One key, all keys from one on, or those from one up to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span<'a> {
    /// One key.
    One(&'a [u8]),
    /// This key and all after it.
    From(&'a [u8]),
    /// From the first key on, before the second. Empty if that is not after the first.
    Between(&'a [u8], &'a [u8]),
}

/// Where keys inside begin and end.
type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

impl<'a> Span<'a> {
    /// As requests say it: no end is one key, and an end of one zero byte is no limit.
    pub(super) fn new(key: &'a Bytes, end: &'a Bytes) -> Self {
        match end.as_ref() {
            [] => Self::One(key),
            [0] => Self::From(key),
            end => Self::Between(key, end),
        }
    }

    /// Whether a key is inside.
    pub(super) fn contains(self, key: &[u8]) -> bool {
        self.bounds().is_some_and(|bounds| RangeBounds::<[u8]>::contains(&bounds, key))
    }

    /// As the bounds of an ordered map; `None` if no key is inside.
    pub(super) fn bounds(self) -> Option<Bounds<'a>> {
        match self {
            Self::One(key) => Some((Bound::Included(key), Bound::Included(key))),
            Self::From(key) => Some((Bound::Included(key), Bound::Unbounded)),
            Self::Between(key, end) => (key < end).then_some((Bound::Included(key), Bound::Excluded(end))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_mean_what_they_mean_to_etcd() {
        let span = |key: &'static str, end: &'static str| {
            let (key, end) = (Bytes::from_static(key.as_bytes()), Bytes::from_static(end.as_bytes()));
            let keys = std::collections::BTreeMap::from(["a", "b", "ba", "c"].map(|key| (key.as_bytes(), ())));
            let bounds = Span::new(&key, &end).bounds();
            bounds.map_or(0, |(from, to)| keys.range::<[u8], _>((from, to)).count())
        };
        assert_eq!(span("b", ""), 1);
        assert_eq!(span("b", "\0"), 3);
        assert_eq!(span("\0", "\0"), 4);
        assert_eq!(span("b", "c"), 2);
        assert_eq!(span("b", "b"), 0);
        assert_eq!(span("b", "a"), 0);
    }
}
