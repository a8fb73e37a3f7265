//! The log.

use std::collections::VecDeque;

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    disk::{Disk, DiskFile},
    error::{OpenError, WriteError},
    frame::{self, Link, Place},
    record, recovery, segment,
};
use crate::consensus::{Applied, Entry, FRESH, HardState, Persist, Position};

/// Bytes of records above which the next one begins another frame: what is read in one piece stays small.
const FRAME_BYTES: usize = 1 << 20;
/// Capacity of the buffers, in bytes, above which they are given back after a batch.
const KEPT_BYTES: usize = 256 << 10;

/// Whose log it is. In each segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: u64,
    /// The member.
    pub member: u64,
}

/// What can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of a segment, from 4 KiB to 64 MiB, and larger than any entry. Default 8 MiB. Segments that are there already
    /// keep theirs.
    pub segment_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { segment_bytes: 8 << 20 }
    }
}

/// What a log held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Nothing was ever stored: a new disk, or a wiped one.
    pub is_new: bool,
    /// As last stored.
    pub hard: HardState,
    /// What the log starts after, as last stored by a snapshot; zeros if there was none.
    pub base: Position,
    /// In order, without holes. They begin after `base`, or later if the log has been cut.
    pub entries: Vec<Entry>,
}

impl Recovery {
    pub(super) fn last(&self) -> Position {
        self.entries.last().map_or(self.base, |last| last.position)
    }

    /// Whether this place is on the way of this log, as far as it knows.
    fn has(&self, place: Position) -> bool {
        let known = self.entries.iter().map(|entry| entry.position).chain([self.base]);
        let differs = known.into_iter().any(|known| known.index == place.index && known.term != place.term);
        place.index <= self.last().index && !differs
    }
}

/// A log on disk. It has one owner, who may have a thread of its own: each call blocks as long as the disk does.
pub struct Wal<D: Disk> {
    disk: D,
    identity: Identity,
    segment_bytes: u64,
    rng: StdRng,
    /// Those before the one that is written to, oldest first.
    full: VecDeque<Full>,
    tail: Option<Tail<D::File>>,
    spare: Option<Tail<D::File>>,
    next_sequence: u64,
    link: Link,
    /// The last frame that is durable.
    synced: u64,
    hard: HardState,
    base: Position,
    /// The index after the last entry.
    next_index: u64,
    /// Records of the frame that is being made.
    payload: Vec<u8>,
    /// Frames that are not written yet, for the place where `tail.end` points.
    frames: Vec<u8>,
    has_failed: bool,
}

struct Full {
    sequence: u64,
    last_index: u64,
}

struct Tail<F> {
    file: F,
    place: Place,
    size: usize,
    end: usize,
    last_index: u64,
}

impl<D: Disk> Wal<D> {
    /// Opens the log in this directory, or begins one. `seed` is for the marks that tell our frames from what looks like
    /// one: it differs from start to start.
    ///
    /// A batch whose writing was broken off is cut.
    ///
    /// # Errors
    /// If the log is another member's, is damaged or cannot be read; then nothing has been changed.
    pub fn open(mut disk: D, identity: Identity, settings: Settings, seed: u64) -> Result<(Self, Recovery), OpenError> {
        let found = recovery::read(&mut disk, identity)?;
        let last = found.recovery.last();
        let mut wal = Self {
            disk,
            identity,
            segment_bytes: settings.segment_bytes.clamp(segment::MIN_BYTES, segment::MAX_BYTES),
            rng: StdRng::seed_from_u64(seed),
            full: VecDeque::new(),
            tail: None,
            spare: None,
            next_sequence: found.segments.last().map_or(0, |last| last.place.sequence + 1),
            link: found.link,
            synced: found.link.number - 1,
            hard: found.recovery.hard,
            base: found.recovery.base,
            next_index: last.index + 1,
            payload: Vec::new(),
            frames: Vec::new(),
            has_failed: false,
        };
        wal.remove_unfinished()?;
        for read in found.segments {
            wal.take_over(read)?;
        }
        Ok((wal, found.recovery))
    }

    /// Stores these, in this order. On return they are durable: with one write and one sync, unless a segment is full.
    ///
    /// # Errors
    /// If the disk fails. The log is of no use then: what is on it is known again when it is opened again.
    pub fn append(&mut self, batch: &[Persist]) -> Result<(), WriteError> {
        self.guarded(|wal| {
            let mut replaced = None;
            for persist in batch {
                replaced = wal.put(persist)?.or(replaced);
            }
            wal.seal();
            wal.write()?;
            // Only now: the snapshot's position is durable.
            replaced.map_or(Ok(()), |sequence| wal.remove_full(|full| full.sequence < sequence))
        })
    }

