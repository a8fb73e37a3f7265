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

const QUERY: QueryRequest = QueryRequest { containers: true, services: false };

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
        for answer in self.ask_all(QUERY, &request.host).await? {
            response.sources.push(answer.source);
            let containers = answer.details.unwrap_or_default().containers;
            response.containers.extend(containers.into_iter().filter(|c| selects(&request.labels, &c.labels)));
        }
        Ok(Response::new(response))
    }

    async fn get_container(
        &self,
        request: Request<GetContainerRequest>,
    ) -> Result<Response<GetContainerResponse>, Status> {
        let request = request.into_inner();
        let (mut found, mut sources) = (Vec::new(), Vec::new());
        for answer in self.ask_all(QUERY, &request.host).await? {
            let containers = answer.details.unwrap_or_default().containers;
            found.extend(containers.into_iter().filter(|container| container.name == request.name));
            sources.push(answer.source);
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
        Ok(Response::new(self.watch_details(QUERY, request.host, pick, message)))
    }
}

/// Not found, or perhaps on a host that could not be asked: the answer says which.
pub(super) fn none_found(kind: &str, name: &str, sources: &[ringmesh_proto::v1::Source]) -> Status {
    let unreached: Vec<&str> = sources.iter().filter(|s| !s.reached).map(|source| source.host.as_str()).collect();
    if unreached.is_empty() {
        return not_found(kind, name);
    }
    let missing = unreached.join(", ");
    Status::not_found(format!("no host that answers has {kind} \"{}\"; not asked: {missing}", name.escape_debug()))
}
