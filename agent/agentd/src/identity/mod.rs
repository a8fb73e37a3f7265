//! Who this host is: the cluster's CA, the host's certificate and key, join tokens, and TLS made of them.
//!
//! It owns `<state_dir>/identity` and `<state_dir>/tokens.json` and knows nothing of gossip, of who is alive, or of how
//! connections are kept. The decision behind it is docs/decisions/0002-identity.md.
//!
//! ```text
//! <state_dir>/identity/ca.pem         one or more CA certificates of the cluster
//!                     /ca.key         only on hosts that may admit others
//!                     /host.pem       this host's certificate
//!                     /host.key
//!                     /cluster.toml   cluster_id, host_id, name, ring_seed, chords
//!                     /operator.pem   on the first host: a client of the API over TCP
//!                     /operator.key
//!                     /trust.bin      what the CA last said of the cluster's CAs, once they were changed
//!                     /revoked.bin    whose certificates the CA has revoked
//! <state_dir>/tokens.json             on hosts with ca.key: what is known of join tokens
//! <state_dir>/peers.json              members to contact first
//! ```

pub mod admission;
pub mod api;
mod cert;
pub mod commands;
mod error;
mod files;
mod host_config;
mod join;
pub mod keyring;
pub mod known_zones;
mod name;
pub mod seeds;
mod state;
pub mod tls;
mod tokens;
mod trust;
mod user;
mod verifier;

use std::{fmt, path::Path};

use rcgen::KeyPair;
use ringmesh_node::Chords;
use ringmesh_proto::{ClusterId, HostId};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

use self::state::{ClusterFile, read_keys, read_keys_if_there};
pub use self::{
    cert::{Facts, fingerprint},
    error::IdentityError,
    join::JoinError,
    keyring::Keyring,
    name::{Access, PeerError, PeerIdentity, Role, server_name},
    state::{directory, read_certificates, read_key},
    user::{UserFiles, UserRequest},
};

/// Who this host is.
pub struct Identity {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Its id there.
    pub host: HostId,
    /// Its name there.
    pub name: String,
    /// Orders the rings.
    pub ring_seed: u64,
    /// The cluster's rule of chords.
    pub chords: Chords,
    /// Its certificate, without the CA's.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key to it.
    pub key: PrivateKeyDer<'static>,
    /// The cluster's CAs, at least one.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The private key of one of them, if this host may admit others.
    pub authority_key: Option<PrivatePkcs8KeyDer<'static>>,
}

