//! What a member of the cluster may send, as steps of a live node: datagrams, gossip and answers to a sync, with time
//! going by. Nothing panics, the timer moves on, and what is sent stays within its bounds.
#![no_main]

use std::time::Duration;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use ringmesh_node::{
    Chords, Config, Node, Output, Seals,
    overlay::{Order, Timers, Wiring},
    remedy::Settings,
    zones::{Budgets, KnownZone},
};
use ringmesh_proto::{
    ClusterId, HostId, Instant, Now, UnixMillis, Uplink, ZoneId,
    datagram::{Datagram, Kind, MAX_LEN, MAX_PAYLOAD},
    frame,
    member::Member,
    peer::{Gossip, OrderRequest, RepairState, SyncRequest, SyncResponse},
};

const CLUSTER: ClusterId = ClusterId::new(0);

/// Outputs of one step: far more than a node has to say to the few hosts that so few bytes can name.
const MAX_OUTPUTS: usize = 10_000;
const MAX_TURNS: usize = 4;

fuzz_target!(|bytes: &[u8]| {
    let mut now = Now { instant: Instant::ZERO, unix: UnixMillis(1_700_000_000_000) };
    let mut node = Node::new(now, config(), Box::new(Open(HostId::new(1))));
    drain(&mut node, now);
    let mut rest = bytes;
    // A step is: what it is, its length, its bytes.
    while let [step, len, tail @ ..] = rest {
        let (input, tail) = tail.split_at(tail.len().min(usize::from(*len) * 4));
        rest = tail;
        let from = HostId::new(2 + u32::from(*step >> 6));
        match step % 11 {
            0 => node.handle_datagram(now, from, Uplink::A, Bytes::copy_from_slice(input)),
            kind @ (1 | 2) => {
                let kind = if kind == 1 { Kind::Swim } else { Kind::LinkProbe };
                let payload = Bytes::copy_from_slice(&input[..input.len().min(MAX_PAYLOAD)]);
                let zone = ZoneId::of("default");
                let datagram = Datagram { kind, cell: 0, zone, sequence: u32::from(*len), payload };
                node.handle_datagram(now, from, Uplink::B, datagram.encode(CLUSTER));
            }
            // Of this host's zone, or of one that the bytes name.
            kind @ (3 | 6) => {
                let mut gossip = Gossip::decode(input).unwrap_or_default();
                let zone = if kind == 3 { ZoneId::of("default").raw() } else { gossip.zone };
                seal(&mut gossip, *len);
                node.handle_gossip(now, from, Gossip { zone, ..gossip });
            }
            4 => {
                let zone = ZoneId::of("default").raw();
                let mut response = SyncResponse::decode(input).unwrap_or_default();
                seal(response.missing.get_or_insert_default(), *len);
                node.handle_sync_response(now, from, SyncResponse { zone, ..response });
                let request = SyncRequest::decode(input).unwrap_or_default();
                let _ = node.handle_sync_request(now, &SyncRequest { zone, ..request });
            }
            5 => {
                let gossip = Gossip::decode(input).unwrap_or_default();
                node.handle_relay(now, from, HostId::new(1 + u32::from(*len % 4)), gossip);
            }
            8 => node.handle_carrier(now, Uplink::BOTH[usize::from(*len % 2)], *len & 2 == 0),
            7 => node.handle_order(
                now,
                [Order::None, Order::Forced(Uplink::B), Order::Manual(Uplink::A)][usize::from(*len % 3)],
            ),
            9 => drop(node.handle_operation_order(now, OrderRequest::decode(input).unwrap_or_default())),
            _ => now.instant += Duration::from_millis(u64::from(*len) * 20),
        }
        drain(&mut node, now);
        // One turn may find something that is due at once, and so on; it has an end.
        for _ in 0..MAX_TURNS {
            if node.poll_timeout() <= now.instant {
                node.handle_timeout(now);
                drain(&mut node, now);
            }
        }
        assert!(
            node.poll_timeout() > now.instant,
            "the timer moves on: {:?} at {:?}",
            node.poll_timeout(),
            now.instant
        );
    }
});

/// A seal is its host's id: nobody would guess a better one.
struct Open(HostId);

impl Seals for Open {
    fn certificate(&mut self) -> Bytes {
        Bytes::from_static(b"certificate")
    }

    fn seal(&mut self, _: &[u8]) -> Bytes {
        of(self.0.raw())
    }

    fn verify(&mut self, host: HostId, _: &Bytes, bytes: &[u8], seal: &[u8]) -> bool {
        !bytes.is_empty() && seal == of(host.raw())
    }
}

fn of(host: u32) -> Bytes {
    Bytes::copy_from_slice(&host.to_be_bytes())
}

/// Three times in four all is sealed as it should be, so that the bytes get beyond the check.
fn seal(gossip: &mut Gossip, len: u8) {
    if len % 4 != 0 {
        gossip.hosts.iter_mut().for_each(|record| record.make_mut().seal = of(record.host));
        gossip.accusations.iter_mut().for_each(|record| record.seal = of(record.accuser));
    }
}

fn drain(node: &mut Node, now: Now) {
    let mut outputs = 0;
    while let Some(output) = node.poll_output() {
        outputs += 1;
        assert!(outputs <= MAX_OUTPUTS, "a step has an end");
        match output {
            Output::Datagram { bytes, .. } => assert!(bytes.len() <= MAX_LEN),
            Output::Gossip { frame: sent, .. } => assert!(sent.bytes().len() <= frame::PREFIX_LEN + frame::MAX_GOSSIP),
            Output::Sync { .. }
            | Output::Reach { .. }
            | Output::Pin(_)
            | Output::Probe(_)
            | Output::Persist(_)
            | Output::Act { .. }
            | Output::Keep { .. }
            | Output::Remember { .. }
            | Output::Inside { .. }
            | Output::Left => {}
        }
    }
    let _ = node.poll_view(now);
}

fn config() -> Config {
    let member = |id: u32| Member {
        id: HostId::new(id),
        generation: 0,
        addresses: [Some(([10, 0, 0, id as u8], 7400).into()), Some(([10, 0, 1, id as u8], 7400).into())],
    };
    Config {
        cluster: CLUSTER,
        me: member(1),
        name: "h1".into(),
        zone: "default".into(),
        rack: String::new(),
        chords: Chords::Auto,
        configured_chords: None,
        version: "fuzz".into(),
        wiring: Wiring::Switched { seed: 1 },
        position: 0,
        known: vec![member(2), member(3)],
        forget_after: std::time::Duration::from_secs(3600),
        zones: vec![KnownZone { name: "other".into(), delegates: vec![member(4)] }],
        budgets: Budgets::default(),
        containers: Vec::new(),
        repair: Settings::default(),
        repairs: RepairState::default(),
        judgement: Default::default(),
        histories: Vec::new(),
        protection: Timers::default(),
        tick: Duration::ZERO,
        seed: 1,
    }
}
