//! `ringmesh.v1.Services`.

use ringmesh_proto::{
    peer::{HistoryQuery, QueryRequest, QueryResponse},
    v1::{
        GetHistoryRequest, GetHistoryResponse, GetServiceRequest, GetServiceResponse, History, ListServicesRequest,
        ListServicesResponse, Service, WatchServicesRequest, WatchServicesResponse, change::Kind,
        services_server::Services,
    },
};
use tonic::{Request, Response, Status};

use super::{
    Answers, Api,
    containers::{none_found, selects},
    watch::{Step, Watched},
};

/// Places that are named when a name is not clear.
const MAX_NAMED: usize = 3;

fn query() -> QueryRequest {
    QueryRequest { services: true, ..QueryRequest::default() }
}

impl Watched for Service {
    fn key(&self) -> String {
        format!("{}/{}/{}", self.host, self.container, self.name)
    }

    fn essence(&self) -> Self {
        Self { last_probe: None, last_latency: None, last_answer: String::new(), ..self.clone() }
    }
}

#[tonic::async_trait]
impl Services for Api {
    type WatchServicesStream = Answers<WatchServicesResponse>;

    async fn list_services(
        &self,
        request: Request<ListServicesRequest>,
    ) -> Result<Response<ListServicesResponse>, Status> {
        let request = request.into_inner();
        let wanted = |service: &Service| {
            (request.container.is_empty() || service.container == request.container)
                && selects(&request.labels, &service.labels)
        };
        let mut response = ListServicesResponse::default();
        let gathered = self.ask_all(query(), &request.host, &request.zone).await?;
        response.sources = gathered.sources;
        for details in gathered.details {
            response.services.extend(details.services.into_iter().filter(wanted));
        }
        Ok(Response::new(response))
    }

    async fn get_service(&self, request: Request<GetServiceRequest>) -> Result<Response<GetServiceResponse>, Status> {
        let request = request.into_inner();
        let wanted = |service: &Service| {
            service.name == request.name && (request.container.is_empty() || service.container == request.container)
        };
        let gathered = self.ask_all(query(), &request.host, "").await?;
        let (mut found, sources) = (Vec::new(), gathered.sources);
        for details in gathered.details {
            found.extend(details.services.into_iter().filter(wanted));
        }
        if found.len() > 1 {
            let text = format!("{} services have this name; name the container and the host too", found.len());
            return Err(Status::failed_precondition(text));
        }
        match found.pop() {
            Some(service) => Ok(Response::new(GetServiceResponse { service: Some(service), sources })),
            None => Err(none_found("service", &request.name, &sources)),
        }
    }

    async fn get_history(&self, request: Request<GetHistoryRequest>) -> Result<Response<GetHistoryResponse>, Status> {
        let GetHistoryRequest { service, container, host } = request.into_inner();
        let history = Some(HistoryQuery { service: service.clone(), container });
        let gathered = self.ask_all(QueryRequest { history, ..QueryRequest::default() }, &host, "").await?;
        let found: Vec<History> = gathered.details.into_iter().flat_map(|details| details.histories).collect();
        // One that is configured is meant rather than those that are no more.
        let live = found.iter().filter(|history| history.retired.is_none()).count();
        let mut found: Vec<History> =
            found.into_iter().filter(|history| live == 0 || history.retired.is_none()).collect();
        if found.len() > 1 {
            let places: Vec<String> =
                found.iter().take(MAX_NAMED).map(|of| format!("{}/{}", of.host, of.container)).collect();
            let text = format!(
                "several services have this name, such as in {}; name the container and the host too",
                places.join(", ")
            );
            return Err(Status::failed_precondition(text));
        }
        let sources = gathered.sources;
        match found.pop() {
            Some(history) => Ok(Response::new(GetHistoryResponse { history: Some(history), sources })),
            None => Err(none_found("service", &service, &sources)),
        }
    }

    async fn watch_services(
        &self,
        request: Request<WatchServicesRequest>,
    ) -> Result<Response<Self::WatchServicesStream>, Status> {
        let request = request.into_inner();
        let (container, labels) = (request.container, request.labels);
        let pick = move |details: QueryResponse| -> Vec<Service> {
            let wanted = |service: &Service| {
                (container.is_empty() || service.container == container) && selects(&labels, &service.labels)
            };
            details.services.into_iter().filter(wanted).collect()
        };
        let message = |step| match step {
            Step::Object(kind, service) => {
                WatchServicesResponse { change: kind as i32, service: Some(service), source: None }
            }
            Step::Source(source) => {
                WatchServicesResponse { change: Kind::Updated as i32, service: None, source: Some(source) }
            }
            Step::Synced => WatchServicesResponse { change: Kind::Synced as i32, service: None, source: None },
        };
        Ok(Response::new(self.watch_details(query(), request.host, pick, message)))
    }
}
