//! The log on disk.
//!
//! [`Wal`] keeps entries and the hard state in segments of one size, which are filled with zeros before they are used, so
//! that a sync moves no metadata. It knows files only as a [`Disk`], and of Raft only what an entry is.
//!
//! ```text
//!   0000000000000007.wal   header | frame | frame | …  | zeros
//!   0000000000000008.wal   header | zeros                        spare
//! ```
//!
//! A frame holds the records of one batch. Its checksum covers its place in the segment and the checksum of the frame
//! before, so that frames can be neither moved nor mixed.

mod disk;
mod error;
mod frame;
mod log;
mod record;
mod recovery;
mod segment;

#[cfg(test)]
pub(crate) mod tests;

pub use disk::{Disk, DiskFile};
pub use error::{OpenError, WriteError};
pub use log::{Identity, Recovery, Settings, Wal};
