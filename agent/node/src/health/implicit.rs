//! Containers of which nothing is kept because they are well and nothing was done to them: for simulations of very many.
//!
//! When such a container is probed follows from when it was found running and from its checks' numbers, and that it answers
//! is what makes it one. So all that there would be of it can be made when it is needed: [`Health::wake`] gives a container
//! its checks and plays the probes that it had, [`Health::rest`] forgets them again. An agent has none of these.

use std::{sync::Arc, time::Duration};

use ringmesh_proto::{Instant, Now, UnixMillis, digest::Digest, v1::verdict::Value};

use super::{
    Health, Marks,
    check::{At, Outcome, Turns},
    schedule::FIRST_PROBE,
    spec::{CheckId, ContainerSpec, ContainerState, ContainerStatus, ProbeRequest, Sign},
};

/// After the last of the implicit ones was probed for the first time all have answered.
const ANSWERED: Duration = Duration::from_millis(10);

/// How many there are.
#[derive(Debug, Default)]
pub(super) struct Implicit {
    pub(super) containers: u32,
    pub(super) services: u32,
    /// When they were found running.
    since: Instant,
    /// When all of them have answered, until that has come.
    answers: Option<Instant>,
}

impl Implicit {
    /// When [`Self::begin`] is next wanted.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.answers
    }

    /// Whether they have answered just now.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        self.answers.take_if(|at| *at <= now).is_some()
    }

    /// Adds them to a digest, and to the sum of scores.
    pub(super) fn count(&self, digest: &mut Digest, scores: &mut u64) {
        digest.containers += self.containers;
        digest.running += self.containers;
        digest.services += self.services;
        if self.answers.is_none() && self.containers > 0 {
            digest.passing += self.services;
            digest.worst = digest.worst.max(Value::Passing as u8);
            *scores += 100 * u64::from(self.containers);
        }
    }
}

/// How a probe of an implicit container went.
#[derive(Clone, Debug)]
pub struct Answered {
    /// From when it was asked to when its agent heard the answer.
    pub after: Duration,
    /// What the answer says of that.
    pub latency: Duration,
    /// The answer.
    pub answer: &'static str,
}

/// What there is of a container that was woken.
#[derive(Debug, Default)]
pub struct Woken {
    /// Probes that are under way, and when they were begun.
    pub asked: Vec<(Instant, ProbeRequest)>,
    /// When each of its checks was last answered, in that order, and the interval and time-out of that one.
    pub answered: Vec<(Instant, (Duration, Duration))>,
    /// Something would have been told of it: it was not implicit.
    pub news: bool,
}

impl Health {
    /// So many containers more, with so many services each, are found running now and are implicit. `interval`: of all their probes.
    pub fn hush(&mut self, now: Instant, containers: u32, services: u32, interval: Duration) {
        self.implicit.containers += containers;
        self.implicit.services += containers * services;
        self.implicit.since = now;
        let within = self.first_within(ContainerState::Unknown).min(interval.max(FIRST_PROBE / 2));
        self.implicit.answers = Some(now + within + ANSWERED);
        // Those that come later are not taken for one of them.
        self.next_id = self.next_id.max(u64::from(self.implicit.services));
        self.revision += 1;
    }

