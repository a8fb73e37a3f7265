//! The log's files on a real disk.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
};

use ringmesh_store::wal::{Disk, DiskFile};

use super::directory::sync;

/// Zeros that are written at once.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A directory of files.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
}

impl Files {
    /// The directory is there.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

impl Disk for Files {
    type File = OpenFile;

    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            // A name that is no text is none of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn create(&mut self, name: &str, len: u64) -> io::Result<OpenFile> {
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(self.path.join(name))?;
        let mut offset = 0;
        while offset < len {
            let step = usize::try_from(len - offset).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            file.write_all_at(&ZEROS[..step], offset)?;
            offset += step as u64;
        }
        file.sync_all()?;
        sync(&self.path)?;
        Ok(OpenFile(file))
    }

    fn open(&mut self, name: &str) -> io::Result<OpenFile> {
        OpenOptions::new().read(true).write(true).open(self.path.join(name)).map(OpenFile)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))?;
        sync(&self.path)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))?;
        sync(&self.path)
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct OpenFile(File);

impl DiskFile for OpenFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_zeros_at_first_and_keeps_what_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = Files::new(directory.path().to_owned());
        let len = ZEROS.len() as u64 + 3;
        let mut file = files.create("a", len).unwrap();
        assert_eq!(file.size().unwrap(), len);
        file.write_at(b"xyz", len - 3).unwrap();
        file.sync_data().unwrap();
        files.rename("a", "b").unwrap();
        assert_eq!(files.list().unwrap(), ["b"]);
        let file = files.open("b").unwrap();
        let mut end = [1; 4];
        file.read_at(&mut end, len - 4).unwrap();
        assert_eq!(&end, b"\0xyz");
        file.read_at(&mut end, len - 3).unwrap_err();
        files.remove("b").unwrap();
        files.open("b").unwrap_err();
    }
}
