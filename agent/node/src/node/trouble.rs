//! What this host lacks from others to do its work: a disk that takes what it writes down, daemons that run its containers.
//!
//! Both are told as one event each, when it begins and when it is over, however much is concerned.

use std::time::Duration;

use ringmesh_proto::{Instant, Now, peer::EventRecord, v1::event::Severity};

use super::Node;

/// A disk that is all but full takes some writes and refuses others: that is told so often at the most.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// Why something of this host's state cannot be written down.
    disk: Option<String>,
    /// When that was told last.
    disk_told: Option<Instant>,
    /// It was told, and not yet that it is over.
    disk_open: bool,
    /// That a daemon is silent was told, and not yet that it is over.
    silent: bool,
}

impl Trouble {
    /// When a disk that failed again too soon to be told is told of, if it still fails then.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.disk_told.filter(|_| self.disk.is_some() && !self.disk_open).map(|told| told + AGAIN_AFTER)
    }
}

impl Node {
    /// What of this host's state cannot be written down now, and why, in one line of at most 300 bytes; `None` when all can be.
    pub fn handle_disk(&mut self, now: Now, problem: Option<String>) {
        self.begin_turn(now);
        self.trouble.disk = problem;
        self.tell_disk(now);
        self.shown.hosts_stale();
        self.settle(now);
    }

    /// Tells that the disk fails, or does so no more, unless it is known.
    pub(super) fn tell_disk(&mut self, now: Now) {
        let trouble = &mut self.trouble;
        let recent = trouble.disk_told.is_some_and(|told| now.instant < told + AGAIN_AFTER);
        let name = &self.config.name;
        match &trouble.disk {
            Some(problem) if !trouble.disk_open && !recent => {
                let text = format!(
                    "{name} cannot write down its state: {problem}; until there is room nothing is cloned there, and a restart of \
                     its agent forgets what came last"
                );
                (trouble.disk_told, trouble.disk_open) = (Some(now.instant), true);
                self.tell_trouble(now, "disk-failing", Severity::Critical, text);
            }
            None if trouble.disk_open => {
                let text = format!("{name} writes down its state again");
                trouble.disk_open = false;
                self.tell_trouble(now, "disk-well", Severity::Info, text);
            }
            Some(_) | None => {}
        }
    }

    /// Why something of this host's state cannot be written down; empty if all can.
    pub(super) fn disk_problem(&self) -> String {
        self.trouble.disk.clone().unwrap_or_default()
    }

    /// Tells that a daemon is silent, or none is any more, unless it is known.
    pub(super) fn note_reached(&mut self, now: Now) {
        let name = &self.config.name;
        match (self.trouble.silent, self.health.unreachable()) {
            (false, Some(first)) => {
                let (container, why) = (&first.name, first.problem.as_deref().unwrap_or_default());
                let text = format!(
                    "nothing can be done to {container} and maybe other containers of {name}, which run on and are watched: {why}"
                );
                self.trouble.silent = true;
                self.tell_trouble(now, "runtime-silent", Severity::Critical, text);
            }
            (true, None) => {
                let text = format!("all containers of {name} can be reached by their runtimes again");
                self.trouble.silent = false;
                self.tell_trouble(now, "runtime-heard", Severity::Info, text);
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    fn tell_trouble(&mut self, now: Now, kind: &str, severity: Severity, text: String) {
        let host = self.me().id.raw();
        let event = EventRecord { kind: kind.into(), host, severity: severity as u32, text, ..EventRecord::default() };
        self.tell(now, event, false);
    }
}

#[cfg(test)]
mod tests {
    use ringmesh_proto::UnixMillis;

    use super::{super::tests::alone, *};
    use crate::health::spec::{ContainerSpec, ContainerState, ContainerStatus};

    fn at(seconds: u64) -> Now {
        Now {
            instant: Instant::ZERO + Duration::from_secs(seconds),
            unix: UnixMillis(1_700_000_000_000 + seconds * 1000),
        }
    }

    fn kinds(node: &mut Node, now: Now) -> Vec<String> {
        let view = node.poll_view(now).expect("something is new");
        view.events.iter().map(|event| event.kind.clone()).filter(|kind| !kind.starts_with("host-")).collect()
    }

    #[test]
    fn a_full_disk_is_told_when_it_begins_and_when_it_is_over_and_not_each_time() {
        let mut node = alone(Vec::new());
        node.handle_disk(at(100), Some("no space left".into()));
        node.handle_disk(at(101), Some("no space left for more".into()));
        assert_eq!(kinds(&mut node, at(101)), ["disk-failing"]);
        assert_eq!(node.disk_problem(), "no space left for more");
        node.handle_disk(at(102), None);
        node.handle_disk(at(103), Some("no space left".into()));
        node.handle_disk(at(104), None);
        assert_eq!(kinds(&mut node, at(104)), ["disk-failing", "disk-well"], "it is all but full");
        node.handle_disk(at(105), Some("no space left".into()));
        node.handle_timeout(at(110));
        assert_eq!(kinds(&mut node, at(110)), ["disk-failing", "disk-well"]);
        // It stays full, of which nothing new is heard.
        assert!(node.poll_timeout() <= at(160).instant);
        node.handle_timeout(at(160));
        assert_eq!(kinds(&mut node, at(160)), ["disk-failing", "disk-well", "disk-failing"]);
    }

    #[test]
    fn a_daemon_that_is_silent_is_told_once_for_all_its_containers() {
        let spec = |name: &str| ContainerSpec { name: name.into(), ..ContainerSpec::default() };
        let mut node = alone(vec![spec("c1"), spec("c2")]);
        let status = |name: &str, unreachable: bool| ContainerStatus {
            name: name.into(),
            state: ContainerState::Running,
            problem: unreachable.then(|| "no answer".into()),
            unreachable,
            ..ContainerStatus::default()
        };
        for (second, name, unreachable) in [(2, "c1", true), (3, "c2", true), (4, "c1", false), (5, "c2", false)] {
            node.handle_status(at(second), status(name, unreachable));
        }
        assert_eq!(kinds(&mut node, at(9)), ["runtime-silent", "runtime-heard"]);
    }
}
