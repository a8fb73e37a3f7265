//! Who the members are. They are given by the command line, or chosen by the hosts among themselves; no client changes
//! them.

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
        let look = |sight: &crate::store::request::Sight<'_>| {
            let conf = sight.consensus.status().conf;
            let member = |(id, name, peer_ur_ls)| Member {
                id,
                name,
                peer_ur_ls,
                client_ur_ls: sight.client_urls.get(&id).cloned().unwrap_or_default(),
                is_learner: conf.learners.contains(&id),
            };
            let members = sight.others.members(sight.kv, &conf).into_iter().map(member).collect();
            // Without a revision, as etcd's.
            MemberListResponse { header: sight.stamp.header(0), members }
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
    Status::failed_precondition(
        "no client changes the members: those of a standalone store are given by --initial-cluster, and hosts choose them \
         among themselves",
    )
}
