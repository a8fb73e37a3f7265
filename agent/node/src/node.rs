//! The host as a whole: membership, gossip, overlay and health, wired to each other.
//!
//! It is the only place where these meet. It decides what is sent to whom and when; it neither sends nor waits.

mod accuse;
mod cells;
mod changes;
mod chords;
mod coordinate;
mod crowd;
mod detection;
mod flood;
mod forget;
mod frame;
mod implicit;
mod inside;
mod isolation;
mod leave;
mod links;
mod observe;
mod record;
mod relay;
mod repair;
mod seal;
mod show;
mod show_zones;
mod signed;
mod sync;
#[cfg(test)]
mod tests;
mod trouble;
mod trunk;
mod uplinks;
mod watch;
mod zone;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use ringmesh_proto::{
    ClusterId, Generation, HostId, Instant, Now, Uplink,
    datagram::{Datagram, DatagramError, Kind},
    disk::HistoryRecord,
    member::Member,
    peer::{EventRecord, Gossip, HostRecord, RepairState, SyncRequest},
    shared::Shared,
    v1,
};
use ringmesh_topology::Chords;

use crate::{
    Seals, View,
    cells::Cells,
    coordinate::Place,
    gossip::{Store, life},
    health::{
        Health, Judgement,
        spec::{CheckId, ContainerSpec, ContainerStatus, Heartbeat, InsideOrder, ProbeReply, ProbeRequest, Purpose},
    },
    membership::{self, Membership, Refused, SeenWindow, SwimState},
    overlay::{Overlay, Timers, Wiring},
    remedy::{self, Act, Remedy},
    zones::{Budgets, Crossing, KnownZone, Trunks, Zones},
};
use cells::OwnServices;
use crowd::Crowd;
pub use detection::{Detection, Path};
use flood::Outbox;
pub use frame::Frame;
pub use implicit::Implicit;
use leave::Leave;
use record::OwnRecord;
use relay::Relayed;
use seal::Cost;
use show::Shown;
pub use signed::Certificate;
use sync::Syncs;
use trunk::TrunkOutbox;
pub use uplinks::Way;
pub use watch::Reach;
use watch::Watch;
use zone::OwnZone;

/// Who a host is and what it should run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Who it is; its generation is the one before this start's.
    pub me: Member,
    /// Unique in the cluster.
    pub name: String,
    /// The pool that it belongs to.
    pub zone: String,
    /// The rack that it stands in; empty for none.
    pub rack: String,
    /// The cluster's rule of chords.
    pub chords: Chords,
    /// The one that this host's configuration asks for, if it does.
    pub configured_chords: Option<Chords>,
    /// Of this build.
    pub version: String,
    /// How the hosts are wired.
    pub wiring: Wiring,
    /// Place in the physical cycle; 0 in switched mode.
    pub position: u16,
    /// Hosts that were members when it last ran, or that its token named.
    pub known: Vec<Member>,
    /// A host that has been down or gone for so long is shown no more.
    pub forget_after: Duration,
    /// Zones that it knew when it last ran, or that its token named; its own among them or not.
    pub zones: Vec<KnownZone>,
    /// What it may send to other zones, when it is a delegate.
    pub budgets: Budgets,
    /// What should run on it.
    pub containers: Vec<ContainerSpec>,
    /// How its containers are repaired.
    pub repair: remedy::Settings,
    /// What its last life left of its repairs.
    pub repairs: RepairState,
    /// How outcomes of their probes are judged.
    pub judgement: Judgement,
    /// What it remembered of their services when it last ran.
    pub histories: Vec<HistoryRecord>,
    /// How changes of its uplinks are damped.
    pub protection: Timers,
    /// What the daemon may put off a timer by that is not [`TimerKind::Silence`].
    pub tick: Duration,
    /// For all its draws.
    pub seed: u64,
}

