//! Any bytes as a datagram: refused with a reason, or the very bytes that their meaning encodes to.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ringmesh_proto::{
    ClusterId,
    datagram::{Datagram, MAX_LEN, MAX_PAYLOAD},
};

/// Its tag is 0, so that the fuzzer need not guess it.
const CLUSTER: ClusterId = ClusterId::new(0);

fuzz_target!(|bytes: &[u8]| {
    let Ok(datagram) = Datagram::decode(Bytes::copy_from_slice(bytes), CLUSTER) else { return };
    assert!(bytes.len() <= MAX_LEN && datagram.payload.len() <= MAX_PAYLOAD);
    assert_eq!(datagram.encode(CLUSTER), bytes);
});
