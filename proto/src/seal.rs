//! Which bytes a host seals of what it says: others pass it on, and none of them can change it or say it in its name.
//!
//! It owns the form and the bounds. It makes and checks no seal: that needs keys, and those the daemon has.
//!
//! ```text
//! sealed: "ringmesh-seal-1" 0 | cluster u64 | kind u8 | the record's protobuf, its fields in order, without the seal
//! ```
//!
//! A field that this version does not know would be lost before the seal is checked, so later versions put what they add
//! into `more`, which all pass on as it is.

use bytes::{BufMut, Bytes};
use prost::Message;

use crate::{
    ClusterId, HostId,
    peer::{AccusationRecord, HostRecord},
};

/// The most bytes of a host's certificate; ours have some 500.
pub const MAX_CERTIFICATE: usize = 1024;

/// The most bytes of a seal; ECDSA over P-256 has at most 72.
pub const MAX_SEAL: usize = 128;

/// The most bytes of what a later version adds.
pub const MAX_MORE: usize = 512;

/// The number of the field that holds the seal, the highest of each record.
const SEAL_TAG: u32 = 45;

const CONTEXT: &[u8] = b"ringmesh-seal-1\0";

/// A record that carries its writer's seal.
pub trait Sealed: Message {
    /// Tells kinds of records apart: what was sealed as one is no other.
    const KIND: u8;

    /// Whose seal it needs.
    fn writer(&self) -> HostId;

    /// The seal: the last field of the message.
    fn seal(&self) -> &Bytes;

    /// To write it.
    fn seal_mut(&mut self) -> &mut Bytes;
}

impl Sealed for HostRecord {
    const KIND: u8 = 1;

    fn writer(&self) -> HostId {
        HostId::new(self.host)
    }

    fn seal(&self) -> &Bytes {
        &self.seal
    }

    fn seal_mut(&mut self) -> &mut Bytes {
        &mut self.seal
    }
}

impl Sealed for AccusationRecord {
    const KIND: u8 = 2;

    fn writer(&self) -> HostId {
        HostId::new(self.accuser)
    }

    fn seal(&self) -> &Bytes {
        &self.seal
    }

    fn seal_mut(&mut self) -> &mut Bytes {
        &mut self.seal
    }
}

/// The bytes that the writer seals: all of the record but the seal itself.
pub fn sealed_bytes<R: Sealed>(record: &R, cluster: ClusterId) -> Vec<u8> {
    // Most records fit; to find out how long one is takes half as long as to write it.
    let mut bytes = Vec::with_capacity(1024);
    bytes.put_slice(CONTEXT);
    bytes.put_u64(cluster.raw());
    bytes.put_u8(R::KIND);
    record.encode(&mut bytes).expect("a Vec grows");
    // prost writes the fields in the order of their numbers.
    if !record.seal().is_empty() {
        bytes.truncate(bytes.len() - prost::encoding::bytes::encoded_len(SEAL_TAG, record.seal()));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId::new(7);

    fn accusation() -> AccusationRecord {
        AccusationRecord { accuser: 1, seq: 2, accused: 3, withdrawn: true, ..AccusationRecord::default() }
    }

    #[test]
    fn the_seal_is_not_sealed() {
        let mut record = accusation();
        let bare = sealed_bytes(&record, CLUSTER);
        record.seal = Bytes::from_static(b"seal");
        assert_eq!(sealed_bytes(&record, CLUSTER), bare);
        assert_eq!(record.seal, "seal");
    }

    #[test]
    fn the_bytes_are_of_one_cluster_one_kind_and_all_fields() {
        let known = *b"ringmesh-seal-1\0\0\0\0\0\0\0\0\x07\x02\x0d\x01\0\0\0\x18\x02\x25\x03\0\0\0\x40\x01";
        assert_eq!(sealed_bytes(&accusation(), CLUSTER), known);
        assert_ne!(sealed_bytes(&accusation(), ClusterId::new(8)), known);
        let more = Bytes::from_static(b"x");
        assert_ne!(sealed_bytes(&AccusationRecord { more, ..accusation() }, CLUSTER), known);
        let empty = (HostRecord::default(), AccusationRecord::default());
        assert_ne!(sealed_bytes(&empty.0, CLUSTER), sealed_bytes(&empty.1, CLUSTER));
    }

    /// Whoever passes a record on decodes it and encodes it anew.
    #[test]
    fn the_bytes_are_the_same_after_a_journey() {
        let record = HostRecord { host: 1, name: "h1".into(), isolated: true, ..HostRecord::default() };
        let before = sealed_bytes(&record, CLUSTER);
        let there = HostRecord::decode(&record.encode_to_vec()[..]).expect("our own");
        assert_eq!(sealed_bytes(&there, CLUSTER), before);
    }
}
