//! A process that stays the same process: its pid together with the time of its start, because pids come back.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use ringmesh_proto::UnixMillis;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// One process since the host's last start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// As the host sees it.
    pub pid: u32,
    /// Clock ticks from the host's start to its own: field 22 of proc_pid_stat(5).
    pub start_ticks: u64,
}

/// USER_HZ, the unit of times in /proc: 100 on every architecture that Linux runs on today.
const TICKS_PER_SECOND: u64 = 100;

impl ProcessId {
    /// The process that has this pid now, unless it has ended.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        parse_stat(&stat).map(|start_ticks| Self { pid, start_ticks })
    }

    /// Whether it has not ended yet.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Its network namespace.
    pub fn netns(self) -> PathBuf {
        format!("/proc/{}/ns/net", self.pid).into()
    }

    /// When it started, by the host's clock.
    pub fn started_at(self) -> Option<UnixMillis> {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let boot: u64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        Some(UnixMillis(boot * 1000 + self.start_ticks * (1000 / TICKS_PER_SECOND)))
    }

    /// A descriptor that becomes readable at its end; `None` if it has ended.
    pub(super) fn pidfd(self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            // Alive after the descriptor was opened: so it is this process that the descriptor stands for.
            Ok(fd) => Ok(self.is_alive().then_some(fd)),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends SIGKILL; `then` runs after that; waits at most `patience` for its end. Blocks.
    pub(super) fn kill(self, patience: Duration, then: impl FnOnce()) -> io::Result<()> {
        let Some(fd) = self.pidfd()? else { return Ok(()) };
        match pidfd_send_signal(&fd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
        then();
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
            match nix::poll::poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) if left.is_zero() => return Err(io::Error::from(io::ErrorKind::TimedOut)),
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Identifies this start of the host; empty if the kernel does not tell.
pub(super) fn boot_id() -> &'static str {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    BOOT_ID.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
    })
}

/// The host's clock.
pub(super) fn unix_now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The start of a process that has not ended. The name, in parentheses, may itself hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    match fields.next()? {
        "Z" | "X" | "x" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 8675309 10 11";

    #[test]
    fn the_start_is_field_22_whatever_the_name() {
        assert_eq!(parse_stat(STAT), Some(8_675_309));
        assert_eq!(parse_stat(&STAT.replace(") S", ") Z")), None);
        assert_eq!(parse_stat("7 (a"), None);
        assert_eq!(parse_stat("7 (a) S 1 2"), None);
    }

    #[test]
    fn a_recycled_pid_is_another_process() {
        let me = ProcessId::of(std::process::id()).expect("we are running");
        assert!(me.is_alive());
        let started = me.started_at().expect("/proc/stat has btime").0;
        assert!(started.abs_diff(unix_now().0) < 3_600_000, "{started}");
        let other = ProcessId { start_ticks: me.start_ticks + 1, ..me };
        assert!(!other.is_alive());
        assert!(other.pidfd().expect("no error").is_none());
    }

    #[test]
    fn a_killed_process_has_ended_when_kill_returns() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep is installed");
        let process = ProcessId::of(child.id()).expect("it was just started");
        process.kill(Duration::from_secs(10), || {}).expect("we may kill our child");
        assert!(!process.is_alive());
        child.wait().expect("it is our child");
    }
}
