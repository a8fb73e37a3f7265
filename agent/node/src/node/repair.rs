//! Repair among the other machines: what it looks at, and what becomes of what it wants.

use std::sync::Arc;

use ringmesh_proto::{
    HostId, Now,
    peer::{EventRecord, HostRecord, OrderRequest},
    v1,
};

use super::{Node, Output};
use crate::{
    gossip::Store,
    health::spec::{CheckId, ProbeReply},
    membership::{Membership, SwimState},
    remedy::{Around, Effect, Failure, Refused, Remedy, Share},
};

impl Node {
    /// What an operator orders, here or at another host.
    pub fn handle_operation_order(&mut self, now: Now, order: OrderRequest) -> Result<v1::Operation, Refused> {
        self.begin_turn(now);
        let taken = self.with_remedy(|remedy, around| remedy.obey(now, around, order));
        self.settle(now);
        taken
    }

    /// What came of an [`Output::Act`].
    pub fn handle_act_done(&mut self, now: Now, operation: &str, result: Result<(), Failure>) {
        self.begin_turn(now);
        self.with_remedy(|remedy, around| remedy.handle_done(now, around, operation, result));
        self.settle(now);
    }

    /// An [`Output::Keep`] with this version, or a later one, is on disk, or cannot be written.
    pub fn handle_kept(&mut self, now: Now, version: u64, result: &Result<(), String>) {
        self.begin_turn(now);
        self.with_remedy(|remedy, around| remedy.handle_kept(now, around, version, result));
        self.settle(now);
    }

    pub(super) fn handle_exec(&mut self, now: Now, check: CheckId, reply: Option<&ProbeReply>) {
        self.with_remedy(|remedy, around| remedy.handle_exec(now, around, check, reply));
    }

    /// Lets repair look at what has changed, until nothing is new.
    pub(super) fn repair(&mut self, now: Now) {
        loop {
            while let Some(container) = self.health.poll_touched() {
                self.with_remedy(|remedy, around| remedy.assess(now, around, &container));
            }
            self.with_remedy(|remedy, around| remedy.settle(now, around));
            if !self.carry_out_repair(now) {
                break;
            }
        }
        if let Some((version, state)) = self.remedy.poll_keep() {
            self.outputs.push_back(Output::Keep { version, state });
        }
    }

    /// What other hosts' records say of how the cluster is armed.
    pub(super) fn learn_arming(&mut self, now: Now, record: &HostRecord) {
        if let Some(arming) = &record.arming {
            self.remedy.learn_arming(now, arming);
        }
    }

    fn with_remedy<T>(&mut self, act: impl FnOnce(&mut Remedy, &Around<'_>) -> T) -> T {
        let Self { remedy, health, store, membership, isolated, .. } = self;
        let zone = || zone_share(store, membership);
        act(remedy, &Around { health, isolated: isolated.is_some(), zone: &zone })
    }

    /// Whether there was something.
    fn carry_out_repair(&mut self, now: Now) -> bool {
        let mut some = false;
        while let Some(effect) = self.remedy.poll_effect() {
            some = true;
            match effect {
                Effect::Act { operation, act } => self.outputs.push_back(Output::Act { operation, act }),
                Effect::Exec(request) => self.outputs.push_back(Output::Probe(request)),
                Effect::Tell(event) => self.tell_repair(now, *event),
                Effect::Note { container, what } => self.health.note_repair(now, &container, &what),
                Effect::Mark { container, marks } => self.health.mark(now, &container, marks),
                Effect::Replace { old, spec } => {
                    self.replace_in_cells(now, &old, &spec);
                    self.end_inside(&old);
                    self.health.replace(now.instant, &old, *spec);
                    self.note_reached(now);
                }
                Effect::Status(status) => self.take_status(now, *status),
                Effect::Unjudge { container } => self.health.unjudge(now, &container),
                Effect::Hurry { container, after } => self.health.hurry(now.instant, &container, after),
                Effect::Record => self.write_record_urgently(now),
            }
        }
        some
    }

    fn tell_repair(&mut self, now: Now, event: v1::Event) {
        // As many as there are containers, unlike operations.
        let exhausted = event.kind == "repair-exhausted";
        if exhausted && !self.admits(now, "containers beyond repair".into(), event.severity()) {
            return;
        }
        let event = EventRecord {
            kind: event.kind,
            host: self.me().id.raw(),
            container: event.container,
            service: event.service,
            severity: event.severity as u32,
            text: event.text,
            operation: event.operation,
            ..EventRecord::default()
        };
        self.tell(now, event, false);
    }

    /// All operations as a query shows them.
    pub(super) fn show_operations(&self) -> Vec<Arc<v1::Operation>> {
        let named = |operation: Arc<v1::Operation>| {
            Arc::new(v1::Operation { host: self.config.name.clone(), ..v1::Operation::clone(&operation) })
        };
        self.remedy.operations().into_iter().map(named).collect()
    }
}

/// Of the services of all hosts that are there, as far as their digests tell.
fn zone_share(store: &Store, membership: &Membership) -> Share {
    let is_down = |id: HostId| matches!(membership.state(id), Some((_, SwimState::Down)));
    let digests = store.hosts().filter(|(id, _)| !is_down(*id)).map(|(_, heard)| heard.digest);
    digests.fold(Share::default(), |share, digest| Share {
        sick: share.sick + u64::from(digest.critical),
        of: share.of + u64::from(digest.services),
    })
}
