//! The joining side of a join: dials the addresses of a token, asks once, and checks every part of the answer.
//!
//! It owns one short-lived QUIC endpoint and writes nothing to the disk.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use quinn::{ClientConfig, Connection, Endpoint, TransportConfig, VarInt, crypto::rustls::QuicClientConfig};
use rcgen::KeyPair;
use ringmesh_node::{
    Chords,
    zones::{KnownZone, MAX_ZONES},
};
use ringmesh_proto::{
    ClusterId, HostId,
    frame::{self, PREFIX_LEN},
    member::Member,
    peer::{JoinRequest, JoinResponse, Refusal, Request, ZoneRecord, refusal::Reason, request, response},
    token::Token,
};
use ringmesh_topology::zone::DELEGATES;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, UnixTime};
use tokio::time::timeout;

use super::{
    IdentityError,
    admission::utc,
    cert::{self, fingerprint, is_key_of, verify},
    name::{PeerIdentity, Role},
    seeds::MAX_SEEDS,
    state::MAX_AUTHORITIES,
    tls,
};
use crate::config::is_name;

/// For the handshake with one address, from one uplink. With 16 addresses and two uplinks: at most 96 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// For the answer, once connected: the issuer waits for its disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// For the other end to hear that we are done.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A certificate, some CAs and [`MAX_SEEDS`] members take less than half of it.
const MAX_ANSWER: usize = 64 * 1024;

/// Characters of a refusal that are shown.
const MAX_TEXT: usize = 300;

/// The joining host does not know the other one's name; the token's pin stands in for it.
const ANY_NAME: &str = "join.ringmesh";

/// Why a join failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Operator: the token is too old, by this host's clock.
    #[error("the join token expired at {at}, and it is {now}; make a new one with `ringmesh token create`")]
    Expired {
        /// UTC.
        at: String,
        /// UTC.
        now: String,
    },
    /// Platform or operator: no address answers.
    #[error(
        "no host of the cluster answers: {tried}; check that an agent runs there, the uplinks, and firewalls (UDP)"
    )]
    Unreachable {
        /// Each address, with the reason.
        tried: String,
    },
    /// Somebody answers, under another CA than the token's.
    #[error(
        "{address} answers, but its CA is not the token's: this is another cluster, or somebody in the middle; \
         make a new token at the host you mean to join"
    )]
    Fingerprint {
        /// Who answered.
        address: SocketAddr,
    },
    /// The cluster says no.
    #[error("{address} refuses: {text}")]
    Refused {
        /// Who answered.
        address: SocketAddr,
        /// For programs.
        reason: Reason,
        /// For people.
        text: String,
    },
    /// The connection broke after the question.
    #[error("{address} did not answer ({reason}); try again, with a new token if this one was for a single host")]
    NoAnswer {
        /// Who was asked.
        address: SocketAddr,
        /// What the connection says.
        reason: String,
    },
    /// Peer: an answer that makes no sense.
    #[error("{address} answered wrongly: {problem}; use the same release of ringmesh on both hosts")]
    Answer {
        /// Who answered.
        address: SocketAddr,
        /// What is wrong with it.
        problem: String,
    },
    /// Platform: no runtime.
    #[error("cannot start a runtime")]
    Runtime(#[source] io::Error),
}

/// What a host is after a join.
pub(super) struct Joined {
    pub(super) cluster: ClusterId,
    pub(super) host: HostId,
    pub(super) ring_seed: u64,
    pub(super) chords: Chords,
    pub(super) key: KeyPair,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) authorities: Vec<CertificateDer<'static>>,
    pub(super) seeds: Vec<Member>,
    pub(super) zones: Vec<KnownZone>,
    pub(super) via: SocketAddr,
}

/// Refuses an expired token without a word over the network.
pub(super) fn refuse_expired(token: &Token, now_unix: u64) -> Result<(), JoinError> {
    if token.expires_at > now_unix {
        return Ok(());
    }
    Err(JoinError::Expired { at: utc(token.expires_at), now: utc(now_unix) })
}

/// Asks the hosts that the token names, from uplink A and, if none answers there, from uplink B. Blocks.
pub(super) fn ask(
    token: &Token,
    name: &str,
    zone: &str,
    uplinks: [Option<IpAddr>; 2],
) -> Result<Joined, IdentityError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(JoinError::Runtime)?;
    runtime.block_on(ask_any(token, name, zone, uplinks))
}

