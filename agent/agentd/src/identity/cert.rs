//! Makes keys, certificates and signing requests.
//!
//! It owns what stands in a certificate and knows nothing of files or connections. Keys are ECDSA over P-256: every
//! TLS library, browser and hardware module takes them.

use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SerialNumber, SigningKey,
};
use ringmesh_proto::ClusterId;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, UnixTime};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring, spki_for_anchor};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    IdentityError,
    name::{PeerIdentity, Role},
};

/// The most bytes of a signing request; ours have some 250.
pub(super) const MAX_CSR: usize = 4096;

const CA_LIFETIME: Duration = Duration::days(3653);

/// How long the certificate of a host or an operator holds, unless the configuration says less.
pub(super) const LEAF_LIFETIME: std::time::Duration = std::time::Duration::from_secs(365 * 86_400);

/// Certificates are valid from so long ago, for hosts whose clocks are behind.
const BACKDATE: Duration = Duration::days(1);

/// An uncompressed point of P-256: SEC 1 §2.3.3.
const P256_POINT_LEN: usize = 65;

/// A CA certificate with its key.
pub(super) struct Ca {
    pub(super) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// The first CA of a cluster, which may sign for hosts and operators but not for other CAs.
    pub(super) fn generate(cluster: ClusterId, now_unix: u64) -> Result<Self, rcgen::Error> {
        Self::with_params(ca_params(&format!("ringmesh cluster {cluster}"), now_unix))
    }

    /// The CA that takes its place, by the number of changes. Another name, so that who knows only one of them sees that it
    /// does not know the other, and not a bad signature.
    pub(super) fn successor(cluster: ClusterId, version: u64, now_unix: u64) -> Result<Self, rcgen::Error> {
        Self::with_params(ca_params(&successor_name(cluster, version), now_unix))
    }

    /// The name and key of `next`, made with this version, in a certificate that this CA signs: RFC 4210 §4.4, "new with old".
    pub(super) fn cross_sign(
        &self,
        next: &Self,
        cluster: ClusterId,
        version: u64,
        now_unix: u64,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        let mut params = ca_params(&successor_name(cluster, version), now_unix);
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(next.issuer.key(), &self.issuer)?.der().clone())
    }

    fn with_params(params: CertificateParams) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// The CA that `certificate` is of.
    pub(super) fn new(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { certificate, issuer })
    }

    /// The private key in PEM.
    pub(super) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The private key in PKCS #8.
    pub(super) fn key_der(&self) -> Vec<u8> {
        self.issuer.key().serialize_der()
    }

    /// Signs a statement: ECDSA over P-256 with SHA-256, ASN.1.
    pub(super) fn sign_bytes(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.issuer.key().sign(message)
    }

    /// Signs for a host or a user; `common_name` is for people.
    pub(super) fn sign(
        &self,
        key: &impl PublicKeyData,
        identity: &PeerIdentity,
        common_name: &str,
        now_unix: u64,
        lifetime: std::time::Duration,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        let mut params = params(common_name, now_unix, Duration::try_from(lifetime).unwrap_or(CA_LIFETIME));
        params.is_ca = IsCa::ExplicitNoCa;
        params.subject_alt_names = vec![SanType::DnsName(identity.dns_name().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match identity.role {
            Role::Host(_) => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Role::User { .. } => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &self.issuer)?.der().clone())
    }
}

/// A key and a request that asks for nothing: the CA alone decides what it signs.
pub(super) fn request() -> Result<(KeyPair, CertificateSigningRequestDer<'static>), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key)?.der().clone();
    Ok((key, csr))
}

/// The public key of a request whose signature proves that the sender has the private one. All else is ignored.
pub(super) fn requested_key(csr: &[u8]) -> Result<impl PublicKeyData, &'static str> {
    if csr.len() > MAX_CSR {
        return Err("the signing request is too long");
    }
    let request = CertificateSigningRequestParams::from_der(&csr.into())
        .map_err(|_| "the signing request is malformed or its signature is wrong")?;
    let key = request.public_key;
    if key.algorithm() != &PKCS_ECDSA_P256_SHA256 || key.der_bytes().len() != P256_POINT_LEN {
        return Err("the signing request's key is not ECDSA over P-256");
    }
    Ok(key)
}

