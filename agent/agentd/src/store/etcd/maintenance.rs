//! What an operator asks of a member.

use bytes::Bytes;
use futures_util::Stream;
use ringmesh_proto::{
    etcd::etcdserverpb::{
        AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse, HashKvRequest, HashKvResponse,
        HashRequest, HashResponse, MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse,
        StatusRequest, StatusResponse, maintenance_server,
    },
    store::command::Change,
};
use ringmesh_store::kv::{Outcome, Snapshot};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::{Answers, Face, VERSION, unexpected};

/// A whole snapshot has a multiple of so many bytes, without its sum.
const BLOCK_BYTES: u64 = 512;

/// About what comes after the keys.
const END_BYTES: u64 = BLOCK_BYTES / 2;

/// Parts of a snapshot that are read ahead of a client.
const PARTS_AHEAD: usize = 4;

#[tonic::async_trait]
impl maintenance_server::Maintenance for Face {
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        let changed = self.handle.change(Change::Alarm(request.into_inner())).await?;
        let Outcome::Alarm(mut response) = changed.outcome else { return Err(unexpected()) };
        changed.stamp.sign(&mut response.header);
        Ok(Response::new(response))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(self.handle.look(false, status).await?))
    }

    /// Nothing to do: the file's pages are used again as the store runs. Without a header, as etcd's.
    async fn defragment(&self, _: Request<DefragmentRequest>) -> Result<Response<DefragmentResponse>, Status> {
        Ok(Response::new(DefragmentResponse { header: None }))
    }

    async fn hash(&self, _: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let summed = self.sum(0).await?;
        Ok(Response::new(HashResponse { header: summed.header, hash: summed.hash }))
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        Ok(Response::new(self.sum(request.into_inner().revision).await?))
    }

    type SnapshotStream = Answers<SnapshotResponse>;

    async fn snapshot(&self, _: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        Ok(Response::new(Box::pin(self.snapshot_parts().await?)))
    }

    async fn move_leader(&self, request: Request<MoveLeaderRequest>) -> Result<Response<MoveLeaderResponse>, Status> {
        self.handle.transfer(request.into_inner().target_id).await?;
        // Without a header, as etcd's.
        Ok(Response::new(MoveLeaderResponse { header: None }))
    }
}

impl Face {
    /// All keys as they are now, in parts.
    pub(in crate::store) async fn snapshot_parts(
        &self,
    ) -> Result<impl Stream<Item = Result<SnapshotResponse, Status>> + Send + 'static + use<>, Status> {
        let snapshot = self.handle.snapshot().await?;
        let (sender, parts) = mpsc::channel(PARTS_AHEAD);
        tokio::task::spawn_blocking(move || send(snapshot, &sender));
        Ok(tokio_stream::wrappers::ReceiverStream::new(parts))
    }

    /// It reads everything: on a thread that nothing else waits for.
    async fn sum(&self, revision: i64) -> Result<HashKvResponse, Status> {
        let work = self.handle.hash(revision).await?;
        let stamp = self.handle.look(false, |sight| sight.stamp).await?;
        let summed = tokio::task::spawn_blocking(move || work.run()).await;
        let mut response = summed
            .map_err(|_| Status::internal("the sum broke off; the log says more"))?
            .map_err(crate::store::request::Failure::from)?;
        stamp.sign(&mut response.header);
        Ok(response)
    }
}

fn status(sight: &crate::store::request::Sight<'_>) -> StatusResponse {
    let status = sight.consensus.status();
    let size = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let mut errors: Vec<String> = sight
        .kv
        .alarms(AlarmType::None)
        .iter()
        .map(|alarm| format!("memberID:{} alarm:{} ", alarm.member_id, alarm.alarm().as_str_name()))
        .collect();
    errors.extend(status.diverged.map(|why| why.to_string()));
    if status.leader.is_none() {
        errors.push("etcdserver: no leader".into());
    }
    StatusResponse {
        header: sight.stamp.header(sight.kv.revision()),
        version: VERSION.into(),
        db_size: size(sight.kv.size_bytes()),
        leader: status.leader.unwrap_or(0),
        raft_index: status.commit,
        raft_term: status.term,
        raft_applied_index: sight.kv.applied().index,
        errors,
        db_size_in_use: size(sight.kv.size_in_use()),
        is_learner: status.conf.learners.contains(&status.id),
    }
}

/// Until its client has gone, or there is no more. In the end come the length, so that a multiple of 512 bytes is full,
/// and the SHA-256 of all before it: etcd's clients take no snapshot without.
fn send(mut snapshot: Snapshot, parts: &mpsc::Sender<Result<SnapshotResponse, Status>>) {
    let (mut hash, mut length) = (Sha256::new(), 0_u64);
    while let Some(part) = snapshot.next() {
        let blob = match part {
            Ok(blob) => blob,
            Err(error) => {
                tracing::error!(error = crate::disk::one_line_of(&error), "a snapshot cannot be read");
                // Whoever asked may have gone.
                let _ = parts.blocking_send(Err(Status::data_loss("the keys cannot be read; the log says more")));
                return;
            }
        };
        hash.update(&blob);
        length += blob.len() as u64;
        let remaining_bytes = snapshot.remaining_bytes() + END_BYTES;
        if parts.blocking_send(Ok(SnapshotResponse { header: None, remaining_bytes, blob })).is_err() {
            return;
        }
    }
    let _ = parts.blocking_send(Ok(SnapshotResponse { header: None, remaining_bytes: 0, blob: end(hash, length) }));
}

fn end(mut hash: Sha256, length: u64) -> Bytes {
    let zeros = (BLOCK_BYTES - (length + 8) % BLOCK_BYTES) % BLOCK_BYTES;
    let mut end = vec![0; usize::try_from(zeros).expect("less than a block")];
    end.extend(length.to_be_bytes());
    hash.update(&end);
    end.extend(hash.finalize());
    end.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_ends_with_its_length_and_its_sum_at_the_end_of_a_block() {
        for length in [0, 1, 503, 504, 505, 512, 70_000] {
            let snapshot = vec![7; length];
            let end = end(Sha256::new_with_prefix(&snapshot), length as u64);
            let whole = [snapshot.as_slice(), &end].concat();
            assert_eq!(whole.len() % 512, 32, "{length}");
            let (before, sum) = whole.split_at(whole.len() - 32);
            assert_eq!(Sha256::digest(before).as_slice(), sum);
            assert_eq!(before[before.len() - 8..], (length as u64).to_be_bytes());
        }
    }
}
