//! TLS 1.3 between hosts, from a joining host, and for the API over TCP.
//!
//! It owns rustls's configurations. Which connection is dialled when, and what is said over it, is the callers' matter.
//!
//! ```text
//!            ALPN              client shows        client wants of the server    server wants of the client
//! peers      ringmesh/1        its certificate     CA and the host's name        CA, cluster, role host
//! joining    ringmesh-join/1   nothing             CA with the token's pin       a token, later
//! API        h2                its certificate     CA, cluster, role host        CA, cluster, host or operator
//! ```
//!
//! Certificates, CAs and revocations are looked up in the [`Keyring`] with every handshake, so that a change counts for the
//! next one without a new configuration.
//!
//! Sessions are never resumed: a resumed one would skip the check of a certificate that has expired meanwhile, and 0-RTT
//! data could be replayed. No process-wide crypto provider is installed either; each configuration names ring.

use std::{fmt, sync::Arc};

use quinn::crypto::rustls::HandshakeData;
use ringmesh_proto::ClusterId;
use rustls::{
    ClientConfig, ConfigBuilder, Error, RootCertStore, ServerConfig, SignatureScheme, WantsVerifier,
    client::{ResolvesClientCert, Resumption},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    version::TLS13,
};

use super::{
    Identity, IdentityError, Keyring,
    name::{PeerError, PeerIdentity},
    verifier::{CallerVerifier, Callers, HostVerifier, PeerVerifier},
};

/// ALPN between hosts of a cluster.
pub const ALPN_PEER: &[u8] = b"ringmesh/1";

/// ALPN of a host that has no certificate yet. It may send one request: to join.
pub const ALPN_JOIN: &[u8] = b"ringmesh-join/1";

const ALPN_H2: &[u8] = b"h2";

/// Who is at the other end of an accepted connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A host of our cluster.
    Peer(PeerIdentity),
    /// Anybody: may only ask to join.
    Joining,
}

/// For the QUIC endpoints: hosts of our cluster, and hosts that want to join it.
pub fn peer_server_config(identity: &Identity) -> Result<ServerConfig, IdentityError> {
    peer_server(&Keyring::of(identity)?)
}

/// Like [`peer_server_config`], with what the keyring holds at each handshake.
pub fn peer_server(keyring: &Arc<Keyring>) -> Result<ServerConfig, IdentityError> {
    let mut config = server_config(keyring, Callers::Hosts)?;
    config.alpn_protocols = vec![ALPN_PEER.into(), ALPN_JOIN.into()];
    Ok(config)
}

/// For connections to other hosts; dial with [`super::server_name`], which is what the server's certificate must say.
pub fn peer_client_config(identity: &Identity) -> Result<ClientConfig, IdentityError> {
    peer_client(&Keyring::of(identity)?)
}

/// Like [`peer_client_config`], with what the keyring holds at each handshake.
pub fn peer_client(keyring: &Arc<Keyring>) -> Result<ClientConfig, IdentityError> {
    let provider = provider();
    let verifier = PeerVerifier::new(keyring, &provider);
    let builder = client_builder(provider)?.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = builder.with_client_cert_resolver(Arc::new(Current(Arc::clone(keyring))));
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![ALPN_PEER.into()];
    Ok(config)
}

/// For a join: trusts a host whose certificate was signed by the CA with this SHA-256, and no other.
pub fn join_client_config(ca_fingerprint: [u8; 32]) -> Result<ClientConfig, IdentityError> {
    Ok(join_client(ca_fingerprint)?.0)
}

/// For the API over TCP: hosts and operators of our cluster.
pub fn api_server_config(identity: &Identity) -> Result<ServerConfig, IdentityError> {
    api_server(&Keyring::of(identity)?)
}

/// Like [`api_server_config`], with what the keyring holds at each handshake.
pub fn api_server(keyring: &Arc<Keyring>) -> Result<ServerConfig, IdentityError> {
    let mut config = server_config(keyring, Callers::HostsAndOperators)?;
    config.alpn_protocols = vec![ALPN_H2.into()];
    Ok(config)
}

/// For clients of the API over TCP: any host of the cluster that `chain` names, under one of `authorities`. The name that
/// is dialled does not matter.
pub fn api_client_config(
    authorities: &[CertificateDer<'static>],
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, IdentityError> {
    let own = PeerIdentity::from_certificate(chain.first().ok_or(PeerError::NoCertificate)?)?;
    let provider = provider();
    let verifier = HostVerifier::any_host(roots(authorities)?, own.cluster, &provider);
    let builder = client_builder(provider)?.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = builder.with_client_auth_cert(chain, key)?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![ALPN_H2.into()];
    Ok(config)
}

/// Checks, after a handshake, that the other end is of our cluster. The handshake has checked the chain; the cluster is
/// checked here once more, so that nothing rests on how a verifier was put together.
pub fn check_peer(certificates: Option<&[CertificateDer<'_>]>, cluster: ClusterId) -> Result<PeerIdentity, PeerError> {
    let certificate = certificates.and_then(<[_]>::first).ok_or(PeerError::NoCertificate)?;
    PeerIdentity::from_certificate(certificate)?.expect_cluster(cluster)
}

/// Says who called: by the protocol that was agreed on, and the certificate that it demands.
pub fn check_caller(connection: &quinn::Connection, cluster: ClusterId) -> Result<Caller, PeerError> {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    match data.and_then(|data| data.protocol).as_deref() {
        Some(ALPN_JOIN) => Ok(Caller::Joining),
        Some(ALPN_PEER) => {
            let peer = check_peer(peer_certificates(connection).as_deref(), cluster)?;
            peer.expect_host()?;
            Ok(Caller::Peer(peer))
        }
        Some(_) | None => Err(PeerError::Protocol),
    }
}

/// What the other end presented, its own certificate first.
pub fn peer_certificates(connection: &quinn::Connection) -> Option<Vec<CertificateDer<'static>>> {
    connection.peer_identity()?.downcast().ok().map(|certificates| *certificates)
}

/// Like [`join_client_config`], with the verifier, which remembers whether the fingerprint was the trouble.
pub(super) fn join_client(fingerprint: [u8; 32]) -> Result<(ClientConfig, Arc<HostVerifier>), IdentityError> {
    let provider = provider();
    let verifier = Arc::new(HostVerifier::pinned(fingerprint, &provider));
    let builder = client_builder(provider)?.dangerous().with_custom_certificate_verifier(verifier.clone());
    let mut config = builder.with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![ALPN_JOIN.into()];
    Ok((config, verifier))
}

fn server_config(keyring: &Arc<Keyring>, callers: Callers) -> Result<ServerConfig, IdentityError> {
    let provider = provider();
    let verifier = CallerVerifier::new(keyring, callers, &provider);
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?;
    let builder = builder.with_client_cert_verifier(Arc::new(verifier));
    let mut config = builder.with_cert_resolver(Arc::new(Current(Arc::clone(keyring))));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Shows the certificate that this host has at the moment.
struct Current(Arc<Keyring>);

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Current").field(&self.0.name).finish()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.held().tls.as_server))
    }
}

impl ResolvesClientCert for Current {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.held().tls.as_client))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn client_builder(provider: Arc<CryptoProvider>) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])
}

fn roots(authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    authorities.iter().try_for_each(|authority| roots.add(authority.clone()))?;
    Ok(roots)
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
