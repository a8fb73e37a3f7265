use std::time::Duration;

use ringmesh_proto::{
    UnixMillis, frame,
    peer::{Instance, RepairState},
};

use super::{links::link_probe, *};
use crate::{
    health::spec::{Beat, Check, ContainerState, ServiceSpec},
    overlay::Order,
    remedy::Settings,
};

/// Seals that only say whose they are.
struct Trusting(HostId);

impl Seals for Trusting {
    fn certificate(&mut self) -> Bytes {
        Bytes::new()
    }

    fn seal(&mut self, _: &[u8]) -> Bytes {
        seal(self.0)
    }

    fn verify(&mut self, host: HostId, _: &Bytes, _: &[u8], given: &[u8]) -> bool {
        given == seal(host)
    }
}

pub(super) fn seal(host: HostId) -> Bytes {
    Bytes::copy_from_slice(&host.raw().to_be_bytes())
}

const STEP: Duration = Duration::from_millis(50);

/// Two hosts on two wires without delay; what a wire loses is decided for each datagram.
pub(super) struct Pair {
    now: Now,
    nodes: [Node; 2],
    views: [View; 2],
}

impl Pair {
    pub(super) fn new() -> Self {
        let now = Now { instant: Instant::ZERO + Duration::from_secs(1), unix: UnixMillis(1_700_000_000_000) };
        let members = [1, 2].map(member);
        let node = |place: usize| {
            let me = members[place];
            Node::new(now, config(me, vec![members[1 - place]]), Box::new(Trusting(me.id)))
        };
        Self { now, nodes: [node(0), node(1)], views: [View::default(), View::default()] }
    }

    /// Runs for so long; `lost` says what does not arrive, by sender, uplink and kind of datagram: none for a stream.
    pub(super) fn run(&mut self, span: Duration, lost: impl Fn(usize, Uplink, Option<Kind>) -> bool) {
        let end = self.now.instant + span;
        while self.now.instant < end {
            self.now.instant += STEP;
            self.now.unix.0 += STEP.as_millis() as u64;
            for place in 0..2 {
                if self.nodes[place].poll_timeout() <= self.now.instant {
                    self.nodes[place].handle_timeout(self.now);
                }
            }
            while (0..2).any(|from| self.carry(from, &lost)) {}
            for place in 0..2 {
                if let Some(view) = self.nodes[place].poll_view(self.now) {
                    self.views[place] = view;
                }
            }
        }
    }

    fn carry(&mut self, from: usize, lost: &impl Fn(usize, Uplink, Option<Kind>) -> bool) -> bool {
        let Some(output) = self.nodes[from].poll_output() else { return false };
        let (id, now) = (self.nodes[from].me().id, self.now);
        let to = &mut self.nodes[1 - from];
        match output {
            Output::Datagram { uplink, bytes, .. } => {
                let kind = Datagram::decode(bytes.clone(), CLUSTER).expect("a node sends what it reads").kind;
                if !lost(from, uplink, Some(kind)) {
                    to.handle_datagram(now, id, uplink, bytes);
                }
            }
            Output::Gossip { uplink, frame: sent, .. } if !lost(from, uplink, None) => {
                let frame = frame::decode_gossip(&sent.bytes()[frame::PREFIX_LEN..], CLUSTER).expect("as above");
                to.handle_gossip(now, id, frame.gossip.unwrap_or_default());
            }
            Output::Sync { request, .. } if !lost(1 - from, Uplink::B, None) => {
                let response = to.handle_sync_request(now, &request);
                let me = to.me().id;
                self.nodes[from].handle_sync_response(now, me, response);
            }
            Output::Gossip { .. } | Output::Sync { .. } => {}
            Output::Reach { to: host, uplink } => {
                self.nodes[from].handle_reach(now, host.id, uplink, Reach::Answers);
            }
            Output::Inside { .. }
            | Output::Pin(_)
            | Output::Probe(_)
            | Output::Persist(_)
            | Output::Remember { .. }
            | Output::Act { .. }
            | Output::Keep { .. }
            | Output::Left => {}
        }
        true
    }

