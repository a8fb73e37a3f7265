//! `ringmesh.v1.Operations`: what operators order, passed on to the host that owns it, and what is done by itself.

use std::time::Duration;

use rand::{TryRng, rngs::SysRng};
use ringmesh_node::{View, Way};
use ringmesh_proto::{
    HostId, UnixMillis,
    member::Member,
    peer::{ArmingRecord, OrderRequest, OrderResponse, QueryRequest, Selection, order_request::Order},
    v1::{
        ArmRequest, Arming, Container, DecideOperationRequest, DisarmRequest, GetArmingRequest, GetOperationRequest,
        Host, ListOperationsRequest, ListOperationsResponse, Operation, OrderContainerRequest, OrderHostRequest,
        Source, WaitOperationRequest, arming::Mode, operations_server::Operations,
    },
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};
use tonic::{Code, Request, Response, Status};

use super::{Api, containers::none_found, not_found};
use crate::{caller::Caller, clock, fanout::unreached, host_loop::Command, quic::RequestError};

/// The most bytes of a reason.
const MAX_REASON: usize = 200;

/// The longest hold that ends by itself.
const MAX_HOLD: Duration = Duration::from_secs(365 * 86_400);

/// How long somebody waits for an operation who does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);

/// The longest that somebody waits.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// An operation is shown so long after its order was taken, at the latest.
const SHOWN_WITHIN: Duration = Duration::from_secs(1);

/// While nothing is heard of an operation, its host is asked so often.
const ASK_AGAIN: Duration = Duration::from_secs(1);

#[tonic::async_trait]
impl Operations for Api {
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let request = request.into_inner();
        let (mut operations, sources) = self.gather_operations("", &request.host, &request.zone).await?;
        let wanted = |operation: &Operation| {
            let named = [&operation.container, &operation.replacement].contains(&&request.container);
            (request.container.is_empty() || named) && !(request.open && has_ended(operation))
        };
        operations.retain(wanted);
        operations.sort_by_key(|operation| operation.created_at.map(|time| (time.seconds, time.nanos)));
        Ok(Response::new(ListOperationsResponse { operations, sources }))
    }

    async fn get_operation(&self, request: Request<GetOperationRequest>) -> Result<Response<Operation>, Status> {
        self.operation(&request.into_inner().id).await.map(Response::new)
    }

    async fn wait_operation(&self, request: Request<WaitOperationRequest>) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        let patience = duration(request.timeout, MAX_WAIT)?.unwrap_or(DEFAULT_WAIT);
        self.wait_for(&request.id, patience).await.map(Response::new)
    }

    async fn order_container(&self, request: Request<OrderContainerRequest>) -> Result<Response<Operation>, Status> {
        let who = Caller::expect_operator(request.extensions())?;
        let mut order = request.into_inner();
        check(&order.reason, order.lasts)?;
        let host = self.host_of(&order.container, &order.host).await?;
        order.host.clear();
        self.order(&host, Order::Container(order), who).await.map(Response::new)
    }

    async fn decide_operation(&self, request: Request<DecideOperationRequest>) -> Result<Response<Operation>, Status> {
        let who = Caller::expect_operator(request.extensions())?;
        let decision = request.into_inner();
        check(&decision.reason, None)?;
        let host = self.host_anywhere(&owner(&decision.id)?).await?;
        self.order(&host, Order::Decide(decision), who).await.map(Response::new)
    }

    async fn order_host(&self, request: Request<OrderHostRequest>) -> Result<Response<Operation>, Status> {
        let who = Caller::expect_operator(request.extensions())?;
        let order = request.into_inner();
        check(&order.reason, order.lasts)?;
        let host = self.host_anywhere(&order.host).await?;
        self.order(&host, Order::Host(order), who).await.map(Response::new)
    }

    async fn disarm(&self, request: Request<DisarmRequest>) -> Result<Response<Arming>, Status> {
        let who = Caller::expect_operator(request.extensions())?;
        let request = request.into_inner();
        check(&request.reason, request.lasts)?;
        if request.mode() == Mode::Armed {
            return Err(Status::invalid_argument("to disarm is to choose mode \"freeze\" or \"ignore\""));
        }
        let lasts = duration(request.lasts, MAX_HOLD)?;
        self.set_arming(request.mode(), request.reason, lasts, who).await.map(Response::new)
    }

    async fn arm(&self, request: Request<ArmRequest>) -> Result<Response<Arming>, Status> {
        let who = Caller::expect_operator(request.extensions())?;
        let ArmRequest { reason } = request.into_inner();
        check(&reason, None)?;
        self.set_arming(Mode::Armed, reason, None, who).await.map(Response::new)
    }

    async fn get_arming(&self, _: Request<GetArmingRequest>) -> Result<Response<Arming>, Status> {
        Ok(Response::new(self.view().arming.clone()))
    }
}

