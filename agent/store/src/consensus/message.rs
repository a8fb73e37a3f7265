//! Raft's messages as bytes between members. All numbers are little-endian.
//!
//! ```text
//!   VERSION u8 | type u8 | reject u8
//!   to | from | term | log term | index | commit | commit term | reject hint: u64 each
//!   context: u16 + bytes
//!   entries: u32, then of each: term u64 | kind u8 | u32 + data
//!   snapshot: u8, then perhaps term u64 | index u64 | u16 + members
//! ```

use bytes::{Buf, BufMut, Bytes};
use raft::eraftpb::{Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata};

use super::{conf::Conf, error::Malformed};

/// The first byte. Another one is of another version.
const VERSION: u8 = 1;
/// Bytes that a message may have.
pub(super) const MAX_BYTES: usize = 16 << 20;
/// Entries that a message may have: each takes more memory than bytes on the wire.
pub(super) const MAX_ENTRIES: usize = 16 << 10;
/// Bytes of the context: the largest is that of a read.
pub(super) const MAX_CONTEXT: usize = 32;
/// Terms and indexes beyond this come of no log that ever was; what is added to them does not overflow.
const MAX_NUMBER: u64 = 1 << 62;
/// Bytes of an entry without data.
const MIN_ENTRY: usize = 13;

const COMMAND: u8 = 0;
const CONF_CHANGE: u8 = 1;

/// The bytes of a message; `None` if it is of a type that no peer gets.
pub(super) fn encode(message: &Message) -> Option<Bytes> {
    let kind = code(message.get_msg_type())?;
    let data: usize = message.entries.iter().map(|entry| MIN_ENTRY + entry.data.len()).sum();
    let mut out = Vec::with_capacity(128 + data);
    out.extend_from_slice(&[VERSION, kind, message.reject.into()]);
    let Message { to, from, term, log_term, index, commit, commit_term, reject_hint, .. } = *message;
    for number in [to, from, term, log_term, index, commit, commit_term, reject_hint] {
        out.put_u64_le(number);
    }
    out.put_u16_le(message.context.len() as u16);
    out.extend_from_slice(&message.context);
    out.put_u32_le(message.entries.len() as u32);
    for entry in &message.entries {
        out.put_u64_le(entry.term);
        out.put_u8(if entry.get_entry_type() == EntryType::EntryNormal { COMMAND } else { CONF_CHANGE });
        out.put_u32_le(entry.data.len() as u32);
        out.extend_from_slice(&entry.data);
    }
    put_snapshot(&mut out, message.snapshot.as_ref());
    Some(out.into())
}

/// Entries that fit into one message.
pub(super) fn fits(entries: usize) -> bool {
    entries <= MAX_ENTRIES
}

/// The message, whose numbers are in bounds; more is not checked.
pub(super) fn decode(bytes: &[u8]) -> Result<Message, Malformed> {
    if bytes.len() > MAX_BYTES {
        return Err(Malformed("it is too long"));
    }
    if bytes.first() != Some(&VERSION) {
        return Err(Malformed("it is of another version"));
    }
    take(&bytes[1..]).ok_or(Malformed("it is not complete, or out of bounds"))
}

fn take(mut bytes: &[u8]) -> Option<Message> {
    let bytes = &mut bytes;
    let mut message = Message::default();
    message.set_msg_type(message_type(bytes.try_get_u8().ok()?)?);
    message.reject = match bytes.try_get_u8().ok()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    message.to = bytes.try_get_u64_le().ok()?;
    message.from = bytes.try_get_u64_le().ok()?;
    message.term = take_number(bytes)?;
    message.log_term = take_number(bytes)?;
    message.index = take_number(bytes)?;
    message.commit = take_number(bytes)?;
    message.commit_term = take_number(bytes)?;
    message.reject_hint = take_number(bytes)?;
    let context = usize::from(bytes.try_get_u16_le().ok()?);
    message.context = take_bytes(bytes, context).filter(|context| context.len() <= MAX_CONTEXT)?.to_vec();
    message.entries = take_entries(bytes, &message)?;
    message.snapshot = take_snapshot(bytes)?;
    bytes.is_empty().then_some(message)
}

fn take_entries(bytes: &mut &[u8], message: &Message) -> Option<Vec<Entry>> {
    let count = bytes.try_get_u32_le().ok()? as usize;
    if !fits(count) || count > bytes.len() / MIN_ENTRY {
        return None;
    }
    let is_append = message.get_msg_type() == MessageType::MsgAppend;
    let mut entries = Vec::with_capacity(count);
    for offset in 1..=count as u64 {
        let mut entry = Entry { term: take_number(bytes)?, ..Entry::default() };
        if is_append {
            entry.index = message.index + offset;
        }
        match bytes.try_get_u8().ok()? {
            COMMAND => {}
            CONF_CHANGE => entry.set_entry_type(EntryType::EntryConfChangeV2),
            _ => return None,
        }
        let length = bytes.try_get_u32_le().ok()? as usize;
        entry.data = take_bytes(bytes, length)?.to_vec();
        entries.push(entry);
    }
    Some(entries)
}

