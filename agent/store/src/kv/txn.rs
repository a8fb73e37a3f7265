//! Transactions.
//!
//! All conditions, of the transactions inside too, are of the state before it: which branches are taken is known before
//! anything is written, and so is what there is to refuse.

use ringmesh_proto::etcd::etcdserverpb::{
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse, request_op::Request, response_op::Response,
};

use super::{Kv, Refusal, cost::Cost, header, write::Writing};

/// Which branch a transaction takes, and then those inside of that branch, in order.
type Path = std::vec::IntoIter<bool>;

impl Kv {
    /// Applies a transaction.
    pub(super) fn txn(&mut self, writing: &mut Writing, request: &TxnRequest) -> Result<TxnResponse, Refusal> {
        let mut cost = Cost::new();
        let path = self.path(request, &mut cost)?;
        self.check_txn(request, &mut path.clone())?;
        self.check_cost(request, &mut path.clone(), &mut cost)?;
        let mut response = self.run(writing, request, &mut path.clone())?;
        response.header = Some(header(writing.newest()));
        Ok(response)
    }

    /// Answers a transaction that only reads.
    pub(super) fn read_txn(&self, request: &TxnRequest) -> Result<TxnResponse, Refusal> {
        let mut cost = Cost::new();
        let path = self.path(request, &mut cost)?;
        self.check_txn(request, &mut path.clone())?;
        self.check_cost(request, &mut path.clone(), &mut cost)?;
        let mut response = self.run_reads(request, &mut path.clone())?;
        response.header = Some(header(self.revision));
        Ok(response)
    }

    fn path(&self, request: &TxnRequest, cost: &mut Cost<'_>) -> Result<Path, Refusal> {
        let mut path = Vec::new();
        self.choose(request, &mut path, cost)?;
        Ok(path.into_iter())
    }

    fn choose(&self, request: &TxnRequest, path: &mut Vec<bool>, cost: &mut Cost<'_>) -> Result<(), Refusal> {
        let mut succeeded = true;
        for compare in &request.compare {
            cost.compare(self, compare)?;
            succeeded = succeeded && self.holds(compare)?;
        }
        path.push(succeeded);
        for op in branch(request, succeeded) {
            if let Some(Request::RequestTxn(inner)) = &op.request {
                self.choose(inner, path, cost)?;
            }
        }
        Ok(())
    }

    /// What can be refused of the branches that are taken: first of puts, then of ranges, as etcd does.
    fn check_txn(&self, request: &TxnRequest, path: &mut Path) -> Result<(), Refusal> {
        let mut of_ranges = path.clone();
        self.check_ops(request, path, &|request| match request {
            Request::RequestPut(request) => self.check_put(request),
            Request::RequestRange(_) | Request::RequestDeleteRange(_) | Request::RequestTxn(_) => Ok(()),
        })?;
        self.check_ops(request, &mut of_ranges, &|request| match request {
            // Here a revision below 0 is one that is compacted, and outside of transactions the newest: as with etcd.
            Request::RequestRange(request) if request.revision < self.compacted && request.revision != 0 => {
                Err(Refusal::Compacted)
            }
            Request::RequestRange(request) => self.check_revision(request.revision, self.revision),
            Request::RequestPut(_) | Request::RequestDeleteRange(_) | Request::RequestTxn(_) => Ok(()),
        })
    }

    /// That what the branches that are taken read is not too much.
    fn check_cost<'a>(&self, request: &'a TxnRequest, path: &mut Path, cost: &mut Cost<'a>) -> Result<(), Refusal> {
        for op in branch(request, taken(path)).iter().filter_map(|op| op.request.as_ref()) {
            match op {
                Request::RequestPut(request) => cost.put(request),
                Request::RequestRange(request) => cost.range(self, request)?,
                Request::RequestDeleteRange(request) => cost.delete(self, request)?,
                Request::RequestTxn(inner) => self.check_cost(inner, path, cost)?,
            }
        }
        Ok(())
    }

    fn check_ops(
        &self,
        request: &TxnRequest,
        path: &mut Path,
        check: &dyn Fn(&Request) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        for op in branch(request, taken(path)).iter().filter_map(|op| op.request.as_ref()) {
            check(op)?;
            if let Request::RequestTxn(inner) = op {
                self.check_ops(inner, path, check)?;
            }
        }
        Ok(())
    }

    fn run(&mut self, writing: &mut Writing, request: &TxnRequest, path: &mut Path) -> Result<TxnResponse, Refusal> {
        let succeeded = taken(path);
        let mut responses = Vec::new();
        for op in branch(request, succeeded) {
            let response = match &op.request {
                Some(Request::RequestRange(request)) => {
                    Some(Response::ResponseRange(self.range_at(request, writing.newest())?))
                }
                Some(Request::RequestPut(request)) => Some(Response::ResponsePut(self.put(writing, request)?)),
                Some(Request::RequestDeleteRange(request)) => {
                    Some(Response::ResponseDeleteRange(self.delete_range(writing, request)?))
                }
                Some(Request::RequestTxn(request)) => Some(Response::ResponseTxn(self.run(writing, request, path)?)),
                None => None,
            };
            responses.push(ResponseOp { response });
        }
        Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
    }

    fn run_reads(&self, request: &TxnRequest, path: &mut Path) -> Result<TxnResponse, Refusal> {
        let succeeded = taken(path);
        let mut responses = Vec::new();
        for op in branch(request, succeeded) {
            let response = match &op.request {
                Some(Request::RequestRange(request)) => {
                    Some(Response::ResponseRange(self.range_at(request, self.revision)?))
                }
                Some(Request::RequestTxn(request)) => Some(Response::ResponseTxn(self.run_reads(request, path)?)),
                Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) | None => None,
            };
            responses.push(ResponseOp { response });
        }
        Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
    }
}

fn branch(request: &TxnRequest, succeeded: bool) -> &[ringmesh_proto::etcd::etcdserverpb::RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

fn taken(path: &mut Path) -> bool {
    path.next().expect("the path was made for this transaction")
}
