//! What the cluster's CA says, as it concerns membership: a revoked host is gone, and stays so.
//!
//! It owns no check of a signature: the daemon hands in only what it has verified.

#[cfg(test)]
mod tests;

use ringmesh_proto::{
    HostId, Now,
    peer::{ReplicaRecord, SignedRecord},
    v1,
};

use super::Node;
use crate::membership::Change;

/// What this host's own record says of its certificate. CAs are named by the first 8 bytes of their fingerprints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// The CA that signed it.
    pub issuer: u64,
    /// When it ends, in Unix seconds.
    pub ends_unix: u64,
    /// The CA whose key this host holds; 0: none.
    pub signs_with: u64,
}

impl Node {
    /// Verified records that came from a host, or (`None`) from this host's disk or operator.
    pub fn handle_signed(&mut self, now: Now, from: Option<HostId>, records: Vec<SignedRecord>) {
        self.begin_turn(now);
        let (new, revoked) = self.store.accept_signed(now, records);
        for host in revoked {
            self.host_revoked(now, host);
        }
        if !new.is_empty() {
            self.signed_over_trunks(now, &new, from);
        }
        self.outbox.relay_signed(new, from);
        self.settle(now);
    }

    /// This host has another certificate, or another key of the CA.
    pub fn handle_certificate(&mut self, now: Now, certificate: Certificate) {
        self.begin_turn(now);
        if self.own.certificate != certificate {
            self.own.certificate = certificate;
            self.write_record(now);
            self.settle(now);
        }
    }

    /// This host holds this of the configuration now.
    pub fn handle_replica(&mut self, now: Now, replica: Option<ReplicaRecord>) {
        self.begin_turn(now);
        if self.own.replica != replica {
            self.own.replica = replica;
            self.write_record(now);
            self.settle(now);
        }
    }

    fn host_revoked(&mut self, now: Now, host: HostId) {
        if host == self.me().id {
            let text = "was revoked: it must join the cluster again, with a new token";
            return self.tell_host(now, "host-revoked", host, v1::event::Severity::Critical, text);
        }
        let known = self.membership.state(host).is_some() || self.store.host(host).is_some();
        self.store.forget_accusations(host);
        self.membership.forget(host);
        self.membership.confirm_down(now.instant, host);
        // After a restart of this host it is no news.
        if known {
            self.since.insert(host, now);
            let text = "was revoked: its certificates do not count any more";
            self.tell_host(now, "host-revoked", host, v1::event::Severity::Warning, text);
        }
        self.rebuild_rings(now);
        self.persist();
        self.shown.hosts_stale();
    }

    pub(super) fn is_revoked(&self, host: HostId) -> bool {
        self.store.signed().is_revoked(host)
    }

    /// What SWIM says of a revoked host is no news: who has not heard of the revocation yet may still speak for it.
    pub(super) fn is_of_revoked(&mut self, now: Now, change: &Change) -> bool {
        let host = match change {
            Change::Alive(member) | Change::Renamed(member) | Change::Suspect(member) => member.id,
            Change::ProbeFailed(host) => *host,
            Change::Down(_) | Change::Renewed(_) | Change::Hearsay | Change::Active | Change::Paused(_) => {
                return false;
            }
        };
        if !self.is_revoked(host) {
            return false;
        }
        self.membership.forget(host);
        self.membership.confirm_down(now.instant, host);
        true
    }
}