/// What a node wants done. None of it is awaited.
#[derive(Clone, Debug)]
pub enum Output {
    /// Do this for the member inside a container.
    Inside {
        /// Whose.
        container: Arc<str>,
        /// What.
        order: InsideOrder,
    },
    /// Send this datagram over this uplink, if it can be sent at once.
    Datagram {
        /// To whom.
        to: Member,
        /// Over which uplink.
        uplink: Uplink,
        /// Header and payload.
        bytes: Bytes,
    },
    /// Send this gossip frame on the stream of its class.
    Gossip {
        /// To whom.
        to: Member,
        /// Over this uplink; if it is not a second copy, rather over the other one than not at all.
        uplink: Uplink,
        /// Which queue it waits in.
        class: Class,
        /// The same for all of its receivers.
        frame: Frame,
        /// The other uplink has it, too.
        second: bool,
    },
    /// Ask this host for what this one lacks; its answer goes to [`Node::handle_sync_response`].
    Sync {
        /// Whom.
        to: Member,
        /// How.
        way: Way,
        /// What this host has.
        request: SyncRequest,
    },
    /// Ask whether the kernel of this host, from which nothing comes, answers at this uplink; see [`Node::handle_reach`].
    Reach {
        /// Whom.
        to: Member,
        /// Over which uplink.
        uplink: Uplink,
    },
    /// These are all connections to keep open.
    Pin(Vec<(Member, Uplink)>),
    /// Make this probe.
    Probe(ProbeRequest),
    /// Write this to disk.
    Persist(Persistent),
    /// Do this to a container; what comes of it goes to [`Node::handle_act_done`].
    Act {
        /// For which operation.
        operation: String,
        /// What.
        act: Act,
    },
    /// Write this to disk, and tell [`Node::handle_kept`].
    Keep {
        /// Grows; a later one replaces it.
        version: u64,
        /// What the next life of this host finds in [`Config::repairs`].
        state: Arc<RepairState>,
    },
    /// Write these histories to disk, all of this shard; [`Node::handle_written`] is told when it is done.
    Remember {
        /// Below [`crate::health::SHARDS`].
        shard: u8,
        /// All of it.
        histories: Vec<HistoryRecord>,
    },
    /// This host has left; the agent may end.
    Left,
}

/// Classes of traffic, each with a queue of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Events and accusations: small and urgent.
    Event,
    /// Records and digests: the next one replaces a lost one.
    Digest,
}

/// What a node must find again after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistent {
    /// The generation in use.
    pub generation: Generation,
    /// All hosts that were ever members.
    pub known: Vec<Member>,
    /// All other zones, and hosts of them that may be called.
    pub zones: Vec<KnownZone>,
}

/// What is next due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerKind {
    /// SWIM's probes, gossip and suspicions.
    Membership,
    /// Probes of links.
    Overlay,
    /// An uplink or a host has been silent for long: not to be put off.
    Silence,
    /// Probes of services.
    Health,
    /// The next step of a repair, or the end of a hold.
    Repair,
    /// Histories are to be written to disk.
    Memory,
    /// Changes of health that were too many are to be told as a number.
    Crowd,
    /// The turns of this host's cells of containers.
    Cells,
    /// The own record is to be spread.
    Record,
    /// What waits for all neighbours is to be sent on.
    Flood,
    /// A neighbour is to be asked for what was missed.
    Sync,
    /// What came too soon after the last snapshot is to be shown.
    View,
    /// Round trips and latencies are to be shown.
    Latencies,
    /// The next step of leaving.
    Leave,
    /// The zone's record is to be written, or another zone is to be called lost.
    Zone,
    /// Probes of trunks, and what waits for them.
    Trunk,
}

impl TimerKind {
    /// Whether somebody may be waiting for it, so that it is not to be put off until there is more to do.
    pub fn is_urgent(self) -> bool {
        matches!(self, Self::View | Self::Silence | Self::Flood)
    }
}

/// A process that is woken so much later than it asked for was paused.
const PAUSE_MIN: Duration = Duration::from_millis(750);

/// Neighbours that are greeted after a pause: enough that two of them answer.
const MAX_GREETED: usize = 4;

/// A host that went down within this time still has its place when observers are sought.
const LATELY: Duration = Duration::from_secs(30);

/// The most probes that one turn starts; the rest follows in the next.
const MAX_PROBES: usize = 64;

/// As in a host's record.
const DOWN: u32 = v1::uplink::State::Down as u32;

