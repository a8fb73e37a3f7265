//! The root file system that all containers of a lab share, and their first process.
//!
//! It consists of busybox under its many names, a page to serve, and a script that serves it.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use super::error::LabError;

/// Where Debian's package busybox-static puts it.
pub(super) const BUSYBOX: &str = "/bin/busybox";

/// What the lab cannot do without.
const NEEDED: [&str; 6] = ["sh", "httpd", "sleep", "kill", "killall", "setsid"];

/// Where a runtime mounts or writes something.
const MOUNT_POINTS: [&str; 8] = ["dev", "etc", "proc", "root", "run", "sys", "tmp", "var"];

/// The port that the service listens on.
pub(super) const PORT: u16 = 8080;

/// The program that serves, as /proc shows it.
pub(super) const SERVICE: &str = "httpd";

/// The first process. It does not watch over the service, which is the agent's business: whoever ends `httpd` leaves a
/// container that runs with a service that does not. SIGUSR1 starts the service again. `wait` reaps whatever ends.
const INIT: &str = "\
#!/bin/sh
serve() { httpd -f -p 8080 -h /www & }
trap serve USR1
trap 'exit 0' TERM INT
serve
idle=
while :; do
    [ -n \"$idle\" ] && kill -0 \"$idle\" 2>/dev/null || { sleep 2147483647 & idle=$!; }
    wait \"$idle\"
done
";

const INDEX: &str = "<!doctype html><title>ringmesh lab</title><p>A container of the ringmesh lab serves this page.\n";

/// The first process's arguments; `mark` is how it is found again.
pub(super) fn init_args(mark: &str) -> Vec<String> {
    ["/bin/sh", "/sbin/init", mark].map(str::to_owned).to_vec()
}

/// Ends the service, be it stopped, and has the first process start it anew.
pub(super) fn restart_args() -> Vec<String> {
    ["/bin/sh", "-c", "killall -9 httpd; kill -USR1 1"].map(str::to_owned).to_vec()
}

/// Refuses a machine without a busybox that runs in an otherwise empty root file system.
pub(super) fn check_busybox() -> Result<(), LabError> {
    applets().map(drop)
}

/// Fills `root`, which must not be there yet.
pub(super) fn create(root: &Path) -> Result<(), LabError> {
    let applets = applets()?;
    let fill = || -> io::Result<()> {
        fs::create_dir(root)?;
        for dir in MOUNT_POINTS.iter().chain(&["bin", "sbin", "usr", "www"]) {
            fs::create_dir(root.join(dir))?;
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        symlink("../bin", root.join("usr/bin"))?;
        fs::copy(BUSYBOX, root.join("bin/busybox"))?;
        for applet in applets.iter().filter(|applet| *applet != "busybox" && !applet.contains('/')) {
            symlink("busybox", root.join("bin").join(applet))?;
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
        fs::write(root.join("etc/group"), "root:x:0:\n")?;
        fs::write(root.join("www/index.html"), INDEX)?;
        let init = root.join("sbin/init");
        fs::write(&init, INIT)?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))
    };
    fill().map_err(LabError::file("fill the containers' root file system", root))
}

fn applets() -> Result<Vec<String>, LabError> {
    let unfit = |problem| LabError::Busybox { program: PathBuf::from(BUSYBOX), problem };
    let Ok(program) = fs::File::open(BUSYBOX) else { return Err(unfit("is missing")) };
    let mut head = Vec::new();
    program.take(4096).read_to_end(&mut head).map_err(LabError::file("read", BUSYBOX))?;
    // A program that needs a loader names it near its beginning, and would not find it in the container.
    if head.windows(5).any(|window| window == b"/ld-l" || window == b"/ld-m") {
        return Err(unfit("is not linked statically"));
    }
    let output = Command::new(BUSYBOX).arg("--list").output().map_err(LabError::file("run", BUSYBOX))?;
    let list: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    if NEEDED.iter().any(|needed| !list.iter().any(|applet| applet == needed)) {
        return Err(unfit("lacks one of the programs that a lab needs"));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_serves_on_the_port_that_is_probed() {
        assert!(INIT.contains(&format!("{SERVICE} -f -p {PORT} -h /www &")));
    }

    #[test]
    fn the_root_file_system_runs_programs_without_the_machines_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("rootfs");
        create(&root).expect("busybox-static is installed");
        let target = fs::read_link(root.join("bin/httpd")).expect("a link");
        assert_eq!(target, Path::new("busybox"));
        assert!(fs::metadata(root.join("bin/sh")).expect("the link leads somewhere").len() > 100_000);
        assert!(create(&root).is_err(), "nothing is written over");
    }
}
