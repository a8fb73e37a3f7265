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

/// Records and accusations that one host may write in a second; of a host that loses half of a zone at once some hundred are to be
/// expected. Each costs all hosts a check and a message to all neighbours. The rest comes with a sync.
const MAX_WRITTEN: u32 = 256;

/// Between two lines in the log about the same sender.
const LOGGED: Duration = Duration::from_secs(60);

/// What a host has lately cost this one.
#[derive(Default)]
pub(super) struct Cost {
    second: Instant,
    /// What it passed on in this second that was not sealed.
    bad: u32,
    /// What it sealed that came in this second.
    written: u32,
    logged: Option<Instant>,
}

impl Cost {
    fn begin(&mut self, now: Instant) -> &mut Self {
        if now.since(self.second) >= Duration::from_secs(1) {
            *self = Self { second: now, logged: self.logged, ..Self::default() };
        }
        self
    }

    fn is_to_be_logged(&mut self, now: Instant) -> bool {
        let log = self.logged.is_none_or(|logged| now.since(logged) >= LOGGED);
        self.logged = if log { Some(now) } else { self.logged };
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
        gossip.hosts.retain(|record| {
            self.store.holds_host(record) || self.is_sealed(now, from, &**record, &record.certificate)
        });
        let hosts = &gossip.hosts;
        gossip.accusations.retain(|record| {
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

    /// To be called now and then.
    pub(super) fn forget_costs(&mut self, now: Now) {
        self.costs.retain(|_, cost| now.instant.since(cost.second) < LOGGED);
    }

    fn is_sealed<R: Sealed>(&mut self, now: Now, from: HostId, record: &R, certificate: &Bytes) -> bool {
        let writer = record.writer();
        // Only who has sealed something is in the list: the name of the writer alone anybody can write.
        if self.costs.get_mut(&writer).is_some_and(|cost| cost.begin(now.instant).written >= MAX_WRITTEN) {
            self.count("seals_too_many");
            return false;
        }
        let unread = self.costs.entry(from).or_default().begin(now.instant).bad >= MAX_BAD;
        let good = !unread && {
            let bytes = sealed_bytes(record, self.config.cluster);
            self.seals.verify(writer, certificate, &bytes, record.seal())
        };
        if good {
            self.costs.entry(writer).or_default().begin(now.instant).written += 1;
            return true;
        }
        self.count("seals_refused");
        let cost = self.costs.entry(from).or_default();
        cost.bad += 1;
        if cost.is_to_be_logged(now.instant) {
            let (sender, writer) = (self.name_of(from), self.name_of(writer));
            tracing::warn!(
                %from, sender, writer,
                "a record without a good seal of the host that it is said to be of was refused: somebody lies, or has \
                 another CA; it came by way of `sender`"
            );
        }
        false
    }
}
