//! `ringmesh.v1.Hosts`.

use ringmesh_proto::{
    peer::QueryRequest,
    v1::{
        GetHostRequest, Host, ListHostsRequest, ListHostsResponse, WatchHostsRequest, WatchHostsResponse, change::Kind,
        hosts_server::Hosts,
    },
};
use tonic::{Request, Response, Status};

use super::{
    Answers, Api,
    containers::none_found,
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
        Self { heard_at: None, ..self.clone() }
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
        let name = request.into_inner().name;
        let view = self.view();
        if let Some(found) = view.hosts.iter().find(|host| host.name == name || host.id == name) {
            return Ok(Response::new(found.clone()));
        }
        let mut sources = Vec::new();
        for answer in fanout::ask_zones(&self.transport, &view, &query(&name), "").await {
            if let Some(found) = answer.details.and_then(|mut details| details.hosts.pop()) {
                return Ok(Response::new(found));
            }
            sources.push(answer.source);
        }
        Err(none_found("host", &name, &sources))
    }

    async fn watch_hosts(&self, _: Request<WatchHostsRequest>) -> Result<Response<Self::WatchHostsStream>, Status> {
        let message = |step| match step {
            Step::Object(kind, host) => WatchHostsResponse { change: kind as i32, host: Some(host) },
            Step::Synced | Step::Source(_) => WatchHostsResponse { change: Kind::Synced as i32, host: None },
        };
        Ok(Response::new(self.watch_view(|view| view.hosts.to_vec(), message)))
    }
}
