//! Keeps this host's certificate fresh, and what else is due around certificates; carries out an operator's orders about
//! them.
//!
//! It owns when and whom to ask. What is believed and what is in use the keyring decides; it alone writes it down.
//!
//! ```text
//!  keyring ── changed ─▶ ┌────────┐ ── renew, share ─▶ another host, by quic
//!  time ───────────────▶ │ keeper │ ── records ──────▶ host loop, which gossips them
//!  api ─── orders ─────▶ └────────┘ ── certificate ──▶ host loop, which says it in this host's record
//! ```

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use ringmesh_node::{Certificate, View};
use ringmesh_proto::{
    HostId,
    member::Member,
    peer::SignedRecord,
    signed,
    v1::{self, host::State},
};
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    clock,
    host_loop::Command,
    identity::{
        Access, Identity, Keyring,
        admission::{Authority, AuthoritySlot},
        keyring::{ChangeError, Due},
    },
    quic::{RequestError, Transport},
};

/// Between two looks at what is due.
const TICK: Duration = Duration::from_secs(30);

/// The same once the older CA may go, as soon as every host has renewed.
const RETIRE_TICK: Duration = Duration::from_secs(3);

/// After a try to renew that failed: the shortest and the longest time to the next.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// When the CA has changed, all hosts renew within this time, not at once.
const SPREAD: Duration = Duration::from_secs(1);

/// For all hosts that are asked to sign.
const RENEW_TIMEOUT: Duration = Duration::from_secs(10);

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// Of the keyring.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// This host does not hold the CA's key; these do.
    #[error("{name} does not hold the key of the CA that signs; ask {}", signers_text(.signers))]
    NotSigner {
        /// This host.
        name: String,
        /// Who does.
        signers: Vec<String>,
    },
    /// Nobody signed.
    #[error("no host signed a new certificate: {0}")]
    NotRenewed(String),
    /// Some hosts would be cut off.
    #[error(
        "{} not been renewed under the CA that signs; wait until they are, or see `ringmesh host list`; with --force they \
         are cut off and must join again",
        have(.0)
    )]
    NotRenewedYet(Vec<String>),
    /// No such host.
    #[error("there is no host \"{}\"", .0.escape_debug())]
    NoHost(String),
    /// It did not take the key.
    #[error("{host} did not take the key: {error}")]
    NotShared {
        /// Its name.
        host: String,
        /// Why.
        error: RequestError,
    },
    /// A thread ended.
    #[error("this host is busy; try again")]
    Busy,
}

fn signers_text(signers: &[String]) -> String {
    if signers.is_empty() { "a host that does (none is known to be alive)".into() } else { signers.join(" or ") }
}

fn have(hosts: &[String]) -> String {
    let verb = if hosts.len() == 1 { "has" } else { "have" };
    format!("the certificates of {} {verb}", hosts.join(", "))
}

/// See above. One a daemon.
pub struct Keeper {
    keyring: Arc<Keyring>,
    transport: Transport,
    view: watch::Receiver<Arc<View>>,
    authority: AuthoritySlot,
    state_dir: PathBuf,
    commands: mpsc::Sender<Command>,
    /// 0 to 1, of this process: hosts that joined together do not renew together.
    jitter: f64,
    renewing: Mutex<()>,
}

/// What was told or tried last.
struct Tended {
    told: Certificate,
    retry: Duration,
    next_try: Instant,
}

impl Keeper {
    /// `authority` is filled as long as this host holds the CA's key.
    pub fn new(
        keyring: Arc<Keyring>,
        transport: Transport,
        view: watch::Receiver<Arc<View>>,
        authority: AuthoritySlot,
        state_dir: PathBuf,
        commands: mpsc::Sender<Command>,
    ) -> Arc<Self> {
        let jitter = f64::from(seed(&keyring).next_u32()) / f64::from(u32::MAX);
        Arc::new(Self { keyring, transport, view, authority, state_dir, commands, jitter, renewing: Mutex::new(()) })
    }

    /// Looks at what is due, until the daemon ends.
    pub async fn run(self: Arc<Self>) {
        let mut changes = self.keyring.changes();
        let mut tended = Tended { told: Certificate::default(), retry: RETRY.0, next_try: Instant::now() };
        loop {
            let next = self.tend(&mut tended).await;
            // Either it is time, or something changed.
            let _ = timeout_at(next, changes.changed()).await;
        }
    }

