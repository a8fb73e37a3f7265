//! Questions about the time that leases have: the leader answers them, the others ask it. It answers when a majority has
//! said that it leads still, and when it has applied all that was committed then: another member may lead by now and count
//! the time anew, or have applied a grant before it.

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

/// Marks a question to the consensus as one about leases: reads count from 1.
const CONTEXT: u64 = 1 << 63;

/// All that wait for an answer.
#[derive(Debug)]
pub(super) struct Questions {
    next_id: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// Of other members, which take this one for the leader.
    theirs: Vec<Theirs>,
    next_context: u64,
    /// Under way, and since when.
    round: Option<(u64, Instant)>,
}

#[derive(Debug)]
struct Waiting {
    lease: i64,
    renew: bool,
    asked: Option<Instant>,
    step: Step,
    reply: Reply,
}

#[derive(Debug)]
struct Theirs {
    from: u64,
    question: LeaseQuestion,
    step: Step,
}

/// How far the leader is with a question.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    /// Whether it leads still was not asked since.
    New,
    /// It is being asked, in this round.
    Asked(u64),
    /// It led, and answers when this entry is applied.
    Led { index: u64 },
}

impl Step {
    fn is_due(self, applied: u64) -> bool {
        matches!(self, Self::Led { index } if index <= applied)
    }
}

impl Questions {
    /// Ids count from `first_id`, which chance has chosen: an answer to an earlier process is none to this one.
    pub(super) fn new(first_id: u64) -> Self {
        Self { next_id: first_id, waiting: BTreeMap::new(), theirs: Vec::new(), next_context: CONTEXT, round: None }
    }

    /// Takes one.
    pub(super) fn take(&mut self, lease: i64, renew: bool, reply: Reply) {
        if self.waiting.len() >= MAX_WAITING {
            // Who asked may have gone.
            let _ = reply.send(Err(Failure::TooMany));
            return;
        }
        self.next_id = self.next_id.wrapping_add(1);
        self.waiting.insert(self.next_id, Waiting { lease, renew, asked: None, step: Step::New, reply });
    }

    /// Takes another member's.
    pub(super) fn take_theirs(&mut self, from: u64, question: LeaseQuestion) {
        // One that is lost is asked again.
        if self.theirs.len() < MAX_WAITING {
            self.theirs.push(Theirs { from, question, step: Step::New });
        }
    }

    /// By whom does not lead: those of other members, to be told so.
    pub(super) fn refuse_theirs(&mut self) -> Vec<(u64, LeaseQuestion)> {
        self.theirs.drain(..).map(|theirs| (theirs.from, theirs.question)).collect()
    }

    /// By the leader: the context by which it is to ask whether it leads still, for all that wait for that. A majority
    /// that says so has not elected another one, which would count the time anew.
    pub(super) fn next_round(&mut self, now: Instant) -> Option<u64> {
        if self.round.is_some_and(|(_, asked)| now.since(asked) < LOST) {
            return None;
        }
        if let Some((lost, _)) = self.round.take() {
            self.failed(lost);
        }
        let context = self.next_context.wrapping_add(1) | CONTEXT;
        let mut any = false;
        for step in self.steps().filter(|step| **step == Step::New) {
            *step = Step::Asked(context);
            any = true;
        }
        if !any {
            return None;
        }
        self.next_context = context;
        self.round = Some((context, now));
        Some(context)
    }

    /// Whether that is the context of a question about leases.
    pub(super) fn are_asked_by(context: u64) -> bool {
        context & CONTEXT != 0
    }

    /// It leads, and all that any member had before it was asked is applied at `index`.
    pub(super) fn named(&mut self, context: u64, index: u64) {
        self.advance(context, Step::Led { index });
    }

    /// Nobody says whether it leads: it is to be asked again.
    pub(super) fn failed(&mut self, context: u64) {
        self.advance(context, Step::New);
    }

    fn advance(&mut self, context: u64, to: Step) {
        self.round.take_if(|(round, _)| *round == context);
        self.steps().filter(|step| **step == Step::Asked(context)).for_each(|step| *step = to);
    }

    fn steps(&mut self) -> impl Iterator<Item = &mut Step> {
        let theirs = self.theirs.iter_mut().map(|theirs| &mut theirs.step);
        self.waiting.values_mut().map(|waiting| &mut waiting.step).chain(theirs)
    }

