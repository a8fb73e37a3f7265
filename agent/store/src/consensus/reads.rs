//! Linearizable reads: a leader confirms with a majority that it still leads, then what was committed when it was asked is
//! enough to have applied. Thesis of Raft, section 6.4.

use std::collections::BTreeMap;

use raft::ReadState;
use ringmesh_proto::Instant;

use super::{error::Refused, machine::Consensus, output::Output};

/// What goes with a read through the cluster: the member, its present life, and its own number of the read.
pub(super) const CONTEXT_BYTES: usize = 24;
/// Contexts that may wait; each may stand for any number of requests.
const MAX_READS: usize = 1024;

pub(super) struct Reads {
    id: u64,
    /// Drawn at each start: an answer to an earlier life's read must not answer one of this.
    life: u64,
    waiting: BTreeMap<u64, Waiting>,
}

struct Waiting {
    fails_at: Instant,
    retried_at: Instant,
    is_issued: bool,
}

impl Reads {
    pub(super) fn new(id: u64, life: u64) -> Self {
        Self { id, life, waiting: BTreeMap::new() }
    }

    /// When one is to be asked again or fails.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.values().map(|read| read.retried_at.min(read.fails_at)).min()
    }

    /// After the clock went back nothing waits longer than this.
    pub(super) fn go_back(&mut self, retried_at: Instant, fails_at: Instant) {
        for read in self.waiting.values_mut() {
            read.retried_at = read.retried_at.min(retried_at);
            read.fails_at = read.fails_at.min(fails_at);
        }
    }

    fn encode(&self, context: u64) -> Vec<u8> {
        [self.id, self.life, context].map(u64::to_le_bytes).concat()
    }

    fn decode(&self, bytes: &[u8]) -> Option<u64> {
        let (words, rest) = bytes.as_chunks::<8>();
        match (words, rest) {
            ([id, life, context], []) if [*id, *life] == [self.id.to_le_bytes(), self.life.to_le_bytes()] => {
                Some(u64::from_le_bytes(*context))
            }
            _ => None,
        }
    }
}

impl Consensus {
    /// Asks up to where the log must have been applied before a request that has already come may be answered. The answer is
    /// [`Output::Read`] or, at the latest after an election timeout, [`Output::ReadFailed`].
    ///
    /// `context` is the caller's own and new in the life of this machine.
    ///
    /// # Errors
    /// If nobody is known to lead, or too many reads wait.
    pub fn read(&mut self, now: Instant, context: u64) -> Result<(), Refused> {
        self.look_at(now);
        if self.leader().is_none() {
            return Err(Refused::NotLeader { leader: None });
        }
        if self.reads.waiting.len() >= MAX_READS {
            return Err(Refused::Full);
        }
        let fails_at = self.now + self.settings.election;
        let retried_at = self.now + self.settings.heartbeat;
        self.reads.waiting.insert(context, Waiting { fails_at, retried_at, is_issued: false });
        self.flush_proposals();
        self.issue_reads();
        Ok(())
    }

    /// Asks for those that could not be asked for yet: a new leader knows what is committed only when an entry of its own is.
    pub(super) fn issue_reads(&mut self) {
        if self.is_leader() && !self.raw.raft.commit_to_current_term() {
            return;
        }
        let new: Vec<u64> =
            self.reads.waiting.iter().filter(|(_, read)| !read.is_issued).map(|(context, _)| *context).collect();
        for context in new {
            self.raw.read_index(self.reads.encode(context));
            if let Some(read) = self.reads.waiting.get_mut(&context) {
                read.is_issued = true;
            }
        }
    }

    /// Asks again for those whose messages may be lost, and gives up those that are too old.
    pub(super) fn retry_reads(&mut self) {
        let now = self.now;
        let failed: Vec<u64> =
            self.reads.waiting.iter().filter(|(_, read)| read.fails_at <= now).map(|(context, _)| *context).collect();
        for context in failed {
            self.fail_read(context);
        }
        let leads = self.is_leader();
        for read in self.reads.waiting.values_mut().filter(|read| read.retried_at <= now) {
            read.retried_at = now + self.settings.heartbeat;
            // A leader's own go again with each of its heartbeats.
            read.is_issued &= leads;
        }
        self.issue_reads();
    }

    pub(super) fn answer_read(&mut self, state: &ReadState) {
        let context = self.reads.decode(&state.request_ctx);
        if let Some(context) = context.filter(|context| self.reads.waiting.remove(context).is_some()) {
            self.outputs.push_back(Output::Read { context, index: state.index });
        }
    }

    pub(super) fn fail_reads(&mut self) {
        let all: Vec<u64> = self.reads.waiting.keys().copied().collect();
        for context in all {
            self.fail_read(context);
        }
    }

    fn fail_read(&mut self, context: u64) {
        self.reads.waiting.remove(&context);
        self.outputs.push_back(Output::ReadFailed { context });
    }
}
