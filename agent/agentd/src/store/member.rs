//! The store's loop: the only owner of the keys and of the consensus. It carries inputs in and outputs out; what they mean
//! is decided by those two.
//!
//! ```text
//!  services ─ Request (1024; the asker waits) ───▶ ┐
//!  peers ──── Inbound (256; the reader waits) ───▶ │ Consensus ─▶ Kv ─▶ replies, streams of watches
//!  hand ───── Written (256; as many as are out) ─▶ │     │
//!  checkpoint Checkpointed (1; one is under way) ▶ ┘     └─▶ hand (256; nothing more is given out), peers
//! ```
//!
//! Whatever waits when a turn begins is taken together: so one write to the disk, one message to a peer and one question
//! to the leader serve many.

mod changes;
mod checkpoint;
mod leases;
mod outputs;
mod proposals;
mod reads;
mod retention;
mod seats;
mod streams;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use ringmesh_proto::{
    Instant,
    etcd::etcdserverpb::LeaseRevokeRequest,
    store::{PeerMessage, command::Change, peer_message::Kind},
};
use ringmesh_store::{
    consensus::{Consensus, NotAccepted, Refused},
    kv::{Kv, Lessor},
};
use tokio::sync::{mpsc, oneshot, watch};

use self::{
    changes::Changes, checkpoint::Checkpoints, leases::Questions, reads::Reads, retention::Retention, streams::Streams,
};
pub(super) use self::{
    checkpoint::{Checkpointed, applied},
    seats::{FOUNDER, Greeted, Known, Mesh, Others, give_up, lock},
};
use super::{
    directory::Directory,
    error::StoreError,
    hand::{HandError, Job, Written},
    peer::{Inbound, Peers},
    request::{Changed, Failure, Look, Request, Sight, Stamp},
    settings::Settings,
    transfer::Received,
};
use crate::clock::Clock;

/// Inputs of one kind that a turn takes at the most.
const TURN: usize = 512;

/// How long a leader that ends waits for another one.
const HAND_OVER: Duration = Duration::from_secs(1);

/// How often is looked for what waited in vain.
const SWEEP: Duration = Duration::from_millis(100);

/// How often watches that want it are told how far they are: as etcd does.
const PROGRESS: Duration = Duration::from_secs(600);

/// How often is looked for old revisions in the time for which they are kept.
const RETENTION_LOOKS: u32 = 20;

/// How often streams without a client are looked for that had no way to say so.
const STREAM_SWEEP: Duration = Duration::from_secs(10);

/// What the loop is made of.
pub(super) struct Parts {
    /// What was typed.
    pub(super) settings: Settings,
    /// Ours.
    pub(super) directory: Directory,
    /// As they were found.
    pub(super) kv: Kv,
    /// As it was found.
    pub(super) consensus: Consensus,
    /// The daemon's.
    pub(super) clock: Clock,
    /// To the others.
    pub(super) peers: Peers,
    /// Who they are.
    pub(super) others: Others,
    /// To the log's hand.
    pub(super) jobs: mpsc::Sender<Job>,
    /// Where checkpoints say that they are done.
    pub(super) checkpointed: mpsc::Sender<Checkpointed>,
    /// Where it is told whether anyone leads.
    pub(super) led: watch::Sender<bool>,
    /// Of chance.
    pub(super) first_id: u64,
}

/// What the loop listens to.
pub(super) struct Inputs {
    /// Of the services.
    pub(super) requests: mpsc::Receiver<Request>,
    /// Of the other members.
    pub(super) inbound: mpsc::Receiver<Inbound>,
    /// Of the log's hand.
    pub(super) written: mpsc::Receiver<Written>,
    /// Of checkpoints.
    pub(super) checkpointed: mpsc::Receiver<Checkpointed>,
}

/// The loop.
pub(super) struct Member {
    settings: Settings,
    directory: Directory,
    kv: Kv,
    consensus: Consensus,
    lessor: Lessor,
    clock: Clock,
    peers: Peers,
    others: Others,
    jobs: mpsc::Sender<Job>,
    /// Given to the hand, and not yet said to be written.
    jobs_out: VecDeque<u64>,
    changes: Changes,
    reads: Reads,
    streams: Streams,
    questions: Questions,
    checkpoints: Checkpoints,
    retention: Option<Retention>,
    /// Of the members that have said where clients find them.
    client_urls: BTreeMap<u64, Vec<String>>,
    /// Who waits for another one to lead.
    transfers: Vec<(u64, oneshot::Sender<Result<(), Failure>>)>,
    /// Keys that came from another member, while the consensus decides whether to take them.
    received: Option<Received>,
    /// When the alarm was last proposed; as long as the answer is waited for, it is.
    alarmed: Option<(Instant, oneshot::Receiver<Result<Changed, Failure>>)>,
    swept: Instant,
    streams_swept: Instant,
    progress_told: Instant,
    leader: Option<u64>,
    /// Whether anyone leads.
    led: watch::Sender<bool>,
    leads: bool,
    /// Whether it leads and has applied all that was agreed on before: only then it knows all leases.
    keeps_leases: bool,
    term: u64,
    /// Of the entry that was applied last.
    applied_term: u64,
    /// Whether the log says that it cannot take part.
    told_diverged: bool,
    end: End,
}

