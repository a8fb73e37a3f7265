//! One replica: its machine, what of it is on its disk, and keys that are seats and a digest of all commands.

use std::collections::VecDeque;

use bytes::Bytes;
use rand::{RngExt, rngs::StdRng};
use ringmesh_node::roles::{self, Roles, Seat};
use ringmesh_proto::{HostId, Instant};
use ringmesh_store::consensus::{
    Applied, Committed, Conf, Consensus, Entry, HardState, Payload, Persist, Position, Recovered, Settings, origin,
};

/// What a command does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Command {
    Write(u32),
    Seat(u32),
    Leave(u32),
    Forget(u32),
}

impl Command {
    pub(super) fn encode(self) -> Bytes {
        let (kind, number) = match self {
            Self::Write(number) => (0, number),
            Self::Seat(number) => (1, number),
            Self::Leave(number) => (2, number),
            Self::Forget(number) => (3, number),
        };
        [&[kind], &number.to_le_bytes()[..]].concat().into()
    }

    fn decode(bytes: &[u8]) -> Self {
        let number = u32::from_le_bytes(bytes[1..].try_into().expect("a kind and a number"));
        [Self::Write, Self::Seat, Self::Leave, Self::Forget][usize::from(bytes[0])](number)
    }
}

/// What all commands have made.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    pub(super) applied: Applied,
    pub(super) seats: Vec<Seat>,
    pub(super) digest: u32,
    /// The last thing that was written.
    pub(super) written: u32,
}

impl Keys {
    fn apply(&mut self, committed: &Committed) {
        let Position { index, .. } = committed.position;
        assert_eq!(index, self.applied.position.index + 1, "an entry is left out or repeated");
        self.applied.position = committed.position;
        self.digest = self.digest.rotate_left(5) ^ (index as u32).wrapping_mul(0x9e37_79b9);
        match &committed.payload {
            Payload::Command(bytes) => self.change(index, Command::decode(bytes)),
            Payload::Conf(conf) => {
                if self.applied.conf.is_empty() {
                    self.seats.push(seat(1, 1));
                }
                self.applied.conf = conf.encode();
            }
            Payload::Empty => {}
        }
    }

    fn change(&mut self, index: u64, command: Command) {
        match command {
            Command::Write(number) => (self.written, self.digest) = (number, self.digest ^ number),
            Command::Seat(host) if self.seats.iter().all(|seat| seat.host.raw() != host) => {
                self.seats.push(seat(index, host));
            }
            Command::Seat(_) => {}
            Command::Leave(host) => {
                self.seats.iter_mut().filter(|seat| seat.host.raw() == host).for_each(|seat| seat.leaves = true);
            }
            Command::Forget(host) => self.seats.retain(|seat| seat.host.raw() != host || !seat.leaves),
        }
    }
}

fn seat(id: u64, host: u32) -> Seat {
    Seat { id, host: HostId::new(host), name: format!("h{host}"), leaves: false }
}

#[derive(Default)]
struct Disk {
    hard: HardState,
    base: Position,
    entries: Vec<Entry>,
    keys: Keys,
}

pub(super) struct Node {
    pub(super) id: u64,
    pub(super) host: u32,
    pub(super) running: Option<Running>,
    /// Counts starts.
    pub(super) life: u64,
    disk: Disk,
}

pub(super) struct Running {
    pub(super) consensus: Consensus,
    pub(super) keys: Keys,
    /// That come from another one.
    pub(super) received: Option<Keys>,
    unstored: VecDeque<(Persist, Option<Keys>)>,
    /// While it leads.
    pub(super) roles: Option<Roles>,
    pub(super) looks_at: Instant,
    /// A change of a seat that is under way.
    pub(super) changing: Option<u64>,
}

impl Node {
    pub(super) fn founder(now: Instant, rng: &mut StdRng) -> Self {
        let entries = vec![origin(&Conf::of_voters([1]))];
        let disk = Disk { hard: HardState { term: 1, vote: 0, commit: 1 }, entries, ..Disk::default() };
        let mut node = Self { id: 1, host: 1, running: None, life: 0, disk };
        node.start(now, rng);
        node
    }

    pub(super) fn joiner(id: u64, host: u32, now: Instant, rng: &mut StdRng) -> Self {
        let mut node = Self { id, host, running: None, life: 0, disk: Disk::default() };
        node.start(now, rng);
        node
    }

    pub(super) fn start(&mut self, now: Instant, rng: &mut StdRng) {
        let Disk { hard, base, entries, keys } = &self.disk;
        let recovered = Recovered { hard: *hard, base: *base, entries: entries.clone(), applied: keys.applied.clone() };
        let consensus =
            Consensus::new(Settings::new(self.id), recovered, rng.random(), now).expect("what it stored fits");
        self.life += 1;
        self.running = Some(Running {
            consensus,
            keys: keys.clone(),
            received: None,
            unstored: VecDeque::new(),
            roles: None,
            looks_at: now,
            changing: None,
        });
    }

    /// What was not stored is lost.
    pub(super) fn stop(&mut self) {
        self.running = None;
    }

    pub(super) fn store_next(&mut self) {
        let Some((persist, keys)) = self.running.as_mut().and_then(|running| running.unstored.pop_front()) else {
            return;
        };
        self.disk.hard = persist.hard.unwrap_or(self.disk.hard);
        if let (Some(snapshot), Some(keys)) = (&persist.snapshot, keys) {
            (self.disk.base, self.disk.keys) = (snapshot.position, keys);
            self.disk.entries.clear();
        }
        for entry in persist.entries {
            self.disk.entries.retain(|old| old.position.index < entry.position.index);
            self.disk.entries.push(entry);
        }
        self.running.as_mut().into_iter().for_each(|running| running.consensus.handle_persisted(persist.number));
    }

    /// What is on disk now is given out to others.
    pub(super) fn checkpoint(&mut self) -> Option<Keys> {
        let running = self.running.as_mut()?;
        self.disk.keys = running.keys.clone();
        let below = running.consensus.compact(running.keys.applied.position.index);
        // What is applied is stored.
        if let Some(cut) = self.disk.entries.iter().rev().find(|entry| entry.position.index < below) {
            let base = cut.position;
            self.disk.entries.retain(|entry| entry.position.index > base.index);
            self.disk.base = base;
        }
        Some(self.disk.keys.clone())
    }
}

impl Running {
    pub(super) fn persist(&mut self, persist: Persist) {
        let keys = persist.snapshot.as_ref().map(|snapshot| {
            let keys = self.received.take().expect("keys were taken that never came");
            assert_eq!(keys.applied, *snapshot, "other keys were taken than came");
            self.keys = keys.clone();
            keys
        });
        self.unstored.push_back((persist, keys));
    }

    pub(super) fn apply(&mut self, committed: &Committed) {
        self.keys.apply(committed);
        let index = self.keys.applied.position.index;
        self.changing.take_if(|changing| *changing <= index);
    }

    pub(super) fn note_leader(&mut self, us: bool, now: Instant) {
        self.roles = us.then(|| Roles::new(roles::Settings::default()));
        (self.changing, self.looks_at) = (None, now);
    }
}