/// SHA-256 of the DER: what a join token pins.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// What a certificate says of itself, beside the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Big-endian, without leading zeros.
    pub serial: Bytes,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
}

impl Facts {
    /// Reads a certificate; `None` if it is malformed. The signature is not checked.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let unix = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        let serial = parsed.raw_serial();
        let zeros = serial.iter().take_while(|byte| **byte == 0).count();
        Some(Self {
            serial: Bytes::copy_from_slice(&serial[zeros..]),
            not_before: unix(parsed.validity().not_before),
            not_after: unix(parsed.validity().not_after),
        })
    }

    /// When it was signed, in Unix seconds.
    pub fn issued(&self) -> u64 {
        self.not_before.saturating_add(BACKDATE.whole_seconds().unsigned_abs()).min(self.not_after)
    }
}

/// Whether the key of the CA with this certificate made `signature` over `message`.
pub(super) fn is_signed(authority: &CertificateDer<'_>, message: &[u8], signature: &[u8]) -> bool {
    EndEntityCert::try_from(authority)
        .is_ok_and(|authority| authority.verify_signature(ring::ECDSA_P256_SHA256, message, signature).is_ok())
}

/// Which of `authorities` signed this certificate.
pub(super) fn issuer<'a>(
    certificate: &CertificateDer<'_>,
    authorities: &'a [CertificateDer<'static>],
) -> Option<&'a CertificateDer<'static>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let signed = parsed.tbs_certificate.as_ref();
    authorities.iter().find(|authority| is_signed(authority, signed, &parsed.signature_value.data))
}

/// Whether `key` is the private key of this end-entity certificate.
pub(super) fn is_key_of(key: &KeyPair, certificate: &CertificateDer<'_>) -> bool {
    EndEntityCert::try_from(certificate)
        .is_ok_and(|certificate| certificate.subject_public_key_info()[..] == key.subject_public_key_info()[..])
}

/// Whether `key` is the private key of this CA certificate.
pub(super) fn is_key_of_ca(key: &KeyPair, certificate: &CertificateDer<'_>) -> bool {
    anchor_from_trusted_cert(certificate)
        .is_ok_and(|anchor| spki_for_anchor(&anchor)[..] == key.subject_public_key_info()[..])
}

