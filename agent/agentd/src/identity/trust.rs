//! Which CAs the cluster trusts, and how that changes: the newest statement that the CA itself has signed.
//!
//! ```text
//! version 0        ca.pem, as `init` or `join` wrote it
//! rotate ───────▶  old, new     the new one endorsed by the old one's key; signed by the new one's
//! retire ───────▶  new          signed by the new one's
//! ```
//!
//! While both are trusted, hosts show a certificate of the new CA's key by the old one beside their own: one that was away
//! since before the rotation can still speak with them, and so learns of it.
//!
//! It owns what is believed of others' statements. A statement is believed if the CA that signed it is the last in its own
//! list, and is the one that signs here already or was endorsed, over however many steps, by that one.

use std::path::Path;

use bytes::Bytes;
use prost::Message;
use ringmesh_proto::{
    ClusterId,
    peer::{Revocation, SignedRecord, TrustBundle, trust_bundle::Authority},
    signed::{self, KIND_REVOCATION, KIND_TRUST, Statement, StatementError},
};
use rustls::pki_types::CertificateDer;

use super::{
    IdentityError,
    cert::{self, Ca, fingerprint},
    files,
};

/// Why a signed record was not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    /// Not a record.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// A CA that is not one of the cluster's, as far as this host knows.
    #[error("signed by a CA that this host does not know ({})", hex(.0))]
    Signer(Bytes),
    /// Of none of the CAs that are trusted here.
    #[error("its signature is wrong")]
    Signature,
    /// One of its CA certificates is none.
    #[error("one of its CA certificates is malformed")]
    Certificate,
    /// A replay, or a host that was away.
    #[error("version {theirs}, this host has {ours}")]
    Stale {
        /// What came.
        theirs: u64,
        /// What is here.
        ours: u64,
    },
    /// More revocations than are kept.
    #[error("more than {0} revocations")]
    TooMany(usize),
    /// It has run out.
    #[error("it expired at second {0}")]
    Expired(u64),
}

/// The CAs of the cluster.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    /// Grows with each change; 0 is what the cluster began with.
    pub(super) version: u64,
    /// At least one; the last one signs.
    pub(super) authorities: Vec<CertificateDer<'static>>,
    /// The older ones are trusted until then, at least; in Unix seconds.
    pub(super) overlap_until: u64,
    endorsed: Vec<Authority>,
    /// As it is passed on; `None` for version 0.
    pub(super) record: Option<SignedRecord>,
}

impl Trust {
    /// What `init` or `join` wrote.
    pub(super) fn initial(authorities: Vec<CertificateDer<'static>>) -> Self {
        let endorsed = authorities.iter().map(|authority| unendorsed(authority)).collect();
        Self { version: 0, authorities, overlap_until: 0, endorsed, record: None }
    }

    /// The CA that signs.
    pub(super) fn head(&self) -> &CertificateDer<'static> {
        self.authorities.last().expect("there is at least one CA")
    }

    /// While an older CA is trusted: certificates by which who knows only that one believes the newer ones.
    pub(super) fn bridges(&self) -> Vec<CertificateDer<'static>> {
        if self.authorities.len() < 2 {
            return Vec::new();
        }
        let crossed = self.endorsed.iter().filter(|authority| !authority.cross_certificate.is_empty());
        crossed.map(|authority| CertificateDer::from(authority.cross_certificate.to_vec())).collect()
    }

    /// Believes what others say, or refuses it.
    pub(super) fn examine(
        &self,
        record: &SignedRecord,
        bundle: TrustBundle,
        cluster: ClusterId,
    ) -> Result<Self, RecordError> {
        let ours = (self.version, self.record.as_ref().map_or(&[][..], |record| &record.body));
        if (record.version, &record.body[..]) <= ours {
            return Err(RecordError::Stale { theirs: record.version, ours: self.version });
        }
        let new = Self::read(record, bundle)?;
        if !self.leads_to(&new, cluster) {
            return Err(RecordError::Signer(record.signer.clone()));
        }
        check_signature(record, new.head(), cluster)?;
        Ok(new)
    }

    /// Adds a new CA, which signs from now on.
    pub(super) fn rotate(
        &self,
        old: &Ca,
        new: &Ca,
        cluster: ClusterId,
        now_unix: u64,
        overlap_until: u64,
    ) -> Result<Self, IdentityError> {
        let mut endorsed = self.endorsed.clone();
        endorsed.push(Authority {
            certificate: new.certificate.to_vec().into(),
            endorser: fingerprint(&old.certificate).to_vec().into(),
            endorsement: old.sign_bytes(&signed::endorsed_bytes(&new.certificate, cluster))?.into(),
            cross_certificate: old.cross_sign(new, cluster, self.version + 1, now_unix)?.to_vec().into(),
        });
        self.next(endorsed, new, cluster, now_unix, overlap_until)
    }

    /// Leaves only the CA that signs. `at` is told as its time.
    pub(super) fn retire(&self, head: &Ca, cluster: ClusterId, at: u64) -> Result<Self, IdentityError> {
        let endorsed = self.endorsed.last().into_iter().cloned().collect();
        self.next(endorsed, head, cluster, at, 0)
    }

    fn next(
        &self,
        endorsed: Vec<Authority>,
        head: &Ca,
        cluster: ClusterId,
        issued_unix: u64,
        overlap_until_unix: u64,
    ) -> Result<Self, IdentityError> {
        let bundle = TrustBundle { authorities: endorsed, issued_unix, overlap_until_unix };
        let record = SignedRecord {
            kind: KIND_TRUST,
            version: self.version + 1,
            body: bundle.encode_to_vec().into(),
            ..SignedRecord::default()
        };
        let record = sign(record, head, cluster)?;
        Ok(Self::read(&record, bundle).expect("our own certificates are whole"))
    }

    fn read(record: &SignedRecord, bundle: TrustBundle) -> Result<Self, RecordError> {
        let authorities: Vec<_> =
            bundle.authorities.iter().map(|authority| CertificateDer::from(authority.certificate.to_vec())).collect();
        if authorities.is_empty() || authorities.iter().any(|ca| webpki::anchor_from_trusted_cert(ca).is_err()) {
            return Err(RecordError::Certificate);
        }
        Ok(Self {
            version: record.version,
            authorities,
            overlap_until: bundle.overlap_until_unix,
            endorsed: bundle.authorities,
            record: Some(record.clone()),
        })
    }

    /// Whether the CA that signs there is the one that signs here, or was endorsed by it. A CA that is only trusted still may
    /// not choose the next one: it is replaced for a reason.
    fn leads_to(&self, new: &Self, cluster: ClusterId) -> bool {
        let own = if self.version == 0 { &self.authorities[..] } else { std::slice::from_ref(self.head()) };
        let mut believed: Vec<&CertificateDer<'_>> = own.iter().collect();
        for (authority, endorsed) in new.authorities.iter().zip(&new.endorsed) {
            let endorser = believed.iter().find(|known| fingerprint(known)[..] == endorsed.endorser[..]);
            let bytes = signed::endorsed_bytes(authority, cluster);
            if endorser.is_some_and(|endorser| cert::is_signed(endorser, &bytes, &endorsed.endorsement)) {
                believed.push(authority);
            }
        }
        believed.contains(&new.head())
    }
}

