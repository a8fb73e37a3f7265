//! A disk in memory that loses power.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    rc::Rc,
};

use rand::{RngExt, rngs::StdRng};

use crate::wal::{Disk, DiskFile};

const SECTOR: usize = 512;

#[derive(Clone, Default)]
pub(crate) struct MemoryDisk(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    names: BTreeMap<String, u64>,
    files: BTreeMap<u64, Content>,
    next: u64,
    /// Operations until all fail.
    left: Option<u64>,
    writes: u64,
    syncs: u64,
}

#[derive(Clone, Default)]
struct Content {
    durable: Vec<u8>,
    current: Vec<u8>,
    /// Sectors that were written and not synced.
    dirty: BTreeSet<usize>,
}

pub(crate) struct MemoryFile {
    disk: MemoryDisk,
    inode: u64,
}

impl MemoryDisk {
    /// A copy of what is there, which changes on its own.
    pub(crate) fn image(&self) -> Self {
        let state = self.0.borrow();
        let (names, files) = (state.names.clone(), state.files.clone());
        Self(Rc::new(RefCell::new(State { names, files, next: state.next, ..State::default() })))
    }

    /// All operations after so many fail; the first of them, if it writes, may have done some of it.
    pub(crate) fn fail_after(&self, operations: Option<u64>) {
        self.0.borrow_mut().left = operations;
    }

    /// Of what was not synced, any sector is lost or not. The disk works again.
    pub(crate) fn lose_power(&self, rng: &mut StdRng) {
        let mut state = self.0.borrow_mut();
        state.left = None;
        for content in state.files.values_mut() {
            for sector in std::mem::take(&mut content.dirty) {
                if rng.random() {
                    content.store(sector);
                }
            }
            content.current.clone_from(&content.durable);
        }
    }

    pub(crate) fn counts(&self) -> (u64, u64) {
        let state = self.0.borrow();
        (state.writes, state.syncs)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.borrow().names.keys().cloned().collect()
    }

    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        let state = self.0.borrow();
        state.files[&state.names[name]].current.clone()
    }

    pub(crate) fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.0.borrow_mut();
        let inode = state.names[name];
        let content = state.files.get_mut(&inode).unwrap();
        edit(&mut content.current);
        content.durable.clone_from(&content.current);
    }

    fn operate(&self) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        match &mut state.left {
            Some(0) => return Err(io::Error::other("the disk is broken")),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    fn inode(&self, name: &str) -> io::Result<u64> {
        self.0.borrow().names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file(&self, inode: u64) -> MemoryFile {
        MemoryFile { disk: self.clone(), inode }
    }
}

impl Content {
    fn store(&mut self, sector: usize) {
        let range = sector * SECTOR..self.current.len().min((sector + 1) * SECTOR);
        self.durable[range.clone()].copy_from_slice(&self.current[range]);
    }
}

impl Disk for MemoryDisk {
    type File = MemoryFile;

    fn list(&mut self) -> io::Result<Vec<String>> {
        self.operate()?;
        Ok(self.names())
    }

    fn create(&mut self, name: &str, len: u64) -> io::Result<MemoryFile> {
        self.operate()?;
        let mut state = self.0.borrow_mut();
        state.next += 1;
        let inode = state.next;
        let zeros = vec![0; len as usize];
        state.files.insert(inode, Content { durable: zeros.clone(), current: zeros, dirty: BTreeSet::new() });
        state.names.insert(name.to_owned(), inode);
        drop(state);
        Ok(self.file(inode))
    }

    fn open(&mut self, name: &str) -> io::Result<MemoryFile> {
        self.operate()?;
        let inode = self.inode(name)?;
        Ok(self.file(inode))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.operate()?;
        let inode = self.inode(from)?;
        let mut state = self.0.borrow_mut();
        state.names.remove(from);
        state.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.operate()?;
        let inode = self.inode(name)?;
        let mut state = self.0.borrow_mut();
        state.names.remove(name);
        state.files.remove(&inode);
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        self.disk.operate()?;
        Ok(self.disk.0.borrow().files[&self.inode].current.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.operate()?;
        let state = self.disk.0.borrow();
        let start = offset as usize;
        let bytes = state.files[&self.inode].current.get(start..start + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let works = self.disk.operate();
        let mut state = self.disk.0.borrow_mut();
        state.writes += 1;
        let content = state.files.get_mut(&self.inode).unwrap();
        let start = offset as usize;
        assert!(start + bytes.len() <= content.current.len(), "a write beyond the end of a segment");
        content.current[start..start + bytes.len()].copy_from_slice(bytes);
        content.dirty.extend(start / SECTOR..(start + bytes.len()).div_ceil(SECTOR));
        works
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.disk.operate()?;
        let mut state = self.disk.0.borrow_mut();
        state.syncs += 1;
        let content = state.files.get_mut(&self.inode).unwrap();
        for sector in std::mem::take(&mut content.dirty) {
            content.store(sector);
        }
        Ok(())
    }
}
