//! Who may join: makes join tokens and signs for hosts that bring one.
//!
//! It owns the CA's key and the list of tokens. Which names and ids are taken it is told, and it knows nothing of
//! connections. Its calls write to the disk (and wait for it), so they belong on a thread that may block.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use ringmesh_node::{View, gossip::MAX_HOSTS, zones::MAX_ZONES};
use ringmesh_proto::{
    ClusterId, HostId, ZoneId,
    frame::refusal,
    peer::{JoinRequest, JoinResponse, Refusal, refusal::Reason},
    token::{MAX_ADDRESSES, Token},
};
use rustls::pki_types::CertificateDer;

pub use super::tokens::MAX_LIVE;
use super::{
    Identity, IdentityError, Keyring,
    cert::{self, Ca},
    name::{PeerIdentity, Role},
    tokens::{TakeError, TokenFile, Unusable},
};
use crate::config::is_name;

/// The longest life of a token.
pub const MAX_TTL: Duration = Duration::from_secs(30 * 86_400);

/// How many hosts may join with one token, at most.
pub const MAX_USES: u32 = 1000;

/// For so many seconds a name and an id that were just given count as taken: the host is not yet known by gossip.
const RECENT_SECONDS: u64 = 60;

/// Within so many seconds the record of another zone may not count a host that was admitted to it.
const RECORD_SECONDS: u64 = 10;

/// Of those at most so many are remembered.
const MAX_RECENT: usize = 1000;

/// Ids are 32 bits, so that even with a million hosts one try in 4,000 fails.
const ID_TRIES: usize = 16;

/// The one authority of a host, `None` as long as it does not hold the CA's key.
pub type AuthoritySlot = Arc<Mutex<Option<Authority>>>;

/// May admit others to the cluster.
pub struct Authority {
    cluster: ClusterId,
    ring_seed: u64,
    ca: Arc<Ca>,
    lifetime: Duration,
    authorities: Vec<CertificateDer<'static>>,
    own: (String, HostId),
    tokens: TokenFile,
    recent: VecDeque<Given>,
}

struct Given {
    name: String,
    zone: String,
    host: HostId,
    at_unix: u64,
}

/// Why no authority or no token could be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Operator: this host has no `ca.key`.
    #[error(
        "{name} does not hold the cluster's CA key ({path}); make tokens on the first host, the one of `ringmesh init`"
    )]
    NoKey {
        /// Of this host.
        name: String,
        /// Where the key would be.
        path: PathBuf,
    },
    /// Operator: another host is to be asked.
    #[error("{name} does not hold the CA's key; ask {}", if .signers.is_empty() { "a host that does".into() } else { .signers.join(" or ") })]
    NoSigner {
        /// Of this host.
        name: String,
        /// Hosts that do hold it.
        signers: Vec<String>,
    },
    /// Operator: too long or no time at all.
    #[error("a token lives 1 s to 30 days, not {0:?}; give another --ttl")]
    Ttl(Duration),
    /// Operator: too many or none.
    #[error("a token is good for 1 to {MAX_USES} hosts, not {0}; give another --uses")]
    Uses(u32),
    /// Us: a token names 1 to 16 addresses.
    #[error("a token names 1 to {MAX_ADDRESSES} addresses, not {0}")]
    Addresses(usize),
    /// Operator: enough tokens.
    #[error("there are {MAX_LIVE} unused tokens already; let some expire, or use one of them")]
    TooMany,
    /// Files, keys and randomness.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// What a host without the CA's key answers to a join.
pub fn no_authority(name: &str) -> Refusal {
    let text = format!("{name} does not hold the CA's key; use a token with the address of a host that does");
    refusal(Reason::NoAuthority, text)
}