/// Whether it is to end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// It is not.
    No,
    /// As soon as another one leads, or then.
    Until(Instant),
    /// Now.
    Now,
    /// Now: this replica is a member no longer.
    Gone,
}

/// How a member ended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was told to.
    Told,
    /// It is a member no longer.
    Gone,
}

impl Member {
    pub(super) fn new(parts: Parts) -> Self {
        let now = parts.clock.instant();
        let own = (parts.settings.id, parts.settings.client_urls.clone());
        let status = parts.consensus.status();
        Self {
            retention: parts.settings.retention.map(Retention::new),
            settings: parts.settings,
            directory: parts.directory,
            kv: parts.kv,
            consensus: parts.consensus,
            lessor: Lessor::default(),
            clock: parts.clock,
            peers: parts.peers,
            others: parts.others,
            jobs: parts.jobs,
            jobs_out: VecDeque::new(),
            changes: Changes::new(parts.first_id),
            reads: Reads::default(),
            streams: Streams::default(),
            questions: Questions::new(parts.first_id),
            checkpoints: Checkpoints::new(parts.checkpointed),
            client_urls: BTreeMap::from([own]),
            transfers: Vec::new(),
            received: None,
            alarmed: None,
            swept: now,
            streams_swept: now,
            progress_told: now,
            leader: None,
            led: parts.led,
            leads: false,
            keeps_leases: false,
            term: status.term,
            applied_term: 0,
            told_diverged: false,
            end: End::No,
        }
    }

    /// Runs until it is told to end, or cannot go on. What is acknowledged is on the disk in both cases.
    pub(super) async fn run(mut self, mut inputs: Inputs) -> Result<Ended, StoreError> {
        if self.consensus.status().conf.voters == [self.settings.id] {
            // Nobody else could lead.
            self.consensus.campaign();
        }
        self.meet();
        let mut more = self.work()?;
        let alarm = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(alarm);
        while !matches!(self.end, End::Now | End::Gone) {
            if more {
                tokio::task::yield_now().await;
            } else {
                alarm.as_mut().reset(self.clock.deadline(self.wake()).into());
                tokio::select! {
                    biased;
                    Some(written) = inputs.written.recv() => self.note_written(written)?,
                    Some(inbound) = inputs.inbound.recv() => self.hear(inbound),
                    request = inputs.requests.recv() => self.take(request.unwrap_or(Request::End)),
                    Some(done) = inputs.checkpointed.recv() => self.note_checkpoint(done)?,
                    () = &mut alarm => {}
                }
            }
            self.take_all(&mut inputs)?;
            more = self.work()?;
        }
        let ended = if self.end == End::Gone { Ended::Gone } else { Ended::Told };
        self.write_last(&mut inputs.checkpointed).await?;
        Ok(ended)
    }

    /// A turn takes some of each, so that a flood of one keeps none of the others waiting for long.
    fn take_all(&mut self, inputs: &mut Inputs) -> Result<(), StoreError> {
        while let Ok(written) = inputs.written.try_recv() {
            self.note_written(written)?;
        }
        for _ in 0..TURN {
            let Ok(inbound) = inputs.inbound.try_recv() else { break };
            self.hear(inbound);
        }
        for _ in 0..TURN {
            let Ok(request) = inputs.requests.try_recv() else { break };
            self.take(request);
        }
        if let Ok(done) = inputs.checkpointed.try_recv() {
            self.note_checkpoint(done)?;
        }
        Ok(())
    }

    /// Lets the machines work on what they were given. True if there is more to do at once.
    fn work(&mut self) -> Result<bool, StoreError> {
        let now = self.clock.instant();
        self.handle_timeouts(now);
        self.propose(now);
        self.manage(now);
        self.ask_for_reads(now);
        self.ask_leases(now);
        self.carry_out(now)?;
        self.answer_leases(now);
        let mut more = self.answer_reads();
        more |= self.kv.catch_up();
        more |= self.kv.tidy();
        let stamp = self.stamp();
        self.streams.pump(&mut self.kv, stamp);
        self.start_checkpoint()?;
        Ok(more)
    }

