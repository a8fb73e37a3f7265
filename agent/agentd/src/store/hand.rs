//! The log's hand: a thread that writes what it is given, in order, and says when it is on the disk. What waits together
//! goes with one write and one sync: while one is under way, the next batch gathers.

use std::{io, path::PathBuf, thread};

use ringmesh_store::{
    consensus::Persist,
    wal::{Wal, WriteError},
};
use tokio::sync::mpsc;

use super::{directory, files::Files};

/// Writes that wait for the disk, at the most: the loop gives out no more before.
pub(super) const JOB_BOUND: usize = 256;

/// What it is told.
#[derive(Debug)]
pub(super) enum Job {
    /// Write this.
    Persist(Persist),
    /// First put the keys that came from another member in the place of the others; then write this.
    Install {
        /// The new keys' file.
        from: PathBuf,
        /// Where they go.
        to: PathBuf,
        /// What the log says of it.
        persist: Persist,
    },
    /// Entries below this index are not needed any more.
    Cut(u64),
}

/// Why it cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum HandError {
    /// The log.
    #[error(transparent)]
    Log(#[from] WriteError),
    /// The keys' file.
    #[error("cannot put the keys that came from another member in place; look at the disk")]
    Install(#[source] io::Error),
}

/// All up to this number is on the disk.
pub(super) type Written = Result<u64, HandError>;

/// Starts it. It ends with the sender of jobs, or with its first error.
pub(super) fn start(
    wal: Wal<Files>,
    jobs: mpsc::Receiver<Job>,
    written: mpsc::Sender<Written>,
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("store-log".into()).spawn(move || {
        let mut hand = Hand { wal, jobs, written, batch: Vec::new() };
        if let Err(error) = hand.work() {
            // The loop may have ended.
            let _ = hand.written.blocking_send(Err(error));
        }
    })
}

struct Hand {
    wal: Wal<Files>,
    jobs: mpsc::Receiver<Job>,
    written: mpsc::Sender<Written>,
    batch: Vec<Persist>,
}

impl Hand {
    fn work(&mut self) -> Result<(), HandError> {
        while let Some(job) = self.jobs.blocking_recv() {
            self.take(job)?;
            while let Ok(job) = self.jobs.try_recv() {
                self.take(job)?;
            }
            self.write()?;
            if self.jobs.is_empty()
                && let Err(error) = self.wal.prepare()
            {
                // There may be room again when the segment is needed; if not, that is said then.
                tracing::warn!(error = crate::disk::one_line_of(&error), "no room for the log's next segment");
            }
        }
        Ok(())
    }

    fn take(&mut self, job: Job) -> Result<(), HandError> {
        match job {
            Job::Persist(persist) => self.batch.push(persist),
            Job::Install { from, to, persist } => {
                self.write()?;
                self.wal.announce(&persist)?;
                install(&from, &to).map_err(HandError::Install)?;
                self.batch.push(persist);
            }
            Job::Cut(below) => {
                self.write()?;
                self.wal.cut(below)?;
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), HandError> {
        let Some(last) = self.batch.last() else { return Ok(()) };
        let number = last.number;
        self.wal.append(&self.batch)?;
        self.batch.clear();
        // The loop may have ended: then nobody wants to know.
        let _ = self.written.blocking_send(Ok(number));
        Ok(())
    }
}

fn install(from: &std::path::Path, to: &std::path::Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    to.parent().map_or(Ok(()), directory::sync)
}
