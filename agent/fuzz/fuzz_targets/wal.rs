//! A log on a disk that is damaged in any way, and segments that somebody forged: it opens or says why not, allocates no
//! more than the segments hold, changes nothing where it does not open, and what opens goes on.
#![no_main]

// Frames are sealed for the fuzzer, which would not get past their checksums.
#[path = "../../store/src/wal/frame.rs"]
#[allow(dead_code, unreachable_pub)]
mod frame;

use std::{cell::RefCell, collections::BTreeMap, io, rc::Rc};

use bytes::{BufMut, Bytes};
use frame::{Link, Place};
use libfuzzer_sys::fuzz_target;
use ringmesh_store::{
    consensus::{Applied, Entry, EntryKind, HardState, Persist, Position},
    wal::{Disk, DiskFile, Identity, Recovery, Settings, Wal},
};

const IDENTITY: Identity = Identity { cluster: 0xc1, member: 0x3e };
const SEGMENT_BYTES: u64 = 4 << 10;
const MAX_SEGMENTS: usize = 16;

/// Bytes of a segment's header, and where its frames begin.
const HEADER: usize = 60;
const FRAMES: usize = 512;

fuzz_target!(|bytes: &[u8]| {
    let [mode, rest @ ..] = bytes else { return };
    match mode % 4 {
        0 => raw(rest),
        1 => forged(rest),
        _ => damaged(rest),
    }
});

/// The bytes are a segment, with and without a header that is whole.
fn raw(bytes: &[u8]) {
    let mut segment = bytes.to_vec();
    segment.resize(SEGMENT_BYTES as usize, 0);
    let disk = Memory::default();
    disk.put(0, segment.clone());
    go_on(&disk);
    let disk = Memory::default();
    segment[..HEADER].copy_from_slice(&header(Place { sequence: 0, salt: 7 }));
    disk.put(0, segment);
    go_on(&disk);
}