async fn ask_any(token: &Token, name: &str, zone: &str, uplinks: [Option<IpAddr>; 2]) -> Result<Joined, IdentityError> {
    let mut tried = Vec::new();
    let mut stranger = None;
    for (uplink, local) in ["a", "b"].into_iter().zip(uplinks) {
        let Some(local) = local else { continue };
        let endpoint = Endpoint::client((local, 0).into()).map_err(|source| IdentityError::Uplink {
            uplink,
            address: local,
            source,
        })?;
        for &address in &token.addresses {
            if address.is_ipv4() != local.is_ipv4() {
                tried.push(format!("{address} (no uplink {uplink} of that address family)"));
                continue;
            }
            match connect(&endpoint, address, token).await? {
                Ok(connection) => {
                    let joined = ask_one(&connection, address, token, name, zone).await;
                    connection.close(VarInt::from_u32(0), b"done");
                    let _ = timeout(CLOSE_TIMEOUT, endpoint.wait_idle()).await;
                    return joined;
                }
                // Its address may have gone to another cluster; the next one may be right.
                Err(NotConnected::Stranger) => stranger = Some(address),
                Err(NotConnected::Failed(reason)) => tried.push(format!("{address} from {local} ({reason})")),
            }
        }
    }
    match stranger {
        Some(address) => Err(JoinError::Fingerprint { address }.into()),
        None => Err(JoinError::Unreachable { tried: tried.join(", ") }.into()),
    }
}

enum NotConnected {
    /// The CA is not the token's.
    Stranger,
    /// Anything else.
    Failed(String),
}

async fn connect(
    endpoint: &Endpoint,
    address: SocketAddr,
    token: &Token,
) -> Result<Result<Connection, NotConnected>, IdentityError> {
    let (config, verifier) = tls::join_client(token.ca_fingerprint)?;
    let config = QuicClientConfig::try_from(config).expect("ring has the suite of QUIC's first packets");
    let mut config = ClientConfig::new(Arc::new(config));
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(VarInt::from_u32(2 * ANSWER_TIMEOUT.as_millis() as u32).into()));
    config.transport_config(Arc::new(transport));
    let connecting = match endpoint.connect_with(config, address, ANY_NAME) {
        Ok(connecting) => connecting,
        Err(error) => return Ok(Err(NotConnected::Failed(error.to_string()))),
    };
    Ok(match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(_)) if verifier.fingerprint_missing() => Err(NotConnected::Stranger),
        Ok(Err(error)) if verifier.signed_by_another() => Err(NotConnected::Failed(format!(
            "{}: the cluster's CA was changed since this token was made; make a new one",
            one_line(&error.to_string())
        ))),
        Ok(Err(error)) => Err(NotConnected::Failed(one_line(&error.to_string()))),
        Err(_) => Err(NotConnected::Failed(format!("no answer in {CONNECT_TIMEOUT:?}"))),
    })
}

async fn ask_one(
    connection: &Connection,
    address: SocketAddr,
    token: &Token,
    name: &str,
    zone: &str,
) -> Result<Joined, IdentityError> {
    let (key, csr) = cert::request()?;
    let request = join_request(token, name, zone, &csr);
    let answer = match timeout(ANSWER_TIMEOUT, exchange(connection, &request)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(reason)) => return Err(JoinError::NoAnswer { address, reason: one_line(&reason) }.into()),
        Err(_) => {
            let reason = format!("nothing in {ANSWER_TIMEOUT:?}");
            return Err(JoinError::NoAnswer { address, reason }.into());
        }
    };
    let wrong = |problem: &str| JoinError::Answer { address, problem: problem.to_owned() };
    let response = frame::decode_response(&answer[..]).map_err(|error| wrong(&one_line(&error.to_string())))?;
    let response = match response.body {
        Some(response::Body::Join(response)) => response,
        Some(response::Body::Refusal(refusal)) => return Err(refused(address, &refusal).into()),
        Some(
            response::Body::Sync(_)
            | response::Body::Query(_)
            | response::Body::Renew(_)
            | response::Body::Share(_)
            | response::Body::Order(_),
        )
        | None => {
            return Err(wrong("it is no answer to a join").into());
        }
    };
    let server = tls::peer_certificates(connection).unwrap_or_default();
    check(response, key, &server, token, address).map_err(|problem| wrong(problem).into())
}

