//! One host of the machine room: its agent if it runs, its disk, its clock, and the streams that it sends on.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use ringmesh_node::{Class, Config, Frame, Node, Persistent, View};
use ringmesh_proto::{Instant, Uplink, disk::HistoryRecord};

use crate::{draw::Draw, fleet::Fleet, seal::SimSeals, world::repair::Runtime};

/// Frames that wait on a stream, as `EVENT_QUEUE` and `DIGEST_QUEUE` of the agent's `quic/connection.rs` bound them.
pub(crate) const STREAM_BOUND: [usize; 2] = [256, 64];

/// Messages that wait at a stopped process; the kernel drops what comes beyond them.
pub(crate) const BACKLOG: u32 = 256;

pub(crate) struct Host {
    pub(crate) node: Option<Box<Node>>,
    pub(crate) config: Config,
    pub(crate) disk: Disk,
    pub(crate) view: View,
    pub(crate) paused_until: Instant,
    /// Messages that wait for the end of the pause.
    pub(crate) backlog: u32,
    /// Each event is handled so much later.
    pub(crate) slow: Duration,
    /// The one wake-up that counts; an earlier one replaces it.
    pub(crate) wake: Option<Instant>,
    pub(crate) left: bool,
    /// Counts its processes; what was sent to an earlier one does not reach a later one.
    pub(crate) life: u32,
    pub(crate) powered: bool,
    /// Its services answer wrongly.
    pub(crate) sick: bool,
    /// What the wall clock is ahead of the true time, in milliseconds.
    pub(crate) clock_ms: i64,
    pub(crate) lives: Draw,
    pub(crate) probes: Draw,
    pub(crate) streams: BTreeMap<StreamKey, Stream>,
    pub(crate) runtime: Runtime,
    /// Its containers, if nothing is kept of those that are well.
    pub(crate) fleet: Option<Arc<Fleet>>,
    /// How often its certificate was replaced; its agent's seals see it.
    renewals: Arc<AtomicU32>,
}

/// What survives a process.
#[derive(Default)]
pub(crate) struct Disk {
    /// What a restart finds.
    pub(crate) durable: Option<Persistent>,
    /// Written, and lost if the process ends before it is durable.
    pub(crate) written: Option<Persistent>,
    pub(crate) writes: u64,
    /// Of its services, by shard.
    pub(crate) histories: BTreeMap<u8, Vec<HistoryRecord>>,
    pub(crate) full: bool,
}

/// To whom, over which uplink, of which class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StreamKey {
    pub(crate) to: u32,
    pub(crate) uplink: Uplink,
    pub(crate) class: Class,
}

/// A reliable stream: the first frame is under way, the others wait for it.
pub(crate) struct Stream {
    /// The life of the receiver to which the connection was made.
    pub(crate) life: u32,
    /// Names the connection: what was under way on an earlier one is gone.
    pub(crate) number: u64,
    pub(crate) frames: VecDeque<Waiting>,
    /// Tries of the first frame.
    pub(crate) tries: u32,
    /// The connection broke, and until then no other one is made.
    pub(crate) broken_until: Option<Instant>,
}

pub(crate) struct Waiting {
    pub(crate) frame: Frame,
    pub(crate) len: u32,
    pub(crate) sent: Instant,
    /// When it arrives, if nothing is cut.
    pub(crate) due: Instant,
}

impl Host {
    pub(crate) fn new(config: Config, lives: Draw, probes: Draw) -> Self {
        Self {
            node: None,
            config,
            disk: Disk::default(),
            view: View::default(),
            paused_until: Instant::ZERO,
            backlog: 0,
            slow: Duration::ZERO,
            wake: None,
            left: false,
            life: 0,
            powered: true,
            sick: false,
            clock_ms: 0,
            lives,
            probes,
            streams: BTreeMap::new(),
            runtime: Runtime::default(),
            fleet: None,
            renewals: Arc::default(),
        }
    }

    /// To seal as this host.
    pub(crate) fn seals(&self) -> SimSeals {
        SimSeals::new(self.config.me.id, Arc::clone(&self.renewals))
    }

    /// Gives it another certificate; which one.
    pub(crate) fn renew(&self) -> u32 {
        self.renewals.fetch_add(1, Relaxed) + 1
    }
}
