//! Segments: their names and headers.
//!
//! ```text
//!   MAGIC | version u32 | 0 u32 | cluster u64 | member u64 | sequence u64 | salt u64 | size u64 | checksum u32
//! ```

use super::{
    disk::{Disk, DiskFile},
    error::OpenError,
    frame::{Place, SECTOR},
    log::Identity,
};

/// Where the frames begin: the header has a sector of its own, which is never written again.
pub(super) const FRAMES: usize = SECTOR;
/// Segments larger than this are not of this version: a bound for what is read at once.
pub(super) const MAX_BYTES: u64 = 64 << 20;
/// And no smaller ones.
pub(super) const MIN_BYTES: u64 = 4 << 10;

/// No log reaches a segment of this number.
const MAX_SEQUENCE: u64 = 1 << 62;

const MAGIC: [u8; 8] = *b"rmesh\0wl";
const VERSION: u32 = 1;
const HEADER: usize = 60;

/// The file of a segment.
pub(super) fn name(sequence: u64) -> String {
    format!("{sequence:016x}.wal")
}

/// The file of a segment that is being made.
pub(super) fn unfinished_name(sequence: u64) -> String {
    format!("{sequence:016x}.new")
}

/// Whether a crash left this file.
pub(super) fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(".new").and_then(parse_sequence).is_some()
}

/// The number in a segment's name.
pub(super) fn sequence_of(name: &str) -> Option<u64> {
    name.strip_suffix(".wal").and_then(parse_sequence)
}

fn parse_sequence(digits: &str) -> Option<u64> {
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// Makes a segment without frames. It has its name only when its header is durable.
pub(super) fn create<D: Disk>(disk: &mut D, identity: Identity, place: Place, size: u64) -> std::io::Result<D::File> {
    let unfinished = unfinished_name(place.sequence);
    let made = fill(disk, &unfinished, &header(identity, place, size), size);
    let named = made.and_then(|file| disk.rename(&unfinished, &name(place.sequence)).map(|()| file));
    if named.is_err() {
        // It may hold the last room there is. If it cannot be removed, the next one replaces it.
        let _ = disk.remove(&unfinished);
    }
    named
}

fn fill<D: Disk>(disk: &mut D, name: &str, header: &[u8], size: u64) -> std::io::Result<D::File> {
    let mut file = disk.create(name, size)?;
    file.write_at(header, 0)?;
    file.sync_data()?;
    Ok(file)
}

/// The place of a segment, if this is its header.
pub(super) fn check(segment: &[u8], identity: Identity, sequence: u64) -> Result<Place, OpenError> {
    let name = || name(sequence);
    let damaged = |what| OpenError::Damaged { segment: name(), offset: 0, what };
    let (head, _) = segment.split_first_chunk::<HEADER>().ok_or_else(|| damaged("it is too short for a segment"))?;
    let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    if head[..8] != MAGIC || u32_at(HEADER - 4) != crc32fast::hash(&head[..HEADER - 4]) {
        return Err(damaged("the segment's header is not whole"));
    }
    if u32_at(8) != VERSION {
        return Err(OpenError::Version { segment: name(), version: u32_at(8) });
    }
    let found = Identity { cluster: u64_at(16), member: u64_at(24) };
    if found != identity {
        return Err(OpenError::Foreign { cluster: found.cluster, member: found.member });
    }
    if u64_at(32) != sequence {
        return Err(damaged("the segment has another one's name"));
    }
    if sequence >= MAX_SEQUENCE {
        return Err(damaged("the segment has a number that no log reaches"));
    }
    if u64_at(48) != segment.len() as u64 {
        return Err(damaged("the segment has another size than it was made with"));
    }
    Ok(Place { sequence, salt: u64_at(40) })
}

fn header(identity: Identity, place: Place, size: u64) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    for word in [identity.cluster, identity.member, place.sequence, place.salt, size] {
        header.extend_from_slice(&word.to_le_bytes());
    }
    header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
    header
}
