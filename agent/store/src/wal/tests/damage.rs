//! Recovery at every byte at which a batch can be cut off, and with every bit flipped.

use rand::{SeedableRng, rngs::StdRng};

use super::{IDENTITY, SMALL, disk::MemoryDisk, entries, entry, open};
use crate::{
    consensus::{HardState, Position},
    wal::{
        OpenError, Wal,
        frame::{self, Link, Place},
        record, segment,
    },
};

/// Three segments and a half, with a spare one.
fn written() -> MemoryDisk {
    let disk = MemoryDisk::default();
    let (mut wal, _) = open(&disk);
    for index in 0..30 {
        wal.append(&[entries(1, index * 3 + 1..index * 3 + 4)]).unwrap();
    }
    wal.append(&[entries(2, 88..90)]).unwrap();
    wal.prepare().unwrap();
    disk
}

#[test]
fn a_batch_that_is_cut_off_at_any_byte_is_as_if_it_had_never_been() {
    let disk = written();
    let before = open(&disk).1;
    let name = disk.names().iter().rev().nth(1).unwrap().clone();
    let old = disk.content(&name);
    open(&disk).0.append(&[entries(2, 90..92)]).unwrap();
    let (new, after) = (disk.content(&name), open(&disk).1);
    assert_ne!(before, after);
    let start = old.iter().zip(&new).position(|(old, new)| old != new).unwrap();
    let end = new.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for cut in start..end {
        let torn = disk.image();
        torn.edit(&name, |bytes| bytes[cut..].fill(0));
        assert_eq!(open(&torn).1, before, "cut at {cut} of {start}..{end}");
        // And the log goes on from there.
        open(&torn).0.append(&[entries(2, 90..92)]).unwrap();
        assert_eq!(open(&torn).1, after, "cut at {cut} of {start}..{end}");
    }
}

#[test]
fn a_segment_whose_first_batch_was_torn_is_written_before_the_spare_one() {
    let disk = MemoryDisk::default();
    let (mut wal, _) = open(&disk);
    wal.append(&[entries(1, 1..2)]).unwrap();
    wal.prepare().unwrap();
    let first = disk.names()[0].clone();
    disk.edit(&first, |bytes| bytes[segment::FRAMES..].fill(0));
    open(&disk).0.append(&[entries(1, 1..2)]).unwrap();
    assert_eq!(open(&disk).1.entries, [entry(1, 1, 100)]);
}

#[test]
fn a_flipped_bit_is_an_error_or_changes_nothing() {
    let disk = written();
    let whole = open(&disk).1;
    let mut errors = 0;
    for name in disk.names() {
        let bytes = disk.content(&name);
        // Of each byte one bit, all bits in turn.
        for bit in (0..bytes.len()).map(|byte| byte * 8 + byte % 8) {
            let damaged = disk.image();
            damaged.edit(&name, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            match Wal::open(damaged, IDENTITY, SMALL, 1) {
                Ok((_, recovery)) => assert_eq!(recovery, whole, "{name}, bit {bit}"),
                Err(error) => {
                    assert!(matches!(error, OpenError::Damaged { .. }), "{name}, bit {bit}: {error}");
                    errors += 1;
                }
            }
        }
    }
    assert!(errors > 9_000, "{errors}");
}

#[test]
fn a_sector_that_is_lost_in_the_middle_is_an_error_with_its_place() {
    let disk = written();
    let name = disk.names()[1].clone();
    for sector in 1..7 {
        let damaged = disk.image();
        damaged.edit(&name, |bytes| bytes[sector * 512..(sector + 1) * 512].fill(0));
        let error = Wal::open(damaged, IDENTITY, SMALL, 1).err().unwrap();
        let OpenError::Damaged { segment, offset, .. } = error else { panic!("{error}") };
        assert_eq!(segment, name);
        // The place is that of the frame around it, and none is as large as two sectors.
        let lost = (sector * 512) as u64;
        assert!((lost.saturating_sub(1024)..lost + 512).contains(&offset), "{offset} for sector {sector}");
    }
}

#[test]
fn a_segment_that_is_missing_or_renamed_is_an_error() {
    let disk = written();
    let names = disk.names();
    for name in &names[1..names.len() - 2] {
        use crate::wal::Disk;
        let mut without = disk.image();
        without.remove(name).unwrap();
        assert!(matches!(Wal::open(without, IDENTITY, SMALL, 1), Err(OpenError::Damaged { .. })));
        let mut renamed = disk.image();
        renamed.rename(&names[names.len() - 1], name).unwrap();
        assert!(matches!(Wal::open(renamed, IDENTITY, SMALL, 1), Err(OpenError::Damaged { .. })));
    }
}

#[test]
fn what_was_found_after_a_crash_is_there_after_a_power_loss() {
    for seed in 0..50 {
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = written();
        let (mut wal, _) = open(&disk);
        // The write is done, the sync is not.
        disk.fail_after(Some(1));
        wal.append(&[entries(2, 90..92)]).unwrap_err();
        disk.fail_after(None);
        let found = open(&disk).1;
        assert_eq!(found.entries.len(), 91);
        disk.lose_power(&mut rng);
        assert_eq!(open(&disk).1, found, "seed {seed}");
    }
}

#[test]
fn a_power_loss_in_the_middle_of_a_large_batch_keeps_what_was_acknowledged() {
    for seed in 0..200 {
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = written();
        let before = open(&disk).1;
        let (mut wal, _) = open(&disk);
        disk.fail_after(Some(seed % 12));
        let done = wal.append(&[entries(2, 90..150)]);
        disk.lose_power(&mut rng);
        let after = open(&disk).1;
        assert!(done.is_err() || after.entries.len() == 149, "seed {seed}");
        assert!(after.entries.starts_with(&before.entries), "seed {seed}");
        assert!(open(&disk).1 == after, "seed {seed}");
    }
}

/// A segment whose checksums all fit.
fn forged(sequence: u64, number: u64, base: u64, index: Option<u64>) -> MemoryDisk {
    let mut disk = MemoryDisk::default();
    let place = Place { sequence, salt: 7 };
    segment::create(&mut disk, IDENTITY, place, SMALL.segment_bytes).unwrap();
    let (mut payload, mut sealed) = (Vec::new(), Vec::new());
    record::put_opening(&mut payload, 0, HardState::default(), Position { term: 1, index: base });
    index.iter().for_each(|index| record::put_entry(&mut payload, &entry(1, *index, 10)));
    frame::seal(&mut sealed, place, segment::FRAMES, Link { number, chain: 0 }, 0, &payload);
    disk.edit(&segment::name(sequence), |bytes| bytes[segment::FRAMES..][..sealed.len()].copy_from_slice(&sealed));
    disk
}

#[test]
fn a_number_that_no_log_reaches_is_damage() {
    for (sequence, number, base, index, opens) in [
        (1, 1, 0, Some(5), true),
        (u64::MAX, 1, 0, Some(5), false),
        (1, 0, 0, Some(5), false),
        (1, u64::MAX, 0, Some(5), false),
        (1, 1, u64::MAX, None, false),
        (1, 1, 0, Some(u64::MAX), false),
    ] {
        let opened = Wal::open(forged(sequence, number, base, index), IDENTITY, SMALL, 1);
        let is_damaged = matches!(opened, Err(OpenError::Damaged { .. }));
        assert_eq!(is_damaged, !opens, "segment {sequence}, frame {number}, base {base}, entry {index:?}");
    }
}
