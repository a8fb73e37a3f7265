//! Asks the linker for packed relocations where the C library of this machine reads them.

use std::process::Command;

/// The first glibc that reads packed relocations (DT_RELR).
const GLIBC: (u32, u32) = (2, 36);

/// A position-independent binary of ours has some 28,000 relocations: 0.7 MB that every process reads at its start and
/// then has resident, and 13 kB if packed.
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Of another target's C library nothing is known here.
    let native = std::env::var_os("HOST") == std::env::var_os("TARGET");
    if native && glibc().is_some_and(|version| version >= GLIBC) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Of the machine that builds; none elsewhere than on GNU/Linux.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
