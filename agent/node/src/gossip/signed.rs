//! What the cluster's CA says: the newest version of each subject, to be passed on.
//!
//! It owns the list, its bound and its digest. All of it was verified before it came here: this crate knows no keys.

use std::collections::BTreeMap;

use ringmesh_proto::{
    HostId, Now,
    peer::{Gossip, SignedRecord, SyncRequest},
    signed::{self, KIND_REVOCATION, Subject},
};

use super::Store;

/// The most signed records that are kept: the CAs, and a thousand revocations, which live as long as a certificate.
pub const MAX_SIGNED: usize = 1024;

/// Every subject's newest record.
#[derive(Default)]
pub struct SignedStore {
    records: BTreeMap<Subject, SignedRecord>,
}

impl SignedStore {
    /// Keeps a record if it is new; `Some(true)` if it makes all certificates of a host worthless that were not before.
    fn accept(&mut self, record: &SignedRecord) -> Option<bool> {
        let subject = signed::subject(record);
        let old = self.records.get(&subject);
        if old.is_some_and(|old| (old.version, &old.body) >= (record.version, &record.body)) {
            return None;
        }
        if old.is_none() && self.records.len() >= MAX_SIGNED {
            return None;
        }
        let revokes = old.is_none() && record.kind == KIND_REVOCATION && record.serial.is_empty();
        self.records.insert(subject, record.clone());
        Some(revokes)
    }

    /// Whether all certificates of a host are revoked.
    pub fn is_revoked(&self, host: HostId) -> bool {
        self.records.contains_key(&(KIND_REVOCATION, host.raw(), bytes::Bytes::new()))
    }

    /// The hosts of which that is so.
    pub fn revoked(&self) -> impl Iterator<Item = HostId> {
        let whole = self.records.keys().filter(|(kind, _, serial)| *kind == KIND_REVOCATION && serial.is_empty());
        whole.map(|(_, host, _)| HostId::new(*host))
    }

    /// All records.
    pub fn all(&self) -> Vec<SignedRecord> {
        self.records.values().cloned().collect()
    }

    /// Those of which another host, which has sent `theirs`, has none or an older version.
    pub fn beyond(&self, theirs: &[SignedRecord]) -> Vec<SignedRecord> {
        let theirs: BTreeMap<Subject, &SignedRecord> =
            theirs.iter().map(|record| (signed::subject(record), record)).collect();
        let newer = |subject: &Subject, mine: &SignedRecord| {
            theirs.get(subject).is_none_or(|their| (their.version, &their.body) < (mine.version, &mine.body))
        };
        self.records.iter().filter(|(subject, mine)| newer(subject, mine)).map(|(_, mine)| mine.clone()).collect()
    }

    /// Names the state of the list: two hosts with the same have the same list. FNV-1a, 64 bits.
    pub fn digest(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut add = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        for ((kind, host, serial), record) in &self.records {
            add(&kind.to_be_bytes());
            add(&host.to_be_bytes());
            add(serial);
            add(&record.version.to_be_bytes());
            add(&record.body);
        }
        // 0 is for who knows of no signed records.
        if self.records.is_empty() { 0 } else { hash }
    }

    fn drop_expired(&mut self, now: Now) {
        let second = now.unix.0 / 1000;
        self.records.retain(|_, record| record.expires_unix == 0 || record.expires_unix > second);
    }
}

impl Store {
    /// What the cluster's CA says.
    pub fn signed(&self) -> &SignedStore {
        &self.signed
    }

    /// Keeps what is new of verified records. Returns it, and the hosts of which all certificates became worthless.
    pub fn accept_signed(&mut self, now: Now, records: Vec<SignedRecord>) -> (Vec<SignedRecord>, Vec<HostId>) {
        self.signed.drop_expired(now);
        let (mut new, mut revoked) = (Vec::new(), Vec::new());
        for record in records {
            let Some(revokes) = self.signed.accept(&record) else { continue };
            if revokes {
                revoked.push(HostId::new(record.host));
            }
            new.push(record);
        }
        (new, revoked)
    }

    /// Whether the digest that an asking host sent is another than ours.
    pub(super) fn signed_differ(&self, request: &SyncRequest) -> bool {
        request.signed_digest != self.signed.digest()
    }

