//! The snapshot that queries are answered from, made from the machines' state.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use prost::Message;
use ringmesh_proto::{
    HostId, Instant, Now, UnixMillis, Uplink, ZoneId,
    digest::Digest,
    peer::{AccusationRecord, EventRecord, HostRecord, RecordMore, ReplicaRecord},
    v1,
};
use ringmesh_topology::{Mode, Ring, Role};

use super::{Detection, Node, Path, chords};
use crate::{
    View, coordinate,
    gossip::{EVENT_CAPACITY, HeardRecord, event_id},
    health::spec::ContainerState,
    membership::SwimState,
    natural,
    overlay::{LinkState, Order, UplinkState},
    view::{Links, Peer, Position, restored_at},
};

/// Between two snapshots that differ in latencies only.
const QUIET_INTERVAL: Duration = Duration::from_secs(1);

/// The least time between two snapshots, and what each host and each container and service adds to it: making one takes a time
/// that grows with them.
const MIN_INTERVAL: [Duration; 3] = [Duration::from_millis(20), Duration::from_micros(500), Duration::from_micros(2)];

/// A host that has not been heard of is called down when this one runs for so long.
const UNHEARD_FOR: Duration = Duration::from_secs(5);

/// What of the last snapshot is out of date.
#[derive(Default)]
pub(super) struct Shown {
    view: View,
    hosts: bool,
    events: bool,
    log: VecDeque<Arc<v1::Event>>,
    /// The health revision that the snapshot shows.
    revision: Option<u64>,
    /// The same of repair.
    repair: Option<u64>,
    /// Round trips, latencies: when they are next worth a snapshot.
    quiet: Option<Instant>,
    /// What came too soon after the last snapshot is shown then.
    deferred: Option<Instant>,
    shown_at: Instant,
    /// Nobody looks: no snapshots are made.
    hidden: bool,
}

impl Shown {
    pub(super) fn hide(&mut self) {
        *self = Self { hidden: true, ..Self::default() };
    }

    pub(super) fn hosts_stale(&mut self) {
        self.hosts = true;
    }

    /// `important`: more than a round trip changed.
    pub(super) fn links_stale(&mut self, important: bool) {
        self.hosts |= important;
        self.details_stale();
    }

    pub(super) fn details_stale(&mut self) {
        let due = self.shown_at + QUIET_INTERVAL;
        if !self.hidden {
            self.quiet.get_or_insert(due);
        }
    }

    pub(super) fn quiet(&self) -> Option<Instant> {
        self.quiet
    }

    pub(super) fn deferred(&self) -> Option<Instant> {
        self.deferred
    }
}

impl Node {
    pub(super) fn shown_event(&mut self, event: &EventRecord, local: bool) {
        if self.shown.hidden {
            return;
        }
        let severity = v1::event::Severity::try_from(event.severity as i32).unwrap_or_default();
        // Of another zone's hosts nothing is known here: its event brings their names.
        let foreign = event.zone != 0;
        let host = match event.host {
            _ if foreign => event.host_name.clone(),
            0 => String::new(),
            host => self.name_of(HostId::new(host)),
        };
        let accusers = || event.accusers.iter().map(|id| self.name_of(HostId::new(*id))).collect();
        let shown = v1::Event {
            time: Some(UnixMillis(event.unix_ms).into()),
            kind: event.kind.clone(),
            host,
            zone: if foreign { self.zones.name_of(ZoneId::new(event.zone)) } else { self.config.zone.clone() },
            container: event.container.clone(),
            service: event.service.clone(),
            severity: severity as i32,
            accusers: if foreign { event.accuser_names.clone() } else { accusers() },
            text: event.text.clone(),
            id: event_id(event, local),
            operation: event.operation.clone(),
        };
        if self.shown.log.len() == EVENT_CAPACITY {
            self.shown.log.pop_front();
        }
        self.shown.log.push_back(Arc::new(shown));
        self.shown.events = true;
    }

