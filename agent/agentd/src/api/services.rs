//! `ringmesh.v1.Services`.

use ringmesh_proto::{
    peer::{QueryRequest, QueryResponse},
    v1::{
        GetServiceRequest, GetServiceResponse, ListServicesRequest, ListServicesResponse, Service,
        WatchServicesRequest, WatchServicesResponse, change::Kind, services_server::Services,
    },
};
use tonic::{Request, Response, Status};

use super::{
    Answers, Api,
    containers::{none_found, selects},
    watch::{Step, Watched},
};

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
