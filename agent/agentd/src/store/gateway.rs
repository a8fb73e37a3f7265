//! The JSON gateway: etcd's API for who speaks HTTP and JSON only, on the port of the gRPC services.
//!
//! It turns a JSON request into a gRPC request, hands it to the services in this process and turns the answer back. What
//! the messages mean it does not know: it works on their descriptors alone.
//!
//! ```text
//!  POST /v3/kv/put ──▶ paths ──▶ json ──▶ call ──▶ Services ──▶ call ──▶ json ──▶ {"header": …}
//! ```

mod call;
mod json;
mod paths;

use std::{convert::Infallible, sync::OnceLock, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::Frame;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use ringmesh_proto::etcd::DESCRIPTORS;
use tonic::{
    Code, Status,
    body::Body,
    codegen::http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE},
};

use super::{
    etcd::{CLUSTER_VERSION, MAX_REQUEST_BYTES, Services, VERSION},
    faces::plain,
    metrics::Metrics,
};

/// Bytes of one JSON request: base64 takes a third more than what it stands for.
const MAX_BODY_BYTES: usize = 2 * MAX_REQUEST_BYTES;

/// How long a request may take to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Answers all that is no gRPC.
pub(super) struct Gateway {
    services: Services,
    metrics: Metrics,
    /// Made when the first JSON request comes: most stores never see one, and it takes a megabyte.
    descriptors: OnceLock<DescriptorPool>,
}

impl Gateway {
    pub(super) fn new(services: Services, metrics: Metrics) -> Self {
        Self { services, metrics, descriptors: OnceLock::new() }
    }

    /// Answers one request; what is wrong with it stands in the answer.
    pub(super) async fn answer(&self, request: Request<Body>) -> Response<Body> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/version") => {
                let text = format!(r#"{{"etcdserver":"{VERSION}","etcdcluster":"{CLUSTER_VERSION}"}}"#);
                plain(StatusCode::OK, "application/json", text)
            }
            (&Method::GET, "/health") => self.health().await,
            (&Method::GET, "/metrics") => plain(StatusCode::OK, "text/plain; version=0.0.4", self.metrics.text().await),
            (method, path) => match paths::find(path) {
                None => plain(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n".into()),
                Some(_) if method != Method::POST => {
                    plain(StatusCode::METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", "Method Not Allowed\n".into())
                }
                Some((service, method)) => self.call(service, method, request.into_body()).await,
            },
        }
    }

    async fn health(&self) -> Response<Body> {
        let (status, text) = if self.metrics.is_healthy().await {
            (StatusCode::OK, r#"{"health":"true"}"#)
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, r#"{"health":"false"}"#)
        };
        plain(status, "application/json", text.into())
    }

    async fn call(&self, service: &str, method: &str, body: Body) -> Response<Body> {
        let method = self.method(service, method);
        if method.is_server_streaming() {
            return self.stream(method, body).await;
        }
        let answered = match self.once(&method, body).await {
            Ok(message) => json::write(method.output(), message),
            Err(status) => Err(status),
        };
        match answered {
            Ok(text) => with_grpc_metadata(plain(StatusCode::OK, "application/json", text)),
            Err(status) => plain(http_status(status.code()), "application/json", json::error(&status)),
        }
    }

    async fn once(&self, method: &MethodDescriptor, body: Body) -> Result<Bytes, Status> {
        let body = tokio::time::timeout(PATIENCE, Limited::new(body, MAX_BODY_BYTES).collect()).await;
        let body = body.map_err(|_| Status::deadline_exceeded("the request did not come"))?;
        let message = json::read(method.input(), &body.map_err(|_| too_large())?.to_bytes())?;
        call::once(&self.services, method, message).await
    }

    /// Each message of the answer stands on a line of its own. Requests are read as long as the client sends some.
    async fn stream(&self, method: MethodDescriptor, body: Body) -> Response<Body> {
        let requests = json::read_all(method.input(), body, MAX_BODY_BYTES);
        let output = method.output();
        let answers = match call::stream(&self.services, &method, requests).await {
            Ok(answers) => answers,
            Err(status) => return plain(http_status(status.code()), "application/json", json::error(&status)),
        };
        let lines = answers.map(move |answer| {
            let line = match answer.and_then(|message| json::write(output.clone(), message)) {
                Ok(text) => format!("{{\"result\":{text}}}\n"),
                Err(status) => json::stream_error(&status, http_status(status.code())),
            };
            Ok::<_, Infallible>(Frame::data(Bytes::from(line)))
        });
        let mut response = Response::new(Body::new(StreamBody::new(lines)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        with_grpc_metadata(response)
    }

    fn method(&self, service: &str, method: &str) -> MethodDescriptor {
        let pool = self
            .descriptors
            .get_or_init(|| DescriptorPool::decode(DESCRIPTORS).expect("our own descriptors are whole"));
        let service = pool.get_service_by_name(service).expect("the table of paths names our services");
        service.methods().find(|found| found.name() == method).expect("the table of paths names our methods")
    }
}

fn too_large() -> Status {
    Status::invalid_argument("etcdserver: request is too large")
}

fn with_grpc_metadata(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert("grpc-metadata-content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// As etcd's gateway answers them.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::FailedPrecondition => StatusCode::PRECONDITION_FAILED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
    }
}
