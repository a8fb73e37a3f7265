//! Who the members are. They are given by the command line and do not change.

use ringmesh_proto::etcd::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
    cluster_server,
};
use tonic::{Request, Response, Status};

use super::Face;

#[tonic::async_trait]
impl cluster_server::Cluster for Face {
    async fn member_add(&self, _: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        Err(refused())
    }

    async fn member_remove(&self, _: Request<MemberRemoveRequest>) -> Result<Response<MemberRemoveResponse>, Status> {
        Err(refused())
    }

    async fn member_update(&self, _: Request<MemberUpdateRequest>) -> Result<Response<MemberUpdateResponse>, Status> {
        Err(refused())
    }

    async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        let members = std::sync::Arc::clone(&self.members);
        let look = move |sight: &crate::store::request::Sight<'_>| {
            let member = |member: &crate::store::settings::Member| Member {
                id: member.id,
                name: member.name.clone(),
                peer_ur_ls: vec![member.peer_url.clone()],
                client_ur_ls: sight.client_urls.get(&member.id).cloned().unwrap_or_default(),
                is_learner: false,
            };
            // Without a revision, as etcd's.
            MemberListResponse { header: sight.stamp.header(0), members: members.iter().map(member).collect() }
        };
        Ok(Response::new(self.handle.look(request.into_inner().linearizable, look).await?))
    }

    async fn member_promote(
        &self,
        _: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        Err(refused())
    }
}

fn refused() -> Status {
    Status::failed_precondition("the members of this store are given by --initial-cluster and do not change")
}
