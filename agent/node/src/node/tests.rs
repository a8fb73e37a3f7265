use std::time::Duration;

use ringmesh_proto::{UnixMillis, frame};

use super::*;

const STEP: Duration = Duration::from_millis(50);

/// Two hosts on two wires without delay; what a wire loses is decided for each datagram.
struct Pair {
    now: Now,
    nodes: [Node; 2],
    views: [View; 2],
}

impl Pair {
    fn new() -> Self {
        let now = Now { instant: Instant::ZERO + Duration::from_secs(1), unix: UnixMillis(1_700_000_000_000) };
        let members = [1, 2].map(member);
        let node = |place: usize| Node::new(now, config(members[place], vec![members[1 - place]]));
        Self { now, nodes: [node(0), node(1)], views: [View::default(), View::default()] }
    }

    /// Runs for so long; `lost` says what does not arrive, by sender, uplink and kind of datagram: none for a stream.
    fn run(&mut self, span: Duration, lost: impl Fn(usize, Uplink, Option<Kind>) -> bool) {
        let end = self.now.instant + span;
        while self.now.instant < end {
            self.now.instant += STEP;
            self.now.unix.0 += STEP.as_millis() as u64;
            for place in 0..2 {
                if self.nodes[place].poll_timeout().0 <= self.now.instant {
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
                let response = to.handle_sync_request(&request);
                let me = to.me().id;
                self.nodes[from].handle_sync_response(now, me, response);
            }
            Output::Gossip { .. } | Output::Sync { .. } => {}
            Output::Reach { to: host, uplink } => {
                self.nodes[from].handle_reach(now, host.id, uplink, Reach::Answers);
            }
            Output::Pin(_) | Output::Probe(_) | Output::Persist(_) | Output::Left => {}
        }
        true
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
        version: "test".into(),
        wiring: Wiring::Switched { seed: 1 },
        position: 0,
        known,
        containers: Vec::new(),
        seed: u64::from(me.id.raw()),
    }
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