    fn take(&mut self, request: Request) {
        let now = self.clock.instant();
        match request {
            Request::Change { change, reply } => self.take_change(now, change, reply),
            Request::Look { consistent: true, look } => self.reads.take(now, look),
            Request::Look { consistent: false, look } => look(Ok(&self.sight())),
            Request::Lease { lease, renew, reply } => self.questions.take(lease, renew, reply),
            Request::Open { answers, reply } => {
                let stream = self.streams.open(&mut self.kv, answers);
                if reply.send(stream).is_err() {
                    self.streams.close(&mut self.kv, stream);
                }
            }
            Request::Watch { stream, request } => self.streams.say(&mut self.kv, stream, request),
            Request::Taken(stream) => self.streams.taken(stream),
            Request::Close(stream) => self.streams.close(&mut self.kv, stream),
            Request::Hash { revision, reply } => {
                let _ = reply.send(self.kv.begin_hash(revision).map_err(Failure::from));
            }
            Request::Snapshot(reply) => self.checkpoints.want_snapshot(reply),
            Request::Transfer { to, reply } => self.transfer(to, reply),
            Request::End => self.hand_over(now),
        }
    }

    /// Another one that is up to date is to lead, so that nobody has to wait for an election.
    fn hand_over(&mut self, now: Instant) {
        let peers = self.consensus.status().peers.into_iter().filter(|peer| peer.recently_active && !peer.learner);
        let next = peers.max_by_key(|peer| peer.matched);
        let handed = next.is_some_and(|next| self.consensus.transfer_leader(next.id).is_ok());
        self.end = if handed { End::Until(now + HAND_OVER) } else { End::Now };
    }

    fn transfer(&mut self, to: u64, reply: oneshot::Sender<Result<(), Failure>>) {
        if self.leads && to == self.settings.id {
            // Who asked may have gone.
            let _ = reply.send(Ok(()));
            return;
        }
        let answer = match self.consensus.transfer_leader(to) {
            Ok(()) if self.leader == Some(to) => Ok(()),
            Ok(()) => {
                self.transfers.push((to, reply));
                return;
            }
            Err(Refused::NotLeader { .. }) => Err(Failure::NotLeader),
            Err(_) => Err(Failure::BadTransferee),
        };
        // Who asked may have gone.
        let _ = reply.send(answer);
    }

    fn hear(&mut self, inbound: Inbound) {
        let now = self.clock.instant();
        match inbound {
            Inbound::Hello { from, place, client_urls } => {
                // Only members that the command line names have some.
                if !client_urls.is_empty() {
                    self.client_urls.insert(from, client_urls);
                }
                self.note_greeting(from, place);
            }
            Inbound::Message { from, message } => match message.kind {
                Some(Kind::Raft(bytes)) => self.hear_raft(now, from, &bytes, false),
                Some(Kind::Proposals(proposals)) => self.hear_proposals(now, from, proposals),
                Some(Kind::NotProposed(not)) => not.ids.into_iter().for_each(|id| self.changes.put_off(id)),
                Some(Kind::LeaseQuestion(question)) => self.questions.take_theirs(from, question),
                Some(Kind::LeaseAnswer(answer)) => {
                    self.questions.answered(&answer, self.stamp().header(self.kv.revision()));
                }
                // A part of a snapshot without the ones before it.
                Some(Kind::SnapshotChunk(_)) => {}
                None => tracing::debug!(member = format!("{from:x}"), "a member of a newer version says something"),
            },
            Inbound::Snapshot(received) => {
                let (from, raft) = (received.from, received.raft.clone());
                self.received = Some(*received);
                self.hear_raft(now, from, &raft, true);
            }
            Inbound::Unreachable { to, why } => {
                self.consensus.handle_unreachable(to);
                self.note_verdict(now, to, why);
            }
            Inbound::SnapshotSent { to, arrived } => self.consensus.handle_snapshot_sent(to, arrived),
        }
    }

    fn hear_raft(&mut self, now: Instant, from: u64, bytes: &[u8], with_keys: bool) {
        match self.consensus.handle_peer(now, from, bytes, with_keys) {
            Ok(()) => {}
            Err(NotAccepted::Busy) => tracing::debug!("too much waits for the disk: a message is lost"),
            Err(NotAccepted::Malformed(error)) => {
                tracing::warn!(member = format!("{from:x}"), %error, "a member's message is not understood");
            }
            // It says so to each message, and the log once.
            Err(NotAccepted::Diverged(error)) => {
                if !std::mem::replace(&mut self.told_diverged, true) {
                    tracing::error!(%error, "this member cannot take part");
                }
            }
        }
    }

