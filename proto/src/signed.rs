//! What the cluster's CA says to all hosts: which CAs count, and whose certificates no longer do.
//!
//! It owns the form, the bounds and which bytes are signed. It checks no signature: that needs the CAs, and those the daemon
//! has.
//!
//! ```text
//! signed:   "ringmesh-signed-1" 0 | cluster u64 | kind u32 | host u32 | version u64 | expiry u64 | serial (length u16) | body
//! endorsed: "ringmesh-endorse-1" 0 | cluster u64 | certificate of the next CA
//! ```

use bytes::{BufMut, Bytes};
use prost::Message;

use crate::{
    ClusterId, HostId,
    peer::{Revocation, SignedRecord, TrustBundle, trust_bundle::Authority},
};

/// The most CAs that count at once: two while one replaces the other, and some to spare.
pub const MAX_AUTHORITIES: usize = 8;

/// The most bytes of a record's body: eight CAs with two certificates of some 500 bytes each, with room for names.
pub const MAX_BODY: usize = 32 * 1024;

/// The most bytes of a CA certificate.
pub const MAX_CERTIFICATE: usize = 2048;

/// The most bytes of a serial number: RFC 5280 §4.1.2.2.
pub const MAX_SERIAL: usize = 20;

/// The most bytes of a signature; ECDSA over P-256 has at most 72.
pub const MAX_SIGNATURE: usize = 128;

/// The most bytes of a host's name.
const MAX_NAME: usize = 63;

/// SHA-256.
pub const FINGERPRINT_LEN: usize = 32;

/// [`SignedRecord::kind`] of the cluster's CAs.
pub const KIND_TRUST: u32 = 1;

/// [`SignedRecord::kind`] of a revocation.
pub const KIND_REVOCATION: u32 = 2;

/// What a record is about; of each subject the newest version counts.
pub type Subject = (u32, u32, Bytes);

/// What a record says. Not believed yet.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// These CAs count, the last one signs.
    Trust(TrustBundle),
    /// Certificates of this host do not count any more.
    Revocation {
        /// Whose.
        host: HostId,
        /// The one with this serial number; empty: all.
        serial: Bytes,
        /// When, and the host's name.
        revocation: Revocation,
    },
}

/// Why bytes are no record: a fault of who sent them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// A kind that this build does not know.
    #[error("a signed record of kind {0}, which this version does not know")]
    Kind(u32),
    /// A field that is longer than it may be, or lacks.
    #[error("a signed record whose {0} is missing or too long")]
    Field(&'static str),
    /// Not the protobuf message that it should be.
    #[error("a signed record that is malformed: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// What a record is about.
pub fn subject(record: &SignedRecord) -> Subject {
    (record.kind, record.host, record.serial.clone())
}

/// Reads a record, within its bounds. Its signature is for the caller to check.
pub fn parse(record: &SignedRecord) -> Result<Statement, StatementError> {
    let field = |good: bool, name| if good { Ok(()) } else { Err(StatementError::Field(name)) };
    field(record.body.len() <= MAX_BODY, "body")?;
    field(record.signer.len() == FINGERPRINT_LEN, "signer")?;
    field((1..=MAX_SIGNATURE).contains(&record.signature.len()), "signature")?;
    field(record.serial.len() <= MAX_SERIAL, "serial")?;
    field(record.version != 0, "version")?;
    match record.kind {
        KIND_TRUST => {
            field(record.host == 0 && record.serial.is_empty() && record.expires_unix == 0, "subject")?;
            let bundle = TrustBundle::decode(&record.body[..])?;
            field((1..=MAX_AUTHORITIES).contains(&bundle.authorities.len()), "list of CAs")?;
            for authority in &bundle.authorities {
                check_authority(authority)?;
            }
            Ok(Statement::Trust(bundle))
        }
        KIND_REVOCATION => {
            field(record.host != 0, "host")?;
            field(record.expires_unix != 0, "expiry")?;
            let revocation = Revocation::decode(&record.body[..])?;
            field(revocation.name.len() <= MAX_NAME, "name")?;
            Ok(Statement::Revocation { host: HostId::new(record.host), serial: record.serial.clone(), revocation })
        }
        kind => Err(StatementError::Kind(kind)),
    }
}

fn check_authority(authority: &Authority) -> Result<(), StatementError> {
    let good = (1..=MAX_CERTIFICATE).contains(&authority.certificate.len())
        && matches!(authority.endorser.len(), 0 | FINGERPRINT_LEN)
        && authority.endorsement.len() <= MAX_SIGNATURE
        && authority.cross_certificate.len() <= MAX_CERTIFICATE
        && authority.endorser.is_empty() == authority.endorsement.is_empty();
    if good { Ok(()) } else { Err(StatementError::Field("CA")) }
}

/// The bytes that a record's signature covers: all of it but the signature.
pub fn signed_bytes(record: &SignedRecord, cluster: ClusterId) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + record.serial.len() + record.body.len());
    out.put_slice(b"ringmesh-signed-1\0");
    out.put_u64(cluster.raw());
    out.put_u32(record.kind);
    out.put_u32(record.host);
    out.put_u64(record.version);
    out.put_u64(record.expires_unix);
    // `parse` has bounded it.
    out.put_u16(u16::try_from(record.serial.len()).unwrap_or(u16::MAX));
    out.put_slice(&record.serial);
    out.put_slice(&record.body);
    out
}

