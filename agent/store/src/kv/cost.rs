//! What a transaction reads: bounded before anything is written, alike on every replica. One that no replica could answer
//! would end them all, and again whenever the log is applied.

use ringmesh_proto::etcd::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest};

use super::{Kv, Refusal, range::fetched, record, revision::Revision, span::Span};

/// Keys that a transaction may find in the index, over all of its operations: some hundred milliseconds. In tests few.
pub(super) const MATCHES_MAX: usize = if cfg!(test) { 1000 } else { 1 << 20 };

/// About the bytes of all that it reads. In tests few.
pub(super) const BYTES_MAX: u64 = if cfg!(test) { 1 << 20 } else { 128 << 20 };

/// What a transaction may still read.
#[derive(Debug)]
pub(super) struct Cost<'a> {
    matches: usize,
    bytes: u64,
    /// What it has put: what it reads afterwards may be that.
    puts: Vec<(&'a [u8], u64)>,
}

impl<'a> Cost<'a> {
    pub(super) fn new() -> Self {
        Self { matches: MATCHES_MAX, bytes: BYTES_MAX, puts: Vec::new() }
    }

    /// A condition over several keys.
    pub(super) fn compare(&mut self, kv: &Kv, compare: &Compare) -> Result<(), Refusal> {
        let span = Span::new(&compare.key, &compare.range_end);
        if let Span::One(_) = span {
            return Ok(());
        }
        let found = kv.index.range_alive(span).take(self.matches + 1).count();
        self.take_matches(found)
    }

    /// A put.
    pub(super) fn put(&mut self, request: &'a PutRequest) {
        self.puts.push((&request.key, request.value.len() as u64));
    }

    /// A range.
    pub(super) fn range(&mut self, kv: &Kv, request: &RangeRequest) -> Result<(), Refusal> {
        let span = Span::new(&request.key, &request.range_end);
        let main = if request.revision <= 0 { kv.revision } else { request.revision };
        let fetched = if request.count_only { 0 } else { fetched(request) };
        self.read(kv, kv.index.range_at(span, main).map(|(_, at)| at), fetched)?;
        if request.count_only { Ok(()) } else { self.read_puts(span) }
    }

    /// A delete.
    pub(super) fn delete(&mut self, kv: &Kv, request: &DeleteRangeRequest) -> Result<(), Refusal> {
        let span = Span::new(&request.key, &request.range_end);
        let fetched = if request.prev_kv { usize::MAX } else { 0 };
        self.read(kv, kv.index.range_alive(span).map(|(_, history)| history.last()), fetched)
    }

    /// All that is found is passed, and the first so many are read.
    fn read(&mut self, kv: &Kv, found: impl Iterator<Item = Revision>, fetched: usize) -> Result<(), Refusal> {
        for (number, at) in found.enumerate() {
            self.take_matches(1)?;
            if number < fetched {
                self.take_bytes(record::size_bytes(&kv.records.record(at)?))?;
            }
        }
        Ok(())
    }

    fn read_puts(&mut self, span: Span<'_>) -> Result<(), Refusal> {
        let bytes = self.puts.iter().filter(|(key, _)| span.contains(key)).map(|(_, bytes)| bytes).sum();
        self.take_bytes(bytes)
    }

    fn take_matches(&mut self, count: usize) -> Result<(), Refusal> {
        self.matches = self.matches.checked_sub(count).ok_or(Refusal::TooManyOps)?;
        Ok(())
    }

    fn take_bytes(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or(Refusal::TooManyOps)?;
        Ok(())
    }
}
