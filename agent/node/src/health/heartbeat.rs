//! Services that speak up by themselves: what they say, and that one has not been heard of.

use ringmesh_proto::Now;

use super::{
    Check, Health,
    spec::{self, CheckId},
};

impl Health {
    /// Takes what a service says of itself. False when there is no such service, or it is not one that speaks up.
    pub fn handle_heartbeat(&mut self, now: Now, heartbeat: spec::Heartbeat) -> bool {
        let checks = self.containers.get(&heartbeat.container).map(|container| container.checks.as_slice());
        let speaks = |id: &CheckId| {
            self.checks.get(id).filter(|check| check.spec.name == heartbeat.service && check.is_heartbeat())
        };
        let Some((id, check)) = checks.unwrap_or_default().iter().find_map(|id| Some((*id, speaks(id)?))) else {
            return false;
        };
        if self.is_wanted(check) {
            let missed = now.instant + check.spec.interval;
            self.reschedule(id, missed);
            self.conclude(now, id, |state, at| state.beat(at, id, heartbeat.beat, heartbeat.text));
            self.end_startup(now.instant, id);
        }
        true
    }

    /// Judges those who should have been heard of by now. They are missed once, until they are heard of again.
    pub fn handle_missed(&mut self, now: Now) {
        while let Some((due, id)) = self.missed.first().copied().filter(|(due, _)| *due <= now.instant) {
            self.missed.remove(&(due, id));
            let Some(check) = self.checks.get(&id).filter(|check| self.is_wanted(check)) else { continue };
            let why = silence(check);
            self.conclude(now, id, |state, at| state.fail_at_once(at, &why));
        }
    }
}

fn silence(check: &Check) -> String {
    format!("no heartbeat for {:?}", check.spec.interval)
}
