//! All faces of the store on one port: what is asked decides which of them answers.

use std::sync::Arc;

use tonic::{
    body::Body,
    codegen::http::{Request, Response, header::CONTENT_TYPE},
};

use super::{etcd::Services, gateway::Gateway};
use crate::port::Answer;

/// Calls that one connection may have open at once; watches are calls. A pool of clients shares one connection.
pub(super) const MAX_CALLS: u32 = 4096;

/// They.
#[derive(Clone)]
pub(super) struct Faces {
    services: Services,
    gateway: Arc<Gateway>,
}

impl Faces {
    pub(super) fn new(services: Services, gateway: Gateway) -> Self {
        Self { services, gateway: Arc::new(gateway) }
    }
}

impl Answer for Faces {
    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let kind = request.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes()).unwrap_or_default();
        if kind.starts_with(b"application/grpc") {
            self.services.call(request).await
        } else {
            self.gateway.answer(request).await
        }
    }
}
