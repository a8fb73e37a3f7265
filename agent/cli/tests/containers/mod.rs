//! What tests of containers share: a root file system, a network namespace of their own, and who looks in.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount, umount},
    sched::{CloneFlags, unshare},
};

/// Longer than anything here takes on a machine that is busy; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Busybox, and a page that its web server can show.
pub(crate) fn make_rootfs(rootfs: &Path) {
    fs::create_dir_all(rootfs.join("bin")).unwrap();
    fs::create_dir_all(rootfs.join("www")).unwrap();
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("the package busybox-static is installed");
    for applet in ["sh", "httpd", "sleep"] {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
    fs::write(rootfs.join("www/index.html"), "hello\n").unwrap();
}

/// Runs `test` on a thread in a network namespace of its own, which ends with it.
pub(crate) fn in_netns<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("the test runs as root");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// For the calling thread: what is mounted from now on nobody else sees, and it is gone with the last process here.
pub(crate) fn private_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
}

/// For the calling thread. crun refuses hybrid control groups: without the second hierarchy they are plain version 1.
pub(crate) fn hide_unified_cgroups() {
    let unified = Path::new("/sys/fs/cgroup/unified");
    if !unified.exists() {
        return;
    }
    private_mounts();
    umount(unified).unwrap();
    // crun would leave plain files in the directory below the mount.
    mount(Some("none"), unified, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

/// The host's ends of containers' interfaces.
pub(crate) fn veths() -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned());
    names.filter(|name| name.starts_with("rm")).collect()
}

/// What the container with the address 10.9.0.(NUMBER + 2) serves.
pub(crate) fn get(number: usize, timeout: Duration) -> std::io::Result<String> {
    let address: SocketAddr = format!("10.9.0.{}:80", number + 2).parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The server needs a moment after its process has started, of which nobody tells us.
pub(crate) fn get_soon(number: usize) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match get(number, Duration::from_secs(5)) {
            Ok(answer) => return answer,
            Err(error) if Instant::now() > deadline => panic!("container {number}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}