/// Whether a zone has room for one host more, and its name is not mistaken for another's.
pub fn check_zone(authority: &Authority, view: &View, zone: &str, now_unix: u64) -> Result<(), Refusal> {
    if !is_name(zone) {
        let text = "the zone must be 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit";
        return Err(refusal(Reason::Malformed, text));
    }
    let id = ZoneId::of(zone).to_string();
    let hosts = match view.zones.iter().find(|known| known.id == id) {
        Some(known) if known.name != zone => {
            let text = format!("zone {zone} would have the same id as zone {}; choose another name", known.name);
            return Err(refusal(Reason::Zone, text));
        }
        Some(known) if known.local => {
            let known_by_gossip = |name: &str| view.hosts.iter().any(|host| host.name == name);
            let coming = authority.recent(zone, RECENT_SECONDS, now_unix).filter(|name| !known_by_gossip(name));
            known.hosts as usize + coming.count()
        }
        Some(known) => known.hosts as usize + authority.recent(zone, RECORD_SECONDS, now_unix).count(),
        // Before the first snapshot no zone is known, not even our own.
        None if view.zones.len() >= MAX_ZONES => {
            let text = format!("the cluster has {MAX_ZONES} zones, the most that it may have; join one of them");
            return Err(refusal(Reason::Zone, text));
        }
        None => authority.recent(zone, RECENT_SECONDS, now_unix).count(),
    };
    if hosts >= MAX_HOSTS {
        let text = format!(
            "zone {zone} has {MAX_HOSTS} hosts, the most that a zone may have; join another zone, or a new one, with --zone"
        );
        return Err(refusal(Reason::ZoneFull, text));
    }
    Ok(())
}

impl Authority {
    /// Reads the tokens. Needs the CA's key. One `Authority` per state directory at a time.
    pub fn open(identity: &Identity, state_dir: &Path) -> Result<Self, AuthorityError> {
        let Some(ca) = identity.authority()? else {
            let path = super::directory(state_dir).join("ca.key");
            return Err(AuthorityError::NoKey { name: identity.name.clone(), path });
        };
        Ok(Self {
            cluster: identity.cluster,
            ring_seed: identity.ring_seed,
            ca: Arc::new(ca),
            lifetime: cert::LEAF_LIFETIME,
            authorities: identity.authorities.clone(),
            own: (identity.name.clone(), identity.host),
            tokens: TokenFile::open(state_dir, identity.cluster)?,
            recent: VecDeque::new(),
        })
    }

    /// From now on signs with the CA that the keyring signs with, for as long as it says. Without that key: changes nothing.
    pub fn follow(&mut self, keyring: &Keyring) {
        let held = keyring.held();
        if let Some(ca) = &held.signer {
            self.ca = Arc::clone(ca);
            self.authorities.clone_from(&held.trust.authorities);
            self.lifetime = keyring.lifetime();
        }
    }

