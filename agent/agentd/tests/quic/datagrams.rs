//! Garbage on the port, garbage in datagrams, and datagrams that are too large.

use std::{
    net::{SocketAddr, UdpSocket},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use quinn::TransportConfig;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use ringmesh_agentd::{
    alarm::AlarmClock,
    clock::Clock,
    config,
    disk::Trouble,
    host_loop::{COMMAND_BOUND, Command, HostLoop, Inputs, REPLY_BOUND},
    identity::{Keyring, keyring::HostSeals, tls},
    probe::{Prober, inside::Members},
    reach::Reacher,
    repair::Hands,
    runtime::{self, Left},
};
use ringmesh_node::{Node, Persistent, View, overlay::Wiring, zones::Budgets};
use ringmesh_proto::{
    ClusterId, Uplink, ZoneId,
    datagram::{Datagram, Kind, MAX_LEN},
    member::Member,
    peer::{SyncRequest, request, response},
    v1,
};
use tokio::sync::{mpsc, watch};

use crate::support::{
    Cluster, Host, ask, free, quic_client, raw_dial, raw_endpoint, raw_member, read, request, until, within,
};

/// The first packet of a real handshake, from a client that will never hear an answer.
async fn first_packet() -> Vec<u8> {
    let sink = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("loopback");
    let config = tls::join_client_config([0; 32]).expect("ring");
    let config = quic_client(config, TransportConfig::default());
    let _connecting =
        endpoint.connect_with(config, sink.local_addr().expect("it is bound"), "any.ringmesh").expect("a valid name");
    let mut packet = vec![0; 2048];
    let len = within("a first packet", sink.recv(&mut packet)).await.expect("loopback");
    packet.truncate(len);
    packet
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_truncated_packets_leave_the_port_serving() {
    let cluster = Cluster::new();
    let mut ours = Host::start(&cluster.first);
    let peer = raw_member(&cluster.admit("h2"), &ours).await;
    let real = first_packet().await;
    assert!(real.len() >= 1200, "RFC 9000 pads it");

    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let mut rng = StdRng::seed_from_u64(7);
    for round in 0..4000 {
        let mut packet = match round % 4 {
            // Noise, of every length.
            0 => (0..rng.random_range(0..1500)).map(|_| rng.random()).collect(),
            // A real one, cut.
            1 => real[..rng.random_range(0..real.len())].to_vec(),
            // A real one, a few bits turned.
            2 => {
                let mut packet = real.clone();
                for _ in 0..rng.random_range(1..4) {
                    let at = rng.random_range(0..packet.len());
                    packet[at] ^= 1 << rng.random_range(0..8);
                }
                packet
            }
            // As of a connection that is established.
            _ => {
                let mut packet: Vec<u8> = (0..rng.random_range(1..1400)).map(|_| rng.random()).collect();
                packet[0] = 0x40 | (packet[0] & 0x3f);
                packet
            }
        };
        packet.truncate(1400);
        socket.send_to(&packet, ours.address(Uplink::A)).expect("loopback");
    }

    // The old connection works, and new ones are made.
    peer.send_datagram(Bytes::from_static(b"still here")).expect("it fits");
    assert_eq!(ours.next_datagram().await.2, Bytes::from_static(b"still here"));
    let newcomer = Host::start(&cluster.admit("h3"));
    newcomer.reach(&mut ours, Uplink::A, b"new here").await;
    assert!(peer.close_reason().is_none());
}

/// An agent's host loop over real sockets, without containers and disk.
pub(crate) struct Running {
    pub(crate) member: Member,
    pub(crate) view: watch::Receiver<Arc<View>>,
    _commands: mpsc::Sender<Command>,
    _disk: watch::Receiver<Option<Persistent>>,
}

pub(crate) fn run(host: Host, name: &str, known: Vec<Member>) -> Running {
    let clock = Clock::default();
    let member = Member { generation: 0, ..host.member };
    let node = Node::new(
        clock.now(),
        ringmesh_node::Config {
            cluster: host.identity.cluster,
            me: member,
            name: name.into(),
            zone: "default".into(),
            rack: String::new(),
            chords: host.identity.chords,
            configured_chords: None,
            version: "test".into(),
            wiring: Wiring::Switched { seed: host.identity.ring_seed },
            position: 0,
            known,
            forget_after: std::time::Duration::from_secs(3600),
            zones: Vec::new(),
            budgets: Budgets::default(),
            containers: Vec::new(),
            repair: Default::default(),
            repairs: Default::default(),
            judgement: Default::default(),
            histories: Vec::new(),
            protection: Default::default(),
            tick: Duration::ZERO,
            seed: u64::from(member.id.raw()),
        },
        Box::new(HostSeals::new(&Keyring::of(&host.identity).expect("a good identity"))),
    );
    let (reply_sender, replies) = mpsc::channel(REPLY_BOUND);
    let (_commands, commands) = mpsc::channel(COMMAND_BOUND);
    let config = "[host]\nname = \"h\"\nstate_dir = \"/no/such/directory\"\n[uplink.a]\naddress = \"127.0.0.1\"\n";
    let config = config::Config::parse(Path::new("test.toml"), config).expect("it is valid");
    let (runtime, statuses) =
        runtime::spawn(&config.host.state_dir, config.containers, "test", Path::new("/bin/false"), &Left::default());
    let (hands, repairs) = Hands::new(runtime, config.host.state_dir, Trouble::default());
    let (_, carriers) = mpsc::channel(1);
    let (_, heartbeats) = mpsc::channel(1);
    let (_, insides) = mpsc::channel(1);
    let (_, written) = mpsc::channel(1);
    let (histories, _) = mpsc::channel(1);
    let (disk, _disk) = watch::channel(None);
    let view = host.view.subscribe();
    // There is nothing to probe; any program stands for the runner.
    let prober = Prober::spawn(&config::Probe::default(), "/bin/false".into(), reply_sender).expect("a thread");
    let (reached_sender, reached) = mpsc::channel(1);
    let reacher = Reacher::new([None; 2], reached_sender);
    let host_loop = HostLoop {
        node,
        alarms: AlarmClock::start().expect("timers"),
        clock,
        transport: host.transport,
        prober,
        members: Members::none(),
        reacher,
        hands,
        disk,
        histories,
        view: host.view,
    };
    let inbound = host.inbound;
    let trouble = Trouble::default().watch();
    let inputs = Inputs {
        inbound,
        replies,
        heartbeats,
        insides,
        reached,
        statuses,
        repairs,
        carriers,
        commands,
        written,
        trouble,
    };
    tokio::spawn(host_loop.run(inputs));
    Running { member, view, _commands, _disk }
}

impl Running {
    pub(crate) async fn sees(&mut self, what: &str, condition: impl Fn(&View) -> bool) {
        within(what, self.view.wait_for(|view| condition(view))).await.expect("the host loop runs");
    }
}

pub(crate) fn alive(view: &View) -> usize {
    view.hosts.iter().filter(|host| host.state() == v1::host::State::Alive).count()
}

/// Every way for a datagram to be bad, each with the counter that tells it.
fn bad_datagrams(us: ClusterId, rng: &mut StdRng) -> Vec<(&'static str, Bytes)> {
    let datagram = |kind, payload: Vec<u8>, sequence| Datagram {
        kind,
        cell: 0,
        zone: ZoneId::of("default"),
        sequence,
        payload: payload.into(),
    };
    let noise =
        |rng: &mut StdRng, most: usize| (0..rng.random_range(0..most)).map(|_| rng.random()).collect::<Vec<u8>>();
    let good = datagram(Kind::Swim, noise(rng, 200), rng.random()).encode(us);
    let turned = |at: usize, bits: u8| {
        let mut bytes = good.to_vec();
        bytes[at] ^= bits;
        Bytes::from(bytes)
    };
    vec![
        ("datagram_truncated", good.slice(..rng.random_range(0..12))),
        ("datagram_version", turned(0, rng.random_range(1..=255))),
        ("datagram_malformed", turned(1, 0x80)),
        ("datagram_cluster", turned(rng.random_range(4..8), rng.random_range(1..=255))),
        // Another zone's SWIM, as it would come if two pools were about to merge.
        ("datagram_zone", turned(rng.random_range(8..12), rng.random_range(1..=255))),
        ("datagram_oversized", Bytes::from(vec![1; MAX_LEN + 1])),
        ("datagram_malformed", datagram(Kind::Swim, vec![0xff; 20], rng.random()).encode(us)),
        ("datagram_malformed", datagram(Kind::LinkAck, vec![0; 7], 0).encode(us)),
        // For anything but nothing there is no counter: what these are is for SWIM to say.
        ("", datagram(Kind::Swim, noise(rng, 600), rng.random()).encode(us)),
        ("", datagram(Kind::LinkProbe, noise(rng, 64), 0).encode(us)),
        ("", datagram(Kind::LinkAck, vec![0; 8], 0).encode(us)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_datagrams_of_a_member_are_counted_and_do_no_harm() {
    let cluster = Cluster::new();
    let us = cluster.first.cluster;
    let (h1, h2) = (Host::start(&cluster.first), Host::start(&cluster.admit("h2")));
    let known = vec![h1.member, h2.member];
    let h3 = cluster.admit("h3");
    let evil = raw_member(&h3, &h1).await;
    let mut h1 = run(h1, "h1", known.clone());
    let mut h2 = run(h2, "h2", known);
    for host in [&mut h1, &mut h2] {
        host.sees("two hosts are alive", |view| alive(view) == 2).await;
    }

    let mut rng = StdRng::seed_from_u64(7);
    let counters =
        ["datagram_truncated", "datagram_version", "datagram_malformed", "datagram_cluster", "datagram_zone"];
    for _ in 0..300 {
        for (_, bytes) in bad_datagrams(us, &mut rng) {
            // The path may carry less than the one that is too large; all others go everywhere.
            if evil.max_datagram_size().is_some_and(|most| bytes.len() <= most) {
                within("room to send", evil.send_datagram_wait(bytes)).await.expect("the connection is up");
            }
        }
    }
    h1.sees("each reason is counted", |view| counters.iter().all(|name| view.counters.contains_key(name))).await;
    // The path is found to carry more with time; how much more is known then.
    until("the path carries more", || evil.max_datagram_size().is_some_and(|most| most > MAX_LEN)).await;
    evil.send_datagram_wait(Bytes::from(vec![1; MAX_LEN + 1])).await.expect("it fits");
    h1.sees("oversized ones are counted", |view| view.counters.contains_key("datagram_oversized")).await;

    // It still answers, and nobody believed a word.
    let sync =
        request(us, request::Body::Sync(SyncRequest { zone: ZoneId::of("default").raw(), ..SyncRequest::default() }));
    let response::Body::Sync(answer) = ask(&evil, &sync).await else { panic!("no sync") };
    let mut members: Vec<u32> = answer.members.iter().filter(|m| m.state == 0).map(|m| m.host).collect();
    members.push(h1.member.id.raw());
    members.sort_unstable();
    members.dedup();
    let mut expected = [h1.member.id.raw(), h2.member.id.raw()];
    expected.sort_unstable();
    assert_eq!(members, expected);
    let taken = h1.view.borrow().taken.instant;
    for host in [&mut h1, &mut h2] {
        host.sees("a later view", |view| view.taken.instant > taken).await;
        let view = host.view.borrow().clone();
        assert_eq!(alive(&view), 2, "{:?}", view.hosts);
        assert!(view.events.iter().all(|event| event.kind != "host-down"), "{:?}", view.events);
    }
    assert!(evil.close_reason().is_none());
}

#[tokio::test]
async fn a_datagram_is_never_larger_than_the_path_or_the_peer_takes() {
    let cluster = Cluster::new();
    let ours = Host::start(&cluster.first);
    // The largest of our own fits into the smallest path, from the first moment on.
    let other = Host::start(&cluster.admit("h2"));
    let mut other = other;
    let largest = Bytes::from(vec![7; MAX_LEN]);
    ours.transport.send_datagram(other.member, Uplink::A, largest.clone());
    assert_eq!(other.next_datagram().await, (ours.id(), Uplink::A, largest.clone()));
    // Larger than any path of ours: dropped here and counted, and the connection is none the worse.
    ours.transport.send_datagram(other.member, Uplink::A, Bytes::from(vec![7; 1500]));
    assert_eq!(read(&ours.counters.datagrams_dropped), 1);
    ours.transport.send_datagram(other.member, Uplink::A, Bytes::from_static(b"after"));
    assert_eq!(other.next_datagram().await.2, Bytes::from_static(b"after"));

    // A peer that takes only small ones.
    let mut small = TransportConfig::default();
    small.datagram_receive_buffer_size(Some(500));
    let identity = cluster.admit("small");
    let config = tls::peer_client_config(&identity).expect("a usable identity");
    let peer = raw_dial(config, small, &ours).await.expect("a member is let in");
    peer.send_datagram(Bytes::from_static(b"here")).expect("it fits");
    let member = Member { id: identity.host, generation: 1, addresses: [Some(free(Uplink::A)), None] };
    let mut ours = ours;
    assert_eq!(ours.next_datagram().await.0, identity.host);
    ours.transport.send_datagram(member, Uplink::A, largest);
    ours.transport.send_datagram(member, Uplink::A, Bytes::from(vec![8; 400]));
    let arrived = within("the small one", peer.read_datagram()).await.expect("the connection is up");
    assert_eq!(arrived.len(), 400);
    assert_eq!(read(&ours.counters.datagrams_dropped), 2);
}

#[tokio::test]
async fn what_waits_for_a_connection_is_bounded_and_counted_when_it_fails() {
    let cluster = Cluster::new();
    let ours = Host::start(&cluster.first);
    // It takes packets and says nothing.
    let silent = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let address: SocketAddr = silent.local_addr().expect("it is bound");
    let member = Member { id: cluster.admit("h2").host, generation: 1, addresses: [Some(address), None] };
    for _ in 0..100 {
        ours.transport.send_datagram(member, Uplink::A, Bytes::from_static(b"lost"));
    }
    // Sixteen wait; the others are dropped at once.
    assert_eq!(read(&ours.counters.messages_unsent), 84);
    until("the try ends", || read(&ours.counters.messages_unsent) == 100).await;
    // Soon after a failure no further try is made.
    ours.transport.send_datagram(member, Uplink::A, Bytes::from_static(b"lost"));
    assert_eq!(read(&ours.counters.messages_unsent), 101);
    // A host that has no such uplink costs nothing.
    ours.transport.send_datagram(member, Uplink::B, Bytes::from_static(b"lost"));
    assert_eq!(read(&ours.counters.messages_unsent), 102);
    // Now it answers, after the pause.
    drop(silent);
    let endpoint = raw_endpoint(&cluster.admit("h3"), address);
    let sent = std::time::Instant::now();
    let incoming = async {
        loop {
            ours.transport.send_datagram(member, Uplink::A, Bytes::from_static(b"again"));
            if let Ok(incoming) = tokio::time::timeout(Duration::from_millis(50), endpoint.accept()).await {
                return incoming;
            }
        }
    };
    within("it is tried again", incoming).await.expect("the endpoint is open");
    assert!(sent.elapsed() < Duration::from_secs(5), "{:?}", sent.elapsed());
}