    /// Those of other members that the leader can answer.
    pub(super) fn due_theirs(&mut self, applied: u64) -> Vec<(u64, LeaseQuestion)> {
        let due = self.theirs.extract_if(.., |theirs| theirs.step.is_due(applied));
        due.map(|theirs| (theirs.from, theirs.question)).collect()
    }

    /// Answers all of this member's own that it can, by who leads.
    pub(super) fn answer_due(
        &mut self,
        now: Instant,
        applied: u64,
        lessor: &mut Lessor,
        header: Option<ResponseHeader>,
    ) {
        let due = self.waiting.iter().filter(|(_, waiting)| waiting.step.is_due(applied));
        let due: Vec<u64> = due.map(|(id, _)| *id).collect();
        for waiting in due.into_iter().filter_map(|id| self.waiting.remove(&id)) {
            // Who asked may have gone.
            let left = left(now, lessor, waiting.lease, waiting.renew);
            let _ = waiting.reply.send(Ok(Left { left, header }));
        }
    }

    /// Those that are to be put to the leader now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<LeaseQuestion> {
        // Another one leads now: that this one led is of no use.
        self.round = None;
        self.steps().for_each(|step| *step = Step::New);
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

/// The answer to another member, by who leads if there is a `lessor`.
pub(super) fn answer(now: Instant, lessor: Option<&mut Lessor>, question: &LeaseQuestion) -> LeaseAnswer {
    let leads = lessor.is_some();
    let left = lessor.and_then(|lessor| left(now, lessor, question.lease, question.renew));
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

    const THEIRS: LeaseQuestion = LeaseQuestion { id: 1, lease: 7, renew: true };

    fn ours(questions: &mut Questions) -> oneshot::Receiver<Result<Left, Failure>> {
        let (reply, answer) = oneshot::channel();
        questions.take(7, true, reply);
        answer
    }

    #[test]
    fn a_lease_that_others_know_already_is_waited_for() {
        let (now, mut lessor, mut questions) = (Instant::ZERO, Lessor::default(), Questions::new(0));
        lessor.lead(now, &ringmesh_store::kv::LeaseTable::default());
        let mut answer = ours(&mut questions);
        questions.take_theirs(2, THEIRS);
        let context = questions.next_round(now).unwrap();
        questions.named(context, 5);
        questions.answer_due(now, 4, &mut lessor, None);
        answer.try_recv().unwrap_err();
        assert_eq!(questions.due_theirs(4), []);
        lessor.granted(now, 7, 60);
        questions.answer_due(now, 5, &mut lessor, None);
        assert_eq!(answer.try_recv().unwrap().unwrap().left, Some(Duration::from_secs(60)));
        assert_eq!(questions.due_theirs(5).len(), 1);
        assert!(questions.is_empty());
    }

    #[test]
    fn nothing_is_answered_before_a_majority_has_said_that_it_leads_still() {
        let (now, mut lessor, mut questions) = (Instant::ZERO, Lessor::default(), Questions::new(u64::MAX));
        lessor.lead(now, &ringmesh_store::kv::LeaseTable::default());
        let mut first = ours(&mut questions);
        let context = questions.next_round(now).unwrap();
        assert!(Questions::are_asked_by(context) && !Questions::are_asked_by(1));
        // It came later: that answer is none to it.
        questions.take_theirs(2, THEIRS);
        assert_eq!(questions.next_round(now), None, "one is under way");
        questions.answer_due(now, 99, &mut lessor, None);
        first.try_recv().unwrap_err();
        questions.named(context, 5);
        questions.answer_due(now, 99, &mut lessor, None);
        first.try_recv().unwrap().unwrap();
        assert_eq!(questions.due_theirs(99), []);

        let failed = questions.next_round(now).unwrap();
        questions.failed(failed);
        let lost = questions.next_round(now).unwrap();
        let again = questions.next_round(now + LOST).unwrap();
        questions.named(lost, 1);
        assert_eq!(questions.due_theirs(99), [], "it was taken for lost");
        questions.named(again, 1);
        assert_eq!(questions.due_theirs(99), [(2, THEIRS)]);
    }

    #[test]
    fn who_does_not_lead_says_so_at_once_and_asks_again_in_time() {
        let (now, mut questions) = (Instant::ZERO, Questions::new(0));
        questions.take_theirs(2, THEIRS);
        assert_eq!(questions.refuse_theirs(), [(2, THEIRS)]);
        assert!(!answer(now, None, &THEIRS).leads);
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