    /// Makes a token for `uses` hosts, which find this one at `addresses`. On disk before it returns.
    pub fn create_token(
        &mut self,
        ttl: Duration,
        uses: u32,
        addresses: Vec<SocketAddr>,
        now_unix: u64,
    ) -> Result<Token, AuthorityError> {
        if ttl < Duration::from_secs(1) || ttl > MAX_TTL {
            return Err(AuthorityError::Ttl(ttl));
        }
        let (1..=MAX_USES, Ok(uses_left)) = (uses, u16::try_from(uses)) else {
            return Err(AuthorityError::Uses(uses));
        };
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            return Err(AuthorityError::Addresses(addresses.len()));
        }
        if self.tokens.live(now_unix) >= MAX_LIVE {
            return Err(AuthorityError::TooMany);
        }
        let (mut id, mut secret) = ([0; 8], [0; 16]);
        cert::random(&mut id)?;
        cert::random(&mut secret)?;
        let expires_at = now_unix.saturating_add(ttl.as_secs());
        self.tokens.add(id, &secret, expires_at, uses_left, now_unix)?;
        let ca_fingerprint = cert::fingerprint(&self.ca.certificate);
        Ok(Token { id, secret, ca_fingerprint, expires_at, uses: uses_left, addresses })
    }

    /// Signs for a host that brings a token, and takes one use off it; the caller adds the seeds.
    ///
    /// The use is off on disk before the certificate is out: a crash between costs a use and never gives two. A request
    /// that is refused costs none. Of the signing request only the public key counts.
    pub fn admit(
        &mut self,
        request: &JoinRequest,
        now_unix: u64,
        name_taken: impl Fn(&str) -> bool,
        id_taken: impl Fn(HostId) -> bool,
    ) -> Result<JoinResponse, Refusal> {
        let (id, secret) = (&request.token_id[..], &request.token_secret[..]);
        self.tokens.check(id, secret, now_unix).map_err(unusable)?;
        self.forget(now_unix);
        let name = &request.name;
        if !is_name(name) {
            let text = "the name must be 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit";
            return Err(refusal(Reason::Malformed, text));
        }
        if name_taken(name) || *name == self.own.0 || self.recent.iter().any(|given| given.name == *name) {
            let text = format!("there is a host named {name} already; give this one another name");
            return Err(refusal(Reason::NameTaken, text));
        }
        let key = cert::requested_key(&request.csr).map_err(|text| refusal(Reason::Malformed, text))?;
        let host = self.new_host_id(id_taken).map_err(|error| ours("choose an id", &error))?;
        let identity = PeerIdentity { cluster: self.cluster, role: Role::Host(host) };
        let certificate = self
            .ca
            .sign(&key, &identity, name, now_unix, self.lifetime)
            .map_err(|error| ours("sign a certificate", &error))?;
        self.tokens.take_use(id, secret, now_unix).map_err(|error| match error {
            TakeError::Unusable(reason) => unusable(reason),
            TakeError::Disk(error) => ours("write down the use of the token", &error),
        })?;
        tracing::info!(%host, name, "admitted a host");
        self.remember(name.clone(), request.zone.clone(), host, now_unix);
        Ok(JoinResponse {
            cluster: self.cluster.raw(),
            host: host.raw(),
            certificate: certificate.to_vec().into(),
            authorities: self.authorities.iter().map(|authority| authority.to_vec().into()).collect(),
            ring_seed: self.ring_seed,
            seeds: Vec::new(),
            zones: Vec::new(),
        })
    }

    /// The names of the hosts that were admitted to a zone within the last seconds, which may not be known by gossip yet.
    pub fn recent(&self, zone: &str, seconds: u64, now_unix: u64) -> impl Iterator<Item = &str> {
        let recent = self.recent.iter().filter(move |given| now_unix.saturating_sub(given.at_unix) < seconds);
        recent.filter(move |given| given.zone == zone).map(|given| given.name.as_str())
    }

    /// Whether a request brings a good token: who has none learns nothing of the cluster, and makes nobody work.
    pub fn check_token(&self, request: &JoinRequest, now_unix: u64) -> Result<(), Refusal> {
        self.tokens.check(&request.token_id[..], &request.token_secret[..], now_unix).map_err(unusable)
    }

    fn new_host_id(&self, id_taken: impl Fn(HostId) -> bool) -> Result<HostId, IdentityError> {
        let taken = |host: HostId| {
            host.raw() == 0
                || host == self.own.1
                || id_taken(host)
                || self.recent.iter().any(|given| given.host == host)
        };
        for _ in 0..ID_TRIES {
            let host = random_host_id()?;
            if !taken(host) {
                return Ok(host);
            }
        }
        Err(rustls::Error::FailedToGetRandomBytes.into())
    }

    fn remember(&mut self, name: String, zone: String, host: HostId, now_unix: u64) {
        if self.recent.len() == MAX_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(Given { name, zone, host, at_unix: now_unix });
    }

    fn forget(&mut self, now_unix: u64) {
        self.recent.retain(|given| now_unix.saturating_sub(given.at_unix) < RECENT_SECONDS);
    }
}

/// A random id; zero, which no host has, among them.
pub(super) fn random_host_id() -> Result<HostId, IdentityError> {
    let mut bytes = [0; 4];
    cert::random(&mut bytes)?;
    Ok(HostId::new(u32::from_be_bytes(bytes)))
}

fn unusable(reason: Unusable) -> Refusal {
    let text = match reason {
        Unusable::Unknown => "this token is not known here; make one with `ringmesh token create`".into(),
        Unusable::Expired(at) => format!("the token expired at {}; make a new one", utc(at)),
        Unusable::UsedUp => "the token was used as often as it may be; make a new one".into(),
    };
    refusal(Reason::Token, text)
}

/// The details are for our log, not for whoever asked.
fn ours(action: &'static str, error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::error!(error, action, "a join failed here");
    refusal(Reason::Busy, format!("the host could not {action}; its log says why"))
}

/// A Unix second as people read it.
pub(crate) fn utc(unix: u64) -> String {
    let time = i64::try_from(unix).ok().and_then(|unix| jiff::Timestamp::from_second(unix).ok());
    time.map_or_else(|| format!("second {unix}"), |time| time.to_string())
}
