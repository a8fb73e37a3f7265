//! Containers of which nothing is kept while they are well, among the other machines: for the simulator, see
//! [`Health::hush`](crate::health::Health::hush).

use std::time::Duration;

use ringmesh_proto::{Instant, Now};

use super::{Node, Output};
use crate::{
    cells::PATIENCE,
    health::{
        Answered, Health,
        spec::{CheckId, ContainerSpec, ContainerState, ContainerStatus},
    },
    remedy::base,
};

/// The implicit containers of a host: "h1-c1", "h1-c2" and so on.
#[derive(Clone, Debug, Default)]
pub struct Implicit {
    /// "h1-c"
    pub prefix: String,
    /// How many there are.
    pub containers: u32,
    /// Services of each.
    pub services: u32,
    /// Of all their probes.
    pub interval: Duration,
}

impl Implicit {
    /// The number of a container, or of a clone of it, from 0.
    pub fn number(&self, container: &str) -> Option<u32> {
        let digits = base(container).strip_prefix(&self.prefix)?;
        let number: u32 = digits.parse().ok()?;
        (1..=self.containers).contains(&number).then(|| number - 1)
    }

    /// Whether this container is one of them, and nothing is kept of it.
    pub(super) fn keeps(&self, health: &Health, container: &str) -> bool {
        self.containers > 0 && self.number(container).is_some() && health.spec(container).is_none()
    }
}

impl Node {
    /// This host has these containers, too: they are found running now, and are implicit. To be called at once after
    /// [`Self::new`] of a host without others. `spec`: of one, by its number.
    pub fn hush(&mut self, now: Now, implicit: Implicit, spec: impl Fn(u32) -> ContainerSpec) {
        (0..implicit.containers).for_each(|number| self.services.cells.declare(&spec(number)));
        self.services.cells.forget_left_out();
        self.health.hush(now.instant, implicit.containers, implicit.services, implicit.interval);
        self.cells.hush(implicit.containers);
        self.implicit = implicit;
        self.write_record(now);
    }

    /// Whether nothing is kept of this container.
    pub fn is_implicit(&self, container: &str) -> bool {
        self.implicit.keeps(&self.health, container)
    }

    /// An implicit container is one like any other from now on; `status`: as it was found. Returns whether it was implicit indeed. Its
    /// probes that are under way are asked for anew, with the time at which they were begun. What follows comes with the next
    /// input: repair is not to look before all that it knows of are awake.
    pub fn wake(
        &mut self,
        now: Now,
        spec: ContainerSpec,
        status: ContainerStatus,
        answered: impl Fn(CheckId, Instant) -> Answered,
    ) -> (bool, Vec<(Instant, Output)>) {
        let name = spec.name.clone();
        let Some(number) = self.implicit.number(&name).filter(|_| self.is_implicit(&name)) else {
            return (true, Vec::new());
        };
        if base(&name) != name {
            // A clone, found when its agent started.
            self.services.cells.replace(base(&name), &spec);
        }
        let first = u64::from(number) * u64::from(self.implicit.services) + 1;
        let (process, runs) = (status.pid, status.state == ContainerState::Running);
        let woken = self.health.wake(now, spec, status.clone(), first, answered);
        let sign = |(at, (interval, timeout)): &(Instant, (Duration, Duration))| {
            (*at, *interval * u32::from(PATIENCE) + *timeout)
        };
        let signs: Vec<(Instant, Duration)> = woken.answered.iter().map(sign).collect();
        self.cells.wake(now.instant, number, &name, process, &signs);
        if !runs {
            self.cells.handle_status(now.instant, &status);
        }
        let asked = woken.asked.into_iter().map(|(at, request)| (at, Output::Probe(request)));
        (!woken.news, asked.collect())
    }

    /// Forgets a container that is as well as if it had never been woken; `status`: as it was found. False if it is not.
    pub fn rest(&mut self, now: Instant, status: &ContainerStatus) -> bool {
        let Some(number) = self.implicit.number(&status.name) else { return false };
        self.remedy.knows_nothing_of(&status.name)
            && self.health.is_at_rest(now, status)
            && self.cells.rest(number, &status.name)
            && self.health.rest(now, status)
    }
}