impl Api {
    /// The host that runs a container.
    async fn host_of(&self, container: &str, host: &str) -> Result<Host, Status> {
        if !host.is_empty() {
            return self.host_anywhere(host).await;
        }
        let fields = ["name", "host"].map(str::to_owned).to_vec();
        let selection = Selection { container: container.to_owned(), fields, ..Selection::default() };
        let gathered = self.page::<Container>(selection, "", "").await?;
        let hosts: Vec<&str> = gathered.page.items.iter().map(|container| container.host.as_str()).collect();
        match hosts[..] {
            [] => Err(none_found("container", container, &gathered.sources)),
            [host] => self.host_anywhere(host).await,
            _ => {
                let text = format!("several hosts run a container of this name: {}; name one", hosts.join(", "));
                Err(Status::failed_precondition(text))
            }
        }
    }

    /// Gives an order to the host that it is for.
    async fn order(&self, host: &Host, order: Order, who: String) -> Result<Operation, Status> {
        let order = OrderRequest { order: Some(order), who, nonce: nonce()? };
        let view = self.view();
        if host.local && host.id == self.keyring.host.to_string() {
            return self.order_here(order).await;
        }
        let id: HostId = host.id.parse().map_err(|_| Status::internal("a host without an id"))?;
        let unreached = |why: String| Status::unavailable(format!("{} cannot be reached: {why}", host.name));
        if host.zone == view.zone {
            let peer = view.peers.get(&id).filter(|peer| peer.askable);
            let peer = peer.ok_or_else(|| unreached("it is down or has left".into()))?;
            return taken(self.transport.order(peer.member, peer.way, order).await, &unreached);
        }
        // Nobody here hears it: one of those who do passes it on.
        let mut why = "no delegate of its zone is known".to_owned();
        for delegate in view.gateways.get(&host.zone).into_iter().flatten() {
            let answer = if delegate.member.id == id {
                self.transport.order(delegate.member, delegate.way, order.clone()).await
            } else {
                let way = Way { uplink: delegate.way.uplink, via: Some(delegate.member) };
                let to = Member { id, generation: 0, addresses: [None, None] };
                self.transport.order(to, way, order.clone()).await
            };
            match answer {
                Err(error) => why = format!("{}: {error}", delegate.name),
                answer => return taken(answer, &unreached),
            }
        }
        Err(unreached(why))
    }

    async fn order_here(&self, order: OrderRequest) -> Result<Operation, Status> {
        let ended = || Status::unavailable("the agent is ending");
        let (reply, answered) = oneshot::channel();
        self.commands.send(Command::Order { order, reply }).await.map_err(|_| ended())?;
        let taken = answered.await.map_err(|_| ended())?;
        taken.map_err(|refused| Status::new(Code::from(refused.code as i32), refused.text))
    }

    /// The operations of every host, or only of the one of this name or id, or only of this zone; of these the one with this id,
    /// or all.
    async fn gather_operations(
        &self,
        id: &str,
        only: &str,
        zone: &str,
    ) -> Result<(Vec<Operation>, Vec<Source>), Status> {
        let query = QueryRequest { operations: true, operation: id.into(), ..QueryRequest::default() };
        let (answers, sources) = self.ask_all(query, only, zone).await?;
        Ok((answers.into_iter().flat_map(|details| details.operations).collect(), sources))
    }

    /// An operation of whatever host.
    async fn operation(&self, id: &str) -> Result<Operation, Status> {
        let gathered = self.gather_operations(id, &owner(id)?, "").await;
        let (operations, sources) = gathered
            .map_err(|error| if error.code() == Code::NotFound { not_found("operation", id) } else { error })?;
        let found = operations.into_iter().find(|found| found.id == id);
        if let Some(source) = sources.iter().find(|source| !source.reached).filter(|_| found.is_none()) {
            return Err(Status::unavailable(format!("{} cannot be reached: {}", source.host, source.error)));
        }
        found.ok_or_else(|| not_found("operation", id))
    }

    /// The operation when it has ended, or as it is after so long.
    async fn wait_for(&self, id: &str, patience: Duration) -> Result<Operation, Status> {
        let mut views = self.view.clone();
        let (started, deadline) = (Instant::now(), Instant::now() + patience);
        loop {
            let heard = news_of(&views.borrow_and_update(), id);
            match self.operation(id).await {
                Ok(operation) if has_ended(&operation) || Instant::now() >= deadline => return Ok(operation),
                Ok(_) => {}
                Err(error) if error.code() == Code::NotFound && started.elapsed() < SHOWN_WITHIN => {}
                Err(error) => return Err(error),
            }
            // Its host tells all when it has ended.
            let until = deadline.min(Instant::now() + ASK_AGAIN);
            let told = views.wait_for(|view| news_of(view, id) != heard);
            if matches!(timeout_at(until, told).await, Ok(Err(_))) {
                return Err(Status::unavailable("the agent is ending"));
            }
        }
    }