/// Frames that are whole, of records that no log has. A step is a kind, a length and the record's bytes; the first bytes are
/// the number of the segment and of its first frame.
fn forged(bytes: &[u8]) {
    let Some((numbers, mut rest)) = bytes.split_first_chunk::<16>() else { return };
    let word = |at: usize| numbers[at..at + 8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let place = Place { sequence: word(0), salt: 7 };
    let mut segment = header(place);
    segment.resize(FRAMES, 0);
    let mut link = Link { number: word(8), chain: 0 };
    let mut payload = Vec::new();
    while let [kind, len, tail @ ..] = rest {
        let (input, tail) = tail.split_at(tail.len().min(usize::from(*len)));
        rest = tail;
        put_record(&mut payload, *kind, input);
        // Several records are one frame.
        if *kind < 128 {
            let offset = segment.len();
            let chain = frame::seal(&mut segment, place, offset, link, 0, &payload);
            link = Link { number: link.number.wrapping_add(1), chain };
            payload.clear();
        }
    }
    segment.resize(SEGMENT_BYTES as usize, 0);
    let disk = Memory::default();
    disk.put(place.sequence, segment);
    go_on(&disk);
}

/// A record whose length is that of its kind, so that the numbers in it count.
fn put_record(payload: &mut Vec<u8>, kind: u8, input: &[u8]) {
    let mut body = input.to_vec();
    let kind = kind % 6;
    match kind {
        1 => body.resize(44, 0),
        2 => body.resize(body.len().max(17), 0),
        3 => body.resize(24, 0),
        4 => body.resize(16, 0),
        _ => {}
    }
    payload.put_u8(kind);
    payload.put_u32_le(body.len() as u32);
    payload.put_slice(&body);
}

/// A log as it is written, with damage now and then. A step is what it is, and three bytes for how.
fn damaged(bytes: &[u8]) {
    let disk = Memory::default();
    let (mut wal, mut known) = Wal::open(disk.clone(), IDENTITY, settings(), 1).expect("an empty disk is a new log");
    let mut written = Vec::new();
    for step in bytes.as_chunks::<4>().0 {
        if wal.segments() > MAX_SEGMENTS {
            return;
        }
        let [what, a, b, c] = step.map(usize::from);
        match what % 8 {
            0..=2 => append(&mut wal, &mut known, &mut written, [a, b, c]),
            3 => replace(&mut wal, &mut known, a as u64),
            4 if b % 2 == 0 => wal.cut(known.last_index().saturating_sub(a as u64)).expect("the disk works"),
            4 => wal.prepare().expect("the disk works"),
            _ => {
                drop(wal);
                disk.damage([what, a, b, c]);
                let Some((again, recovery)) = open(&disk) else { return };
                let is_written = |entry: &Entry| written.contains(entry);
                assert!(recovery.entries.iter().all(is_written), "there is an entry that nobody wrote");
                (wal, known) = (again, recovery);
            }
        }
    }
    drop(wal);
    go_on(&disk).expect("a log that nothing happened to opens");
}

fn append(wal: &mut Wal<Memory>, known: &mut Recovery, written: &mut Vec<Entry>, [count, back, size]: [usize; 3]) {
    let next = known.last_index() + 1;
    let first = next.saturating_sub(back as u64 % 4).max(known.base.index + 1);
    let term = known.last_term() + u64::from(first < next);
    let indexes = first..first + 1 + count as u64 % 4;
    let entries: Vec<Entry> = indexes.map(|index| entry(Position { term, index }, size)).collect();
    let hard = HardState { term, vote: 1, commit: known.base.index };
    written.extend_from_slice(&entries);
    known.entries.retain(|entry| entry.position.index < first);
    known.entries.extend_from_slice(&entries);
    wal.append(&[Persist { number: 0, snapshot: None, entries, hard: Some(hard) }]).expect("the disk works");
}

fn replace(wal: &mut Wal<Memory>, known: &mut Recovery, ahead: u64) {
    let position = Position { term: known.last_term(), index: known.last_index() + 1 + ahead };
    let snapshot = Some(Applied { position, conf: Bytes::new() });
    (known.base, known.entries) = (position, Vec::new());
    wal.append(&[Persist { number: 0, snapshot, entries: Vec::new(), hard: None }]).expect("the disk works");
}

fn entry(position: Position, size: usize) -> Entry {
    let data = Bytes::from(vec![position.index as u8; size]);
    Entry { position, kind: EntryKind::Command, data }
}

/// Opens it, adds to it, and finds all of that again. `None` if it does not open.
fn go_on(disk: &Memory) -> Option<()> {
    let (mut wal, mut known) = open(disk)?;
    append(&mut wal, &mut known, &mut Vec::new(), [0, 0, 100]);
    drop(wal);
    let (_, again) = open(disk).expect("what opened opens again");
    assert_eq!(again.entries, known.entries);
    assert_eq!(again.base, known.base);
    Some(())
}

fn open(disk: &Memory) -> Option<(Wal<Memory>, Recovery)> {
    let before = disk.image();
    match Wal::open(disk.clone(), IDENTITY, settings(), 2) {
        Ok((wal, recovery)) => {
            let mut next = recovery.entries.first().map_or(0, |first| first.position.index);
            assert!(next > recovery.base.index || recovery.entries.is_empty());
            for entry in &recovery.entries {
                assert_eq!(entry.position.index, next, "there is a hole");
                next += 1;
            }
            Some((wal, recovery))
        }
        Err(error) => {
            assert!(!error.to_string().contains('\n'), "an error is one line");
            assert_eq!(disk.image(), before, "nothing was changed");
            None
        }
    }
}

fn settings() -> Settings {
    Settings { segment_bytes: SEGMENT_BYTES }
}

fn header(place: Place) -> Vec<u8> {
    let mut header = b"rmesh\0wl\x01\0\0\0\0\0\0\0".to_vec();
    for word in [IDENTITY.cluster, IDENTITY.member, place.sequence, place.salt, SEGMENT_BYTES] {
        header.put_u64_le(word);
    }
    header.put_u32_le(crc32fast::hash(&header));
    header
}

trait Last {
    fn last_index(&self) -> u64;
    fn last_term(&self) -> u64;
}

impl Last for Recovery {
    fn last_index(&self) -> u64 {
        self.entries.last().map_or(self.base, |last| last.position).index
    }

    fn last_term(&self) -> u64 {
        self.entries.last().map_or(self.base, |last| last.position).term
    }
}

/// A disk in memory. Clones are the same one.
#[derive(Clone, Default)]
struct Memory(Rc<RefCell<BTreeMap<String, File>>>);

#[derive(Clone, Default)]
struct File(Rc<RefCell<Vec<u8>>>);

impl Memory {
    fn put(&self, sequence: u64, bytes: Vec<u8>) {
        self.0.borrow_mut().insert(format!("{sequence:016x}.wal"), File(Rc::new(RefCell::new(bytes))));
    }

    fn image(&self) -> BTreeMap<String, Vec<u8>> {
        self.0.borrow().iter().map(|(name, file)| (name.clone(), file.0.borrow().clone())).collect()
    }

    /// One thing goes wrong with one of the files.
    fn damage(&self, [what, a, b, c]: [usize; 4]) {
        let mut files = self.0.borrow_mut();
        let Some(name) = files.keys().nth(what / 8 % files.len().max(1)).cloned() else { return };
        let file = files[&name].clone();
        let mut bytes = file.0.borrow_mut();
        let at = (a << 8 | b) % bytes.len().max(1);
        match what % 8 {
            5 if c == 0 => drop(files.remove(&name)),
            5 if c == 1 => bytes.truncate(at),
            5 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= c as u8),
            // A sector or more that was never written.
            6 => bytes.iter_mut().skip(at & !511).take(512 * (1 + c % 4)).for_each(|byte| *byte = 0),
            _ => bytes.iter_mut().skip(at).take(c).for_each(|byte| *byte = 0),
        }
    }

    fn find(&self, name: &str) -> io::Result<File> {
        self.0.borrow().get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for Memory {
    type File = File;

    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.0.borrow().keys().cloned().collect())
    }

    fn create(&mut self, name: &str, len: u64) -> io::Result<File> {
        let file = File(Rc::new(RefCell::new(vec![0; len as usize])));
        self.0.borrow_mut().insert(name.to_owned(), file.clone());
        Ok(file)
    }

    fn open(&mut self, name: &str) -> io::Result<File> {
        self.find(name)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let file = self.find(from)?;
        let mut files = self.0.borrow_mut();
        files.remove(from);
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.0.borrow_mut().remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl DiskFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.borrow().len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let (bytes, offset) = (self.0.borrow(), offset as usize);
        buffer.copy_from_slice(bytes.get(offset..offset + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        let (mut bytes, offset) = (self.0.borrow_mut(), offset as usize);
        let place = bytes.get_mut(offset..offset + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        place.copy_from_slice(data);
        Ok(())
    }

    fn sync_data(&mut self) -> io::Result<()> {
        Ok(())
    }
}
