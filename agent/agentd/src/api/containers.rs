//! `ringmesh.v1.Containers`.

use ringmesh_proto::{
    peer::Selection,
    v1::{
        Container, GetContainerRequest, GetContainerResponse, ListContainersRequest, ListContainersResponse, Source,
        WatchContainersRequest, WatchContainersResponse, change::Kind, containers_server::Containers,
    },
};
use tonic::{Request, Response, Status};

use super::{
    Answers, Api,
    cluster::{checked_fields, next_page, page_after, question},
    hub::{Message, Question},
    not_found,
};

#[tonic::async_trait]
impl Containers for Api {
    type WatchContainersStream = Answers<WatchContainersResponse>;

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let mut request = request.into_inner();
        let (limit, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let question = question(&request);
        let after = page_after(&token, question)?;
        let (fields, _) = checked_fields::<Container>(request.fields)?;
        let ListContainersRequest { host, labels, zone, verdicts, states, .. } = request;
        let selection = Selection { labels, verdicts, states, fields, after, limit, ..Selection::default() };
        let gathered = self.page::<Container>(selection, &host, &zone).await?;
        let next_page_token = next_page(&gathered, question);
        let (containers, sources) = (gathered.page.items, gathered.sources);
        Ok(Response::new(ListContainersResponse { containers, sources, next_page_token }))
    }

    async fn get_container(
        &self,
        request: Request<GetContainerRequest>,
    ) -> Result<Response<GetContainerResponse>, Status> {
        let GetContainerRequest { name, host } = request.into_inner();
        let selection = Selection { container: name.clone(), ..Selection::default() };
        let gathered = if name.is_empty() { None } else { Some(self.page::<Container>(selection, &host, "").await?) };
        let (mut found, sources) = gathered.map(|gathered| (gathered.page.items, gathered.sources)).unwrap_or_default();
        if found.len() > 1 {
            let hosts: Vec<&str> = found.iter().map(|container| container.host.as_str()).collect();
            let text = format!("several hosts run a container of this name: {}; name one", hosts.join(", "));
            return Err(Status::failed_precondition(text));
        }
        match found.pop() {
            Some(container) => Ok(Response::new(GetContainerResponse { container: Some(container), sources })),
            None => Err(none_found("container", &name, &sources)),
        }
    }

    async fn watch_containers(
        &self,
        request: Request<WatchContainersRequest>,
    ) -> Result<Response<Self::WatchContainersStream>, Status> {
        let mut request = request.into_inner();
        let position = std::mem::take(&mut request.position);
        let id = question(&request);
        let (_, fields) = checked_fields::<Container>(request.fields)?;
        let WatchContainersRequest { host, labels, verdicts, states, .. } = request;
        let selection = Selection { labels, verdicts, states, ..Selection::default() };
        self.watch_details(Question { id, host, selection, fields, position })
    }
}

impl Message<Container> for WatchContainersResponse {
    fn new(change: Kind, container: Option<Container>, source: Option<Source>, position: String) -> Self {
        Self { change: change as i32, container, source, position }
    }
}

/// Not found, or perhaps on a host that could not be asked: the answer says which.
pub(super) fn none_found(kind: &str, name: &str, sources: &[Source]) -> Status {
    let name_of =
        |source: &Source| if source.host.is_empty() { format!("zone {}", source.zone) } else { source.host.clone() };
    let unreached: Vec<String> = sources.iter().filter(|source| !source.reached).map(name_of).collect();
    if unreached.is_empty() {
        return not_found(kind, name);
    }
    let missing = unreached.join(", ");
    Status::not_found(format!("no host that answers has {kind} \"{}\"; not asked: {missing}", name.escape_debug()))
}
