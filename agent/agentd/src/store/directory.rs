//! The directory of a member: whose it is, and that nobody else uses it. What the files in it say is for the log and the
//! keys to know.
//!
//! ```text
//!  member.json   whose this is     keys.redb   the keys at the last checkpoint
//!  lock          held while used   log/        what was agreed on since
//!  restoring     until all of a snapshot is there
//! ```

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::settings::{Settings, restored_id};

/// Of the files' arrangement.
const FORMAT: u32 = 1;

/// There as long as a snapshot is on its way in.
const RESTORING: &str = "restoring";

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The platform refused.
    #[error("cannot use {path}; check that directory and its permissions")]
    Io {
        /// Of a file or the directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it.
    #[error("another store runs in {0}; stop it, or use another directory")]
    InUse(PathBuf),
    /// Not ours.
    #[error("{path} says nothing that a store wrote ({reason}); use an empty directory")]
    Unknown {
        /// Of the file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Nothing is restored over it.
    #[error("{0} holds a member already; use an empty directory")]
    NotEmpty(PathBuf),
    /// It has less than the snapshot had.
    #[error("a restore into {0} was cut short; remove that directory and restore again")]
    HalfRestored(PathBuf),
    /// Of another member or cluster.
    #[error(
        "{directory} is of member {found} of another cluster or name; give the --name and --initial-cluster that it was made with, or an empty --data-dir"
    )]
    Other {
        /// As given.
        directory: PathBuf,
        /// The name in it.
        found: String,
    },
}

/// A directory that is ours until this is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    cluster_id: u64,
    _lock: File,
}

#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Owner {
    format: u32,
    name: String,
    /// In hexadecimal: JSON's numbers do not hold 64 bits everywhere.
    member: String,
    cluster: String,
    /// The sum of the snapshot with which it began, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot: Option<String>,
}

impl Owner {
    fn new(settings: &Settings, snapshot: Option<String>) -> Self {
        Self {
            format: FORMAT,
            name: settings.name.clone(),
            member: format!("{:016x}", settings.id),
            cluster: format!("{:016x}", cluster_id(settings, snapshot.as_deref())),
            snapshot,
        }
    }
}

fn cluster_id(settings: &Settings, snapshot: Option<&str>) -> u64 {
    snapshot.map_or(settings.cluster_id, |snapshot| restored_id(settings.cluster_id, snapshot))
}

impl Directory {
    /// Takes it, and makes it if it is not there.
    pub(super) fn open(settings: &Settings) -> Result<Self, DirectoryError> {
        let lock = take(&settings.data_dir)?;
        if settings.data_dir.join(RESTORING).exists() {
            return Err(DirectoryError::HalfRestored(settings.data_dir.clone()));
        }
        let cluster_id = own(&settings.data_dir, settings)?;
        Ok(Self { path: settings.data_dir.clone(), cluster_id, _lock: lock })
    }

    /// Takes an empty one, or makes it, for a member that begins with the snapshot of that sum. It cannot be opened before
    /// [`Directory::restored`].
    pub(super) fn of_snapshot(settings: &Settings, snapshot: String) -> Result<Self, DirectoryError> {
        let path = settings.data_dir.clone();
        let lock = take(&path)?;
        let cluster_id = cluster_id(settings, Some(&snapshot));
        let directory = Self { path, cluster_id, _lock: lock };
        let restoring = directory.path.join(RESTORING);
        if restoring.exists() {
            return Err(DirectoryError::HalfRestored(directory.path));
        }
        let has_log = std::fs::read_dir(directory.log()).is_ok_and(|mut names| names.next().is_some());
        let owner = directory.path.join("member.json");
        if has_log || directory.keys().exists() || owner.exists() {
            return Err(DirectoryError::NotEmpty(directory.path));
        }
        File::create(&restoring).and_then(|_| directory.sync()).map_err(|source| failed(&restoring, source))?;
        write(&directory.path, &owner, &Owner::new(settings, Some(snapshot)))
            .map_err(|source| failed(&owner, source))?;
        Ok(directory)
    }