fn put_snapshot(out: &mut Vec<u8>, snapshot: Option<&Snapshot>) {
    let Some(metadata) = snapshot.and_then(|snapshot| snapshot.metadata.as_ref()) else { return out.put_u8(0) };
    let conf = Conf::from(metadata.get_conf_state()).encode();
    out.put_u8(1);
    out.put_u64_le(metadata.term);
    out.put_u64_le(metadata.index);
    out.put_u16_le(conf.len() as u16);
    out.extend_from_slice(&conf);
}

fn take_snapshot(bytes: &mut &[u8]) -> Option<Option<Snapshot>> {
    match bytes.try_get_u8().ok()? {
        0 => return Some(None),
        1 => {}
        _ => return None,
    }
    let (term, index) = (take_number(bytes)?, take_number(bytes)?);
    let length = usize::from(bytes.try_get_u16_le().ok()?);
    let conf = Conf::decode(take_bytes(bytes, length)?)?;
    Some(Some(snapshot(term, index, &conf)))
}

/// A snapshot, of which only the place and the members are raft's business.
pub(super) fn snapshot(term: u64, index: u64, conf: &Conf) -> Snapshot {
    let metadata = SnapshotMetadata { conf_state: Some(conf.into()), index, term };
    Snapshot { metadata: Some(metadata), ..Snapshot::default() }
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    bytes.try_get_u64_le().ok().filter(|number| *number < MAX_NUMBER)
}

fn take_bytes<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn message_type(code: u8) -> Option<MessageType> {
    Some(match code {
        1 => MessageType::MsgAppend,
        2 => MessageType::MsgAppendResponse,
        3 => MessageType::MsgRequestVote,
        4 => MessageType::MsgRequestVoteResponse,
        5 => MessageType::MsgSnapshot,
        6 => MessageType::MsgHeartbeat,
        7 => MessageType::MsgHeartbeatResponse,
        8 => MessageType::MsgTimeoutNow,
        9 => MessageType::MsgReadIndex,
        10 => MessageType::MsgReadIndexResp,
        11 => MessageType::MsgRequestPreVote,
        12 => MessageType::MsgRequestPreVoteResponse,
        _ => return None,
    })
}

fn code(kind: MessageType) -> Option<u8> {
    (1..=12).find(|code| message_type(*code) == Some(kind))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0..8u64, 0..MAX_NUMBER]
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let entry = (number(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..30));
        let entry = entry.prop_map(|(term, is_change, data)| {
            let mut entry = Entry { term, data, ..Entry::default() };
            entry.set_entry_type(if is_change { EntryType::EntryConfChangeV2 } else { EntryType::EntryNormal });
            entry
        });
        prop::collection::vec(entry, 0..4)
    }

    /// Any message that can be sent, whether it makes sense or not.
    pub(in super::super) fn message() -> impl Strategy<Value = Message> {
        let numbers = prop::array::uniform6(number());
        let head = (1..=12u8, any::<bool>(), 0..4u64, 0..4u64);
        let context = prop::collection::vec(any::<u8>(), 0..MAX_CONTEXT);
        let place = (number(), number(), 1..4u64, 4..6u64);
        let snapshot = prop::option::of(place.prop_map(|(term, index, voter, learner)| {
            snapshot(term, index, &Conf { learners: vec![learner], ..Conf::of_voters([voter]) })
        }));
        (head, numbers, context, entries(), snapshot).prop_map(|(head, numbers, context, mut entries, snapshot)| {
            let (kind, reject, to, from) = head;
            let [term, log_term, index, commit, commit_term, reject_hint] = numbers;
            if message_type(kind) == Some(MessageType::MsgAppend) {
                (1..).zip(&mut entries).for_each(|(offset, entry)| entry.index = index + offset);
            }
            let mut message = Message {
                to,
                from,
                term,
                log_term,
                index,
                commit,
                commit_term,
                reject,
                reject_hint,
                context,
                entries,
                snapshot,
                ..Message::default()
            };
            message.set_msg_type(message_type(kind).unwrap());
            message
        })
    }

    proptest! {
        #[test]
        fn a_message_is_read_as_it_was_written(message in message()) {
            prop_assert_eq!(decode(&encode(&message).unwrap()), Ok(message));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes: Vec<u8>) {
            let _ = decode(&bytes);
            bytes.insert(0, VERSION);
            let _ = decode(&bytes);
        }

        #[test]
        fn a_message_that_is_cut_is_none(message in message(), cut in 0.0..1.0) {
            let bytes = encode(&message).unwrap();
            let length = (bytes.len() as f64 * cut) as usize;
            prop_assert!(decode(&bytes[..length]).is_err());
        }
    }

    #[test]
    fn a_count_beyond_the_bytes_takes_no_memory() {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        let mut bytes = encode(&message).unwrap().to_vec();
        let count = bytes.len() - 5;
        bytes[count..count + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(decode(&bytes).is_err());
    }

    #[test]
    fn a_heartbeat_has_these_bytes() {
        let mut message = Message { to: 2, from: 1, term: 3, commit: 9, ..Message::default() };
        message.set_msg_type(MessageType::MsgHeartbeat);
        let mut expected = vec![1, 6, 0];
        for number in [2, 1, 3, 0, 0, 9, 0, 0u64] {
            expected.extend_from_slice(&number.to_le_bytes());
        }
        expected.extend_from_slice(&[0; 7]);
        assert_eq!(encode(&message).unwrap(), expected);
    }
}
