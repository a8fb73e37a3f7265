//! Changes on their way into the log: of clients, of other members that do not lead, and of the leader's own.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use ringmesh_proto::{
    Instant,
    etcd::etcdserverpb::{AlarmRequest, AlarmType, CompactionRequest, alarm_request::AlarmAction},
    store::{Command, NotProposed, PeerMessage, Proposals, command::Change, peer_message::Kind},
};
use ringmesh_store::{consensus::Refused, kv::Refusal};
use tokio::sync::oneshot;

use super::{Member, changes};

/// Bytes of changes that go to the leader in one message, but for a single larger one.
const FORWARD_BYTES: usize = 1 << 20;

/// Between two attempts to raise an alarm.
const ALARM_PAUSE: Duration = Duration::from_secs(1);

impl Member {
    pub(super) fn take_change(&mut self, now: Instant, change: Change, reply: changes::Reply) {
        match self.kv.check(&change) {
            Ok(()) => self.changes.take(change, reply),
            Err(refusal) => {
                if refusal == Refusal::NoSpace {
                    self.raise_alarm(now);
                }
                let _ = reply.send(Err(refusal.into()));
            }
        }
    }

    /// Once it is on, all members refuse alike.
    fn raise_alarm(&mut self, now: Instant) {
        let is_on = !self.kv.alarms(AlarmType::Nospace).is_empty();
        if is_on || self.alarmed.as_ref().is_some_and(|(at, _)| now.since(*at) < ALARM_PAUSE) {
            return;
        }
        tracing::warn!(quota_bytes = self.settings.quota_bytes, "the keys have reached their quota");
        let alarm = AlarmRequest {
            action: AlarmAction::Activate.into(),
            member_id: self.settings.id,
            alarm: AlarmType::Nospace.into(),
        };
        let (reply, answer) = oneshot::channel();
        self.alarmed = Some((now, answer));
        self.changes.take(Change::Alarm(alarm), reply);
    }

    /// Another member's, who takes this one for the leader.
    pub(super) fn hear_proposals(&mut self, now: Instant, from: u64, proposals: Proposals) {
        let mut ids = Vec::new();
        for command in proposals.commands {
            if self.consensus.propose(now, command.clone()).is_err() {
                ids.extend(Command::decode(command).map(|command| command.id));
            }
        }
        if !ids.is_empty() {
            self.peers.send(from, &PeerMessage { kind: Some(Kind::NotProposed(NotProposed { ids })) });
        }
    }

    pub(super) fn compact_old(&mut self, now: Instant) {
        let revision = self.kv.revision();
        let old = self.retention.as_mut().and_then(|retention| retention.handle_timeout(now, revision));
        if let Some(revision) = old.filter(|revision| self.leads && *revision > self.kv.compacted()) {
            self.propose_own(now, Change::Compaction(CompactionRequest { revision, physical: false }));
        }
    }

    /// Of the leader itself. If it cannot be proposed now, which is `false`, its reason comes again.
    pub(super) fn propose_own(&mut self, now: Instant, change: Change) -> bool {
        let (_, command) = self.changes.command(change);
        self.consensus.propose(now, command).is_ok()
    }

    /// All changes that wait, here or with the leader.
    pub(super) fn propose(&mut self, now: Instant) {
        let mut forwarded: Vec<(u64, Bytes)> = Vec::new();
        let mut to = None;
        while let Some((id, command)) = self.changes.next() {
            match self.consensus.propose(now, command.clone()) {
                Ok(position) => self.changes.given(id, position.term),
                Err(Refused::NotLeader { leader: Some(leader) }) => {
                    to = Some(leader);
                    forwarded.push((id, command));
                }
                Err(Refused::TooLarge) => {
                    if let Some(reply) = self.changes.resolve(id) {
                        let _ = reply.send(Err(Refusal::RequestTooLarge.into()));
                    }
                }
                Err(
                    Refused::NotLeader { leader: None }
                    | Refused::Full
                    | Refused::Transferring { .. }
                    | Refused::ChangePending
                    | Refused::UnsuitableMember(_)
                    | Refused::Behind { .. }
                    | Refused::WouldLoseQuorum
                    | Refused::IsLeader,
                ) => {
                    self.changes.put_back(id);
                    break;
                }
            }
        }
        if let Some(to) = to {
            self.forward(to, forwarded);
        }
    }

    fn forward(&mut self, to: u64, commands: Vec<(u64, Bytes)>) {
        let mut commands = commands.into_iter().peekable();
        while commands.peek().is_some() {
            let (mut ids, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
            while let Some((id, command)) =
                commands.next_if(|(_, next)| bytes == 0 || bytes + next.len() <= FORWARD_BYTES)
            {
                bytes += command.len();
                ids.push(id);
                batch.push(command);
            }
            if self.peers.send(to, &PeerMessage { kind: Some(Kind::Proposals(Proposals { commands: batch })) }) {
                ids.into_iter().for_each(|id| self.changes.given(id, self.term));
            } else {
                ids.into_iter().rev().for_each(|id| self.changes.put_back(id));
            }
        }
    }
}
