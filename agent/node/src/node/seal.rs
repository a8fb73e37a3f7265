//! What others pass on counts only with the seal of who said it, and only with it goes on to the next.
//!
//! It owns what is done with bad ones. Of a sender nothing else follows: it may have been deceived itself.

use std::time::Duration;

use bytes::Bytes;
use ringmesh_proto::{
    HostId, Instant, Now,
    peer::Gossip,
    seal::{Sealed, sealed_bytes},
};

use super::Node;

/// Bad seals from one sender in a second, after which what it passes on is refused unread: each costs a check of a signature.
const MAX_BAD: u32 = 16;

/// Between two lines in the log about the same sender.
const LOGGED: Duration = Duration::from_secs(60);

/// What a sender has passed on that was not sealed.
#[derive(Default)]
pub(super) struct Doubt {
    second: Instant,
    bad: u32,
    logged: Option<Instant>,
}

impl Doubt {
    fn exhausts(&self, now: Instant) -> bool {
        self.bad >= MAX_BAD && now.since(self.second) < Duration::from_secs(1)
    }

    /// True when it is to be logged.
    fn add(&mut self, now: Instant) -> bool {
        if now.since(self.second) >= Duration::from_secs(1) {
            (self.second, self.bad) = (now, 0);
        }
        self.bad += 1;
        let log = self.logged.is_none_or(|logged| now.since(logged) >= LOGGED);
        if log {
            self.logged = Some(now);
        }
        log
    }
}

impl Node {
    /// Seals what this host says.
    pub(super) fn seal<R: Sealed>(&mut self, record: &mut R) {
        let seal = self.seals.seal(&sealed_bytes(record, self.config.cluster));
        *record.seal_mut() = seal;
    }

    /// Leaves of the records and accusations that `from` passes on those that are sealed.
    pub(super) fn refuse_unsealed(&mut self, now: Now, from: HostId, gossip: &mut Gossip) {
        gossip.hosts.retain_mut(|record| {
            let certificate = record.certificate.clone();
            self.store.holds_host(record) || self.is_sealed(now, from, record, &certificate)
        });
        let hosts = &gossip.hosts;
        gossip.accusations.retain_mut(|record| {
            if self.store.holds_accusation(record) {
                return true;
            }
            let accuser = HostId::new(record.accuser);
            let newest = hosts.iter().rfind(|host| host.host == record.accuser);
            let newest = newest.or_else(|| self.store.host(accuser).map(|heard| &heard.record));
            // Its record will come, and the accusation once more with the next sync.
            let Some(certificate) = newest.map(|record| record.certificate.clone()) else {
                self.count("accusations_early");
                return false;
            };
            self.is_sealed(now, from, record, &certificate)
        });
    }

    fn is_sealed<R: Sealed>(&mut self, now: Now, from: HostId, record: &mut R, certificate: &Bytes) -> bool {
        let doubt = self.doubts.get(&from);
        let unread = doubt.is_some_and(|doubt| doubt.exhausts(now.instant));
        let writer = record.writer();
        let good = !unread && {
            let bytes = sealed_bytes(record, self.config.cluster);
            self.seals.verify(writer, certificate, &bytes, record.seal_mut())
        };
        if !good {
            self.count("seals_refused");
        }
        if !good && !unread && self.doubts.entry(from).or_default().add(now.instant) {
            let (sender, writer) = (self.name_of(from), self.name_of(writer));
            tracing::warn!(
                %from, sender, writer,
                "a record without a good seal of the host that it is said to be of was refused: somebody lies, or has \
                 another CA; it came by way of `sender`"
            );
        }
        good
    }
}