/// One host.
pub struct Node {
    config: Config,
    membership: Membership,
    overlay: Overlay,
    store: Store,
    seals: Box<dyn Seals>,
    /// Of the last minute; of hosts with a certificate only.
    costs: BTreeMap<HostId, Cost>,
    health: Health,
    remedy: Remedy,
    trouble: trouble::Trouble,
    /// Of the changes of health that are told.
    crowd: Crowd,
    cells: Cells,
    services: OwnServices,
    implicit: Implicit,
    rng: StdRng,
    outputs: VecDeque<Output>,
    sequence: u32,
    /// The generation that this process began with. Its events are numbered through, whatever it is renewed to.
    born: Generation,
    started: Instant,
    /// When it last had a turn.
    turn: Instant,
    /// What is on its way to all neighbours.
    outbox: Outbox,
    seen: BTreeMap<HostId, SeenWindow>,
    /// When a host was last heard of by SWIM.
    heard: BTreeMap<HostId, Instant>,
    /// Hosts from which nothing comes.
    watches: BTreeMap<HostId, Watch>,
    /// Hosts whose kernels have answered.
    answers: BTreeSet<HostId>,
    /// Hosts whose kernels have not, although they were well: a filter.
    mute: BTreeSet<HostId>,
    /// This host takes itself for cut off since then.
    isolated: Option<Instant>,
    /// When SWIM's present opinion of a host began.
    since: BTreeMap<HostId, Now>,
    /// Hosts that are alive and of which no record has come: their event waits for their name.
    unnamed: BTreeSet<HostId>,
    own: OwnRecord,
    accusations: u32,
    /// When one was last taken back, if others must still remember that.
    withdrew: Option<Instant>,
    syncs: Syncs,
    place: Place,
    /// Hosts that go by another rule of chords, and which: told once. As many as there are records.
    other_chords: BTreeMap<HostId, String>,
    leave: Leave,
    zone: OwnZone,
    zones: Zones,
    crossing: Crossing,
    trunks: Trunks,
    trunk_outbox: TrunkOutbox,
    relayed: Relayed,
    shown: Shown,
    counters: BTreeMap<&'static str, u64>,
    /// Changes that somebody wants to see; `None` if nobody does.
    changes: Option<Vec<membership::Change>>,
}

impl Node {
    /// Starts another life of this host. The first output is the generation to persist.
    pub fn new(now: Now, mut config: Config, seals: Box<dyn Seals>) -> Self {
        config.me.generation = config.me.generation.saturating_add(1);
        let mut rng = StdRng::seed_from_u64(config.seed);
        let me = config.me;
        let mut known = std::mem::take(&mut config.known);
        let known_zones = std::mem::take(&mut config.zones);
        let same = known_zones.iter().filter(|zone| zone.name == config.zone).flat_map(|zone| &zone.delegates);
        let same: Vec<Member> = same.filter(|host| known.iter().all(|other| other.id != host.id)).copied().collect();
        known.extend(same);
        let among = known.iter().any(|member| member.id != me.id);
        let containers = std::mem::take(&mut config.containers);
        let membership = Membership::new(now.instant, me, &known, fork(&mut rng));
        let services = OwnServices::new(me, &containers, config.seed);
        let mut health = Health::new(now.instant, &config.name, containers, fork(&mut rng));
        health.judge_by(config.judgement);
        health.recall(now, std::mem::take(&mut config.histories));
        let (repair, repairs) = (std::mem::take(&mut config.repair), std::mem::take(&mut config.repairs));
        let remedy = Remedy::new(now, me.id, me.generation, repair, repairs);
        let cells = Cells::new(config.seed);
        let overlay =
            Overlay::new(me.id, config.wiring, me.addresses.map(|address| address.is_some()), config.protection);
        let mut node = Self {
            sequence: rng.random(),
            born: me.generation,
            started: now.instant,
            turn: now.instant,
            membership,
            overlay,
            store: Store::default(),
            seals,
            costs: BTreeMap::new(),
            health,
            remedy,
            crowd: Crowd::default(),
            cells,
            services,
            implicit: Implicit::default(),
            rng,
            outputs: VecDeque::new(),
            outbox: Outbox::default(),
            seen: BTreeMap::new(),
            heard: BTreeMap::new(),
            watches: BTreeMap::new(),
            answers: BTreeSet::new(),
            mute: BTreeSet::new(),
            isolated: None,
            since: BTreeMap::new(),
            unnamed: BTreeSet::new(),
            own: OwnRecord::default(),
            accusations: 0,
            withdrew: None,
            syncs: Syncs::new(now.instant),
            place: Place::new(u64::from(me.id.raw())),
            other_chords: BTreeMap::new(),
            leave: Leave::default(),
            zone: OwnZone::new(now.instant, &config.zone, among),
            zones: Zones::new(&config.zone, &known_zones),
            crossing: Crossing::default(),
            trunks: Trunks::default(),
            trunk_outbox: TrunkOutbox::new(config.budgets),
            relayed: Relayed::default(),
            trouble: trouble::Trouble::default(),
            shown: Shown::default(),
            counters: BTreeMap::new(),
            changes: None,
            config,
        };
        node.since.insert(me.id, now);
        node.persist();
        node.rebuild_rings(now);
        node.write_record(now);
        node.compare_configured_chords(now);
        node
    }