fn join_request(token: &Token, name: &str, zone: &str, csr: &CertificateSigningRequestDer<'_>) -> Request {
    let join = JoinRequest {
        token_id: token.id.to_vec().into(),
        token_secret: token.secret.to_vec().into(),
        name: name.to_owned(),
        csr: csr.to_vec().into(),
        zone: zone.to_owned(),
    };
    Request { version: frame::VERSION, cluster: 0, body: Some(request::Body::Join(join)) }
}

/// One request, one response, both with their bounds.
async fn exchange(connection: &Connection, request: &Request) -> Result<Vec<u8>, String> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(|error| error.to_string())?;
    send.write_all(&frame::encode(request)).await.map_err(|error| error.to_string())?;
    send.finish().map_err(|error| error.to_string())?;
    let mut prefix = [0; PREFIX_LEN];
    receive.read_exact(&mut prefix).await.map_err(|error| error.to_string())?;
    let len = frame::decode_prefix(prefix, MAX_ANSWER).map_err(|error| error.to_string())?;
    let mut answer = vec![0; len];
    receive.read_exact(&mut answer).await.map_err(|error| error.to_string())?;
    Ok(answer)
}

/// Nothing that the answer says is believed unless it fits the token, our key and the connection.
fn check(
    response: JoinResponse,
    key: KeyPair,
    server: &[CertificateDer<'static>],
    token: &Token,
    via: SocketAddr,
) -> Result<Joined, &'static str> {
    let (cluster, host) = (ClusterId::new(response.cluster), HostId::new(response.host));
    let server = server.first().and_then(|certificate| PeerIdentity::from_certificate(certificate).ok());
    if server.is_none_or(|server| server.cluster != cluster) {
        return Err("it speaks for another cluster than its own");
    }
    if response.authorities.len() > MAX_AUTHORITIES {
        return Err("it sent too many CA certificates");
    }
    let authorities: Vec<_> = response.authorities.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    if authorities.iter().any(|authority| webpki::anchor_from_trusted_cert(authority).is_err()) {
        return Err("it sent a malformed CA certificate");
    }
    let Some(pinned) = authorities.iter().find(|authority| fingerprint(authority) == token.ca_fingerprint) else {
        return Err("it did not send the CA certificate that the token names");
    };
    let certificate = CertificateDer::from(response.certificate.to_vec());
    let role = Role::Host(host);
    verify(&certificate, std::slice::from_ref(pinned), &role, UnixTime::now()).map_err(|error| {
        if matches!(error, webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. }) {
            return "the certificate is not valid now (is a clock wrong?)";
        }
        "the certificate was not signed by the token's CA"
    })?;
    if !is_key_of(&key, &certificate) {
        return Err("the certificate is for another key");
    }
    if PeerIdentity::from_certificate(&certificate) != Ok(PeerIdentity { cluster, role }) {
        return Err("the certificate names another host or cluster");
    }
    let seeds = response.seeds.iter().take(MAX_SEEDS).map(Member::try_from).collect::<Result<_, _>>();
    let seeds = seeds.map_err(|_| "it sent a malformed member")?;
    let zones = response.zones.iter().take(MAX_ZONES).map(known_zone).collect::<Option<_>>();
    let zones = zones.ok_or("it sent a malformed zone")?;
    // Hosts of the first versions say nothing of it.
    let chords = if response.chords.is_empty() { Ok(Chords::Auto) } else { response.chords.parse() };
    let chords = chords.map_err(|_| "its cluster goes by chords that this version does not know")?;
    let ring_seed = response.ring_seed;
    Ok(Joined { cluster, host, ring_seed, chords, key, certificate, authorities, seeds, zones, via })
}

fn known_zone(record: &ZoneRecord) -> Option<KnownZone> {
    let members = record.delegates.iter().take(DELEGATES).filter_map(|delegate| delegate.member.as_ref());
    let delegates = members.map(Member::try_from).collect::<Result<_, _>>().ok()?;
    is_name(&record.name).then(|| KnownZone { name: record.name.clone(), delegates })
}

fn refused(address: SocketAddr, refusal: &Refusal) -> JoinError {
    let text = if refusal.text.is_empty() { "it does not say why".into() } else { one_line(&refusal.text) };
    JoinError::Refused { address, reason: refusal.reason(), text }
}

/// A peer's words, fit for a terminal.
fn one_line(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
