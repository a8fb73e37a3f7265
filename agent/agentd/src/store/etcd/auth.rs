//! Users and passwords, which there are none of.

use ringmesh_proto::etcd::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse, AuthenticateRequest,
    AuthenticateResponse, auth_server,
};
use tonic::{Request, Response, Status};

use super::Face;

#[tonic::async_trait]
impl auth_server::Auth for Face {
    async fn auth_enable(&self, _: Request<AuthEnableRequest>) -> Result<Response<AuthEnableResponse>, Status> {
        Err(Status::failed_precondition("etcdserver: root user does not exist"))
    }

    /// It is off.
    async fn auth_disable(&self, _: Request<AuthDisableRequest>) -> Result<Response<AuthDisableResponse>, Status> {
        let header = self.handle.look(false, |sight| sight.stamp.header(sight.kv.revision())).await?;
        Ok(Response::new(AuthDisableResponse { header }))
    }

    async fn authenticate(&self, _: Request<AuthenticateRequest>) -> Result<Response<AuthenticateResponse>, Status> {
        Err(Status::failed_precondition("etcdserver: authentication is not enabled"))
    }
}
