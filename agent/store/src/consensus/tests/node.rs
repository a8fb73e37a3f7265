//! One member in virtual time: its machine, its log on a disk that fails, and keys that are a list.

use std::collections::VecDeque;

use bytes::Bytes;
use rand::{RngExt, rngs::StdRng};
use ringmesh_proto::Instant;

use crate::{
    consensus::{Applied, Committed, Conf, Consensus, HardState, Payload, Persist, Recovered, Settings, origin},
    wal::{Identity, Recovery, Settings as WalSettings, Wal, tests::disk::MemoryDisk},
};

const CLUSTER: u64 = 0xc1;

/// What all commands have made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) applied: Applied,
    pub(super) commands: Vec<(u64, Bytes)>,
}

impl Keys {
    pub(super) fn apply(&mut self, committed: &Committed) {
        let before = &mut self.applied.position;
        assert_eq!(committed.position.index, before.index + 1, "an entry is left out or repeated");
        assert!(committed.position.term >= before.term, "terms go back");
        *before = committed.position;
        match &committed.payload {
            Payload::Command(command) => self.commands.push((committed.position.index, command.clone())),
            Payload::Conf(conf) => self.applied.conf = conf.encode(),
            Payload::Empty => {}
        }
    }
}

pub(super) struct Node {
    pub(super) id: u64,
    pub(super) disk: MemoryDisk,
    /// The last checkpoint.
    pub(super) durable: Keys,
    pub(super) running: Option<Running>,
    /// Counts starts: what was under way in an earlier life is void.
    pub(super) life: u64,
    /// How far its clock is ahead, in nanoseconds.
    pub(super) skew: u64,
    pub(super) founders: Vec<u64>,
}

pub(super) struct Running {
    pub(super) consensus: Consensus,
    pub(super) wal: Wal<MemoryDisk>,
    pub(super) keys: Keys,
    pub(super) waiting: VecDeque<Persist>,
    /// What the disk is at.
    pub(super) writing: Vec<Persist>,
    /// A snapshot that came and is not taken yet.
    pub(super) received: Option<Keys>,
    /// It does nothing until then.
    pub(super) paused_until: Instant,
}

impl Node {
    pub(super) fn new(id: u64, founders: Vec<u64>) -> Self {
        Self { id, disk: MemoryDisk::default(), durable: Keys::default(), running: None, life: 0, skew: 0, founders }
    }

    pub(super) fn clock(&self, now: Instant) -> Instant {
        Instant::from_nanos(now.as_nanos() + self.skew)
    }

    pub(super) fn start(&mut self, now: Instant, rng: &mut StdRng) {
        let (mut wal, mut recovery) = self.open(rng);
        wal.align(&mut recovery, self.durable.applied.position).unwrap();
        let mut recovered = Recovered {
            hard: recovery.hard,
            base: recovery.base,
            entries: recovery.entries,
            applied: self.durable.applied.clone(),
        };
        if recovery.is_new && !self.founders.is_empty() {
            let entries = vec![origin(&Conf::of_voters(self.founders.iter().copied()))];
            let hard = HardState { term: 1, vote: 0, commit: 1 };
            wal.append(&[Persist { number: 0, snapshot: None, entries: entries.clone(), hard: Some(hard) }]).unwrap();
            recovered = Recovered { hard, entries, ..Recovered::default() };
        }
        let now = self.clock(now);
        let consensus = Consensus::new(settings_of(self.id), recovered, rng.random(), now).unwrap();
        self.life += 1;
        self.running = Some(Running {
            consensus,
            wal,
            keys: self.durable.clone(),
            waiting: VecDeque::new(),
            writing: Vec::new(),
            received: None,
            paused_until: Instant::ZERO,
        });
    }

    fn open(&self, rng: &mut StdRng) -> (Wal<MemoryDisk>, Recovery) {
        let identity = Identity { cluster: CLUSTER, member: self.id };
        let settings = WalSettings { segment_bytes: 4 << 10 };
        Wal::open(self.disk.clone(), identity, settings, rng.random()).unwrap()
    }

    /// Its log, while it does not run.
    pub(super) fn open_log(&self, rng: &mut StdRng) -> Wal<MemoryDisk> {
        self.open(rng).0
    }

    /// Stores what the disk is at. False if the disk fails.
    pub(super) fn store(&mut self) -> bool {
        let Some(running) = &mut self.running else { return false };
        let mut batch = Vec::new();
        for persist in running.writing.clone() {
            if let Some(snapshot) = &persist.snapshot {
                if running.wal.append(&batch).is_err() || running.wal.announce(&persist).is_err() {
                    return false;
                }
                batch.clear();
                let received = running.received.take().expect("a snapshot was taken that never came");
                assert_eq!(received.applied, *snapshot, "another snapshot was taken than came");
                self.durable = received;
                running.keys.clone_from(&self.durable);
            }
            batch.push(persist);
        }
        running.wal.append(&batch).is_ok()
    }

    /// The process is gone; with the power, also what was not synced.
    pub(super) fn stop(&mut self, loses_power: bool, rng: &mut StdRng) {
        let is_writing = self.running.as_ref().is_some_and(|running| !running.writing.is_empty());
        if is_writing && rng.random() {
            self.disk.fail_after(Some(rng.random_range(0..4)));
            self.store();
        }
        self.disk.fail_after(None);
        if loses_power {
            self.disk.lose_power(rng);
        }
        self.running = None;
    }

    /// As the owner does when much is not in the last one.
    pub(super) fn checkpoint_if_due(&mut self) {
        let status = self.running.as_ref().map(|running| running.consensus.status());
        if status.is_some_and(|status| status.log_bytes > settings_of(self.id).max_log_bytes / 2) {
            self.checkpoint();
        }
    }

    /// Makes a checkpoint and forgets what is in it.
    pub(super) fn checkpoint(&mut self) {
        let Some(running) = &mut self.running else { return };
        if running.keys.applied.position.index <= self.durable.applied.position.index {
            return;
        }
        self.durable = running.keys.clone();
        let below = running.consensus.compact(self.durable.applied.position.index);
        // If the disk fails, it does so again when something is stored.
        let _ = running.wal.cut(below).and_then(|()| running.wal.prepare());
    }
}

pub(super) fn settings_of(id: u64) -> Settings {
    Settings {
        max_message_bytes: 600,
        max_inflight: 8,
        retain_bytes: 2000,
        max_uncommitted_bytes: 8000,
        // Some take less than others send.
        max_log_bytes: if id.is_multiple_of(3) { 16 << 10 } else { 64 << 10 },
        ..Settings::new(id)
    }
}
