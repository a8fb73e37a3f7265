//! Named network namespaces, kept as `ip netns` keeps them, so that it can list, enter and delete ours.
//!
//! It knows nothing of what is in a namespace. No function moves the calling thread: each works on a thread of its own.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

/// Where named network namespaces are.
const NETNS_DIR: &str = "/run/netns";

/// There while the directory of namespaces is one that a lab made.
const MADE_BY_LAB: &str = "/run/ringmesh/labs/.netns-dir";

/// The path of a named namespace.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Makes a named namespace and runs `setup` inside, on a thread that ends with it.
pub(super) fn create<T: Send>(name: &str, setup: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let path = path(name);
    OpenOptions::new().write(true).create_new(true).mode(0o000).open(&path)?;
    let made = on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(Some("/proc/thread-self/ns/net"), &path, Some("none"), MsFlags::MS_BIND, None::<&str>)?;
        setup()
    });
    if made.is_err() {
        // The first error is the one to report.
        let _ = delete(name);
    }
    made
}

/// Runs `work` inside a named namespace, on a thread that ends with it. Processes spawned there stay there.
pub(super) fn enter<T: Send>(name: &str, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(path(name))?;
    on_thread(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// Deletes a named namespace if it is there. The kernel ends it with its last process.
pub(super) fn delete(name: &str) -> io::Result<()> {
    let path = path(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: no mount is on it, since somebody was ended half-way.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The names of all namespaces for which `wanted` holds, in order.
pub(super) fn list(wanted: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(NETNS_DIR) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string()
            && wanted(&name)
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// What tells a namespace from others: its inode.
pub(super) fn inode(path: impl AsRef<Path>) -> io::Result<u64> {
    fs::metadata(path).map(|metadata| metadata.ino())
}

/// Makes the directory of namespaces a mount point whose mounts and unmounts reach every mount namespace, as `ip netns`
/// does: a namespace deleted here must not live on in a container's copy.
pub(super) fn prepare_dir() -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o755).create(NETNS_DIR) {
        Ok(()) => fs::write(MADE_BY_LAB, "")?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    // `ip netns` takes the same lock.
    let _lock = lock_dir(Path::new(NETNS_DIR))?;
    let share = || mount(Some(""), NETNS_DIR, Some("none"), MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        Err(nix::Error::EINVAL) => {
            let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(NETNS_DIR), NETNS_DIR, Some("none"), bind, None::<&str>)?;
            Ok(share()?)
        }
        result => Ok(result?),
    }
}

/// Takes the directory of namespaces away again if a lab made it and it is empty.
pub(super) fn release_dir() -> io::Result<()> {
    if !Path::new(MADE_BY_LAB).exists() || !list(|_| true)?.is_empty() {
        return Ok(());
    }
    match umount2(NETNS_DIR, MntFlags::empty()) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_dir(NETNS_DIR) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::remove_file(MADE_BY_LAB)
}

/// Waits for the lock of a directory.
pub(super) fn lock_dir(path: &Path) -> io::Result<Flock<File>> {
    Flock::lock(File::open(path)?, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
