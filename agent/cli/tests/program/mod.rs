//! The program `ringmesh-member`, which no build of the workspace makes: it has a profile of its own.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Builds it and says where it is.
pub(crate) fn ringmesh_member() -> PathBuf {
    let built = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["build", "--locked", "--profile", "member", "-p", "ringmesh-member", "--features", "program"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .status()
        .expect("cargo runs");
    assert!(built.success(), "cargo build of ringmesh-member: {built}");
    let ours = Path::new(env!("CARGO_BIN_EXE_ringmesh"));
    let target = ours.ancestors().nth(2).expect("target, profile, program");
    target.join("member/ringmesh-member")
}
