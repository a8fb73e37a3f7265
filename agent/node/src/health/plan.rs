//! The detailed plans of services: run at once when one deviates, so that what people read says more than "it failed".
//!
//! A plan is a probe under an id of its own. Whether its outcome changes the verdict is decided by the check.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use ringmesh_proto::{Instant, Now};

use super::{
    Change, Health,
    history::Kind,
    spec::{CheckId, ProbeReply, ProbeRequest, Purpose},
};

/// Plans that wait or are under way: when a whole host fails, some of them tell enough.
const MAX_PLANS: usize = 64;

/// A service has no more than one look in so long.
const PAUSE: Duration = Duration::from_secs(60);

/// Plans that are to be run.
#[derive(Debug, Default)]
pub(super) struct Plans {
    waiting: VecDeque<CheckId>,
    under_way: BTreeSet<CheckId>,
    /// When they last began, of those that did within the pause.
    begun: BTreeMap<CheckId, Instant>,
    /// Not run, because too many were.
    skipped: u64,
}

impl Plans {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }

    fn want(&mut self, now: Instant, id: CheckId) {
        self.begun.retain(|_, begun| now.since(*begun) < PAUSE);
        if self.begun.contains_key(&id) {
            return;
        }
        if self.begun.len() >= MAX_PLANS {
            self.skipped += 1;
            return;
        }
        self.begun.insert(id, now);
        self.waiting.push_back(id);
    }

    pub(super) fn ended(&mut self, id: CheckId) -> bool {
        self.under_way.remove(&id)
    }
}

impl Health {
    /// Plans that were not run because too many were.
    pub fn plans_skipped(&self) -> u64 {
        self.plans.skipped()
    }

    pub(super) fn want_plan(&mut self, now: Instant, id: CheckId) {
        if self.checks.get(&id).is_some_and(|check| check.spec.plan.is_some()) {
            self.plans.want(now, id);
        }
    }

    pub(super) fn plan_requests(&mut self, max: usize) -> Vec<ProbeRequest> {
        let mut requests = Vec::new();
        while requests.len() < max {
            let Some(id) = self.plans.waiting.pop_front() else { break };
            let Some(check) = self.checks.get(&id).filter(|check| self.is_wanted(check)) else { continue };
            let (Some(plan), Some(container)) = (&check.spec.plan, self.containers.get(check.container())) else {
                continue;
            };
            self.plans.under_way.insert(id);
            requests.push(ProbeRequest {
                id: id.with(Purpose::Plan),
                check: Arc::clone(plan),
                pid: container.status.pid,
                netns: container.status.netns.clone(),
                timeout: check.spec.timeout,
                max_latency: None,
            });
        }
        requests
    }

    pub(super) fn handle_plan_reply(&mut self, now: Now, id: CheckId, reply: &ProbeReply) {
        if !self.plans.ended(id) || !self.checks.get(&id).is_some_and(|check| self.is_wanted(check)) {
            return;
        }
        let outcome = self.outcome(reply);
        let found = if outcome.sign.is_right() { "passed" } else { "failed" };
        let words = self.memory.share(&format!("{found}: {}", outcome.answer));
        self.note_all(now, &[id], Kind::Plan, &words);
        let Some(check) = self.checks.get(&id) else { return };
        self.changes.push_back(Change::Plan {
            container: check.container().to_owned(),
            service: check.spec.name.clone(),
            success: outcome.sign.is_right(),
            answer: outcome.answer.to_string(),
        });
        self.conclude(now, id, |state, at| state.plan(at, &outcome, &words));
    }
}
