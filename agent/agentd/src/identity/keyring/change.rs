//! What changes the keyring from within: a new certificate, another CA, its key, a revocation.
//!
//! Each is on disk before it counts; a crash between two files leaves what [`Identity::load`](super::Identity::load) takes.

use std::sync::Arc;

use bytes::Bytes;
use rcgen::KeyPair;
use ringmesh_proto::{
    HostId,
    peer::{Revocation, SignedRecord},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

use super::{Held, Keyring, MAX_REVOCATIONS, lock};
use crate::identity::{
    Access, IdentityError, PeerIdentity, Role,
    cert::{self, Ca, Facts, fingerprint},
    files,
    state::{self, pem, read_certificates, read_keys_if_there},
    trust,
};

/// A revocation is kept for longer than any certificate lives that was signed before all signers knew of it.
const KEPT_BEYOND: u64 = 30 * 86_400;

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// This host does not hold the key of the CA that signs.
    #[error("this host does not hold the key of the cluster's CA")]
    NotSigner,
    /// Rotated already.
    #[error("the CA is being changed already; `ringmesh ca retire` ends that, then it can be changed again")]
    Rotating,
    /// Nothing to retire.
    #[error("there is no older CA; `ringmesh ca rotate` makes a new one")]
    NothingToRetire,
    /// One does not throw oneself out.
    #[error("that is the host that answers; ask another one that holds the CA's key, or use `ringmesh leave`")]
    Self_,
    /// The list is full.
    #[error("there are {MAX_REVOCATIONS} revocations; they expire with the certificates")]
    TooMany,
    /// What a signer sent is not for us.
    #[error("the certificate that came {0}")]
    Unusable(&'static str),
    /// Disk, keys, randomness.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl From<rcgen::Error> for ChangeError {
    fn from(error: rcgen::Error) -> Self {
        Self::Identity(error.into())
    }
}

/// When this host's certificate is to be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// At this Unix second.
    At(u64),
    /// Now: the CA that signed it does not sign any more.
    Now,
}

impl Keyring {
    /// When to renew: at two thirds of the certificate's life, less up to a tenth of it by `jitter` (0 to 1), or at once
    /// when another CA signs.
    pub fn renewal(&self, jitter: f64) -> Due {
        if self.issuer() != Some(self.head()) {
            return Due::Now;
        }
        let facts = self.facts();
        let life = facts.not_after.saturating_sub(facts.issued());
        let early = (life as f64 / 10.0 * jitter.clamp(0.0, 1.0)) as u64;
        Due::At(facts.issued().saturating_add(life / 3 * 2).saturating_sub(early))
    }

    /// A key and a request for a certificate to it.
    pub fn request(&self) -> Result<(KeyPair, Vec<u8>), IdentityError> {
        let (key, csr) = cert::request()?;
        Ok((key, csr.to_vec()))
    }

    /// Signs for a host that has proved who it is, by its connection.
    pub fn sign(&self, csr: &[u8], host: HostId, name: &str, now_unix: u64) -> Result<Vec<u8>, ChangeError> {
        let ca = self.held().signer.clone().ok_or(ChangeError::NotSigner)?;
        let key = cert::requested_key(csr).map_err(|_| ChangeError::Unusable("is asked for with a bad request"))?;
        let identity = PeerIdentity { cluster: self.cluster, role: Role::Host(host) };
        Ok(ca.sign(&key, &identity, name, now_unix, self.lifetime())?.to_vec())
    }

    /// A certificate for a user's key, that of a signing request.
    ///
    /// # Errors
    /// If this host does not hold the CA's key, or the request is none.
    pub fn sign_user(
        &self,
        csr: &[u8],
        name: &str,
        access: Access,
        lifetime: std::time::Duration,
        now_unix: u64,
    ) -> Result<Vec<u8>, ChangeError> {
        let ca = self.held().signer.clone().ok_or(ChangeError::NotSigner)?;
        let key = cert::requested_key(csr).map_err(|_| ChangeError::Unusable("is asked for with a bad request"))?;
        let role = Role::User { name: name.to_owned(), access };
        Ok(ca.sign(&key, &PeerIdentity { cluster: self.cluster, role }, name, now_unix, lifetime)?.to_vec())
    }