    /// When this host's certificate is renewed by itself.
    pub fn renews_at(&self) -> u64 {
        match self.keyring.renewal(self.jitter) {
            Due::At(at) => at,
            Due::Now => now_unix(),
        }
    }

    /// Hosts that are alive and hold the key of the CA that signs, by name.
    pub fn signers(&self) -> Vec<String> {
        let head = format!("{:016x}", signed::short(&self.keyring.head()));
        let view = self.view.borrow().clone();
        view.hosts.iter().filter(|host| signs_with(host, &head)).map(|host| host.name.clone()).collect()
    }

    /// Gets a new certificate and uses it.
    pub async fn renew(&self) -> Result<(), KeeperError> {
        let _renewing = self.renewing.lock().await;
        self.renew_now().await
    }

    async fn renew_now(&self) -> Result<(), KeeperError> {
        let keyring = Arc::clone(&self.keyring);
        let (key, csr) = blocking(move || keyring.request().map_err(ChangeError::from)).await?;
        let certificate = if self.keyring.is_signer() {
            let keyring = Arc::clone(&self.keyring);
            blocking(move || keyring.sign(&csr, keyring.host, &keyring.name, now_unix())).await?
        } else {
            self.ask_signers(csr).await?
        };
        let keyring = Arc::clone(&self.keyring);
        blocking(move || keyring.install_certificate(certificate, &key, now_unix())).await?;
        let until = crate::identity::admission::utc(self.keyring.facts().not_after);
        tracing::info!(until, "this host has a new certificate");
        Ok(())
    }

    /// Makes a new CA beside the old one.
    pub async fn rotate(&self, overlap: Duration) -> Result<(), KeeperError> {
        self.expect_signer()?;
        let keyring = Arc::clone(&self.keyring);
        let records = blocking(move || keyring.rotate(overlap.as_secs(), now_unix())).await?;
        self.transport.spread(records).await;
        self.renew().await
    }

    /// Ends trust in the older CAs. Unless forced, only if every host that is not gone has renewed.
    pub async fn retire(&self, force: bool) -> Result<(), KeeperError> {
        self.expect_signer()?;
        let behind = self.behind();
        if !force && !behind.is_empty() && self.keyring.overlap_until().is_some() {
            return Err(KeeperError::NotRenewedYet(behind));
        }
        self.retire_at(now_unix()).await
    }

    /// Gives another host the CA's key.
    pub async fn share(&self, host: &str) -> Result<(), KeeperError> {
        self.expect_signer()?;
        let (to, name) = self.find(host)?;
        let to = to.ok_or_else(|| KeeperError::NoHost(host.to_owned()))?;
        let key = self.keyring.authority_key()?;
        let shared = self.transport.share(to, key).await;
        shared.map_err(|error| KeeperError::NotShared { host: name.clone(), error })?;
        tracing::warn!(host = name, "gave this host the CA's key");
        Ok(())
    }

    /// Makes certificates of a host worthless, or (with an empty `serial`) the host a stranger. Its id and name.
    pub async fn revoke(&self, host: &str, serial: Bytes) -> Result<SignedRecord, KeeperError> {
        self.expect_signer()?;
        let view = self.view.borrow().clone();
        let found = view.hosts.iter().find(|known| known.name == host || known.id == host);
        // One that is forgotten by now may have a certificate still: it is named by its id.
        let (id, name) = match found {
            Some(found) => (found.id.parse().ok(), found.name.clone()),
            None => (host.parse().ok(), host.to_owned()),
        };
        let id: HostId = id.ok_or_else(|| KeeperError::NoHost(host.to_owned()))?;
        let keyring = Arc::clone(&self.keyring);
        let record = blocking(move || keyring.revoke(id, serial, &name, now_unix())).await?;
        self.transport.spread(vec![record.clone()]).await;
        Ok(record)
    }

    /// A certificate in DER for a user's key, that of a signing request.
    pub async fn sign_user(
        &self,
        csr: Bytes,
        name: String,
        access: Access,
        lifetime: Duration,
    ) -> Result<Vec<u8>, KeeperError> {
        self.expect_signer()?;
        let keyring = Arc::clone(&self.keyring);
        tracing::info!(name, ?access, ?lifetime, "signs for a user");
        blocking(move || keyring.sign_user(&csr, &name, access, lifetime, now_unix())).await
    }

    /// Whether a host holds the key of the CA that signs.
    pub fn is_signer(&self, host: HostId) -> bool {
        let head = format!("{:016x}", signed::short(&self.keyring.head()));
        let id = host.to_string();
        self.view.borrow().hosts.iter().any(|known| known.id == id && holds(known, &head))
    }