    /// The id of the replica in it, if there is one of that cluster.
    pub(super) fn replica(path: &Path, cluster_id: u64) -> Result<Option<u64>, DirectoryError> {
        let path = path.join("member.json");
        let cluster = format!("{cluster_id:016x}");
        let Some(owner) = read(&path)?.filter(|owner| owner.cluster == cluster) else { return Ok(None) };
        let id = u64::from_str_radix(&owner.member, 16);
        id.map(Some).map_err(|error| DirectoryError::Unknown { path, reason: error.to_string() })
    }

    /// Takes the one of a replica that is there.
    pub(super) fn of_replica(settings: &Settings) -> Result<Self, DirectoryError> {
        let lock = take(&settings.data_dir)?;
        let owner = read(&settings.data_dir.join("member.json"))?;
        if owner.as_ref() != Some(&Owner::new(settings, None)) {
            let found = owner.map(|owner| owner.name).unwrap_or_default();
            return Err(DirectoryError::Other { directory: settings.data_dir.clone(), found });
        }
        Ok(Self { path: settings.data_dir.clone(), cluster_id: settings.cluster_id, _lock: lock })
    }

    /// Takes one for a replica that begins, and makes it if it is not there. What a beginning that was cut short has left is
    /// removed: it is nobody's before [`Directory::settle`].
    pub(super) fn of_new_replica(settings: &Settings) -> Result<Self, DirectoryError> {
        let path = settings.data_dir.clone();
        let lock = take(&path)?;
        let directory = Self { path, cluster_id: settings.cluster_id, _lock: lock };
        for left in [directory.keys(), directory.new_keys()] {
            match std::fs::remove_file(&left) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&left, error)),
                Ok(()) | Err(_) => {}
            }
        }
        let log = directory.log();
        std::fs::remove_dir_all(&log).and_then(|()| make(&log)).map_err(|source| failed(&log, source))?;
        Ok(directory)
    }

    /// From here on it is that replica's, if it is nobody's: all that it began with is on the disk.
    pub(super) fn settle(&self, settings: &Settings) -> Result<(), DirectoryError> {
        let path = self.path.join("member.json");
        if path.exists() {
            return Ok(());
        }
        write(&self.path, &path, &Owner::new(settings, None)).map_err(|source| failed(&path, source))
    }

    /// Moves one that nobody uses out of the way, in the place of what was moved before.
    pub(super) fn set_aside(path: &Path) -> Result<PathBuf, DirectoryError> {
        let aside = path.with_extension("removed");
        match std::fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&aside, error)),
            Ok(()) | Err(_) => {}
        }
        std::fs::rename(path, &aside).map_err(|source| failed(path, source))?;
        Ok(aside)
    }

    /// All of the snapshot is in it, on the disk.
    pub(super) fn restored(&self) -> Result<(), DirectoryError> {
        let path = self.path.join(RESTORING);
        std::fs::remove_file(&path).and_then(|()| self.sync()).map_err(|source| failed(&path, source))
    }

    /// Of the members together.
    pub(super) fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// Of the log's files.
    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Of the keys.
    pub(super) fn keys(&self) -> PathBuf {
        self.path.join("keys.redb")
    }

    /// Of keys that are about to replace the others.
    pub(super) fn new_keys(&self) -> PathBuf {
        self.path.join("keys.new")
    }

    /// Names in it are on the disk from here on.
    pub(super) fn sync(&self) -> io::Result<()> {
        sync(&self.path)
    }
}

/// Names in `directory` are on the disk from here on.
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Makes a directory and those above it for nobody else to read; their names are on the disk from here on.
fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.map_or(Ok(()), make)?;
    DirBuilder::new().mode(0o700).create(path)?;
    sync(parent.unwrap_or(Path::new(".")))
}

