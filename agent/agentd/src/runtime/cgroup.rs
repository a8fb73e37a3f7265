//! The control groups of an instance: `/ringmesh/<instance>/<container>` in every hierarchy that is mounted.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::Pid};

/// Where a freezer is: that of version 1, or the second version's groups, alone or beside the first's.
const FREEZERS: [(&str, Freezer); 3] = [
    ("/sys/fs/cgroup/freezer", Freezer { file: "freezer.state", frozen: "FROZEN", thawed: "THAWED" }),
    ("/sys/fs/cgroup", Freezer { file: "cgroup.freeze", frozen: "1", thawed: "0" }),
    ("/sys/fs/cgroup/unified", Freezer { file: "cgroup.freeze", frozen: "1", thawed: "0" }),
];

/// Processes that sleep in the kernel are frozen when they wake up; longer than that nobody waits.
const FREEZE_WITHIN: Duration = Duration::from_secs(5);

/// What all our groups lie below.
const ROOT: &str = "ringmesh";

/// A group that was just emptied stays busy for a moment: so often and so long it is tried again.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// The group of a container, as the OCI's `cgroupsPath`.
pub(super) fn path(instance: &str, container: &str) -> PathBuf {
    Path::new("/").join(ROOT).join(instance).join(container)
}

/// The file by which a group is frozen, and what is written to it.
#[derive(Clone, Copy)]
struct Freezer {
    file: &'static str,
    frozen: &'static str,
    thawed: &'static str,
}

/// Freezes every process of a container or lets all go on, and waits until it is so. Blocks. The kernel alone keeps it: nothing is
/// written to a disk, which may be full.
pub(super) fn set_frozen(instance: &str, container: &str, frozen: bool) -> io::Result<()> {
    let (group, freezer) = freezer(instance, container).ok_or(io::ErrorKind::NotFound)?;
    let file = group.join(freezer.file);
    let deadline = Instant::now() + FREEZE_WITHIN;
    loop {
        // Version 1 may need to be told again, when processes were made meanwhile.
        fs::write(&file, if frozen { freezer.frozen } else { freezer.thawed })?;
        if is_settled(&group, freezer, frozen)? {
            return Ok(());
        }
        if Instant::now() > deadline {
            fs::write(&file, freezer.thawed)?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a container was frozen.
pub(super) fn is_frozen(instance: &str, container: &str) -> bool {
    let state =
        |(group, freezer): (PathBuf, Freezer)| Some((fs::read_to_string(group.join(freezer.file)).ok()?, freezer));
    freezer(instance, container).and_then(state).is_some_and(|(state, freezer)| state.trim() != freezer.thawed)
}

fn freezer(instance: &str, container: &str) -> Option<(PathBuf, Freezer)> {
    let group = |mount: &str| Path::new(mount).join(ROOT).join(instance).join(container);
    let found = FREEZERS.iter().map(|(mount, freezer)| (group(mount), *freezer));
    found.into_iter().find(|(group, freezer)| group.join(freezer.file).exists())
}

fn is_settled(group: &Path, freezer: Freezer, frozen: bool) -> io::Result<bool> {
    if freezer.file == "freezer.state" {
        let state = fs::read_to_string(group.join(freezer.file))?;
        return Ok(state.trim() == if frozen { freezer.frozen } else { freezer.thawed });
    }
    let events = fs::read_to_string(group.join("cgroup.events"))?;
    Ok(events.lines().any(|line| line == if frozen { "frozen 1" } else { "frozen 0" }))
}

/// Kills what is left in a container's groups and removes them. Blocks.
pub(super) fn remove(instance: &str, container: &str) -> io::Result<()> {
    for mount in mounts()? {
        remove_tree(&mount.join(ROOT).join(instance).join(container))?;
    }
    Ok(())
}

/// Removes the groups of an instance that are empty, and the one above them if no other instance uses it.
///
/// Blocks. Groups that hold processes stay, and are an error.
pub fn remove_cgroups(instance: &str) -> io::Result<()> {
    let mut result = Ok(());
    for mount in mounts()? {
        let root = mount.join(ROOT);
        let own = root.join(instance);
        for group in subdirectories(&own).into_iter().chain([own]) {
            match fs::remove_dir(&group) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => result = Err(io::Error::new(error.kind(), format!("{}: {error}", group.display()))),
            }
        }
        // Fails while it is not empty, and may.
        let _ = fs::remove_dir(&root);
    }
    result
}

fn remove_tree(group: &Path) -> io::Result<()> {
    for child in subdirectories(group) {
        remove_tree(&child)?;
    }
    for attempt in 1.. {
        match fs::remove_dir(group) {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) if attempt == ATTEMPTS => {
                return Err(io::Error::new(error.kind(), format!("{}: {error}", group.display())));
            }
            Err(_) => {
                kill_members(group);
                std::thread::sleep(PAUSE);
            }
        }
    }
    Ok(())
}

fn kill_members(group: &Path) {
    let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1) {
        // It may be gone already.
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn subdirectories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

/// Where hierarchies of version 1 and 2 are mounted, as this thread sees it.
fn mounts() -> io::Result<Vec<PathBuf>> {
    Ok(parse_mounts(&fs::read_to_string("/proc/thread-self/mountinfo")?))
}

/// proc_pid_mountinfo(5): the fifth field is the mount point, the one after " - " the type.
fn parse_mounts(mountinfo: &str) -> Vec<PathBuf> {
    let point = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let kind = after.split(' ').next()?;
        (kind == "cgroup" || kind == "cgroup2").then(|| before.split(' ').nth(4).map(PathBuf::from))?
    };
    mountinfo.lines().filter_map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_found_in_mountinfo() {
        let text = "24 1 0:5 / /dev rw,relatime - devtmpfs dev rw\n\
                    31 30 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
                    32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let expected = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        assert_eq!(parse_mounts(text), expected);
    }

    #[test]
    #[ignore = "needs root"]
    fn the_second_versions_freezer_freezes_and_what_is_frozen_can_be_removed() {
        let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let mount = mounts.into_iter().find(|mount| mount.join("cgroup.controllers").exists());
        let instance = format!("test-{}", std::process::id());
        let group = mount.expect("version 2 is mounted").join(ROOT).join(&instance).join("c1");
        fs::create_dir_all(&group).expect("root makes groups");
        let mut sleeper = std::process::Command::new("sleep").arg("600").spawn().expect("it is there");
        fs::write(group.join("cgroup.procs"), sleeper.id().to_string()).expect("it runs");
        let says = |line: &str| fs::read_to_string(group.join("cgroup.events")).is_ok_and(|text| text.contains(line));
        for frozen in [true, false, true] {
            set_frozen(&instance, "c1", frozen).expect("the kernel does it");
            let kernel = says(if frozen { "frozen 1" } else { "frozen 0" });
            assert_eq!((is_frozen(&instance, "c1"), kernel), (frozen, true));
        }
        remove(&instance, "c1").expect("its process can be killed");
        assert!(!sleeper.wait().expect("our child").success());
        remove_cgroups(&instance).expect("it is empty");
        assert!(!group.exists());
    }

    #[test]
    fn instances_do_not_share_groups() {
        assert_eq!(path("lab-h1", "web"), Path::new("/ringmesh/lab-h1/web"));
    }
}
