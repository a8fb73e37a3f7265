//! Histories on the disk: `<state_dir>/history/XX`, a file a shard, replaced as a whole.
//!
//! Nothing here is fatal: what cannot be read is said and forgotten, what cannot be written is said and tried again.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ringmesh_node::health::SHARDS;
use ringmesh_proto::{disk::HistoryRecord, history_file};
use tokio::sync::mpsc;

use super::{Trouble, one_line_of};
use crate::{
    counters::{Counters, count},
    identity::{IdentityError, seeds},
};

/// The most bytes that are read of a file: a shard of a host with 32,000 services has 55 KB if few change.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// When the agent ends, it waits no longer for a slow disk.
const END_WITHIN: Duration = Duration::from_secs(5);

/// All histories of a shard.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Names the file.
    pub shard: u8,
    /// What it is to hold.
    pub histories: Vec<HistoryRecord>,
}

/// What became of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Which.
    pub shard: u8,
    /// It is on disk.
    pub success: bool,
}

/// Reads all that is there. What is damaged is left out, counted, and named in the log.
pub fn read_histories(state_dir: &Path, counters: &Counters) -> Vec<HistoryRecord> {
    if !directory(state_dir).is_dir() {
        return Vec::new();
    }
    let mut records = Vec::new();
    for shard in 0..SHARDS {
        let path = path(state_dir, shard as u8);
        match read(&path) {
            Ok(read) => {
                for _ in 0..read.damaged {
                    count(&counters.histories_damaged);
                }
                if read.damaged > 0 {
                    tracing::error!(path = %path.display(), damaged = read.damaged, "histories are damaged, and begin anew");
                }
                records.extend(read.records);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                count(&counters.histories_damaged);
                tracing::error!(path = %path.display(), %error, "cannot read histories, they begin anew");
            }
        }
    }
    records
}

/// Writes what it is given, one shard after the other, until the sender is gone, and says of each what became of it.
///
/// That writing fails is logged when it begins and when it is over.
pub async fn write_histories(
    state_dir: PathBuf,
    mut shards: mpsc::Receiver<Shard>,
    written: mpsc::Sender<Written>,
    counters: Arc<Counters>,
    trouble: Trouble,
) {
    let mut fails = false;
    while let Some(Shard { shard, histories }) = shards.recv().await {
        let directory = state_dir.clone();
        let result = tokio::task::spawn_blocking(move || write(&directory, shard, &histories)).await;
        let result =
            result.map_err(|error| error.to_string()).and_then(|result| result.map_err(|error| one_line_of(&error)));
        trouble.note("histories", &result);
        match &result {
            Ok(()) if fails => tracing::info!("histories are written again"),
            Ok(()) => {}
            Err(error) => {
                count(&counters.history_writes_failed);
                if !fails {
                    tracing::error!(
                        error,
                        "cannot write down histories; they stay in memory, and are tried again every minute"
                    );
                }
            }
        }
        fails = result.is_err();
        // The loop may have ended.
        let _ = written.send(Written { shard, success: result.is_ok() }).await;
    }
}

/// Writes what is left when the agent ends, as much as the time allows.
pub async fn write_at_end(state_dir: PathBuf, shards: Vec<(u8, Vec<HistoryRecord>)>) {
    let write_all = move || shards.iter().try_for_each(|(shard, histories)| write(&state_dir, *shard, histories));
    match tokio::time::timeout(END_WITHIN, tokio::task::spawn_blocking(write_all)).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::error!(%error, "cannot write down histories; what came last is lost"),
        Ok(Err(error)) => tracing::error!(%error, "cannot write down histories; what came last is lost"),
        Err(_) => tracing::error!("the disk is slow; some of the newest histories are lost"),
    }
}

fn read(path: &Path) -> std::io::Result<history_file::Read> {
    if std::fs::metadata(path)?.len() > MAX_FILE {
        return Err(std::io::Error::other(format!("it is larger than {MAX_FILE} bytes")));
    }
    Ok(history_file::decode(&std::fs::read(path)?))
}

/// A shard without histories has no file.
fn write(state_dir: &Path, shard: u8, histories: &[HistoryRecord]) -> Result<(), IdentityError> {
    let path = path(state_dir, shard);
    if histories.is_empty() {
        return match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(IdentityError::Io { action: "remove", path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        };
    }
    seeds::write_file(&path, &history_file::encode(histories))
}

fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("history")
}

fn path(state_dir: &Path, shard: u8) -> PathBuf {
    directory(state_dir).join(format!("{shard:02x}"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    fn histories(container: &str) -> Vec<HistoryRecord> {
        vec![HistoryRecord { container: container.into(), service: "web".into(), ..HistoryRecord::default() }]
    }

    #[test]
    fn what_is_written_reads_back_and_damage_costs_one_file() {
        let (directory, counters) = (tempfile::tempdir().expect("a directory for the test"), Counters::default());
        assert_eq!(read_histories(directory.path(), &counters), []);
        write(directory.path(), 3, &histories("c1")).expect("it can be written");
        write(directory.path(), 200, &histories("c2")).expect("it can be written");
        assert_eq!(read_histories(directory.path(), &counters), [histories("c1"), histories("c2")].concat());
        std::fs::write(path(directory.path(), 3), "no history").expect("it can be written");
        assert_eq!(read_histories(directory.path(), &counters), histories("c2"));
        assert_eq!(counters.histories_damaged.load(Relaxed), 1);
        write(directory.path(), 3, &[]).expect("it is removed");
        write(directory.path(), 3, &[]).expect("it is gone");
        assert!(!path(directory.path(), 3).exists());
    }

    #[tokio::test]
    async fn a_shard_that_cannot_be_written_is_said_and_comes_again() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let blocked = directory.path().join("history");
        // No directory can be made there: for the writer no other case than a full disk.
        std::fs::write(&blocked, "").expect("it can be written");
        let (shards, to_write) = mpsc::channel(1);
        let (written, mut told) = mpsc::channel(1);
        let counters = Arc::new(Counters::default());
        let trouble = Trouble::default();
        let mut trouble_told = trouble.watch();
        let writer = write_histories(directory.path().into(), to_write, written, Arc::clone(&counters), trouble);
        let writer = tokio::spawn(writer);
        let shard = || Shard { shard: 7, histories: histories("c1") };
        shards.send(shard()).await.expect("the writer runs");
        assert_eq!(told.recv().await, Some(Written { shard: 7, success: false }));
        assert!(trouble_told.borrow_and_update().as_ref().is_some_and(|why| why.starts_with("histories: cannot ")));
        std::fs::remove_file(&blocked).expect("it is there");
        shards.send(shard()).await.expect("the writer runs");
        assert_eq!(told.recv().await, Some(Written { shard: 7, success: true }));
        assert_eq!(*trouble_told.borrow_and_update(), None);
        drop(shards);
        writer.await.expect("it ends with its sender");
        assert_eq!(counters.history_writes_failed.load(Relaxed), 1);
        assert_eq!(read_histories(directory.path(), &counters), histories("c1"));
    }
}
