//! What a host loop must find again after a restart: its generation, the hosts and zones it knew, and the histories of its
//! checks (`disk/history.rs`).
//!
//! `<state_dir>/generation` is one decimal number; `<state_dir>/peers.json` is written by `identity::seeds`,
//! `<state_dir>/zones.json` by `identity::known_zones`.

mod history;
mod trouble;

use std::path::{Path, PathBuf};

use ringmesh_node::Persistent;
use ringmesh_proto::Generation;
use tokio::sync::watch;

pub use history::{Shard, Written, read_histories, write_at_end, write_histories};
use trouble::wait_for_work;
pub use trouble::{Trouble, one_line_of};

use crate::identity::{IdentityError, known_zones, seeds};

/// Why the state of a host cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The platform refused.
    #[error("cannot read {path}; make it readable for the user that runs the agent")]
    Read {
        /// Of the file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not a number.
    #[error("{path} holds no number; remove it, and the cluster will tell this host its generation")]
    Generation {
        /// Of the file.
        path: PathBuf,
    },
    /// The known hosts are unusable.
    #[error(transparent)]
    Peers(#[from] IdentityError),
}

/// Reads it; a host that starts for the first time has generation 0.
pub fn read(state_dir: &Path) -> Result<Persistent, DiskError> {
    let path = generation_path(state_dir);
    let generation = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| DiskError::Generation { path })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(source) => return Err(DiskError::Read { path, source }),
    };
    Ok(Persistent { generation, known: seeds::read(state_dir)?, zones: known_zones::read(state_dir)? })
}

/// Writes the newest of what it is given, until the sender is gone. A thread of its own: fsync(2) may take long.
///
/// A failed write is told and tried again: losing it costs a host that restarts a round of renewal.
pub async fn write_latest(state_dir: PathBuf, mut latest: watch::Receiver<Option<Persistent>>, trouble: Trouble) {
    let mut written: Option<Persistent> = None;
    let mut again = false;
    while wait_for_work(&mut latest, again).await {
        let Some(state) = latest.borrow_and_update().clone() else { continue };
        let (directory, before, now) = (state_dir.clone(), written.take(), state.clone());
        let result = tokio::task::spawn_blocking(move || write(&directory, before.as_ref(), &now)).await;
        let result = match result {
            Ok(Ok(())) => {
                written = Some(state);
                Ok(())
            }
            Ok(Err(error)) => Err(one_line_of(&error)),
            Err(_) => Err("the writer ended".to_owned()),
        };
        if let (false, Err(error)) = (again, &result) {
            tracing::error!(error, "cannot write down the state of this host; it is tried again");
        }
        trouble.note("generation and known hosts", &result);
        again = result.is_err();
    }
}

fn write(state_dir: &Path, before: Option<&Persistent>, now: &Persistent) -> Result<(), IdentityError> {
    if before.is_none_or(|before| before.generation != now.generation) {
        write_generation(state_dir, now.generation)?;
    }
    if before.is_none_or(|before| before.known != now.known) {
        seeds::write(state_dir, &now.known)?;
    }
    if before.is_none_or(|before| before.zones != now.zones) {
        known_zones::write(state_dir, &now.zones)?;
    }
    Ok(())
}

fn write_generation(state_dir: &Path, generation: Generation) -> Result<(), IdentityError> {
    seeds::write_file(&generation_path(state_dir), format!("{generation}\n").as_bytes())
}

fn generation_path(state_dir: &Path) -> PathBuf {
    state_dir.join("generation")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_garbage_is_named() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        assert_eq!(read(directory.path()).expect("absence is no error").generation, 0);
        let state = Persistent { generation: 7, known: Vec::new(), zones: Vec::new() };
        write(directory.path(), None, &state).expect("it can be written");
        assert_eq!(read(directory.path()).expect("our own files"), state);
        std::fs::write(generation_path(directory.path()), "seven").expect("it can be written");
        assert!(read(directory.path()).expect_err("garbage").to_string().contains("generation"));
    }
}
