//! The event log: the newest events of the whole cluster, and which of each host's events have arrived.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use ringmesh_proto::{HostId, peer::EventRecord};

/// The most events kept; at some 300 bytes each, about 1.2 MB.
pub const EVENT_CAPACITY: usize = 4096;

/// The most numbers remembered beyond a gap. A sync fills gaps, or closes them.
const MAX_AHEAD: usize = 1024;

/// The most events that one sync carries; the next one carries on.
const MAX_AFTER: usize = 512;

/// An event as it stands in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedEvent {
    /// As its origin wrote it.
    pub record: EventRecord,
    /// Concluded by this host for itself, and not sent: every host concludes it.
    pub local: bool,
}

/// The newest events, in the order of their arrival.
#[derive(Default)]
pub struct EventLog {
    log: VecDeque<Arc<LoggedEvent>>,
    origins: BTreeMap<HostId, Arrived>,
    local_seq: u32,
    own_seq: u32,
}

/// What has arrived of one host's events in its newest generation.
#[derive(Default)]
struct Arrived {
    generation: u32,
    /// All up to this one.
    contiguous: u32,
    ahead: BTreeSet<u32>,
}

impl EventLog {
    /// Newest last.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<LoggedEvent>> {
        self.log.iter()
    }

    /// Appends an event of this host and gives it its number. A `local` one is for this host alone.
    pub fn append(&mut self, mut record: EventRecord, local: bool) -> Arc<LoggedEvent> {
        let seq = if local { &mut self.local_seq } else { &mut self.own_seq };
        *seq += 1;
        record.seq = *seq;
        if !local {
            self.arrived(&record);
        }
        self.push(LoggedEvent { record, local })
    }

    /// A new generation of this host numbers its events from 1 again.
    pub fn begin_generation(&mut self) {
        self.own_seq = 0;
        self.local_seq = 0;
    }

    /// Keeps an event of another host; false if it has been here.
    pub fn accept(&mut self, record: &EventRecord) -> bool {
        if record.seq == 0 || !self.arrived(record) {
            return false;
        }
        self.push(LoggedEvent { record: record.clone(), local: false });
        true
    }

    /// The newest generation of this host's events and the number up to which all arrived.
    pub fn contiguous(&self, origin: HostId) -> (u32, u32) {
        self.origins.get(&origin).map_or((0, 0), |arrived| (arrived.generation, arrived.contiguous))
    }

    /// Appends to `out` the events of `origin` after this one.
    pub fn after(&self, origin: HostId, generation: u32, seq: u32, out: &mut Vec<EventRecord>) {
        if self.origins.get(&origin).is_none_or(|a| (a.generation, a.contiguous.max(a.top())) <= (generation, seq)) {
            return;
        }
        let newer = self.log.iter().filter(|event| {
            let record = &event.record;
            !event.local && record.origin == origin.raw() && (record.generation, record.seq) > (generation, seq)
        });
        let room = MAX_AFTER.saturating_sub(out.len());
        out.extend(newer.take(room).map(|event| event.record.clone()));
    }

    /// Gives up waiting for what is missing below what has arrived.
    pub fn close_gaps(&mut self) {
        for arrived in self.origins.values_mut() {
            arrived.contiguous = arrived.contiguous.max(arrived.top());
            arrived.ahead.clear();
        }
    }

    fn arrived(&mut self, record: &EventRecord) -> bool {
        let arrived = self.origins.entry(HostId::new(record.origin)).or_default();
        if record.generation < arrived.generation {
            return false;
        }
        if record.generation > arrived.generation {
            *arrived = Arrived { generation: record.generation, ..Arrived::default() };
        }
        if record.seq <= arrived.contiguous || arrived.ahead.contains(&record.seq) {
            return false;
        }
        arrived.ahead.insert(record.seq);
        if arrived.ahead.len() > MAX_AHEAD {
            arrived.contiguous = arrived.ahead.pop_first().unwrap_or(arrived.contiguous);
        }
        while arrived.ahead.remove(&(arrived.contiguous + 1)) {
            arrived.contiguous += 1;
        }
        true
    }

    fn push(&mut self, event: LoggedEvent) -> Arc<LoggedEvent> {
        if self.log.len() == EVENT_CAPACITY {
            self.log.pop_front();
        }
        let event = Arc::new(event);
        self.log.push_back(Arc::clone(&event));
        event
    }
}

impl Arrived {
    fn top(&self) -> u32 {
        self.ahead.last().copied().unwrap_or(0)
    }
}
