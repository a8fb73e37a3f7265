//! A container: what it is judged to be, and what a change of its state means for the memory of its services.

use std::{collections::BTreeMap, sync::Arc};

use ringmesh_proto::v1;

use super::{
    Check, Container,
    application::Tally,
    history::Kind,
    is_another_life,
    spec::{CheckId, ContainerState, ContainerStatus},
};
use crate::view::ContainerRow;

impl Container {
    /// Its verdict and score; `all`: the checks of this host.
    pub(super) fn judge(&self, all: &BTreeMap<CheckId, Box<Check>>) -> (v1::verdict::Value, u32) {
        use v1::verdict::Value;
        if self.marks.hold.is_some() {
            return (Value::Unknown, 0);
        }
        match self.status.state {
            ContainerState::Unknown | ContainerState::Created => return (Value::Unknown, 0),
            ContainerState::Stopped | ContainerState::Absent => return (Value::Critical, 0),
            ContainerState::Running | ContainerState::Paused => {}
        }
        let mut tally = Tally::default();
        for check in self.checks.iter().filter_map(|id| all.get(id)) {
            tally.add(check.state.verdict, check.spec.weight);
        }
        let down = self.member.as_ref().is_some_and(|member| member.state() == v1::cell_member::State::Down);
        (if down { Value::Critical } else { tally.verdict(self.spec.score) }, tally.score())
    }

    /// As a snapshot keeps it.
    pub(super) fn row(&self, host: &Arc<str>, all: &BTreeMap<CheckId, Box<Check>>) -> ContainerRow {
        let (verdict, score) = self.judge(all);
        ContainerRow {
            host: Arc::clone(host),
            spec: Arc::clone(&self.spec),
            status: Arc::clone(&self.status),
            verdict,
            score,
            marks: self.marks.clone(),
            member: self.member.clone(),
            inside: self.inside.clone(),
            changed: self.changed,
        }
    }
}

/// Which change of behaviour it is, if it is one, and its cause. What is found when the agent starts is none.
pub(super) fn behaviour(old: &ContainerStatus, new: &ContainerStatus) -> Option<(Kind, String)> {
    use ContainerState::{Absent, Created, Paused, Running, Stopped, Unknown};
    let problem = || new.problem.clone().unwrap_or_default();
    match (old.state, new.state) {
        (Unknown, _) | (_, Unknown | Created) => None,
        (Running | Paused, Stopped | Absent) => Some((Kind::ContainerStopped, problem())),
        (Stopped | Absent | Created, Running) => Some((Kind::ContainerStarted, String::new())),
        (Running, Paused) => Some((Kind::ContainerPaused, problem())),
        (Paused, Running) => Some((Kind::ContainerStarted, "goes on after its pause".to_owned())),
        (Running, Running) if is_another_life(old, new) => {
            Some((Kind::ContainerStarted, "as another process".to_owned()))
        }
        (Created | Running | Paused | Stopped | Absent, Running | Paused | Stopped | Absent) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_to_a_container_is_remembered_and_what_is_found_is_not() {
        use ContainerState::{Absent, Created, Paused, Running, Stopped, Unknown};
        let status = |state, pid| ContainerStatus { state, pid, ..ContainerStatus::default() };
        let cases = [
            (Unknown, Running, None),
            (Absent, Created, None),
            (Created, Running, Some(Kind::ContainerStarted)),
            (Running, Stopped, Some(Kind::ContainerStopped)),
            (Stopped, Absent, None),
            (Absent, Running, Some(Kind::ContainerStarted)),
            (Running, Paused, Some(Kind::ContainerPaused)),
            (Paused, Running, Some(Kind::ContainerStarted)),
        ];
        for (old, new, expected) in cases {
            let found = behaviour(&status(old, Some(1)), &status(new, Some(1))).map(|(kind, _)| kind);
            assert_eq!(found, expected, "{old:?} to {new:?}");
        }
        let again = behaviour(&status(Running, Some(1)), &status(Running, Some(2)));
        assert_eq!(again.map(|(kind, _)| kind), Some(Kind::ContainerStarted), "it was started again meanwhile");
    }
}
