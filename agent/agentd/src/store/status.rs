//! `ringmesh.v1.Store`: who holds the configuration and why, and copies of it.

use ringmesh_node::roles::Role;
use ringmesh_proto::v1::{
    GetSnapshotRequest, GetSnapshotResponse, GetStoreStatusRequest, StoreMember, StoreStatus, store_member,
    store_server,
};
use tonic::{Request, Response, Status};

use super::{
    etcd::{Answers, Face},
    request::Sight,
};

/// Percent of the quota from which on an operator is told.
const WARN_PERCENT: u64 = 80;

#[tonic::async_trait]
impl store_server::Store for Face {
    async fn get_store_status(&self, _: Request<GetStoreStatusRequest>) -> Result<Response<StoreStatus>, Status> {
        Ok(Response::new(self.handle.look(false, status).await?))
    }

    type GetSnapshotStream = Answers<GetSnapshotResponse>;

    async fn get_snapshot(&self, _: Request<GetSnapshotRequest>) -> Result<Response<Self::GetSnapshotStream>, Status> {
        let parts = self.snapshot_parts().await?;
        let answers = futures_util::StreamExt::map(parts, |part| {
            let part = part?;
            Ok(GetSnapshotResponse { blob: part.blob, remaining_bytes: part.remaining_bytes })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn status(sight: &Sight<'_>) -> StoreStatus {
    let status = sight.consensus.status();
    let conf = &status.conf;
    let heard = conf
        .voters
        .iter()
        .filter(|id| **id == status.id || status.peers.iter().any(|peer| peer.id == **id && peer.recently_active));
    let majority = conf.voters.len() / 2 + 1;
    let leads = status.leader == Some(status.id);
    let tolerance = if leads { heard.count().saturating_sub(majority) } else { 0 };
    let members = members(sight, leads);
    let leader = members.iter().find(|member| member.leads).map(|member| member.host.clone()).unwrap_or_default();
    let (used_bytes, quota_bytes) = (sight.kv.size_in_use(), sight.kv.quota_bytes());
    let mut warnings = Vec::new();
    if status.leader.is_none() {
        warnings.push("no replica leads: nothing can be written, and only old values read".into());
    } else if leads && tolerance == 0 && conf.voters.len() > 1 {
        warnings.push("no further voter may be lost".into());
    }
    if used_bytes * 100 >= quota_bytes * WARN_PERCENT {
        warnings.push(format!("{used_bytes} of {quota_bytes} bytes are used: delete keys, or raise store.quota_bytes"));
    }
    warnings.extend(status.diverged.map(|why| why.to_string()));
    StoreStatus {
        cluster_id: format!("{:016x}", sight.stamp.cluster_id),
        leader,
        term: status.term,
        revision: sight.kv.revision(),
        compacted_revision: sight.kv.compacted(),
        used_bytes,
        quota_bytes,
        tolerance: u32::try_from(tolerance).unwrap_or(u32::MAX),
        is_changing: conf.is_joint(),
        members,
        warnings,
    }
}

fn members(sight: &Sight<'_>, leads: bool) -> Vec<StoreMember> {
    let status = sight.consensus.status();
    let standings = sight.others.standings();
    if leads && !standings.is_empty() {
        return standings
            .iter()
            .map(|standing| StoreMember {
                host: standing.name.clone(),
                role: match standing.role {
                    Role::Voter => store_member::Role::Voter,
                    Role::Standby => store_member::Role::Standby,
                    Role::Spare => store_member::Role::Spare,
                }
                .into(),
                replica: if standing.replica == 0 { String::new() } else { format!("{:016x}", standing.replica) },
                leads: standing.replica == status.id,
                heard: standing.is_heard,
                lag: standing.lag,
                why: standing.why.clone(),
            })
            .collect();
    }
    let mut members: Vec<StoreMember> = sight
        .others
        .members(sight.kv, &status.conf)
        .into_iter()
        .map(|(id, host, _)| StoreMember {
            host,
            role: if status.conf.is_voter(id) { store_member::Role::Voter } else { store_member::Role::Standby }.into(),
            replica: format!("{id:016x}"),
            leads: status.leader == Some(id),
            heard: id == status.id,
            lag: 0,
            why: String::new(),
        })
        .collect();
    members.sort_by(|a, b| (a.role, &a.host).cmp(&(b.role, &b.host)));
    members
}