    fn expect_signer(&self) -> Result<(), KeeperError> {
        if self.keyring.is_signer() {
            return Ok(());
        }
        Err(KeeperError::NotSigner { name: self.keyring.name.clone(), signers: self.signers() })
    }

    /// A host that can be asked, and its name. `None`: this host itself.
    fn find(&self, host: &str) -> Result<(Option<Member>, String), KeeperError> {
        let view = self.view.borrow().clone();
        let found = view.hosts.iter().find(|known| known.name == host || known.id == host);
        let found = found.ok_or_else(|| KeeperError::NoHost(host.to_owned()))?;
        let peer = found.id.parse().ok().and_then(|id: HostId| view.peers.get(&id));
        Ok((peer.map(|peer| peer.member), found.name.clone()))
    }

    /// Hosts of which no certificate of the CA that signs is known, and which have not left.
    fn behind(&self) -> Vec<String> {
        let head = format!("{:016x}", signed::short(&self.keyring.head()));
        let view = self.view.borrow().clone();
        let renewed = |host: &v1::Host| host.certificate.as_ref().is_some_and(|held| held.issuer == head);
        let present = view.hosts.iter().filter(|host| host.state() != State::Left);
        present.filter(|host| !renewed(host)).map(|host| host.name.clone()).collect()
    }

    async fn retire_at(&self, at: u64) -> Result<(), KeeperError> {
        let keyring = Arc::clone(&self.keyring);
        let records = blocking(move || keyring.retire(at)).await?;
        self.transport.spread(records).await;
        Ok(())
    }

    /// Asks those that hold the CA's key, in any order, until one signs.
    async fn ask_signers(&self, csr: Vec<u8>) -> Result<Vec<u8>, KeeperError> {
        let head = format!("{:016x}", signed::short(&self.keyring.head()));
        let view = self.view.borrow().clone();
        let mut signers: Vec<_> = view.hosts.iter().filter(|host| !host.local && signs_with(host, &head)).collect();
        signers.shuffle(&mut seed(&self.keyring));
        let deadline = Instant::now() + RENEW_TIMEOUT;
        let mut tried = Vec::new();
        for signer in signers {
            let Some(peer) = signer.id.parse().ok().and_then(|id: HostId| view.peers.get(&id)) else { continue };
            match timeout_at(deadline, self.transport.renew(peer.member, csr.clone())).await {
                Ok(Ok(response)) => {
                    // It may be ahead of us.
                    self.transport.learn(Some(peer.member.id), response.trust.into_iter().collect()).await;
                    return Ok(response.certificate.to_vec());
                }
                Ok(Err(error)) => tried.push(format!("{}: {error}", signer.name)),
                Err(_) => tried.push(format!("{}: no answer in time", signer.name)),
            }
        }
        let why = if tried.is_empty() {
            "none that is alive is known to hold the CA's key; start the agent of one, or give another host the key with \
             `ringmesh ca share`"
                .into()
        } else {
            tried.join("; ")
        };
        Err(KeeperError::NotRenewed(why))
    }

    /// Does what is due; says when to look again.
    async fn tend(&self, tended: &mut Tended) -> Instant {
        self.tell(tended).await;
        if let Err(error) = self.tend_authority().await {
            tracing::error!(%error, "what is due for the cluster's CA failed");
        }
        let now = Instant::now();
        if self.is_due() && tended.next_try <= now {
            match self.renew_in_time().await {
                Ok(()) => {
                    tended.retry = RETRY.0;
                    tended.next_try = now;
                    self.tell(tended).await;
                }
                Err(error) => {
                    let problem = self.keyring.problem(now_unix()).unwrap_or_default();
                    tracing::warn!(%error, problem, retry_s = tended.retry.as_secs(), "the certificate was not renewed");
                    tended.next_try = Instant::now() + tended.retry;
                    tended.retry = (tended.retry * 2).min(self.longest_retry());
                }
            }
        }
        let tick = now + self.tick();
        let due = if self.is_due() { tended.next_try } else { self.until_renewal(now) };
        tick.min(due.max(now + Duration::from_millis(50)))
    }

    /// Of a short-lived certificate not longer than a tenth of the time that is left after two thirds of its life.
    fn longest_retry(&self) -> Duration {
        let facts = self.keyring.facts();
        let life = facts.not_after.saturating_sub(facts.issued());
        RETRY.1.min(Duration::from_secs(life / 30)).max(RETRY.0)
    }

