//! What is wrong with a request whatever the store holds.

use std::collections::{BTreeMap, BTreeSet};

use ringmesh_proto::etcd::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    range_request::{SortOrder, SortTarget},
    request_op::Request,
};

use super::{Refusal, span::Span};

/// A range has a key, and an order that there is.
pub(super) fn range(request: &RangeRequest) -> Result<(), Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    match (SortOrder::try_from(request.sort_order), SortTarget::try_from(request.sort_target)) {
        (Ok(_), Ok(_)) => Ok(()),
        (Err(_), _) | (_, Err(_)) => Err(Refusal::InvalidSortOption),
    }
}

/// A put has a key, and nothing that it says is to be kept.
pub(super) fn put(request: &PutRequest) -> Result<(), Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Refusal::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Refusal::LeaseProvided);
    }
    Ok(())
}

/// A delete has a key.
pub(super) fn delete_range(request: &DeleteRangeRequest) -> Result<(), Refusal> {
    if request.key.is_empty() { Err(Refusal::EmptyKey) } else { Ok(()) }
}

/// How deep transactions may stand inside each other: a command that is deeper would not be decoded again.
const DEPTH_MAX: usize = 32;

/// How many times the operations of one level, which `max_ops` limits as etcd does, all levels may have.
const LEVELS: usize = 8;

/// A transaction is not too long or too deep, and writes no key twice.
pub(super) fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), Refusal> {
    count(request, DEPTH_MAX, &mut max_ops.saturating_mul(LEVELS))?;
    operations(request, max_ops)?;
    written(&request.success)?;
    written(&request.failure)?;
    Ok(())
}

/// Counts what all levels have against what is left of it, and of depth.
fn count(request: &TxnRequest, depth: usize, left: &mut usize) -> Result<(), Refusal> {
    let depth = depth.checked_sub(1).ok_or(Refusal::TooManyOps)?;
    let here = request.compare.len() + request.success.len() + request.failure.len();
    *left = left.checked_sub(here).ok_or(Refusal::TooManyOps)?;
    request.success.iter().chain(&request.failure).try_for_each(|op| match &op.request {
        Some(Request::RequestTxn(inner)) => count(inner, depth, left),
        Some(Request::RequestRange(_) | Request::RequestPut(_) | Request::RequestDeleteRange(_)) | None => Ok(()),
    })
}

/// What a transaction leaves of `max_ops`, one inside it may have.
fn operations(request: &TxnRequest, max_ops: usize) -> Result<(), Refusal> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = max_ops.checked_sub(ops).ok_or(Refusal::TooManyOps)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Refusal::EmptyKey);
    }
    request.success.iter().chain(&request.failure).try_for_each(|op| operation(op, left))
}

fn operation(op: &RequestOp, max_ops: usize) -> Result<(), Refusal> {
    match &op.request {
        Some(Request::RequestRange(request)) => range(request),
        Some(Request::RequestPut(request)) => put(request),
        Some(Request::RequestDeleteRange(request)) => delete_range(request),
        Some(Request::RequestTxn(request)) => operations(request, max_ops),
        None => Err(Refusal::KeyNotFound),
    }
}

/// Whether a transaction puts anything, in any of its branches.
pub(super) fn puts(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(request)) => puts(request),
        Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => false,
    })
}

/// Whether a transaction only reads, in all of its branches.
pub(super) fn is_read_only(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestRange(_)) => true,
        Some(Request::RequestTxn(request)) => is_read_only(request),
        Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) | None => false,
    })
}

/// What the operations of a branch write.
#[derive(Default)]
struct Written<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Deletes<'a>,
}

impl<'a> Written<'a> {
    fn put(&mut self, key: &'a [u8]) -> Result<(), Refusal> {
        if self.deletes.contains(key) || !self.puts.insert(key) { Err(Refusal::DuplicateKey) } else { Ok(()) }
    }
}

/// Refuses a key that is put twice, or put and deleted, but for the two branches of a transaction inside, of which one is
/// taken.
fn written(ops: &[RequestOp]) -> Result<Written<'_>, Refusal> {
    let mut all = Written::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(request)) = &op.request {
            all.deletes.add(Span::new(&request.key, &request.range_end));
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(inner)) = &op.request else { continue };
        let (success, failure) = (written(&inner.success)?, written(&inner.failure)?);
        success.puts.iter().try_for_each(|key| all.put(key))?;
        failure.puts.difference(&success.puts).try_for_each(|key| all.put(key))?;
        all.deletes.append(success.deletes);
        all.deletes.append(failure.deletes);
    }
    for op in ops {
        if let Some(Request::RequestPut(request)) = &op.request {
            all.put(&request.key)?;
        }
    }
    Ok(all)
}

/// Deleted keys.
#[derive(Default)]
struct Deletes<'a> {
    keys: BTreeSet<&'a [u8]>,
    /// End by start. They neither overlap nor touch.
    ranges: BTreeMap<&'a [u8], &'a [u8]>,
}

impl<'a> Deletes<'a> {
    /// A range without an end does not count, as with etcd, which takes the zero byte for an end like any other here: what is
    /// put after it, in the order of the operations, stays.
    fn add(&mut self, span: Span<'a>) {
        match span {
            Span::One(key) => _ = self.keys.insert(key),
            Span::Between(start, end) if start < end => self.add_range(start, end),
            Span::From(_) | Span::Between(..) => {}
        }
    }

    fn add_range(&mut self, mut start: &'a [u8], mut end: &'a [u8]) {
        while let Some((&from, &to)) = self.ranges.range(..=end).next_back()
            && to >= start
        {
            self.ranges.remove(from);
            (start, end) = (start.min(from), end.max(to));
        }
        self.ranges.insert(start, end);
    }

    fn append(&mut self, other: Self) {
        self.keys.extend(other.keys);
        other.ranges.into_iter().for_each(|(start, end)| self.add_range(start, end));
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.keys.contains(key) || self.ranges.range(..=key).next_back().is_some_and(|(_, end)| key < *end)
    }
}

#[cfg(test)]
mod tests;
