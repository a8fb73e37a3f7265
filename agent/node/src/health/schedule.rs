//! When checks are probed: by turns and spread out, a few together, and again soon when a container has started.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ringmesh_proto::Instant;
use ringmesh_topology::hash;

use super::{
    Change, Check, Health,
    load::{LATE, Stretched, WINDOW},
    spec::{CheckId, ContainerState, ProbeRequest, ServiceKind},
};

/// The longest time to a service's first probe: a start of the agent is no reason to wait a whole interval.
pub(super) const FIRST_PROBE: Duration = Duration::from_secs(1);

/// So much of a second each check adds to the time in which those of containers that are found running are first probed.
const FIRST_PROBE_EACH: Duration = Duration::from_micros(500);

/// A reply that is later than twice its time-out and this will not come.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// A check may come this part of its interval early, to be made together with one that is due: on a host with few of them
/// each that is made alone wakes two threads three times.
const EARLY: u32 = 4;

/// So many checks come together at the most, and only where no more than these are due within that time: a host with many has
/// no need for it, they are to stay spread out, and not to be made more often.
pub(super) const TOGETHER: usize = 8;

impl Health {
    /// When [`Self::handle_timeout`] is next wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.plans.is_empty() {
            return Some(Instant::ZERO);
        }
        let first = |set: &BTreeSet<(Instant, CheckId)>| set.first().map(|(due, _)| *due);
        first(&self.due).into_iter().chain(first(&self.missed)).chain(self.implicit.poll_timeout()).min()
    }

    /// The probes that are due, at most `max` of them; if these are few, with some that would be due soon.
    pub fn handle_timeout(&mut self, now: Instant, max: usize) -> Vec<ProbeRequest> {
        // Of those that are implicit, some are due all the time.
        let implicit = (self.implicit.services as usize > TOGETHER * EARLY as usize).then_some(Instant::ZERO);
        let crowd = implicit.or_else(|| self.due.iter().nth(TOGETHER).map(|(due, _)| *due));
        self.revision += u64::from(self.implicit.begin(now));
        let mut requests = self.plan_requests(max);
        while requests.len() < max {
            let Some((due, id)) = self.due.first().copied() else { break };
            // One that is not wanted waits for its container: see `look_soon`.
            let Some(check) = self.checks.get(&id).filter(|check| self.is_wanted(check)) else {
                self.due.remove(&(due, id));
                continue;
            };
            let interval = self.load.stretched(check.spec.interval);
            let soon = now + interval / EARLY;
            let joins = !requests.is_empty() && due <= soon && crowd.is_none_or(|crowd| crowd > soon);
            if due > now && !(joins && check.under_way.is_none()) {
                break;
            }
            self.load.count_due();
            if now.since(due) > LATE {
                self.load.count_late();
            }
            let Some(next) = self.next_due(id, due, now) else { break };
            self.reschedule(id, next);
            requests.extend(self.request(now, id));
        }
        let checks = &self.checks;
        let demand = || {
            let asked = checks.values().filter(|check| !check.is_heartbeat());
            let window = WINDOW.as_micros() * 1_000_000;
            let millionths = asked.map(|check| window / check.spec.interval.as_micros().max(1)).sum::<u128>();
            u32::try_from(millionths / 1_000_000).unwrap_or(u32::MAX)
        };
        if let Some(Stretched { old, new, late, due }) = self.load.handle_timeout(now, demand) {
            let why = format!("{late} of {due} probes were not made in time");
            self.changes.push_back(Change::Stretched { old, new, why });
        }
        requests
    }

    /// The time in which the checks of a container are first probed. Those that are found running when the agent starts are many.
    pub(super) fn first_within(&self, old: ContainerState) -> Duration {
        let all = FIRST_PROBE_EACH * u32::try_from(self.probed()).unwrap_or(u32::MAX);
        if old == ContainerState::Unknown { all.max(FIRST_PROBE / 2) } else { FIRST_PROBE / 2 }
    }

    /// Its container has just started or goes on: a look soon, whatever comes of a probe of the time before.
    pub(super) fn look_soon(&mut self, now: Instant, id: CheckId, within: Duration) {
        let Some(check) = self.checks.get_mut(&id) else { return };
        (check.under_way, check.unplaced) = (None, true);
        let interval = check.spec.interval;
        let due = now + if check.is_heartbeat() { interval } else { self.draw(id, now, within.min(interval)) };
        self.reschedule(id, due);
    }

    pub(super) fn request(&mut self, now: Instant, id: CheckId) -> Option<ProbeRequest> {
        let check = self.checks.get_mut(&id)?;
        // Its answer is on its way, unless it was lost.
        let lost = check.spec.timeout * 2 + LOST_AFTER;
        if let Some(since) = check.under_way.filter(|since| now.since(*since) < lost) {
            if now.since(since) > check.spec.timeout + LATE {
                self.load.count_late();
            }
            return None;
        }
        (check.under_way, check.unplaced) = (Some(now), false);
        let status = &self.containers.get(check.container())?.status;
        Some(ProbeRequest {
            id,
            check: Arc::clone(&check.spec.check),
            pid: status.pid,
            netns: status.netns.clone(),
            timeout: check.spec.timeout,
            max_latency: check.spec.max_latency,
        })
    }

    /// Whether it is to be probed: its container runs and is not held, and either starts and this is a startup check, or
    /// neither.
    pub(super) fn is_wanted(&self, check: &Check) -> bool {
        self.containers.get(check.container()).is_some_and(|container| {
            let startup = check.spec.kind == ServiceKind::Startup;
            let runs = matches!(container.status.state, ContainerState::Running | ContainerState::Paused);
            runs && container.marks.hold.is_none() && container.starting == startup
        })
    }

    pub(super) fn reschedule(&mut self, id: CheckId, due: Instant) {
        if let Some(check) = self.checks.get_mut(&id) {
            let queue = if check.is_heartbeat() { &mut self.missed } else { &mut self.due };
            queue.remove(&(check.due, id));
            check.due = due;
            queue.insert((due, id));
        }
    }

    /// When a check that fell due then is due next.
    pub(super) fn next_due(&self, id: CheckId, due: Instant, now: Instant) -> Option<Instant> {
        let check = self.checks.get(&id)?;
        Some(self.following(id, due, now, check.spec.interval, check.unplaced))
    }

    pub(super) fn following(
        &self,
        id: CheckId,
        due: Instant,
        now: Instant,
        interval: Duration,
        unplaced: bool,
    ) -> Instant {
        // A few are to come together, and many are not.
        let place = unplaced && self.probed() > TOGETHER;
        let jitter = if place { interval } else { interval / 20 };
        self.load.next(due.clamp(now - interval, now), interval) - self.draw(id, due, jitter)
    }

    /// Checks of this host, those of implicit containers among them.
    pub(super) fn probed(&self) -> usize {
        self.checks.len() + self.implicit.services as usize
    }

    /// What a check draws at a time: nothing that is done for another one moves it.
    pub(super) fn draw(&self, id: CheckId, at: Instant, below: Duration) -> Duration {
        let nanos = u64::try_from(below.as_nanos()).unwrap_or(u64::MAX);
        let drawn = hash(&[self.seed, id.0, at.as_nanos()]);
        Duration::from_nanos(((u128::from(drawn) * u128::from(nanos)) >> 64) as u64)
    }
}
