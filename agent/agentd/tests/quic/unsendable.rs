//! Hosts to which the kernel does not send: others are not to notice.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    time::{Duration, Instant},
};

use bytes::Bytes;
use nix::sched::{CloneFlags, unshare};
use ringmesh_agentd::quic::Inbound;
use ringmesh_proto::{HostId, Uplink, member::Member};

use crate::support::{CACHE, Cluster, Host, read};

/// Datagrams to the good host, and between two of them.
const DATAGRAMS: u64 = 400;
const INTERVAL: Duration = Duration::from_millis(5);

/// Hosts whose hardware address nobody tells: as a rack that is gone.
const UNRESOLVED: u8 = 48;

/// In a network namespace of its own, which ends with the thread.
#[test]
#[ignore = "needs root"]
fn a_host_that_cannot_be_sent_to_delays_no_other() {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("root");
        make_network();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an event loop");
        runtime.block_on(compare());
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn make_network() {
    for command in [
        "link set lo up",
        "address add 10.9.1.1/32 dev lo",
        "address add 10.9.1.2/32 dev lo",
        "link add rm0 type veth peer name rm1",
        "link set rm0 up",
        "link set rm1 up",
        "route add 10.9.60.0/24 dev rm0",
        "route add prohibit 10.9.50.0/24",
        "route add unreachable 10.9.51.0/24",
        "route add blackhole 10.9.52.0/24",
    ] {
        let output = Command::new("ip").args(command.split(' ')).output().expect("iproute2");
        assert!(output.status.success(), "{command}: {output:?}");
    }
}

async fn compare() {
    let cluster = Cluster::new();
    let open = |identity, address: [u8; 4]| {
        Host::open(identity, [Some(SocketAddr::from((address, 7400))), None], CACHE, std::sync::Arc::default())
            .expect("the port is free")
    };
    let here = open(&cluster.first, [10, 9, 1, 1]);
    let mut good = open(&cluster.admit("h2"), [10, 9, 1, 2]);
    here.reach(&mut good, Uplink::A, b"hello").await;
    let mut bad: Vec<Ipv4Addr> = (1..=UNRESOLVED).map(|host| [10, 9, 60, host].into()).collect();
    bad.extend([[10, 9, 50, 1], [10, 9, 51, 1], [10, 9, 52, 1]].map(Ipv4Addr::from));
    let bad: Vec<Member> = bad
        .into_iter()
        .enumerate()
        .map(|(nth, address)| Member {
            id: HostId::new(0x1000 + nth as u32),
            generation: 1,
            addresses: [Some((address, 7400).into()), None],
        })
        .collect();
    let alone = delays(&here, &mut good, &[]).await;
    let refused = read(&here.counters.sends_refused);
    assert_eq!(refused, 0);
    let beside = delays(&here, &mut good, &bad).await;
    let refused = read(&here.counters.sends_refused);
    eprintln!(
        "delay of datagrams to a good host: median {:?}, longest {:?}; beside {} unsendable hosts: median {:?}, longest {:?}; \
         {refused} packets refused, {} delayed",
        alone[alone.len() / 2],
        alone[alone.len() - 1],
        bad.len(),
        beside[beside.len() / 2],
        beside[beside.len() - 1],
        read(&here.counters.sends_delayed)
    );
    assert!(refused > 0, "what the kernel refused is counted");
    assert_eq!(read(&here.counters.sends_delayed), 0, "the send buffer holds what waits for addresses");
    // A machine that is busy delays a few, whoever cannot be sent to.
    let most = beside[beside.len() * 95 / 100];
    assert!(most < Duration::from_millis(20), "{most:?}, alone {:?}", alone[alone.len() * 95 / 100]);
}

/// How long each datagram took, sorted, while as many are sent to each of `bad`.
async fn delays(here: &Host, good: &mut Host, bad: &[Member]) -> Vec<Duration> {
    let start = Instant::now();
    let to = good.member;
    let send = async {
        let mut tick = tokio::time::interval(INTERVAL);
        for number in 0..DATAGRAMS {
            tick.tick().await;
            for member in bad {
                here.transport.send_datagram(*member, Uplink::A, Bytes::from_static(b"are you there?"));
            }
            let sent = u64::try_from(start.elapsed().as_nanos()).expect("a short test");
            here.transport.send_datagram(to, Uplink::A, [number.to_be_bytes(), sent.to_be_bytes()].concat().into());
        }
    };
    let receive = async {
        let mut delays = Vec::new();
        while delays.len() < DATAGRAMS as usize {
            let next = tokio::time::timeout(Duration::from_secs(5), good.inbound.recv()).await;
            let Inbound::Datagram { bytes, .. } = next.expect("none is lost").expect("the transport lives") else {
                continue;
            };
            // Of what reached for it first, some is still on its way.
            let Ok(words) = <[u8; 16]>::try_from(&bytes[..]) else { continue };
            let (_, sent) = words.split_at(8);
            let sent = u64::from_be_bytes(sent.try_into().expect("eight bytes"));
            delays.push(start.elapsed().saturating_sub(Duration::from_nanos(sent)));
        }
        delays
    };
    let ((), mut delays) = tokio::join!(send, receive);
    delays.sort();
    delays
}
