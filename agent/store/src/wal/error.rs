//! What goes wrong with a log on disk.

use std::io;

use thiserror::Error;

/// Why a log cannot be opened. Nothing was changed.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The disk of another cluster or member.
    #[error(
        "the log belongs to member {member:016x} of cluster {cluster:016x}: use that member's configuration, or another \
         directory"
    )]
    Foreign {
        /// Its cluster.
        cluster: u64,
        /// Its member.
        member: u64,
    },
    /// Written by a later version.
    #[error("{segment} has format {version}, which this version does not know: use the version that wrote it")]
    Version {
        /// The file.
        segment: String,
        /// What it says.
        version: u32,
    },
    /// What was stored is not what is read.
    #[error(
        "{segment} is damaged at byte {offset}: {what}; nothing was changed. Make a new store from a snapshot, of another \
         member if there is one"
    )]
    Damaged {
        /// The file.
        segment: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// The platform's fault.
    #[error("the log's directory cannot be read")]
    Disk(#[from] io::Error),
}

/// Why the log cannot be written. After the first one it takes nothing more: what is on disk is unknown until it is opened
/// again.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The platform's fault.
    #[error("the log cannot be written; stop this member and look at its disk")]
    Disk(#[from] io::Error),
    /// An earlier write failed.
    #[error("an earlier write to the log failed")]
    Failed,
    /// Entries before this one are missing. Ours: the log was not aligned with the keys after it was opened.
    #[error("entry {index} does not follow the log")]
    Hole {
        /// Its index.
        index: u64,
    },
    /// A record is larger than a segment takes. Ours: entries are bounded where they are proposed.
    #[error("an entry of {bytes} bytes does not fit into a segment")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}
