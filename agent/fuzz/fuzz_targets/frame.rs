//! Any bytes as a stream of frames, each read as every message that a stream may carry. What is accepted survives
//! another round; what is refused gives a refusal that the sender can be told.
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use prost::Message;
use ringmesh_proto::{
    ClusterId,
    frame::{self, FrameError, MAX_GOSSIP, PREFIX_LEN, VERSION},
    member::Member,
    peer::{AccusationRecord, HostRecord},
    seal::{Sealed, sealed_bytes},
};

const CLUSTER: ClusterId = ClusterId::new(0);

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Some((prefix, tail)) = rest.split_first_chunk::<PREFIX_LEN>() {
        let Ok(len) = frame::decode_prefix(*prefix, MAX_GOSSIP) else { break };
        let (message, tail) = tail.split_at(len.min(tail.len()));
        messages(message);
        rest = tail;
    }
    // The whole input too, so that the fuzzer need not guess a length first.
    messages(bytes);
});

fn messages(bytes: &[u8]) {
    let gossip = frame::decode_gossip(bytes, CLUSTER);
    if let Ok(gossip) = &gossip {
        assert_eq!((gossip.version, gossip.cluster), (VERSION, CLUSTER.raw()));
    }
    check(gossip, |bytes| frame::decode_gossip(bytes, CLUSTER));
    check(frame::decode_request(bytes, Some(CLUSTER)), |bytes| frame::decode_request(bytes, Some(CLUSTER)));
    check(frame::decode_request(bytes, None), |bytes| frame::decode_request(bytes, None));
    check(frame::decode_response(bytes), |bytes| frame::decode_response(bytes));
    check_sealed::<HostRecord>(bytes);
    check_sealed::<AccusationRecord>(bytes);
    if let Ok(record) = ringmesh_proto::peer::MemberRecord::decode(bytes)
        && let Ok(member) = Member::try_from(&record)
    {
        let again = member.to_record(record.incarnation, record.state);
        assert_eq!(Member::try_from(&again), Ok(member), "a member survives its record");
    }
}

/// Whoever passes a sealed record on writes it anew: over the same bytes, its seal being no part of them.
fn check_sealed<R: Sealed + Default>(bytes: &[u8]) {
    let Ok(record) = R::decode(bytes) else { return };
    let sealed = sealed_bytes(&record, CLUSTER);
    let mut again = R::decode(&record.encode_to_vec()[..]).expect("what we encode, we decode");
    again.seal_mut().clone_from(&vec![1; 70].into());
    assert_eq!(sealed_bytes(&again, CLUSTER), sealed);
}

fn check<M: Message + PartialEq + Debug>(
    decoded: Result<M, FrameError>,
    decode: impl Fn(&[u8]) -> Result<M, FrameError>,
) {
    match decoded {
        Ok(message) => {
            let encoded = message.encode_to_vec();
            let again = decode(&encoded).expect("what we encode, we decode");
            // Bytes, not messages: a NaN is not equal to itself.
            assert_eq!(again.encode_to_vec(), encoded);
        }
        Err(error) => {
            let refusal = error.refusal();
            assert!(!refusal.text.is_empty() && !refusal.text.contains('\n'), "a refusal is one line");
        }
    }
}
