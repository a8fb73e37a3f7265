//! Which connections there are, which are being opened, and which are kept.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ringmesh_node::Class;
use ringmesh_proto::{HostId, Uplink};
use tokio::sync::oneshot;

use super::{connection::Open, store::Places};

/// Messages that wait for a connection being opened.
const MAX_WAITING: usize = 16;

/// After a failed try, the shortest and the longest time to the next.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(400), Duration::from_secs(2));

/// Two connections between the same hosts younger than this were opened by both ends at once.
const YOUNG: Duration = Duration::from_secs(2);

/// Connections that are open, being opened or remembered as failing; beyond it the failures are forgotten.
const MAX_SLOTS: usize = 4096;

/// A connection that was heard so much earlier than the other one to the same host is asked after that.
const STALE: Duration = Duration::from_secs(2);

pub(super) enum Waiting {
    Datagram(Bytes),
    Gossip(Class, Bytes),
    /// Someone who has a question.
    Request(oneshot::Sender<quinn::Connection>),
}

/// What became of a message without a connection.
pub(super) enum Wait {
    /// It waits.
    Queued,
    /// The last try failed just now, or too many wait.
    Dropped,
    /// It waits, and the caller must dial.
    Dial,
}

enum Slot {
    Dialing { waiting: VecDeque<Waiting>, backoff: Duration },
    Failed { until: Instant, backoff: Duration, address: SocketAddr },
    Open(Open),
}

pub(super) struct Table {
    me: HostId,
    slots: BTreeMap<(HostId, Uplink), Slot>,
    pins: BTreeSet<(HostId, Uplink)>,
}

impl Table {
    pub(super) fn new(me: HostId) -> Self {
        Self { me, slots: BTreeMap::new(), pins: BTreeSet::new() }
    }

    /// The connection to send on, if there is one that works. To be called for sending only.
    pub(super) fn open(&mut self, host: HostId, uplink: Uplink) -> Option<&mut Open> {
        let now = Instant::now();
        match self.slots.get_mut(&(host, uplink)) {
            Some(Slot::Open(open)) if open.is_alive() => {
                if !open.answers(now) {
                    open.close("no answer");
                    return None;
                }
                open.used = now;
                Some(open)
            }
            Some(Slot::Open(_) | Slot::Dialing { .. } | Slot::Failed { .. }) | None => None,
        }
    }

    /// The open connections to a host: the one over `better` first, unless the other was heard long after it.
    pub(super) fn ways(&self, host: HostId, better: Uplink) -> Vec<quinn::Connection> {
        self.open_ways(host, better).into_iter().map(|open| open.connection.clone()).collect()
    }

    /// The same, each with its places for streams of the store.
    pub(super) fn store_ways(&self, host: HostId, better: Uplink) -> Vec<(quinn::Connection, Places)> {
        self.open_ways(host, better).into_iter().map(|open| (open.connection.clone(), open.store.clone())).collect()
    }

    fn open_ways(&self, host: HostId, better: Uplink) -> Vec<&Open> {
        let mut ways: Vec<(Uplink, &Open)> = Uplink::BOTH
            .iter()
            .filter_map(|uplink| match self.slots.get(&(host, *uplink)) {
                Some(Slot::Open(open)) if open.is_alive() && !open.is_silent() => Some((*uplink, open)),
                Some(Slot::Open(_) | Slot::Dialing { .. } | Slot::Failed { .. }) | None => None,
            })
            .collect();
        let last = ways.iter().map(|(_, open)| open.heard()).max();
        let stale = |open: &Open| last.is_some_and(|last| last.duration_since(open.heard()) >= STALE);
        ways.sort_by_key(|(uplink, open)| (stale(open), *uplink != better));
        ways.into_iter().map(|(_, open)| open).collect()
    }

