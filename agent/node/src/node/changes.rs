//! Events of what changed in the health of this host's containers.

use ringmesh_proto::{
    Now,
    peer::EventRecord,
    v1::{event::Severity, verdict::Value},
};

use super::{Node, crowd::Summary, show};
use crate::health::{Change, UNSTRETCHED, spec::ContainerState};

impl Node {
    /// Tells a change, or counts it if there are too many.
    pub(super) fn health_changed(&mut self, now: Now, change: Change) {
        if matches!(change, Change::Stretched { .. }) {
            self.shown.hosts_stale();
        }
        let Some(severity) = severity(&change) else { return };
        if !self.admits(now, class(&change), severity) {
            return;
        }
        let host = self.me().id.raw();
        self.tell(now, EventRecord { host, severity: severity as u32, ..event(change) }, false);
    }

    /// Whether a change is told by itself; otherwise it is counted as one of `what`.
    pub(super) fn admits(&mut self, now: Now, what: String, severity: Severity) -> bool {
        let admitted = self.crowd.admit(now.instant, what, severity);
        if !admitted {
            self.count("changes_summed_up");
        }
        admitted
    }

    /// Tells as one what was not told one by one.
    pub(super) fn tell_crowd(&mut self, now: Now) {
        let Some(Summary { severity, text, .. }) = self.crowd.take(now.instant) else { return };
        let event = EventRecord {
            kind: "changes-summed-up".into(),
            host: self.me().id.raw(),
            severity: severity as u32,
            text: format!("{}: {text}; `ringmesh service list --on {0}` has them", self.config.name),
            ..EventRecord::default()
        };
        self.tell(now, event, false);
    }
}

/// How bad it is; `None` of what is not told.
fn severity(change: &Change) -> Option<Severity> {
    Some(match change {
        Change::Verdict { new: Value::Critical, .. } => Severity::Critical,
        Change::Verdict { new: Value::Warning, .. } | Change::Plan { success: false, .. } => Severity::Warning,
        Change::Verdict { new: Value::Passing | Value::Unknown, .. } | Change::Plan { success: true, .. } => {
            Severity::Info
        }
        Change::Container { new: ContainerState::Stopped | ContainerState::Absent, .. } => Severity::Critical,
        Change::Container {
            new: ContainerState::Unknown | ContainerState::Created | ContainerState::Running | ContainerState::Paused,
            ..
        } => Severity::Info,
        Change::Stretched { old, new, .. } if grows(*old, *new) => Severity::Warning,
        Change::Stretched { new: UNSTRETCHED, .. } => Severity::Info,
        Change::Stretched { .. } => return None,
    })
}

/// From nothing, or by a factor of two.
fn grows(old: u32, new: u32) -> bool {
    let doublings = |stretch: u32| (stretch / UNSTRETCHED).max(1).ilog2();
    old == UNSTRETCHED || doublings(new) > doublings(old)
}

/// What it counts as when it is one of very many.
fn class(change: &Change) -> String {
    match change {
        Change::Verdict { new, .. } => format!("services {}", show::word(*new)),
        Change::Plan { success: true, .. } => "plans passed".into(),
        Change::Plan { success: false, .. } => "plans failed".into(),
        Change::Container { new, .. } => format!("containers {}", show::state_word(*new)),
        Change::Stretched { .. } => "of how far intervals are stretched".into(),
    }
}

fn event(change: Change) -> EventRecord {
    match change {
        Change::Verdict { container, service, old, new, answer } => EventRecord {
            kind: "service-verdict".into(),
            text: format!("{service} in {container} is {}, was {}: {answer}", show::word(new), show::word(old)),
            container,
            service,
            ..EventRecord::default()
        },
        Change::Plan { container, service, success, answer } => EventRecord {
            kind: "service-plan".into(),
            text: format!(
                "the plan of {service} in {container} {}: {answer}",
                if success { "found nothing" } else { "failed" }
            ),
            container,
            service,
            ..EventRecord::default()
        },
        Change::Container { container, old, new, problem } => EventRecord {
            kind: "container-state".into(),
            text: format!(
                "{container} is {}, was {}{}",
                show::state_word(new),
                show::state_word(old),
                problem.map(|problem| format!(": {problem}")).unwrap_or_default()
            ),
            container,
            ..EventRecord::default()
        },
        Change::Stretched { new, why, .. } => EventRecord {
            kind: "probes-stretched".into(),
            text: if new == UNSTRETCHED {
                "probes keep up with their intervals again".into()
            } else {
                let factor = f64::from(new) / f64::from(UNSTRETCHED);
                format!("{why}: the intervals of all probes are stretched by {factor:.2} while that lasts")
            },
            ..EventRecord::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_intervals_are_stretched_is_told_when_it_begins_doubles_and_ends() {
        let told = |old, new| severity(&Change::Stretched { old, new, why: String::new() });
        assert_eq!(told(1000, 1100), Some(Severity::Warning));
        assert_eq!([told(1100, 1900), told(2400, 1900)], [None, None]);
        assert_eq!(told(1900, 2100), Some(Severity::Warning));
        assert_eq!(told(1100, 1000), Some(Severity::Info));
    }
}