/// Whether one of `authorities` signed `certificate` directly, and it is valid now for a server or, for a user's,
/// for a client.
pub(super) fn verify(
    certificate: &CertificateDer<'_>,
    authorities: &[CertificateDer<'_>],
    role: &Role,
    now: UnixTime,
) -> Result<(), webpki::Error> {
    let anchors = authorities.iter().map(anchor_from_trusted_cert).collect::<Result<Vec<_>, _>>()?;
    let usage = match role {
        Role::Host(_) => KeyUsage::server_auth(),
        Role::User { .. } => KeyUsage::client_auth(),
    };
    let algorithms = [ring::ECDSA_P256_SHA256];
    let certificate = EndEntityCert::try_from(certificate)?;
    certificate.verify_for_usage(&algorithms, &anchors, &[], now, usage, None, None).map(drop)
}

/// Fills `bytes` from the operating system's randomness.
pub(super) fn random(bytes: &mut [u8]) -> Result<(), IdentityError> {
    let provider = rustls::crypto::ring::default_provider();
    provider.secure_random.fill(bytes).map_err(|_| rustls::Error::FailedToGetRandomBytes.into())
}

/// A random number.
pub(super) fn random_u64() -> Result<u64, IdentityError> {
    let mut bytes = [0; 8];
    random(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

fn successor_name(cluster: ClusterId, version: u64) -> String {
    format!("ringmesh cluster {cluster}, CA {version}")
}

fn ca_params(common_name: &str, now_unix: u64) -> CertificateParams {
    let mut params = params(common_name, now_unix, CA_LIFETIME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn params(common_name: &str, now_unix: u64, lifetime: Duration) -> CertificateParams {
    let now = i64::try_from(now_unix).ok().and_then(|now| OffsetDateTime::from_unix_timestamp(now).ok());
    let now = now.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let mut params = CertificateParams::default();
    params.not_before = now.checked_sub(BACKDATE).unwrap_or(now);
    params.not_after = now.checked_add(lifetime).unwrap_or(now);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let mut serial = [0; 16];
    // Without randomness rcgen takes a hash of the public key, which is new as well.
    params.serial_number = random(&mut serial).is_ok().then(|| {
        // Positive, and without a leading zero: RFC 5280 §4.1.2.2.
        serial[0] = serial[0] & 0x7f | 0x40;
        SerialNumber::from_slice(&serial)
    });
    params
}

#[cfg(test)]
mod tests {
    use ringmesh_proto::HostId;

    use super::*;
    use crate::identity::Access;

    const CLUSTER: ClusterId = ClusterId::new(7);
    const NOW: u64 = 1_800_000_000;
    const DAY: u64 = 86_400;

    fn at(unix: u64) -> UnixTime {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(unix))
    }

    fn host() -> PeerIdentity {
        PeerIdentity { cluster: CLUSTER, role: Role::Host(HostId::new(1)) }
    }

    fn signed(ca: &Ca, identity: &PeerIdentity) -> (KeyPair, CertificateDer<'static>) {
        let (key, csr) = request().expect("randomness");
        let public = requested_key(&csr).expect("our own request");
        (key, ca.sign(&public, identity, "h1", NOW, LEAF_LIFETIME).expect("a valid name"))
    }

    #[test]
    fn a_host_certificate_says_who_it_is_and_holds_for_a_year() {
        let ca = Ca::generate(CLUSTER, NOW).expect("randomness");
        let (key, certificate) = signed(&ca, &host());
        let authorities = [ca.certificate.clone()];
        let valid = |unix| verify(&certificate, &authorities, &host().role, at(unix)).is_ok();
        let facts = Facts::of(&certificate).expect("our own certificate");
        assert_eq!((facts.issued(), facts.not_after, facts.serial.len()), (NOW, NOW + 365 * DAY, 16));
        assert!(is_key_of(&key, &certificate) && !is_key_of(ca.issuer.key(), &certificate));
        assert_eq!(PeerIdentity::from_certificate(&certificate), Ok(host()));
        assert!(valid(NOW) && valid(NOW - DAY) && valid(NOW + 365 * DAY));
        assert!(!valid(NOW - DAY - 1) && !valid(NOW + 365 * DAY + 1));
    }

    #[test]
    fn another_ca_and_another_use_are_refused() {
        let ca = Ca::generate(CLUSTER, NOW).expect("randomness");
        let other = Ca::generate(CLUSTER, NOW).expect("randomness");
        let operator =
            PeerIdentity { cluster: CLUSTER, role: Role::User { name: "admin".into(), access: Access::Admin } };
        let (_, certificate) = signed(&ca, &operator);
        let check = |ca: &Ca, role| verify(&certificate, std::slice::from_ref(&ca.certificate), role, at(NOW));
        assert_eq!(check(&ca, &operator.role), Ok(()));
        assert!(check(&other, &operator.role).is_err());
        assert!(check(&ca, &host().role).is_err(), "an operator is no server");
    }

    #[test]
    fn a_ca_signs_again_after_a_restart() {
        let first = Ca::generate(CLUSTER, NOW).expect("randomness");
        let key = KeyPair::from_pem(&first.key_pem()).expect("our own key");
        assert!(is_key_of_ca(&key, &first.certificate));
        let again = Ca::new(first.certificate.clone(), key).expect("our own certificate");
        let (_, certificate) = signed(&again, &host());
        assert_eq!(verify(&certificate, &[first.certificate], &host().role, at(NOW)), Ok(()));
    }

    #[test]
    fn bad_requests_are_refused() {
        let (_, csr) = request().expect("randomness");
        let mut forged = csr.to_vec();
        *forged.last_mut().expect("it has bytes") ^= 1;
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("randomness");
        let other = CertificateParams::default().serialize_request(&ed25519).expect("a valid request");
        for bad in [&forged[..], &csr[..csr.len() / 2], &[], &[0; MAX_CSR + 1], other.der()] {
            assert!(requested_key(bad).is_err());
        }
    }
}
