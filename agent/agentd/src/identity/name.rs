//! What a certificate says of its bearer, and the DNS names in which it says it.
//!
//! It owns the names and knows neither keys nor chains: that a certificate is genuine is webpki's matter.

use ringmesh_proto::{ClusterId, HostId};
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use crate::config::is_name;

/// The last label of each name. It is no top-level domain, so no public CA signs for it.
const DOMAIN: &str = "ringmesh";

/// Before a tenant's name, in place of a role.
const TENANT: &str = "tenant-";

/// The bearer of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// What it may do there.
    pub role: Role,
}

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A host: serves and calls.
    Host(HostId),
    /// Somebody who uses the API: only calls.
    User {
        /// Of the bearer.
        name: String,
        /// What the bearer may do.
        access: Access,
    },
}

/// What a user may do; each may what those below it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// All: also certificates, tokens and copies of the whole configuration.
    Admin,
    /// Change what the cluster runs.
    Operator,
    /// Look at everything.
    Reader,
    /// Look at and change the objects of this tenant, and nothing else.
    Tenant(String),
}

impl Access {
    /// As it stands in a certificate's name.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Admin => "admin".into(),
            Self::Operator => "operator".into(),
            Self::Reader => "reader".into(),
            Self::Tenant(tenant) => format!("{TENANT}{tenant}"),
        }
    }

    /// What [`label`](Self::label) made.
    pub(crate) fn parse(label: &str) -> Option<Self> {
        match label {
            "admin" => Some(Self::Admin),
            "operator" => Some(Self::Operator),
            "reader" => Some(Self::Reader),
            _ => label.strip_prefix(TENANT).filter(|tenant| is_name(tenant)).map(|tenant| Self::Tenant(tenant.into())),
        }
    }
}

/// Why a peer was refused: a fault of the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// None was presented.
    #[error("the peer has no certificate; hosts get one by `ringmesh join`")]
    NoCertificate,
    /// Not X.509.
    #[error("the peer's certificate is malformed")]
    Malformed,
    /// Not exactly one DNS name, or one of another form.
    #[error("the peer's certificate does not name one host or user of a ringmesh cluster")]
    Name,
    /// Of another cluster.
    #[error("the peer belongs to cluster {theirs}, this host to cluster {ours}")]
    Cluster {
        /// What the certificate says.
        theirs: ClusterId,
        /// What it should say.
        ours: ClusterId,
    },
    /// A user where only hosts may speak.
    #[error("the peer is no host, and only hosts of the cluster may speak here")]
    NotAHost,
    /// Neither of the protocols that hosts speak.
    #[error("the peer speaks neither ringmesh/1 nor ringmesh-join/1")]
    Protocol,
}

/// The name by which a host of a cluster is dialled: the TLS server name.
pub fn server_name(cluster: ClusterId, host: HostId) -> String {
    format!("{host}.host.{cluster}.{DOMAIN}")
}

impl PeerIdentity {
    /// The one DNS name in the bearer's certificate.
    pub fn dns_name(&self) -> String {
        match &self.role {
            Role::Host(host) => server_name(self.cluster, *host),
            Role::User { name, access } => format!("{name}.{}.{}.{DOMAIN}", access.label(), self.cluster),
        }
    }

    /// Reads the subject alternative name. The signature is not checked: the handshake did that, or webpki must.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, PeerError> {
        let certificate = EndEntityCert::try_from(certificate).map_err(|_| PeerError::Malformed)?;
        let mut names = certificate.valid_dns_names();
        let (Some(name), None) = (names.next(), names.next()) else { return Err(PeerError::Name) };
        Self::parse(name).ok_or(PeerError::Name)
    }

    /// Refuses the bearer if it is of another cluster than `ours`.
    pub fn expect_cluster(self, ours: ClusterId) -> Result<Self, PeerError> {
        if self.cluster != ours {
            return Err(PeerError::Cluster { theirs: self.cluster, ours });
        }
        Ok(self)
    }

    /// The host that it is.
    pub fn expect_host(&self) -> Result<HostId, PeerError> {
        match self.role {
            Role::Host(host) => Ok(host),
            Role::User { .. } => Err(PeerError::NotAHost),
        }
    }

    fn parse(name: &str) -> Option<Self> {
        let labels: Vec<&str> = name.splitn(5, '.').collect();
        let [bearer, role, cluster, DOMAIN] = labels[..] else { return None };
        let cluster = cluster.parse().ok()?;
        let role = match role {
            "host" => Role::Host(bearer.parse().ok().filter(|host: &HostId| host.raw() != 0)?),
            label if is_name(bearer) => Role::User { name: bearer.to_owned(), access: Access::parse(label)? },
            _ => return None,
        };
        // One spelling only: the digits' case has no second meaning.
        Some(Self { cluster, role }).filter(|identity| identity.dns_name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId::new(0x0123_4567_89ab_cdef);

    #[test]
    fn names_round_trip() {
        let user = |access| Role::User { name: "alice".into(), access };
        for role in [
            Role::Host(HostId::new(0xab)),
            user(Access::Admin),
            user(Access::Operator),
            user(Access::Reader),
            user(Access::Tenant("acme".into())),
        ] {
            let identity = PeerIdentity { cluster: CLUSTER, role };
            assert_eq!(PeerIdentity::parse(&identity.dns_name()), Some(identity));
        }
        assert_eq!(server_name(CLUSTER, HostId::new(0xab)), "000000ab.host.0123456789abcdef.ringmesh");
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "000000ab.host.0123456789abcdef.example",
            "000000ab.host.0123456789abcdef.ringmesh.example",
            "x.000000ab.host.0123456789abcdef.ringmesh",
            "000000AB.host.0123456789abcdef.ringmesh",
            "00000000.host.0123456789abcdef.ringmesh",
            "*.host.0123456789abcdef.ringmesh",
            "ab.host.0123456789abcdef.ringmesh",
            "000000ab.root.0123456789abcdef.ringmesh",
            "000000ab.host.0123456789abcde.ringmesh",
            "a_b.operator.0123456789abcdef.ringmesh",
            "alice.root.0123456789abcdef.ringmesh",
            "alice.tenant-.0123456789abcdef.ringmesh",
            "alice.tenant.0123456789abcdef.ringmesh",
            "ringmesh",
            "",
        ] {
            assert_eq!(PeerIdentity::parse(name), None, "{name}");
        }
    }
}
