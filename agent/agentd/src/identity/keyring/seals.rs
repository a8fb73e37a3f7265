//! The seals of hosts: signatures by the keys of their certificates.
//!
//! It owns which certificates were checked, so that a chain is looked at once, and no more of it than the node keeps anyway.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use ringmesh_node::Seals;
use ringmesh_proto::HostId;
use rustls::{
    SignatureScheme,
    pki_types::{CertificateDer, UnixTime},
    sign::CertifiedKey,
};

use super::{Held, Keyring, Shown};
use crate::{
    clock,
    identity::{
        PeerIdentity, Role,
        cert::{self, Facts},
    },
};

/// Hosts of which a checked certificate is remembered: those of a zone, and as many that are gone.
const MAX_KNOWN: usize = 1024;

/// What [`ringmesh_node::Node`] is given of a keyring.
pub struct HostSeals {
    keyring: Arc<Keyring>,
    key: Arc<CertifiedKey>,
    own: Bytes,
    /// Of which the chain was checked, with the CAs and revocations of this revision.
    known: BTreeMap<HostId, Known>,
    revision: u64,
}

struct Known {
    certificate: Bytes,
    not_after: u64,
}

impl HostSeals {
    /// Seals with the key that the keyring has, and believes whom it trusts, from time to time.
    pub fn new(keyring: &Arc<Keyring>) -> Self {
        let held = keyring.held();
        let (key, own) = (Arc::clone(&held.tls.as_client), Bytes::copy_from_slice(&held.chain[0]));
        Self { keyring: Arc::clone(keyring), key, own, known: BTreeMap::new(), revision: keyring.revision() }
    }

    /// Whether this is a certificate of that host, of a CA that is trusted, not revoked, and valid now.
    fn trusts(&mut self, host: HostId, certificate: &Bytes) -> bool {
        // Read first: what changes after that is seen next time.
        let revision = self.keyring.revision();
        if std::mem::replace(&mut self.revision, revision) != revision {
            self.known.clear();
        }
        let now_unix = clock::unix().0 / 1000;
        if let Some(known) = self.known.get(&host).filter(|known| known.certificate == *certificate) {
            return now_unix < known.not_after;
        }
        let Some(not_after) = self.keyring.check(host, certificate, now_unix) else { return false };
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(&host) {
            self.known.pop_first();
        }
        self.known.insert(host, Known { certificate: certificate.clone(), not_after });
        true
    }
}

impl Seals for HostSeals {
    fn certificate(&mut self) -> Bytes {
        let held = self.keyring.held();
        if self.own[..] != held.chain[0][..] {
            self.key = Arc::clone(&held.tls.as_client);
            self.own = Bytes::copy_from_slice(&held.chain[0]);
        }
        self.own.clone()
    }

    fn seal(&mut self, bytes: &[u8]) -> Bytes {
        let signer = self.key.key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]);
        match signer.map(|signer| signer.sign(bytes)) {
            Some(Ok(seal)) => seal.into(),
            Some(Err(error)) => {
                tracing::error!(%error, "what this host says could not be sealed; others will not believe it");
                Bytes::new()
            }
            None => {
                tracing::error!("this host's key cannot seal; others will not believe what it says");
                Bytes::new()
            }
        }
    }

    fn verify(&mut self, host: HostId, certificate: &Bytes, bytes: &[u8], seal: &[u8]) -> bool {
        self.trusts(host, certificate) && cert::is_signed(&CertificateDer::from(&certificate[..]), bytes, seal)
    }
}

impl Keyring {
    /// When this certificate of a host ends, if it counts.
    fn check(&self, host: HostId, certificate: &[u8], now_unix: u64) -> Option<u64> {
        let certificate = CertificateDer::from(certificate);
        let role = Role::Host(host);
        let named = PeerIdentity::from_certificate(&certificate).ok()?;
        let held = self.held();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now_unix));
        let good = named == PeerIdentity { cluster: self.cluster, role: role.clone() }
            && cert::verify(&certificate, &held.trust.authorities, &role, now).is_ok()
            && Shown::of(&certificate).is_some_and(|shown| !held.is_revoked(&shown));
        good.then(|| Facts::of(&certificate).map(|facts| facts.not_after)).flatten()
    }
}

impl Held {
    fn is_revoked(&self, shown: &Shown) -> bool {
        [Bytes::new(), shown.serial.clone()].into_iter().any(|serial| self.revoked.contains_key(&(shown.host, serial)))
    }
}
