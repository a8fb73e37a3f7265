//! The process `ringmesh exec-child`: joins the namespaces of a container, runs one program there, reports and ends.
//!
//! It gets its order by standard input, which then stays open: when it closes, the program is killed. It has one thread.
//!
//! The program has the container's namespaces, root directory, capability bound, user mapping and (version 2) cgroup, but
//! not its seccomp filter and security label.

use std::{
    fs::{self, File},
    io::{self, PipeReader, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::MetadataExt,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::Path,
    process::{Child, Command, ExitCode, ExitStatus},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, killpg},
    unistd::{Gid, Pid, Uid, chdir, chroot, fchdir, setgid, setuid},
};
use rustix::{
    process::{PidfdFlags, pidfd_open},
    thread::{
        CapabilitySet, LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
        remove_capability_from_bounding_set,
    },
};

use super::{
    answer,
    order::{End, LENGTH, MAX_FRAME, Order, Report},
};

/// What a program finds in its environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The most bytes that are kept of what a program writes.
const MAX_OUTPUT: usize = 4096;

/// Reads one order from standard input, carries it out, and writes the report to standard output.
pub fn main() -> ExitCode {
    let Ok(order) = read_order() else {
        eprintln!("exec-child: no order on standard input; it is started by the exec runner, not by hand");
        return ExitCode::FAILURE;
    };
    let (end, output) = carry_out(&order).unwrap_or_else(|end| (end, Vec::new()));
    let report = Report { end, output: answer::clean(&String::from_utf8_lossy(&output)) };
    let json = serde_json::to_vec(&report).expect("a report is JSON");
    // Fails only when nobody listens any more.
    if io::stdout().write_all(&json).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn read_order() -> io::Result<Order> {
    // Unbuffered: what follows the order must stay where poll sees it.
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut len = [0; LENGTH];
    stdin.read_exact(&mut len)?;
    let len = u32::from_be_bytes(len) as usize;
    if len > MAX_FRAME {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut json = vec![0; len];
    stdin.read_exact(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

fn carry_out(order: &Order) -> Result<(End, Vec<u8>), End> {
    let deadline = Instant::now() + Duration::from_millis(order.timeout_ms.into());
    match (order.pid, &order.netns) {
        (Some(pid), netns) => join_process(pid, netns.as_deref())?,
        (None, Some(netns)) => join_netns(netns)?,
        (None, None) => return Err(End::NotRunning),
    }
    let (child, output) = start(&order.argv)?;
    if order.detached {
        return Ok((End::Exited(0), Vec::new()));
    }
    watch(child, output, deadline).map_err(|error| End::Failed(format!("cannot watch the program: {error}")))
}

/// Enters all namespaces of `pid`. A pid that does not live in `netns` belongs to something else by now.
fn join_process(pid: u32, netns: Option<&Path>) -> Result<(), End> {
    let proc = |file: &str| format!("/proc/{pid}/{file}");
    let raw = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).ok_or(End::NotRunning)?;
    // From here on the process is the same or setns fails.
    let process = pidfd_open(raw, PidfdFlags::empty()).map_err(|_| End::NotRunning)?;
    if let Some(netns) = netns
        && namespace(netns)? != namespace(Path::new(&proc("ns/net")))?
    {
        return Err(End::NotRunning);
    }
    let root = File::open(proc("root")).map_err(gone_or("the root directory"))?;
    let bound = capability_bound(&proc("status"))?;
    let other_user = namespace(Path::new(&proc("ns/user")))? != namespace(Path::new("/proc/self/ns/user"))?;
    join_cgroup(&proc("cgroup"));

    let mut types = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::CONTROL_GROUP;
    if other_user {
        types |= ThreadNameSpaceType::USER;
    }
    move_into_thread_name_spaces(process.as_fd(), types).map_err(|error| gone_or("the namespaces")(error.into()))?;
    fchdir(&root)
        .and_then(|()| chroot("."))
        .and_then(|()| chdir("/"))
        .map_err(|errno| gone_or("the root directory")(errno.into()))?;
    if other_user {
        setgid(Gid::from_raw(0))
            .and_then(|()| setuid(Uid::from_raw(0)))
            .map_err(|errno| gone_or("the user namespace")(errno.into()))?;
    }
    drop_capabilities(bound)
}

/// Enters a container that is nothing but a network namespace.
fn join_netns(path: &Path) -> Result<(), End> {
    let file = File::open(path).map_err(gone_or("the network namespace"))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| gone_or("the network namespace")(error.into()))
}

/// Errors of files under /proc/PID: the process is gone, or something else.
fn gone_or(what: &str) -> impl Fn(io::Error) -> End {
    move |error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ESRCH) => End::NotRunning,
        Some(_) | None => End::Failed(format!("cannot join {what} of the container: {}", answer::io_error(&error))),
    }
}

