//! The form of a file of histories: each record with its length and checksum, so that a damaged one costs only itself.
//!
//! ```text
//!  "rmh1" │ length u32 │ CRC-32 u32 │ HistoryRecord │ length │ …        numbers big-endian
//! ```

use bytes::{Buf, BufMut};
use prost::Message;

use crate::disk::HistoryRecord;

/// The most bytes of one record: some ten times what the largest history takes.
pub const MAX_RECORD: usize = 64 * 1024;

const MAGIC: &[u8; 4] = b"rmh1";

/// Length and checksum.
const HEADER: usize = 8;

/// What could be read of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Read {
    /// In the order of the file.
    pub records: Vec<HistoryRecord>,
    /// Records that are damaged. What follows a length that cannot be right counts as one.
    pub damaged: usize,
}

/// The bytes of a file of these records; one that is larger than [`MAX_RECORD`] is left out.
pub fn encode(records: &[HistoryRecord]) -> Vec<u8> {
    let len: usize = records.iter().map(|record| HEADER + record.encoded_len()).sum();
    let mut file = Vec::with_capacity(MAGIC.len() + len);
    file.extend_from_slice(MAGIC);
    for bytes in records.iter().map(Message::encode_to_vec).filter(|bytes| bytes.len() <= MAX_RECORD) {
        file.put_u32(bytes.len() as u32);
        file.put_u32(crc32fast::hash(&bytes));
        file.extend_from_slice(&bytes);
    }
    file
}

/// Reads what is whole.
pub fn decode(file: &[u8]) -> Read {
    let mut read = Read::default();
    let Some(mut rest) = file.strip_prefix(MAGIC) else { return Read { damaged: 1, ..read } };
    while !rest.is_empty() {
        let Some((record, tail)) = split(rest) else {
            read.damaged += 1;
            break;
        };
        rest = tail;
        match record {
            Some(record) => read.records.push(record),
            None => read.damaged += 1,
        }
    }
    read
}

/// The first record, `None` if it is damaged, and what follows it. `None` if its end cannot be told.
fn split(mut rest: &[u8]) -> Option<(Option<HistoryRecord>, &[u8])> {
    if rest.len() < HEADER {
        return None;
    }
    let (len, sum) = (rest.get_u32() as usize, rest.get_u32());
    if len > MAX_RECORD {
        return None;
    }
    let (bytes, tail) = rest.split_at_checked(len)?;
    let whole = crc32fast::hash(bytes) == sum;
    Some((whole.then(|| HistoryRecord::decode(bytes).ok()).flatten(), tail))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records(number: u64) -> Vec<HistoryRecord> {
        let record = |begun_ms| HistoryRecord { service: "web".into(), begun_ms, ..HistoryRecord::default() };
        (1..=number).map(record).collect()
    }

    #[test]
    fn a_damaged_record_costs_only_itself() {
        let whole = encode(&records(3));
        assert_eq!(decode(&whole), Read { records: records(3), damaged: 0 });
        let mut flipped = whole.clone();
        let second = MAGIC.len() + (whole.len() - MAGIC.len()) / 3 + HEADER;
        flipped[second] ^= 1;
        let read = decode(&flipped);
        assert_eq!(
            (read.records.iter().map(|record| record.begun_ms).collect::<Vec<_>>(), read.damaged),
            (vec![1, 3], 1)
        );
    }

    #[test]
    fn a_torn_file_gives_what_is_before() {
        let whole = encode(&records(2));
        let read = decode(&whole[..whole.len() - 1]);
        assert_eq!((read.records, read.damaged), (records(1), 1));
        assert_eq!((decode(b"").damaged, decode(b"{}").damaged), (1, 1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut file = MAGIC.to_vec();
            file.extend_from_slice(&bytes);
            let read = decode(&file);
            prop_assert!(read.records.len() + read.damaged <= bytes.len() / HEADER + 1);
        }
    }
}
