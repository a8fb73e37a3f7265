//! Keys and values.

use ringmesh_proto::{
    etcd::etcdserverpb::{
        CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
        RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse, kv_server, request_op,
    },
    store::command::Change,
};
use ringmesh_store::kv::{Kv, Outcome, RangeWork, Refusal};
use tonic::{Request, Response, Status};

use super::{Face, unexpected};
use crate::store::{permission, request::Failure};

/// Keys of a range that are read before other work is done: some hundred microseconds.
const PART_KEYS: usize = 512;

/// Bytes of a range that are read before other work is done.
const PART_BYTES: usize = 1 << 20;

/// How often a range is begun anew that compactions overtake.
const RANGE_TRIES: usize = 3;

impl Face {
    /// Reads keys.
    pub(super) async fn range_of(&self, request: RangeRequest) -> Result<RangeResponse, Failure> {
        for _ in 0..RANGE_TRIES {
            match self.range_in_parts(request.clone()).await {
                // Who named no revision does not care which it is.
                Err(Failure::Refused(Refusal::Compacted)) if request.revision <= 0 => {}
                answer => return answer,
            }
        }
        Err(Failure::TooMany)
    }

    /// The loop does other work between two parts.
    async fn range_in_parts(&self, request: RangeRequest) -> Result<RangeResponse, Failure> {
        let mut consistent = !request.serializable;
        let mut work = RangeWork::new(request)?;
        loop {
            let look = move |sight: &crate::store::request::Sight<'_>| {
                let is_whole = sight.kv.read_on(&mut work, PART_KEYS, PART_BYTES)?;
                Ok::<_, Failure>((work, is_whole, sight.stamp))
            };
            let (read, is_whole, stamp) = self.handle.look(consistent, look).await??;
            if is_whole {
                let mut response = read.finish();
                stamp.sign(&mut response.header);
                return Ok(response);
            }
            // The first part was consistent, and the others are of its revision.
            (work, consistent) = (read, false);
        }
    }

    /// Does one thing or another, as the keys are.
    pub(super) async fn txn_of(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        if Kv::txn_is_read_only(&request) {
            return Ok(self.read_only(request).await?);
        }
        if self.is_of_hosts {
            permission::check_txn(&request)?;
        }
        let changed = self.handle.change(Change::Txn(request)).await?;
        let Outcome::Txn(mut response) = changed.outcome else { return Err(unexpected()) };
        changed.stamp.sign(&mut response.header);
        Ok(response)
    }

    async fn read_only(&self, request: TxnRequest) -> Result<TxnResponse, Failure> {
        let consistent = !is_serializable(&request);
        let look = move |sight: &crate::store::request::Sight<'_>| {
            let mut response = sight.kv.read(&request)?;
            sight.stamp.sign(&mut response.header);
            Ok(response)
        };
        self.handle.look(consistent, look).await?
    }

    /// Puts a key.
    pub(super) async fn put_of(&self, request: PutRequest) -> Result<PutResponse, Status> {
        if self.is_of_hosts {
            permission::check_put(&request)?;
        }
        let changed = self.handle.change(Change::Put(request)).await?;
        let Outcome::Put(mut response) = changed.outcome else { return Err(unexpected()) };
        changed.stamp.sign(&mut response.header);
        Ok(response)
    }

    /// Deletes keys.
    pub(super) async fn delete_of(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Status> {
        if self.is_of_hosts {
            permission::check_delete(&request)?;
        }
        let changed = self.handle.change(Change::DeleteRange(request)).await?;
        let Outcome::DeleteRange(mut response) = changed.outcome else { return Err(unexpected()) };
        changed.stamp.sign(&mut response.header);
        Ok(response)
    }
}

#[tonic::async_trait]
impl kv_server::Kv for Face {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        Ok(Response::new(self.range_of(request.into_inner()).await?))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        Ok(Response::new(self.put_of(request.into_inner()).await?))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        Ok(Response::new(self.delete_of(request.into_inner()).await?))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        Ok(Response::new(self.txn_of(request.into_inner()).await?))
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        let changed = self.handle.change(Change::Compaction(request.into_inner())).await?;
        let Outcome::Compaction(mut response) = changed.outcome else { return Err(unexpected()) };
        changed.stamp.sign(&mut response.header);
        Ok(Response::new(response))
    }
}

/// Whether each read of it, and of transactions in it, may be stale; true of none.
fn is_serializable(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op: &RequestOp| match &op.request {
        Some(request_op::Request::RequestRange(range)) => range.serializable,
        Some(request_op::Request::RequestTxn(txn)) => is_serializable(txn),
        Some(request_op::Request::RequestPut(_) | request_op::Request::RequestDeleteRange(_)) => false,
        None => true,
    })
}