/// A statement that certificates of a host do not count any more.
pub(super) fn revocation(
    ca: &Ca,
    cluster: ClusterId,
    record: SignedRecord,
    says: &Revocation,
) -> Result<SignedRecord, IdentityError> {
    sign(SignedRecord { kind: KIND_REVOCATION, body: says.encode_to_vec().into(), ..record }, ca, cluster)
}

/// The same statement by another CA, one version newer.
pub(super) fn sign_again(ca: &Ca, cluster: ClusterId, record: &SignedRecord) -> Result<SignedRecord, IdentityError> {
    sign(SignedRecord { version: record.version.saturating_add(1), ..record.clone() }, ca, cluster)
}

/// Whether one of `authorities` signed this record.
pub(super) fn check_signer(
    record: &SignedRecord,
    authorities: &[CertificateDer<'static>],
    cluster: ClusterId,
) -> Result<(), RecordError> {
    let signer = authorities.iter().find(|authority| fingerprint(authority)[..] == record.signer[..]);
    check_signature(record, signer.ok_or_else(|| RecordError::Signer(record.signer.clone()))?, cluster)
}

fn check_signature(record: &SignedRecord, by: &CertificateDer<'_>, cluster: ClusterId) -> Result<(), RecordError> {
    let good = fingerprint(by)[..] == record.signer[..]
        && cert::is_signed(by, &signed::signed_bytes(record, cluster), &record.signature);
    if good { Ok(()) } else { Err(RecordError::Signature) }
}

fn sign(record: SignedRecord, ca: &Ca, cluster: ClusterId) -> Result<SignedRecord, IdentityError> {
    let signature = ca.sign_bytes(&signed::signed_bytes(&record, cluster))?.into();
    Ok(SignedRecord { signer: fingerprint(&ca.certificate).to_vec().into(), signature, ..record })
}

fn unendorsed(authority: &CertificateDer<'_>) -> Authority {
    Authority { certificate: authority.to_vec().into(), ..Authority::default() }
}

/// The CAs that the cluster's CA named last; `None` if they were never changed.
pub(super) fn read_authorities(
    directory: &Path,
    cluster: ClusterId,
) -> Result<Option<Vec<CertificateDer<'static>>>, IdentityError> {
    Ok(read(directory, cluster)?.map(|trust| trust.authorities))
}

/// `trust.bin`: one record. It was verified before it was written; the signature is checked again, so that a file that
/// was damaged or is of another cluster is named.
pub(super) fn read(directory: &Path, cluster: ClusterId) -> Result<Option<Trust>, IdentityError> {
    let path = directory.join("trust.bin");
    let Some(bytes) = files::read_secret_if_there(&path)? else { return Ok(None) };
    let record = SignedRecord::decode(&bytes[..]).ok();
    let statement = record.as_ref().and_then(|record| Some((record, signed::parse(record).ok()?)));
    let trust = match statement {
        Some((record, Statement::Trust(bundle))) => Trust::read(record, bundle).ok(),
        Some((_, Statement::Revocation { .. })) | None => None,
    };
    let whole = |trust: &Trust| {
        trust.record.as_ref().is_some_and(|record| check_signature(record, trust.head(), cluster).is_ok())
    };
    match trust.filter(whole) {
        Some(trust) => Ok(Some(trust)),
        None => Err(IdentityError::damaged(path, "is not what the CA of this cluster said")),
    }
}

/// Writes `trust.bin`, then `ca.pem` for people and clients.
pub(super) fn write(directory: &Path, trust: &Trust) -> Result<(), IdentityError> {
    if let Some(record) = &trust.record {
        files::write(&directory.join("trust.bin"), &record.encode_to_vec(), files::SECRET)?;
    }
    let pem: String = trust.authorities.iter().map(super::state::pem).collect();
    files::write(&directory.join("ca.pem"), pem.as_bytes(), files::PUBLIC)
}

/// Bytes in hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
