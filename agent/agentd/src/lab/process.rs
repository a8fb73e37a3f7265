//! Processes as a lab sees them: known by pid and start time, so that a recycled pid is never mistaken for one of ours.
//!
//! It reads /proc, signals and spawns; it does not know what the processes do.

use std::{
    fs,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::{netns, rootfs::BUSYBOX};

/// How often a state is looked at that nothing announces.
const POLL: Duration = Duration::from_millis(5);

/// A process that was there once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessId {
    pub(super) pid: u32,
    /// In clock ticks since boot.
    start: u64,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// It runs, or could.
    Running,
    /// By SIGSTOP.
    Stopped,
    /// It has ended.
    Dead,
}

impl ProcessId {
    /// The process that has this pid now.
    pub(super) fn of(pid: u32) -> Option<Self> {
        Stat::read(pid).map(|stat| Self { pid, start: stat.start })
    }

    /// What it does now.
    pub(super) fn state(self) -> AgentState {
        match Stat::read(self.pid) {
            Some(stat) if stat.start == self.start => stat.state(),
            Some(_) | None => AgentState::Dead,
        }
    }

    /// Signals it; false when it has ended.
    pub(super) fn signal(self, signal: Signal) -> io::Result<bool> {
        if self.state() == AgentState::Dead {
            return Ok(false);
        }
        match kill(self.nix(), signal) {
            Ok(()) => Ok(true),
            Err(nix::Error::ESRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it has ended; false when the deadline came first. A child of ours is reaped.
    pub(super) fn wait_dead(self, deadline: Instant) -> bool {
        self.wait_for(AgentState::Dead, deadline)
    }

    /// Waits until it is in a state; false when the deadline came first.
    pub(super) fn wait_for(self, wanted: AgentState, deadline: Instant) -> bool {
        loop {
            if self.state() == wanted {
                if wanted == AgentState::Dead {
                    // ECHILD says that it is somebody else's to reap.
                    let _ = waitpid(self.nix(), Some(WaitPidFlag::WNOHANG));
                }
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(POLL);
        }
    }

    fn nix(self) -> Pid {
        Pid::from_raw(self.pid as i32)
    }
}

/// Ends processes and waits until they are gone; returns those that are not.
pub(super) fn kill_all(processes: &[ProcessId], within: Duration) -> Vec<ProcessId> {
    for process in processes {
        // One that is gone is what is wanted; one that may not be signalled shows below.
        let _ = process.signal(Signal::SIGKILL);
    }
    let deadline = Instant::now() + within;
    processes.iter().copied().filter(|process| !process.wait_dead(deadline)).collect()
}

/// Starts a program as a session of its own in a named network namespace. It outlives the caller; what it prints is
/// appended to `log`.
pub(super) fn spawn_detached(netns: &str, program: &Path, args: &[&str], log: &Path) -> io::Result<ProcessId> {
    let output = fs::OpenOptions::new().append(true).create(true).open(log)?;
    let errors = output.try_clone()?;
    netns::enter(netns, || {
        // A child that leads no process group turns into a session leader in place, so the pid stays.
        let child = clean(Command::new(BUSYBOX).arg("setsid").arg(program).args(args))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()?;
        ProcessId::of(child.id()).ok_or_else(|| io::Error::other("it ended at once"))
    })
}

/// Runs a program to its end in a named network namespace. Returns what it wrote to stdout, or else why not: the last
/// line that it wrote to stderr.
pub(super) fn run(netns: &str, program: &Path, args: &[&str], within: Duration) -> io::Result<Result<String, String>> {
    netns::enter(netns, || {
        let mut child = clean(Command::new(program).args(args))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let id = ProcessId::of(child.id());
        let (ended, end) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                // The sender is dropped when the program has ended.
                if end.recv_timeout(within) == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
                    && let Some(id) = id
                {
                    let _ = id.signal(Signal::SIGKILL);
                }
            });
            let stderr = child.stderr.take();
            let errors = scope.spawn(move || stderr.map(read_text).transpose());
            let output = child.stdout.take().map(read_text).transpose()?.unwrap_or_default();
            let errors = errors.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?.unwrap_or_default();
            let status = child.wait()?;
            drop::<std::sync::mpsc::Sender<()>>(ended);
            if status.success() {
                return Ok(Ok(output));
            }
            let last = last_line(&errors);
            Ok(Err(if last.is_empty() { format!("{status} after at most {} s", within.as_secs()) } else { last }))
        })
    })
}

/// Runs a command in a named network namespace with the caller's terminal. The environment gets `variables` too.
pub(super) fn run_attached(
    netns: &str,
    argv: &[String],
    variables: &[(&str, &str)],
) -> io::Result<std::process::ExitStatus> {
    let (program, args) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    netns::enter(netns, || Command::new(program).args(args).envs(variables.iter().copied()).status())
}

/// The living processes whose network namespace has one of these inodes.
pub(super) fn in_namespaces(inodes: &[u64]) -> Vec<ProcessId> {
    all()
        .filter(|process| netns::inode(format!("/proc/{}/ns/net", process.pid)).is_ok_and(|i| inodes.contains(&i)))
        .collect()
}

