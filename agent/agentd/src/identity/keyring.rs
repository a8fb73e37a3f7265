//! The certificates, keys and CAs that are in use now: every handshake asks here, so that new ones count at once.
//!
//! It owns what is believed of the CA's statements ([`super::trust`]), the revocations, and that all of it is on disk before
//! it counts. When something is due, and whom to ask, it does not know.
//!
//! ```text
//!  gossip, sync ─ SignedRecord ─▶ accept: parse, signature, version ─▶ disk ─▶ in use ─▶ `changed`, for connections
//!  operator ───── rotate, retire, revoke, share ──────────────────────▶ disk ─▶ in use ─▶ records, for gossip
//! ```

mod change;
mod seals;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use prost::Message;
use ringmesh_proto::{
    ClusterId, HostId,
    peer::{Revocation, SignedRecord},
    signed::{self, Statement},
};
use rustls::{
    RootCertStore,
    client::WebPkiServerVerifier,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use tokio::sync::watch;

pub use self::{
    change::{ChangeError, Due},
    seals::HostSeals,
};
use super::{
    Identity, IdentityError, PeerIdentity, Role,
    cert::{self, Ca, Facts, fingerprint},
    files,
    trust::{self, RecordError, Trust},
};

/// The most revocations that are kept; with the record of the CAs it is what gossip keeps.
pub const MAX_REVOCATIONS: usize = 1000;

/// The most bytes of one revocation on disk.
const MAX_REVOCATION: usize = 1024;

/// What others said of our certificate is shown for so long.
const TROUBLE_FOR: Duration = Duration::from_secs(120);

/// After so many bad records of one message the rest is refused unread: each costs a check of a signature.
const MAX_BAD: u64 = 16;

/// Between two lines in the log about the same trouble.
const TROUBLE_LOGGED: Duration = Duration::from_secs(60);

/// The certificates in use. One a process.
pub struct Keyring {
    /// The cluster.
    pub cluster: ClusterId,
    /// This host.
    pub host: HostId,
    /// This host's name.
    pub name: String,
    /// `<state_dir>/identity`; `None`: nothing is written down.
    directory: Option<PathBuf>,
    lifetime: Duration,
    held: RwLock<Arc<Held>>,
    changed: watch::Sender<u64>,
    /// Held while something is decided and written, so that two changes do not cross.
    writing: Mutex<()>,
    trouble: Mutex<Option<(Trouble, Instant, Instant)>>,
}

/// All that is in use at one moment.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) trust: Trust,
    pub(super) revoked: BTreeMap<(HostId, Bytes), Revoked>,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    facts: Facts,
    pub(super) signer: Option<Arc<Ca>>,
    pub(super) tls: Tls,
}

/// Made of it for handshakes.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) as_client: Arc<CertifiedKey>,
    pub(super) as_server: Arc<CertifiedKey>,
    pub(super) servers: Arc<WebPkiServerVerifier>,
    pub(super) clients: Arc<dyn ClientCertVerifier>,
    pub(super) clients_or_nobody: Arc<dyn ClientCertVerifier>,
}

/// A revocation that counts.
#[derive(Clone, Debug)]
pub struct Revoked {
    /// As it is passed on.
    pub record: SignedRecord,
    /// What it says.
    pub says: Revocation,
}

/// What other hosts hold against our certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// They say that it is revoked.
    Revoked,
    /// They do not know the CA that signed it.
    UnknownAuthority,
    /// They show certificates of a CA that we do not know.
    Stranger,
    /// They say that it has expired.
    Expired,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Revoked => {
                "other hosts say that this host was revoked; if that is meant to end, stop the agent, move `identity` away \
                 and run `ringmesh join TOKEN`"
            }
            Self::UnknownAuthority | Self::Stranger => {
                "other hosts have another CA than this host: the cluster's CA was changed while it was away; stop the \
                 agent, move `identity` away and run `ringmesh join TOKEN`"
            }
            Self::Expired => {
                "other hosts say that this host's certificate has expired; check the clocks, or stop the agent, move \
                 `identity` away and run `ringmesh join TOKEN`"
            }
        })
    }
}

/// What came of records of others.
#[derive(Debug, Default)]
pub struct Accepted {
    /// Believed, and on disk: to be passed on.
    pub new: Vec<SignedRecord>,
    /// Forged, malformed, of an unknown CA, or too many.
    pub refused: u64,
    /// Older than what is here: replayed, or of a host that was away.
    pub stale: u64,
}

/// Which certificate a peer has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    host: HostId,
    serial: Bytes,
}

