//! Questions from when they are asked until they may be answered. A consistent one waits until the consensus has named an
//! index beyond all that was acknowledged before, and until that is applied. All that wait together share one such index.

use std::{collections::BTreeMap, time::Duration};

use ringmesh_proto::Instant;

use crate::store::request::{Failure, Look};

/// Questions that wait, at the most.
const MAX_WAITING: usize = 16_384;

/// Indices that are asked for at once: while one is under way, questions gather for the next.
const MAX_ROUNDS: usize = 2;

/// When an answer is taken for lost, and the index is asked for again.
const LOST: Duration = Duration::from_millis(500);

/// After such a time the asker has given up.
const PATIENCE: Duration = Duration::from_secs(7);

struct Waiting {
    look: Look,
    since: Instant,
}

struct Round {
    asked: Instant,
    waiting: Vec<Waiting>,
}

/// All questions that wait.
#[derive(Default)]
pub(super) struct Reads {
    unasked: Vec<Waiting>,
    next_context: u64,
    rounds: BTreeMap<u64, Round>,
    /// With the index that is to be applied first.
    named: Vec<(u64, Vec<Waiting>)>,
    count: usize,
}

impl Reads {
    /// Takes one that is to be consistent.
    pub(super) fn take(&mut self, now: Instant, look: Look) {
        if self.count >= MAX_WAITING {
            look(Err(Failure::TooMany));
            return;
        }
        self.count += 1;
        self.unasked.push(Waiting { look, since: now });
    }

    /// The context by which an index is to be asked for, if some wait for one.
    pub(super) fn next_round(&mut self, now: Instant) -> Option<u64> {
        if self.unasked.is_empty() || self.rounds.len() >= MAX_ROUNDS {
            return None;
        }
        self.next_context += 1;
        self.rounds.insert(self.next_context, Round { asked: now, waiting: std::mem::take(&mut self.unasked) });
        Some(self.next_context)
    }

    /// No index will be named: it is to be asked for again.
    pub(super) fn failed(&mut self, context: u64) {
        if let Some(round) = self.rounds.remove(&context) {
            self.unasked.extend(round.waiting);
        }
    }

    /// The index has been named. One that comes after it was taken for lost is none.
    pub(super) fn named(&mut self, context: u64, index: u64) {
        if let Some(round) = self.rounds.remove(&context) {
            self.named.push((index, round.waiting));
        }
    }

    /// Takes out those that `applied` suffices for, so many at the most.
    pub(super) fn due(&mut self, applied: u64, most: usize) -> Vec<Look> {
        let mut due = Vec::new();
        for (_, waiting) in self.named.iter_mut().filter(|(index, _)| *index <= applied) {
            let count = waiting.len().min(most - due.len());
            due.extend(waiting.drain(..count).map(|waiting| waiting.look));
        }
        self.named.retain(|(_, waiting)| !waiting.is_empty());
        self.count -= due.len();
        due
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Asks again for what is lost, and tells who has waited for too long.
    pub(super) fn sweep(&mut self, now: Instant) {
        let lost = |(context, round): (&u64, &Round)| (now.since(round.asked) >= LOST).then_some(*context);
        let lost: Vec<u64> = self.rounds.iter().filter_map(lost).collect();
        lost.into_iter().for_each(|context| self.failed(context));
        let named = self.named.iter_mut().map(|(_, waiting)| waiting);
        for waiting in named.chain([&mut self.unasked]) {
            for late in waiting.extract_if(.., |waiting| now.since(waiting.since) >= PATIENCE) {
                self.count -= 1;
                (late.look)(Err(Failure::TimedOut));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    type Seen = Arc<Mutex<Vec<&'static str>>>;

    fn look(seen: &Seen, name: &'static str) -> Look {
        let seen = Arc::clone(seen);
        Box::new(move |sight| {
            let late = matches!(sight, Err(Failure::TimedOut));
            seen.lock().unwrap().push(if late { "late" } else { name });
        })
    }

    #[test]
    fn those_that_wait_together_share_an_index_and_wait_for_it_to_be_applied() {
        let (now, seen, mut reads) = (Instant::ZERO, Seen::default(), Reads::default());
        reads.take(now, look(&seen, "a"));
        reads.take(now, look(&seen, "b"));
        let context = reads.next_round(now).unwrap();
        assert_eq!(reads.next_round(now), None);
        reads.named(context + 1, 1);
        assert_eq!(reads.due(9, 9).len(), 0);
        reads.named(context, 5);
        assert_eq!(reads.due(4, 9).len(), 0);
        assert_eq!(reads.due(5, 1).len(), 1, "no more than are asked for");
        assert_eq!(reads.due(5, 9).len(), 1);
        assert_eq!(reads.count, 0);
    }

    #[test]
    fn what_is_lost_is_asked_for_again_and_given_up_in_the_end() {
        let (start, seen, mut reads) = (Instant::ZERO, Seen::default(), Reads::default());
        reads.take(start, look(&seen, "a"));
        let first = reads.next_round(start).unwrap();
        reads.sweep(start + LOST);
        let second = reads.next_round(start + LOST).unwrap();
        reads.named(first, 1);
        assert_eq!(reads.due(1, 9).len(), 0, "an index that was asked for before is not taken");
        reads.failed(second);
        reads.sweep(start + PATIENCE);
        assert_eq!(*seen.lock().unwrap(), ["late"]);
        assert_eq!((reads.count, reads.next_round(start + PATIENCE)), (0, None));
    }
}