impl Identity {
    /// Reads what `ringmesh init` or `ringmesh join` wrote and checks that it fits together and is valid now.
    ///
    /// Errors name the file and the cure. A key that group or others may read is refused.
    pub fn load(state_dir: &Path) -> Result<Self, IdentityError> {
        let directory = directory(state_dir);
        // One that this user may not look at is there all the same: the first file says so.
        if std::fs::metadata(&directory).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return Err(IdentityError::Missing { path: directory });
        }
        let file = ClusterFile::read(&directory.join("cluster.toml"))?;
        let mut authorities = read_certificates(&directory.join("ca.pem"))?;
        // What the cluster's CA said last counts; ca.pem is written after it, for people and clients.
        let said = trust::read_authorities(&directory, file.cluster)?;
        let rotated = said.is_some();
        authorities = said.unwrap_or(authorities);
        let chain = read_certificates(&directory.join("host.pem"))?;
        let key = own_key(&directory, &chain[0])?;
        let mut identity = Self {
            cluster: file.cluster,
            host: file.host,
            name: file.name,
            ring_seed: file.ring_seed,
            chords: file.chords,
            key: key.into(),
            authority_key: None,
            chain,
            authorities,
        };
        identity.check(&directory, rotated)?;
        identity.authority_key = authority_key(&directory, &identity.authorities, rotated)?;
        Ok(identity)
    }

    /// Whether this host may admit others.
    pub fn is_authority(&self) -> bool {
        self.authority_key.is_some()
    }

    fn check(&self, directory: &Path, rotated: bool) -> Result<(), IdentityError> {
        let role = Role::Host(self.host);
        let leaf = &self.chain[0];
        let host_pem = |message: String| IdentityError::damaged(directory.join("host.pem"), message);
        let named = PeerIdentity::from_certificate(leaf).map_err(|_| host_pem("is no host's certificate".into()))?;
        let ours = PeerIdentity { cluster: self.cluster, role: role.clone() };
        if named != ours {
            let (named, ours) = (named.dns_name(), ours.dns_name());
            return Err(host_pem(format!("is for {named}, cluster.toml says {ours}")));
        }
        cert::verify(leaf, &self.authorities, &role, UnixTime::now()).map_err(|error| {
            if matches!(error, webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. }) {
                let text = Facts::of(leaf).map_or_else(String::new, |facts| {
                    let (from, to) = (admission::utc(facts.not_before), admission::utc(facts.not_after));
                    format!(
                        " (it holds from {from} to {to}, and it is {} here)",
                        admission::utc(UnixTime::now().as_secs())
                    )
                });
                return host_pem(format!("is not valid now: it has expired, or this host's clock is wrong{text}"));
            }
            if rotated {
                return host_pem(
                    "was not signed by a CA in ca.pem: the CA of the cluster was changed while this host was away"
                        .into(),
                );
            }
            host_pem(format!("was not signed by a CA in ca.pem ({error})"))
        })?;
        if !KeyPair::try_from(self.key.secret_der()).is_ok_and(|key| cert::is_key_of(&key, leaf)) {
            return Err(IdentityError::damaged(directory.join("host.key"), "is not the key of host.pem"));
        }
        Ok(())
    }

    /// The CA that this host may sign with.
    fn authority(&self) -> Result<Option<cert::Ca>, IdentityError> {
        let Some(key) = &self.authority_key else { return Ok(None) };
        let key = KeyPair::try_from(key)?;
        let Some(certificate) = self.authorities.iter().find(|authority| cert::is_key_of_ca(&key, authority)) else {
            return Ok(None);
        };
        Ok(Some(cert::Ca::new(certificate.clone(), key)?))
    }
}

/// The key of this certificate, or else the first: that it does not fit is then told where the rest is checked.
fn own_key(directory: &Path, leaf: &CertificateDer<'_>) -> Result<PrivatePkcs8KeyDer<'static>, IdentityError> {
    let path = directory.join("host.key");
    let mut keys = read_keys(&path)?;
    let fits = |key: &PrivatePkcs8KeyDer<'_>| KeyPair::try_from(key).is_ok_and(|key| cert::is_key_of(&key, leaf));
    let place = keys.iter().position(fits).unwrap_or(0);
    Ok(keys.swap_remove(place))
}

/// The key of the CA that signs, the last one. A key of an older CA signs nothing any more and is no fault.
fn authority_key(
    directory: &Path,
    authorities: &[CertificateDer<'_>],
    rotated: bool,
) -> Result<Option<PrivatePkcs8KeyDer<'static>>, IdentityError> {
    let path = directory.join("ca.key");
    let Some(mut keys) = read_keys_if_there(&path)? else { return Ok(None) };
    let is_of = |key: &PrivatePkcs8KeyDer<'_>, authority: &CertificateDer<'_>| {
        KeyPair::try_from(key).is_ok_and(|key| cert::is_key_of_ca(&key, authority))
    };
    let head = authorities.last().expect("there is at least one");
    if let Some(place) = keys.iter().position(|key| is_of(key, head)) {
        return Ok(Some(keys.swap_remove(place)));
    }
    if !rotated && !keys.iter().any(|key| authorities.iter().any(|authority| is_of(key, authority))) {
        return Err(IdentityError::damaged(path, "is not the key of a CA in ca.pem"));
    }
    Ok(None)
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("cluster", &format_args!("{}", self.cluster))
            .field("host", &format_args!("{}", self.host))
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