impl Shown {
    /// Reads a host's certificate; `None` if it is of no host.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let Role::Host(host) = PeerIdentity::from_certificate(certificate).ok()?.role else { return None };
        Some(Self { host, serial: Facts::of(certificate)?.serial })
    }
}

impl Keyring {
    /// Of an identity alone; nothing is written down.
    pub fn of(identity: &Identity) -> Result<Arc<Self>, IdentityError> {
        let trust = Trust::initial(identity.authorities.clone());
        Self::new(identity, None, trust, BTreeMap::new(), cert::LEAF_LIFETIME)
    }

    /// Of an identity and what its directory says beside. `lifetime` is that of certificates which this host signs.
    pub fn open(identity: &Identity, state_dir: &Path, lifetime: Duration) -> Result<Arc<Self>, IdentityError> {
        let directory = super::directory(state_dir);
        let said = trust::read(&directory, identity.cluster)?;
        if let Some(trust) = &said {
            // It is behind if this host ended between the two files.
            trust::write(&directory, trust)?;
        }
        let trust = said.unwrap_or_else(|| Trust::initial(identity.authorities.clone()));
        let revoked = read_revoked(&directory, identity.cluster, &trust)?;
        Self::new(identity, Some(directory), trust, revoked, lifetime)
    }

    fn new(
        identity: &Identity,
        directory: Option<PathBuf>,
        trust: Trust,
        revoked: BTreeMap<(HostId, Bytes), Revoked>,
        lifetime: Duration,
    ) -> Result<Arc<Self>, IdentityError> {
        let signer = identity.authority()?.map(Arc::new);
        let key = Arc::new(identity.key.clone_key());
        let held = Held::new(trust, revoked, identity.chain.clone(), key, signer)?;
        Ok(Arc::new(Self {
            cluster: identity.cluster,
            host: identity.host,
            name: identity.name.clone(),
            directory,
            lifetime,
            held: RwLock::new(Arc::new(held)),
            changed: watch::Sender::new(0),
            writing: Mutex::new(()),
            trouble: Mutex::new(None),
        }))
    }

    /// Of certificates that this host signs.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Wakes when certificates, CAs or revocations have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How often they have changed.
    pub fn revision(&self) -> u64 {
        *self.changed.borrow()
    }

