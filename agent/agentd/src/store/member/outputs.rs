//! What the consensus wants done.

use prost::Message;
use ringmesh_proto::{
    Instant,
    store::{Command, PeerMessage, command::Change, peer_message::Kind},
};
use ringmesh_store::{
    consensus::{Committed, Output, Payload, Persist},
    kv::{Outcome, Refusal},
};

use super::{Member, leases::Questions};
use crate::store::{
    error::StoreError,
    hand::{JOB_BOUND, Job},
    request::{Changed, Failure},
};

impl Member {
    /// Carries out all of it, as far as the disk follows.
    pub(super) fn carry_out(&mut self, now: Instant) -> Result<(), StoreError> {
        while self.jobs_out.len() < JOB_BOUND / 2 {
            let Some(output) = self.consensus.poll_output() else {
                self.drop_received();
                return Ok(());
            };
            match output {
                Output::Send { to, bytes } => {
                    if !self.peers.send(to, &PeerMessage { kind: Some(Kind::Raft(bytes)) }) {
                        self.consensus.handle_unreachable(to);
                    }
                }
                Output::Persist(persist) => self.persist(persist)?,
                Output::Commit(entries) => {
                    for entry in entries {
                        self.apply(now, entry)?;
                    }
                }
                Output::Read { context, index } if Questions::are_asked_by(context) => {
                    self.questions.named(context, index);
                }
                Output::ReadFailed { context } if Questions::are_asked_by(context) => self.questions.failed(context),
                Output::Read { context, index } => self.reads.named(context, index),
                Output::ReadFailed { context } => self.reads.failed(context),
                Output::Leader { term, leader, us } => self.note_leader(term, leader, us),
                Output::NeedSnapshot { to, at_least } => self.checkpoints.want_sent(to, at_least),
            }
        }
        Ok(())
    }

    /// If the consensus did not take them, nobody does.
    fn drop_received(&mut self) {
        if let Some(received) = self.received.take() {
            tracing::debug!("the keys of another member came, and are not needed any more");
            let _ = std::fs::remove_file(&received.path);
        }
    }

    fn persist(&mut self, persist: Persist) -> Result<(), StoreError> {
        let number = persist.number;
        let job = match (&persist.snapshot, self.received.take()) {
            (None, received) => {
                self.received = received;
                Job::Persist(persist)
            }
            (Some(_), Some(received)) => {
                self.replace_keys(received.kv);
                Job::Install { from: received.path, to: self.directory.keys(), persist }
            }
            (Some(_), None) => return Err(StoreError::Broke("the consensus takes keys that did not come")),
        };
        self.give(job)?;
        self.jobs_out.push_back(number);
        Ok(())
    }

    /// There is room: what is out is bounded. But the hand may have ended, with its reason on the way.
    pub(super) fn give(&mut self, job: Job) -> Result<(), StoreError> {
        self.jobs.try_send(job).or_else(|refused| match refused {
            tokio::sync::mpsc::error::TrySendError::Closed(_) => Ok(()),
            tokio::sync::mpsc::error::TrySendError::Full(_) => {
                Err(StoreError::Broke("more is given to the disk than there is room for"))
            }
        })
    }

    /// Watches go on where they stood.
    fn replace_keys(&mut self, mut kv: ringmesh_store::kv::Kv) {
        tracing::info!(revision = kv.revision(), "took the keys of another member");
        kv.adopt_watchers(self.kv.take_watchers());
        self.kv = kv;
        self.checkpoints.forget();
        self.meet();
    }

    fn note_leader(&mut self, term: u64, leader: Option<u64>, us: bool) {
        tracing::info!(term, leader = leader.map(|id| format!("{id:x}")), us, "who leads");
        if !us || term != self.term {
            self.lessor.follow();
            self.keeps_leases = false;
        }
        (self.term, self.leader, self.leads) = (term, leader, us);
        self.others.note_leader(us);
        self.meet();
        self.led.send_replace(leader.is_some());
        for (_, reply) in self.transfers.extract_if(.., |(to, _)| leader == Some(*to)) {
            // Who asked may have gone.
            let _ = reply.send(Ok(()));
        }
    }

    fn apply(&mut self, now: Instant, entry: Committed) -> Result<(), StoreError> {
        let (index, term) = (entry.position.index, entry.position.term);
        if term > self.applied_term {
            self.applied_term = term;
            for reply in self.changes.lost(term) {
                // Who asked may have gone.
                let _ = reply.send(Err(Failure::LeaderLost));
            }
        }
        match entry.payload {
            Payload::Empty => self.kv.skip(index, term),
            Payload::Conf(conf) => {
                self.kv.reconfigure(index, term, conf.encode());
                self.meet();
            }
            Payload::Command(bytes) => match Command::decode(bytes) {
                Ok(command) => self.apply_command(now, index, term, &command)?,
                Err(error) => {
                    // All members see the same bytes, and all pass them over.
                    tracing::error!(index, %error, "an entry of the log is no command; please report it");
                    self.kv.skip(index, term);
                }
            },
        }
        self.keep_leases(now, term);
        Ok(())
    }

    /// All that an earlier leader acknowledged comes before the first entry of this member's own term.
    fn keep_leases(&mut self, now: Instant, applied_term: u64) {
        if self.leads && !self.keeps_leases && applied_term == self.term {
            self.lessor.lead(now, self.kv.leases());
            self.keeps_leases = true;
        }
    }

    fn apply_command(&mut self, now: Instant, index: u64, term: u64, command: &Command) -> Result<(), StoreError> {
        let result = self.kv.apply(index, term, command);
        match &result {
            Ok(outcome) => self.note_lease(now, command, outcome),
            Err(Refusal::Storage(reason)) => return Err(StoreError::Keys(reason.clone())),
            Err(_) => {
                if let Some(Change::LeaseRevoke(request)) = &command.change {
                    self.lessor.refused(now, request.id);
                }
            }
        }
        if let Some(reply) = self.changes.resolve(command.id) {
            let stamp = self.stamp();
            // Who asked may have gone.
            let _ = reply.send(result.map(|outcome| Changed { stamp, outcome }).map_err(Failure::from));
        }
        Ok(())
    }

    fn note_lease(&mut self, now: Instant, command: &Command, outcome: &Outcome) {
        match (&command.change, outcome) {
            (_, Outcome::LeaseGrant(granted)) => self.lessor.granted(now, granted.id, granted.ttl),
            (Some(Change::LeaseRevoke(request)), Outcome::LeaseRevoke(_)) => self.lessor.revoked(request.id),
            (
                _,
                Outcome::Put(_)
                | Outcome::DeleteRange(_)
                | Outcome::Txn(_)
                | Outcome::Compaction(_)
                | Outcome::LeaseRevoke(_)
                | Outcome::Alarm(_),
            ) => {}
        }
    }
}
