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
            ) => return self.end_inside(&status.name),
        };
        self.outputs.push_back(Output::Inside { container: status.name.as_str().into(), order });
    }

    /// A container does not run, or another one takes its place: nobody tends its member any more.
    pub(super) fn end_inside(&mut self, container: &str) {
        if self.health.spec(container).is_some_and(|spec| spec.member) {
            self.health.end_inside(container);
            self.outputs.push_back(Output::Inside { container: container.into(), order: InsideOrder::End });
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ringmesh_proto::{
        Instant, UnixMillis,
        peer::{OrderRequest, order_request::Order},
        v1::{OrderContainerRequest, operation::Kind},
    };

    use super::{super::tests::alone, *};
    use crate::{
        health::spec::{ContainerSpec, Verbs},
        remedy::Failure,
    };

    /// What is to be done for members, and the operations that wait to be written down are.
    fn orders(node: &mut Node, now: Now) -> Vec<(String, &'static str)> {
        let mut orders = Vec::new();
        while let Some(output) = node.poll_output() {
            if let Output::Inside { container, order } = output {
                let word = match order {
                    InsideOrder::Keep { .. } => "keep",
                    InsideOrder::End => "end",
                    InsideOrder::Hold => "hold",
                    InsideOrder::Say(_) => "say",
                };
                orders.push((container.to_string(), word));
            } else if let Output::Keep { version, .. } = output {
                node.handle_kept(now, version, &Ok(()));
            }
        }
        orders
    }

    #[test]
    fn a_clone_ends_the_member_of_what_it_replaces_and_a_roll_back_has_it_kept_again() {
        let now = Now { instant: Instant::ZERO + Duration::from_secs(100), unix: UnixMillis(1_700_000_100_000) };
        let verbs = Verbs { restart: true, clone: true, ..Verbs::default() };
        let web = ContainerSpec { name: "web".into(), driver: "oci".into(), member: true, verbs, ..Default::default() };
        let mut node = alone(vec![web]);
        let (state, pid) = (ContainerState::Running, Some(7));
        node.handle_status(now, ContainerStatus { name: "web".into(), state, pid, ..ContainerStatus::default() });
        let told = |name: &str, word: &'static str| (name.to_owned(), word);
        assert_eq!(orders(&mut node, now), [told("web", "keep")]);

        let (kind, container) = (Kind::Clone as i32, "web".to_owned());
        let order = Order::Container(OrderContainerRequest { kind, container, ..Default::default() });
        let order = OrderRequest { order: Some(order), who: "me".into(), nonce: 1 };
        let operation = node.handle_operation_order(now, order).expect("it is possible");
        assert_eq!(orders(&mut node, now), [told("web", "end")]);
        let failure = Failure { text: "it cannot be".into(), removed: false, unreachable: false };
        node.handle_act_done(now, &operation.id, Err(failure));
        assert_eq!(orders(&mut node, now), [told("web.1", "end"), told("web", "keep")]);
    }
}
