//! The files of an identity: PEM and `cluster.toml`.
//!
//! It owns their formats and knows nothing of whether what they say fits together: [`super::Identity::load`] checks that.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use rcgen::KeyPair;
use ringmesh_node::Chords;
use ringmesh_proto::{ClusterId, HostId};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};

use super::{IdentityError, files};

/// The most CA certificates that a cluster has at once: two while one replaces the other, and some to spare.
pub(super) const MAX_AUTHORITIES: usize = ringmesh_proto::signed::MAX_AUTHORITIES;

/// Where an identity is kept.
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("identity")
}

/// Reads the certificates in a PEM file, 1 to 8.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let pem = files::read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .take(MAX_AUTHORITIES + 1)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| IdentityError::damaged(path, "is not PEM, or was cut off"))?;
    if certificates.is_empty() || certificates.len() > MAX_AUTHORITIES {
        return Err(IdentityError::damaged(path, format!("does not hold 1 to {MAX_AUTHORITIES} certificates")));
    }
    Ok(certificates)
}

/// Reads the private key in a PEM file (PKCS #8), which must be closed to group and others.
pub fn read_key(path: &Path) -> Result<PrivatePkcs8KeyDer<'static>, IdentityError> {
    parse_key(path, &files::read_secret(path)?)
}

/// Reads all private keys in a PEM file, at least one: while a key is replaced, the next stands before the last.
pub(super) fn read_keys(path: &Path) -> Result<Vec<PrivatePkcs8KeyDer<'static>>, IdentityError> {
    parse_keys(path, &files::read_secret(path)?)
}

/// Like [`read_keys`], but `None` if there is no such file.
pub(super) fn read_keys_if_there(path: &Path) -> Result<Option<Vec<PrivatePkcs8KeyDer<'static>>>, IdentityError> {
    files::read_secret_if_there(path)?.map(|pem| parse_keys(path, &pem)).transpose()
}

fn parse_keys(path: &Path, pem: &[u8]) -> Result<Vec<PrivatePkcs8KeyDer<'static>>, IdentityError> {
    let damaged = || IdentityError::damaged(path, "holds no whole private key in PEM (PKCS #8)");
    let keys = PrivatePkcs8KeyDer::pem_slice_iter(pem).take(MAX_AUTHORITIES).collect::<Result<Vec<_>, _>>();
    let keys = keys.map_err(|_| damaged())?;
    if keys.is_empty() || keys.iter().any(|key| KeyPair::try_from(key).is_err()) {
        return Err(damaged());
    }
    Ok(keys)
}

fn parse_key(path: &Path, pem: &[u8]) -> Result<PrivatePkcs8KeyDer<'static>, IdentityError> {
    let damaged = || IdentityError::damaged(path, "holds no whole private key in PEM (PKCS #8)");
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| damaged())?;
    KeyPair::try_from(&key).map_err(|_| damaged())?;
    Ok(key)
}

/// What `cluster.toml` says.
pub(super) struct ClusterFile {
    pub(super) cluster: ClusterId,
    pub(super) host: HostId,
    pub(super) name: String,
    pub(super) ring_seed: u64,
    pub(super) chords: Chords,
}

/// All values are text, the numbers in hexadecimal: TOML's integers have a sign.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterToml {
    cluster_id: String,
    host_id: String,
    name: String,
    ring_seed: String,
    /// "auto", "none" or KIND:COUNT. Files of the first versions have none.
    #[serde(default = "auto")]
    chords: String,
}

fn auto() -> String {
    Chords::Auto.to_string()
}

impl ClusterFile {
    pub(super) fn read(path: &Path) -> Result<Self, IdentityError> {
        let bytes = files::read(path)?;
        let text = str::from_utf8(&bytes).map_err(|_| IdentityError::damaged(path, "is not text"))?;
        let toml: ClusterToml = toml::from_str(text).map_err(|error| {
            IdentityError::damaged(path, format!("is malformed ({})", error.message().replace('\n', " ")))
        })?;
        let bad = |key: &str| IdentityError::damaged(path, format!("has a malformed {key}"));
        Ok(Self {
            cluster: toml.cluster_id.parse().map_err(|_| bad("cluster_id"))?,
            host: toml.host_id.parse().map_err(|_| bad("host_id"))?,
            name: toml.name,
            ring_seed: u64::from_str_radix(&toml.ring_seed, 16).map_err(|_| bad("ring_seed"))?,
            chords: toml.chords.parse().map_err(|_| bad("chords"))?,
        })
    }

    fn to_toml(&self) -> String {
        let toml = ClusterToml {
            cluster_id: self.cluster.to_string(),
            host_id: self.host.to_string(),
            name: self.name.clone(),
            ring_seed: format!("{:016x}", self.ring_seed),
            chords: self.chords.to_string(),
        };
        toml::to_string(&toml).expect("every field is text")
    }
}

/// A new identity, complete, on its way to the disk.
pub(super) struct NewIdentity<'a> {
    pub(super) cluster: ClusterFile,
    pub(super) certificate: &'a CertificateDer<'static>,
    pub(super) key: &'a KeyPair,
    pub(super) authorities: &'a [CertificateDer<'static>],
    /// What only the first host has: the CA's key, and the operator's certificate and key.
    pub(super) first: Option<FirstHost<'a>>,
}

/// What only the first host has.
pub(super) struct FirstHost<'a> {
    pub(super) authority_key_pem: String,
    pub(super) operator: &'a CertificateDer<'static>,
    pub(super) operator_key: &'a KeyPair,
}

impl NewIdentity<'_> {
    /// Writes all of it or nothing; never over one that is there.
    pub(super) fn write(&self, state_dir: &Path) -> Result<(), IdentityError> {
        let public = |name, text: String| (name, text, files::PUBLIC);
        let secret = |name, text: String| (name, text, files::SECRET);
        let mut all = vec![
            public("cluster.toml", self.cluster.to_toml()),
            public("ca.pem", self.authorities.iter().map(pem).collect()),
            public("host.pem", pem(self.certificate)),
            secret("host.key", self.key.serialize_pem()),
        ];
        if let Some(first) = &self.first {
            all.push(secret("ca.key", first.authority_key_pem.clone()));
            all.push(public("operator.pem", pem(first.operator)));
            all.push(secret("operator.key", first.operator_key.serialize_pem()));
        }
        let all: Vec<_> = all.iter().map(|(name, text, mode)| (*name, text.as_bytes(), *mode)).collect();
        files::make_directory(state_dir)?;
        files::write_directory(&directory(state_dir), &all)
    }
}

/// A certificate in PEM: RFC 7468 §5.
pub(super) fn pem(certificate: &CertificateDer<'_>) -> String {
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    // 48 bytes make a line of 64 digits.
    for line in certificate.chunks(48) {
        BASE64.encode_string(line, &mut pem);
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}
