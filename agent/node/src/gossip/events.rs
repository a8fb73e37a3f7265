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

    /// What arrived of this host's events, in numbers that tell two states apart.
    pub(super) fn arrived_of(&self, origin: HostId) -> [u32; 4] {
        let of = |arrived: &Arrived| {
            [
                arrived.generation,
                arrived.contiguous,
                arrived.top(),
                u32::try_from(arrived.ahead.len()).unwrap_or(u32::MAX),
            ]
        };
        self.origins.get(&origin).map_or([0; 4], of)
    }

    /// Appends to `out` the events of `origin` after this one, as far as a sync has room. Returns the generation and the
    /// number up to which the receiver then has all that this host knows of.
    pub fn after(&self, origin: HostId, generation: u32, seq: u32, out: &mut Vec<EventRecord>) -> (u32, u32) {
        let Some(arrived) = self.origins.get(&origin) else { return (generation, seq) };
        let whole = (arrived.generation, arrived.contiguous);
        if (arrived.generation, arrived.contiguous.max(arrived.top())) <= (generation, seq) {
            return whole.max((generation, seq));
        }
        let newer = self.log.iter().filter(|event| {
            let record = &event.record;
            !event.local && record.origin == origin.raw() && (record.generation, record.seq) > (generation, seq)
        });
        // The log is in the order of arrival; what is cut off must be the highest numbers.
        let mut newer: Vec<&EventRecord> = newer.map(|event| &event.record).collect();
        newer.sort_by_key(|record| (record.generation, record.seq));
        let room = MAX_AFTER.saturating_sub(out.len());
        let cut = newer.len() > room;
        newer.truncate(room);
        let last = newer.last().map_or((generation, seq), |record| (record.generation, record.seq));
        out.extend(newer.into_iter().cloned());
        if cut { last.min(whole) } else { whole }
    }

    /// What is missing up to this event will not come: another host had it all and sent what it still kept.
    pub fn cover(&mut self, origin: HostId, generation: u32, seq: u32) {
        let arrived = self.origins.entry(origin).or_default();
        if generation > arrived.generation {
            *arrived = Arrived { generation, ..Arrived::default() };
        }
        if generation == arrived.generation && seq > arrived.contiguous {
            arrived.contiguous = seq;
            arrived.ahead = arrived.ahead.split_off(&(seq.saturating_add(1)));
            arrived.advance();
        }
    }

    /// Forgets what has arrived of a host; its events stay.
    pub fn forget(&mut self, origin: HostId) {
        self.origins.remove(&origin);
    }

    fn arrived(&mut self, record: &EventRecord) -> bool {
        let origin = HostId::new(record.origin);
        if self.origins.len() >= super::MAX_HOSTS && !self.origins.contains_key(&origin) {
            return false;
        }
        let arrived = self.origins.entry(origin).or_default();
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
        arrived.advance();
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
    fn advance(&mut self) {
        while self.ahead.remove(&self.contiguous.saturating_add(1)) {
            self.contiguous += 1;
        }
    }

    fn top(&self) -> u32 {
        self.ahead.last().copied().unwrap_or(0)
    }
}