    /// Gives an implicit container all that it would have: it was found in this state when the implicit ones were found, and `answered`
    /// says how a probe that was begun then went. `first`: the number of its first check. Plans, startup checks and
    /// heartbeats are not implicit.
    pub fn wake(
        &mut self,
        now: Now,
        spec: ContainerSpec,
        status: ContainerStatus,
        first: u64,
        answered: impl Fn(CheckId, Instant) -> Answered,
    ) -> Woken {
        let (since, name) = (self.implicit.since, spec.name.clone());
        let (next, revision) = (std::mem::replace(&mut self.next_id, first - 1), self.revision);
        self.implicit.containers = self.implicit.containers.saturating_sub(1);
        self.implicit.services = self.implicit.services.saturating_sub(spec.services.len() as u32);
        self.add(since, spec);
        self.next_id = next;
        let mut woken = Woken::default();
        let runs = status.state == ContainerState::Running;
        let millis = |at: Instant| at.as_nanos() / 1_000_000;
        let unix = |at: Instant| UnixMillis(now.unix.0.saturating_sub(millis(now.instant) - millis(at)));
        self.handle_status(Now { instant: since, unix: unix(since) }, status);
        if !runs {
            return woken;
        }
        for id in self.checks_of(&name) {
            let mut last = None;
            while let Some((asked, request)) = self.replay_request(now.instant, id) {
                let went = answered(id, asked);
                let at = asked + went.after;
                if at > now.instant {
                    woken.asked.push((asked, request));
                    break;
                }
                woken.news |= self.replay_answer(Now { instant: at, unix: unix(at) }, id, &went);
                last = Some(at);
            }
            if let Some(check) = self.checks.get(&id) {
                let holds = (check.spec.interval, check.spec.timeout);
                woken.answered.extend(last.map(|last| (last, holds)));
            }
        }
        woken.answered.sort_by_key(|(at, _)| *at);
        self.touched.remove(&name);
        // It is as it was counted.
        self.revision = revision;
        woken
    }

    /// A probe that was due by now.
    fn replay_request(&mut self, now: Instant, id: CheckId) -> Option<(Instant, ProbeRequest)> {
        let check = self.checks.get(&id).filter(|check| check.due <= now)?;
        let due = check.due;
        let next = self.next_due(id, due, due)?;
        self.reschedule(id, next);
        Some((due, self.request(due, id)?))
    }

    /// Whether it was news.
    fn replay_answer(&mut self, at: Now, id: CheckId, went: &Answered) -> bool {
        let answer: Arc<str> = self.memory.share(went.answer);
        let outcome = Outcome { sign: Sign::Right, latency: Some(went.latency), answer };
        let Some(check) = self.checks.get_mut(&id) else { return false };
        check.under_way = None;
        check.history.note_outcome(at.unix, true, went.latency, &outcome.answer);
        let (old, first) = (check.state.verdict, !check.state.was_judged());
        let turns = check.state.reply(At { now: at, spec: &check.spec, judgement: &self.judgement }, &outcome);
        let new = check.state.verdict;
        if old != new {
            let cause = self.memory.share(&check.state.cause());
            check.history.note_verdict(at.unix, new, &cause);
        }
        turns != Turns::default() || (old != new && !(first && new == Value::Passing))
    }

    /// Whether a container is as it would be if it had never been woken: it runs as it was found, passes, and is probed when it
    /// would be.
    pub fn is_at_rest(&self, now: Instant, status: &ContainerStatus) -> bool {
        let Some(container) = self.containers.get(&status.name) else { return false };
        let untouched = *container.status == *status && container.marks == Marks::default() && !container.starting;
        untouched && container.checks.iter().all(|id| self.is_implicit(now, *id))
    }

    /// Forgets a container that is at rest: it is implicit. False if it is not.
    pub fn rest(&mut self, now: Instant, status: &ContainerStatus) -> bool {
        if !self.is_at_rest(now, status) {
            return false;
        }
        let checks = self.checks_of(&status.name);
        for id in &checks {
            if let Some(check) = self.checks.remove(id) {
                self.due.remove(&(check.due, *id));
            }
        }
        self.containers.remove(&status.name);
        self.touched.remove(&status.name);
        self.implicit.containers += 1;
        self.implicit.services += checks.len() as u32;
        true
    }

    fn is_implicit(&self, now: Instant, id: CheckId) -> bool {
        let Some(check) = self.checks.get(&id) else { return false };
        let well = check.state.verdict == Value::Passing && check.state.is_steady() && check.under_way.is_none();
        if !well || check.unplaced || check.due <= now {
            return false;
        }
        // When it would be probed next if nothing had been done to it.
        let mut due = self.implicit.since
            + self.draw(id, self.implicit.since, self.first_within(ContainerState::Unknown).min(check.spec.interval));
        let mut place = true;
        while due <= now {
            due = self.following(id, due, due, check.spec.interval, place);
            place = false;
        }
        due == check.due
    }
}