    pub(super) fn now(&self) -> Now {
        self.now
    }

    pub(super) fn node(&mut self, place: usize) -> &mut Node {
        &mut self.nodes[place]
    }

    pub(super) fn view(&self, place: usize) -> &View {
        &self.views[place]
    }

    /// A host as one of the two shows it.
    pub(super) fn host(&self, place: usize, name: &str) -> v1::Host {
        self.views[place].hosts.iter().find(|host| host.name == name).cloned().unwrap_or_default()
    }

    pub(super) fn state(&self, place: usize, name: &str) -> Option<v1::host::State> {
        self.views[place].hosts.iter().find(|host| host.name == name).map(v1::Host::state)
    }

    /// What a host says of its own uplinks.
    fn uplinks(&self, place: usize) -> [i32; 2] {
        let own = self.views[place].hosts.iter().find(|host| host.local).and_then(|host| host.uplinks);
        own.map_or([0; 2], |uplinks| [uplinks.a, uplinks.b])
    }
}

const CLUSTER: ClusterId = ClusterId::new(7);

const UP: i32 = v1::uplink::State::Up as i32;
const DOWN: i32 = v1::uplink::State::Down as i32;

fn member(id: u32) -> Member {
    let address = |net: u8| Some(([10, net, 0, id as u8], 7400).into());
    Member { id: HostId::new(id), generation: 0, addresses: [address(77), address(78)] }
}

fn config(me: Member, known: Vec<Member>) -> Config {
    Config {
        cluster: CLUSTER,
        me,
        name: format!("h{}", me.id.raw()),
        zone: "default".into(),
        rack: String::new(),
        chords: Chords::Auto,
        configured_chords: None,
        version: "test".into(),
        wiring: Wiring::Switched { seed: 1 },
        position: 0,
        known,
        forget_after: Duration::from_secs(3600),
        zones: Vec::new(),
        budgets: Budgets::default(),
        containers: Vec::new(),
        repair: Settings::default(),
        repairs: RepairState::default(),
        judgement: Default::default(),
        histories: Vec::new(),
        protection: Timers::default(),
        tick: Duration::ZERO,
        seed: u64::from(me.id.raw()),
    }
}

/// A host without others.
pub(super) fn alone(containers: Vec<ContainerSpec>) -> Node {
    let now = Now { instant: Instant::ZERO + Duration::from_secs(1), unix: UnixMillis(1_700_000_000_000) };
    let config = Config { containers, ..config(member(1), Vec::new()) };
    Node::new(now, config, Box::new(Trusting(HostId::new(1))))
}

/// Of two ends the lower id probes, and either must find its uplink well again, also the one that hardly sends a probe: it
/// once judged its uplinks only when it sent one.
#[test]
fn an_uplink_that_fails_in_one_direction_is_up_again_at_both_ends() {
    let mut pair = Pair::new();
    let well = |_: usize, _: Uplink, _: Option<Kind>| false;
    pair.run(Duration::from_secs(10), well);
    assert_eq!((pair.uplinks(0), pair.uplinks(1)), ([UP, UP], [UP, UP]));
    // Nothing of what the first sends on A arrives, and the second does not learn that the first complains, too.
    pair.run(Duration::from_secs(8), |from, uplink, kind| from == 0 && (uplink == Uplink::A || kind.is_none()));
    assert_eq!(pair.uplinks(1), [DOWN, UP]);
    pair.run(Duration::from_secs(10), well);
    assert_eq!((pair.uplinks(0), pair.uplinks(1)), ([UP, UP], [UP, UP]));
}

