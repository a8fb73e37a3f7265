//! Reads a log as it was left, and finds where it ends.

use super::{
    disk::{Disk, DiskFile},
    error::OpenError,
    frame::{self, Link, Place},
    log::{Identity, Recovery},
    record::{self, Record},
    segment,
};
use crate::consensus::Entry;

/// What was found.
pub(super) struct Found<F> {
    pub(super) recovery: Recovery,
    /// Oldest first. Only the last may be without a frame.
    pub(super) segments: Vec<Read<F>>,
    /// What the next frame in the last segment is linked to.
    pub(super) link: Link,
}

/// A segment that was read.
pub(super) struct Read<F> {
    pub(super) file: F,
    pub(super) place: Place,
    pub(super) size: usize,
    /// Where the next frame goes.
    pub(super) end: usize,
    /// Bytes after that of which some are not zero: what a torn frame left.
    pub(super) torn: usize,
    /// The largest index of its entries; 0 if it has none.
    pub(super) last_index: u64,
}

impl<F> Read<F> {
    pub(super) fn is_spare(&self) -> bool {
        self.end == segment::FRAMES
    }
}

/// Reads all segments. Changes nothing.
pub(super) fn read<D: Disk>(disk: &mut D, identity: Identity) -> Result<Found<D::File>, OpenError> {
    let mut sequences: Vec<u64> = disk.list()?.iter().filter_map(|name| segment::sequence_of(name)).collect();
    sequences.sort_unstable();
    let mut reader = Reader::new();
    let mut buffer = Vec::new();
    for sequence in sequences {
        let file = load(disk, sequence, &mut buffer)?;
        let place = segment::check(&buffer, identity, sequence)?;
        reader.check_end_before(place, &buffer)?;
        let read = reader.segment(file, place, &buffer)?;
        reader.segments.push(read);
    }
    reader.finish()
}

fn load<D: Disk>(disk: &mut D, sequence: u64, buffer: &mut Vec<u8>) -> Result<D::File, OpenError> {
    let file = disk.open(&segment::name(sequence))?;
    let size = file.size()?;
    if !(segment::MIN_BYTES..=segment::MAX_BYTES).contains(&size) {
        return Err(damaged(sequence, 0, "it has a size that no segment has"));
    }
    buffer.resize(size as usize, 0);
    file.read_at(buffer, 0)?;
    Ok(file)
}

fn damaged(sequence: u64, offset: usize, what: &'static str) -> OpenError {
    OpenError::Damaged { segment: segment::name(sequence), offset: offset as u64, what }
}

struct Reader<F> {
    recovery: Recovery,
    segments: Vec<Read<F>>,
    link: Link,
    /// The first segment that there ever was is still there, so that the log has all of its head.
    from_the_start: bool,
}

impl<F> Reader<F> {
    fn new() -> Self {
        Self {
            recovery: Recovery { is_new: true, ..Recovery::default() },
            segments: Vec::new(),
            link: Link { number: 1, chain: 0 },
            from_the_start: false,
        }
    }

    /// What comes before a segment with frames was synced before it was written to.
    fn check_end_before(&self, place: Place, segment: &[u8]) -> Result<(), OpenError> {
        let Some(before) = self.segments.last() else { return Ok(()) };
        if before.place.sequence + 1 != place.sequence {
            return Err(damaged(before.place.sequence + 1, 0, "the segment is missing"));
        }
        let is_used = !frame::is_zero(&segment[segment::FRAMES..]);
        if is_used && (before.torn > 0 || before.is_spare()) {
            return Err(damaged(before.place.sequence, before.end, "a frame is not what was written"));
        }
        Ok(())
    }

    fn segment(&mut self, file: F, place: Place, segment: &[u8]) -> Result<Read<F>, OpenError> {
        if self.segments.is_empty() {
            self.from_the_start = place.sequence == 0;
            let number = frame::number(segment, place, segment::FRAMES);
            self.link.number = number.filter(|_| !self.from_the_start).unwrap_or(1);
        }
        let size = segment.len();
        let mut read = Read { file, place, size, end: segment::FRAMES, torn: 0, last_index: 0 };
        let mut chain = 0;
        while let Some(frame) = frame::read(segment, place, read.end, Link { chain, ..self.link }) {
            self.frame(&frame.payload, &mut read)?;
            chain = frame.chain;
            self.link = Link { number: self.link.number + 1, chain };
            read.end = frame.end;
        }
        read.torn = self.judge(place, read.end, segment)?;
        Ok(read)
    }

    /// How many bytes a frame that was never synced has left at the end of this segment.
    fn judge(&self, place: Place, end: usize, segment: &[u8]) -> Result<usize, OpenError> {
        let rest = &segment[end..];
        let Some(last) = rest.iter().rposition(|byte| *byte != 0) else { return Ok(0) };
        if frame::was_synced(segment, place, end, self.link.number) || !frame::is_torn(segment, place, end) {
            return Err(damaged(place.sequence, end, "a frame is not what was written"));
        }
        Ok(last + 1)
    }

    fn frame(&mut self, mut payload: &[u8], read: &mut Read<F>) -> Result<(), OpenError> {
        let mut is_first = read.is_spare();
        let (sequence, offset) = (read.place.sequence, read.end);
        while !payload.is_empty() {
            let wrong = |what| damaged(sequence, offset, what);
            let record = record::take(&mut payload).ok_or_else(|| wrong("a record is of a kind that is not known"))?;
            if is_first != matches!(record, Record::Opening { .. }) {
                return Err(wrong("a segment does not begin as it should"));
            }
            is_first = false;
            self.record(record, read).map_err(wrong)?;
        }
        self.recovery.is_new = false;
        Ok(())
    }

    fn record(&mut self, record: Record, read: &mut Read<F>) -> Result<(), &'static str> {
        match record {
            Record::Opening { chain, hard, base } => {
                let is_first = self.segments.is_empty();
                if !is_first && (chain, hard, base) != (self.link.chain, self.recovery.hard, self.recovery.base) {
                    return Err("it does not continue the segment before");
                }
                (self.recovery.hard, self.recovery.base) = (hard, base);
            }
            Record::Hard(hard) => self.recovery.hard = hard,
            Record::Base(base) => {
                self.recovery.base = base;
                self.recovery.entries.clear();
                self.from_the_start = true;
            }
            Record::Entry(entry) => {
                read.last_index = read.last_index.max(entry.position.index);
                self.entry(entry)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry) -> Result<(), &'static str> {
        let index = entry.position.index;
        let entries = &mut self.recovery.entries;
        let first = entries.first().map(|first| first.position.index);
        if index <= self.recovery.base.index {
            return Err("an entry is older than the snapshot before it");
        }
        match first {
            None if self.from_the_start && index != self.recovery.base.index + 1 => return Err("entries are missing"),
            None => {}
            Some(first) if index < first => entries.clear(),
            Some(first) if index - first > entries.len() as u64 => return Err("entries are missing"),
            Some(first) => entries.truncate((index - first) as usize),
        }
        entries.push(entry);
        Ok(())
    }

    fn finish(self) -> Result<Found<F>, OpenError> {
        if let (true, Some(read)) = (self.recovery.is_new && !self.from_the_start, self.segments.first()) {
            return Err(damaged(
                read.place.sequence,
                segment::FRAMES,
                "it is empty, though it is not the first segment",
            ));
        }
        Ok(Found { recovery: self.recovery, segments: self.segments, link: self.link })
    }
}