    fn note_written(&mut self, written: Written) -> Result<(), HandError> {
        let number = written?;
        while self.jobs_out.front().is_some_and(|out| *out <= number) {
            self.jobs_out.pop_front();
        }
        self.consensus.handle_persisted(number);
        Ok(())
    }

    fn handle_timeouts(&mut self, now: Instant) {
        if self.consensus.poll_timeout().is_some_and(|at| at <= now) {
            self.consensus.handle_timeout(now);
        }
        if self.leads && self.lessor.poll_timeout().is_some_and(|at| at <= now) {
            for id in self.lessor.handle_timeout(now) {
                if self.propose_own(now, Change::LeaseRevoke(LeaseRevokeRequest { id })) {
                    self.lessor.proposed(id);
                }
            }
        }
        if let End::Until(at) = self.end
            && (!self.leads || at <= now)
        {
            self.end = End::Now;
        }
        if now.since(self.swept) >= SWEEP {
            self.swept = now;
            self.changes.sweep();
            self.reads.sweep(now);
            self.transfers.retain(|(_, reply)| !reply.is_closed());
            self.compact_old(now);
        }
        if now.since(self.streams_swept) >= STREAM_SWEEP {
            self.streams_swept = now;
            self.streams.sweep(&mut self.kv);
        }
        if now.since(self.progress_told) >= PROGRESS {
            self.progress_told = now;
            self.kv.notify_progress();
        }
    }

    fn ask_for_reads(&mut self, now: Instant) {
        while let Some(context) = self.reads.next_round(now) {
            if self.consensus.read(now, context).is_err() {
                self.reads.failed(context);
                return;
            }
        }
    }

    fn ask_leases(&mut self, now: Instant) {
        if self.questions.is_empty() {
            return;
        }
        if !self.leads {
            for (from, question) in self.questions.refuse_theirs() {
                let answer = leases::answer(now, None, &question);
                self.peers.send(from, &PeerMessage { kind: Some(Kind::LeaseAnswer(answer)) });
            }
            let Some(leader) = self.leader else { return };
            for question in self.questions.due(now) {
                self.peers.send(leader, &PeerMessage { kind: Some(Kind::LeaseQuestion(question)) });
            }
            return;
        }
        // A new leader lets them wait until it knows all leases.
        if !self.keeps_leases {
            return;
        }
        if let Some(context) = self.questions.next_round(now)
            && self.consensus.read(now, context).is_err()
        {
            self.questions.failed(context);
        }
    }

    /// Those that wait for nothing any more, by the leader.
    fn answer_leases(&mut self, now: Instant) {
        if !self.keeps_leases {
            return;
        }
        let applied = self.kv.applied().index;
        for (from, question) in self.questions.due_theirs(applied) {
            let answer = leases::answer(now, Some(&mut self.lessor), &question);
            self.peers.send(from, &PeerMessage { kind: Some(Kind::LeaseAnswer(answer)) });
        }
        let header = self.stamp().header(self.kv.revision());
        self.questions.answer_due(now, applied, &mut self.lessor, header);
    }

    /// True if there are more to answer.
    fn answer_reads(&mut self) -> bool {
        let due: Vec<Look> = self.reads.due(self.kv.applied().index, TURN);
        let more = due.len() == TURN;
        let sight = self.sight();
        due.into_iter().for_each(|look| look(Ok(&sight)));
        more
    }

    fn sight(&self) -> Sight<'_> {
        Sight {
            kv: &self.kv,
            stamp: self.stamp(),
            consensus: &self.consensus,
            client_urls: &self.client_urls,
            others: &self.others,
        }
    }

    fn stamp(&self) -> Stamp {
        Stamp { cluster_id: self.settings.cluster_id, member_id: self.settings.id, term: self.term }
    }

    fn wake(&self) -> Instant {
        let waits =
            self.end != End::No || !self.reads.is_empty() || !self.changes.is_empty() || !self.questions.is_empty();
        let old =
            self.settings.retention.map_or(STREAM_SWEEP, |kept| (kept / RETENTION_LOOKS).clamp(SWEEP, STREAM_SWEEP));
        let sweep = if waits { SWEEP } else { old };
        [self.consensus.poll_timeout(), self.lessor.poll_timeout().filter(|_| self.leads), self.others.poll_timeout()]
            .into_iter()
            .flatten()
            .fold(self.swept + sweep, Instant::min)
    }
}
