//! All faces of the store on one port: what is asked decides which of them answers.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use tonic::{
    body::Body,
    codegen::http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE},
};

use super::{
    etcd::{Face, Services},
    gateway::Gateway,
    metrics::Metrics,
    permission,
    request::Handle,
};
use crate::port::Answer;

/// Calls that one connection may have open at once; watches are calls. A pool of clients shares one connection.
pub(super) const MAX_CALLS: u32 = 4096;

/// They.
#[derive(Clone)]
pub(super) struct Faces {
    services: Services,
    gateway: Arc<Gateway>,
}

/// Whether it is the store that serves that gRPC method.
pub(crate) fn serves(path: &str) -> bool {
    ["/etcdserverpb.", "/v3lockpb.", "/v3electionpb.", "/ringmesh.v1.Store/"]
        .iter()
        .any(|known| path.starts_with(known))
}

impl Faces {
    /// Of the member that the handle asks; `is_of_hosts`: who keep keys of their own in it.
    pub(super) fn new(handle: &Handle, is_of_hosts: bool) -> Self {
        let services = Services::new(Face { handle: handle.clone(), is_of_hosts });
        let gateway = Gateway::new(services.clone(), Metrics::new(handle.clone()));
        Self { services, gateway: Arc::new(gateway) }
    }
}

impl Answer for Faces {
    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        if let Err(refused) = permission::check(request.uri().path(), request.extensions().get()) {
            return refused.into_http();
        }
        let kind = request.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes()).unwrap_or_default();
        if kind.starts_with(b"application/grpc") {
            self.services.call(request).await
        } else {
            self.gateway.answer(request).await
        }
    }
}

/// An answer that is a text.
pub(super) fn plain(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
