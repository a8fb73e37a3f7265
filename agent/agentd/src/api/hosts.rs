//! `ringmesh.v1.Hosts`.

use ringmesh_node::View;
use ringmesh_proto::{
    peer::QueryRequest,
    v1::{
        GetHostRequest, GetRoundTripRequest, Host, ListHostsRequest, ListHostsResponse, RoundTrip, WatchHostsRequest,
        WatchHostsResponse, change::Kind, hosts_server::Hosts,
    },
};
use tonic::{Request, Response, Status};

use super::{
    Answers, Api,
    containers::none_found,
    not_found,
    watch::{Step, Watched},
};
use crate::fanout;

fn query(host: &str) -> QueryRequest {
    QueryRequest { hosts: true, host: host.to_owned(), ..QueryRequest::default() }
}

impl Watched for Host {
    /// With the name: when a host of which only the id was known gets its name, clients that go by names see the one
    /// vanish and the other appear.
    fn key(&self) -> String {
        format!("{} {}", self.id, self.name)
    }

    fn essence(&self) -> Self {
        // Coordinates move with every measurement.
        Self { heard_at: None, coordinate: None, rtt_estimate_us: 0, ..self.clone() }
    }
}

#[tonic::async_trait]
impl Hosts for Api {
    type WatchHostsStream = Answers<WatchHostsResponse>;

    async fn list_hosts(&self, request: Request<ListHostsRequest>) -> Result<Response<ListHostsResponse>, Status> {
        let zone = request.into_inner().zone;
        let (ours, others) = self.wanted_zones(&zone)?;
        let view = self.view();
        let mut response = ListHostsResponse { answered_by: view.name.clone(), ..ListHostsResponse::default() };
        if ours {
            response.hosts = view.hosts.to_vec();
        }
        if others {
            for answer in fanout::ask_zones(&self.transport, &view, &query(""), &zone).await {
                response.sources.push(answer.source);
                response.hosts.extend(answer.details.unwrap_or_default().hosts);
            }
        }
        Ok(Response::new(response))
    }

    async fn get_host(&self, request: Request<GetHostRequest>) -> Result<Response<Host>, Status> {
        self.host_anywhere(&request.into_inner().name).await.map(Response::new)
    }

    async fn get_round_trip(&self, request: Request<GetRoundTripRequest>) -> Result<Response<RoundTrip>, Status> {
        let request = request.into_inner();
        let (from, to) = (self.host_anywhere(&request.from).await?, self.host_anywhere(&request.to).await?);
        let unknown = || {
            let without = if from.coordinate.is_none() { &from.name } else { &to.name };
            let text =
                "has told no coordinate yet: it runs an older version, or was not heard of since this agent started";
            Status::failed_precondition(format!("{without} {text}"))
        };
        self.view().round_trip(&from, &to).map(Response::new).ok_or_else(unknown)
    }

    async fn watch_hosts(&self, _: Request<WatchHostsRequest>) -> Result<Response<Self::WatchHostsStream>, Status> {
        let message = |step| match step {
            Step::Object(kind, host) => WatchHostsResponse { change: kind as i32, host: Some(host) },
            Step::Synced => WatchHostsResponse { change: Kind::Synced as i32, host: None },
        };
        Ok(Response::new(self.watch_view(|view| view.hosts.to_vec(), message)))
    }
}

impl Api {
    /// The host of this name or id, of whatever zone.
    pub(super) async fn host_anywhere(&self, name: &str) -> Result<Host, Status> {
        let view = self.view();
        if let Ok(found) = find_host(&view, name) {
            return Ok(found.clone());
        }
        let mut sources = Vec::new();
        for answer in fanout::ask_zones(&self.transport, &view, &query(name), "").await {
            if let Some(found) = answer.details.and_then(|mut details| details.hosts.pop()) {
                return Ok(found);
            }
            sources.push(answer.source);
        }
        Err(none_found("host", name, &sources))
    }
}

/// The host of this name or id in the answering host's zone.
pub(super) fn find_host<'a>(view: &'a View, name: &str) -> Result<&'a Host, Status> {
    let found = view.hosts.iter().find(|host| host.name == name || host.id == name);
    found.ok_or_else(|| not_found("host", name))
}
