//! `ringmesh.v1.Hosts`.

use ringmesh_node::View;
use ringmesh_proto::v1::{
    GetHostRequest, GetRoundTripRequest, Host, ListHostsRequest, ListHostsResponse, RoundTrip, WatchHostsRequest,
    WatchHostsResponse, change::Kind, hosts_server::Hosts,
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
        // Coordinates move with every measurement.
        Self { heard_at: None, coordinate: None, rtt_estimate_us: 0, ..self.clone() }
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
        find_host(&self.view(), &name).cloned().map(Response::new)
    }

    async fn get_round_trip(&self, request: Request<GetRoundTripRequest>) -> Result<Response<RoundTrip>, Status> {
        let request = request.into_inner();
        let view = self.view();
        let (from, to) = (find_host(&view, &request.from)?, find_host(&view, &request.to)?);
        let unknown = || {
            let without = if from.coordinate.is_none() { &from.name } else { &to.name };
            let text =
                "has told no coordinate yet: it runs an older version, or was not heard of since this agent started";
            Status::failed_precondition(format!("{without} {text}"))
        };
        view.round_trip(from, to).map(Response::new).ok_or_else(unknown)
    }

    async fn watch_hosts(&self, _: Request<WatchHostsRequest>) -> Result<Response<Self::WatchHostsStream>, Status> {
        let message = |step| match step {
            Step::Object(kind, host) => WatchHostsResponse { change: kind as i32, host: Some(host) },
            Step::Synced | Step::Source(_) => WatchHostsResponse { change: Kind::Synced as i32, host: None },
        };
        Ok(Response::new(self.watch_view(|view| view.hosts.to_vec(), message)))
    }
}

/// The host of this name or id.
pub(super) fn find_host<'a>(view: &'a View, name: &str) -> Result<&'a Host, Status> {
    let found = view.hosts.iter().find(|host| host.name == name || host.id == name);
    found.ok_or_else(|| not_found("host", name))
}