#[test]
fn a_configuration_that_asks_for_other_chords_than_the_clusters_is_told_of() {
    let now = Now { instant: Instant::ZERO, unix: UnixMillis(1_700_000_000_000) };
    let told = |configured: Option<Chords>| {
        let config = Config { configured_chords: configured, ..config(member(1), Vec::new()) };
        let mut node = Node::new(now, config, Box::new(Trusting(HostId::new(1))));
        let view = node.poll_view(now).expect("a new node has something to show");
        let texts = view.events.iter().filter(|event| event.kind == "chords-differ").map(|event| event.text.clone());
        texts.collect::<Vec<_>>()
    };
    assert_eq!((told(None), told(Some(Chords::Auto))), (vec![], vec![]));
    let text = "h1 is configured for chords \"none\", but its cluster was made with \"auto\", which it goes by; take \
                mesh.chords out of its configuration";
    assert_eq!(told(Some(Chords::None)), [text]);
}

/// What a member says of itself must not spoil our own coordinate, nor fill our memory.
#[test]
fn a_coordinate_that_cannot_be_is_counted_and_moves_nothing() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(5), |_, _, _| false);
    let (now, liar) = (pair.now, HostId::new(1));
    let generation = pair.nodes[0].me().generation;
    let node = &mut pair.nodes[1];
    // The wires of a pair have no delay; the liar, who probes, says what it measured.
    let probe = |node: &mut Node| {
        let payload = link_probe(1, true, Some(Duration::from_millis(2)));
        let datagram = Datagram { kind: Kind::LinkProbe, cell: 0, zone: node.zone.id, sequence: 0, payload };
        node.handle_datagram(now, liar, Uplink::A, datagram.encode(CLUSTER));
    };
    probe(node);
    let before = node.place.coordinate();
    assert_ne!(before, ringmesh_topology::Coordinate::ORIGIN, "an honest one moves it");
    for (seq, position_us) in [(1000, vec![i32::MAX; 3]), (1001, vec![9_000_000; 3]), (1002, vec![0; 10_000])] {
        let coordinate = Some(v1::Coordinate { position_us, ..v1::Coordinate::default() });
        let named = HostRecord { name: "h1".into(), zone: node.config.zone.clone(), ..HostRecord::default() };
        let record = HostRecord { host: 1, generation, seq, coordinate, seal: seal(liar), ..named };
        let zone = node.zone.id.raw();
        node.handle_gossip(now, liar, Gossip { hosts: vec![record.into()], zone, ..Gossip::default() });
        probe(node);
    }
    assert_eq!(node.store.host(liar).map(|heard| heard.record.seq), Some(1001), "the long one is not kept");
    assert_eq!((node.store.refused(), node.counters.get("coordinates_refused")), (1, Some(&3)));
    assert_eq!(node.place.coordinate(), before);
}

/// What the first host sends as gossip from now on: class, uplink, whether it is a second copy.
fn sent(pair: &mut Pair) -> Vec<(Class, Uplink, bool)> {
    let mut sent = Vec::new();
    while let Some(output) = pair.nodes[0].poll_output() {
        if let Output::Gossip { class, uplink, second, .. } = output {
            sent.push((class, uplink, second));
        }
    }
    sent
}

fn converged() -> Pair {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(10), |_, _, _| false);
    assert_eq!((pair.uplinks(0), pair.uplinks(1)), ([UP, UP], [UP, UP]));
    pair
}

/// A record of the first host, in the way of digests.
fn send_record(pair: &mut Pair) -> Vec<(Class, Uplink, bool)> {
    let now = pair.now;
    pair.nodes[0].write_record(now);
    pair.nodes[0].flood(now);
    sent(pair)
}

/// An event of the first host.
fn send_event(pair: &mut Pair) -> Vec<(Class, Uplink, bool)> {
    let now = pair.now;
    pair.nodes[0].tell(now, EventRecord { kind: "service-verdict".into(), ..EventRecord::default() }, false);
    pair.nodes[0].flood(now);
    sent(pair)
}

#[test]
fn an_event_goes_over_both_uplinks_and_a_record_over_the_better_one() {
    use Class::{Digest, Event};
    use Uplink::{A, B};
    let mut pair = converged();
    assert_eq!(send_event(&mut pair), [(Event, A, false), (Event, B, true)]);
    assert_eq!(send_record(&mut pair), [(Digest, A, false)]);
    let well = |_: usize, _: Uplink, _: Option<Kind>| false;
    for (order, best) in [(Order::Forced(B), B), (Order::Manual(A), A), (Order::Manual(B), B), (Order::None, A)] {
        let now = pair.now;
        pair.nodes[0].handle_order(now, order);
        pair.run(Duration::from_secs(1), well);
        assert_eq!(send_record(&mut pair), [(Digest, best, false)], "{order:?}");
        assert_eq!(send_event(&mut pair), [(Event, best, false), (Event, best.other(), true)], "{order:?}");
        pair.run(Duration::from_secs(1), well);
    }
}

