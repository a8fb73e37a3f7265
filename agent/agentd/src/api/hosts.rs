//! `ringmesh.v1.Hosts`.

use ringmesh_proto::v1::{
    GetHostRequest, Host, ListHostsRequest, ListHostsResponse, WatchHostsRequest, WatchHostsResponse, change::Kind,
    hosts_server::Hosts,
};
use tonic::{Request, Response, Status};

use super::{
    Answers, Api, not_found,
    watch::{Step, Watched},
};

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

    async fn list_hosts(&self, _: Request<ListHostsRequest>) -> Result<Response<ListHostsResponse>, Status> {
        let view = self.view();
        let answered_by = view.name.clone();
        Ok(Response::new(ListHostsResponse { hosts: view.hosts.to_vec(), answered_by }))
    }

    async fn get_host(&self, request: Request<GetHostRequest>) -> Result<Response<Host>, Status> {
        let name = request.into_inner().name;
        let view = self.view();
        let found = view.hosts.iter().find(|host| host.name == name || host.id == name);
        found.cloned().map(Response::new).ok_or_else(|| not_found("host", &name))
    }

    async fn watch_hosts(&self, _: Request<WatchHostsRequest>) -> Result<Response<Self::WatchHostsStream>, Status> {
        let message = |step| match step {
            Step::Object(kind, host) => WatchHostsResponse { change: kind as i32, host: Some(host) },
            Step::Synced | Step::Source(_) => WatchHostsResponse { change: Kind::Synced as i32, host: None },
        };
        Ok(Response::new(self.watch_view(|view| view.hosts.to_vec(), message)))
    }
}
