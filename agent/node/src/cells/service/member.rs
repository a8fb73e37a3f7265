//! A representative of a service: a member of SWIM on behalf of one container, whose messages go to other hosts.

use std::{
    collections::{BTreeMap, VecDeque},
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use foca::{Config, Foca, Identity, NoCustomBroadcast, Notification, PostcardCodec, Runtime, Timer};
use rand::{RngExt, rngs::Xoshiro256PlusPlus};
use ringmesh_proto::{Generation, HostId, Instant, datagram};
use ringmesh_topology::cell::CELL_SIZE;
use serde::{Deserialize, Serialize};

/// Between two probes of a representative: 48 of them, the most of a host, send some ten datagrams a second in all.
pub(super) const PROBE_PERIOD: Duration = Duration::from_secs(10);

/// After so long without an answer others are asked to try: a round trip, and the grids of two agents' timers.
const PROBE_RTT: Duration = Duration::from_secs(2);

/// From a suspicion to down: two periods, in which others probe it, too.
const SUSPICION: Duration = Duration::from_secs(20);

/// A representative that is down is forgotten after so long.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// Timers are put off to full seconds, so that an agent wakes up once for many.
const GRID: Duration = Duration::from_secs(1);

/// Bytes in front of each message: the cell's key.
pub(super) const KEY_LEN: usize = 4;

/// Messages between representatives of the same host that wait within one turn; each leads to less than four others.
const MAX_LOCAL: usize = 256;

/// A representative as foca's identity: host and slot are the address, the rest decides between two lives there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Representative {
    pub(super) host: u32,
    /// Of its host, from 0.
    pub(super) slot: u8,
    /// The generation in which its host's process began.
    pub(super) born: Generation,
    /// Counts the lives in this slot since.
    pub(super) life: u32,
}

impl Representative {
    /// One of which nothing is known but where it would be.
    pub(super) fn at(host: HostId, slot: u8) -> Self {
        Self { host: host.raw(), slot, born: 0, life: 0 }
    }

    pub(super) fn host(&self) -> HostId {
        HostId::new(self.host)
    }
}

impl Identity for Representative {
    type Addr = (u32, u8);

    /// It speaks, so whoever took it for down was wrong.
    fn renew(&self) -> Option<Self> {
        Some(Self { life: self.life.checked_add(1)?, ..*self })
    }

    fn addr(&self) -> (u32, u8) {
        (self.host, self.slot)
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.born, self.life) > (adversary.born, adversary.life)
    }
}

pub(super) type Instance = Foca<Representative, PostcardCodec, Xoshiro256PlusPlus, NoCustomBroadcast>;

/// What is due for a representative.
pub(super) enum Due {
    /// A timer of foca's, of this life.
    Timer(Representative, Timer<Representative>),
    /// To send what news it has.
    Gossip(u8),
}

/// Where the messages and timers of all representatives of this host go.
pub(super) struct Post {
    pub(super) now: Instant,
    pub(super) me: HostId,
    pub(super) timers: BTreeMap<(Instant, u8, u64), (u32, Due)>,
    submitted: u64,
    /// To representatives of this host, with their cell.
    pub(super) local: VecDeque<(u32, Bytes)>,
    /// To other hosts, with the key in front.
    pub(super) transmits: VecDeque<(HostId, Bytes)>,
    pub(super) rng: Xoshiro256PlusPlus,
    pub(super) revision: u64,
}

impl Post {
    pub(super) fn new(me: HostId, rng: Xoshiro256PlusPlus) -> Self {
        Self {
            now: Instant::ZERO,
            me,
            timers: BTreeMap::new(),
            submitted: 0,
            local: VecDeque::new(),
            transmits: VecDeque::new(),
            rng,
            revision: 0,
        }
    }

    pub(super) fn submit(&mut self, after: Duration, cell: u32, due: Due) {
        let rank = match &due {
            Due::Timer(_, Timer::SendIndirectProbe { .. }) => 0,
            Due::Timer(..) => 1,
            Due::Gossip(_) => 2,
        };
        self.submitted += 1;
        self.timers.insert((on_grid(self.now + after), rank, self.submitted), (cell, due));
    }
}

/// One call of one representative's foca.
pub(super) struct Call<'a> {
    pub(super) post: &'a mut Post,
    pub(super) cell: u32,
    pub(super) from: Representative,
}

impl Runtime<Representative> for Call<'_> {
    fn notify(&mut self, notification: Notification<'_, Representative>) {
        match notification {
            Notification::MemberUp(_)
            | Notification::MemberDown(_)
            | Notification::Rename(..)
            | Notification::Rejoin(_)
            | Notification::ProbeFailed(..) => self.post.revision += 1,
            Notification::Active
            | Notification::Idle
            | Notification::Defunct
            | Notification::DataReceived(_)
            | Notification::DataSent(_) => {}
        }
    }

    fn send_to(&mut self, to: Representative, data: &[u8]) {
        if to.host() != self.post.me {
            let mut message = BytesMut::with_capacity(KEY_LEN + data.len());
            message.put_u32(self.cell);
            message.put_slice(data);
            self.post.transmits.push_back((to.host(), message.freeze()));
        } else if self.post.local.len() < MAX_LOCAL {
            self.post.local.push_back((self.cell, Bytes::copy_from_slice(data)));
        }
    }

    fn submit_after(&mut self, event: Timer<Representative>, after: Duration) {
        // All of a cell's would otherwise probe in the same second.
        let is_probe = matches!(event, Timer::ProbeRandomMember(_));
        let after = if is_probe { after - GRID + GRID * self.post.rng.random_range(0..3) } else { after };
        self.post.submit(after, self.cell, Due::Timer(self.from, event));
    }
}

pub(super) fn on_grid(at: Instant) -> Instant {
    let grid = GRID.as_nanos() as u64;
    Instant::from_nanos(at.as_nanos().div_ceil(grid).saturating_mul(grid))
}

/// foca's preset for a local network, slower, and without the messages that [`super`] sends itself.
pub(super) fn config() -> Config {
    let size = NonZeroU32::new(CELL_SIZE as u32).expect("not zero");
    Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_RTT,
        suspect_to_down_after: SUSPICION,
        remove_down_after: Some(FORGOTTEN),
        max_packet_size: NonZeroUsize::new(datagram::MAX_PAYLOAD - KEY_LEN).expect("there is room for a payload"),
        notify_down_members: true,
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: None,
        ..Config::new_lan(size)
    }
}
