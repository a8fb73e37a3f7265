//! The program `ringmesh-member` as it is shipped: small, and in need of nothing.

mod program;

use std::{fs, process::Command};

/// What it may be at the most, stripped.
const MOST: usize = 500_000;

#[test]
fn the_program_of_members_is_small_static_and_ends_without_an_agent() {
    let path = program::ringmesh_member();
    let bytes = fs::read(&path).expect("it was built");
    eprintln!("{} bytes", bytes.len());
    assert!(bytes.len() < MOST, "{} bytes", bytes.len());
    let header = |at: usize, len: usize| {
        bytes[at..at + len].iter().rev().fold(0_usize, |value, byte| value << 8 | usize::from(*byte))
    };
    assert_eq!(&bytes[..5], b"\x7fELF\x02", "a 64-bit program");
    let (table, size, count) = (header(32, 8), header(54, 2), header(56, 2));
    let kinds: Vec<usize> = (0..count).map(|nth| header(table + nth * size, 4)).collect();
    // PT_DYNAMIC and PT_INTERP: neither libraries nor a loader.
    assert!(!kinds.contains(&2) && !kinds.contains(&3), "{kinds:?}");
    // Nobody listens where it calls: status 1, after its patience.
    let status = Command::new(path).status().expect("it runs");
    assert_eq!(status.code(), Some(1));
}
