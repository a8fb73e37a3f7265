//! What a host believes of the cluster's CA: a new CA, the end of an old one, revocations; and what it does not.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use ringmesh_agentd::identity::{
    Facts, Identity, Keyring,
    admission::Authority,
    fingerprint,
    keyring::{ChangeError, Due, Shown},
};
use ringmesh_proto::{HostId, peer::SignedRecord};
use tempfile::TempDir;

use crate::support::{FirstHost, HOUR, now, token};

const YEAR: Duration = Duration::from_secs(365 * 86_400);
const DAY: u64 = 86_400;

/// A member of the first host's cluster, with files of its own.
pub(crate) struct Member {
    directory: TempDir,
    pub(crate) keyring: Arc<Keyring>,
}

impl Member {
    fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn reopen(&self) -> Arc<Keyring> {
        let identity = Identity::load(&self.state_dir()).expect("it was written whole");
        Keyring::open(&identity, &self.state_dir(), YEAR).expect("it was written whole")
    }
}

impl FirstHost {
    pub(crate) fn keyring(&self) -> Arc<Keyring> {
        Keyring::open(&self.identity, &self.state_dir(), YEAR).expect("our own files")
    }
}

/// Joins by files: a copy of the first host's directory with a certificate for a host of its own.
pub(crate) fn member(first: &FirstHost, signer: &Keyring, id: u32) -> Member {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let (from, to) = (first.state_dir().join("identity"), directory.path().join("state/identity"));
    fs::create_dir_all(&to).expect("a directory for the test");
    let host = HostId::new(id);
    let (key, csr) = signer.request().expect("randomness");
    let certificate = signer.sign(&csr, host, "member", now()).expect("it signs");
    let toml = fs::read_to_string(from.join("cluster.toml")).expect("init wrote it");
    let toml = toml.replace(&first.identity.host.to_string(), &host.to_string());
    fs::write(to.join("cluster.toml"), toml).expect("it is ours");
    fs::copy(from.join("ca.pem"), to.join("ca.pem")).expect("it is ours");
    fs::write(to.join("host.pem"), pem(&certificate)).expect("it is ours");
    fs::write(to.join("host.key"), key.serialize_pem()).expect("it is ours");
    fs::set_permissions(to.join("host.key"), fs::Permissions::from_mode(0o600)).expect("it is ours");
    let state_dir = directory.path().join("state");
    let identity = Identity::load(&state_dir).expect("it fits together");
    let keyring = Keyring::open(&identity, &state_dir, YEAR).expect("it fits together");
    Member { directory, keyring }
}

fn pem(der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
}

/// Gets a certificate from `signer` as the keeper does.
pub(crate) fn renew(keyring: &Keyring, signer: &Keyring) -> Result<(), ChangeError> {
    let (key, csr) = keyring.request().expect("randomness");
    let certificate = signer.sign(&csr, keyring.host, "h", now())?;
    keyring.install_certificate(certificate, &key, now())
}

pub(crate) fn accept(keyring: &Keyring, records: &[SignedRecord]) -> (usize, u64, u64) {
    let accepted = keyring.accept(records, now()).expect("the disk works");
    (accepted.new.len(), accepted.refused, accepted.stale)
}

#[test]
fn a_new_certificate_counts_at_once_and_after_a_restart() {
    let first = FirstHost::new("h1");
    let signer = first.keyring();
    let member = member(&first, &signer, 7);
    let before = member.keyring.facts();
    let mut changes = member.keyring.changes();
    renew(&member.keyring, &signer).expect("it signs");
    assert!(changes.has_changed().expect("it lives"));
    changes.mark_unchanged();
    let after = member.keyring.facts();
    assert_ne!(after.serial, before.serial);
    assert_eq!(member.reopen().facts(), after);
    let key = member.state_dir().join("identity/host.key");
    assert_eq!(fs::metadata(&key).expect("it is there").permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(&key).expect("it is text").matches("BEGIN PRIVATE KEY").count(), 1);
}