    /// Uses a new certificate from now on, if it is one for this host and this key, signed by a CA that is trusted, and
    /// valid by this host's clock. Waits for the disk.
    pub fn install_certificate(&self, certificate: Vec<u8>, key: &KeyPair, now_unix: u64) -> Result<(), ChangeError> {
        let _writing = lock(&self.writing);
        let mut held = Held::clone(&self.held());
        let certificate = CertificateDer::from(certificate);
        self.check_own(&held, &certificate, key, now_unix)?;
        if let Some(directory) = &self.directory {
            let (path, new) = (directory.join("host.key"), key.serialize_pem());
            let old = KeyPair::try_from(held.key.secret_der())?.serialize_pem();
            // Whichever of the two certificates is there after a crash, its key is.
            files::write(&path, format!("{new}{old}").as_bytes(), files::SECRET)?;
            files::write(&directory.join("host.pem"), pem(&certificate).as_bytes(), files::PUBLIC)?;
            files::write(&path, new.as_bytes(), files::SECRET)?;
        }
        held.chain = vec![certificate];
        held.key = Arc::new(PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())));
        self.put(held)?;
        *lock(&self.trouble) = None;
        Ok(())
    }

    fn check_own(
        &self,
        held: &Held,
        certificate: &CertificateDer<'_>,
        key: &KeyPair,
        now_unix: u64,
    ) -> Result<(), ChangeError> {
        let role = Role::Host(self.host);
        let ours = PeerIdentity { cluster: self.cluster, role: role.clone() };
        if PeerIdentity::from_certificate(certificate).ok() != Some(ours) {
            return Err(ChangeError::Unusable("names another host or cluster"));
        }
        if !cert::is_key_of(key, certificate) {
            return Err(ChangeError::Unusable("is for another key"));
        }
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now_unix));
        match cert::verify(certificate, &held.trust.authorities, &role, now) {
            Ok(()) => Ok(()),
            Err(webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. }) => {
                Err(ChangeError::Unusable("is not valid now: the clock of this host or of the signing one is wrong"))
            }
            Err(_) => Err(ChangeError::Unusable("was not signed by a CA of the cluster")),
        }
    }

    /// Makes a new CA, which signs from now on; those before are trusted for `overlap_seconds` more, at least. Returns what
    /// all hosts are to know. Waits for the disk.
    pub fn rotate(&self, overlap_seconds: u64, now_unix: u64) -> Result<Vec<SignedRecord>, ChangeError> {
        let _writing = lock(&self.writing);
        let mut held = Held::clone(&self.held());
        let old = held.signer.clone().ok_or(ChangeError::NotSigner)?;
        if held.trust.authorities.len() > 1 {
            return Err(ChangeError::Rotating);
        }
        let new = Ca::successor(self.cluster, held.trust.version + 1, now_unix)?;
        let overlap_until = now_unix.saturating_add(overlap_seconds);
        held.trust = held.trust.rotate(&old, &new, self.cluster, now_unix, overlap_until)?;
        held.sign_all_again(&new, self.cluster)?;
        self.write_authority_key(&[&new, &old])?;
        let key = new.key_pem();
        held.signer = Some(Arc::new(new));
        self.put(held)?;
        if let Some(directory) = &self.directory {
            files::write(&directory.join("ca.key"), key.as_bytes(), files::SECRET)?;
        }
        tracing::info!(head = trust::hex(&self.head()), "a new CA signs");
        Ok(self.records())
    }

    /// Ends trust in all CAs but the one that signs. `at` stands in the record; two hosts that retire at the end of the
    /// overlap say the same. Waits for the disk.
    pub fn retire(&self, at: u64) -> Result<Vec<SignedRecord>, ChangeError> {
        let _writing = lock(&self.writing);
        let mut held = Held::clone(&self.held());
        let head = held.signer.clone().ok_or(ChangeError::NotSigner)?;
        if held.trust.authorities.len() == 1 {
            return Err(ChangeError::NothingToRetire);
        }
        held.sign_all_again(&head, self.cluster)?;
        held.trust = held.trust.retire(&head, self.cluster, at)?;
        self.put(held)?;
        tracing::info!(head = trust::hex(&self.head()), "only this CA is trusted now");
        Ok(self.records())
    }

    /// Signs what an older CA has revoked with the one that signs now: others will not know the older one any more.
    /// Returns what is new. Waits for the disk.
    pub fn sign_revocations_again(&self) -> Result<Vec<SignedRecord>, ChangeError> {
        let _writing = lock(&self.writing);
        let mut held = Held::clone(&self.held());
        let Some(head) = held.signer.clone() else { return Ok(Vec::new()) };
        let new = held.sign_all_again(&head, self.cluster)?;
        if !new.is_empty() {
            self.put(held)?;
        }
        Ok(new)
    }

    /// Makes certificates of a host worthless: the one with `serial`, or, if that is empty, all. Returns what all hosts are
    /// to know. Waits for the disk.
    pub fn revoke(&self, host: HostId, serial: Bytes, name: &str, now_unix: u64) -> Result<SignedRecord, ChangeError> {
        let _writing = lock(&self.writing);
        let mut held = Held::clone(&self.held());
        let head = held.signer.clone().ok_or(ChangeError::NotSigner)?;
        if host == self.host && serial.is_empty() {
            return Err(ChangeError::Self_);
        }
        let subject = (host, serial.clone());
        if let Some(before) = held.revoked.get(&subject) {
            return Ok(before.record.clone());
        }
        if held.revoked.len() >= MAX_REVOCATIONS {
            return Err(ChangeError::TooMany);
        }
        // Another signer may have said otherwise how long it signs for.
        let longest = cert::LEAF_LIFETIME.max(self.lifetime()).as_secs();
        let expires_unix = now_unix.saturating_add(longest).saturating_add(KEPT_BEYOND);
        let subject_record =
            SignedRecord { host: host.raw(), serial, version: 1, expires_unix, ..SignedRecord::default() };
        let says = Revocation { revoked_unix: now_unix, name: name.to_owned() };
        let record = trust::revocation(&head, self.cluster, subject_record, &says)?;
        held.revoked.insert(subject, super::Revoked { record: record.clone(), says });
        self.put(held)?;
        tracing::warn!(%host, name, "revoked");
        Ok(record)
    }

    /// Forgets revocations of certificates that have ended by now. Waits for the disk.
    pub fn forget_expired(&self, now_unix: u64) -> Result<(), ChangeError> {
        let _writing = lock(&self.writing);
        let mut held = Held::clone(&self.held());
        let before = held.revoked.len();
        held.revoked.retain(|_, revoked| revoked.record.expires_unix > now_unix);
        if held.revoked.len() == before { Ok(()) } else { Ok(self.put(held)?) }
    }

    /// The key of the CA that signs, to be given to a host that an operator has named. PKCS #8.
    pub fn authority_key(&self) -> Result<Vec<u8>, ChangeError> {
        Ok(self.held().signer.as_ref().ok_or(ChangeError::NotSigner)?.key_der())
    }

    /// Takes the key of the CA that signs: this host signs, too, from now on. Waits for the disk.
    pub fn install_authority_key(&self, der: Vec<u8>) -> Result<(), ChangeError> {
        let _writing = lock(&self.writing);
        let mut held = Held::clone(&self.held());
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(der))
            .map_err(|_| ChangeError::Unusable("is no key in PKCS #8"))?;
        if !cert::is_key_of_ca(&key, held.trust.head()) {
            return Err(ChangeError::Unusable("is not the key of the CA that signs"));
        }
        let ca = Ca::new(held.trust.head().clone(), key)?;
        self.write_authority_key(&[&ca])?;
        held.signer = Some(Arc::new(ca));
        self.put(held)?;
        tracing::warn!("this host was given the CA's key: it signs for others from now on");
        Ok(())
    }

    /// Renews the certificate of the operator that `init` made, where that is kept and another CA signs by now or two
    /// thirds of its life are over. Its key stays, so that copies of it need only the new certificate. Waits for the disk.
    pub fn renew_operator(&self, now_unix: u64) -> Result<bool, ChangeError> {
        let _writing = lock(&self.writing);
        let held = self.held();
        let (Some(directory), Some(ca)) = (&self.directory, &held.signer) else { return Ok(false) };
        let path = directory.join("operator.pem");
        if !path.exists() || !directory.join("operator.key").exists() {
            return Ok(false);
        }
        let old = read_certificates(&path)?.swap_remove(0);
        let key = KeyPair::try_from(&state::read_key(&directory.join("operator.key"))?)?;
        let Ok(identity) = PeerIdentity::from_certificate(&old) else { return Ok(false) };
        let Role::User { name, .. } = identity.role.clone() else { return Ok(false) };
        let issued_here = cert::issuer(&old, std::slice::from_ref(held.trust.head())).is_some();
        let fresh = Facts::of(&old).is_some_and(|facts| {
            let life = facts.not_after.saturating_sub(facts.issued());
            now_unix < facts.issued().saturating_add(life / 3 * 2)
        });
        if (issued_here && fresh) || identity.cluster != self.cluster || !cert::is_key_of(&key, &old) {
            return Ok(false);
        }
        let new = ca.sign(&key, &identity, &name, now_unix, cert::LEAF_LIFETIME)?;
        files::write(&path, pem(&new).as_bytes(), files::PUBLIC)?;
        Ok(true)
    }

    fn write_authority_key(&self, keys: &[&Ca]) -> Result<(), IdentityError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let pem: String = keys.iter().map(|ca| ca.key_pem()).collect();
        files::write(&directory.join("ca.key"), pem.as_bytes(), files::SECRET)
    }

    /// Removes the key of a CA that does not sign any more from the disk. Waits for the disk.
    pub fn forget_old_key(&self) -> Result<(), ChangeError> {
        let _writing = lock(&self.writing);
        let Some(directory) = self.directory.as_ref().filter(|_| !self.is_signer() && self.overlap_until().is_none())
        else {
            return Ok(());
        };
        let path = directory.join("ca.key");
        let (Some(keys), head) = (read_keys_if_there(&path)?, self.head()) else { return Ok(()) };
        let authorities = self.authorities();
        let newest = authorities.iter().find(|authority| fingerprint(authority) == head);
        let is_current = |key: &PrivatePkcs8KeyDer<'_>| {
            newest.is_some_and(|ca| KeyPair::try_from(key).is_ok_and(|key| cert::is_key_of_ca(&key, ca)))
        };
        if self.trust_version() > 0 && !keys.iter().any(is_current) {
            std::fs::remove_file(&path).map_err(|source| IdentityError::Io {
                action: "remove",
                path: path.clone(),
                source,
            })?;
            tracing::info!("the key of a CA that is not trusted any more was removed");
        }
        Ok(())
    }
}

impl Held {
    /// Signs with `head` what another CA has signed. Returns what is new.
    fn sign_all_again(
        &mut self,
        head: &Ca,
        cluster: ringmesh_proto::ClusterId,
    ) -> Result<Vec<SignedRecord>, IdentityError> {
        let signer = fingerprint(&head.certificate);
        let mut new = Vec::new();
        for revoked in self.revoked.values_mut().filter(|revoked| revoked.record.signer[..] != signer[..]) {
            revoked.record = trust::sign_again(head, cluster, &revoked.record)?;
            new.push(revoked.record.clone());
        }
        Ok(new)
    }
}
