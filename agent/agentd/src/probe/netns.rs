//! Which network namespace the probing thread is in. It owns the way in and the way home and opens no socket.

use std::{fs::File, io, path::Path};

use nix::{errno::Errno, sched};

use super::answer;

/// The network namespace of the calling thread, and how it moves.
///
/// No file of a container's namespace is kept open, and the thread does not stay in one: either would keep a namespace,
/// and the interfaces in it, alive after its container is gone. Opening anew also means that a path such as
/// /proc/PID/ns/net is always what it says now. Open, enter and close are some 5 µs together.
#[derive(Debug)]
pub(super) struct Namespaces {
    home: File,
    away: bool,
}

impl Namespaces {
    /// Takes the caller's namespace for the home of the thread that it starts.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { home: File::open("/proc/thread-self/ns/net")?, away: false })
    }

    /// Moves the calling thread into `netns`, or home for `None`; why not, in words.
    pub(super) fn enter(&mut self, netns: Option<&Path>) -> Result<(), String> {
        let Some(path) = netns else { return self.leave().map_err(|error| error.to_string()) };
        let file = File::open(path).map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
            // The last is what the link of a process says that has ended and is not yet waited for.
            Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ESRCH | Errno::EACCES) => answer::NOT_RUNNING.to_owned(),
            Some(_) | None => format!("cannot open {}: {}", path.display(), answer::io_error(&error)),
        })?;
        sched::setns(&file, sched::CloneFlags::CLONE_NEWNET).map_err(|errno| {
            if errno == Errno::EINVAL {
                // What a reboot leaves of a name is an empty file.
                return format!("{}: {} is no network namespace", answer::NOT_RUNNING, path.display());
            }
            format!("cannot enter {}: {}", path.display(), answer::io_error(&errno.into()))
        })?;
        self.away = true;
        Ok(())
    }

    /// Moves the calling thread home.
    pub(super) fn leave(&mut self) -> io::Result<()> {
        if self.away {
            sched::setns(&self.home, sched::CloneFlags::CLONE_NEWNET)?;
            self.away = false;
        }
        Ok(())
    }
}
