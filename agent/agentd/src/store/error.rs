//! Why a store cannot run.

use std::io;

use ringmesh_store::{
    consensus::StartError,
    kv::{CheckpointError, OpenError},
    wal,
};

use super::{directory::DirectoryError, hand::HandError, restore::SnapshotError};

/// Why a store does not start, or ends by itself. What it acknowledged is on the disk.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Of the operator.
    #[error("--log-level: \"{0}\" is no level; use error, warn, info, debug or trace, or MODULE=LEVEL")]
    LogLevel(String),
    /// Of the operator.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Of the operator.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Of the operator, or another program.
    #[error("cannot listen on {address}; check {option}, and that no other program listens there")]
    Listen {
        /// Which one names it.
        option: &'static str,
        /// Host and port.
        address: String,
        /// What the platform said.
        source: io::Error,
    },
    /// The keys' file cannot be opened.
    #[error("cannot use {path}; check that directory and its permissions")]
    File {
        /// Of the file.
        path: std::path::PathBuf,
        /// What the platform said.
        source: io::Error,
    },
    /// redb takes no such file.
    #[error("cannot use the keys' file")]
    Backend(#[from] redb::DatabaseError),
    /// Somebody removed it.
    #[error("the log in {0} is gone: nobody knows what this replica has promised; another one will take its place")]
    LostLog(std::path::PathBuf),
    /// The keys do not open.
    #[error(transparent)]
    OpenKeys(#[from] OpenError),
    /// The log does not open.
    #[error(transparent)]
    OpenLog(#[from] wal::OpenError),
    /// The two do not fit together.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The disk.
    #[error(transparent)]
    Hand(#[from] HandError),
    /// The disk.
    #[error("the keys cannot be written; look at the disk, then start again")]
    Checkpoint(#[source] CheckpointError),
    /// The disk.
    #[error("the keys cannot be read ({0}); look at the disk, then start again")]
    Keys(String),
    /// The platform gave no thread, event loop, signal or randomness.
    #[error("the platform refused a thread, a signal or randomness")]
    Thread(#[source] io::Error),
    /// Us.
    #[error("{0}; please report it")]
    Broke(&'static str),
}
