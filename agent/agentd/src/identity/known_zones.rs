//! The other zones and hosts of them that may be called, in `zones.json` of the state directory.

use std::path::{Path, PathBuf};

use ringmesh_node::zones::{KnownZone, MAX_ZONES};

use super::{IdentityError, files};

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("zones.json")
}

/// The zones, none if they were never written.
pub fn read(state_dir: &Path) -> Result<Vec<KnownZone>, IdentityError> {
    let path = path(state_dir);
    let Some(bytes) = files::read_secret_if_there(&path)? else { return Ok(Vec::new()) };
    let mut zones: Vec<KnownZone> = serde_json::from_slice(&bytes).map_err(|error| IdentityError::Damaged {
        path,
        message: format!("is not a list of zones ({error})"),
        cure: "restore it from a backup, or copy the one of another host",
    })?;
    zones.truncate(MAX_ZONES);
    Ok(zones)
}

/// Replaces the zones.
pub fn write(state_dir: &Path, zones: &[KnownZone]) -> Result<(), IdentityError> {
    let json = serde_json::to_vec_pretty(zones).expect("zones are plain data");
    files::make_directory(state_dir)?;
    files::write(&path(state_dir), &json, files::SECRET)
}

#[cfg(test)]
mod tests {
    use ringmesh_proto::{HostId, member::Member};

    use super::*;

    #[test]
    fn zones_round_trip_and_garbage_is_named() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        assert_eq!(read(directory.path()).expect("absence is no error"), []);
        let address = Some("10.0.0.1:7400".parse().expect("an address"));
        let delegates = vec![Member { id: HostId::new(3), generation: 3, addresses: [address, None] }];
        let zones = vec![KnownZone { name: "east".into(), delegates }];
        write(directory.path(), &zones).expect("it can be written");
        assert_eq!(read(directory.path()).expect("our own file"), zones);
        files::write(&path(directory.path()), b"[{", files::SECRET).expect("it can be written");
        assert!(read(directory.path()).expect_err("garbage").to_string().contains("zones.json"));
    }
}
