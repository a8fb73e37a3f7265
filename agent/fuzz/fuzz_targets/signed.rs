//! Any bytes as a signed record of the CA, whole and as the body of one whose other fields are good. What is read keeps its
//! bounds; what a node takes changes its digest, and a second time nothing.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use ringmesh_node::gossip::Store;
use ringmesh_proto::{
    ClusterId, Now,
    peer::SignedRecord,
    signed::{self, FINGERPRINT_LEN, MAX_AUTHORITIES, MAX_BODY, MAX_CERTIFICATE, MAX_SERIAL, Statement},
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = SignedRecord::decode(bytes) {
        check(&record);
    }
    let Some((kind, body)) = bytes.split_first() else { return };
    let trust = kind % 2 == 0;
    check(&SignedRecord {
        kind: if trust { signed::KIND_TRUST } else { signed::KIND_REVOCATION },
        host: u32::from(!trust),
        version: u64::from(*kind) + 1,
        expires_unix: u64::from(!trust),
        body: Bytes::copy_from_slice(body),
        signer: Bytes::from_static(&[1; FINGERPRINT_LEN]),
        signature: Bytes::from_static(&[2; 70]),
        ..SignedRecord::default()
    });
});

fn check(record: &SignedRecord) {
    let Ok(statement) = signed::parse(record) else { return };
    assert!(record.body.len() <= MAX_BODY && record.serial.len() <= MAX_SERIAL);
    if let Statement::Trust(bundle) = &statement {
        assert!((1..=MAX_AUTHORITIES).contains(&bundle.authorities.len()));
        assert!(bundle.authorities.iter().all(|authority| authority.certificate.len() <= MAX_CERTIFICATE));
    }
    let again = SignedRecord::decode(&record.encode_to_vec()[..]).expect("what we encode, we decode");
    assert_eq!(signed::parse(&again).as_ref(), Ok(&statement));
    let bytes = signed::signed_bytes(record, ClusterId::new(1));
    assert_ne!(bytes, signed::signed_bytes(record, ClusterId::new(2)));

    let mut store = Store::default();
    let before = store.signed().digest();
    let (new, _) = store.accept_signed(Now::default(), vec![record.clone()]);
    assert_eq!(new.len(), 1);
    assert_ne!(store.signed().digest(), before);
    assert!(store.accept_signed(Now::default(), vec![again]).0.is_empty());
}
