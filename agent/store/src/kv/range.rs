//! Reads.

use std::cmp::Ordering;

use bytes::Bytes;
use ringmesh_proto::etcd::{
    etcdserverpb::{
        RangeRequest, RangeResponse,
        range_request::{SortOrder, SortTarget},
    },
    mvccpb::KeyValue,
};

use super::{Kv, Refusal, header, revision::Revision, span::Span};

impl Kv {
    /// Whether a revision can be read, of which 0, and less, is the newest.
    pub(super) fn check_revision(&self, revision: i64, newest: i64) -> Result<(), Refusal> {
        if revision > newest {
            return Err(Refusal::FutureRevision);
        }
        if revision > 0 && revision < self.compacted {
            return Err(Refusal::Compacted);
        }
        Ok(())
    }

    /// Reads keys, where `newest` is the revision of now: one that is being written, in a transaction that wrote already.
    pub(super) fn range_at(&self, request: &RangeRequest, newest: i64) -> Result<RangeResponse, Refusal> {
        self.check_revision(request.revision, newest)?;
        let main = if request.revision <= 0 { newest } else { request.revision };
        let found = self.index.range_at(Span::new(&request.key, &request.range_end), main);
        let header = Some(header(newest));
        if request.count_only {
            return Ok(RangeResponse { header, count: found.count() as i64, ..RangeResponse::default() });
        }
        let (mut kvs, count) = self.fetch(found, fetched(request))?;
        kvs.retain(|record| is_wanted(request, record));
        sort(request, &mut kvs);
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let more = limit > 0 && kvs.len() > limit;
        if more {
            kvs.truncate(limit);
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|record| record.value = Bytes::new());
        }
        Ok(RangeResponse { header, kvs, more, count })
    }

    /// So many of the records, and the count of all.
    fn fetch(&self, found: impl Iterator<Item = Revision>, limit: usize) -> Result<(Vec<KeyValue>, i64), Refusal> {
        let (mut kvs, mut count) = (Vec::new(), 0);
        for at in found {
            count += 1;
            if kvs.len() < limit {
                kvs.push(self.records.record(at)?);
            }
        }
        Ok((kvs, count))
    }
}

/// How many records must be read, in the order of their keys, one more than is asked for so as to know of more. Where the
/// order is not given but what by is, etcd sorts what it read so; and so do we.
pub(super) fn fetched(request: &RangeRequest) -> usize {
    let is_whole = request.sort_order != i32::from(SortOrder::None)
        || request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    match usize::try_from(request.limit) {
        Ok(limit) if limit > 0 && !is_whole => limit.saturating_add(1),
        Ok(_) | Err(_) => usize::MAX,
    }
}

fn is_wanted(request: &RangeRequest, record: &KeyValue) -> bool {
    let is_inside = |revision: i64, min: i64, max: i64| (min == 0 || revision >= min) && (max == 0 || revision <= max);
    is_inside(record.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && is_inside(record.create_revision, request.min_create_revision, request.max_create_revision)
}

fn sort(request: &RangeRequest, kvs: &mut [KeyValue]) {
    let target = request.sort_target();
    let is_descending = match request.sort_order() {
        SortOrder::None | SortOrder::Ascend if target == SortTarget::Key => return,
        SortOrder::None | SortOrder::Ascend => false,
        SortOrder::Descend => true,
    };
    kvs.sort_by(|a, b| {
        let ordering = compare(target, a, b);
        if is_descending { ordering.reverse() } else { ordering }
    });
}

fn compare(target: SortTarget, a: &KeyValue, b: &KeyValue) -> Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}
