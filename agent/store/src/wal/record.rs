//! Records: what a frame's payload consists of.
//!
//! ```text
//!   kind u8 | length u32 | body
//! ```

use bytes::Bytes;

use crate::consensus::{Entry, EntryKind, HardState, Position};

/// Bytes before a record's body.
const HEAD: usize = 5;
/// Bytes of an entry before its data.
const ENTRY_HEAD: usize = 17;
/// Terms and indexes beyond this come of no log that ever was; what is added to them does not overflow.
const MAX_NUMBER: u64 = 1 << 62;

const OPENING: u8 = 1;
const ENTRY: u8 = 2;
const HARD: u8 = 3;
const BASE: u8 = 4;

const COMMAND: u8 = 0;
const CONF_CHANGE: u8 = 1;
const ORIGIN: u8 = 2;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// The first of each segment: what holds though earlier segments are gone.
    Opening {
        /// Checksum of the last frame before this segment.
        chain: u32,
        hard: HardState,
        base: Position,
    },
    /// Replaces all that the log has from its index on.
    Entry(Entry),
    /// Replaces the one before.
    Hard(HardState),
    /// The log is empty and starts after this, which a snapshot holds.
    Base(Position),
}

/// Bytes that the record of this entry takes.
pub(super) fn entry_size(entry: &Entry) -> usize {
    HEAD + ENTRY_HEAD + entry.data.len()
}

/// Appends an entry's record.
pub(super) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    put_head(out, ENTRY, ENTRY_HEAD + entry.data.len());
    put_position(out, entry.position);
    out.push(match entry.kind {
        EntryKind::Command => COMMAND,
        EntryKind::ConfChange => CONF_CHANGE,
        EntryKind::Origin => ORIGIN,
    });
    out.extend_from_slice(&entry.data);
}

/// Appends a hard state's record.
pub(super) fn put_hard(out: &mut Vec<u8>, hard: HardState) {
    put_head(out, HARD, 24);
    put_hard_body(out, hard);
}

/// Appends a base's record.
pub(super) fn put_base(out: &mut Vec<u8>, base: Position) {
    put_head(out, BASE, 16);
    put_position(out, base);
}

/// Appends a segment's first record.
pub(super) fn put_opening(out: &mut Vec<u8>, chain: u32, hard: HardState, base: Position) {
    put_head(out, OPENING, 4 + 24 + 16);
    out.extend_from_slice(&chain.to_le_bytes());
    put_hard_body(out, hard);
    put_position(out, base);
}

/// Bytes of a hard state's record.
pub(super) const HARD_SIZE: usize = HEAD + 24;

/// Bytes of a segment's first record.
pub(super) const OPENING_SIZE: usize = HEAD + 4 + 24 + 16;

/// Takes the next record off the payload; `None` if there is none that this version knows.
pub(super) fn take(payload: &mut &[u8]) -> Option<Record> {
    let [kind] = take_array(payload)?;
    let length = u32::from_le_bytes(take_array(payload)?) as usize;
    let (mut body, rest) = payload.split_at_checked(length)?;
    *payload = rest;
    let record = match kind {
        OPENING => Record::Opening {
            chain: u32::from_le_bytes(take_array(&mut body)?),
            hard: take_hard(&mut body)?,
            base: take_position(&mut body)?,
        },
        ENTRY => Record::Entry(take_entry(&mut body)?),
        HARD => Record::Hard(take_hard(&mut body)?),
        BASE => Record::Base(take_position(&mut body)?),
        _ => return None,
    };
    body.is_empty().then_some(record)
}

fn put_head(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    out.extend_from_slice(&(length as u32).to_le_bytes());
}

fn put_position(out: &mut Vec<u8>, position: Position) {
    out.extend_from_slice(&position.term.to_le_bytes());
    out.extend_from_slice(&position.index.to_le_bytes());
}

fn put_hard_body(out: &mut Vec<u8>, hard: HardState) {
    for word in [hard.term, hard.vote, hard.commit] {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

fn take_entry(body: &mut &[u8]) -> Option<Entry> {
    let position = take_position(body)?;
    let kind = match take_array(body)? {
        [COMMAND] => EntryKind::Command,
        [CONF_CHANGE] => EntryKind::ConfChange,
        [ORIGIN] => EntryKind::Origin,
        _ => return None,
    };
    Some(Entry { position, kind, data: Bytes::copy_from_slice(std::mem::take(body)) })
}

fn take_position(body: &mut &[u8]) -> Option<Position> {
    Some(Position { term: take_number(body)?, index: take_number(body)? })
}

fn take_hard(body: &mut &[u8]) -> Option<HardState> {
    Some(HardState { term: take_u64(body)?, vote: take_u64(body)?, commit: take_u64(body)? })
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    take_u64(bytes).filter(|number| *number < MAX_NUMBER)
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    take_array(bytes).map(u64::from_le_bytes)
}

fn take_array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (array, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*array)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(out: &mut Vec<u8>, record: &Record) {
        match record {
            Record::Opening { chain, hard, base } => put_opening(out, *chain, *hard, *base),
            Record::Entry(entry) => put_entry(out, entry),
            Record::Hard(hard) => put_hard(out, *hard),
            Record::Base(base) => put_base(out, *base),
        }
    }

    fn position() -> impl Strategy<Value = Position> {
        (0..MAX_NUMBER, 0..MAX_NUMBER).prop_map(|(term, index)| Position { term, index })
    }

    fn hard() -> impl Strategy<Value = HardState> {
        any::<(u64, u64, u64)>().prop_map(|(term, vote, commit)| HardState { term, vote, commit })
    }

    fn record() -> impl Strategy<Value = Record> {
        let kind = prop_oneof![Just(EntryKind::Command), Just(EntryKind::ConfChange), Just(EntryKind::Origin)];
        prop_oneof![
            (any::<u32>(), hard(), position()).prop_map(|(chain, hard, base)| Record::Opening { chain, hard, base }),
            (position(), kind, any::<Vec<u8>>()).prop_map(|(position, kind, data)| Record::Entry(Entry {
                position,
                kind,
                data: data.into()
            })),
            hard().prop_map(Record::Hard),
            position().prop_map(Record::Base),
        ]
    }

    proptest! {
        #[test]
        fn records_are_read_as_they_were_written(records in prop::collection::vec(record(), 0..6)) {
            let mut out = Vec::new();
            records.iter().for_each(|record| put(&mut out, record));
            let mut rest = out.as_slice();
            let read: Vec<Record> = std::iter::from_fn(|| take(&mut rest)).collect();
            prop_assert_eq!(read, records);
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let mut rest = bytes.as_slice();
            while take(&mut rest).is_some() {}
        }
    }
}
