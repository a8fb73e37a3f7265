//! A member from a snapshot that a client took: `ringmesh store restore`. Each member of a new cluster is made from the same
//! one; all then begin at the same place of the same log.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, Read, Seek},
    path::{Path, PathBuf},
};

use redb::backends::FileBackend;
use ringmesh_store::{
    consensus::{Applied, Conf, HardState, Persist},
    kv::{self, Kv, Restore, RestoreError},
    wal::{self, Wal},
};
use sha2::{Digest, Sha256};

use super::{
    directory::Directory, error::StoreError, files::Files, hand::HandError, member::applied, settings::Settings,
    start::random,
};

/// Bytes of what comes after the keys: their length, before the sum.
const LENGTH_BYTES: u64 = 8;

/// Bytes of the sum.
const SUM_BYTES: u64 = 32;

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Why a snapshot makes no member.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The platform refused.
    #[error("cannot read {path}")]
    Read {
        /// Of the snapshot.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is none, or not whole.
    #[error("{0} is no whole snapshot: its checksum is wrong; take it anew with `etcdctl snapshot save`")]
    Sum(PathBuf),
    /// What is in it.
    #[error(transparent)]
    Keys(#[from] RestoreError),
}

/// Makes a member with the keys of a snapshot; returns their newest revision. The member is not started.
pub fn restore(settings: &Settings, snapshot: &Path) -> Result<i64, StoreError> {
    let (file, Sum { length, digest, .. }) = open(snapshot)?;
    let directory = Directory::of_snapshot(settings, digest)?;
    let mut kv = read(&directory, settings, file.take(length), snapshot)?;
    let at = refound(&mut kv, settings)?;
    let revision = kv.revision();
    drop(kv);
    let failed = |source| StoreError::File { path: directory.keys(), source };
    std::fs::rename(directory.new_keys(), directory.keys()).map_err(failed)?;
    directory.sync().map_err(failed)?;
    begin_log(&directory, settings, at)?;
    directory.restored()?;
    Ok(revision)
}

/// With the bytes that are keys; the sum is right.
fn open(path: &Path) -> Result<(BufReader<File>, Sum), SnapshotError> {
    let failed = |source| SnapshotError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let whole = file.metadata().map_err(failed)?.len();
    let mut file = BufReader::with_capacity(CHUNK_BYTES, file);
    let sum = sum(&mut file, whole).map_err(failed)?.filter(|sum| sum.is_right);
    let sum = sum.ok_or_else(|| SnapshotError::Sum(path.to_owned()))?;
    file.rewind().map_err(failed)?;
    Ok((file, sum))
}

/// What a snapshot says of itself.
struct Sum {
    /// Of the keys, in bytes.
    length: u64,
    /// In hexadecimal.
    digest: String,
    is_right: bool,
}

/// None if it is too short for that.
fn sum(file: &mut impl Read, whole: u64) -> io::Result<Option<Sum>> {
    let Some(before) = whole.checked_sub(SUM_BYTES + LENGTH_BYTES) else { return Ok(None) };
    let mut hash = Sha256::new();
    io::copy(&mut file.take(before), &mut hash)?;
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact(&mut length)?;
    hash.update(length);
    let mut expected = [0; SUM_BYTES as usize];
    file.read_exact(&mut expected)?;
    let length = u64::from_be_bytes(length);
    let is_right = hash.finalize().as_slice() == expected && length <= before;
    let digest = expected.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(Sum { length, digest, is_right }))
}

fn read(directory: &Directory, settings: &Settings, mut snapshot: impl Read, path: &Path) -> Result<Kv, StoreError> {
    let new = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(directory.new_keys());
    let new = new.map_err(|source| StoreError::File { path: directory.new_keys(), source })?;
    let kv_settings = kv::Settings { quota_bytes: settings.quota_bytes, ..kv::Settings::default() };
    let mut restore = Restore::new(FileBackend::new(new)?, kv_settings).map_err(SnapshotError::from)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let failed = |source| SnapshotError::Read { path: path.to_owned(), source };
        let length = snapshot.read(&mut chunk).map_err(failed)?;
        if length == 0 {
            return Ok(restore.finish().map_err(SnapshotError::from)?);
        }
        restore.push(&chunk[..length]).map_err(SnapshotError::from)?;
    }
}

/// The members are those of the new cluster from the next entry on, which no log has.
fn refound(kv: &mut Kv, settings: &Settings) -> Result<Applied, StoreError> {
    let before = kv.applied();
    let conf = Conf::of_voters(settings.members.iter().map(|member| member.id));
    kv.reconfigure(before.index + 1, before.term.max(1), conf.encode());
    let checkpoint = kv.begin_checkpoint().ok_or(StoreError::Broke("a change makes no checkpoint"))?;
    let written = checkpoint.write().map_err(StoreError::Checkpoint)?;
    kv.end_checkpoint(written);
    Ok(applied(&kv.applied()))
}

fn begin_log(directory: &Directory, settings: &Settings, at: Applied) -> Result<(), StoreError> {
    let identity = wal::Identity { cluster: directory.cluster_id(), member: settings.id };
    let (mut wal, _) = Wal::open(Files::new(directory.log()), identity, wal::Settings::default(), random()?)?;
    let hard = HardState { term: at.position.term, vote: 0, commit: at.position.index };
    let persist = Persist { number: 0, snapshot: Some(at), entries: Vec::new(), hard: Some(hard) };
    Ok(wal.append(&[persist]).map_err(HandError::from)?)
}
