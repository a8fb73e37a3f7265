//! One version of a key as bytes: what a checkpoint and a snapshot hold.
//!
//! ```text
//!   create revision 8 | version 8 | lease 8 | length of the key 4 | key | value        numbers little-endian
//! ```
//!
//! A version of 0 says that the key was deleted. The revision at which it was written is the record's key.

use bytes::{Buf, BufMut, Bytes};
use ringmesh_proto::etcd::mvccpb::KeyValue;

const HEAD_BYTES: usize = 28;

/// What a record takes on disk beyond its bytes, about: its revision and its share of the tree.
const TREE_BYTES: usize = 24;

/// That a key was deleted.
pub(super) fn tombstone(key: Bytes, mod_revision: i64) -> KeyValue {
    KeyValue { key, mod_revision, ..KeyValue::default() }
}

/// Whether a record says that its key was deleted.
pub(super) fn is_tombstone(record: &KeyValue) -> bool {
    record.version == 0
}

/// About what a record takes on disk.
pub(super) fn size_bytes(record: &KeyValue) -> u64 {
    (TREE_BYTES + HEAD_BYTES + record.key.len() + record.value.len()) as u64
}

/// About what encoded bytes take on disk: as much as [`size_bytes`] says of what they hold.
pub(super) fn encoded_size_bytes(encoded: &[u8]) -> u64 {
    (TREE_BYTES + encoded.len()) as u64
}

/// Writes a record after what `out` holds.
pub(super) fn encode(record: &KeyValue, out: &mut Vec<u8>) {
    out.reserve(HEAD_BYTES + record.key.len() + record.value.len());
    out.put_i64_le(record.create_revision);
    out.put_i64_le(record.version);
    out.put_i64_le(record.lease);
    out.put_u32_le(record.key.len() as u32);
    out.put_slice(&record.key);
    out.put_slice(&record.value);
}

/// Reads a record; its key and value share `bytes`. `None` of what is none.
pub(super) fn decode(mod_revision: i64, mut bytes: Bytes) -> Option<KeyValue> {
    let Head { create_revision, version, lease, key_bytes } = Head::read(&bytes)?;
    bytes.advance(HEAD_BYTES);
    let key = bytes.split_to(key_bytes);
    Some(KeyValue { key, create_revision, mod_revision, version, value: bytes, lease })
}

/// What a record says but for key and value.
struct Head {
    create_revision: i64,
    version: i64,
    lease: i64,
    /// No more than there are.
    key_bytes: usize,
}

impl Head {
    fn read(mut bytes: &[u8]) -> Option<Self> {
        let create_revision = bytes.try_get_i64_le().ok()?;
        let version = bytes.try_get_i64_le().ok()?;
        let lease = bytes.try_get_i64_le().ok()?;
        let key_bytes = bytes.try_get_u32_le().ok()? as usize;
        (key_bytes <= bytes.len()).then_some(Self { create_revision, version, lease, key_bytes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            key in prop::collection::vec(any::<u8>(), 0..9),
            value in prop::collection::vec(any::<u8>(), 0..9),
            numbers in any::<(i64, i64, i64, i64)>(),
        ) {
            let (create_revision, mod_revision, version, lease) = numbers;
            let (key, value) = (Bytes::from(key), Bytes::from(value));
            let record = KeyValue { key, create_revision, mod_revision, version, value, lease };
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            prop_assert_eq!(encoded_size_bytes(&bytes), size_bytes(&record));
            prop_assert_eq!(decode(mod_revision, Bytes::from(bytes)), Some(record));
        }

        #[test]
        fn any_bytes_are_a_record_or_none(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            decode(7, Bytes::from(bytes));
        }
    }
}