    async fn renew_in_time(&self) -> Result<(), KeeperError> {
        if self.keyring.renewal(self.jitter) == Due::Now && !self.keyring.is_signer() {
            sleep(SPREAD.mul_f64(self.jitter)).await;
        }
        let _renewing = self.renewing.lock().await;
        // An operator's order may have been faster.
        if self.is_due() { self.renew_now().await } else { Ok(()) }
    }

    fn is_due(&self) -> bool {
        match self.keyring.renewal(self.jitter) {
            Due::Now => !self.keyring.is_revoked(self.keyring.host),
            Due::At(at) => at <= now_unix() && !self.keyring.is_revoked(self.keyring.host),
        }
    }

    fn until_renewal(&self, now: Instant) -> Instant {
        match self.keyring.renewal(self.jitter) {
            Due::Now => now + TICK,
            Due::At(at) => now + Duration::from_secs(at.saturating_sub(now_unix())).min(TICK),
        }
    }

    fn tick(&self) -> Duration {
        match self.keyring.overlap_until() {
            Some(until) => Duration::from_secs(until.saturating_sub(now_unix())).clamp(RETIRE_TICK, TICK),
            None => TICK,
        }
    }

    /// Says in this host's record which certificate it has, and whether it signs.
    async fn tell(&self, tended: &mut Tended) {
        let head = signed::short(&self.keyring.head());
        let certificate = Certificate {
            // 0 is for who does not say: a certificate of a CA that is gone is no longer one.
            issuer: self.keyring.issuer().map_or(1, |issuer| signed::short(&issuer)),
            ends_unix: self.keyring.facts().not_after,
            signs_with: if self.keyring.is_signer() { head } else { 0 },
        };
        if tended.told != certificate && self.commands.send(Command::Certificate(certificate)).await.is_ok() {
            tended.told = certificate;
        }
    }

    async fn tend_authority(&self) -> Result<(), KeeperError> {
        let keyring = Arc::clone(&self.keyring);
        let (authority, state_dir) = (Arc::clone(&self.authority), self.state_dir.clone());
        let records = blocking(move || {
            keyring.forget_expired(now_unix())?;
            follow(&keyring, &authority, &state_dir);
            if !keyring.is_signer() {
                keyring.forget_old_key()?;
                return Ok(Vec::new());
            }
            if keyring.renew_operator(now_unix())? {
                tracing::info!("the operator's certificate was renewed; take the new operator.pem and ca.pem along");
            }
            keyring.sign_revocations_again()
        });
        let records = records.await?;
        if !records.is_empty() {
            self.transport.spread(records).await;
        }
        match self.keyring.overlap_until() {
            // Of hosts of other zones their certificates are not known: only an operator can say that all have renewed.
            Some(until)
                if self.keyring.is_signer()
                    && until <= now_unix()
                    && self.view.borrow().zones.len() <= 1
                    && self.behind().is_empty() =>
            {
                self.retire_at(until).await
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Admits hosts as long as, and with what, the keyring signs.
fn follow(keyring: &Keyring, slot: &AuthoritySlot, state_dir: &std::path::Path) {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if !keyring.is_signer() {
        *slot = None;
    } else if slot.is_none() {
        let opened = Identity::load(state_dir)
            .map_err(|error| error.to_string())
            .and_then(|identity| Authority::open(&identity, state_dir).map_err(|error| error.to_string()));
        match opened {
            Ok(authority) => *slot = Some(authority),
            Err(error) => tracing::error!(error, "this host has the CA's key but cannot admit others"),
        }
    }
    if let Some(authority) = &mut *slot {
        authority.follow(keyring);
    }
}

fn holds(host: &v1::Host, head: &str) -> bool {
    host.certificate.as_ref().is_some_and(|held| held.signs_with == head)
}

fn signs_with(host: &v1::Host, head: &str) -> bool {
    holds(host, head) && matches!(host.state(), State::Alive | State::Suspect)
}

/// For draws that need be no secret.
fn seed(keyring: &Keyring) -> StdRng {
    StdRng::seed_from_u64(u64::from(keyring.host.raw()) ^ clock::unix().0)
}

fn now_unix() -> u64 {
    clock::unix().0 / 1000
}

/// On a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ChangeError> + Send + 'static,
) -> Result<T, KeeperError> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| KeeperError::Busy)??)
}
