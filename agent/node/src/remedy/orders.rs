//! What operators order. Any host may pass an order on to this one; one that comes twice is obeyed once.

use std::time::Duration;

use ringmesh_proto::{
    Now,
    peer::{ArmingRecord, OrderRequest, order_request::Order},
    v1::{
        DecideOperationRequest, Operation, OrderContainerRequest, OrderHostRequest,
        operation::{Kind, State},
    },
};

use super::{
    Around, Phase, Remedy,
    hold::hold,
    ladder::NOT_MADE_HERE,
    operation::{MAX_OPEN, has_ended, words},
};
use crate::health::{Condition, spec::ContainerSpec, spec::ContainerState};

/// Orders that are remembered, so that they are not obeyed twice: who asks gives up within seconds.
const MAX_OBEYED: usize = 256;

/// The most bytes of a reason, and of a name.
const MAX_REASON: usize = 200;

/// Why an order was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What kind of refusal it is.
    pub code: Code,
    /// In one line: what, why, and what to do.
    pub text: String,
}

/// As gRPC numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The order makes no sense.
    Invalid = 3,
    /// There is no such container, service or operation.
    NotFound = 5,
    /// Too much is under way.
    Exhausted = 8,
    /// Not in the state that it would have to be in.
    Precondition = 9,
    /// Something else is being done to it.
    Busy = 10,
}

fn refuse<T>(code: Code, text: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { code, text: text.into() })
}

impl Remedy {
    /// Takes an order. What comes of it, the operation shows.
    pub(crate) fn obey(&mut self, now: Now, around: &Around<'_>, order: OrderRequest) -> Result<Operation, Refused> {
        let OrderRequest { order, who, nonce } = order;
        if let Some((_, id)) = self.obeyed.iter().find(|(known, _)| *known == nonce && nonce != 0) {
            return Ok(self.operations.get(id).cloned().unwrap_or_default());
        }
        let who = clean(&who);
        let id = match order {
            Some(Order::Container(order)) => self.order_container(now, around, &order, who)?,
            Some(Order::Decide(decision)) => self.decide(now, around, decision, &who)?,
            Some(Order::Host(order)) => self.order_host(now, around, &order, who)?,
            Some(Order::Arming(order)) => {
                self.order_arming(now, order)?;
                String::new()
            }
            None => return refuse(Code::Invalid, "an order without a content"),
        };
        if self.obeyed.len() == MAX_OBEYED {
            self.obeyed.pop_front();
        }
        self.obeyed.push_back((nonce, id.clone()));
        Ok(self.operations.get(&id).cloned().unwrap_or_default())
    }

    fn order_container(
        &mut self,
        now: Now,
        around: &Around<'_>,
        order: &OrderContainerRequest,
        who: String,
    ) -> Result<String, Refused> {
        let name = &order.container;
        if let Some(clone) = self.cloning(name) {
            let text = format!(
                "the {} is under way; wait for it, then order it of what is there: ringmesh operation wait {}",
                words(clone),
                clone.id
            );
            return refuse(Code::Busy, text);
        }
        let (Some(spec), Some(condition)) = (around.health.spec(name), around.health.condition(name)) else {
            return refuse(Code::NotFound, format!("there is no container \"{}\" on this host", clean(name)));
        };
        self.expect_possible(order, spec, &condition, around)?;
        if !matches!(order.kind(), Kind::Freeze | Kind::Release) {
            self.make_room(now, name)?;
        }
        let id = self.make(
            now,
            Operation {
                kind: order.kind,
                container: name.clone(),
                service: order.service.clone(),
                reason: clean(&order.reason),
                who,
                ..Operation::default()
            },
        );
        if order.kind() == Kind::Freeze {
            let by = self.operations.get(&id).cloned().unwrap_or_default();
            self.take_hold(now, name, hold(now, &by.who, &by.reason, lasts(order.lasts.as_ref())));
        }
        self.begin(now, around, &id);
        Ok(id)
    }

