//! What the CA of the cluster says, on its way through a connection: checked before anything else sees it.
//!
//! It owns what is done with a connection whose certificate is revoked, and what the end of one says of our own.

use std::{
    collections::BTreeMap,
    sync::{Mutex, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;
use quinn::{Connection, ConnectionError, VarInt};
use ringmesh_proto::{
    HostId, Uplink,
    frame::refusal,
    peer::{Refusal, RenewRequest, RenewResponse, ShareRequest, ShareResponse, SignedRecord, refusal::Reason},
    signed::Statement,
};

use super::{Inbound, Transport, dial};
use crate::{
    clock,
    counters::count,
    identity::{
        keyring::{Keyring, Shown, Trouble},
        tls,
    },
};

/// The other end's certificate is revoked; the reason of the close is the record that says so.
const REVOKED: u32 = 3;

/// Between two certificates for the same host.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);

/// When a CA is gone, connections whose other end has shown a certificate of it are replaced within this time.
const REPLACE_WITHIN: Duration = Duration::from_secs(1);

/// The end with the higher id leaves that to the other for so long.
const REPLACE_BY_OTHER: Duration = Duration::from_secs(3);

/// After that the old connection goes, whether there is a new one or not.
const REPLACED: Duration = Duration::from_secs(2);

/// QUIC's code of a TLS alert: RFC 9001 §4.8; the alerts: RFC 8446 §6.
const ALERTS: [(u64, Trouble); 3] =
    [(0x100 | 44, Trouble::Revoked), (0x100 | 45, Trouble::Expired), (0x100 | 48, Trouble::UnknownAuthority)];

/// Who was given a certificate when, within [`RENEWAL_INTERVAL`].
#[derive(Default)]
pub(super) struct Renewals(Mutex<BTreeMap<HostId, Instant>>);

impl Renewals {
    fn may(&self, host: HostId) -> bool {
        let mut given = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        given.retain(|_, at| at.elapsed() < RENEWAL_INTERVAL);
        let may = !given.contains_key(&host);
        given.entry(host).or_insert_with(Instant::now);
        may
    }
}

impl Transport {
    /// Tells all hosts what this host's CA says, by way of the host loop.
    pub async fn spread(&self, records: Vec<SignedRecord>) {
        // Fails only when the agent ends.
        let _ = self.shared.inbound.send(Inbound::Signed { from: None, records }).await;
    }

    /// Checks records, keeps them, and hands on what is new.
    pub(crate) async fn learn(&self, from: Option<HostId>, records: Vec<SignedRecord>) {
        let (keyring, counters) = (&self.shared.keyring, &self.shared.counters);
        let news: Vec<_> = records.into_iter().filter(|record| !keyring.has(record)).collect();
        if news.is_empty() {
            return;
        }
        let keyring = std::sync::Arc::clone(keyring);
        // Signatures, and a write to the disk.
        let accepted = tokio::task::spawn_blocking(move || keyring.accept(&news, clock::unix().0 / 1000)).await;
        match accepted {
            Ok(Ok(accepted)) => {
                counters.signed_records_refused.fetch_add(accepted.refused, Relaxed);
                counters.signed_records_stale.fetch_add(accepted.stale, Relaxed);
                if !accepted.new.is_empty() {
                    let _ = self.shared.inbound.send(Inbound::Signed { from, records: accepted.new }).await;
                }
            }
            Ok(Err(error)) => tracing::error!(%error, "cannot write down what the cluster's CA says"),
            Err(error) => tracing::error!(%error, "the check of a record ended"),
        }
    }

    /// What the end of a connection, or of a try to open one, says of our own certificate.
    pub(super) async fn note_close(&self, error: &ConnectionError) {
        match error {
            ConnectionError::ApplicationClosed(close) if close.error_code == VarInt::from_u32(REVOKED) => {
                self.shared.keyring.note(Trouble::Revoked);
                if let Ok(record) = SignedRecord::decode(&close.reason[..]) {
                    self.learn(None, vec![record]).await;
                }
            }
            ConnectionError::ConnectionClosed(close) => {
                let code = u64::from(close.error_code);
                if let Some((_, trouble)) = ALERTS.iter().find(|(alert, _)| *alert == code) {
                    self.shared.keyring.note(*trouble);
                }
            }
            ConnectionError::ApplicationClosed(_)
            | ConnectionError::VersionMismatch
            | ConnectionError::TransportError(_)
            | ConnectionError::Reset
            | ConnectionError::TimedOut
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted => {}
        }
    }

    /// Closes a connection whose other end's certificate is revoked, and tells it why; false if it is not.
    pub(super) fn close_if_revoked(&self, connection: &Connection, shown: Option<&Shown>) -> bool {
        let Some(shown) = shown.filter(|shown| self.shared.keyring.is_shown_revoked(shown)) else { return false };
        let record = self.shared.keyring.revocation_of(shown);
        let reason = record.map_or_else(|| Bytes::from_static(b"revoked"), |record| record.encode_to_vec().into());
        count(&self.shared.counters.connections_revoked);
        tracing::info!(from = %connection.remote_address(), "closed the connection of a revoked host");
        connection.close(VarInt::from_u32(REVOKED), &reason);
        true
    }

    /// Whether the other end's certificate is of a CA that is not trusted any more.
    pub(super) fn is_outdated(&self, connection: &Connection) -> bool {
        let shown = tls::peer_certificates(connection).unwrap_or_default();
        shown.first().is_some_and(|certificate| !self.shared.keyring.is_trusted(certificate))
    }

    /// Makes another connection with the certificates of today, and then ends this one: a CA is replaced because its key may
    /// have been stolen, and who used it must not stay. Nothing that is sent is lost: the table keeps both for a moment.
    pub(super) async fn replace(self, host: HostId, uplink: Uplink, connection: Connection) {
        let me = self.shared.keyring.host;
        let place = u64::from((me.raw() ^ host.raw()) % 1000);
        tokio::time::sleep(REPLACE_WITHIN * u32::try_from(place).unwrap_or(0) / 1000).await;
        if me > host {
            tokio::time::sleep(REPLACE_BY_OTHER).await;
        }
        if connection.close_reason().is_some() {
            return;
        }
        // Hosts dial from the port on which they listen.
        dial::dial(self.clone(), host, uplink, connection.remote_address()).await;
        tokio::time::sleep(REPLACED).await;
        connection.close(VarInt::from_u32(0), b"its certificate is of a CA that is gone");
    }

    /// Signs for the host at the other end of a connection.
    pub(super) async fn renew_for(&self, from: HostId, request: RenewRequest) -> Result<RenewResponse, Refusal> {
        let (keyring, view) = (&self.shared.keyring, self.shared.requests.view.borrow().clone());
        if keyring.is_revoked(from) {
            return Err(refusal(Reason::Revoked, "this host was revoked; it must join again with a new token"));
        }
        if !keyring.is_signer() {
            let text = format!("{} does not hold the key of the CA that signs", keyring.name);
            return Err(refusal(Reason::NoAuthority, text));
        }
        if !self.shared.renewals.may(from) {
            return Err(refusal(Reason::Busy, "this host was given a certificate just now"));
        }
        let id = from.to_string();
        let name = view.hosts.iter().find(|host| host.id == id).map_or(id.clone(), |host| host.name.clone());
        let signing = std::sync::Arc::clone(keyring);
        let signed =
            tokio::task::spawn_blocking(move || signing.sign(&request.csr, from, &name, clock::unix().0 / 1000)).await;
        match signed {
            Ok(Ok(certificate)) => {
                count(&self.shared.counters.certificates_signed);
                Ok(RenewResponse { certificate: certificate.into(), trust: keyring.trust_record() })
            }
            Ok(Err(error)) => Err(refusal(Reason::Malformed, error.to_string())),
            Err(_) => Err(refusal(Reason::Busy, "this host is busy; ask again")),
        }
    }

    /// Takes the CA's key. Whoever has it is the CA: there is nothing else to prove.
    pub(super) async fn take_key(&self, request: ShareRequest) -> Result<ShareResponse, Refusal> {
        let keyring = std::sync::Arc::clone(&self.shared.keyring);
        let taken = tokio::task::spawn_blocking(move || keyring.install_authority_key(request.key.to_vec())).await;
        match taken {
            Ok(Ok(())) => Ok(ShareResponse {}),
            Ok(Err(error)) => Err(refusal(Reason::Malformed, error.to_string())),
            Err(_) => Err(refusal(Reason::Busy, "this host is busy; ask again")),
        }
    }
}

/// Which certificate the other end has shown.
pub(super) fn shown(connection: &Connection) -> Option<Shown> {
    tls::peer_certificates(connection)?.first().and_then(Shown::of)
}

impl Keyring {
    /// Whether a record says nothing new, without a look at its signature.
    fn has(&self, record: &SignedRecord) -> bool {
        let ours = match ringmesh_proto::signed::parse(record) {
            Ok(Statement::Trust(_)) => self.trust_record(),
            Ok(Statement::Revocation { host, serial, .. }) => self.revocation(host, serial),
            Err(_) => None,
        };
        ours.is_some_and(|ours| (ours.version, ours.body) == (record.version, record.body.clone()))
    }
}