#[test]
fn a_lost_carrier_moves_traffic_at_once_and_it_comes_back_after_the_wait_to_restore() {
    use Class::{Digest, Event};
    use Uplink::{A, B};
    let mut pair = converged();
    let unplugged = |from: usize, uplink: Uplink, _: Option<Kind>| from < 2 && uplink == A;
    let well = |_: usize, _: Uplink, _: Option<Kind>| false;
    let now = pair.now;
    pair.nodes[0].handle_carrier(now, A, false);
    assert_eq!(sent(&mut pair), [(Event, B, false)], "event and record in one frame, over the uplink that is left");
    pair.nodes[0].handle_carrier(now, A, false);
    assert_eq!(sent(&mut pair), [], "no news");
    pair.run(Duration::from_secs(3), unplugged);
    assert_eq!(pair.uplinks(0), [DOWN, UP]);
    assert_eq!(send_event(&mut pair), [(Event, B, false)]);
    let now = pair.now;
    pair.nodes[0].handle_carrier(now, A, true);
    pair.run(Duration::from_secs(5), well);
    let seen = pair.views[0].hosts[0].uplinks.unwrap_or_default();
    assert_eq!(pair.uplinks(0), [UP, UP]);
    assert!(seen.restored_at_a.is_some() && seen.restored_at_b.is_none() && !seen.no_carrier_a, "{seen:?}");
    assert_eq!(send_record(&mut pair), [(Digest, B, false)], "not yet");
    pair.run(Duration::from_millis(100), well);
    assert_eq!(send_event(&mut pair), [(Event, B, false), (Event, A, true)], "second copies may");
    pair.run(Duration::from_secs(30), well);
    assert_eq!(send_record(&mut pair), [(Digest, A, false)]);
    let of_h1 = pair.views[1].events.iter().filter(|event| event.kind == "uplink-changed" && event.host == "h1");
    let told: Vec<_> = of_h1.map(|event| event.text.as_str()).collect();
    assert_eq!(told, ["h1 uplink a is down: its interface has no carrier or address", "h1 uplink a is up"]);
}

#[test]
fn a_second_copy_is_dropped_and_counted() {
    let mut pair = converged();
    let well = |_: usize, _: Uplink, _: Option<Kind>| false;
    let duplicates = |pair: &Pair| pair.nodes[1].store.duplicates();
    let before = duplicates(&pair);
    let now = pair.now;
    pair.nodes[0].tell(now, EventRecord { kind: "service-verdict".into(), ..EventRecord::default() }, false);
    pair.run(Duration::from_secs(1), well);
    let events = pair.views[1].events.iter().filter(|event| event.kind == "service-verdict").count();
    assert_eq!((events, duplicates(&pair) - before), (1, 1));
}

