//! What is checked of the other side's certificate during a TLS handshake, beyond what webpki checks by itself.
//!
//! It owns rustls's verifier traits; the configurations that use them are in `tls`.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ringmesh_proto::ClusterId;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{
    Keyring,
    cert::fingerprint,
    keyring::{Shown, Trouble},
    name::PeerIdentity,
};

/// Which roles may connect to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Callers {
    /// Hosts of the cluster.
    Hosts,
    /// Hosts and operators of the cluster.
    HostsAndOperators,
}

/// For servers: a chain to a CA of the cluster, our cluster in it, a role that may call, and no revocation.
#[derive(Debug)]
pub(super) struct CallerVerifier {
    keyring: Arc<Keyring>,
    callers: Callers,
    algorithms: WebPkiSupportedAlgorithms,
}

impl CallerVerifier {
    pub(super) fn new(keyring: &Arc<Keyring>, callers: Callers, provider: &CryptoProvider) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        Self { keyring: Arc::clone(keyring), callers, algorithms }
    }

    fn inner(&self) -> Arc<dyn ClientCertVerifier> {
        let held = self.keyring.held();
        Arc::clone(match self.callers {
            // A host that wants to join has no certificate.
            Callers::Hosts => &held.tls.clients_or_nobody,
            Callers::HostsAndOperators => &held.tls.clients,
        })
    }
}

impl ClientCertVerifier for CallerVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner().client_auth_mandatory()
    }

    /// None: the CAs change, and a client has only one certificate to show.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner().verify_client_cert(end_entity, intermediates, now)?;
        let identity = PeerIdentity::from_certificate(end_entity)
            .and_then(|identity| identity.expect_cluster(self.keyring.cluster))
            .map_err(refused)?;
        if self.callers == Callers::Hosts {
            identity.expect_host().map_err(refused)?;
        }
        expect_unrevoked(&self.keyring, end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// For clients that dial a host by its name: a chain to a CA of the cluster, that name, and no revocation.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    keyring: Arc<Keyring>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerVerifier {
    pub(super) fn new(keyring: &Arc<Keyring>, provider: &CryptoProvider) -> Self {
        Self { keyring: Arc::clone(keyring), algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let servers = Arc::clone(&self.keyring.held().tls.servers);
        let verified = servers.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if let Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) = verified
            && PeerIdentity::from_certificate(end_entity).is_ok_and(|peer| peer.cluster == self.keyring.cluster)
        {
            self.keyring.note(Trouble::Stranger);
        }
        let verified = verified?;
        expect_unrevoked(&self.keyring, end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn expect_unrevoked(keyring: &Keyring, certificate: &CertificateDer<'_>) -> Result<(), Error> {
    match Shown::of(certificate) {
        Some(shown) if keyring.is_shown_revoked(&shown) => Err(Error::InvalidCertificate(CertificateError::Revoked)),
        // Operators are not revoked.
        Some(_) | None => Ok(()),
    }
}

/// For clients that know a server's address but not its name: what they want of its certificate instead.
#[derive(Debug)]
enum Expected {
    /// A chain to one of these, and any host of this cluster.
    AnyHost { roots: RootCertStore, cluster: ClusterId },
    /// A CA with this fingerprint among the certificates presented, a leaf that it signed, and any host.
    Pinned { fingerprint: [u8; 32] },
}

/// Accepts a host by its role instead of its name.
#[derive(Debug)]
pub(super) struct HostVerifier {
    expected: Expected,
    algorithms: WebPkiSupportedAlgorithms,
    fingerprint_missing: AtomicBool,
    signed_by_another: AtomicBool,
}

/// No certificate presented has the fingerprint that the join token pins.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server's CA is not the one that the join token names")]
struct FingerprintMissing;

impl HostVerifier {
    /// Accepts any host of `cluster` with a chain to one of `roots`.
    pub(super) fn any_host(roots: RootCertStore, cluster: ClusterId, provider: &CryptoProvider) -> Self {
        Self::new(Expected::AnyHost { roots, cluster }, provider)
    }

    /// Accepts any host whose certificate was signed by the CA with this fingerprint.
    pub(super) fn pinned(fingerprint: [u8; 32], provider: &CryptoProvider) -> Self {
        Self::new(Expected::Pinned { fingerprint }, provider)
    }

    /// Whether a server was refused because its CA has another fingerprint.
    pub(super) fn fingerprint_missing(&self) -> bool {
        self.fingerprint_missing.load(Ordering::Relaxed)
    }

    /// Whether a server knows the pinned CA, but its own certificate is of another one: the CA was changed.
    pub(super) fn signed_by_another(&self) -> bool {
        self.signed_by_another.load(Ordering::Relaxed)
    }

    fn new(expected: Expected, provider: &CryptoProvider) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        let [fingerprint_missing, signed_by_another] = [false; 2].map(AtomicBool::new);
        Self { expected, algorithms, fingerprint_missing, signed_by_another }
    }

    fn verify_pinned(
        &self,
        pin: &[u8; 32],
        end_entity: &CertificateDer<'_>,
        presented: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let Some(authority) = presented.iter().find(|certificate| fingerprint(certificate) == *pin) else {
            self.fingerprint_missing.store(true, Ordering::Relaxed);
            return Err(refused(FingerprintMissing));
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let leaf = ParsedCertificate::try_from(end_entity)?;
        // No intermediates: exactly that CA must have signed.
        let verified = verify_server_cert_signed_by_trust_anchor(&leaf, &roots, &[], now, self.algorithms.all);
        if let Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) = verified {
            self.signed_by_another.store(true, Ordering::Relaxed);
        }
        verified
    }
}

impl ServerCertVerifier for HostVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let identity = || PeerIdentity::from_certificate(end_entity).map_err(refused);
        let identity = match &self.expected {
            Expected::AnyHost { roots, cluster } => {
                let leaf = ParsedCertificate::try_from(end_entity)?;
                verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, self.algorithms.all)?;
                identity()?.expect_cluster(*cluster).map_err(refused)?
            }
            Expected::Pinned { fingerprint } => {
                self.verify_pinned(fingerprint, end_entity, intermediates, now)?;
                identity()?
            }
        };
        identity.expect_host().map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Why a certificate was refused. rustls prints its Debug, so that says what Display says: logs and alerts show it.
#[derive(thiserror::Error)]
#[error(transparent)]
struct Refused<E: std::error::Error>(E);

impl<E: std::error::Error> fmt::Debug for Refused<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn refused(reason: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Refused(reason)))))
}
