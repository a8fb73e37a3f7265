//! What the log needs of a disk.

use std::io;

/// A directory that belongs to one log alone.
pub trait Disk {
    /// An open file in it.
    type File: DiskFile;

    /// The names of all files.
    fn list(&mut self) -> io::Result<Vec<String>>;
    /// Makes a file of this many zeros, written and not only reserved. On return it is durable, name and all.
    fn create(&mut self, name: &str, len: u64) -> io::Result<Self::File>;
    /// Opens a file to read and write.
    fn open(&mut self, name: &str) -> io::Result<Self::File>;
    /// Renames a file, and replaces what has the new name. Durable on return; after a power loss before, either name.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Durable on return.
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile {
    /// Its size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Fills the buffer from this offset on; less than that is an error.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of it at this offset, within the file's size.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// On return all that was written is durable. Before, any 512-byte sector of it may be or not.
    fn sync_data(&mut self) -> io::Result<()>;
}
