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
mod name;
pub mod seeds;
mod state;
pub mod tls;
mod tokens;
mod verifier;

use std::{fmt, path::Path};

use rcgen::KeyPair;
use ringmesh_node::Chords;
use ringmesh_proto::{ClusterId, HostId};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

use self::state::{ClusterFile, read_key_if_there};
pub use self::{
    cert::fingerprint,
    error::IdentityError,
    join::JoinError,
    name::{PeerError, PeerIdentity, Role, server_name},
    state::{directory, read_certificates, read_key},
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
        let authorities = read_certificates(&directory.join("ca.pem"))?;
        let chain = read_certificates(&directory.join("host.pem"))?;
        let identity = Self {
            cluster: file.cluster,
            host: file.host,
            name: file.name,
            ring_seed: file.ring_seed,
            chords: file.chords,
            key: read_key(&directory.join("host.key"))?.into(),
            authority_key: read_key_if_there(&directory.join("ca.key"))?,
            chain,
            authorities,
        };
        identity.check(&directory)?;
        Ok(identity)
    }

    /// Whether this host may admit others.
    pub fn is_authority(&self) -> bool {
        self.authority_key.is_some()
    }

    fn check(&self, directory: &Path) -> Result<(), IdentityError> {
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
                return host_pem("is not valid now: it has expired, or this host's clock is wrong".into());
            }
            host_pem(format!("was not signed by a CA in ca.pem ({error})"))
        })?;
        if !KeyPair::try_from(self.key.secret_der()).is_ok_and(|key| cert::is_key_of(&key, leaf)) {
            return Err(IdentityError::damaged(directory.join("host.key"), "is not the key of host.pem"));
        }
        if self.is_authority() && self.authority()?.is_none() {
            return Err(IdentityError::damaged(directory.join("ca.key"), "is not the key of a CA in ca.pem"));
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

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("cluster", &format_args!("{}", self.cluster))
            .field("host", &format_args!("{}", self.host))
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
