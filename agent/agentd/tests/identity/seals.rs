//! Whose seals a host believes: those of certificates that count, by their keys, over just these bytes.

use bytes::Bytes;
use ringmesh_agentd::identity::{Keyring, keyring::HostSeals};
use ringmesh_node::Seals;
use ringmesh_proto::{
    HostId,
    seal::{MAX_CERTIFICATE, MAX_SEAL},
};

use crate::{
    keyring::{accept, member, renew},
    support::{FirstHost, now},
};

const SAID: &[u8] = b"h2 does not answer";

/// Something that a host said.
struct Word {
    host: HostId,
    certificate: Bytes,
    seal: Bytes,
}

impl Word {
    fn of(keyring: &std::sync::Arc<Keyring>) -> Self {
        let mut seals = HostSeals::new(keyring);
        Self { host: keyring.host, certificate: seals.certificate(), seal: seals.seal(SAID) }
    }

    fn is_believed(&self, by: &mut HostSeals) -> bool {
        by.verify(self.host, &self.certificate, SAID, &self.seal)
    }
}

#[test]
fn a_seal_is_of_one_host_one_key_and_these_bytes() {
    let first = FirstHost::new("h1");
    let signer = first.keyring();
    let (h2, h3) = (member(&first, &signer, 2), member(&first, &signer, 3));
    let mut h1 = HostSeals::new(&signer);
    let (word, other) = (Word::of(&h2.keyring), Word::of(&h3.keyring));
    assert!(word.certificate.len() <= MAX_CERTIFICATE && word.seal.len() <= MAX_SEAL);
    // Twice: the second time its certificate is known.
    assert!(word.is_believed(&mut h1) && word.is_believed(&mut h1) && other.is_believed(&mut h1));
    let mut refused = |host: HostId, certificate: &Bytes, said: &[u8], seal: &[u8], why: &str| {
        assert!(!h1.verify(host, certificate, said, seal), "{why}");
    };
    refused(word.host, &word.certificate, b"h2 does answer", &word.seal, "other bytes");
    refused(word.host, &word.certificate, SAID, &other.seal, "another key");
    refused(word.host, &other.certificate, SAID, &other.seal, "another host's certificate");
    refused(other.host, &word.certificate, SAID, &word.seal, "the same, the other way round");
    refused(word.host, &word.certificate, SAID, b"", "none");
    refused(word.host, &Bytes::new(), SAID, &word.seal, "no certificate");
    refused(word.host, &word.certificate.slice(..100), SAID, &word.seal, "a part of one");
    let mut bent = word.seal.to_vec();
    bent[12] ^= 1;
    refused(word.host, &word.certificate, SAID, &bent, "one bit");
    assert!(word.is_believed(&mut h1), "and what is good still is");
}

#[test]
fn another_clusters_host_is_not_believed() {
    let (first, stranger) = (FirstHost::new("h1"), FirstHost::new("h1"));
    let word = Word::of(&stranger.keyring());
    assert!(!word.is_believed(&mut HostSeals::new(&first.keyring())));
}

#[test]
fn a_revoked_certificate_seals_nothing_from_then_on() {
    let first = FirstHost::new("h1");
    let signer = first.keyring();
    let (h2, h3) = (member(&first, &signer, 2), member(&first, &signer, 3));
    let (of_h2, of_h3) = (Word::of(&h2.keyring), Word::of(&h3.keyring));
    let mut h1 = HostSeals::new(&signer);
    assert!(of_h2.is_believed(&mut h1) && of_h3.is_believed(&mut h1));
    signer.revoke(of_h2.host, Bytes::new(), "h2", now()).expect("it signs");
    signer.revoke(of_h3.host, h3.keyring.facts().serial, "h3", now()).expect("it signs");
    assert!(!of_h2.is_believed(&mut h1) && !of_h3.is_believed(&mut h1));
    renew(&h3.keyring, &signer).expect("only its first certificate is revoked");
    assert!(Word::of(&h3.keyring).is_believed(&mut h1));
}

#[test]
fn the_key_changes_when_the_node_takes_the_new_certificate() {
    let first = FirstHost::new("h1");
    let signer = first.keyring();
    let h2 = member(&first, &signer, 2);
    let (mut h1, mut seals) = (HostSeals::new(&signer), HostSeals::new(&h2.keyring));
    let before = seals.certificate();
    renew(&h2.keyring, &signer).expect("it signs");
    let seal = seals.seal(SAID);
    assert!(h1.verify(h2.keyring.host, &before, SAID, &seal), "others know only this one yet");
    let after = seals.certificate();
    let seal = seals.seal(SAID);
    assert!(before != after && h1.verify(h2.keyring.host, &after, SAID, &seal));
    assert!(!h1.verify(h2.keyring.host, &before, SAID, &seal));
}

#[test]
fn seals_of_the_old_ca_hold_until_it_is_retired() {
    let first = FirstHost::new("h1");
    let signer = first.keyring();
    let (h2, h3) = (member(&first, &signer, 2), member(&first, &signer, 3));
    let old = Word::of(&h2.keyring);
    let mut seals = [HostSeals::new(&signer), HostSeals::new(&h3.keyring)];
    let rotated = signer.rotate(3600, now()).expect("it signs");
    renew(&h2.keyring, &signer).expect_err("it does not know the new CA yet");
    accept(&h2.keyring, &rotated);
    renew(&h2.keyring, &signer).expect("it signs");
    let new = Word::of(&h2.keyring);
    let [h1, late] = &mut seals;
    assert!(old.is_believed(h1) && new.is_believed(h1));
    assert!(old.is_believed(late) && !new.is_believed(late), "who has not heard of the new CA");
    accept(&h3.keyring, &rotated);
    assert!(old.is_believed(late) && new.is_believed(late));
    signer.retire(now()).expect("it signs");
    assert!(!old.is_believed(h1) && new.is_believed(h1));
}
