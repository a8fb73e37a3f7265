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

use super::{Kv, Refusal, check, header, span::Span};

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
        let mut work = RangeWork { newest: Some(newest), ..RangeWork::unchecked(request.clone()) };
        while !self.read_part(&mut work, usize::MAX, usize::MAX)? {}
        Ok(work.finish())
    }

    /// Reads on, to at most so many keys and about as many bytes. True when all is read.
    ///
    /// # Errors
    /// If the revision cannot be read, or not any more: a compaction may come between two parts.
    pub fn read_on(&self, work: &mut RangeWork, keys: usize, bytes: usize) -> Result<bool, Refusal> {
        self.failure.clone().map_or(Ok(()), Err)?;
        self.read_part(work, keys, bytes)
    }

    fn read_part(&self, work: &mut RangeWork, keys: usize, bytes: usize) -> Result<bool, Refusal> {
        let newest = *work.newest.get_or_insert(self.revision);
        self.check_revision(work.request.revision, newest)?;
        let main = if work.request.revision <= 0 { newest } else { work.request.revision };
        if main < self.compacted {
            return Err(Refusal::Compacted);
        }
        let wanted = if work.request.count_only { 0 } else { fetched(&work.request) };
        let from = work.next.take().unwrap_or_else(|| work.request.key.clone());
        let (mut seen, mut read) = (0, 0);
        for (key, at) in self.index.range_at(Span::new(&from, &work.request.range_end), main) {
            if seen >= keys || read >= bytes {
                work.next = Some(Bytes::copy_from_slice(key));
                return Ok(false);
            }
            seen += 1;
            work.count += 1;
            if work.kvs.len() < wanted {
                let record = self.records.record(at)?;
                read += record.key.len() + record.value.len();
                work.kvs.push(record);
            }
        }
        Ok(true)
    }
}

/// A range that is read in parts: a large one takes long, and other work must not wait for all of it.
#[derive(Debug)]
pub struct RangeWork {
    request: RangeRequest,
    /// The newest revision when it began.
    newest: Option<i64>,
    /// Where the next part begins.
    next: Option<Bytes>,
    kvs: Vec<KeyValue>,
    count: i64,
}

impl RangeWork {
    /// Begins with the first part that is read.
    ///
    /// # Errors
    /// If the request is none.
    pub fn new(request: RangeRequest) -> Result<Self, Refusal> {
        check::range(&request)?;
        Ok(Self::unchecked(request))
    }

    fn unchecked(request: RangeRequest) -> Self {
        Self { request, newest: None, next: None, kvs: Vec::new(), count: 0 }
    }

    /// The answer, once all is read. The header holds the revision alone.
    pub fn finish(self) -> RangeResponse {
        let Self { request, newest, mut kvs, count, .. } = self;
        let header = newest.map(header);
        kvs.retain(|record| is_wanted(&request, record));
        sort(&request, &mut kvs);
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let more = limit > 0 && kvs.len() > limit;
        if more {
            kvs.truncate(limit);
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|record| record.value = Bytes::new());
        }
        RangeResponse { header, kvs, more, count }
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
