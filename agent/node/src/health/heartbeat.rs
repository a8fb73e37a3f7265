//! Services that speak up by themselves: what they say, and that one has not been heard of.

use std::time::Duration;

use ringmesh_proto::{Now, v1::verdict::Value};

use super::{
    Check, Health,
    check::Outcome,
    history::cut,
    spec::{self, Beat, CheckId, MAX_ANSWER, Sign},
};

impl Health {
    /// Takes what a service says of itself, and says after how long it is missed. `None` when there is no such service, or it is
    /// not one that speaks up.
    pub fn handle_heartbeat(&mut self, now: Now, heartbeat: spec::Heartbeat) -> Option<Duration> {
        let checks = self.containers.get(&heartbeat.container).map(|container| container.checks.as_slice());
        let speaks = |id: &CheckId| {
            self.checks.get(id).filter(|check| check.spec.name == heartbeat.service && check.is_heartbeat())
        };
        let (id, check) = checks.unwrap_or_default().iter().find_map(|id| Some((*id, speaks(id)?)))?;
        let interval = check.spec.interval;
        if self.is_wanted(check) {
            self.reschedule(id, now.instant + interval);
            let outcome = self.unasked(heartbeat.beat, &heartbeat.text);
            self.note_outcome(now, id, &outcome);
            self.conclude(now, id, |state, at| state.beat(at, heartbeat.beat, &outcome));
            self.end_startup(now.instant, id);
        }
        Some(interval)
    }

    /// Judges those who should have been heard of by now, and names their containers. They are missed once, unless they flap,
    /// until they are heard of again.
    pub fn handle_missed(&mut self, now: Now) -> Vec<String> {
        let mut containers = Vec::new();
        while let Some((due, id)) = self.missed.first().copied().filter(|(due, _)| *due <= now.instant) {
            self.missed.remove(&(due, id));
            let Some(check) = self.checks.get(&id).filter(|check| self.is_wanted(check)) else { continue };
            let interval = check.spec.interval;
            containers.push(check.container().to_owned());
            let why = format!("no heartbeat for {interval:?}{}", self.unmounted(check));
            let outcome = self.unasked(Beat::Fail, &why);
            self.note_outcome(now, id, &outcome);
            self.conclude(now, id, |state, at| state.miss(at, Value::Critical, &outcome.answer));
            // One that is damped is critical when it has been silent for long enough.
            if self.checks.get(&id).is_some_and(|check| check.state.is_flapping()) {
                self.reschedule(id, now.instant + interval);
            }
        }
        containers
    }

    /// Why one that was never heard of may be silent: into what somebody else made, the agent mounts no socket.
    fn unmounted(&self, check: &Check) -> String {
        let mounts = self.containers.get(check.container()).is_some_and(|container| container.spec.verbs.mount);
        if let spec::Check::Heartbeat { socket } = &*check.spec.check
            && !mounts
            && check.state.verdict == Value::Unknown
        {
            let directory = socket.parent().unwrap_or(socket).display();
            return format!("; who made its container has to mount {directory} into it");
        }
        String::new()
    }

    /// What it says of itself is its own word, so that a failure is outright.
    fn unasked(&mut self, beat: Beat, text: &str) -> Outcome {
        let answer = self.memory.share(cut(text, MAX_ANSWER));
        let sign = if beat == Beat::Fail { Sign::Error } else { Sign::Right };
        Outcome { sign, latency: None, answer }
    }
}
