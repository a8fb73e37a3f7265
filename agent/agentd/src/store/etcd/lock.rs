//! Locks: who stands first in line has it.

use bytes::Bytes;
use ringmesh_proto::etcd::{
    etcdserverpb::DeleteRangeRequest,
    v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse, lock_server},
};
use tonic::{Request, Response, Status};

use super::{Face, queue::Place};

/// Gives the place in the line back if the caller goes before it is served.
struct Waiting {
    face: Face,
    place: Option<Place>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else { return };
        let face = self.face.clone();
        // If it fails, or this process ends, the lease ends the place.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { face.step_out(&place.key, place.revision).await });
        }
    }
}

impl Face {
    /// Takes a place and returns it when it is served; `gone` is said if it ends before.
    pub(super) async fn serve_in_turn(&self, place: Place, gone: &'static str) -> Result<Place, Status> {
        let mut waiting = Waiting { face: self.clone(), place: Some(place.clone()) };
        let header = tokio::select! {
            header = self.await_turn(&place) => header?,
            () = self.keep(&place) => None,
        };
        let header = Some(header.ok_or_else(|| Status::unknown(gone))?);
        waiting.place = None;
        Ok(Place { header, ..place })
    }
}

#[tonic::async_trait]
impl lock_server::Lock for Face {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let LockRequest { name, lease } = request.into_inner();
        let place = self.line_up(&name, lease, Bytes::new()).await?;
        let place = self.serve_in_turn(place, "mutex: session is expired").await?;
        Ok(Response::new(LockResponse { header: place.header, key: place.key }))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let delete = DeleteRangeRequest { key: request.into_inner().key, ..DeleteRangeRequest::default() };
        let response = self.delete_of(delete).await?;
        Ok(Response::new(UnlockResponse { header: response.header }))
    }
}