    pub(super) fn show(&mut self, now: Now) -> Option<View> {
        if self.shown.hidden {
            return None;
        }
        let quiet = self.shown.quiet.is_some_and(|due| due <= now.instant);
        let details = self.shown.revision != Some(self.details_revision());
        let operations = self.shown.repair != Some(self.remedy.revision());
        if !(self.shown.hosts || self.shown.events || details || operations || quiet) {
            return None;
        }
        let (hosts, rows) = (&self.shown.view.hosts, self.shown.view.containers.len() + self.shown.view.services.len());
        let [least, host, row] = MIN_INTERVAL;
        let next = self.shown.shown_at + least + host * hosts.len() as u32 + row * rows as u32;
        if now.instant < next && !self.shown.view.hosts.is_empty() {
            self.shown.deferred = Some(next);
            return None;
        }
        self.shown.deferred = None;
        let mut view = self.shown.view.clone();
        view.taken = now;
        view.name.clone_from(&self.config.name);
        view.zone.clone_from(&self.config.zone);
        view.fingerprint = self.fingerprint();
        if self.shown.hosts || quiet {
            view.hosts = Arc::new(self.show_hosts(now));
            view.rings = Arc::new(self.show_rings());
            view.zones = Arc::new(self.show_zones(now));
            view.gateways = Arc::new(self.show_gateways());
            view.peers = Arc::new(self.show_peers(now));
            view.links = Arc::new(self.show_links(now, &view.peers));
        }
        if self.shown.events {
            view.events = Arc::new(self.shown.log.iter().cloned().collect());
        }
        if details || quiet {
            view.position = Position { born: self.born, revision: self.health.revision() };
            view.containers = Arc::new(self.health.containers());
            view.services = Arc::new(self.health.services());
            if self.health.removed().last() != view.removed.last() {
                view.removed = Arc::new(self.health.removed().clone());
            }
            view.cells = Arc::new(self.show_cells());
        }
        if operations {
            view.operations = Arc::new(self.show_operations());
            view.arming = self.remedy.show_arming(now);
            view.arming_version = self.remedy.arming().map_or(0, |arming| arming.version);
        }
        let mut counters = self.counters.clone();
        counters.insert("gossip_refused", self.store.refused());
        let [events, digests, syncs] = self.trunk_outbox.dropped();
        counters.insert("trunk_event_frames_dropped", events);
        counters.insert("trunk_digest_frames_dropped", digests);
        counters.insert("trunk_sync_frames_dropped", syncs);
        counters.insert("gossip_duplicates", self.store.duplicates());
        counters.insert("accusations_void", self.store.void());
        counters.insert("probes_postponed", self.health.postponed());
        counters.insert("probes_late", self.health.load().0);
        counters.insert("plans_skipped", self.health.plans_skipped());
        counters.insert("cell_letters_dropped", self.cells.dropped());
        counters.insert("services_without_cell", self.services.cells.left_out() as u64);
        view.counters = Arc::new(counters);
        self.shown.hosts = false;
        self.shown.events = false;
        self.shown.quiet = None;
        self.shown.revision = Some(self.details_revision());
        self.shown.repair = Some(self.remedy.revision());
        self.shown.shown_at = now.instant;
        self.shown.view = view.clone();
        Some(view)
    }

    fn show_hosts(&self, now: Now) -> Vec<v1::Host> {
        let me = self.me();
        let here = self.place.coordinate();
        let own = std::iter::once((me, Some(SwimState::Alive)));
        let others = self.membership.states().map(|(member, state)| (member, Some(state)));
        let silent = now.instant.since(self.started) >= UNHEARD_FOR;
        let unheard = self.membership.unheard().map(|member| (member, silent.then_some(SwimState::Down)));
        let mut hosts: Vec<v1::Host> = own
            .chain(others)
            .chain(unheard)
            .map(|(member, state)| {
                let state = match state {
                    _ if self.has_left(member.id) => v1::host::State::Left,
                    _ if member.id == me.id && self.isolated.is_some() => v1::host::State::Isolated,
                    Some(SwimState::Alive) if self.store.host(member.id).is_some_and(|heard| heard.record.isolated) => {
                        v1::host::State::Isolated
                    }
                    Some(SwimState::Alive) => v1::host::State::Alive,
                    Some(SwimState::Suspect) => v1::host::State::Suspect,
                    Some(SwimState::Down) => v1::host::State::Down,
                    None => v1::host::State::Unknown,
                };
                let heard = self.store.host(member.id);
                let empty = HostRecord::default();
                let record = heard.map_or(&empty, |heard| &heard.record);
                let address =
                    |uplink: Uplink| member.address(uplink).map(|address| address.to_string()).unwrap_or_default();
                let accusations = self.store.accusations(member.id, member.generation);
                let uplink = |raw: u32| {
                    // What a host that is down said of its uplinks is no longer so.
                    if state == v1::host::State::Down && raw != 0 { v1::uplink::State::Down as i32 } else { raw as i32 }
                };
                // Our own coordinate as it is now.
                let there = coordinate::decode(record.coordinate.as_ref());
                let there = if member.id == me.id { Some(here) } else { there };
                let estimate = there.filter(|_| member.id != me.id).map(|there| coordinate::estimate_us(&here, &there));
                v1::Host {
                    name: self.name_of(member.id),
                    id: member.id.to_string(),
                    state: state as i32,
                    uplinks: Some(v1::Uplinks {
                        a: uplink(record.uplink_a),
                        b: uplink(record.uplink_b),
                        restored_at_a: heard.and_then(|heard| restored_at(heard, 0)),
                        restored_at_b: heard.and_then(|heard| restored_at(heard, 1)),
                        no_carrier_a: record.no_carrier_a,
                        no_carrier_b: record.no_carrier_b,
                        order: record.order as i32,
                    }),
                    zone: record.zone.clone(),
                    address: address(Uplink::A),
                    address_b: address(Uplink::B),
                    generation: member.generation,
                    version: record.version.clone(),
                    since: self.since.get(&member.id).map(|now| now.unix.into()),
                    heard_at: heard.map(|heard| heard.heard.unix.into()),
                    digest: heard.map(|heard| show_digest(&heard.digest)),
                    accusations: accusations.iter().map(|record| self.show_accusation(record)).collect(),
                    local: member.id == me.id,
                    certificate: show_certificate(record),
                    replica: show_replica(record),
                    rack: record.rack.clone(),
                    coordinate: there.map(|there| coordinate::encode(&there)),
                    rtt_estimate_us: estimate.unwrap_or(0),
                    chords: heard.map(|heard| chords::word(&heard.record).to_owned()).unwrap_or_default(),
                    drained: record.drained,
                    detection: (member.id == me.id).then(|| self.show_detection()),
                    probe_load: (member.id == me.id).then(|| self.show_probe_load()),
                    disk_problem: if member.id == me.id { self.disk_problem() } else { String::new() },
                }
            })
            .collect();
        hosts.sort_by_cached_key(|host| natural(&host.name));
        hosts
    }