    /// This host, in its current life.
    pub fn me(&self) -> Member {
        self.membership.me()
    }

    /// A datagram came over this uplink from the host whose certificate this is.
    pub fn handle_datagram(&mut self, now: Now, from: HostId, uplink: Uplink, bytes: Bytes) {
        self.begin_turn(now);
        if self.is_revoked(from) {
            return self.count("datagram_revoked");
        }
        let datagram = match Datagram::decode(bytes, self.config.cluster) {
            Ok(datagram) => datagram,
            Err(error) => return self.count(datagram_counter(error)),
        };
        // A pool of gossip never takes in hosts of another, whoever calls whom.
        if (datagram.zone == self.zone.id) == datagram.kind.is_between_zones() {
            return self.count("datagram_zone");
        }
        if datagram.zone == self.zone.id {
            self.hear(now, from, uplink);
        }
        match datagram.kind {
            Kind::Swim => {
                if !self.seen.entry(from).or_default().insert(datagram.sequence) {
                    return;
                }
                let confirmed = self.confirmed();
                let vouched = |member| self.store.vouches(member);
                match self.membership.handle_message(now.instant, from, &datagram.payload, confirmed, vouched) {
                    Ok(()) => {}
                    Err(Refused::Malformed) => self.count("datagram_malformed"),
                    Err(Refused::Spoofed) => self.count("datagram_spoofed"),
                }
            }
            Kind::LinkProbe => self.answer_link_probe(now, from, uplink, datagram.payload),
            Kind::LinkAck => self.handle_link_ack(now, from, uplink, datagram.payload),
            Kind::TrunkProbe => self.handle_trunk_probe(now, from, uplink, datagram.payload),
            Kind::TrunkAck => self.handle_trunk_ack(now, from, uplink, datagram.payload),
            Kind::Cell => self.handle_cell_message(now, from, datagram.payload),
        }
        self.settle(now);
    }

    /// Gossip came from this host.
    pub fn handle_gossip(&mut self, now: Now, from: HostId, gossip: Gossip) {
        self.begin_turn(now);
        if gossip.zone == self.zone.id.raw() {
            self.learn(now, from, gossip);
        } else {
            self.learn_from_zone(now, from, gossip);
        }
        self.settle(now);
    }

    /// Tells all who care what a runtime says of a container.
    fn take_status(&mut self, now: Now, status: ContainerStatus) {
        self.seat_container(now, &status);
        self.order_inside(&status);
        self.health.handle_status(now, status);
        self.note_reached(now);
    }

    /// What a runtime says of a container.
    pub fn handle_status(&mut self, now: Now, status: ContainerStatus) {
        self.begin_turn(now);
        if self.health.spec(&status.name).is_none() {
            self.remedy.note_status(&status);
        }
        self.take_status(now, status);
        self.settle(now);
    }

    /// The outcome of an [`Output::Probe`].
    pub fn handle_probe_reply(&mut self, now: Now, reply: ProbeReply) {
        self.begin_turn(now);
        if reply.id.purpose() == Some(Purpose::Command) {
            self.handle_exec(now, reply.id, Some(&reply));
        } else {
            self.note_probed(now, &reply);
            self.health.handle_reply(now, reply);
            self.shown.details_stale();
        }
        self.settle(now);
    }

    /// What a service says of itself.
    pub fn handle_heartbeat(&mut self, now: Now, heartbeat: Heartbeat) {
        self.begin_turn(now);
        // A clone has the socket of what it replaced.
        let container = self.remedy.stands_for(&heartbeat.container).to_owned();
        let heartbeat = Heartbeat { container: container.clone(), ..heartbeat };
        match self.health.handle_heartbeat(now, heartbeat) {
            Some(interval) => self.cells.handle_heartbeat(now.instant, &container, interval),
            None => self.count("heartbeats_unknown"),
        }
        self.shown.details_stale();
        self.settle(now);
    }

    /// An [`Output::Probe`] could not be made: too many are under way (`overloaded`), or who would make it is not there.
    pub fn handle_probe_busy(&mut self, now: Now, id: CheckId, overloaded: bool) {
        if id.purpose() == Some(Purpose::Command) {
            self.handle_exec(now, id, None);
            self.settle(now);
        } else {
            self.health.handle_busy(id, overloaded);
        }
    }

