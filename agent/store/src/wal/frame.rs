//! Frames: what is written at once and counts as a whole.
//!
//! ```text
//!   length u32 | checksum u32 | number u64 | synced u64 | checksum of the head u32 | MARK
//!   payload, padded to 8 bytes and whitened | END
//! ```
//!
//! A power loss leaves of a frame that was not synced some sectors, and zeros where the others would be. The whitening sees
//! to it that no sector of a whole frame is zero, so that a torn frame and a damaged one can be told apart: the first was
//! never acknowledged and is cut, the second may have been and is an error.
//!
//! Of the very last frame nobody can say it: a disk that loses a sector of it after it was synced leaves what a power loss
//! leaves, and it is cut. Later frames say what was synced before them, so one frame is all that can go in silence; the
//! leader notices if it was one that it counts on.

use crc32fast::Hasher;

/// Bytes before the payload.
const HEAD: usize = 32;
/// Of a head that is whole. No byte of it is zero.
const MARK: u32 = 0xa5c3_96e1;
/// Of a frame that is whole. No byte of it is zero.
const END: u64 = 0xe17b_95d3_c96b_a55a;
/// Frames are numbered from 1, and no log reaches this.
const MAX_NUMBER: u64 = 1 << 62;
/// What a disk writes wholly or not at all, in bytes.
pub(super) const SECTOR: usize = 512;
/// Frames begin at multiples of this.
const ALIGNMENT: usize = 8;

/// The segment that a frame is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The segment's number.
    pub(super) sequence: u64,
    /// The segment's random number, without which nobody can make something that looks like a frame.
    pub(super) salt: u64,
}

/// What is said of a frame outside of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Frames are numbered through all segments.
    pub(super) number: u64,
    /// The checksum of the frame before in the segment, 0 for the first.
    pub(super) chain: u32,
}

/// A frame that is whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) payload: Vec<u8>,
    /// Where the next one would begin.
    pub(super) end: usize,
    /// Its checksum.
    pub(super) chain: u32,
}

/// Bytes that a frame with a payload of this size takes.
pub(super) fn size(payload: usize) -> usize {
    HEAD + payload.next_multiple_of(ALIGNMENT) + size_of::<u64>()
}

/// Appends a frame to `out`, that will lie at `offset` of its segment, and returns its checksum. All frames up to number
/// `synced` are durable.
pub(super) fn seal(out: &mut Vec<u8>, place: Place, offset: usize, link: Link, synced: u64, payload: &[u8]) -> u32 {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    out.extend_from_slice(payload);
    out.resize(start + HEAD + payload.len().next_multiple_of(ALIGNMENT), 0);
    whiten(&mut out[start + HEAD..], place, offset + HEAD);
    out.extend_from_slice(&END.to_le_bytes());
    let length = payload.len() as u32;
    let checksum = body_checksum(place, offset, link, length, &out[start + HEAD..]);
    let head = &mut out[start..start + HEAD];
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..8].copy_from_slice(&checksum.to_le_bytes());
    head[8..16].copy_from_slice(&link.number.to_le_bytes());
    head[16..24].copy_from_slice(&synced.to_le_bytes());
    let of_head = head_checksum(place, offset, &head[..24]);
    head[24..28].copy_from_slice(&of_head.to_le_bytes());
    head[28..].copy_from_slice(&MARK.to_le_bytes());
    checksum
}

/// The frame at `offset` of a segment, if it is whole and the one that `link` expects.
pub(super) fn read(segment: &[u8], place: Place, offset: usize, link: Link) -> Option<Frame> {
    let head = Head::read(segment, place, offset).filter(|head| head.number == link.number)?;
    let end = head.end(segment, offset)?;
    let body = &segment[offset + HEAD..end];
    let checksum = body_checksum(place, offset, link, head.length, body);
    if checksum != head.checksum {
        return None;
    }
    let mut payload = body[..body.len() - size_of::<u64>()].to_vec();
    whiten(&mut payload, place, offset + HEAD);
    payload.truncate(head.length as usize);
    Some(Frame { payload, end, chain: checksum })
}

/// Whether a frame beyond `offset` says that the one with this number had been synced.
pub(super) fn was_synced(segment: &[u8], place: Place, offset: usize, number: u64) -> bool {
    (offset + ALIGNMENT..segment.len())
        .step_by(ALIGNMENT)
        .filter_map(|at| Head::read(segment, place, at))
        .any(|head| head.number > number && head.synced >= number)
}

/// Whether the broken frame at `offset` looks like one that was never written wholly.
pub(super) fn is_torn(segment: &[u8], place: Place, offset: usize) -> bool {
    let head = &segment[offset..segment.len().min(offset + HEAD)];
    if lacks_sector(head, offset) {
        return true;
    }
    match Head::read(segment, place, offset).and_then(|head| head.end(segment, offset)) {
        Some(end) => lacks_sector(&segment[offset..end], offset) || segment[end - 1] == 0,
        None => head.last() == Some(&0) && is_zero(&segment[offset + head.len()..]),
    }
}