    /// This host's certificate.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.held().chain[0].clone()
    }

    /// What it says of itself.
    pub fn facts(&self) -> Facts {
        self.held().facts.clone()
    }

    /// The CA that signed it; `None` if it is not trusted any more.
    pub fn issuer(&self) -> Option<[u8; 32]> {
        let held = self.held();
        cert::issuer(&held.chain[0], &held.trust.authorities).map(fingerprint)
    }

    /// All CAs that are trusted, the one that signs last.
    pub fn authorities(&self) -> Vec<CertificateDer<'static>> {
        self.held().trust.authorities.clone()
    }

    /// [`Self::authorities`] and [`Self::trust_version`], of one moment.
    pub fn trust(&self) -> (Vec<CertificateDer<'static>>, u64) {
        let held = self.held();
        (held.trust.authorities.clone(), held.trust.version)
    }

    /// The CA that signs.
    pub fn head(&self) -> [u8; 32] {
        fingerprint(self.held().trust.head())
    }

    /// Whether a CA that is trusted signed this certificate.
    pub fn is_trusted(&self, certificate: &CertificateDer<'_>) -> bool {
        cert::issuer(certificate, &self.held().trust.authorities).is_some()
    }

    /// How often the CAs were changed.
    pub fn trust_version(&self) -> u64 {
        self.held().trust.version
    }

    /// While the older CAs are trusted, the Unix second until which they are at least.
    pub fn overlap_until(&self) -> Option<u64> {
        let held = self.held();
        (held.trust.authorities.len() > 1 && held.trust.version > 0).then_some(held.trust.overlap_until)
    }

    /// Whether this host holds the key of the CA that signs.
    pub fn is_signer(&self) -> bool {
        self.held().signer.is_some()
    }

    /// The revocations that count.
    pub fn revocations(&self) -> Vec<Revoked> {
        self.held().revoked.values().cloned().collect()
    }

    /// Whether a host's certificates are all worthless.
    pub fn is_revoked(&self, host: HostId) -> bool {
        self.held().revoked.contains_key(&(host, Bytes::new()))
    }

    /// Whether this certificate of a host is worthless.
    pub fn is_shown_revoked(&self, shown: &Shown) -> bool {
        let held = self.held();
        let is_there = |serial| held.revoked.contains_key(&(shown.host, serial));
        is_there(Bytes::new()) || is_there(shown.serial.clone())
    }

    /// The record that says which CAs count; `None` if they were never changed.
    pub fn trust_record(&self) -> Option<SignedRecord> {
        self.held().trust.record.clone()
    }

    /// The record that revokes this certificate of a host, or all of them.
    pub fn revocation(&self, host: HostId, serial: Bytes) -> Option<SignedRecord> {
        self.held().revoked.get(&(host, serial)).map(|revoked| revoked.record.clone())
    }

    /// The record by which a certificate is worthless.
    pub fn revocation_of(&self, shown: &Shown) -> Option<SignedRecord> {
        self.revocation(shown.host, Bytes::new()).or_else(|| self.revocation(shown.host, shown.serial.clone()))
    }

    /// What all hosts are to know, as this one has it.
    pub fn records(&self) -> Vec<SignedRecord> {
        let held = self.held();
        held.trust.record.iter().chain(held.revoked.values().map(|revoked| &revoked.record)).cloned().collect()
    }

    /// Checks what others say; what is believed is on disk and in use when this returns. Waits for the disk.
    pub fn accept(&self, records: &[SignedRecord], now_unix: u64) -> Result<Accepted, IdentityError> {
        let _writing = lock(&self.writing);
        let mut held = Held::clone(&self.held());
        let mut accepted = Accepted::default();
        // The CAs first: the rest may be signed by a new one.
        let (trust, rest): (Vec<_>, Vec<_>) = records.iter().partition(|record| record.kind == signed::KIND_TRUST);
        for record in trust.into_iter().chain(rest) {
            if accepted.refused >= MAX_BAD {
                accepted.refused += 1;
                continue;
            }
            match held.examine(record, self.cluster, now_unix) {
                Ok(true) => accepted.new.push(record.clone()),
                Ok(false) => {}
                Err(RecordError::Stale { .. } | RecordError::Expired(_)) => accepted.stale += 1,
                Err(error) => {
                    accepted.refused += 1;
                    tracing::warn!(%error, "a record of the cluster's CA was refused");
                }
            }
        }
        if !accepted.new.is_empty() {
            self.put(held)?;
        }
        Ok(accepted)
    }

    /// Others refuse our certificate, or we theirs.
    pub fn note(&self, trouble: Trouble) {
        let (mut noted, now) = (lock(&self.trouble), Instant::now());
        let logged = match *noted {
            Some((before, _, logged)) if before == trouble && now.duration_since(logged) < TROUBLE_LOGGED => logged,
            Some(_) | None => {
                tracing::error!("{trouble}");
                now
            }
        };
        *noted = Some((trouble, now, logged));
    }

    /// What is wrong with this host's certificate, and what to do.
    pub fn problem(&self, now_unix: u64) -> Option<String> {
        if self.is_revoked(self.host) {
            return Some(Trouble::Revoked.to_string());
        }
        let facts = self.facts();
        if now_unix >= facts.not_after {
            return Some(format!(
                "the certificate expired at {}; stop the agent, move `identity` away and run `ringmesh join TOKEN`",
                super::admission::utc(facts.not_after)
            ));
        }
        if now_unix < facts.not_before {
            let from = super::admission::utc(facts.not_before);
            return Some(format!("the certificate holds only from {from} on: this host's clock is behind"));
        }
        lock(&self.trouble).filter(|(_, at, _)| at.elapsed() < TROUBLE_FOR).map(|(trouble, _, _)| trouble.to_string())
    }

    pub(super) fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes down what differs, and then uses it. `writing` is held.
    fn put(&self, held: Held) -> Result<(), IdentityError> {
        let old = self.held();
        let held = Held::new(held.trust, held.revoked, held.chain, held.key, held.signer)?;
        if let Some(directory) = &self.directory {
            if old.trust.version != held.trust.version {
                trust::write(directory, &held.trust)?;
            }
            let records = |held: &Held| held.revoked.values().map(|revoked| revoked.record.clone()).collect::<Vec<_>>();
            let revoked = records(&held);
            if records(&old) != revoked {
                write_revoked(directory, &revoked)?;
            }
        }
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(held);
        self.changed.send_modify(|revision| *revision += 1);
        Ok(())
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("host", &self.host).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Held {
    fn new(
        trust: Trust,
        revoked: BTreeMap<(HostId, Bytes), Revoked>,
        chain: Vec<CertificateDer<'static>>,
        key: Arc<PrivateKeyDer<'static>>,
        signer: Option<Arc<Ca>>,
    ) -> Result<Self, IdentityError> {
        let malformed = || rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
        let facts = chain.first().and_then(Facts::of).ok_or_else(malformed)?;
        // Only the last CA signs.
        let signer = signer.filter(|signer| signer.certificate == *trust.head());
        let tls = Tls::new(&trust, &chain, &key)?;
        Ok(Self { trust, revoked, chain, key, facts, signer, tls })
    }

    /// Takes one record; false if it is here already.
    fn examine(&mut self, record: &SignedRecord, cluster: ClusterId, now_unix: u64) -> Result<bool, RecordError> {
        match signed::parse(record)? {
            Statement::Trust(bundle) => {
                if self.trust.record.as_ref().is_some_and(|ours| same(ours, record)) {
                    return Ok(false);
                }
                self.trust = self.trust.examine(record, bundle, cluster)?;
            }
            Statement::Revocation { host, serial, revocation } => {
                let ours = self.revoked.get(&(host, serial.clone())).map(|revoked| &revoked.record);
                if ours.is_some_and(|ours| same(ours, record)) {
                    return Ok(false);
                }
                if let Some(ours) = ours.filter(|ours| (ours.version, &ours.body) >= (record.version, &record.body)) {
                    return Err(RecordError::Stale { theirs: record.version, ours: ours.version });
                }
                trust::check_signer(record, &self.trust.authorities, cluster)?;
                if record.expires_unix <= now_unix {
                    return Err(RecordError::Expired(record.expires_unix));
                }
                if ours.is_none() && self.revoked.len() >= MAX_REVOCATIONS {
                    return Err(RecordError::TooMany(MAX_REVOCATIONS));
                }
                self.revoked.insert((host, serial), Revoked { record: record.clone(), says: revocation });
            }
        }
        Ok(true)
    }
}

/// Whether two records say the same in the same version: signatures differ each time that one signs.
fn same(one: &SignedRecord, other: &SignedRecord) -> bool {
    (one.version, &one.body) == (other.version, &other.body)
}

impl Tls {
    fn new(
        trust: &Trust,
        chain: &[CertificateDer<'static>],
        key: &PrivateKeyDer<'static>,
    ) -> Result<Self, IdentityError> {
        let provider: Arc<CryptoProvider> = super::tls::provider();
        let mut roots = RootCertStore::empty();
        trust.authorities.iter().try_for_each(|authority| roots.add(authority.clone()))?;
        let roots = Arc::new(roots);
        let failed = |error: rustls::server::VerifierBuilderError| rustls::Error::General(error.to_string());
        let servers = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let clients = || WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let bridged: Vec<_> = chain.iter().cloned().chain(trust.bridges()).collect();
        // The CAs go along, for joining hosts, who know only a fingerprint.
        let with_authorities = bridged.iter().chain(&trust.authorities).cloned().collect();
        Ok(Self {
            as_client: Arc::new(CertifiedKey::from_der(bridged, key.clone_key(), &provider)?),
            as_server: Arc::new(CertifiedKey::from_der(with_authorities, key.clone_key(), &provider)?),
            servers: servers.build().map_err(failed)?,
            clients: clients().build().map_err(failed)?,
            clients_or_nobody: clients().allow_unauthenticated().build().map_err(failed)?,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `revoked.bin`: records, each with its length in front, as protobuf writes them one after another.
fn write_revoked(directory: &Path, records: &[SignedRecord]) -> Result<(), IdentityError> {
    let bytes: Vec<u8> = records.iter().flat_map(SignedRecord::encode_length_delimited_to_vec).collect();
    files::write(&directory.join("revoked.bin"), &bytes, files::SECRET)
}

/// What was verified when it came is not verified again: the CA that signed it may be gone by now.
fn read_revoked(
    directory: &Path,
    cluster: ClusterId,
    trust: &Trust,
) -> Result<BTreeMap<(HostId, Bytes), Revoked>, IdentityError> {
    let path = directory.join("revoked.bin");
    let Some(bytes) = files::read_secret_if_there(&path)? else { return Ok(BTreeMap::new()) };
    let damaged = || IdentityError::Damaged {
        path: path.clone(),
        message: "is not a list of revocations".into(),
        cure: "remove it, and the other hosts will tell this one again",
    };
    let (mut rest, mut revoked) = (Bytes::from(bytes), BTreeMap::new());
    while rest.has_remaining() {
        let record = SignedRecord::decode_length_delimited(&mut rest).map_err(|_| damaged())?;
        let Ok(Statement::Revocation { host, serial, revocation }) = signed::parse(&record) else {
            return Err(damaged());
        };
        if record.encoded_len() > MAX_REVOCATION || revoked.len() >= MAX_REVOCATIONS {
            return Err(damaged());
        }
        if let Err(RecordError::Signature) = trust::check_signer(&record, &trust.authorities, cluster) {
            return Err(damaged());
        }
        revoked.insert((host, serial), Revoked { record, says: revocation });
    }
    Ok(revoked)
}