    /// Whether this can be done to the container as it is.
    fn expect_possible(
        &self,
        order: &OrderContainerRequest,
        spec: &ContainerSpec,
        condition: &Condition,
        around: &Around<'_>,
    ) -> Result<(), Refused> {
        let (name, driver) = (&spec.name, &spec.driver);
        let cannot = |what: &str| refuse(Code::Precondition, format!("the driver {driver} cannot {what} {name}"));
        if !matches!(order.kind(), Kind::Freeze | Kind::Release)
            && let Some(hold) = self.holds.get(name)
        {
            let text = format!("{name} is frozen by {}; release it first: ringmesh container release {name}", hold.who);
            return refuse(Code::Precondition, text);
        }
        match order.kind() {
            Kind::RestartService => match around.health.service(name, &order.service) {
                None => refuse(Code::NotFound, format!("{name} has no service \"{}\"", clean(&order.service))),
                Some((service, _)) if service.restart.is_empty() => {
                    let text =
                        format!("{} in {name} has no restart command; configure one, or restart {name}", service.name);
                    refuse(Code::Precondition, text)
                }
                Some(_) if condition.state != ContainerState::Running => {
                    refuse(Code::Precondition, format!("{name} does not run; restart it instead"))
                }
                Some(_) => Ok(()),
            },
            Kind::RestartContainer if !spec.verbs.restart => cannot("restart"),
            Kind::Clone if !spec.verbs.clone => {
                let text = format!(
                    "{name} cannot be cloned: {NOT_MADE_HERE}, and its configuration has no template of it; \
                     configure it with `oci` or `docker.image`, or clone it where it was made"
                );
                refuse(Code::Precondition, text)
            }
            Kind::Release if !self.is_held(name) && condition.state != ContainerState::Paused => {
                refuse(Code::Precondition, format!("{name} is not frozen"))
            }
            Kind::RestartContainer | Kind::Clone | Kind::Freeze | Kind::Release => Ok(()),
            Kind::None | Kind::Drain | Kind::Undrain => refuse(Code::Invalid, "that is no order for a container"),
        }
    }

    /// An operator's order takes the place of what is only proposed, but not of what is under way.
    fn make_room(&mut self, now: Now, container: &str) -> Result<(), Refused> {
        if let Some(other) = self.operations.on(container).cloned() {
            if other.state() == State::Running {
                let text = format!("{} is under way; wait for it: ringmesh operation wait {}", words(&other), other.id);
                return refuse(Code::Busy, text);
            }
            self.end(now, &other.id, State::Refused, "an operator ordered something else");
            if let Some(patient) = self.patients.get_mut(container) {
                patient.phase = Phase::Waiting;
                self.waiting.insert(container.to_owned());
            }
        }
        if self.operations.open().count() >= MAX_OPEN {
            return refuse(
                Code::Exhausted,
                format!("{MAX_OPEN} operations are open on this host; wait until some have ended"),
            );
        }
        Ok(())
    }

    fn decide(
        &mut self,
        now: Now,
        around: &Around<'_>,
        decision: DecideOperationRequest,
        who: &str,
    ) -> Result<String, Refused> {
        let DecideOperationRequest { id, approve, reason } = decision;
        let Some(operation) = self.operations.get(&id).cloned() else {
            return refuse(Code::NotFound, format!("there is no operation \"{}\" on this host", clean(&id)));
        };
        let name = &operation.container;
        match operation.state() {
            State::Proposed => {}
            State::Held if !approve => {}
            State::Held => {
                let text = format!("{name} is frozen; release it first: ringmesh container release {name}");
                return refuse(Code::Precondition, text);
            }
            state if has_ended(state) => return refuse(Code::Precondition, "it has ended"),
            State::Unknown | State::Running | State::Done | State::Failed | State::Refused => {
                return refuse(Code::Precondition, "it is under way already");
            }
        }
        let reason = clean(&reason);
        let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        if approve {
            self.operations.edit(&id, |operation| operation.reason = format!("approved by {who}{because}"));
            self.begin(now, around, &id);
        } else {
            self.end(now, &id, State::Refused, &format!("rejected by {who}{because}"));
            self.give_up(name);
        }
        Ok(id)
    }

    fn order_host(
        &mut self,
        now: Now,
        around: &Around<'_>,
        order: &OrderHostRequest,
        who: String,
    ) -> Result<String, Refused> {
        match order.kind() {
            Kind::Drain => {}
            Kind::Undrain if self.drain.is_some() => {}
            Kind::Undrain => return refuse(Code::Precondition, "this host is not drained"),
            Kind::None | Kind::RestartService | Kind::RestartContainer | Kind::Clone | Kind::Freeze | Kind::Release => {
                return refuse(Code::Invalid, "that is no order for a host");
            }
        }
        let reason = clean(&order.reason);
        if order.kind() == Kind::Drain {
            self.set_drain(now, Some(hold(now, &who, &reason, lasts(order.lasts.as_ref()))));
        }
        let id = self.make(now, Operation { kind: order.kind, reason, who, ..Operation::default() });
        self.begin(now, around, &id);
        Ok(id)
    }

    /// An order for the cluster, given at this host or in another zone.
    fn order_arming(&mut self, now: Now, order: ArmingRecord) -> Result<(), Refused> {
        let order = ArmingRecord { reason: clean(&order.reason), who: clean(&order.who), ..order };
        if !self.learn_arming(now, &order) {
            return refuse(
                Code::Precondition,
                "somebody ordered something newer; look with `ringmesh disarm --show`, try again",
            );
        }
        self.tell_arming(&order);
        Ok(())
    }
}

fn lasts(duration: Option<&prost_types::Duration>) -> Option<Duration> {
    duration.and_then(|duration| Duration::try_from(*duration).ok()).filter(|duration| !duration.is_zero())
}

/// Without control characters and cut to [`MAX_REASON`] bytes: it goes to everybody.
fn clean(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let end = (0..=line.len().min(MAX_REASON)).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    line.truncate(end);
    line
}
