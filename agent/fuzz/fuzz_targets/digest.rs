//! Any bytes as a digest: what is accepted is within bounds and survives another round.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmesh_proto::digest::{Digest, MAX_LEN, MIN_LEN};

fuzz_target!(|bytes: &[u8]| {
    let Some(digest) = Digest::decode(bytes) else { return };
    assert!((MIN_LEN..=MAX_LEN).contains(&bytes.len()));
    assert!(digest.score <= 100 && digest.worst <= 3 && digest.unverified() <= digest.services);
    assert_eq!(Digest::decode(&digest.encode()), Some(digest));
});
