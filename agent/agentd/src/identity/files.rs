//! Files that hold secrets or must be there whole or not at all.
//!
//! It owns modes, atomic replacement and bounds of size, and knows nothing of what the files say.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::IdentityError;

/// Mode of what only root may read.
pub(super) const SECRET: u32 = 0o600;

/// Mode of certificates and the like.
pub(super) const PUBLIC: u32 = 0o644;

/// The most bytes of any of these files: a thousand tokens take some 150 KiB.
const MAX_LEN: u64 = 1024 * 1024;

/// Reads a file that everybody may read.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let file = File::open(path).map_err(|source| failed("read", path, source))?;
    read_bounded(file, path)
}

/// Reads a file that must be closed to group and others.
pub(super) fn read_secret(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let file = File::open(path).map_err(|source| failed("read", path, source))?;
    let metadata = file.metadata().map_err(|source| failed("read", path, source))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.to_owned(), mode });
    }
    read_bounded(file, path)
}

/// Like [`read_secret`], but `None` if there is no such file.
pub(super) fn read_secret_if_there(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    match read_secret(path) {
        Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// Replaces a file: after a crash it is the old one or the new one.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    let directory = parent(path);
    let mut temporary = path.file_name().unwrap_or_default().to_owned();
    temporary.push(".tmp");
    let temporary = directory.join(temporary);
    let written = write_new(&temporary, bytes, mode)
        .and_then(|()| fs::rename(&temporary, path).map_err(|source| failed("write", path, source)));
    if written.is_err() {
        // On a disk that is full, half a file would only take the room of another.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_directory(directory)
}

/// Makes a directory with its files in one step. Refuses with [`IdentityError::Exists`] if it is there.
pub(super) fn write_directory(path: &Path, files: &[(&str, &[u8], u32)]) -> Result<(), IdentityError> {
    let exists = || IdentityError::Exists { path: path.to_owned() };
    if path.exists() {
        return Err(exists());
    }
    let mut stage = path.as_os_str().to_owned();
    stage.push(".tmp");
    let stage = PathBuf::from(stage);
    // What an attempt that was cut short left behind; nobody was told of its keys.
    if stage.exists() {
        fs::remove_dir_all(&stage).map_err(|source| failed("remove", &stage, source))?;
    }
    make_directory(&stage)?;
    for (name, bytes, mode) in files {
        write_new(&stage.join(name), bytes, *mode)?;
    }
    sync_directory(&stage)?;
    // Fails when the directory appeared meanwhile, since it is not empty then.
    fs::rename(&stage, path).map_err(|source| {
        let there = matches!(source.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists);
        if there { exists() } else { failed("write", path, source) }
    })?;
    sync_directory(parent(path))
}

/// Makes a directory that only its owner enters, and those above it, unless they are there.
pub(super) fn make_directory(path: &Path) -> Result<(), IdentityError> {
    if path.is_dir() {
        return Ok(());
    }
    let made = fs::create_dir_all(parent(path)).and_then(|()| DirBuilder::new().mode(0o700).create(path));
    made.map_err(|source| failed("make", path, source))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    let write = || {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(SECRET).open(path)?;
        file.write_all(bytes)?;
        // Whatever the umask says.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()
    };
    write().map_err(|source| failed("write", path, source))
}

fn read_bounded(file: File, path: &Path) -> Result<Vec<u8>, IdentityError> {
    let mut bytes = Vec::new();
    file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(|source| failed("read", path, source))?;
    if bytes.len() as u64 > MAX_LEN {
        let (path, message) = (path.to_owned(), format!("is larger than {MAX_LEN} bytes"));
        return Err(IdentityError::Damaged { path, message, cure: "restore it from a backup" });
    }
    Ok(bytes)
}

fn sync_directory(path: &Path) -> Result<(), IdentityError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|source| failed("write", path, source))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_left_over() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("state/secret");
        make_directory(parent(&path)).expect("it can be made");
        fs::write(directory.path().join("state/secret.tmp"), "from a crash").expect("it can be written");
        write(&path, b"one", SECRET).expect("first");
        write(&path, b"two", SECRET).expect("second");
        assert_eq!(read_secret(&path).expect("mode 0600"), b"two");
        assert_eq!(fs::read_dir(parent(&path)).expect("it is there").count(), 1);
        assert_eq!(fs::metadata(parent(&path)).expect("it is there").permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_secret_open_to_the_group_is_refused_with_the_cure() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("secret");
        write(&path, b"x", 0o640).expect("it can be written");
        let error = read_secret(&path).expect_err("the group may read it").to_string();
        assert!(error.contains("mode 0640") && error.contains("chmod 600"), "{error}");
        assert!(read_secret_if_there(&directory.path().join("none")).expect("absence is no error").is_none());
    }

    #[test]
    fn a_directory_comes_whole_and_is_never_replaced() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("identity");
        fs::create_dir(directory.path().join("identity.tmp")).expect("what a crash left");
        fs::write(directory.path().join("identity.tmp/old"), "old").expect("what a crash left");
        write_directory(&path, &[("a", b"1", SECRET), ("b", b"2", PUBLIC)]).expect("it is new");
        assert_eq!(fs::read_dir(&path).expect("it is there").count(), 2);
        let error = write_directory(&path, &[("a", b"3", SECRET)]).expect_err("it is there");
        assert!(matches!(error, IdentityError::Exists { .. }));
        assert_eq!(read(&path.join("a")).expect("it is there"), b"1");
    }
}