    /// The histories of an [`Output::Remember`] are on disk, or could not be written and come again.
    pub fn handle_written(&mut self, now: Now, shard: u8, success: bool) {
        self.health.handle_written(now.instant, shard, success);
    }

    /// All histories that are not on disk as they are, by shard: for the end of the agent.
    pub fn take_histories(&mut self, now: Now) -> Vec<(u8, Vec<HistoryRecord>)> {
        self.health.take_all(now)
    }

    /// What this host remembers of its services of this name, in this container or in any if it is empty. At most two.
    pub fn histories(&self, now: Now, container: &str, service: &str) -> Vec<v1::History> {
        self.health.histories(now.unix, container, service)
    }

    /// Leaves the cluster on purpose. [`Output::Left`] follows when the others were told.
    pub fn handle_leave(&mut self, now: Now) {
        self.begin_turn(now);
        self.begin_leave(now);
        self.settle(now);
    }

    /// To be called before anything else, so that what waits since a pause is not taken for late.
    fn begin_turn(&mut self, now: Now) {
        if now.instant.since(self.turn) >= PAUSE_MIN {
            let late = now.instant.since(self.poll_timeout().max(self.turn));
            if late >= PAUSE_MIN {
                self.membership.pause(late);
                self.cells.pause(now.instant, late);
                self.services.cells.pause(late);
            }
        }
        self.turn = self.turn.max(now.instant);
    }

    /// Something was dropped or refused outside; counted under this name.
    pub fn count(&mut self, name: &'static str) {
        self.count_by(name, 1);
    }

    fn count_by(&mut self, name: &'static str, number: u64) {
        *self.counters.entry(name).or_default() += number;
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.begin_turn(now);
        if self.membership.poll_timeout().is_some_and(|due| due <= now.instant) {
            let confirmed = self.confirmed();
            self.membership.handle_timeout(now.instant, confirmed);
        }
        self.probe_links(now);
        if self.overlay.poll_protection().is_some_and(|due| due <= now.instant) {
            self.judge_uplinks(now);
        }
        self.watch_silent_links(now);
        if self.next_watch().is_some_and(|due| due <= now.instant) {
            self.tend_watches(now);
        }
        for container in self.health.handle_missed(now) {
            self.cells.handle_missed(now.instant, &container);
        }
        self.tend_cells(now);
        for request in self.health.handle_timeout(now.instant, MAX_PROBES) {
            self.outputs.push_back(Output::Probe(request));
        }
        if let Some((shard, histories)) = self.health.take_due(now) {
            self.outputs.push_back(Output::Remember { shard, histories });
        }
        if self.syncs.take_due(now.instant, &mut self.rng) {
            self.forget_lost(now);
            self.forget_costs(now);
            self.sync_with_any(now);
        }
        self.continue_leave(now);
        self.tend_trunks(now);
        self.tell_disk(now);
        self.settle(now);
    }

    /// When [`Self::handle_timeout`] is next wanted.
    pub fn poll_timeout(&self) -> Instant {
        self.timers().map(|(at, _)| at).min().expect("a sync is always due some time")
    }

    /// All that [`Self::handle_timeout`] is wanted for.
    pub fn timers(&self) -> impl Iterator<Item = (Instant, TimerKind)> {
        let timers = [
            (self.membership.poll_timeout(), TimerKind::Membership),
            (self.overlay.poll_timeout(), TimerKind::Overlay),
            (self.overlay.poll_silence(), TimerKind::Silence),
            (self.overlay.poll_protection(), TimerKind::Silence),
            (self.next_watch(), TimerKind::Silence),
            (self.health.poll_timeout(), TimerKind::Health),
            (self.remedy.poll_timeout(), TimerKind::Repair),
            (self.health.poll_memory(), TimerKind::Memory),
            (self.crowd.poll_timeout(), TimerKind::Crowd),
            (self.cells.poll_timeout(), TimerKind::Cells),
            (self.services.poll_timeout(), TimerKind::Cells),
            (self.own.poll_timeout(self.overlay.rings().len()), TimerKind::Record),
            (self.outbox.poll_timeout(), TimerKind::Flood),
            (Some(self.syncs.poll_timeout()), TimerKind::Sync),
            (self.shown.deferred(), TimerKind::View),
            (self.shown.quiet(), TimerKind::Latencies),
            (self.leave.poll_timeout(), TimerKind::Leave),
            (self.next_zone(), TimerKind::Zone),
            (self.next_trunk(), TimerKind::Trunk),
            (self.trouble.poll_timeout(), TimerKind::Repair),
        ];
        timers.into_iter().filter_map(|(at, kind)| Some((at?, kind)))
    }

