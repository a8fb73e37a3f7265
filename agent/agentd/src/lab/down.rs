//! Tearing a lab down: agents, containers, whatever else runs in its namespaces, the namespaces, the files, the record.
//!
//! Nothing here relies on the record alone: a lab that was built or torn down half-way, by a command that was killed,
//! is found by the names of its namespaces and the marks of its containers.

use std::{
    fs, io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::Signal,
};

use super::{
    error::LabError,
    netns,
    plan::{self, HostNumber, MAX_HOSTS},
    process::{self, ProcessId},
    record::{self, Lock, Record},
};

/// How long agents may take to end on their own.
const TERM_WITHIN: Duration = Duration::from_secs(3);

/// How long the kernel may take to end what was killed.
const KILL_WITHIN: Duration = Duration::from_secs(5);

/// Takes a lab down; nothing is done when there is none.
pub(super) fn down(name: Option<&str>) -> Result<(), LabError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    let name = name.map_or_else(record::newest_or_default, str::to_owned);
    record::check_name(&name)?;
    let lock = match Lock::take(&name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        lock => Some(lock.map_err(LabError::file("lock", plan::record_dir(&name)))?),
    };
    // One that cannot be read is no reason to leave everything else standing.
    let record = Record::load(&name).ok().flatten();
    let cleared = clear(&name, record.as_ref());
    drop(lock);
    cleared
}

/// Takes down all that a lab of this name has, under its lock.
pub(super) fn clear(name: &str, record: Option<&Record>) -> Result<(), LabError> {
    let dir = record.map_or_else(|| plan::record_dir(name), |record| record.dir.clone());
    end_agents(record);
    let mut left = Vec::new();
    for host in HostNumber::first(MAX_HOSTS).filter(|host| host.state_dir(&dir).exists()) {
        if let Err(problem) = remove_containers(&host.state_dir(&dir)) {
            left.push(format!("containers of {}: {problem}", host.name()));
        }
    }
    left.extend(
        process::kill_all(&processes(name), KILL_WITHIN).iter().map(|process| format!("process {}", process.pid)),
    );
    left.extend(remove_namespaces(name));
    left.extend(remove_files(&dir));
    if !left.is_empty() {
        return Err(LabError::LeftBehind { name: name.into(), left });
    }
    Record::remove(name).map_err(LabError::file("remove the record in", plan::record_dir(name)))?;
    remove_if_empty(&dir).map_err(LabError::file("remove", &dir))?;
    netns::release_dir().map_err(LabError::system("remove the empty directory of namespaces, /run/netns"))?;
    remove_record_dir(name).map_err(LabError::file("remove", plan::record_dir(name)))
}

/// Removes the directory of a record and those above that only labs have, as far as they are empty.
pub(super) fn remove_record_dir(name: &str) -> io::Result<()> {
    let dir = plan::record_dir(name);
    for dir in dir.ancestors().take_while(|dir| dir.starts_with("/run/ringmesh")) {
        remove_if_empty(dir)?;
    }
    Ok(())
}

fn end_agents(record: Option<&Record>) {
    let agents: Vec<_> = record.iter().flat_map(|record| &record.hosts).filter_map(|host| host.agent).collect();
    for agent in &agents {
        // One that is stopped takes the signal when it goes on. One that cannot be signalled is found in its namespace.
        let _ = agent.signal(Signal::SIGTERM);
        let _ = agent.signal(Signal::SIGCONT);
    }
    let deadline = Instant::now() + TERM_WITHIN;
    let stubborn: Vec<_> = agents.into_iter().filter(|agent| !agent.wait_dead(deadline)).collect();
    process::kill_all(&stubborn, KILL_WITHIN);
}

/// Removes what the agent of this state directory keeps of containers, so that they end with their control groups.
fn remove_containers(state_dir: &Path) -> Result<(), String> {
    crate::runtime::teardown(state_dir, &crate::runtime::instance(state_dir)).map_err(|error| error.to_string())
}

/// Processes in the lab's namespaces, whoever started them, and the first processes of its containers, which have
/// namespaces of their own and take along whatever else is in them.
fn processes(name: &str) -> Vec<ProcessId> {
    let namespaces = netns::list(|netns| plan::is_netns_of(name, netns)).unwrap_or_default();
    let inodes: Vec<_> = namespaces
        .iter()
        .map(|netns| netns::path(netns))
        // A file without a mount has the inode of a file, which could be anything.
        .filter(|path| is_namespace(path))
        .filter_map(|path| netns::inode(path).ok())
        .collect();
    let mark = plan::container_mark(name, "");
    let mut processes = process::container_inits(|argument| argument.starts_with(&mark));
    processes.extend(process::in_namespaces(&inodes));
    processes
}

fn is_namespace(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

fn remove_namespaces(name: &str) -> Vec<String> {
    let ours = || netns::list(|netns| plan::is_netns_of(name, netns));
    for netns in ours().unwrap_or_default() {
        // Whatever could not be deleted is listed below.
        let _ = netns::delete(&netns);
    }
    match ours() {
        Ok(left) => left.into_iter().map(|netns| format!("namespace {netns}")).collect(),
        Err(error) => vec![format!("namespaces that cannot be listed: {error}")],
    }
}

/// Removes only what a lab puts into its directory.
fn remove_files(dir: &Path) -> Vec<String> {
    for mount in mounts_below(dir) {
        let _ = umount2(Path::new(&mount), MntFlags::MNT_DETACH);
    }
    let mut left: Vec<_> = mounts_below(dir).into_iter().map(|mount| format!("mount {mount}")).collect();
    if !left.is_empty() {
        // What is mounted there is not ours to delete.
        return left;
    }
    let hosts = HostNumber::first(MAX_HOSTS).map(|host| host.dir(dir));
    for path in hosts.chain([dir.join("rootfs")]) {
        if let Err(error) = remove_tree(&path) {
            left.push(format!("{}: {error}", path.display()));
        }
    }
    left
}

/// A process that is just ending may still write a file, so a directory that fills again is tried again.
fn remove_tree(path: &Path) -> io::Result<()> {
    let mut tries = 3;
    loop {
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && tries > 0 => {
                tries -= 1;
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
}

/// The mount points below a directory, deepest first.
fn mounts_below(dir: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let mut below: Vec<_> = points.filter(|point| Path::new(point).starts_with(dir)).map(str::to_owned).collect();
    below.reverse();
    below
}

fn remove_if_empty(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