    /// To be called before keys that came with a snapshot are put in the place of others: makes its term durable. Keys of a
    /// later term than the log's are a sign that the log was lost.
    ///
    /// # Errors
    /// As with `append`.
    pub fn announce(&mut self, persist: &Persist) -> Result<(), WriteError> {
        let Some(next) = persist.hard.filter(|next| next.term > self.hard.term) else { return Ok(()) };
        // Its vote is told to nobody before all of it is stored. Who has not begun has not begun by this either: neither who
        // joins, nor a founder, whose term is 1.
        let is_fresh = next.vote == FRESH || self.hard.vote == FRESH || (self.hard.term <= 1 && self.hard.vote == 0);
        let vote = if is_fresh { FRESH } else { 0 };
        let hard = Some(HardState { term: next.term, vote, commit: self.hard.commit });
        self.append(&[Persist { number: 0, snapshot: None, entries: Vec::new(), hard }])
    }

    /// To be called between `open` and the start of consensus, with the place that the keys have applied.
    ///
    /// If they were replaced by a snapshot and the power was lost before the log was told, the log is told now.
    ///
    /// # Errors
    /// As with `append`.
    pub fn align(&mut self, recovery: &mut Recovery, applied: Position) -> Result<(), WriteError> {
        // With an earlier term it is no crash but a log that was lost, which consensus says.
        if recovery.has(applied) || recovery.hard.term < applied.term {
            return Ok(());
        }
        let snapshot = Some(Applied { position: applied, conf: Bytes::new() });
        self.append(&[Persist { number: 0, snapshot, entries: Vec::new(), hard: None }])?;
        recovery.base = applied;
        recovery.entries.clear();
        Ok(())
    }

    /// Gives up segments of which no entry has this index or a larger one: what the log has after it is all that is needed.
    ///
    /// # Errors
    /// As with `append`.
    pub fn cut(&mut self, below: u64) -> Result<(), WriteError> {
        self.guarded(|wal| wal.remove_full(|full| full.last_index < below))
    }

    /// Makes the next segment ahead of need, so that no batch waits for it. To be called when there is nothing else to do.
    ///
    /// # Errors
    /// If the disk fails, or is full. The log goes on then as long as its segment has room.
    pub fn prepare(&mut self) -> Result<(), WriteError> {
        if self.has_failed {
            return Err(WriteError::Failed);
        }
        if self.spare.is_none() {
            self.spare = Some(self.create()?);
        }
        Ok(())
    }

    /// How many segments there are, the spare one not counted.
    pub fn segments(&self) -> usize {
        self.full.len() + usize::from(self.tail.is_some())
    }

    /// A failed write or sync may have left anything, and a later sync does not say so.
    fn guarded(&mut self, act: impl FnOnce(&mut Self) -> Result<(), WriteError>) -> Result<(), WriteError> {
        if self.has_failed {
            return Err(WriteError::Failed);
        }
        let done = act(self);
        self.has_failed = done.is_err();
        done
    }

    /// If it replaces all that was before, the first segment that is still needed.
    fn put(&mut self, persist: &Persist) -> Result<Option<u64>, WriteError> {
        let mut replaced = None;
        if let Some(hard) = persist.hard.filter(|hard| (hard.term, hard.vote) != (self.hard.term, self.hard.vote)) {
            // What follows may end in another frame than it begins in, and no entry may be found without its term.
            self.put_hard(HardState { commit: self.hard.commit, ..hard })?;
        }
        if let Some(snapshot) = &persist.snapshot {
            // In a segment of its own, so that all others can go.
            self.seal();
            self.roll()?;
            record::put_base(&mut self.payload, snapshot.position);
            self.base = snapshot.position;
            self.next_index = snapshot.position.index + 1;
            replaced = self.tail.as_ref().map(|tail| tail.place.sequence);
        }
        for entry in &persist.entries {
            let index = entry.position.index;
            if index > self.next_index || index <= self.base.index {
                return Err(WriteError::Hole { index });
            }
            self.next_index = index + 1;
            self.make_room(record::entry_size(entry))?;
            record::put_entry(&mut self.payload, entry);
            if let Some(tail) = &mut self.tail {
                tail.last_index = tail.last_index.max(index);
            }
        }
        if let Some(hard) = persist.hard.filter(|hard| *hard != self.hard) {
            self.put_hard(hard)?;
        }
        Ok(replaced)
    }

