//! The members that a host contacts first, in `peers.json` of its state directory.

use std::path::{Path, PathBuf};

use ringmesh_proto::member::Member;

use super::{IdentityError, files};

/// The most seeds that are kept; any one of them that lives is enough.
pub const MAX_SEEDS: usize = 256;

/// Where the seeds are.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("peers.json")
}

/// The seeds, none if they were never written.
pub fn read(state_dir: &Path) -> Result<Vec<Member>, IdentityError> {
    let path = path(state_dir);
    let Some(bytes) = files::read_secret_if_there(&path)? else { return Ok(Vec::new()) };
    let mut seeds: Vec<Member> = serde_json::from_slice(&bytes).map_err(|error| IdentityError::Damaged {
        path,
        message: format!("is not a list of members ({error})"),
        cure: "restore it from a backup, or copy the one of another host",
    })?;
    seeds.truncate(MAX_SEEDS);
    Ok(seeds)
}

/// Replaces the seeds; beyond [`MAX_SEEDS`] they are left out.
pub fn write(state_dir: &Path, seeds: &[Member]) -> Result<(), IdentityError> {
    let seeds = &seeds[..seeds.len().min(MAX_SEEDS)];
    let json = serde_json::to_vec_pretty(seeds).expect("members are plain data");
    files::make_directory(state_dir)?;
    files::write(&path(state_dir), &json, files::SECRET)
}

/// Replaces a small file of the state directory, on disk before it returns, readable for its owner only.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    if let Some(directory) = path.parent() {
        files::make_directory(directory)?;
    }
    files::write(path, bytes, files::SECRET)
}

#[cfg(test)]
mod tests {
    use ringmesh_proto::HostId;

    use super::*;

    #[test]
    fn seeds_round_trip_and_garbage_is_named() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        assert_eq!(read(directory.path()).expect("absence is no error"), []);
        let address = Some("10.0.0.1:7400".parse().expect("an address"));
        let member = |id| Member { id: HostId::new(id), generation: 3, addresses: [address, None] };
        let many: Vec<Member> = (1..=MAX_SEEDS as u32 + 1).map(member).collect();
        write(directory.path(), &many).expect("it can be written");
        assert_eq!(read(directory.path()).expect("our own file"), many[..MAX_SEEDS]);
        files::write(&path(directory.path()), b"[{", files::SECRET).expect("it can be written");
        assert!(read(directory.path()).expect_err("garbage").to_string().contains("peers.json"));
    }
}
