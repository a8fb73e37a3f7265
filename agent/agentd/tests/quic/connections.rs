//! Which connections there are: one a pair of hosts and uplink, made anew when it breaks, few of them idle.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quinn::{Connection, TransportConfig};
use ringmesh_agentd::identity::{Identity, tls};
use ringmesh_proto::{HostId, Uplink, member::Member};
use tokio::runtime::Runtime;

use crate::support::{CACHE, Cluster, Host, closed, free, raw_dial_from, raw_endpoint, raw_member, within};

const HELLO: Bytes = Bytes::from_static(b"hello");

/// Both ends dial; the handshakes end in the order that is asked for. Whatever the order, the connection that the host
/// with the lower id dialled is used, and whoever used the other one retires it.
async fn dial_from_both_ends(ours: &Arc<Identity>, theirs: &Arc<Identity>, they_first: bool) {
    let mut ours = Host::start(ours);
    let address = free(Uplink::A);
    let endpoint = raw_endpoint(theirs, address);
    let member = Member { id: theirs.host, generation: 1, addresses: [Some(address), None] };
    let dial = async || {
        let config = tls::peer_client_config(theirs).expect("a usable identity");
        raw_dial_from(&endpoint, config, TransportConfig::default(), &ours).await.expect("a member is let in")
    };
    // Its first packet is on the way; the handshake goes on when we let it.
    ours.transport.send_datagram(member, Uplink::A, HELLO);
    let incoming = within("our host dials", endpoint.accept()).await.expect("the endpoint is open");
    let (of_theirs, of_ours): (Connection, Connection) = if they_first {
        let of_theirs = dial().await;
        // What waited for its own handshake goes out on whichever comes first.
        assert_eq!(within("a datagram", of_theirs.read_datagram()).await.as_ref(), Ok(&HELLO));
        (of_theirs, within("a handshake", incoming.into_future()).await.expect("our host is a member"))
    } else {
        let of_ours = within("a handshake", incoming.into_future()).await.expect("our host is a member");
        assert_eq!(within("a datagram", of_ours.read_datagram()).await.as_ref(), Ok(&HELLO));
        (dial().await, of_ours)
    };
    let (kept, other) = if ours.id() < theirs.host { (of_ours, of_theirs) } else { (of_theirs, of_ours) };
    if they_first == (ours.id() < theirs.host) {
        // It was in use at ours: ours retires it.
        let why = closed(&other).await;
        assert!(why.contains("another connection is in use"), "{why}");
    } else {
        // It was never in use at ours: what is on its way is heard until the other end retires it.
        other.send_datagram(HELLO).expect("it fits");
        assert_eq!(ours.next_datagram().await.0, theirs.host);
    }
    ours.transport.send_datagram(member, Uplink::A, HELLO);
    assert_eq!(within("a datagram", kept.read_datagram()).await.as_ref(), Ok(&HELLO));
    assert!(kept.close_reason().is_none());
}

#[tokio::test]
async fn of_two_connections_at_once_both_ends_keep_the_same_one() {
    let cluster = Cluster::new();
    let [lower, higher] = cluster.admit_two();
    for they_first in [false, true] {
        dial_from_both_ends(&lower, &higher, they_first).await;
        dial_from_both_ends(&higher, &lower, they_first).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_dial_each_other_at_the_same_time_reach_each_other() {
    let cluster = Cluster::new();
    let [lower, higher] = cluster.admit_two();
    for _ in 0..10 {
        let (mut one, mut two) = (Host::start(&lower), Host::start(&higher));
        for uplink in Uplink::BOTH {
            one.transport.send_datagram(two.member, uplink, HELLO);
            two.transport.send_datagram(one.member, uplink, HELLO);
        }
        for uplink in Uplink::BOTH {
            one.reach(&mut two, uplink, b"from the lower").await;
            two.reach(&mut one, uplink, b"from the higher").await;
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a thread")
}

/// Ends a host without a word, and starts it again at the same address.
fn crash_and_restart(host: Host, lives_in: Runtime) -> (Host, Runtime) {
    let (identity, addresses) = (Arc::clone(&host.identity), host.member.addresses);
    drop(host);
    drop(lives_in);
    let runtime = runtime();
    let entered = runtime.enter();
    // The sockets are closed; nobody has taken their ports.
    let host = Host::open(&identity, addresses, CACHE, Arc::default()).expect("its ports are free again");
    drop(entered);
    (host, runtime)
}

fn connected() -> (Host, Runtime, Host, Runtime) {
    let cluster = Cluster::new();
    let (ours, theirs) = (runtime(), runtime());
    let h1 = ours.block_on(async { Host::start(&cluster.first) });
    let second = cluster.admit("h2");
    let mut h2 = theirs.block_on(async { Host::start(&second) });
    ours.block_on(h1.reach(&mut h2, Uplink::A, b"before"));
    (h1, ours, h2, theirs)
}

#[test]
fn a_restarted_host_that_speaks_first_is_connected_at_once() {
    let (mut h1, ours, h2, theirs) = connected();
    let (mut h2, theirs) = crash_and_restart(h2, theirs);
    let start = std::time::Instant::now();
    theirs.block_on(h2.reach(&mut h1, Uplink::A, b"i am back"));
    ours.block_on(h1.reach(&mut h2, Uplink::A, b"welcome"));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_restarted_host_that_is_silent_is_found_again() {
    let (h1, ours, h2, theirs) = connected();
    let (mut h2, _theirs) = crash_and_restart(h2, theirs);
    let start = std::time::Instant::now();
    ours.block_on(h1.reach(&mut h2, Uplink::A, b"are you there"));
    // The old connection must be found dead first, which takes six seconds of silence.
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
}

#[tokio::test]
async fn of_idle_connections_the_oldest_is_closed_unless_it_is_pinned() {
    let cluster = Cluster::new();
    let mut ours = Host::start_with(&cluster.first, 1, None);
    let members: Vec<Arc<Identity>> = ["pinned", "old", "new"].map(|name| cluster.admit(name)).into();
    let pin = |host: HostId| Member { id: host, generation: 1, addresses: [Some(free(Uplink::A)), None] };
    ours.transport.pin(&[(pin(members[0].host), Uplink::A)]);
    let mut peers = Vec::new();
    for member in &members {
        let peer = raw_member(member, &ours).await;
        peer.send_datagram(HELLO).expect("it fits");
        assert_eq!(ours.next_datagram().await.0, member.host);
        peers.push(peer);
    }
    let why = closed(&peers[1]).await;
    assert!(why.contains("not in use"), "{why}");
    for (member, peer) in [(&members[0], &peers[0]), (&members[2], &peers[2])] {
        ours.transport.send_datagram(pin(member.host), Uplink::A, HELLO);
        assert_eq!(within("a datagram", peer.read_datagram()).await.as_ref(), Ok(&HELLO), "{}", member.name);
    }
}

#[tokio::test]
async fn a_host_that_ends_says_so() {
    let cluster = Cluster::new();
    let mut ours = Host::start(&cluster.first);
    let identity = cluster.admit("h2");
    let peer = raw_member(&identity, &ours).await;
    peer.send_datagram(HELLO).expect("it fits");
    assert_eq!(ours.next_datagram().await.0, identity.host);
    ours.transport.close().await;
    let why = closed(&peer).await;
    assert!(why.contains("agent ends"), "{why}");
}
