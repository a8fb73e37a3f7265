//! A disk in memory, whose power may go at any write: what was not synced is there, is not, or is in part.
#![expect(clippy::disallowed_types, reason = "redb shares its backend between threads")]

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use redb::StorageBackend;

/// What is written as one, or not at all.
const SECTOR: usize = 512;

/// A disk. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// As a reader sees it.
    bytes: Vec<u8>,
    /// As it is after a loss of power, but for `unsynced`.
    synced: Vec<u8>,
    unsynced: Vec<Operation>,
    /// Writes, syncs and changes of length until the power goes.
    left: Option<u64>,
    operations: u64,
    /// Reads fail.
    is_unreadable: bool,
}

#[derive(Clone, Debug)]
enum Operation {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
}

impl Operation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => {
                let end = offset + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(data);
            }
            Self::SetLen(len) => bytes.resize(*len, 0),
        }
    }
}

impl Memory {
    /// The power goes before the operation after so many more.
    pub(super) fn fail_after(&self, operations: u64) {
        self.state().left = Some(operations);
    }

    /// Nothing can be read from now on.
    pub(super) fn fail_reads(&self) {
        self.state().is_unreadable = true;
    }

    /// How many operations there were.
    pub(super) fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The disk as it may be found after a loss of power now: of what was not synced any part is there, in any order.
    pub(super) fn after_power_loss(&self, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let state = self.state();
        let mut bytes = state.synced.clone();
        for operation in &state.unsynced {
            match operation {
                Operation::Write { offset, data } => {
                    for (at, sector) in data.chunks(SECTOR).enumerate() {
                        if rng.random_bool(0.5) {
                            let offset = offset + at * SECTOR;
                            Operation::Write { offset, data: sector.to_vec() }.apply(&mut bytes);
                        }
                    }
                }
                Operation::SetLen(_) if rng.random_bool(0.5) => operation.apply(&mut bytes),
                Operation::SetLen(_) => {}
            }
        }
        Self(Arc::new(Mutex::new(State { synced: bytes.clone(), bytes, ..State::default() })))
    }

    /// The disk with a byte changed somewhere.
    pub(super) fn damaged(&self, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut bytes = self.state().bytes.clone();
        let at = rng.random_range(0..bytes.len());
        bytes[at] ^= rng.random_range(1..=u8::MAX);
        Self(Arc::new(Mutex::new(State { synced: bytes.clone(), bytes, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn change(&self, operation: Operation) -> io::Result<()> {
        let mut state = self.state();
        state.count()?;
        operation.apply(&mut state.bytes);
        state.unsynced.push(operation);
        Ok(())
    }
}

impl State {
    fn count(&mut self) -> io::Result<()> {
        self.operations += 1;
        match &mut self.left {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        let state = self.state();
        if state.is_unreadable {
            return Err(io::Error::other("a sector cannot be read"));
        }
        let bytes = state.bytes.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Operation::SetLen(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.count()?;
        let State { synced, unsynced, .. } = &mut *state;
        unsynced.drain(..).for_each(|operation| operation.apply(synced));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Operation::Write { offset: offset as usize, data: data.to_vec() })
    }
}