#[test]
fn a_crash_between_key_and_certificate_leaves_a_host_that_starts() {
    let first = FirstHost::new("h1");
    let signer = first.keyring();
    let member = member(&first, &signer, 7);
    let path = |name: &str| member.state_dir().join("identity").join(name);
    let (old_key, old_pem) =
        (fs::read_to_string(path("host.key")).expect("text"), fs::read(path("host.pem")).expect("it"));
    renew(&member.keyring, &signer).expect("it signs");
    let new_key = fs::read_to_string(path("host.key")).expect("text");
    // After the first of the three writes, and after the second.
    fs::write(path("host.key"), format!("{new_key}{old_key}")).expect("it is ours");
    let after = member.reopen().facts();
    fs::write(path("host.pem"), old_pem).expect("it is ours");
    assert_ne!(member.reopen().facts(), after);
}

#[test]
fn only_a_certificate_for_this_host_and_key_that_is_valid_now_is_installed() {
    let (first, other) = (FirstHost::new("h1"), FirstHost::new("h1"));
    let (signer, stranger) = (first.keyring(), other.keyring());
    let member = member(&first, &signer, 7);
    let ours = &member.keyring;
    let (key, csr) = ours.request().expect("randomness");
    let (other_key, _) = ours.request().expect("randomness");
    let good = signer.sign(&csr, ours.host, "h", now()).expect("it signs");
    let theirs = signer.sign(&csr, HostId::new(8), "h", now()).expect("it signs");
    let foreign = stranger.sign(&csr, ours.host, "h", now()).expect("it signs");
    let before = ours.facts();
    for (certificate, key, now, expected) in [
        (theirs, &key, now(), "another host"),
        (foreign, &key, now(), "another host or cluster"),
        (good.clone(), &other_key, now(), "for another key"),
        (b"x".to_vec(), &key, now(), "another host"),
        // The signing host's clock is two days ahead, or years behind, of ours.
        (good.clone(), &key, now() - 2 * DAY, "clock"),
        (good.clone(), &key, now() + 400 * DAY, "clock"),
    ] {
        let error = ours.install_certificate(certificate, key, now).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(ours.facts(), before);
    // A clock that is some hours behind is no obstacle.
    ours.install_certificate(good, &key, now() - DAY / 2).expect("certificates are backdated");
}

#[test]
fn renewal_is_due_at_two_thirds_of_the_life_or_when_another_ca_signs() {
    let first = FirstHost::new("h1");
    let signer = Keyring::open(&first.identity, &first.state_dir(), HOUR).expect("our own files");
    let member = member(&first, &signer, 7);
    let issued = member.keyring.facts().issued();
    assert_eq!(member.keyring.renewal(0.0), Due::At(issued + 2400));
    assert_eq!(member.keyring.renewal(1.0), Due::At(issued + 2400 - 360));
    let records = signer.rotate(60, now()).expect("it holds the key");
    assert_eq!(accept(&member.keyring, &records), (1, 0, 0));
    assert_eq!(member.keyring.renewal(0.0), Due::Now);
    renew(&member.keyring, &signer).expect("the new CA signs");
    assert!(matches!(member.keyring.renewal(0.0), Due::At(_)));
}

#[test]
fn a_rotation_is_believed_and_survives_restarts_until_the_old_ca_is_retired() {
    let first = FirstHost::new("h1");
    let signer = first.keyring();
    let old = signer.head();
    let member = member(&first, &signer, 7);
    let records = signer.rotate(600, now()).expect("it holds the key");
    assert_ne!(signer.head(), old);
    assert!(signer.is_signer());
    assert_eq!(accept(&member.keyring, &records), (1, 0, 0));
    for keyring in [&member.keyring, &member.reopen()] {
        assert_eq!((keyring.head(), keyring.issuer()), (signer.head(), Some(old)));
        assert_eq!(keyring.authorities().len(), 2);
        assert!(keyring.overlap_until().is_some_and(|until| until >= now() + 590));
    }
    let ca_pem = fs::read_to_string(member.state_dir().join("identity/ca.pem")).expect("text");
    assert_eq!(ca_pem.matches("BEGIN CERTIFICATE").count(), 2, "clients of the API take it from there");
    assert!(matches!(signer.rotate(600, now()), Err(ChangeError::Rotating)));

    renew(&member.keyring, &signer).expect("the new CA signs");
    renew(&signer, &signer).expect("the new CA signs");
    let records = signer.retire(now()).expect("it holds the key");
    assert_eq!(accept(&member.keyring, &records), (1, 0, 0));
    for keyring in [member.reopen(), first_again(&first)] {
        assert_eq!((keyring.authorities().len(), keyring.issuer()), (1, Some(keyring.head())));
        assert_eq!((keyring.trust_version(), keyring.overlap_until()), (2, None));
    }
    assert!(first_again(&first).is_signer() && !member.reopen().is_signer());
    assert!(matches!(signer.retire(now()), Err(ChangeError::NothingToRetire)));
}

fn first_again(first: &FirstHost) -> Arc<Keyring> {
    let identity = Identity::load(&first.state_dir()).expect("it was written whole");
    Keyring::open(&identity, &first.state_dir(), YEAR).expect("it was written whole")
}

#[test]
fn who_missed_the_overlap_believes_the_end_of_it_but_has_no_certificate_that_counts() {
    let first = FirstHost::new("h1");
    let signer = first.keyring();
    let asleep = member(&first, &signer, 7);
    signer.rotate(0, now()).expect("it holds the key");
    let records = signer.retire(now()).expect("it holds the key");
    // The new CA is endorsed by the one that this host knows.
    assert_eq!(accept(&asleep.keyring, &records), (1, 0, 0));
    assert_eq!(asleep.keyring.issuer(), None);
    let error = Identity::load(&asleep.state_dir()).expect_err("its certificate is of a CA that is gone").to_string();
    assert!(error.contains("CA of the cluster was changed") && error.contains("join again"), "{error}");
}

#[test]
fn an_old_ca_may_not_choose_the_next_one() {
    let first = FirstHost::new("h1");
    let thief = first.keyring();
    // A thief copied the key before the rotation.
    let stolen = Keyring::of(&first.identity).expect("our own files");
    let member = member(&first, &thief, 7);
    let good = thief.rotate(600, now()).expect("it holds the key");
    assert_eq!(accept(&member.keyring, &good), (1, 0, 0));
    stolen.rotate(600, now()).expect("it holds the old key");
    stolen.retire(now()).expect("its own");
    let evil = stolen.rotate(600, now()).expect("its own");
    assert!(evil[0].version > good[0].version);
    assert_eq!(accept(&member.keyring, &evil), (0, 1, 0));
    assert_eq!(member.keyring.head(), thief.head());
}

#[test]
fn forged_replayed_and_truncated_records_are_refused_and_counted() {
    let (first, other) = (FirstHost::new("h1"), FirstHost::new("h1"));
    let signer = first.keyring();
    let member = member(&first, &signer, 7);
    let foreign = other.keyring().rotate(60, now()).expect("it holds its key");
    assert_eq!(accept(&member.keyring, &foreign), (0, 1, 0), "another cluster's CA");

    let first_version = signer.rotate(60, now()).expect("it holds the key").remove(0);
    let revocation = signer.revoke(HostId::new(9), Bytes::new(), "h9", now()).expect("it holds the key");
    let cut = |bytes: &Bytes| bytes.slice(..bytes.len() - 1);
    let forged = [
        SignedRecord { signature: cut(&first_version.signature), ..first_version.clone() },
        SignedRecord { body: cut(&first_version.body), ..first_version.clone() },
        SignedRecord { version: 9, ..first_version.clone() },
        SignedRecord { host: 7, ..revocation.clone() },
        SignedRecord { serial: Bytes::from_static(&[1]), ..revocation.clone() },
        SignedRecord { expires_unix: u64::MAX, ..revocation.clone() },
        SignedRecord { version: 2, ..revocation.clone() },
        SignedRecord { signer: Bytes::from_static(&[0; 32]), ..revocation.clone() },
        SignedRecord { kind: 9, ..revocation.clone() },
    ];
    assert_eq!(accept(&member.keyring, &forged), (0, forged.len() as u64, 0));
    assert_eq!((member.keyring.trust_version(), member.keyring.revocations().len()), (0, 0));
    // A revocation that the new CA signed is believed together with the CA, in whatever order they come.
    assert_eq!(accept(&member.keyring, &[revocation.clone(), first_version.clone()]), (2, 0, 0));
    assert_eq!(accept(&member.keyring, &[revocation.clone(), first_version.clone()]), (0, 0, 0), "no news");
    signer.retire(now()).expect("it holds the key");
    assert_eq!(accept(&member.keyring, &signer.records()), (1, 0, 0));
    assert_eq!(accept(&member.keyring, &[first_version]), (0, 0, 1), "a replay does not bring the old CA back");
    assert_eq!(member.keyring.authorities().len(), 1);

    // A long list of bad ones costs no more than some checks.
    let many = vec![SignedRecord { version: 5, ..revocation }; 500];
    assert_eq!(accept(&member.keyring, &many), (0, 500, 0));
}

#[test]
fn a_revocation_outlives_the_ca_that_signed_it_and_a_restart() {
    let first = FirstHost::new("h1");
    let signer = first.keyring();
    let member = member(&first, &signer, 7);
    let host = HostId::new(9);
    let one = signer.revoke(host, Bytes::from_static(&[5]), "h9", now()).expect("it holds the key");
    assert_eq!(accept(&member.keyring, &[one]), (1, 0, 0));
    assert!(!member.keyring.is_revoked(host), "only one certificate");
    let all = signer.revoke(host, Bytes::new(), "h9", now()).expect("it holds the key");
    assert_eq!(accept(&member.keyring, std::slice::from_ref(&all)), (1, 0, 0));
    assert!(member.keyring.is_revoked(host) && member.reopen().is_revoked(host));
    assert_eq!(signer.revoke(host, Bytes::new(), "h9", now()).expect("it is there"), all, "a second time is no news");

    // Signed anew by the new CA: a host that joins when the old one is gone believes it, too.
    signer.rotate(0, now()).expect("it holds the key");
    renew(&signer, &signer).expect("the new CA signs");
    let records = signer.retire(now()).expect("it holds the key");
    assert_eq!(records.len(), 3);
    let late = Keyring::of(&first_identity(&first)).expect("it fits together");
    assert_eq!(accept(&late, &records), (3, 0, 0));
    assert!(late.is_revoked(host));
    assert_eq!(accept(&member.keyring, &records), (3, 0, 0));
    renew(&member.keyring, &signer).expect("the new CA signs");

    let expiry = all.expires_unix;
    assert!(expiry > now() + 365 * DAY);
    member.keyring.forget_expired(expiry - 1).expect("the disk works");
    assert!(member.keyring.is_revoked(host));
    member.keyring.forget_expired(expiry).expect("the disk works");
    assert!(!member.keyring.is_revoked(host) && !member.reopen().is_revoked(host));
    let accepted = member.keyring.accept(&records, expiry).expect("the disk works");
    assert_eq!((accepted.new.len(), accepted.stale), (0, 2), "nor does it come back");
}

fn first_identity(first: &FirstHost) -> Identity {
    let mut identity = Identity::load(&first.state_dir()).expect("it was written whole");
    identity.authorities = first_again(first).authorities();
    identity
}

#[test]
fn a_host_is_given_the_key_and_signs_and_loses_it_with_the_next_rotation() {
    let first = FirstHost::new("h1");
    let signer = first.keyring();
    let second = member(&first, &signer, 7);
    assert!(matches!(second.keyring.rotate(60, now()), Err(ChangeError::NotSigner)));
    assert!(matches!(second.keyring.revoke(HostId::new(9), Bytes::new(), "h9", now()), Err(ChangeError::NotSigner)));
    let other = FirstHost::new("h1");
    let wrong = other.keyring().authority_key().expect("it holds its key");
    assert!(second.keyring.install_authority_key(wrong).is_err(), "the key of another CA");
    assert!(second.keyring.install_authority_key(b"x".to_vec()).is_err());
    second.keyring.install_authority_key(signer.authority_key().expect("it holds it")).expect("the right key");
    assert!(second.keyring.is_signer() && second.reopen().is_signer());
    let path = second.state_dir().join("identity/ca.key");
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
    renew(&second.keyring, &second.keyring).expect("it signs for itself");
    let identity = Identity::load(&second.state_dir()).expect("it was written whole");
    let mut authority = Authority::open(&identity, &second.state_dir()).expect("it holds the key");
    authority.follow(&second.keyring);
    token(&mut authority, ([127, 0, 0, 1], 1).into());

    let records = signer.rotate(0, now()).expect("it holds the key");
    accept(&second.keyring, &records);
    assert!(!second.keyring.is_signer() && !second.reopen().is_signer(), "the old key signs nothing");
    second.keyring.forget_old_key().expect("the disk works");
    assert!(path.exists(), "the overlap is not over");
    renew(&second.keyring, &signer).expect("the new CA signs");
    accept(&second.keyring, &signer.retire(now()).expect("it holds the key"));
    second.keyring.forget_old_key().expect("the disk works");
    assert!(!path.exists());
    assert!(!second.reopen().is_signer());
}

#[test]
fn one_does_not_revoke_oneself_but_an_old_certificate_of_oneself() {
    let first = FirstHost::new("h1");
    let signer = first.keyring();
    assert!(matches!(signer.revoke(signer.host, Bytes::new(), "h1", now()), Err(ChangeError::Self_)));
    let old = signer.certificate();
    renew(&signer, &signer).expect("it signs for itself");
    let serial = Facts::of(&old).expect("our own").serial;
    signer.revoke(signer.host, serial, "h1", now()).expect("it holds the key");
    let is_revoked = |certificate| signer.is_shown_revoked(&Shown::of(certificate).expect("a host's"));
    assert!(is_revoked(&old) && !is_revoked(&signer.certificate()));
}

#[test]
fn the_operators_certificate_follows_the_ca_and_keeps_its_key() {
    let first = FirstHost::new("h1");
    let signer = first.keyring();
    let directory = first.state_dir().join("identity");
    let read = |name: &str| fs::read(directory.join(name)).expect("init wrote it");
    let (key, before) = (read("operator.key"), read("operator.pem"));
    assert!(!signer.renew_operator(now()).expect("the disk works"), "it is fresh");
    signer.rotate(60, now()).expect("it holds the key");
    assert!(signer.renew_operator(now()).expect("the disk works"));
    assert_ne!(read("operator.pem"), before);
    assert_eq!(read("operator.key"), key);
    assert!(!signer.renew_operator(now()).expect("the disk works"), "once is enough");
    assert!(signer.renew_operator(now() + 300 * DAY).expect("the disk works"), "two thirds of its life are over");
}

#[test]
fn an_expired_certificate_and_a_wrong_clock_are_told_clearly() {
    let first = FirstHost::new("h1");
    let keyring = first.keyring();
    assert_eq!(keyring.problem(now()), None);
    let expired = keyring.problem(now() + 366 * DAY).expect("it has ended");
    assert!(expired.contains("expired at") && expired.contains("ringmesh join"), "{expired}");
    let early = keyring.problem(now() - 2 * DAY).expect("it does not hold yet");
    assert!(early.contains("clock is behind"), "{early}");
}

#[test]
fn damaged_files_of_the_ca_are_named() {
    let first = FirstHost::new("h1");
    let keyring = first.keyring();
    keyring.rotate(60, now()).expect("it holds the key");
    keyring.revoke(HostId::new(9), Bytes::new(), "h9", now()).expect("it holds the key");
    for name in ["trust.bin", "revoked.bin"] {
        let path = first.state_dir().join("identity").join(name);
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
        let whole = fs::read(&path).expect("it is there");
        let mut bent = whole.clone();
        let middle = bent.len() / 2;
        bent[middle] ^= 1;
        for bad in [&whole[..whole.len() - 1], &bent[..]] {
            fs::write(&path, bad).expect("it is ours");
            let opened = Identity::load(&first.state_dir())
                .and_then(|identity| Keyring::open(&identity, &first.state_dir(), YEAR).map(drop));
            let error = opened.expect_err("it is damaged").to_string();
            assert!(error.contains(name) && !error.contains('\n'), "{error}");
        }
        fs::write(&path, whole).expect("it is ours");
    }
    assert_eq!(fingerprint(&first_again(&first).authorities()[1]), keyring.head());
}