/// The bytes by which a CA says that `certificate` is of the next one.
pub fn endorsed_bytes(certificate: &[u8], cluster: ClusterId) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + certificate.len());
    out.put_slice(b"ringmesh-endorse-1\0");
    out.put_u64(cluster.raw());
    out.put_slice(certificate);
    out
}

/// The first 8 bytes of a fingerprint: what hosts' own records say of their CA.
pub fn short(fingerprint: &[u8; FINGERPRINT_LEN]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *fingerprint;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trust(authorities: usize) -> SignedRecord {
        let authority = Authority { certificate: Bytes::from_static(b"der"), ..Authority::default() };
        let bundle = TrustBundle { authorities: vec![authority; authorities], ..TrustBundle::default() };
        SignedRecord {
            kind: KIND_TRUST,
            version: 1,
            body: bundle.encode_to_vec().into(),
            signer: Bytes::from_static(&[1; FINGERPRINT_LEN]),
            signature: Bytes::from_static(&[2; 70]),
            ..SignedRecord::default()
        }
    }

    fn revocation() -> SignedRecord {
        let body = Revocation { revoked_unix: 7, name: "h2".into() };
        SignedRecord {
            kind: KIND_REVOCATION,
            host: 9,
            serial: Bytes::from_static(&[5; MAX_SERIAL]),
            expires_unix: 100,
            body: body.encode_to_vec().into(),
            ..trust(1)
        }
    }

    #[test]
    fn records_within_their_bounds_are_read() {
        assert!(
            matches!(parse(&trust(MAX_AUTHORITIES)), Ok(Statement::Trust(bundle)) if bundle.authorities.len() == 8)
        );
        let Ok(Statement::Revocation { host, serial, revocation }) = parse(&revocation()) else {
            panic!("a revocation")
        };
        assert_eq!((host.raw(), serial.len(), revocation.revoked_unix), (9, MAX_SERIAL, 7));
    }

    #[test]
    fn records_beyond_them_are_refused() {
        let bad = [
            SignedRecord { kind: 3, ..trust(1) },
            SignedRecord { version: 0, ..trust(1) },
            SignedRecord { host: 1, ..trust(1) },
            SignedRecord { expires_unix: 1, ..trust(1) },
            SignedRecord { signer: Bytes::from_static(b"short"), ..trust(1) },
            SignedRecord { signature: Bytes::new(), ..trust(1) },
            SignedRecord { body: vec![0; MAX_BODY + 1].into(), ..trust(1) },
            SignedRecord { body: trust(1).body.slice(..3), ..trust(1) },
            trust(0),
            trust(MAX_AUTHORITIES + 1),
            SignedRecord { host: 0, ..revocation() },
            SignedRecord { expires_unix: 0, ..revocation() },
            SignedRecord { serial: vec![1; MAX_SERIAL + 1].into(), ..revocation() },
            SignedRecord {
                body: Revocation { revoked_unix: 1, name: "x".repeat(64) }.encode_to_vec().into(),
                ..revocation()
            },
        ];
        for record in bad {
            assert!(parse(&record).is_err(), "{record:?}");
        }
    }

    #[test]
    fn every_field_but_the_signature_is_signed() {
        let base = revocation();
        let bytes = signed_bytes(&base, ClusterId::new(1));
        assert_ne!(bytes, signed_bytes(&base, ClusterId::new(2)));
        for other in [
            SignedRecord { kind: KIND_TRUST, ..base.clone() },
            SignedRecord { host: 8, ..base.clone() },
            SignedRecord { serial: Bytes::new(), ..base.clone() },
            SignedRecord { version: 2, ..base.clone() },
            SignedRecord { expires_unix: 2, ..base.clone() },
            SignedRecord { body: Bytes::new(), ..base.clone() },
        ] {
            assert_ne!(bytes, signed_bytes(&other, ClusterId::new(1)));
        }
        // The border between serial and body cannot be moved.
        let moved = |serial: &'static [u8], body: &'static [u8]| SignedRecord {
            serial: Bytes::from_static(serial),
            body: Bytes::from_static(body),
            ..base.clone()
        };
        let cluster = ClusterId::new(1);
        assert_ne!(signed_bytes(&moved(b"ab", b"c"), cluster), signed_bytes(&moved(b"a", b"bc"), cluster));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(kind in 0u32..4, body in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse(&SignedRecord { kind, body: body.into(), ..revocation() });
            let _ = parse(&SignedRecord { kind, ..trust(1) });
        }
    }
}
