//! This host's own record: written when what it says changes, at most once a second, and now and then anyway.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use ringmesh_proto::{
    Instant, Now, Uplink,
    digest::Digest,
    peer::{HostRecord, LinkRecord, RecordMore, ReplicaRecord},
    shared::Shared,
};

use super::{Certificate, Node, chords, show};
use crate::{coordinate, overlay::OwnLink};

/// The least time between two versions of the record.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// The time after which an unchanged record is written anew, so that others see that it is fresh; of more than
/// [`REFRESHED`] hosts in proportion longer, so that each host hears no more of it.
const REFRESH: Duration = Duration::from_secs(60);

/// Hosts of which each writes its record anew every [`REFRESH`].
const REFRESHED: u32 = 64;

/// What was written last.
#[derive(Default)]
pub(super) struct OwnRecord {
    seq: u32,
    written: Option<Instant>,
    /// The revisions of the details and of the overlay that it shows.
    shows: (u64, u64),
    stale: bool,
    pub(super) leaving: bool,
    pub(super) certificate: Certificate,
    /// What this host holds of the configuration.
    pub(super) replica: Option<ReplicaRecord>,
}

impl OwnRecord {
    /// When it is next to be written, among so many hosts.
    pub(super) fn poll_timeout(&self, hosts: usize) -> Option<Instant> {
        let written = self.written?;
        let share = u32::try_from(hosts).unwrap_or(u32::MAX).max(REFRESHED);
        Some(written + if self.stale { MIN_INTERVAL } else { REFRESH / REFRESHED * share })
    }

    /// The version last written.
    pub(super) fn seq(&self) -> u32 {
        self.seq
    }

    /// Another life counts its versions from 1 again.
    pub(super) fn renew(&mut self) {
        self.seq = 0;
    }
}

impl Node {
    /// Writes and spreads the record if it says something new, or has not for long.
    pub(super) fn spread_record(&mut self, now: Now) {
        let moved = self.place.is_news(now.instant);
        self.own.stale = moved || self.own.shows != (self.details_revision(), self.overlay.revision());
        if self.own.poll_timeout(self.overlay.rings().len()).is_some_and(|due| due <= now.instant) {
            self.write_record(now);
        }
    }

    /// Writes and spreads the record now.
    pub(super) fn write_record(&mut self, now: Now) {
        match self.put_record(now) {
            // Others need it for what else this host says.
            (record, true) => self.outbox.add_urgent_host(record),
            (record, false) => self.outbox.add_host(record),
        }
    }

    /// The same, with the events that are on their way.
    pub(super) fn write_record_urgently(&mut self, now: Now) {
        let (record, _) = self.put_record(now);
        self.outbox.add_urgent_host(record);
    }

    /// Also returns whether it shows another certificate than the one before.
    fn put_record(&mut self, now: Now) -> (Shared<HostRecord>, bool) {
        self.own.seq += 1;
        self.own.written = Some(now.instant);
        self.own.shows = (self.details_revision(), self.overlay.revision());
        self.own.stale = false;
        self.zone.stale = true;
        let place = self.place.tell(now.instant);
        let mut record = HostRecord { coordinate: Some(coordinate::encode(&place)), ..self.make_record(now) };
        record.certificate = self.seals.certificate();
        let renewed = self.store.host(self.me().id).is_some_and(|old| old.record.certificate != record.certificate);
        if renewed {
            // With the key of the certificate that others are shown from now on.
            self.renew_accusations(now);
        }
        record.accuses_from = self.accuses_from(now);
        self.seal(&mut record);
        let record = Shared::from(record);
        self.store.put_own(now, record.clone());
        self.shown.hosts_stale();
        (record, renewed)
    }

    /// Names the state of the details: of another life of this host it is another.
    pub(super) fn fingerprint(&self) -> u64 {
        u64::from(self.born) << 32 | self.details_revision() & u64::from(u32::MAX)
    }

    /// Counts the changes of details that a query would show, but for times and latencies.
    pub(super) fn details_revision(&self) -> u64 {
        self.health.revision() + self.cells.revision()
    }

    fn digest(&self) -> Digest {
        Digest { fingerprint: self.fingerprint(), cells: self.cells.root(), ..self.health.digest() }
    }

    fn record_more(&self) -> Bytes {
        RecordMore { services: self.services.announced(), replica: self.own.replica }.encode_to_vec().into()
    }

    fn make_record(&self, now: Now) -> HostRecord {
        let me = self.me();
        let uplink = |uplink: Uplink| show::uplink_state(self.overlay.uplinks()[uplink.index()]) as u32;
        let address = |uplink: Uplink| me.address(uplink).map(|address| address.to_string()).unwrap_or_default();
        let [restoring_a_ms, restoring_b_ms] = self.restoring_ms(now);
        HostRecord {
            host: me.id.raw(),
            generation: me.generation,
            seq: self.own.seq,
            name: self.config.name.clone(),
            zone: self.config.zone.clone(),
            version: self.config.version.clone(),
            position: u32::from(self.config.position),
            uplink_a: uplink(Uplink::A),
            uplink_b: uplink(Uplink::B),
            links: self.own_links(),
            digest: self.digest().encode(),
            leaving: self.own.leaving,
            isolated: self.isolated.is_some(),
            issuer: self.own.certificate.issuer,
            certificate_ends_unix: self.own.certificate.ends_unix,
            signs_with: self.own.certificate.signs_with,
            rack: self.config.rack.clone(),
            chords: chords::encode(self.config.chords),
            restoring_a_ms,
            restoring_b_ms,
            no_carrier_a: !self.overlay.has_carrier(Uplink::A),
            no_carrier_b: !self.overlay.has_carrier(Uplink::B),
            order: show::order_number(self.overlay.order()),
            drained: self.remedy.is_drained(),
            arming: self.remedy.arming().cloned(),
            broken_pairs: self.broken_pairs(now),
            address_a: address(Uplink::A),
            address_b: address(Uplink::B),
            more: self.record_more(),
            ..HostRecord::default()
        }
    }

    /// How long each uplink still restores, in milliseconds; 0 if it does not.
    pub(super) fn restoring_ms(&self, now: Now) -> [u32; 2] {
        Uplink::BOTH.map(|uplink| {
            let left = self.overlay.restored_at(uplink).map(|at| at.since(now.instant).as_millis());
            left.map_or(0, |ms| u32::try_from(ms).unwrap_or(u32::MAX).max(1))
        })
    }

    /// This host's links as it sees them now.
    pub(super) fn own_links(&self) -> Vec<LinkRecord> {
        let record = |(uplink, link): (Uplink, &OwnLink)| LinkRecord {
            peer: link.peer.id.raw(),
            uplink: uplink.index() as u32,
            state: show::link_state(link.monitor.state()) as u32,
            rtt_us: link.monitor.rtt().map_or(0, |rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX)),
            loss_percent: link.monitor.loss_percent(),
            role: show::role_number(link.role),
        };
        self.overlay.links().map(record).collect()
    }
}
