//! The events that pass between zones: the newest of them, and which have been here, so that none goes round in a circle.

use std::collections::{BTreeSet, VecDeque};

use ringmesh_proto::{
    ZoneId,
    peer::{EventKey, EventRecord},
    v1::event::Severity,
};

use super::MAX_VECTOR;

/// Events that are kept to be passed on to whoever missed them; at some 350 bytes each, 45 KB.
const CAPACITY: usize = 128;

/// Events that are recognised when they come again.
const SEEN: usize = 1024;

/// Whether other zones are told: of warnings and worse, and of what became of hosts.
pub fn crosses(event: &EventRecord) -> bool {
    event.severity >= Severity::Warning as u32 || event.kind.starts_with("host-")
}

type Key = (u32, u32, u32);

/// The newest events that pass between zones, this host's zone's among them.
#[derive(Default)]
pub struct Crossing {
    log: VecDeque<EventRecord>,
    seen: BTreeSet<Key>,
    /// The same, the oldest first.
    order: VecDeque<Key>,
}

impl Crossing {
    /// Keeps an event that carries its zone; false if it has been here.
    pub fn accept(&mut self, event: &EventRecord) -> bool {
        let key = key(event);
        if !self.seen.insert(key) {
            return false;
        }
        self.order.push_back(key);
        if self.order.len() > SEEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        if self.log.len() == CAPACITY {
            self.log.pop_front();
        }
        self.log.push_back(event.clone());
        true
    }

    /// The newest, at most [`MAX_VECTOR`]; without those of `but`.
    pub fn keys(&self, but: Option<ZoneId>) -> Vec<EventKey> {
        self.newest(but)
            .map(|event| EventKey { origin: event.origin, generation: event.generation, seq: event.seq })
            .collect()
    }

    /// Which of the newest are not among these, the oldest first; without those of `but`.
    pub fn lacking(&self, theirs: &[EventKey], but: Option<ZoneId>) -> Vec<EventRecord> {
        let theirs: BTreeSet<Key> =
            theirs.iter().take(MAX_VECTOR).map(|key| (key.origin, key.generation, key.seq)).collect();
        let mut lacking: Vec<_> = self.newest(but).filter(|event| !theirs.contains(&key(event))).cloned().collect();
        lacking.reverse();
        lacking
    }

    fn newest(&self, but: Option<ZoneId>) -> impl Iterator<Item = &EventRecord> {
        self.log.iter().rev().filter(move |event| Some(ZoneId::new(event.zone)) != but).take(MAX_VECTOR)
    }
}

fn key(event: &EventRecord) -> Key {
    (event.origin, event.generation, event.seq)
}
