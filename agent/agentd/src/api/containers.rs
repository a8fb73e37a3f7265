//! `ringmesh.v1.Containers`.

use std::collections::BTreeMap;

use ringmesh_proto::{
    peer::{QueryRequest, QueryResponse},
    v1::{
        Container, GetContainerRequest, GetContainerResponse, ListContainersRequest, ListContainersResponse,
        WatchContainersRequest, WatchContainersResponse, change::Kind, containers_server::Containers,
    },
};
use tonic::{Request, Response, Status};

use super::{
    Answers, Api, not_found,
    watch::{Step, Watched},
};

fn query() -> QueryRequest {
    QueryRequest { containers: true, ..QueryRequest::default() }
}

impl Watched for Container {
    fn key(&self) -> String {
        format!("{}/{}", self.host, self.name)
    }

    fn essence(&self) -> Self {
        self.clone()
    }
}

/// Whether `labels` has all of `selector`.
pub(super) fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[tonic::async_trait]
impl Containers for Api {
    type WatchContainersStream = Answers<WatchContainersResponse>;

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let request = request.into_inner();
        let mut response = ListContainersResponse::default();
        let gathered = self.ask_all(query(), &request.host, &request.zone).await?;
        response.sources = gathered.sources;
        for details in gathered.details {
            response.containers.extend(details.containers.into_iter().filter(|c| selects(&request.labels, &c.labels)));
        }
        Ok(Response::new(response))
    }

    async fn get_container(
        &self,
        request: Request<GetContainerRequest>,
    ) -> Result<Response<GetContainerResponse>, Status> {
        let request = request.into_inner();
        let gathered = self.ask_all(query(), &request.host, "").await?;
        let (mut found, sources) = (Vec::new(), gathered.sources);
        for details in gathered.details {
            found.extend(details.containers.into_iter().filter(|container| container.name == request.name));
        }
        if found.len() > 1 {
            let hosts: Vec<&str> = found.iter().map(|container| container.host.as_str()).collect();
            let text = format!("several hosts run a container of this name: {}; name one", hosts.join(", "));
            return Err(Status::failed_precondition(text));
        }
        match found.pop() {
            Some(container) => Ok(Response::new(GetContainerResponse { container: Some(container), sources })),
            None => Err(none_found("container", &request.name, &sources)),
        }
    }

    async fn watch_containers(
        &self,
        request: Request<WatchContainersRequest>,
    ) -> Result<Response<Self::WatchContainersStream>, Status> {
        let request = request.into_inner();
        let pick = move |details: QueryResponse| -> Vec<Container> {
            details.containers.into_iter().filter(|c| selects(&request.labels, &c.labels)).collect()
        };
        let message = |step| match step {
            Step::Object(kind, container) => {
                WatchContainersResponse { change: kind as i32, container: Some(container), source: None }
            }
            Step::Source(source) => {
                WatchContainersResponse { change: Kind::Updated as i32, container: None, source: Some(source) }
            }
            Step::Synced => WatchContainersResponse { change: Kind::Synced as i32, container: None, source: None },
        };
        Ok(Response::new(self.watch_details(query(), request.host, pick, message)))
    }
}

/// Not found, or perhaps on a host that could not be asked: the answer says which.
pub(super) fn none_found(kind: &str, name: &str, sources: &[ringmesh_proto::v1::Source]) -> Status {
    let name_of = |source: &ringmesh_proto::v1::Source| {
        if source.host.is_empty() { format!("zone {}", source.zone) } else { source.host.clone() }
    };
    let unreached: Vec<String> = sources.iter().filter(|source| !source.reached).map(name_of).collect();
    if unreached.is_empty() {
        return not_found(kind, name);
    }
    let missing = unreached.join(", ");
    Status::not_found(format!("no host that answers has {kind} \"{}\"; not asked: {missing}", name.escape_debug()))
}