/// The number of the frame at `offset`, if its head is whole.
pub(super) fn number(segment: &[u8], place: Place, offset: usize) -> Option<u64> {
    Head::read(segment, place, offset).map(|head| head.number)
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Whether all of what lies in one of the sectors is zero.
fn lacks_sector(bytes: &[u8], offset: usize) -> bool {
    let first = (SECTOR - offset % SECTOR).min(bytes.len());
    let (head, rest) = bytes.split_at(first);
    is_zero(head) || rest.chunks(SECTOR).any(is_zero)
}

struct Head {
    length: u32,
    checksum: u32,
    number: u64,
    synced: u64,
}

impl Head {
    fn read(segment: &[u8], place: Place, offset: usize) -> Option<Self> {
        let (head, _) = segment.get(offset..)?.split_first_chunk::<HEAD>()?;
        if head[28..] != MARK.to_le_bytes() || head[24..28] != head_checksum(place, offset, &head[..24]).to_le_bytes() {
            return None;
        }
        let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let number = Some(u64_at(8)).filter(|number| (1..MAX_NUMBER).contains(number))?;
        Some(Self { length: u32_at(0), checksum: u32_at(4), number, synced: u64_at(16) })
    }

    /// Where the frame ends, if that is within the segment.
    fn end(&self, segment: &[u8], offset: usize) -> Option<usize> {
        let end = offset.checked_add(size(self.length as usize))?;
        (end <= segment.len()).then_some(end)
    }
}

fn head_checksum(place: Place, offset: usize, head: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&place.salt.to_le_bytes());
    hasher.update(&(offset as u64).to_le_bytes());
    hasher.update(head);
    hasher.finalize()
}

fn body_checksum(place: Place, offset: usize, link: Link, length: u32, body: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(link.chain);
    for word in [place.sequence, place.salt, offset as u64, link.number, length.into()] {
        hasher.update(&word.to_le_bytes());
    }
    hasher.update(body);
    hasher.finalize()
}

/// Its own inverse. By SplitMix64 over the salt and the place.
fn whiten(bytes: &mut [u8], place: Place, offset: usize) {
    for (index, word) in bytes.chunks_exact_mut(ALIGNMENT).enumerate() {
        let mut mixed =
            place.salt.wrapping_add(((offset + index * ALIGNMENT) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        for (byte, mask) in word.iter_mut().zip(mixed.to_le_bytes()) {
            *byte ^= mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { sequence: 3, salt: 0x1234_5678_9abc_def0 };
    const LINK: Link = Link { number: 9, chain: 7 };

    fn segment(offset: usize, payload: &[u8]) -> Vec<u8> {
        let mut segment = vec![0; offset];
        seal(&mut segment, PLACE, offset, LINK, 8, payload);
        segment.resize(segment.len() + 100, 0);
        segment
    }

    #[test]
    fn a_frame_is_read_back_and_nothing_else_is_a_frame() {
        for length in [0, 1, 7, 8, 9, 511, 3000] {
            let payload: Vec<u8> = (0..length).map(|index| index as u8).collect();
            let segment = segment(512, &payload);
            let frame = read(&segment, PLACE, 512, LINK).unwrap();
            assert_eq!(frame.payload, payload);
            assert_eq!(frame.end, 512 + size(length));
            assert!(read(&segment, Place { sequence: 4, ..PLACE }, 512, LINK).is_none());
            assert!(read(&segment, Place { salt: 4, ..PLACE }, 512, LINK).is_none());
            assert!(read(&segment, PLACE, 512, Link { chain: 8, ..LINK }).is_none());
            assert!(read(&segment, PLACE, 512, Link { number: 8, ..LINK }).is_none());
            assert!(read(&segment, PLACE, 520, LINK).is_none());
        }
    }

    #[test]
    fn a_frame_without_one_of_its_sectors_is_torn_whatever_it_holds() {
        for offset in [512, 512 + 488, 512 + 496, 512 + 504] {
            let whole = segment(offset, &[0; 2000]);
            let sectors = offset / SECTOR..=(offset + size(2000) - 1) / SECTOR;
            for sector in sectors {
                let mut torn = whole.clone();
                let end = torn.len().min((sector + 1) * SECTOR);
                torn[sector * SECTOR..end].fill(0);
                assert!(read(&torn, PLACE, offset, LINK).is_none());
                assert!(is_torn(&torn, PLACE, offset), "offset {offset} without sector {sector}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_no_torn_frame() {
        let whole = segment(1000, &[0; 1500]);
        for bit in 1000 * 8..(1000 + size(1500)) * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged, PLACE, 1000, LINK).is_none(), "bit {bit}");
            assert!(!is_torn(&damaged, PLACE, 1000), "bit {bit}");
        }
    }
}