    /// By the longest round trip of this host's links.
    fn show_probe_load(&self) -> v1::ProbeLoad {
        let (late, stretch_permille) = self.health.load();
        v1::ProbeLoad { stretch_permille, late, postponed: self.health.postponed() }
    }

    fn show_detection(&self) -> v1::Detection {
        let monitors = || self.overlay.links().map(|(_, link)| &link.monitor);
        let detection = Detection::worst_case(Path {
            rtt: monitors().filter_map(|monitor| monitor.rtt()).max().unwrap_or_default(),
            deviation: monitors().map(|monitor| monitor.rtt_deviation()).max().unwrap_or_default(),
            hold_off: self.config.protection.hold_off,
            tick: self.config.tick,
        });
        // In steps of 10 ms, so that it is no news with every round trip.
        let show = |time: Duration| {
            let ms = time.as_millis().div_ceil(10) as i64 * 10;
            Some(prost_types::Duration { seconds: ms / 1000, nanos: (ms % 1000) as i32 * 1_000_000 })
        };
        v1::Detection {
            silent_uplink: show(detection.silent_uplink),
            refused_port: show(detection.refused_port),
            dead_host: show(detection.dead_host),
            stuck_agent: show(detection.stuck_agent),
        }
    }

    fn show_accusation(&self, record: &AccusationRecord) -> v1::Accusation {
        v1::Accusation {
            accuser: self.name_of(HostId::new(record.accuser)),
            accused: self.name_of(HostId::new(record.accused)),
            generation: record.accused_generation,
            evidence: record.evidence.clone(),
            time: Some(UnixMillis(record.unix_ms).into()),
        }
    }

    fn show_rings(&self) -> Vec<v1::Ring> {
        let rings = self.overlay.rings();
        let mode = match rings.mode() {
            Mode::Switched => "switched",
            Mode::Cabled => "cabled",
        };
        let show = |ring: Ring| {
            let mut hosts: Vec<String> = rings.order(ring).iter().map(|id| self.name_of(*id)).collect();
            let first = (0..hosts.len()).min_by_key(|place| natural(&hosts[*place]));
            hosts.rotate_left(first.unwrap_or(0));
            v1::Ring { name: ring.as_str().into(), mode: mode.into(), hosts }
        };
        Ring::BOTH.map(show).to_vec()
    }

