//! `ringmesh.v1.Agent`: the agent that answers.

use std::{sync::Arc, time::Duration};

use ringmesh_node::overlay::Order;
use ringmesh_proto::Uplink;
use ringmesh_proto::v1::{
    CreateTokenRequest, CreateTokenResponse, GetConfigRequest, GetConfigResponse, GetStatusRequest, LeaveRequest,
    LeaveResponse, Status as AgentStatus, SwitchUplinkRequest, SwitchUplinkResponse, agent_server::Agent,
};
use tonic::{Request, Response, Status};

use super::Api;
use crate::{caller::Caller, clock, config::ConfigError, host_loop::Command, identity::admission::AuthorityError};

/// How long a token lives when nobody says.
const DEFAULT_TTL: Duration = Duration::from_secs(3600);

#[tonic::async_trait]
impl Agent for Api {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<AgentStatus>, Status> {
        let view = self.view();
        let generation = view.hosts.iter().find(|host| host.local).map_or(0, |host| host.generation);
        let outside = self.counters.read();
        let counters = view.counters.iter().chain(&outside).map(|(name, count)| ((*name).to_owned(), *count));
        Ok(Response::new(AgentStatus {
            name: view.name.clone(),
            id: self.keyring.host.to_string(),
            cluster_id: self.keyring.cluster.to_string(),
            generation,
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            started_at: Some(self.started_at.into()),
            counters: counters.collect(),
        }))
    }

    async fn get_config(&self, _: Request<GetConfigRequest>) -> Result<Response<GetConfigResponse>, Status> {
        let file = Arc::clone(&self.config_file);
        // With very many containers it takes a while.
        let toml = tokio::task::spawn_blocking(move || Ok(file.parse()?.without_secrets().to_toml())).await;
        let toml: Result<String, ConfigError> = toml.map_err(|error| Status::internal(error.to_string()))?;
        let toml = toml.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(GetConfigResponse { toml }))
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        Caller::expect_admin(request.extensions())?;
        let request = request.into_inner();
        let ttl = match request.ttl {
            None => DEFAULT_TTL,
            Some(ttl) => Duration::try_from(ttl).map_err(|_| Status::invalid_argument("a negative time to live"))?,
        };
        let uses = if request.uses == 0 { 1 } else { request.uses };
        let (authority, name, signers) =
            (Arc::clone(&self.authority), self.keyring.name.clone(), self.keeper.signers());
        let addresses = self.config.addresses().into_iter().flatten().collect();
        let made = tokio::task::spawn_blocking(move || {
            let mut slot = authority.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let Some(authority) = &mut *slot else { return Err(AuthorityError::NoSigner { name, signers }) };
            authority.create_token(ttl, uses, addresses, clock::unix().0 / 1000)
        });
        let token =
            made.await.map_err(|_| Status::internal("the maker of tokens ended"))?.map_err(|error| match error {
                AuthorityError::NoKey { .. } | AuthorityError::NoSigner { .. } => {
                    Status::failed_precondition(error.to_string())
                }
                AuthorityError::Ttl(_) | AuthorityError::Uses(_) => Status::invalid_argument(error.to_string()),
                AuthorityError::TooMany => Status::resource_exhausted(error.to_string()),
                AuthorityError::Addresses(_) | AuthorityError::Identity(_) => Status::internal(error.to_string()),
            })?;
        Ok(Response::new(CreateTokenResponse {
            token: token.to_string(),
            expires_at: Some(prost_types::Timestamp {
                seconds: i64::try_from(token.expires_at).unwrap_or(i64::MAX),
                nanos: 0,
            }),
            uses: u32::from(token.uses),
        }))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<LeaveResponse>, Status> {
        Caller::expect_operator(request.extensions())?;
        let (store, commands) = (self.store.clone(), self.commands.clone());
        // Who has asked may go away meanwhile: half a leaving is none.
        let leaves = tokio::spawn(async move {
            store.leave().await;
            commands.send(Command::Leave).await
        });
        let ended = || Status::unavailable("the agent is ending already");
        leaves.await.map_err(|_| ended())?.map_err(|_| ended())?;
        Ok(Response::new(LeaveResponse {}))
    }

    async fn switch_uplink(
        &self,
        request: Request<SwitchUplinkRequest>,
    ) -> Result<Response<SwitchUplinkResponse>, Status> {
        Caller::expect_operator(request.extensions())?;
        let SwitchUplinkRequest { host, uplink, manual } = request.into_inner();
        let own = &self.keyring.name;
        if host != *own && host != self.keyring.host.to_string() {
            let name = host.escape_debug();
            let text =
                format!("{own} takes orders for itself only; ask that host: give --host {name} or its API's address");
            return Err(Status::failed_precondition(text));
        }
        let order = order(&uplink, manual)?;
        if let Order::Forced(uplink) | Order::Manual(uplink) = order
            && self.config.addresses()[uplink.index()].is_none()
        {
            return Err(Status::failed_precondition(format!("{own} has no uplink {uplink}")));
        }
        let ended = |_| Status::unavailable("the agent is ending already");
        self.commands.send(Command::Switch(order)).await.map_err(ended)?;
        Ok(Response::new(SwitchUplinkResponse {}))
    }
}

fn order(uplink: &str, manual: bool) -> Result<Order, Status> {
    let wanted = match uplink {
        "none" => return Ok(Order::None),
        "a" => Uplink::A,
        "b" => Uplink::B,
        _ => return Err(Status::invalid_argument("an order names uplink \"a\", \"b\" or \"none\"")),
    };
    Ok(if manual { Order::Manual(wanted) } else { Order::Forced(wanted) })
}