fn take(path: &Path) -> Result<File, DirectoryError> {
    make(&path.join("log")).map_err(|source| failed(path, source))?;
    let lock_path = path.join("lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
    let lock = lock.map_err(|source| failed(&lock_path, source))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(DirectoryError::InUse(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(&lock_path, source)),
    }
}

/// The id of the cluster.
fn own(directory: &Path, settings: &Settings) -> Result<u64, DirectoryError> {
    let path = directory.join("member.json");
    let Some(found) = read(&path)? else {
        write(directory, &path, &Owner::new(settings, None)).map_err(|source| failed(&path, source))?;
        return Ok(settings.cluster_id);
    };
    if found != Owner::new(settings, found.snapshot.clone()) {
        return Err(DirectoryError::Other { directory: directory.to_owned(), found: found.name });
    }
    Ok(cluster_id(settings, found.snapshot.as_deref()))
}

/// None if it is not there.
fn read(path: &Path) -> Result<Option<Owner>, DirectoryError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(path, source)),
    };
    let unknown = |reason| DirectoryError::Unknown { path: path.to_owned(), reason };
    let found: Owner = serde_json::from_str(&text).map_err(|error| unknown(error.to_string()))?;
    if found.format != FORMAT {
        return Err(unknown(format!("its format is {}, and this program knows {FORMAT}", found.format)));
    }
    Ok(Some(found))
}

/// The file is whole, or it is not there.
fn write(directory: &Path, path: &Path, owner: &Owner) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    serde_json::to_writer(&file, owner)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    sync(directory)
}

fn failed(path: &Path, source: io::Error) -> DirectoryError {
    DirectoryError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::{super::settings::Options, *};

    fn settings(directory: &Path, name: &str) -> Settings {
        Settings::check(Options {
            name: name.into(),
            data_dir: directory.to_owned(),
            listen_client_urls: vec!["http://127.0.0.1:1".into()],
            advertise_client_urls: Vec::new(),
            listen_peer_urls: Vec::new(),
            initial_cluster: Vec::new(),
            quota_bytes: 0,
            retention: None,
        })
        .unwrap()
    }

    #[test]
    fn a_directory_has_one_user_and_one_owner() {
        let directory = tempfile::tempdir().unwrap();
        let first = Directory::open(&settings(directory.path(), "a")).unwrap();
        let error = Directory::open(&settings(directory.path(), "a")).unwrap_err();
        assert!(matches!(error, DirectoryError::InUse(_)), "{error}");
        drop(first);
        let error = Directory::open(&settings(directory.path(), "b")).unwrap_err();
        assert!(matches!(&error, DirectoryError::Other { found, .. } if found == "a"), "{error}");
        Directory::open(&settings(directory.path(), "a")).unwrap();
    }

    #[test]
    fn nobody_else_reads_what_is_made() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x/y");
        Directory::open(&settings(&path, "a")).unwrap();
        for made in [path.join("log"), path.clone(), directory.path().join("x")] {
            assert_eq!(made.metadata().unwrap().permissions().mode() & 0o777, 0o700, "{}", made.display());
        }
    }

    #[test]
    fn members_of_one_snapshot_are_of_one_cluster_and_of_no_other() {
        let [first, second, third] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let restored = Directory::of_snapshot(&settings(first.path(), "a"), "5a".into()).unwrap();
        let one = restored.cluster_id();
        drop(restored);
        for error in [
            Directory::open(&settings(first.path(), "a")).unwrap_err(),
            Directory::of_snapshot(&settings(first.path(), "a"), "5a".into()).unwrap_err(),
        ] {
            assert!(matches!(error, DirectoryError::HalfRestored(_)), "{error}");
        }
        std::fs::remove_file(first.path().join(RESTORING)).unwrap();
        let same = Directory::of_snapshot(&settings(second.path(), "a"), "5a".into()).unwrap().cluster_id();
        let other = Directory::of_snapshot(&settings(third.path(), "a"), "5b".into()).unwrap().cluster_id();
        assert!(one == same && one != other && one != settings(first.path(), "a").cluster_id);
        assert_eq!(Directory::open(&settings(first.path(), "a")).unwrap().cluster_id(), one);
        let error = Directory::of_snapshot(&settings(first.path(), "a"), "5a".into()).unwrap_err();
        assert!(matches!(error, DirectoryError::NotEmpty(_)), "{error}");
    }

    #[test]
    fn what_no_store_wrote_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("member.json"), "{}").unwrap();
        let error = Directory::open(&settings(directory.path(), "a")).unwrap_err();
        assert!(matches!(error, DirectoryError::Unknown { .. }), "{error}");
    }
}