/// The living processes that are the first of a pid namespace below ours and whose last argument is `wanted`.
pub(super) fn container_inits(wanted: impl Fn(&str) -> bool) -> Vec<ProcessId> {
    all()
        .filter(|process| {
            let Ok(cmdline) = fs::read(format!("/proc/{}/cmdline", process.pid)) else { return false };
            let last = cmdline.strip_suffix(b"\0").unwrap_or(&cmdline).rsplit(|byte| *byte == 0).next();
            last.and_then(|last| std::str::from_utf8(last).ok()).is_some_and(&wanted) && is_init(process.pid)
        })
        .collect()
}

/// The living children of a process whose program has a name that is `wanted`.
pub(super) fn children(parent: u32, wanted: impl Fn(&str) -> bool) -> Vec<ProcessId> {
    let ours = |stat: Stat| stat.parent == parent && wanted(&stat.name);
    all().filter(|process| Stat::read(process.pid).is_some_and(&ours)).collect()
}

/// The last line of a text that is not empty, shortened to what fits a message.
pub(super) fn last_line(text: &str) -> String {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().chars().take(300).collect()
}

struct Stat {
    name: String,
    state: char,
    parent: u32,
    /// How many threads it has, the first one too when that has ended.
    threads: u32,
    start: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// A process whose first thread has ended still holds its sockets while another thread lives.
    fn state(&self) -> AgentState {
        match self.state {
            'T' | 't' => AgentState::Stopped,
            'X' => AgentState::Dead,
            'Z' if self.threads <= 1 => AgentState::Dead,
            _ => AgentState::Running,
        }
    }

    /// proc(5): "pid (name) state ppid …", the number of threads being field 20 and the start time field 22. The name may hold anything, also ")".
    fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.rsplit_once(')')?;
        let (_, name) = head.split_once('(')?;
        let mut fields = tail.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let threads = fields.nth(20 - 5)?.parse().ok()?;
        let start = fields.nth(22 - 21)?.parse().ok()?;
        Some(Self { name: name.to_owned(), state, parent, threads, start })
    }
}

fn all() -> impl Iterator<Item = ProcessId> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| std::str::from_utf8(entry.file_name().as_bytes()).ok()?.parse().ok())
        .filter_map(ProcessId::of)
        .filter(|process| process.state() != AgentState::Dead)
}

fn is_init(pid: u32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    // One number for each pid namespace, from ours to its own.
    ids.is_some_and(|ids| {
        let ids: Vec<_> = ids.split_ascii_whitespace().collect();
        ids.len() > 1 && ids.last() == Some(&"1")
    })
}

/// Without what would lead a program of the lab to another agent.
fn clean(command: &mut Command) -> &mut Command {
    command.env_remove("RINGMESH_LAB").env_remove("RINGMESH_HOST").current_dir("/")
}

/// At most 64 KiB of what a program prints; the rest is thrown away, so that it never waits for us.
fn read_text(mut stream: impl Read) -> io::Result<String> {
    let mut text = Vec::new();
    stream.by_ref().take(64 << 10).read_to_end(&mut text)?;
    io::copy(&mut stream, &mut io::sink())?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name_is() {
        let rest = "S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 99 1";
        let stat = Stat::parse(&format!("12 (a) (b c) {rest}")).expect("a line of proc(5)");
        assert_eq!((stat.name.as_str(), stat.state, stat.parent, stat.start), ("a) (b c", 'S', 7, 4242));
        assert!(Stat::parse("12 (a").is_none() && Stat::parse("12 (a) S 7").is_none() && Stat::parse("").is_none());
    }

    #[test]
    fn a_process_is_dead_when_its_last_thread_is() {
        let state = |letter, threads| {
            let line = format!("12 (a) {letter} 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 {threads} 0 4242 99 1");
            Stat::parse(&line).expect("a line of proc(5)").state()
        };
        assert_eq!(state('Z', 2), AgentState::Running);
        assert_eq!(state('Z', 1), AgentState::Dead);
        assert_eq!(state('T', 2), AgentState::Stopped);
        assert_eq!(state('S', 1), AgentState::Running);
    }

    #[test]
    fn a_process_is_followed_from_start_to_end_and_its_pid_is_not_enough() {
        let mut child = Command::new("sleep").arg("100").spawn().expect("coreutils");
        let id = ProcessId::of(child.id()).expect("it runs");
        let soon = Instant::now() + Duration::from_secs(5);
        let recycled = ProcessId { start: id.start + 1, ..id };
        assert_eq!(recycled.state(), AgentState::Dead);
        assert!(!recycled.signal(Signal::SIGKILL).expect("no signal is sent"));
        assert!(id.signal(Signal::SIGSTOP).expect("ours") && id.wait_for(AgentState::Stopped, soon));
        assert!(id.signal(Signal::SIGCONT).expect("ours") && id.wait_for(AgentState::Running, soon));
        assert!(children(std::process::id(), |name| name == "sleep").contains(&id));
        assert_eq!(kill_all(&[id], Duration::from_secs(5)), []);
        assert_eq!(id.state(), AgentState::Dead);
        assert!(!id.signal(Signal::SIGKILL).expect("nothing to signal"));
        assert!(child.wait().is_err(), "it has been reaped");
    }
}