/// What identifies the namespace behind a path.
fn namespace(path: &Path) -> Result<(u64, u64), End> {
    fs::metadata(path).map(|file| (file.dev(), file.ino())).map_err(|_| End::NotRunning)
}

/// The capabilities that nothing in the container can ever have more of.
fn capability_bound(status: &str) -> Result<u64, End> {
    let text = fs::read_to_string(status).map_err(|_| End::NotRunning)?;
    let bound = text.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    bound
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .ok_or_else(|| End::Failed("the kernel does not tell the capabilities of the container".into()))
}

/// The program comes from the container and may be anything: it must not have more than the container has.
fn drop_capabilities(bound: u64) -> Result<(), End> {
    for bit in (0..u64::BITS).map(|n| 1_u64 << n).filter(|bit| bound & bit == 0) {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(bit)) {
            Ok(()) => {}
            // Beyond the last one that this kernel has.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => {
                return Err(End::Failed(format!("cannot drop capabilities: {}", answer::io_error(&error.into()))));
            }
        }
    }
    Ok(())
}

/// Moves to the container's cgroup, so that it pays for the program. A courtesy: some containers have none, and in the
/// old hierarchies it is left alone.
fn join_cgroup(file: &str) {
    let Ok(text) = fs::read_to_string(file) else { return };
    let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::/")) else { return };
    if path.is_empty() || path.split('/').any(|part| part == "..") {
        return;
    }
    for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let root = Path::new(root);
        if root.join("cgroup.controllers").exists() {
            let _ = fs::write(root.join(path).join("cgroup.procs"), "0");
        }
    }
}

/// Starts the program as the head of its own process group; what it writes comes out of the pipe.
fn start(argv: &[String]) -> Result<(Child, PipeReader), End> {
    let [program, arguments @ ..] = argv else { return Err(End::Failed("no program is named".into())) };
    let failed = |error: io::Error| End::Failed(format!("cannot run {program}: {}", answer::io_error(&error)));
    let (output, writer) = io::pipe().map_err(failed)?;
    // Not /dev/null: the container may have none.
    let (nothing, _) = io::pipe().map_err(failed)?;
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .stdin(nothing)
        .stdout(writer.try_clone().map_err(failed)?)
        .stderr(writer)
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    Ok((child, output))
}

/// Lets the program run until it ends, its time is over or the runner is gone; in the end nothing of its process group
/// is left.
fn watch(mut child: Child, mut output: PipeReader, deadline: Instant) -> io::Result<(End, Vec<u8>)> {
    let mut kept = Vec::new();
    let ended = wait(&child, &mut output, &mut kept, deadline);
    // Before it is waited for: until then no other group can have its number.
    let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    let status = child.wait()?;
    let end = if ended? { end(status) } else { End::TimedOut };
    drain(&mut output, &mut kept)?;
    Ok((end, kept))
}

/// True when the program ended by itself.
fn wait(child: &Child, output: &mut PipeReader, kept: &mut Vec<u8>, deadline: Instant) -> io::Result<bool> {
    let process = pidfd_open(rustix::process::Pid::from_child(child), PidfdFlags::empty())?;
    let lifeline = io::stdin();
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A pipe at its end is always ready: it is no longer looked at.
        let watched: BorrowedFd<'_> = if open { output.as_fd() } else { process.as_fd() };
        let mut fds = [
            PollFd::new(process.as_fd(), PollFlags::POLLIN),
            PollFd::new(lifeline.as_fd(), PollFlags::empty()),
            PollFd::new(watched, PollFlags::POLLIN),
        ];
        // Rounded up, so that the last wait does not become many of no length.
        let ms = if left.is_zero() { 0 } else { i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX) };
        match poll(&mut fds, PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        let [ended, orphaned, written] = fds.map(|fd| fd.any().unwrap_or(true));
        if ended {
            return Ok(true);
        }
        if orphaned || left.is_zero() {
            return Ok(false);
        }
        if open && written {
            open = keep(output, kept)?;
        }
    }
}

/// Reads once; beyond [`MAX_OUTPUT`] what is read is forgotten. False at the end.
fn keep(output: &mut PipeReader, kept: &mut Vec<u8>) -> io::Result<bool> {
    let mut bytes = [0; MAX_OUTPUT];
    let len = output.read(&mut bytes)?;
    kept.extend_from_slice(&bytes[..len.min(MAX_OUTPUT - kept.len())]);
    Ok(len > 0)
}

/// Reads what is in the pipe without waiting: something that left the process group may hold it open.
fn drain(output: &mut PipeReader, kept: &mut Vec<u8>) -> io::Result<()> {
    while kept.len() < MAX_OUTPUT {
        let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO)? == 0 || !keep(output, kept)? {
            break;
        }
    }
    Ok(())
}

fn end(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited(code),
        (None, signal) => End::Killed(
            signal
                .and_then(|signal| Signal::try_from(signal).ok())
                .map_or("a signal".into(), |signal| signal.to_string()),
        ),
    }
}
