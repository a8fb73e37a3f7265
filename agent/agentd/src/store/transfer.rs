//! Snapshots on their way between members: read to be sent, and written into a fresh file as they come. When one is needed
//! the loop knows.

use std::{fs::OpenOptions, io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use redb::backends::FileBackend;
use ringmesh_proto::store::{PeerMessage, SnapshotChunk, peer_message::Kind};
use ringmesh_store::kv::{self, Kv, Restore, RestoreError, Snapshot};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::peer::Inbound;

/// Parts that are read ahead of the network, or wait for the disk.
const PARTS_AHEAD: usize = 4;

/// Keys that came from another member.
pub(super) struct Received {
    /// Open, and not in use.
    pub(super) kv: Kv,
    /// Where they are.
    pub(super) path: PathBuf,
    /// By whom they were sent.
    pub(super) from: u64,
    /// The consensus' message about them.
    pub(super) raft: Bytes,
    /// As long as it is held, no other snapshot is taken.
    pub(super) _turn: OwnedSemaphorePermit,
}

/// Takes snapshots, one at a time.
pub(super) struct Receiver {
    path: PathBuf,
    settings: kv::Settings,
    inbound: mpsc::Sender<Inbound>,
    turn: Arc<Semaphore>,
}

/// Why a snapshot is not taken.
#[derive(Debug, thiserror::Error)]
enum ReceiveError {
    /// Its file.
    #[error("cannot make {path}")]
    File {
        /// Of the file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// redb takes no such file.
    #[error("cannot use the file for a snapshot")]
    Backend(#[from] redb::DatabaseError),
    /// What came.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// It is not whole.
    #[error("a part of the snapshot is missing")]
    Missing,
}

/// The parts of `snapshot`, with `raft` as the last one. A part that is an error is the last, too.
pub(super) fn send(snapshot: Snapshot, raft: Bytes) -> io::Result<mpsc::Receiver<io::Result<PeerMessage>>> {
    let (sender, parts) = mpsc::channel(PARTS_AHEAD);
    let thread = std::thread::Builder::new().name("store-snapshot".into());
    thread.spawn(move || {
        let mut number = 0;
        for bytes in snapshot {
            let part = bytes.map(|bytes| part(SnapshotChunk { number, bytes, ..SnapshotChunk::default() }));
            let failed = part.is_err();
            if sender.blocking_send(part.map_err(io::Error::other)).is_err() || failed {
                return;
            }
            number += 1;
        }
        let last = SnapshotChunk { number, bytes: Bytes::new(), last: true, raft };
        // Who sends it may have given up.
        let _ = sender.blocking_send(Ok(part(last)));
    })?;
    Ok(parts)
}

fn part(chunk: SnapshotChunk) -> PeerMessage {
    PeerMessage { kind: Some(Kind::SnapshotChunk(chunk)) }
}

impl Receiver {
    /// `path` is for files that are not yet in use.
    pub(super) fn new(path: PathBuf, settings: kv::Settings, inbound: mpsc::Sender<Inbound>) -> Self {
        Self { path, settings, inbound, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Where the parts of a snapshot go, and what says that it was taken; None while another one is under way. If they end
    /// before the last, so does it.
    pub(super) fn start(&self, from: u64) -> Option<(mpsc::Sender<SnapshotChunk>, oneshot::Receiver<()>)> {
        let turn = Arc::clone(&self.turn).try_acquire_owned().ok()?;
        let (sender, parts) = mpsc::channel(PARTS_AHEAD);
        let (taken, is_taken) = oneshot::channel();
        let (path, settings, inbound) = (self.path.clone(), self.settings.clone(), self.inbound.clone());
        tokio::task::spawn_blocking(move || match receive(path, settings, from, parts, turn) {
            Ok(received) => {
                // The loop may have ended, and who waits may have gone.
                if inbound.blocking_send(Inbound::Snapshot(Box::new(received))).is_ok() {
                    let _ = taken.send(());
                }
            }
            Err(error) => {
                tracing::warn!(error = crate::disk::one_line_of(&error), "a snapshot is not taken");
            }
        });
        Some((sender, is_taken))
    }
}

fn receive(
    path: PathBuf,
    settings: kv::Settings,
    from: u64,
    mut parts: mpsc::Receiver<SnapshotChunk>,
    turn: OwnedSemaphorePermit,
) -> Result<Received, ReceiveError> {
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path);
    let file = file.map_err(|source| ReceiveError::File { path: path.clone(), source })?;
    let mut restore = Restore::new(FileBackend::new(file)?, settings)?;
    let mut expected = 0;
    while let Some(part) = parts.blocking_recv() {
        if part.number != expected {
            return Err(ReceiveError::Missing);
        }
        expected += 1;
        restore.push(&part.bytes)?;
        if part.last {
            return Ok(Received { kv: restore.finish()?, path, from, raft: part.raft, _turn: turn });
        }
    }
    Err(ReceiveError::Missing)
}