    /// Takes out of `gossip` what revoked hosts said, and what is signed: that comes another way, verified.
    pub fn refuse_revoked(&self, gossip: &mut Gossip) {
        gossip.signed.clear();
        let good = |host: u32| !self.signed.is_revoked(HostId::new(host));
        gossip.hosts.retain(|record| good(record.host));
        gossip.events.retain(|record| good(record.origin));
        gossip.accusations.retain(|record| good(record.accuser));
    }

    /// What a revoked host said against others does not count, nor what was said against it.
    pub fn forget_accusations(&mut self, host: HostId) {
        self.accusations.retain(|(accused, accuser), _| *accused != host && *accuser != host);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ringmesh_proto::{UnixMillis, peer::HostRecord};

    use super::*;

    fn revocation(host: u32, version: u64) -> SignedRecord {
        let body = Bytes::copy_from_slice(&version.to_be_bytes());
        SignedRecord { kind: KIND_REVOCATION, host, version, expires_unix: 100, body, ..SignedRecord::default() }
    }

    #[test]
    fn the_newest_version_wins_and_a_replay_is_no_news() {
        let mut store = Store::default();
        let (new, revoked) =
            store.accept_signed(Now::default(), vec![revocation(2, 2), revocation(2, 1), revocation(2, 2)]);
        assert_eq!((new.len(), revoked), (1, vec![HostId::new(2)]));
        let (new, revoked) = store.accept_signed(Now::default(), vec![revocation(2, 3)]);
        assert_eq!((new.len(), revoked.len()), (1, 0), "signed anew, but no news of the host");
        assert!(store.signed().is_revoked(HostId::new(2)) && !store.signed().is_revoked(HostId::new(3)));
    }

    #[test]
    fn one_certificate_is_not_the_host() {
        let mut store = Store::default();
        let one = SignedRecord { serial: Bytes::from_static(&[7]), ..revocation(2, 1) };
        let (new, revoked) = store.accept_signed(Now::default(), vec![one]);
        assert_eq!((new.len(), revoked.len()), (1, 0));
        assert!(!store.signed().is_revoked(HostId::new(2)));
    }

    #[test]
    fn the_list_is_bounded_and_forgets_what_has_expired() {
        let mut store = Store::default();
        let many = (1..=MAX_SIGNED as u32 + 9).map(|host| revocation(host, 1)).collect();
        assert_eq!(store.accept_signed(Now::default(), many).0.len(), MAX_SIGNED);
        let later = Now { unix: UnixMillis(100_000), ..Now::default() };
        store.accept_signed(later, Vec::new());
        assert_eq!((store.signed().all().len(), store.signed().digest()), (0, 0));
    }

    #[test]
    fn the_digest_tells_lists_apart_and_each_gives_what_the_other_lacks() {
        let (mut one, mut other) = (Store::default(), Store::default());
        one.accept_signed(Now::default(), vec![revocation(2, 2), revocation(3, 1)]);
        other.accept_signed(Now::default(), vec![revocation(2, 1), revocation(4, 1)]);
        assert_ne!(one.signed().digest(), other.signed().digest());
        let beyond: Vec<u32> = one.signed().beyond(&other.signed().all()).iter().map(|record| record.host).collect();
        assert_eq!(beyond, [2, 3]);
        let (ones, others) = (one.signed().all(), other.signed().all());
        one.accept_signed(Now::default(), others);
        other.accept_signed(Now::default(), ones);
        assert_eq!(one.signed().digest(), other.signed().digest());
        assert!(one.signed().beyond(&other.signed().all()).is_empty());
    }

    #[test]
    fn a_revoked_host_is_not_heard() {
        let mut store = Store::default();
        store.accept_signed(Now::default(), vec![revocation(2, 1)]);
        let record = |host| HostRecord { host, ..HostRecord::default() }.into();
        let mut gossip =
            Gossip { hosts: vec![record(2), record(3)], signed: vec![revocation(9, 1)], ..Gossip::default() };
        store.refuse_revoked(&mut gossip);
        assert_eq!((gossip.hosts.len(), gossip.hosts[0].host, gossip.signed.len()), (1, 3, 0));
    }
}
