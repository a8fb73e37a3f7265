//! Keys that stand in line under a prefix, in the order in which they were made: what locks and elections are made of.
//! The one that was made first is served. Each ends with its lease, so that who dies does not block the line.

use std::time::Duration;

use bytes::Bytes;
use ringmesh_proto::etcd::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader,
        ResponseOp, TxnRequest, WatchCreateRequest, WatchRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        range_request::{SortOrder, SortTarget},
        request_op, response_op, watch_create_request, watch_request,
    },
    mvccpb::KeyValue,
};
use tonic::Status;

use super::Face;

/// Time to live, in seconds, of a lease for who has none.
const LEASE_S: i64 = 60;

/// How often that is kept alive while its place is waiting: some may fail.
const BEAT: Duration = Duration::from_secs(15);

/// A place in a line.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// All keys of the line start so.
    pub(super) prefix: Bytes,
    /// The one of this place.
    pub(super) key: Bytes,
    /// At which it was made.
    pub(super) revision: i64,
    /// With which it ends.
    pub(super) lease: i64,
    /// Whether that was made for it here, so that nobody else keeps it alive.
    pub(super) lease_is_ours: bool,
    /// What was there before, if this lease had the place already.
    pub(super) before: Option<KeyValue>,
    /// Of the transaction that made or found it.
    pub(super) header: Option<ResponseHeader>,
}

impl Face {
    /// Takes a place in the line `name` for `lease`, or finds the one that it has.
    pub(super) async fn line_up(&self, name: &[u8], lease: i64, value: Bytes) -> Result<Place, Status> {
        let lease_is_ours = lease == 0;
        let lease = if lease_is_ours { self.new_lease().await? } else { lease };
        let prefix = prefix_of(name);
        let key = Bytes::from([&prefix, format!("{lease:x}").as_bytes()].concat());
        let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
        let txn = TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![op(request_op::Request::RequestPut(put))],
            failure: vec![op(request_op::Request::RequestRange(RangeRequest {
                key: key.clone(),
                ..RangeRequest::default()
            }))],
        };
        let response = self.txn_of(txn).await?;
        let before = if response.succeeded { None } else { first_of(&response.responses) };
        let made = response.header.as_ref().map_or(0, |header| header.revision);
        let revision = before.as_ref().map_or(made, |kv| kv.create_revision);
        Ok(Place { prefix, key, revision, lease, lease_is_ours, before, header: response.header })
    }

    /// Returns when no place before that one is left, with the header of that moment; None if that one itself is gone, as
    /// when its lease has ended meanwhile.
    pub(super) async fn await_turn(&self, place: &Place) -> Result<Option<ResponseHeader>, Status> {
        loop {
            let found = self.txn_of(look_ahead(place)).await?;
            if !found.succeeded {
                return Ok(None);
            }
            let Some(last) = first_of(&found.responses) else { return Ok(found.header) };
            let revision = found.header.map_or(0, |header| header.revision);
            self.await_delete(last.key, revision + 1).await?;
        }
    }

    /// As long as it is polled, a lease that was made for `place` does not end.
    pub(super) async fn keep(&self, place: &Place) {
        if !place.lease_is_ours {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(BEAT).await;
            // If there is no answer, the next one may come in time.
            let _ = self.keep_alive_of(place.lease).await;
        }
    }

    /// The key that is served, and the header of that look.
    pub(super) async fn served(&self, name: &[u8]) -> Result<(Option<KeyValue>, Option<ResponseHeader>), Status> {
        let prefix = prefix_of(name);
        let request = RangeRequest {
            range_end: end_of(&prefix),
            key: prefix,
            limit: 1,
            sort_order: SortOrder::Ascend.into(),
            sort_target: SortTarget::Create.into(),
            ..RangeRequest::default()
        };
        let found = self.range_of(request).await?;
        Ok((found.kvs.into_iter().next(), found.header))
    }

    /// Gives a place back, if it is still that one.
    pub(super) async fn step_out(&self, key: &Bytes, revision: i64) -> Result<Option<ResponseHeader>, Status> {
        let delete = DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() };
        let txn = TxnRequest {
            compare: vec![created_at(key, revision)],
            success: vec![op(request_op::Request::RequestDeleteRange(delete))],
            failure: Vec::new(),
        };
        Ok(self.txn_of(txn).await?.header)
    }

    /// Puts a value under a place, if it is still that one; None if it is not.
    pub(super) async fn put_at(
        &self,
        key: &Bytes,
        revision: i64,
        lease: i64,
        value: Bytes,
    ) -> Result<Option<ResponseHeader>, Status> {
        let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
        let txn = TxnRequest {
            compare: vec![created_at(key, revision)],
            success: vec![op(request_op::Request::RequestPut(put))],
            failure: Vec::new(),
        };
        let response = self.txn_of(txn).await?;
        Ok(response.header.filter(|_| response.succeeded))
    }

    /// A stream with one watch, from `revision` on.
    pub(super) async fn watch_of(
        &self,
        key: Bytes,
        range_end: Bytes,
        revision: i64,
        filters: Vec<i32>,
    ) -> Result<crate::store::request::Watches, Status> {
        let watches = self.handle.watches().await?;
        let create =
            WatchCreateRequest { key, range_end, start_revision: revision, filters, ..WatchCreateRequest::default() };
        let request_union = Some(watch_request::RequestUnion::CreateRequest(create));
        watches.say(WatchRequest { request_union }).await?;
        Ok(watches)
    }

    async fn await_delete(&self, key: Bytes, revision: i64) -> Result<(), Status> {
        let filters = vec![watch_create_request::FilterType::Noput.into()];
        let mut watches = self.watch_of(key, Bytes::new(), revision, filters).await?;
        loop {
            let answer = watches.next().await?;
            // If its history is gone, so may be the key: the caller looks again.
            if answer.canceled || !answer.events.is_empty() {
                return Ok(());
            }
        }
    }

    async fn new_lease(&self) -> Result<i64, Status> {
        Ok(self.grant_of(LeaseGrantRequest { id: 0, ttl: LEASE_S }).await?.id)
    }
}

/// Of the keys of a line.
pub(super) fn prefix_of(name: &[u8]) -> Bytes {
    Bytes::from([name, b"/"].concat())
}

/// The first key after all that start with `prefix`, which ends in a slash.
pub(super) fn end_of(prefix: &Bytes) -> Bytes {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// Finds the last place before that one, if that one is still there: both at the same revision.
fn look_ahead(place: &Place) -> TxnRequest {
    let before = RangeRequest {
        key: place.prefix.clone(),
        range_end: end_of(&place.prefix),
        limit: 1,
        sort_order: SortOrder::Descend.into(),
        sort_target: SortTarget::Create.into(),
        max_create_revision: place.revision - 1,
        ..RangeRequest::default()
    };
    TxnRequest {
        compare: vec![created_at(&place.key, place.revision)],
        success: vec![op(request_op::Request::RequestRange(before))],
        failure: Vec::new(),
    }
}

fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Compare::default()
    }
}

fn op(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn first_of(responses: &[ResponseOp]) -> Option<KeyValue> {
    match responses.first()?.response.as_ref()? {
        response_op::Response::ResponseRange(range) => range.kvs.first().cloned(),
        response_op::Response::ResponsePut(_)
        | response_op::Response::ResponseDeleteRange(_)
        | response_op::Response::ResponseTxn(_) => None,
    }
}
