//! Leases. Their deadlines are the leader's: what asks for time goes to it.

use std::time::Duration;

use rand::{TryRng, rngs::SysRng};
use ringmesh_proto::{
    etcd::etcdserverpb::{
        LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
        LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
        LeaseTimeToLiveResponse, lease_server,
    },
    store::command::Change,
};
use ringmesh_store::kv::Outcome;
use tonic::{Request, Response, Status, Streaming};

use super::{Answers, Face, unexpected};
use crate::store::request::Left;

impl Face {
    /// A new lease; the id is chosen here if it is 0.
    pub(super) async fn grant_of(&self, mut request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Status> {
        if request.id == 0 {
            request.id = random_id()?;
        }
        let changed = self.handle.change(Change::LeaseGrant(request)).await?;
        let Outcome::LeaseGrant(mut response) = changed.outcome else { return Err(unexpected()) };
        changed.stamp.sign(&mut response.header);
        Ok(response)
    }

    /// TTL 0 says that there is no such lease.
    pub(super) async fn keep_alive_of(&self, lease: i64) -> Result<LeaseKeepAliveResponse, Status> {
        let Left { left, header } = self.handle.lease(lease, true).await?;
        Ok(LeaseKeepAliveResponse { header, id: lease, ttl: left.map_or(0, seconds) })
    }
}

#[tonic::async_trait]
impl lease_server::Lease for Face {
    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        Ok(Response::new(self.grant_of(request.into_inner()).await?))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let changed = self.handle.change(Change::LeaseRevoke(request.into_inner())).await?;
        let Outcome::LeaseRevoke(mut response) = changed.outcome else { return Err(unexpected()) };
        changed.stamp.sign(&mut response.header);
        Ok(Response::new(response))
    }

    type LeaseKeepAliveStream = Answers<LeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let state = Some((self.clone(), request.into_inner()));
        let answers = futures_util::stream::unfold(state, |state| async {
            let (face, mut client) = state?;
            let request = client.message().await.ok().flatten()?;
            match face.keep_alive_of(request.id).await {
                Ok(answer) => Some((Ok(answer), Some((face, client)))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let Left { left, .. } = self.handle.lease(id, false).await?;
        let look = move |sight: &crate::store::request::Sight<'_>| {
            let header = sight.stamp.header(sight.kv.revision());
            let leases = sight.kv.leases();
            let (Some(left), Some(granted_ttl)) = (left, leases.ttl_s(id)) else {
                return LeaseTimeToLiveResponse { header, id, ttl: -1, ..LeaseTimeToLiveResponse::default() };
            };
            let keys = if keys { leases.keys(id).map(bytes::Bytes::copy_from_slice).collect() } else { Vec::new() };
            LeaseTimeToLiveResponse { header, id, ttl: seconds(left), granted_ttl, keys }
        };
        Ok(Response::new(self.handle.look(true, look).await?))
    }

    async fn lease_leases(&self, _: Request<LeaseLeasesRequest>) -> Result<Response<LeaseLeasesResponse>, Status> {
        let look = |sight: &crate::store::request::Sight<'_>| LeaseLeasesResponse {
            header: sight.stamp.header(sight.kv.revision()),
            leases: sight.kv.leases().iter().map(|(id, _)| LeaseStatus { id }).collect(),
        };
        Ok(Response::new(self.handle.look(true, look).await?))
    }
}

fn random_id() -> Result<i64, Status> {
    let random = SysRng.try_next_u64().map_err(|_| Status::internal("the platform gave no randomness"))?;
    // Positive, and not 0.
    Ok(i64::try_from(random >> 1).unwrap_or(i64::MAX).max(1))
}

fn seconds(left: Duration) -> i64 {
    i64::try_from(left.as_secs()).unwrap_or(i64::MAX)
}
