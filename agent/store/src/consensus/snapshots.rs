//! Snapshots for peers that need entries which are gone. The keys themselves go out of band; here only raft is told.

use bytes::Bytes;
use raft::{
    SnapshotStatus,
    eraftpb::{Message, MessageType},
};

use super::{conf::Conf, entry::Applied, machine::Consensus, message, output::Output};

impl Consensus {
    /// A snapshot of the keys as of `at` is ready for this peer. Returns what is to follow it, for the peer's
    /// `handle_message` when it has verified the whole; `None` if the peer needs none any more, or not this one.
    ///
    /// In either case `handle_snapshot_sent` has to follow.
    pub fn begin_snapshot(&mut self, to: u64, at: &Applied) -> Option<Bytes> {
        self.flush_proposals();
        let conf = Conf::decode(&at.conf)?;
        let index = at.position.index;
        let is_of_use = index >= self.least_snapshot() && index <= self.raw.raft.raft_log.applied && conf.contains(to);
        if !self.is_leader() || !is_of_use || self.has_unstored_term() {
            return None;
        }
        self.raw.raft.mut_prs().get_mut(to)?.resume();
        self.raw.mut_store().offer(Some((to, message::snapshot(at.position.term, index, &conf))));
        self.raw.raft.send_append(to);
        self.raw.mut_store().offer(None);
        let is_it = |message: &Message| message.to == to && message.get_msg_type() == MessageType::MsgSnapshot;
        let place = self.raw.raft.msgs.iter().position(is_it)?;
        self.sending.insert(to, index);
        message::encode(&self.raw.raft.msgs.remove(place))
    }

    /// The snapshot for this peer has come to it and was taken, or not.
    pub fn handle_snapshot_sent(&mut self, to: u64, ok: bool) {
        self.asked.remove(&to);
        self.sending.remove(&to);
        let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(to, status);
    }

    pub(super) fn ask_for_snapshots(&mut self) {
        for to in self.raw.mut_store().take_wanted() {
            if self.is_leader() && self.asked.insert(to) {
                let at_least = self.least_snapshot();
                self.outputs.push_back(Output::NeedSnapshot { to, at_least });
            }
        }
    }

    /// A member takes no snapshot in which it is none, and after it must find the log.
    fn least_snapshot(&self) -> u64 {
        self.conf_index.max(self.raw.store().first() - 1)
    }
}