    /// Our own links as we see them now, those of other live hosts as their records say.
    fn show_links(&self, now: Now, peers: &BTreeMap<HostId, Peer>) -> Links {
        let me = self.me().id;
        let live = |id: HostId| {
            id != me
                && matches!(self.membership.state(id), Some((_, SwimState::Alive | SwimState::Suspect)))
                && !self.has_left(id)
        };
        let (links, broken_pairs) = (self.own_links(), self.broken_pairs(now));
        let [restoring_a_ms, restoring_b_ms] = self.restoring_ms(now);
        let own =
            HostRecord { host: me.raw(), links, broken_pairs, restoring_a_ms, restoring_b_ms, ..HostRecord::default() };
        let own = Arc::new(HeardRecord { record: own.into(), digest: Digest::default(), heard: now });
        let others = self.store.hosts().filter(|(id, _)| live(*id)).map(|(_, heard)| Arc::clone(heard));
        let mut names: BTreeMap<HostId, String> = peers.iter().map(|(id, peer)| (*id, peer.name.clone())).collect();
        names.insert(me, self.config.name.clone());
        Links { records: std::iter::once(own).chain(others).collect(), names }
    }

    fn show_peers(&self, now: Now) -> BTreeMap<HostId, Peer> {
        let peers = self.membership.states().map(|(member, state)| {
            let fingerprint = self.store.host(member.id).map_or(0, |heard| heard.digest.fingerprint);
            let askable = state != SwimState::Down && !self.has_left(member.id);
            let way = self.way(now, member);
            (member.id, Peer { member, name: self.name_of(member.id), askable, fingerprint, way })
        });
        peers.collect()
    }
}

/// `None` of a host that holds nothing.
fn show_replica(record: &HostRecord) -> Option<v1::Replica> {
    let ReplicaRecord { id, votes, leads, term } = RecordMore::decode(record.more.as_ref()).ok()?.replica?;
    let role = if votes { v1::replica::Role::Voter } else { v1::replica::Role::Standby };
    Some(v1::Replica { id: format!("{id:016x}"), role: role.into(), leads, term })
}

/// `None` of a host whose record does not say, or has not come.
fn show_certificate(record: &HostRecord) -> Option<v1::HostCertificate> {
    let authority = |short: u64| if short == 0 { String::new() } else { format!("{short:016x}") };
    let ends_ms = record.certificate_ends_unix.saturating_mul(1000);
    (record.issuer != 0).then(|| v1::HostCertificate {
        issuer: authority(record.issuer),
        not_after: Some(UnixMillis(ends_ms).into()),
        signs_with: authority(record.signs_with),
    })
}

pub(super) fn show_digest(digest: &Digest) -> v1::Digest {
    let Digest { containers, running, services, passing, warning, critical, score, worst, .. } = *digest;
    v1::Digest {
        containers,
        running,
        services,
        passing,
        warning,
        critical,
        unverified: digest.unverified(),
        score: u32::from(score),
        worst: i32::from(worst),
    }
}

pub(super) fn uplink_state(state: UplinkState) -> v1::uplink::State {
    match state {
        UplinkState::None => v1::uplink::State::None,
        UplinkState::Up => v1::uplink::State::Up,
        UplinkState::Degraded => v1::uplink::State::Degraded,
        UplinkState::Down => v1::uplink::State::Down,
    }
}

pub(super) fn link_state(state: LinkState) -> v1::link::State {
    match state {
        LinkState::Unknown => v1::link::State::Unknown,
        LinkState::Up => v1::link::State::Up,
        LinkState::Degraded => v1::link::State::Degraded,
        LinkState::Down => v1::link::State::Down,
    }
}

/// As in a link's record.
pub(super) fn role_number(role: Role) -> u32 {
    match role {
        Role::RingA => 0,
        Role::RingB => 1,
        Role::Chord => 2,
    }
}

pub(super) fn word(verdict: v1::verdict::Value) -> &'static str {
    match verdict {
        v1::verdict::Value::Unknown => "unknown",
        v1::verdict::Value::Passing => "passing",
        v1::verdict::Value::Warning => "warning",
        v1::verdict::Value::Critical => "critical",
    }
}

pub(super) fn state_word(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Unknown => "unknown",
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Paused => "paused",
        ContainerState::Stopped => "stopped",
        ContainerState::Absent => "absent",
    }
}

/// As in a host's record.
pub(super) fn order_number(order: Order) -> u32 {
    let shown = match order {
        Order::None => v1::uplinks::Order::Better,
        Order::Forced(Uplink::A) => v1::uplinks::Order::ForcedA,
        Order::Forced(Uplink::B) => v1::uplinks::Order::ForcedB,
        Order::Manual(Uplink::A) => v1::uplinks::Order::ManualA,
        Order::Manual(Uplink::B) => v1::uplinks::Order::ManualB,
    };
    shown as u32
}

pub(super) fn uplink_word(state: UplinkState) -> &'static str {
    match state {
        UplinkState::None => "not there",
        UplinkState::Up => "up",
        UplinkState::Degraded => "degraded",
        UplinkState::Down => "down",
    }
}