    pub(super) fn wait(&mut self, host: HostId, uplink: Uplink, address: SocketAddr, message: Waiting) -> Wait {
        let now = Instant::now();
        let backoff = match self.slots.get_mut(&(host, uplink)) {
            Some(Slot::Dialing { waiting, .. }) => {
                if waiting.len() >= MAX_WAITING {
                    return Wait::Dropped;
                }
                waiting.push_back(message);
                return Wait::Queued;
            }
            // A host at a new address is tried at once.
            Some(Slot::Failed { until, backoff, address: failed }) if *failed == address => {
                if *until > now {
                    return Wait::Dropped;
                }
                *backoff
            }
            Some(Slot::Failed { .. } | Slot::Open(_)) | None => BACKOFF.0,
        };
        if self.slots.len() >= MAX_SLOTS {
            self.slots.retain(|_, slot| !matches!(slot, Slot::Failed { .. }));
        }
        self.slots.insert((host, uplink), Slot::Dialing { waiting: VecDeque::from([message]), backoff });
        Wait::Dial
    }

    /// Notes that a try failed. Returns how many messages waited for it and are lost.
    pub(super) fn failed(&mut self, host: HostId, uplink: Uplink, address: SocketAddr) -> usize {
        let Some(slot) = self.slots.get_mut(&(host, uplink)) else { return 0 };
        // Otherwise the other end has connected meanwhile, and what waited went that way.
        let Slot::Dialing { waiting, backoff } = slot else { return 0 };
        let (lost, backoff) = (waiting.len(), *backoff);
        let next = (backoff * 2).min(BACKOFF.1);
        *slot = Slot::Failed { until: Instant::now() + backoff, backoff: next, address };
        lost
    }

    /// Keeps a new connection. Returns what waited for it, or `None` if another one is kept to send on.
    pub(super) fn opened(&mut self, host: HostId, uplink: Uplink, open: Open) -> Option<VecDeque<Waiting>> {
        let mut waiting = VecDeque::new();
        match self.slots.remove(&(host, uplink)) {
            Some(Slot::Open(old)) if old.is_alive() => {
                // Opened by both ends at once: both keep the one that the lower id opened. Otherwise the old one is of
                // a life of the other host that has ended.
                let lower_is_me = self.me < host;
                if old.since.elapsed() < YOUNG && old.dialed_by_us == lower_is_me && open.dialed_by_us != lower_is_me {
                    self.slots.insert((host, uplink), Slot::Open(old));
                    return None;
                }
                old.retire();
            }
            Some(Slot::Dialing { waiting: queued, .. }) => waiting = queued,
            Some(Slot::Open(_) | Slot::Failed { .. }) | None => {}
        }
        self.slots.insert((host, uplink), Slot::Open(open));
        Some(waiting)
    }

    /// Forgets a connection that ended, if it is still the one that is kept.
    pub(super) fn closed(&mut self, host: HostId, uplink: Uplink, stable_id: usize) {
        if let Some(Slot::Open(open)) = self.slots.get(&(host, uplink))
            && open.connection.stable_id() == stable_id
        {
            self.slots.remove(&(host, uplink));
        }
    }

    pub(super) fn pin(&mut self, pins: BTreeSet<(HostId, Uplink)>) {
        self.pins = pins;
    }

    /// Closes the connections that were unused the longest, so that at most `keep` are open that are neither pinned nor of
    /// use to the store.
    pub(super) fn shrink(&mut self, keep: usize) {
        let mut loose: Vec<(Instant, (HostId, Uplink))> = self
            .slots
            .iter()
            .filter(|(key, _)| !self.pins.contains(key))
            .filter_map(|(key, slot)| match slot {
                Slot::Open(open) => (!open.store.are_used()).then_some((open.used, *key)),
                Slot::Dialing { .. } | Slot::Failed { .. } => None,
            })
            .collect();
        loose.sort();
        let excess = loose.len().saturating_sub(keep);
        for (_, key) in loose.into_iter().take(excess) {
            if let Some(Slot::Open(open)) = self.slots.remove(&key) {
                open.close("not in use");
            }
        }
    }
}
