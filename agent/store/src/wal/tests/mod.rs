//! What the log promises, on a disk that loses power, wears and is swapped.

mod damage;
pub(crate) mod disk;
mod model;

use bytes::Bytes;

use self::disk::MemoryDisk;
use super::{Identity, OpenError, Recovery, Settings, Wal, WriteError};
use crate::consensus::{Applied, Entry, EntryKind, HardState, Persist, Position};

const IDENTITY: Identity = Identity { cluster: 0xc1, member: 0x3e };
const SMALL: Settings = Settings { segment_bytes: 4 << 10 };

fn open(disk: &MemoryDisk) -> (Wal<MemoryDisk>, Recovery) {
    Wal::open(disk.clone(), IDENTITY, SMALL, 1).unwrap()
}

fn entry(term: u64, index: u64, size: usize) -> Entry {
    let data = Bytes::from(vec![index as u8; size]);
    Entry { position: Position { term, index }, kind: EntryKind::Command, data }
}

fn entries(term: u64, indexes: impl IntoIterator<Item = u64>) -> Persist {
    let entries: Vec<Entry> = indexes.into_iter().map(|index| entry(term, index, 100)).collect();
    let commit = entries.first().map_or(0, |first| first.position.index - 1);
    Persist { number: 0, snapshot: None, entries, hard: Some(HardState { term, vote: 1, commit }) }
}

fn snapshot(term: u64, index: u64) -> Persist {
    let snapshot = Applied { position: Position { term, index }, conf: Bytes::new() };
    Persist { number: 0, snapshot: Some(snapshot), entries: Vec::new(), hard: None }
}

#[test]
fn an_empty_directory_is_new_and_one_that_was_written_is_not() {
    let disk = MemoryDisk::default();
    assert_eq!(open(&disk).1, Recovery { is_new: true, ..Recovery::default() });
    open(&disk).0.prepare().unwrap();
    assert!(open(&disk).1.is_new);
    open(&disk).0.append(&[entries(1, 1..2)]).unwrap();
    let recovery = open(&disk).1;
    assert!(!recovery.is_new);
    assert_eq!(recovery.hard, HardState { term: 1, vote: 1, commit: 0 });
    assert_eq!(recovery.entries, [entry(1, 1, 100)]);
}

#[test]
fn a_batch_is_one_write_and_one_sync() {
    let disk = MemoryDisk::default();
    let (mut wal, _) = open(&disk);
    wal.append(&[entries(1, 1..2)]).unwrap();
    let (writes, syncs) = disk.counts();
    wal.append(&[entries(1, 2..3), entries(1, 3..6), entries(2, 6..7)]).unwrap();
    assert_eq!(disk.counts(), (writes + 1, syncs + 1));
}

#[test]
fn entries_replace_those_from_their_index_on() {
    let disk = MemoryDisk::default();
    let (mut wal, _) = open(&disk);
    wal.append(&[entries(1, 1..8)]).unwrap();
    wal.append(&[entries(2, 4..6)]).unwrap();
    let terms: Vec<u64> = open(&disk).1.entries.iter().map(|entry| entry.position.term).collect();
    assert_eq!(terms, [1, 1, 1, 2, 2]);
}

#[test]
fn a_cut_leaves_all_that_is_not_below_and_the_hard_state() {
    let disk = MemoryDisk::default();
    let (mut wal, _) = open(&disk);
    for index in 1..200 {
        wal.append(&[entries(3, index..index + 1)]).unwrap();
    }
    assert!(wal.segments() > 5);
    wal.cut(150).unwrap();
    assert!(wal.segments() <= 4, "{}", wal.segments());
    let recovery = open(&disk).1;
    assert!(recovery.entries[0].position.index <= 150);
    assert_eq!(recovery.entries.last().unwrap().position.index, 199);
    assert_eq!(recovery.hard.term, 3);
}

#[test]
fn a_snapshot_replaces_the_log_before_the_old_segments_go() {
    let whole = MemoryDisk::default();
    let (mut wal, _) = open(&whole);
    for index in 1..100 {
        wal.append(&[entries(1, index..index + 1)]).unwrap();
    }
    let (old, _) = (open(&whole).1, wal);
    for operations in 0.. {
        let disk = whole.image();
        let (mut wal, _) = open(&disk);
        disk.fail_after(Some(operations));
        let done = wal.append(&[snapshot(4, 500), entries(4, 501..503)]);
        disk.fail_after(None);
        let recovery = open(&disk).1;
        if recovery.base.index == 0 {
            assert!(done.is_err());
            assert_eq!(recovery, old);
            continue;
        }
        assert_eq!(recovery.base, Position { term: 4, index: 500 });
        assert_eq!(recovery.entries, [entry(4, 501, 100), entry(4, 502, 100)]);
        if done.is_ok() {
            assert_eq!(wal.segments(), 1);
            return;
        }
    }
}