    /// What the node wants done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// A new snapshot, if there is something new to see.
    pub fn poll_view(&mut self, now: Now) -> Option<View> {
        self.show(now)
    }

    /// Whether the votes, or the host itself, say that this life of it is over.
    fn confirmed(&self) -> impl Fn(Member) -> bool + use<> {
        let left = self.store.leaving().filter(|id| self.has_left(*id)).chain(self.store.signed().revoked());
        let accused = self.store.accused().into_iter();
        let accused = accused.filter(|id| self.membership.state(*id).is_some_and(|(to, _)| self.is_voted_down(to)));
        let life = |id: HostId| Some((id, self.membership.state(id)?.0.generation));
        let over: BTreeSet<(HostId, Generation)> = left.chain(accused).filter_map(life).collect();
        move |member| over.contains(&(member.id, member.generation))
    }

    fn learn(&mut self, now: Now, from: HostId, mut gossip: Gossip) {
        let me = self.me();
        self.store.refuse_revoked(&mut gossip);
        gossip.accusations.retain(|record| record.accuser != me.id.raw());
        // What is known is not looked at twice.
        self.store.sift(&mut gossip);
        self.refuse_unsealed(now, from, &mut gossip);
        // What others have of ourselves is never newer, unless our disk was set back.
        let own_past = gossip.hosts.iter().filter(|record| record.host == me.id.raw());
        let own_past = own_past.map(|record| (record.generation, record.seq)).max();
        if let Some((generation, _)) = own_past.filter(|past| *past > (me.generation, self.own.seq())) {
            self.membership.outlive(now.instant, generation);
        }
        gossip.hosts.retain(|record| record.host != me.id.raw());
        self.refuse_other_zones(now, &mut gossip.hosts);
        let zones = self.accept_zones(now, std::mem::take(&mut gossip.zones), None);
        let foreign = gossip.events.extract_if(.., |event| event.zone != 0).collect();
        let foreign = self.accept_crossing(foreign, None);
        let before = |record: &Shared<HostRecord>| {
            let id = HostId::new(record.host);
            (id, (self.has_left(id), self.store.host(id).map(|heard| heard.record.clone())))
        };
        let before: BTreeMap<HostId, (bool, Option<Shared<HostRecord>>)> = gossip.hosts.iter().map(before).collect();
        let down = |record: &Shared<HostRecord>| [record.uplink_a, record.uplink_b].map(|state| state == DOWN);
        let urgent = |record: &Shared<HostRecord>| {
            let before = self.store.host(HostId::new(record.host)).map(|heard| &heard.record);
            let was_down = before.map_or([false; 2], down);
            (0..2).any(|place| down(record)[place] && !was_down[place])
                || before.is_some_and(|before| before.certificate != record.certificate)
        };
        let urgent = gossip.hosts.iter().any(urgent);
        let mut new = self.store.accept(now, gossip);
        let mut moved = false;
        for record in &new.hosts {
            let id = HostId::new(record.host);
            for uplink in Uplink::BOTH {
                if down(record)[uplink.index()] {
                    self.overlay.handle_peer_uplink_down(now.instant, id, uplink);
                }
            }
            if let Some(member) = life(record) {
                self.membership.vouch(now.instant, member);
            }
            if self.unnamed.remove(&id) {
                self.tell_host(now, "host-alive", id, v1::event::Severity::Info, "joined");
            }
            let (had_left, place) = before.get(&id).map_or((false, None), |(left, before)| (*left, before.as_ref()));
            self.services.stale_if(now, place.is_none_or(|before| before.more != record.more));
            moved |= place.is_none_or(|before| (before.position, &before.rack) != (record.position, &record.rack));
            self.compare_chords(now, record);
            self.learn_arming(now, record);
            if record.leaving && !had_left {
                self.host_leaves(now, id);
            } else if self
                .membership
                .state(id)
                .is_some_and(|(member, state)| state == SwimState::Down && record.generation > member.generation)
            {
                // Its record is faster than SWIM's news of it.
                self.membership.call(now.instant, id);
            }
        }
        if !new.hosts.is_empty() {
            self.zone.stale = true;
            self.shown.hosts_stale();
            if moved && (self.config.wiring == Wiring::Cabled || self.config.chords.heeds_racks()) {
                self.rebuild_rings(now);
            }
        }
        for event in &new.events {
            self.shown_event(event, false);
            self.cross(now, event, false);
        }
        new.events.extend(foreign);
        new.zones = zones;
        if !new.accusations.is_empty() {
            self.shown.hosts_stale();
            self.judge_accused(now);
            for accused in new.accusations.iter().filter(|record| !record.withdrawn) {
                self.deputise(now, HostId::new(accused.accused));
            }
        }
        self.outbox.relay(new, from, urgent);
    }

