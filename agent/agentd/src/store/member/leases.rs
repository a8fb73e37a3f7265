//! Questions about the time that leases have: the leader answers them, the others ask it. It answers when it has applied
//! all that was committed when it was asked: another member may have applied a grant before it.

use std::{collections::BTreeMap, time::Duration};

use ringmesh_proto::{
    Instant,
    etcd::etcdserverpb::ResponseHeader,
    store::{LeaseAnswer, LeaseQuestion},
};
use ringmesh_store::kv::Lessor;
use tokio::sync::oneshot;

use crate::store::request::{Failure, Left};

/// Questions that wait, at the most.
const MAX_WAITING: usize = 16_384;

/// When a question is asked again: its answer is lost, or there was no leader.
const LOST: Duration = Duration::from_millis(500);

/// Where an answer goes.
pub(super) type Reply = oneshot::Sender<Result<Left, Failure>>;

/// All that wait for an answer.
#[derive(Debug, Default)]
pub(super) struct Questions {
    next_id: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// Of other members, which take this one for the leader.
    theirs: Vec<(u64, LeaseQuestion, u64)>,
}

#[derive(Debug)]
struct Waiting {
    lease: i64,
    renew: bool,
    asked: Option<Instant>,
    /// What is to be applied first, if this member leads.
    index: Option<u64>,
    reply: Reply,
}

/// How far the log is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// Up to this entry it is agreed on.
    pub(super) committed: u64,
    /// Up to this one the keys have it.
    pub(super) applied: u64,
}

impl Questions {
    /// Takes one.
    pub(super) fn take(&mut self, lease: i64, renew: bool, reply: Reply) {
        if self.waiting.len() >= MAX_WAITING {
            // Who asked may have gone.
            let _ = reply.send(Err(Failure::TooMany));
            return;
        }
        self.next_id += 1;
        self.waiting.insert(self.next_id, Waiting { lease, renew, asked: None, index: None, reply });
    }

    /// Takes another member's, which is asked when the log is agreed on up to `committed`.
    pub(super) fn take_theirs(&mut self, from: u64, question: LeaseQuestion, committed: u64) {
        // One that is lost is asked again.
        if self.theirs.len() < MAX_WAITING {
            self.theirs.push((from, question, committed));
        }
    }

    /// Those of other members that can be answered now: all of them by who does not lead.
    pub(super) fn due_theirs(&mut self, leads: bool, progress: Progress) -> Vec<(u64, LeaseQuestion)> {
        let due = self.theirs.extract_if(.., |(_, _, index)| !leads || *index <= progress.applied);
        due.map(|(from, question, _)| (from, question)).collect()
    }

    /// Answers all of this member's own that it can, by who leads.
    pub(super) fn answer_due(
        &mut self,
        now: Instant,
        progress: Progress,
        lessor: &mut Lessor,
        header: Option<ResponseHeader>,
    ) {
        for (id, mut waiting) in std::mem::take(&mut self.waiting) {
            let index = *waiting.index.get_or_insert(progress.committed);
            if index > progress.applied {
                self.waiting.insert(id, waiting);
                continue;
            }
            // Who asked may have gone.
            let left = left(now, lessor, waiting.lease, waiting.renew);
            let _ = waiting.reply.send(Ok(Left { left, header }));
        }
    }

    /// Those that are to be put to the leader now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<LeaseQuestion> {
        // Another one leads now: what this one knew of the log is of no use.
        self.waiting.values_mut().for_each(|waiting| waiting.index = None);
        let due = |waiting: &Waiting| waiting.asked.is_none_or(|asked| now.since(asked) >= LOST);
        let mut questions = Vec::new();
        self.waiting.retain(|_, waiting| !waiting.reply.is_closed());
        for (id, waiting) in self.waiting.iter_mut().filter(|(_, waiting)| due(waiting)) {
            waiting.asked = Some(now);
            questions.push(LeaseQuestion { id: *id, lease: waiting.lease, renew: waiting.renew });
        }
        questions
    }

    /// What another member says. One that does not lead is no answer.
    pub(super) fn answered(&mut self, answer: &LeaseAnswer, header: Option<ResponseHeader>) {
        if !answer.leads {
            return;
        }
        if let Some(waiting) = self.waiting.remove(&answer.id) {
            let left = u64::try_from(answer.left_ms).ok().map(Duration::from_millis);
            let _ = waiting.reply.send(Ok(Left { left, header }));
        }
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.theirs.is_empty()
    }
}

/// The leader's answer to another member.
pub(super) fn answer(now: Instant, leads: bool, lessor: &mut Lessor, question: &LeaseQuestion) -> LeaseAnswer {
    let left = if leads { left(now, lessor, question.lease, question.renew) } else { None };
    let left_ms = left.map_or(-1, |left| i64::try_from(left.as_millis()).unwrap_or(i64::MAX));
    LeaseAnswer { id: question.id, leads, left_ms }
}

fn left(now: Instant, lessor: &mut Lessor, lease: i64, renew: bool) -> Option<Duration> {
    let left_s = if renew { lessor.keep_alive(now, lease) } else { lessor.remaining_s(now, lease) };
    left_s.map(|left_s| Duration::from_secs(left_s.max(0).unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_others_know_already_is_waited_for() {
        let (now, mut lessor, mut questions) = (Instant::ZERO, Lessor::default(), Questions::default());
        lessor.lead(now, &ringmesh_store::kv::LeaseTable::default());
        let (reply, mut answer) = oneshot::channel();
        questions.take(7, true, reply);
        questions.take_theirs(2, LeaseQuestion { id: 1, lease: 7, renew: true }, 5);
        let before = Progress { committed: 5, applied: 4 };
        questions.answer_due(now, before, &mut lessor, None);
        answer.try_recv().unwrap_err();
        assert_eq!(questions.due_theirs(true, before), []);
        lessor.granted(now, 7, 60);
        let after = Progress { committed: 6, applied: 5 };
        questions.answer_due(now, after, &mut lessor, None);
        assert_eq!(answer.try_recv().unwrap().unwrap().left, Some(Duration::from_secs(60)));
        assert_eq!(questions.due_theirs(true, after).len(), 1);
        assert!(questions.is_empty());
    }

    #[test]
    fn who_does_not_lead_says_so_at_once_and_asks_again_in_time() {
        let (now, mut questions) = (Instant::ZERO, Questions::default());
        questions.take_theirs(2, LeaseQuestion { id: 1, lease: 7, renew: true }, 5);
        assert_eq!(questions.due_theirs(false, Progress { committed: 5, applied: 4 }).len(), 1);
        let (reply, mut answer) = oneshot::channel();
        questions.take(7, false, reply);
        assert_eq!(questions.due(now).len(), 1);
        assert_eq!(questions.due(now), []);
        let asked = questions.due(now + LOST);
        questions.answered(&LeaseAnswer { id: asked[0].id, leads: false, left_ms: 1 }, None);
        answer.try_recv().unwrap_err();
        questions.answered(&LeaseAnswer { id: asked[0].id, leads: true, left_ms: -1 }, None);
        assert_eq!(answer.try_recv().unwrap().unwrap().left, None);
    }
}
