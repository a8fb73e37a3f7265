//! Members inside containers: what is to be done for them, and what is heard of them.

use bytes::Bytes;
use ringmesh_proto::{Now, peer::EventRecord, v1};

use super::{Node, Output};
use crate::{
    health::spec::{ContainerState, ContainerStatus, Inside, InsideNews, InsideOrder},
    membership::Refused,
};

impl Node {
    /// What becomes of a member inside, or what it says. Whatever it says is harmless.
    pub fn handle_inside(&mut self, now: Now, inside: Inside) {
        self.begin_turn(now);
        let container = &*inside.container;
        match inside.news {
            InsideNews::Came => {
                self.cells.handle_inside(now.instant, container);
                self.tell_inside(now, container, None);
            }
            InsideNews::Lost(why) => self.tell_inside(now, container, Some(&why)),
            InsideNews::Letter { to, bytes } => match self.cells.handle_letter(now.instant, container, to, &bytes) {
                Ok(()) => {}
                Err(Refused::Malformed) => self.count("inside_malformed"),
                Err(Refused::Spoofed) => self.count("inside_spoofed"),
            },
            InsideNews::Malformed => self.count("inside_malformed"),
        }
        self.settle(now);
    }

    /// A container that is to have one is kept in it while it runs.
    pub(super) fn order_inside(&mut self, status: &ContainerStatus) {
        if !self.health.spec(&status.name).is_some_and(|spec| spec.member) {
            return;
        }
        let order = match (status.state, status.pid) {
            (ContainerState::Running, Some(pid)) => InsideOrder::Keep { pid, netns: status.netns.clone() },
            (ContainerState::Paused, _) => InsideOrder::Hold,
            (ContainerState::Running, None)
            | (
                ContainerState::Unknown | ContainerState::Created | ContainerState::Stopped | ContainerState::Absent,
                _,
            ) => {
                self.health.end_inside(&status.name);
                InsideOrder::End
            }
        };
        self.outputs.push_back(Output::Inside { container: status.name.as_str().into(), order });
    }

    /// Hands out what the cells say to them.
    pub(super) fn speak_inside(&mut self) {
        while let Some((container, packet)) = self.cells.poll_packet() {
            self.outputs.push_back(Output::Inside { container, order: InsideOrder::Say(Bytes::from(packet)) });
        }
    }

    fn tell_inside(&mut self, now: Now, container: &str, problem: Option<&str>) {
        let news = self.health.handle_inside(now, container, problem);
        self.shown.details_stale();
        if !news {
            return;
        }
        let (kind, severity, text) = match problem {
            Some(why) => ("member-lost", v1::event::Severity::Warning, format!("the member inside {container}: {why}")),
            None => ("member-running", v1::event::Severity::Info, format!("the member inside {container} runs")),
        };
        if !self.admits(now, kind.into(), severity) {
            return;
        }
        let event = EventRecord {
            kind: kind.into(),
            host: self.me().id.raw(),
            severity: severity as u32,
            text,
            container: container.to_owned(),
            ..EventRecord::default()
        };
        self.tell(now, event, true);
    }
}