    fn put_hard(&mut self, hard: HardState) -> Result<(), WriteError> {
        self.make_room(record::HARD_SIZE)?;
        record::put_hard(&mut self.payload, hard);
        self.hard = hard;
        Ok(())
    }

    /// So that the next record finds a frame that it fits in.
    fn make_room(&mut self, bytes: usize) -> Result<(), WriteError> {
        let first = record::OPENING_SIZE + bytes;
        if segment::FRAMES + frame::size(first) > self.segment_bytes as usize {
            return Err(WriteError::TooLarge { bytes });
        }
        if !self.payload.is_empty() && self.payload.len() + bytes > FRAME_BYTES {
            self.seal();
        }
        let frame = frame::size(self.payload.len() + bytes);
        if self.tail.as_ref().is_none_or(|tail| tail.end + self.frames.len() + frame > tail.size) {
            self.seal();
            self.roll()?;
        }
        Ok(())
    }

    /// Makes a frame of the records so far.
    fn seal(&mut self) {
        let Some(tail) = self.tail.as_mut().filter(|_| !self.payload.is_empty()) else { return };
        let offset = tail.end + self.frames.len();
        let chain = frame::seal(&mut self.frames, tail.place, offset, self.link, self.synced, &self.payload);
        self.link = Link { number: self.link.number + 1, chain };
        self.payload.clear();
    }

    /// Makes the frames so far durable.
    fn write(&mut self) -> Result<(), WriteError> {
        let Some(tail) = self.tail.as_mut().filter(|_| !self.frames.is_empty()) else { return Ok(()) };
        tail.file.write_at(&self.frames, tail.end as u64)?;
        tail.file.sync_data()?;
        tail.end += self.frames.len();
        self.synced = self.link.number - 1;
        self.frames.clear();
        self.frames.shrink_to(KEPT_BYTES);
        self.payload.shrink_to(KEPT_BYTES);
        Ok(())
    }

    /// Goes on in the next segment, after all that is in this one is durable.
    fn roll(&mut self) -> Result<(), WriteError> {
        self.write()?;
        let next = match self.spare.take() {
            Some(spare) => spare,
            None => self.create()?,
        };
        if let Some(tail) = self.tail.replace(next) {
            self.full.push_back(Full { sequence: tail.place.sequence, last_index: tail.last_index });
        }
        record::put_opening(&mut self.payload, self.link.chain, self.hard, self.base);
        self.link.chain = 0;
        Ok(())
    }

    fn create(&mut self) -> Result<Tail<D::File>, WriteError> {
        let place = Place { sequence: self.next_sequence, salt: self.rng.random() };
        let file = segment::create(&mut self.disk, self.identity, place, self.segment_bytes)?;
        self.next_sequence += 1;
        Ok(Tail { file, place, size: self.segment_bytes as usize, end: segment::FRAMES, last_index: 0 })
    }

    /// Removes segments from the oldest on, as long as this holds for them.
    fn remove_full(&mut self, is_old: impl Fn(&Full) -> bool) -> Result<(), WriteError> {
        while self.full.front().is_some_and(&is_old) {
            if let Some(full) = self.full.pop_front() {
                self.disk.remove(&segment::name(full.sequence))?;
            }
        }
        Ok(())
    }

    fn remove_unfinished(&mut self) -> Result<(), OpenError> {
        for name in self.disk.list()?.iter().filter(|name| segment::is_unfinished(name)) {
            self.disk.remove(name)?;
        }
        Ok(())
    }

    /// Goes on with a segment that was read, and erases what was torn: a later frame must not meet its remains.
    fn take_over(&mut self, mut read: recovery::Read<D::File>) -> Result<(), OpenError> {
        if read.torn > 0 {
            read.file.write_at(&vec![0; read.torn], read.end as u64)?;
        }
        // What was read may be in the platform's memory alone, if the process fell between its write and its sync.
        read.file.sync_data()?;
        let is_spare = read.is_spare();
        // One of which all was torn, and the one made ahead of it: the earlier is the next to be written.
        let is_second = self.spare.is_some();
        if is_spare && (is_second || read.size as u64 != self.segment_bytes) {
            self.next_sequence = read.place.sequence;
            return Ok(self.disk.remove(&segment::name(read.place.sequence))?);
        }
        let recovery::Read { file, place, size, end, last_index, .. } = read;
        let tail = Tail { file, place, size, end, last_index };
        if is_spare {
            self.spare = Some(tail);
        } else if let Some(tail) = self.tail.replace(tail) {
            self.full.push_back(Full { sequence: tail.place.sequence, last_index: tail.last_index });
        }
        Ok(())
    }
}