#[test]
fn what_is_for_another_host_is_passed_on_once_and_within_a_bound() {
    let mut pair = converged();
    let (now, peer, me) = (pair.now, HostId::new(2), HostId::new(1));
    let gossip = || Gossip { events: vec![EventRecord { origin: 3, ..EventRecord::default() }], ..Gossip::default() };
    sent(&mut pair);
    let node = &mut pair.nodes[0];
    node.handle_relay(now, HostId::new(3), HostId::new(9), gossip());
    node.handle_relay(now, peer, peer, gossip());
    assert_eq!(node.counters.get("relay_refused"), Some(&2), "nobody, and who sent it");
    for _ in 0..100 {
        node.handle_relay(now, HostId::new(3), peer, gossip());
    }
    assert_eq!(node.counters.get("relayed"), Some(&64));
    let mut passed = 0;
    while let Some(output) = node.poll_output() {
        let Output::Gossip { to, frame, .. } = output else { continue };
        let bytes = frame.bytes();
        let frame = frame::decode_gossip(&bytes[frame::PREFIX_LEN..], CLUSTER).expect("a node sends what it reads");
        assert_eq!((to.id, frame.relay_to), (peer, 0), "the next host keeps it");
        passed += 1;
    }
    assert_eq!(passed, 64);
    // For this host itself it is gossip as any.
    let (before, zone) = (node.store.duplicates(), node.zone.id.raw());
    node.handle_relay(
        now,
        peer,
        me,
        Gossip {
            events: vec![EventRecord { origin: 3, seq: 1, ..EventRecord::default() }; 2],
            zone,
            ..Gossip::default()
        },
    );
    assert_eq!(node.store.duplicates() - before, 1);
}

/// Records of a third host that the second passes on, each newer than the one before.
fn passed_on(pair: &mut Pair, seqs: std::ops::Range<u32>, seal: Bytes) -> u64 {
    let (now, from) = (pair.now, HostId::new(2));
    let node = &mut pair.nodes[0];
    let before = node.counters.get("seals_refused").copied().unwrap_or(0);
    let record = |seq| HostRecord {
        host: 3,
        seq,
        name: "h3".into(),
        zone: "default".into(),
        seal: seal.clone(),
        ..HostRecord::default()
    };
    let gossip =
        Gossip { hosts: seqs.map(record).map(Into::into).collect(), zone: node.zone.id.raw(), ..Gossip::default() };
    node.handle_gossip(now, from, gossip);
    node.counters.get("seals_refused").copied().unwrap_or(0) - before
}

#[test]
fn whoever_passes_on_many_bad_seals_is_not_listened_to_for_the_rest_of_a_second() {
    let mut pair = converged();
    let (good, bad) = (seal(HostId::new(3)), seal(HostId::new(2)));
    assert_eq!(passed_on(&mut pair, 1..16, bad.clone()), 15);
    assert_eq!(passed_on(&mut pair, 1..2, good.clone()), 0, "it may have been deceived itself");
    assert_eq!(passed_on(&mut pair, 10..20, bad), 10);
    assert_eq!(passed_on(&mut pair, 20..21, good.clone()), 1, "unread");
    let heard = |pair: &Pair| pair.nodes[0].store.host(HostId::new(3)).map(|heard| heard.record.seq);
    assert_eq!(heard(&pair), Some(1));
    pair.run(Duration::from_secs(1), |_, _, _| false);
    assert_eq!((passed_on(&mut pair, 21..22, good), heard(&pair)), (0, Some(21)));
}

#[test]
fn whoever_writes_more_than_it_has_to_say_waits_for_the_next_second() {
    let mut pair = converged();
    let good = seal(HostId::new(3));
    assert_eq!(passed_on(&mut pair, 1..301, good.clone()), 0);
    let heard = |pair: &Pair| pair.nodes[0].store.host(HostId::new(3)).map(|heard| heard.record.seq);
    assert_eq!((heard(&pair), pair.nodes[0].counters.get("seals_too_many")), (Some(256), Some(&44)));
    pair.run(Duration::from_secs(1), |_, _, _| false);
    passed_on(&mut pair, 301..302, good);
    assert_eq!(heard(&pair), Some(301));
    // Whom nobody knows costs no memory, though everybody may write that it said something.
    let now = pair.now;
    let forged = (100..110).map(|host| HostRecord { host, ..HostRecord::default() }.into()).collect();
    pair.nodes[0].refuse_unsealed(now, HostId::new(2), &mut Gossip { hosts: forged, ..Gossip::default() });
    assert!(pair.nodes[0].costs.keys().all(|host| host.raw() <= 3));
    pair.run(Duration::from_secs(80), |_, _, _| false);
    assert!(!pair.nodes[0].costs.contains_key(&HostId::new(3)));
}