    /// Handles what the machines concluded, until nothing is new.
    fn settle(&mut self, now: Now) {
        let mut came = false;
        while let Some(change) = self.membership.poll_change() {
            came |= self.member_changed(now, change);
        }
        // Once for all of them: a host that joins learns of all others at once.
        if came {
            self.rebuild_rings(now);
            self.persist();
        }
        while let Some(change) = self.cells.poll_change() {
            self.cell_changed(now, change);
        }
        self.speak_inside();
        self.settle_services(now);
        while let Some(change) = self.health.poll_change() {
            self.health_changed(now, change);
        }
        self.repair(now);
        self.tell_crowd(now);
        self.take_round_trip();
        self.spread_record(now);
        self.tend_zone(now);
        self.flood(now);
        self.flush_trunks(now);
        while let Some((to, payload)) = self.membership.poll_transmit() {
            self.sequence = self.sequence.wrapping_add(1);
            // Over both: the loss of one uplink must not look like the loss of a host.
            for uplink in Uplink::BOTH {
                self.send_datagram(to, uplink, Kind::Swim, payload.clone(), self.sequence);
            }
        }
    }

    /// Returns true for a host that came or changed, with which the rings are to be rebuilt.
    fn member_changed(&mut self, now: Now, change: membership::Change) -> bool {
        use membership::Change;
        if self.is_of_revoked(now, &change) {
            return false;
        }
        let mut came = false;
        self.changes.iter_mut().for_each(|changes| changes.push(change));
        match change {
            // The last it said before it left arrives after the leave.
            Change::Alive(member) | Change::Renamed(member) if self.has_left(member.id) => {
                self.membership.forget(member.id);
            }
            Change::Alive(member) | Change::Renamed(member) => {
                let before = self.since.insert(member.id, now);
                self.store.recall(member.id);
                self.withdraw(now, member.id);
                came = true;
                if self.store.host(member.id).is_none() {
                    self.unnamed.insert(member.id);
                    self.hasten_sync(now);
                } else {
                    let text = if before.is_some() { "answers again" } else { "joined" };
                    self.tell_host(now, "host-alive", member.id, v1::event::Severity::Info, text);
                }
            }
            Change::Suspect(member) => {
                self.since.insert(member.id, now);
                let text = "does not answer a probe";
                self.tell_host(now, "host-suspect", member.id, v1::event::Severity::Warning, text);
            }
            Change::Down(member) => {
                if !self.has_left(member.id) {
                    self.since.insert(member.id, now);
                    self.tell_host(now, "host-down", member.id, v1::event::Severity::Critical, "is down");
                }
                self.rebuild_rings(now);
                self.judge_accused(now);
            }
            Change::Renewed(generation) => {
                tracing::info!(generation, "this host was thought down and begins another life");
                self.config.me.generation = generation;
                self.own.renew();
                self.store.end_accusations(self.me().id);
                self.persist();
                self.write_record(now);
            }
            Change::Hearsay => self.hasten_sync(now),
            Change::ProbeFailed(host) => self.watch(now, host, now.instant),
            Change::Paused(span) => self.tell_pause(now, span),
            Change::Active => {
                // Others believe that this host is there when they have its record.
                self.write_record(now);
                self.sync_with_any(now);
                self.sync_soon(now);
            }
        }
        self.zone.stale = true;
        self.shown.hosts_stale();
        came
    }

    /// Puts an event into the log, and sends it to all unless every host concludes it for itself.
    fn tell(&mut self, now: Now, event: EventRecord, local: bool) {
        let me = self.me();
        let event = EventRecord { origin: me.id.raw(), generation: self.born, unix_ms: now.unix.0, ..event };
        let logged = self.store.events_mut().append(event, local);
        self.shown_event(&logged.record, local);
        self.cross(now, &logged.record, local);
        if !local {
            self.outbox.add_event(logged.record.clone());
        }
    }

