//! `ringmesh.v1.Services`.

use ringmesh_proto::{
    peer::{HistoryQuery, QueryRequest, Selection},
    v1::{
        GetHistoryRequest, GetHistoryResponse, GetServiceRequest, GetServiceResponse, ListServicesRequest,
        ListServicesResponse, Service, Source, WatchServicesRequest, WatchServicesResponse, change::Kind,
        services_server::Services,
    },
};
use tonic::{Request, Response, Status};

use super::{
    Answers, Api,
    cluster::{checked_fields, next_page, page_after, question},
    containers::none_found,
    hub::{Message, Question},
};
use crate::fanout;

#[tonic::async_trait]
impl Services for Api {
    type WatchServicesStream = Answers<WatchServicesResponse>;

    async fn list_services(
        &self,
        request: Request<ListServicesRequest>,
    ) -> Result<Response<ListServicesResponse>, Status> {
        let mut request = request.into_inner();
        let (limit, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let question = question(&request);
        let after = page_after(&token, question)?;
        let (fields, _) = checked_fields::<Service>(request.fields)?;
        let ListServicesRequest { host, container, labels, zone, verdicts, .. } = request;
        let selection = Selection { labels, verdicts, container, fields, after, limit, ..Selection::default() };
        let gathered = self.page::<Service>(selection, &host, &zone).await?;
        let next_page_token = next_page(&gathered, question);
        let (services, sources) = (gathered.page.items, gathered.sources);
        Ok(Response::new(ListServicesResponse { services, sources, next_page_token }))
    }

    async fn get_service(&self, request: Request<GetServiceRequest>) -> Result<Response<GetServiceResponse>, Status> {
        let GetServiceRequest { name, container, host } = request.into_inner();
        let selection = Selection { service: name.clone(), container, ..Selection::default() };
        let gathered = if name.is_empty() { None } else { Some(self.page::<Service>(selection, &host, "").await?) };
        let (mut found, sources) = gathered.map(|gathered| (gathered.page.items, gathered.sources)).unwrap_or_default();
        if found.len() > 1 {
            let text = format!("{} services have this name; name the container and the host too", found.len());
            return Err(Status::failed_precondition(text));
        }
        match found.pop() {
            Some(service) => Ok(Response::new(GetServiceResponse { service: Some(service), sources })),
            None => Err(none_found("service", &name, &sources)),
        }
    }

    async fn get_history(&self, request: Request<GetHistoryRequest>) -> Result<Response<GetHistoryResponse>, Status> {
        let GetHistoryRequest { service, container, host } = request.into_inner();
        let history = Some(HistoryQuery { service: service.clone(), container });
        let (answers, sources) = self.ask_all(QueryRequest { history, ..QueryRequest::default() }, &host, "").await?;
        let mut found = Vec::new();
        answers.into_iter().for_each(|details| fanout::add_histories(&mut found, details.histories));
        // One that is configured is meant rather than those that are no more.
        if found.first().is_some_and(|history| history.retired.is_none()) {
            found.retain(|history| history.retired.is_none());
        }
        if found.len() > 1 {
            let places: Vec<String> = found.iter().map(|of| format!("{}/{}", of.host, of.container)).collect();
            let text = format!(
                "several services have this name, such as in {}; name the container and the host too",
                places.join(", ")
            );
            return Err(Status::failed_precondition(text));
        }
        match found.pop() {
            Some(history) => Ok(Response::new(GetHistoryResponse { history: Some(history), sources })),
            None => Err(none_found("service", &service, &sources)),
        }
    }

    async fn watch_services(
        &self,
        request: Request<WatchServicesRequest>,
    ) -> Result<Response<Self::WatchServicesStream>, Status> {
        let mut request = request.into_inner();
        let position = std::mem::take(&mut request.position);
        let id = question(&request);
        let (_, fields) = checked_fields::<Service>(request.fields)?;
        let WatchServicesRequest { host, container, labels, verdicts, .. } = request;
        let selection = Selection { labels, verdicts, container, ..Selection::default() };
        self.watch_details(Question { id, host, selection, fields, position })
    }
}

impl Message<Service> for WatchServicesResponse {
    fn new(change: Kind, service: Option<Service>, source: Option<Source>, position: String) -> Self {
        Self { change: change as i32, service, source, position }
    }
}