#[test]
fn what_is_not_sealed_is_not_passed_on_for_others_either() {
    let mut pair = converged();
    sent(&mut pair);
    let seal = || seal(HostId::new(3));
    let record = |host: u32| Shared::from(HostRecord { host, seal: seal(), ..HostRecord::default() });
    let gossip = Gossip { hosts: vec![record(3), record(4)], ..Gossip::default() };
    let (now, to) = (pair.now, HostId::new(2));
    let node = &mut pair.nodes[0];
    node.handle_relay(now, HostId::new(3), to, gossip);
    let passed = std::iter::from_fn(|| node.poll_output()).find_map(|output| {
        let Output::Gossip { frame, .. } = output else { return None };
        frame.gossip().map(|gossip| gossip.hosts.clone())
    });
    assert_eq!(passed, Some(vec![record(3)]));
}

#[test]
fn what_is_heard_at_the_socket_of_a_container_is_of_the_clone_in_its_place() {
    let now = Now { instant: Instant::ZERO + Duration::from_secs(1), unix: UnixMillis(1_700_000_000_000) };
    let beats = ServiceSpec::new("worker", Check::Heartbeat { socket: "/run/ringmesh/heartbeat".into() });
    let clone = ContainerSpec { name: "c1.2".into(), services: vec![beats], ..ContainerSpec::default() };
    let instance = Instance { name: "c1.2".into(), ..Instance::default() };
    let repairs = RepairState { instances: [("c1".to_owned(), instance)].into(), ..RepairState::default() };
    let config = Config { containers: vec![clone], repairs, ..config(member(1), Vec::new()) };
    let mut node = Node::new(now, config, Box::new(Trusting(HostId::new(1))));
    let status = ContainerStatus { name: "c1.2".into(), state: ContainerState::Running, ..ContainerStatus::default() };
    node.handle_status(now, status);
    let (container, service, text) = ("c1".into(), "worker".into(), "well".into());
    node.handle_heartbeat(now, Heartbeat { container, service, beat: Beat::Ok, text });
    assert_eq!(&*node.health.services()[0].told.answer, "well");
}

/// What a container says of its own accord is evidence that it lives; that it is overdue is evidence that it does not.
#[test]
fn a_container_that_no_longer_speaks_up_is_taken_for_down_by_its_cell() {
    let mut now = Now { instant: Instant::ZERO + Duration::from_secs(1), unix: UnixMillis(1_700_000_000_000) };
    let service = ServiceSpec {
        interval: Duration::from_secs(5),
        ..ServiceSpec::new("worker", Check::Heartbeat { socket: "/run/ringmesh/heartbeat".into() })
    };
    let container =
        ContainerSpec { name: "c1".into(), driver: "oci".into(), services: vec![service], ..ContainerSpec::default() };
    let config = Config { containers: vec![container], ..config(member(1), Vec::new()) };
    let mut node = Node::new(now, config, Box::new(Trusting(HostId::new(1))));
    node.observe();
    let status = ContainerStatus { name: "c1".into(), state: ContainerState::Running, ..ContainerStatus::default() };
    node.handle_status(now, status);
    let mut run = |seconds: u64, beat: Option<Beat>| {
        for tenth in 0..seconds * 10 {
            now.instant += Duration::from_millis(100);
            if let Some(beat) = beat.filter(|_| tenth % 20 == 0) {
                let (container, service, text) = ("c1".into(), "worker".into(), String::new());
                node.handle_heartbeat(now, Heartbeat { container, service, beat, text });
            }
            if node.poll_timeout() <= now.instant {
                node.handle_timeout(now);
            }
            while node.poll_output().is_some() {}
        }
        node.health.containers()[0].member.as_ref().map(|member| member.state())
    };
    use v1::cell_member::State;
    assert_eq!(run(60, Some(Beat::Ok)), Some(State::Alive));
    assert_eq!(run(60, Some(Beat::Warn)), Some(State::Alive), "it is unwell and lives");
    assert_eq!(run(9, None), Some(State::Suspect));
    assert_eq!(run(11, None), Some(State::Down));
    assert_eq!(run(5, Some(Beat::Ok)), Some(State::Alive));
}