#[test]
fn a_log_that_was_not_told_of_a_snapshot_is_aligned_with_the_keys() {
    let disk = MemoryDisk::default();
    open(&disk).0.append(&[entries(2, 1..9)]).unwrap();
    // The keys, and whether the log has to follow them.
    let table = [((0, 0), false), ((2, 4), false), ((2, 8), false), ((2, 9), true), ((1, 20), true), ((1, 5), true)];
    for ((term, index), follows) in table {
        let disk = disk.image();
        let (mut wal, mut recovery) = open(&disk);
        let (before, applied) = (recovery.clone(), Position { term, index });
        wal.align(&mut recovery, applied).unwrap();
        assert_eq!(recovery != before, follows, "{applied:?}");
        assert_eq!(open(&disk).1, recovery);
        assert_eq!(recovery.base.index, if follows { index } else { 0 });
        wal.append(&[entries(3, recovery.last().index + 1..recovery.last().index + 3)]).unwrap();
        assert_eq!(open(&disk).1.entries.len(), recovery.entries.len() + 2);
    }
    // A log that knows no such term was lost: that is for consensus to say.
    let (mut wal, mut recovery) = open(&disk);
    wal.align(&mut recovery, Position { term: 3, index: 20 }).unwrap();
    assert_eq!(open(&disk).1, recovery);
    assert!(matches!(wal.append(&[entries(3, 21..22)]), Err(WriteError::Hole { index: 21 })));
}

#[test]
fn the_disk_of_another_cluster_or_member_is_recognised() {
    let disk = MemoryDisk::default();
    open(&disk).0.append(&[entries(1, 1..2)]).unwrap();
    for other in [Identity { cluster: 9, ..IDENTITY }, Identity { member: 9, ..IDENTITY }] {
        let refused = Wal::open(disk.clone(), other, SMALL, 1).err().unwrap();
        assert!(matches!(refused, OpenError::Foreign { cluster: 0xc1, member: 0x3e }), "{refused}");
    }
}

#[test]
fn after_a_failure_nothing_is_taken() {
    let disk = MemoryDisk::default();
    let (mut wal, _) = open(&disk);
    wal.append(&[entries(1, 1..2)]).unwrap();
    disk.fail_after(Some(1));
    assert!(matches!(wal.append(&[entries(1, 2..3)]), Err(WriteError::Disk(_))));
    disk.fail_after(None);
    assert!(matches!(wal.append(&[entries(1, 2..3)]), Err(WriteError::Failed)));
    assert!(matches!(wal.prepare(), Err(WriteError::Failed)));
}

#[test]
fn a_segment_that_cannot_be_made_ahead_of_need_stops_nothing() {
    // At each of the operations that make one.
    for operations in 0..4 {
        let disk = MemoryDisk::default();
        let (mut wal, _) = open(&disk);
        wal.append(&[entries(1, 1..2)]).unwrap();
        disk.fail_after(Some(operations));
        assert!(matches!(wal.prepare(), Err(WriteError::Disk(_))), "{operations}");
        disk.fail_after(None);
        wal.append(&[entries(1, 2..3)]).unwrap();
        wal.prepare().unwrap();
        wal.append(&[entries(1, 3..60)]).unwrap();
        assert_eq!(open(&disk).1.entries.len(), 59, "{operations}");
    }
}

#[test]
fn an_entry_larger_than_a_segment_is_refused() {
    let (mut wal, _) = open(&MemoryDisk::default());
    let persist = Persist { number: 0, snapshot: None, entries: vec![entry(1, 1, 5000)], hard: None };
    assert!(matches!(wal.append(&[persist]), Err(WriteError::TooLarge { .. })));
}

#[test]
fn a_spare_segment_is_used_and_one_of_another_size_is_not() {
    let disk = MemoryDisk::default();
    let (mut wal, _) = open(&disk);
    wal.append(&[entries(1, 1..2)]).unwrap();
    wal.prepare().unwrap();
    let names = disk.names();
    assert_eq!(names.len(), 2);
    wal.append(&[entries(1, 2..30)]).unwrap();
    assert_eq!(disk.names(), names);
    wal.prepare().unwrap();
    let larger = Settings { segment_bytes: 8 << 10 };
    let (mut wal, _) = Wal::open(disk.clone(), IDENTITY, larger, 1).unwrap();
    assert_eq!(disk.names(), names);
    wal.append(&[Persist { entries: vec![entry(1, 30, 5000)], ..entries(1, 0..0) }]).unwrap();
    assert_eq!(open(&disk).1.entries.len(), 30);
}
