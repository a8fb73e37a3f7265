//! From what a crash left of log and keys to a member that goes on.

use ringmesh_proto::Instant;

use crate::{
    consensus::{Applied, Conf, Consensus, FRESH, HardState, Persist, Position, Recovered, Settings},
    wal::{Identity, Recovery, Settings as WalSettings, Wal, tests::disk::MemoryDisk},
};

/// As the log's owner does, and then the power is lost before the log is told of the snapshot itself.
fn after_keys_without_their_snapshot(hard: Option<HardState>) -> Consensus {
    let (disk, identity) = (MemoryDisk::default(), Identity { cluster: 1, member: 4 });
    let open =
        |disk: &MemoryDisk| Wal::open(disk.clone(), identity, WalSettings { segment_bytes: 4 << 10 }, 1).unwrap();
    let (mut wal, _) = open(&disk);
    let stored = Persist { number: 1, snapshot: None, entries: Vec::new(), hard };
    wal.append(&[stored]).unwrap();
    let applied = Applied { position: Position { term: 3, index: 9 }, conf: Conf::of_voters([1, 2, 4]).encode() };
    let hard = Some(HardState { term: 3, vote: 0, commit: 9 });
    wal.announce(&Persist { number: 2, snapshot: Some(applied.clone()), entries: Vec::new(), hard }).unwrap();
    drop(wal);
    let (mut wal, mut recovery) = open(&disk);
    wal.align(&mut recovery, applied.position).unwrap();
    let Recovery { hard, base, entries, .. } = recovery;
    Consensus::new(Settings::new(4), Recovered { hard, base, entries, applied }, 1, Instant::ZERO).unwrap()
}

#[test]
fn keys_of_a_later_term_than_the_log_had_do_not_look_like_a_lost_log() {
    let hard = |(term, vote)| HardState { term, vote, commit: 0 };
    for hard in [None, Some((1, FRESH)), Some((1, 0))].map(|stored| stored.map(hard)) {
        let mut joiner = after_keys_without_their_snapshot(hard);
        assert_eq!((joiner.status().term, joiner.status().applied), (3, 9));
        assert!(joiner.is_fresh, "that it knows a term does not make it one that had part in an election");
        assert_eq!(joiner.poll_output(), None);
    }
    let voter = after_keys_without_their_snapshot(Some(HardState { term: 2, vote: 1, commit: 0 }));
    assert!(!voter.is_fresh && voter.status().term == 3);
}