    fn tell_host(&mut self, now: Now, kind: &str, host: HostId, severity: v1::event::Severity, text: &str) {
        let generation = self.membership.state(host).map_or(0, |(member, _)| member.generation);
        let accusers = match severity {
            v1::event::Severity::Info => Vec::new(),
            v1::event::Severity::Warning | v1::event::Severity::Critical => {
                self.store.accusations(host, generation).iter().map(|record| record.accuser).collect()
            }
        };
        let text = format!("{} {text}", self.name_of(host));
        let event = EventRecord {
            kind: kind.into(),
            host: host.raw(),
            severity: severity as u32,
            accusers,
            text,
            ..EventRecord::default()
        };
        self.tell(now, event, true);
    }

    /// Says that this process did not run, and asks what it missed.
    fn tell_pause(&mut self, now: Now, span: Duration) {
        let event = EventRecord {
            kind: "host-paused".into(),
            host: self.me().id.raw(),
            severity: v1::event::Severity::Warning as u32,
            text: format!(
                "the agent of {} did not run for {} ms; it accuses nobody for it",
                self.config.name,
                span.as_millis()
            ),
            ..EventRecord::default()
        };
        self.tell(now, event, false);
        self.remedy.distrust(now.instant);
        self.restart_watches(now);
        // Whoever has declared us down meanwhile says so when it is greeted.
        let neighbours = self.overlay.members();
        neighbours.into_iter().take(MAX_GREETED).for_each(|peer| self.membership.greet(now.instant, peer));
        self.sync_with_any(now);
    }

    fn rebuild_rings(&mut self, now: Now) {
        self.plan_chords();
        let mut hosts: Vec<Member> = vec![self.me()];
        let others = self.membership.states().filter(|(_, state)| *state != SwimState::Down).map(|(member, _)| member);
        hosts.extend(others.filter(|member| !self.has_left(member.id)));
        if self.config.wiring == Wiring::Cabled {
            // Where a host stands is in its record.
            let me = self.me().id;
            hosts.retain(|member| member.id == me || self.store.host(member.id).is_some());
        }
        let lately = |id: &HostId| self.since.get(id).is_some_and(|since| now.instant.since(since.instant) < LATELY);
        let down = self.membership.states().filter(|(_, state)| *state == SwimState::Down).map(|(member, _)| member.id);
        let lost: Vec<HostId> = down.filter(|id| !self.has_left(*id) && lately(id)).collect();
        let (store, own) = (&self.store, self.config.position);
        let position =
            |id: HostId| store.host(id).map_or(own, |heard| u16::try_from(heard.record.position).unwrap_or(u16::MAX));
        if self.overlay.rebuild(now.instant, &hosts, &lost, position) {
            self.pin();
            self.forget_round_trips();
        }
        self.services.stale_if(now, true);
        (self.zone.dirty, self.zone.stale) = (true, true);
        self.shown.links_stale(true);
    }

    fn send_datagram(&mut self, to: Member, uplink: Uplink, kind: Kind, payload: Bytes, sequence: u32) {
        if to.address(uplink).is_none() || self.config.me.address(uplink).is_none() {
            return;
        }
        let bytes = Datagram { kind, cell: 0, zone: self.zone.id, sequence, payload }.encode(self.config.cluster);
        self.outputs.push_back(Output::Datagram { to, uplink, bytes });
    }

    fn persist(&mut self) {
        let (known, zones) = (self.membership.known().collect(), self.zones.known());
        self.outputs.push_back(Output::Persist(Persistent { generation: self.me().generation, known, zones }));
    }

    fn name_of(&self, host: HostId) -> String {
        if host == self.config.me.id {
            return self.config.name.clone();
        }
        self.store.host(host).map_or_else(|| host.to_string(), |heard| heard.record.name.clone())
    }
}

/// What is told of a change of the intervals: that it begins, that they have doubled again, and that it is over.
fn fork(rng: &mut StdRng) -> StdRng {
    StdRng::seed_from_u64(rng.random())
}

fn datagram_counter(error: DatagramError) -> &'static str {
    match error {
        DatagramError::Truncated => "datagram_truncated",
        DatagramError::Oversized => "datagram_oversized",
        DatagramError::Version(_) => "datagram_version",
        DatagramError::Kind(_) => "datagram_malformed",
        DatagramError::Cluster => "datagram_cluster",
    }
}