    /// Orders it here and in each other zone; the hosts tell each other.
    async fn set_arming(
        &self,
        mode: Mode,
        reason: String,
        lasts: Option<Duration>,
        who: String,
    ) -> Result<Arming, Status> {
        let view = self.view();
        let now = clock::unix();
        let until = |lasts: Duration| now.0.saturating_add(u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX));
        let arming = ArmingRecord {
            version: view.arming_version.saturating_add(1).max(now.0),
            host: self.keyring.host.raw(),
            mode: mode as u32,
            since_unix_ms: now.0,
            until_unix_ms: lasts.map_or(0, until),
            reason: reason.clone(),
            who: who.clone(),
        };
        let order = OrderRequest { order: Some(Order::Arming(arming)), who: who.clone(), nonce: nonce()? };
        self.order_here(order.clone()).await?;
        let mut sources = Vec::new();
        for zone in view.zones.iter().filter(|zone| !zone.local) {
            sources.extend(self.arm_zone(&view, &zone.name, &order).await);
        }
        let time = |time: UnixMillis| Some(time.into());
        let hold = ringmesh_proto::v1::Hold {
            reason,
            who,
            since: time(now),
            until: lasts.and_then(|lasts| time(UnixMillis(until(lasts)))),
        };
        Ok(Arming { mode: mode as i32, hold: (mode != Mode::Armed).then_some(hold), sources })
    }

    /// Has the first delegate of a zone that answers tell its zone; who could not be told.
    async fn arm_zone(&self, view: &View, zone: &str, order: &OrderRequest) -> Option<Source> {
        let mut why = "no delegate of it is known".to_owned();
        for delegate in view.gateways.get(zone).into_iter().flatten() {
            match self.transport.order(delegate.member, delegate.way, order.clone()).await {
                Ok(answer) if answer.code == 0 => return None,
                Ok(answer) => why = format!("{}: {}", delegate.name, answer.error),
                Err(error) => why = format!("{}: {error}", delegate.name),
            }
        }
        Some(unreached("", zone, why).source)
    }
}

fn taken(
    answer: Result<OrderResponse, RequestError>,
    unreached: &impl Fn(String) -> Status,
) -> Result<Operation, Status> {
    match answer {
        Ok(OrderResponse { operation: Some(operation), code: 0, .. }) => Ok(operation),
        Ok(OrderResponse { code, error, .. }) => Err(Status::new(Code::from(code as i32), error)),
        Err(error) => Err(unreached(error.to_string())),
    }
}

/// How many events of this operation a view has.
fn news_of(view: &View, id: &str) -> usize {
    view.events.iter().filter(|event| event.operation == id).count()
}

fn has_ended(operation: &Operation) -> bool {
    ringmesh_node::remedy::has_ended(operation.state())
}

/// The id of the host that an operation belongs to.
fn owner(id: &str) -> Result<String, Status> {
    let host = id.split('-').next().filter(|host| host.parse::<HostId>().is_ok());
    let host = host.filter(|_| id.split('-').count() == 3);
    host.map(str::to_owned).ok_or_else(|| {
        Status::invalid_argument(format!("\"{}\" is no id of an operation, such as 5f0c31aa-3-17", id.escape_debug()))
    })
}

fn check(reason: &str, lasts: Option<prost_types::Duration>) -> Result<(), Status> {
    if reason.len() > MAX_REASON || reason.contains(char::is_control) {
        return Err(Status::invalid_argument(format!("a reason is one line of at most {MAX_REASON} bytes")));
    }
    duration(lasts, MAX_HOLD).map(drop)
}

fn duration(given: Option<prost_types::Duration>, most: Duration) -> Result<Option<Duration>, Status> {
    let Some(given) = given else { return Ok(None) };
    let duration = Duration::try_from(given).ok().filter(|duration| !duration.is_zero() && *duration <= most);
    let hours = most.as_secs() / 3600;
    let most = if hours < 48 { format!("{hours} h") } else { format!("{} d", hours / 24) };
    let text = format!("a time is longer than 0 and not longer than {most}");
    duration.map(Some).ok_or_else(|| Status::invalid_argument(text))
}

fn nonce() -> Result<u64, Status> {
    SysRng.try_next_u64().map_err(|_| Status::internal("the platform's generator of random numbers failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_an_operation_is_in_its_id() {
        assert_eq!(owner("0000002a-3-17").expect("an id"), "0000002a");
        for bad in ["", "0000002a", "2a-3-17-4", "x-1-2", "0000002a-3-17-4"] {
            assert_eq!(owner(bad).expect_err(bad).code(), Code::InvalidArgument);
        }
    }

    #[test]
    fn times_have_bounds() {
        let of = |seconds, nanos| duration(Some(prost_types::Duration { seconds, nanos }), MAX_WAIT);
        assert_eq!(duration(None, MAX_WAIT).expect("no time is no fault"), None);
        assert_eq!(of(2, 0).expect("it is short"), Some(Duration::from_secs(2)));
        for (seconds, nanos) in [(0, 0), (-1, 0), (3601, 0), (i64::MAX, 0)] {
            assert!(of(seconds, nanos).is_err(), "{seconds}");
        }
    }
}
