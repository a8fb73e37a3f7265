//! Checkpoints of the keys: one at a time, each on a thread of its own, and what waits for one. What is in them the keys
//! know.

use std::{io, thread};

use ringmesh_store::{
    consensus::{Applied, Position},
    kv::{self, Checkpoint, CheckpointError, Kv, Snapshot},
};
use tokio::sync::{mpsc, oneshot};

use super::Member;
use crate::store::{error::StoreError, hand::Job, request::Failure, transfer};

/// What became of a checkpoint.
pub(in crate::store) struct Checkpointed {
    /// Of which keys.
    generation: u64,
    result: Result<kv::Written, CheckpointError>,
}

type Reply = oneshot::Sender<Result<Snapshot, Failure>>;

/// Those that are under way and those that are wanted.
pub(super) struct Checkpoints {
    done: mpsc::Sender<Checkpointed>,
    /// Counts keys that were replaced by those of another member.
    generation: u64,
    running: bool,
    /// They want one that begins after they asked.
    wanted: Vec<Reply>,
    /// They wait for the one that is under way.
    promised: Vec<Reply>,
    /// Members that need all keys, and up to which index at the least.
    behind: Vec<(u64, u64)>,
}

impl Checkpoints {
    pub(super) fn new(done: mpsc::Sender<Checkpointed>) -> Self {
        Self { done, generation: 0, running: false, wanted: Vec::new(), promised: Vec::new(), behind: Vec::new() }
    }

    /// For a client, with all that was acknowledged to it.
    pub(super) fn want_snapshot(&mut self, reply: Reply) {
        self.wanted.push(reply);
    }

    /// For another member: any checkpoint that has applied the entry `at_least`.
    pub(super) fn want_sent(&mut self, to: u64, at_least: u64) {
        self.behind.push((to, at_least));
    }

    /// The keys were replaced: what is under way is of no use.
    pub(super) fn forget(&mut self) {
        self.generation += 1;
        self.running = false;
        self.wanted.append(&mut self.promised);
    }

    fn start(&mut self, checkpoint: Checkpoint) -> io::Result<()> {
        let (done, generation) = (self.done.clone(), self.generation);
        thread::Builder::new().name("store-keys".into()).spawn(move || {
            // The loop may have ended.
            let _ = done.blocking_send(Checkpointed { generation, result: checkpoint.write() });
        })?;
        self.running = true;
        self.promised.append(&mut self.wanted);
        Ok(())
    }
}

impl Member {
    /// Starts one if it is due or wanted.
    pub(super) fn start_checkpoint(&mut self) -> Result<(), StoreError> {
        self.send_snapshots()?;
        let wanted = !self.checkpoints.wanted.is_empty() || !self.checkpoints.behind.is_empty();
        if self.checkpoints.running || !(wanted || self.kv.checkpoint_due()) {
            return Ok(());
        }
        match self.kv.begin_checkpoint() {
            Some(checkpoint) => self.checkpoints.start(checkpoint).map_err(StoreError::Thread),
            None => {
                // Nothing was changed since the last one.
                answer(&self.kv, &mut self.checkpoints.wanted);
                Ok(())
            }
        }
    }

    pub(super) fn note_checkpoint(&mut self, done: Checkpointed) -> Result<(), StoreError> {
        let written = done.result.map_err(StoreError::Checkpoint)?;
        if done.generation != self.checkpoints.generation {
            return Ok(());
        }
        self.checkpoints.running = false;
        let applied = self.kv.end_checkpoint(written);
        answer(&self.kv, &mut self.checkpoints.promised);
        let below = self.consensus.compact(applied);
        self.give(Job::Cut(below))
    }

    /// The last one: what comes after a restart is then short.
    pub(super) async fn write_last(mut self, done: &mut mpsc::Receiver<Checkpointed>) -> Result<(), StoreError> {
        while self.checkpoints.running {
            let Some(done) = done.recv().await else { break };
            self.note_checkpoint(done)?;
        }
        let Some(checkpoint) = self.kv.begin_checkpoint() else { return Ok(()) };
        self.checkpoints.start(checkpoint).map_err(StoreError::Thread)?;
        match done.recv().await {
            Some(done) => self.note_checkpoint(done),
            None => Ok(()),
        }
    }

    fn send_snapshots(&mut self) -> Result<(), StoreError> {
        if self.checkpoints.behind.is_empty() {
            return Ok(());
        }
        let index = self.kv.snapshot().applied().index;
        let served: Vec<(u64, u64)> =
            self.checkpoints.behind.extract_if(.., |(_, at_least)| *at_least <= index).collect();
        served.into_iter().try_for_each(|(to, _)| self.send_snapshot(to))
    }

    fn send_snapshot(&mut self, to: u64) -> Result<(), StoreError> {
        let snapshot = self.kv.snapshot();
        let Some(raft) = self.consensus.begin_snapshot(to, &applied(snapshot.applied())) else {
            self.consensus.handle_snapshot_sent(to, false);
            return Ok(());
        };
        tracing::info!(member = format!("{to:x}"), revision = snapshot.revision(), "sends all keys to a member");
        let parts = transfer::send(snapshot, raft).map_err(StoreError::Thread)?;
        self.peers.send_snapshot(to, parts);
        Ok(())
    }
}

/// As the consensus has it.
pub(in crate::store) fn applied(applied: &kv::Applied) -> Applied {
    Applied { position: Position { term: applied.term, index: applied.index }, conf: applied.conf.clone() }
}

fn answer(kv: &Kv, replies: &mut Vec<Reply>) {
    for reply in replies.drain(..) {
        // Who asked may have gone.
        let _ = reply.send(Ok(kv.snapshot()));
    }
}
