//! The process that makes one container and ends: `ringmesh oci-shim …`, hidden from people.
//!
//! libcontainer forks, changes directory and sets limits of the process that it runs in: nothing for a daemon with
//! threads. The shim has one thread, reads orders from its standard input and answers on its standard output, a line
//! each: `created PID`, then after `start`, `started`; or `error MESSAGE`. If the agent goes away before it says
//! `start`, the shim removes what it made.

use std::{
    error::Error as _,
    fs::{File, OpenOptions},
    io::{BufRead, Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode},
};

use libcontainer::{
    container::{Container, builder::ContainerBuilder},
    error::LibcontainerError,
    oci_spec::runtime::Spec,
    syscall::syscall::SyscallType,
    workload::{Executor, ExecutorError, ExecutorValidationError, default::DefaultExecutor},
};

use super::{
    driver::{DriverError, one_line},
    oci::{
        control::{self, libcontainer},
        launch::new_record,
        layout::Layout,
    },
    process::ProcessId,
};
use crate::config::OciRuntime;

/// The hidden subcommand of `ringmesh` that leads to [`main`].
pub const SUBCOMMAND: &str = "oci-shim";

/// `run STATE_DIR INSTANCE CONTAINER [ADDRESS…]`
pub(super) const RUN: &str = "run";
/// `teardown STATE_DIR INSTANCE`
const TEARDOWN: &str = "teardown";

pub(super) const CREATED: &str = "created ";
pub(super) const START: &str = "start\n";
pub(super) const STARTED: &str = "started";
pub(super) const ERROR: &str = "error ";

/// Runs the shim with what follows `oci-shim` on the command line. No thread may exist yet.
pub fn main(args: Vec<String>) -> ExitCode {
    // Says in the container's log what libcontainer knows beyond its errors.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::ERROR)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        [RUN, state_dir, instance, name, addresses @ ..] => {
            run(&Layout::new(Path::new(state_dir), instance), name, addresses).map_err(|error| {
                // The agent puts the runtime's name before it again.
                if let DriverError::Runtime { message, .. } = error { message } else { error.one_line() }
            })
        }
        [TEARDOWN, state_dir, instance] => {
            super::teardown(Path::new(state_dir), instance).map_err(|error| one_line(&error.to_string()))
        }
        _ => Err(format!(
            "usage: {SUBCOMMAND} {RUN} STATE_DIR INSTANCE CONTAINER [ADDRESS…] | {TEARDOWN} STATE_DIR INSTANCE"
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // The agent may be gone; then nobody wants to know.
            let _ = writeln!(std::io::stdout(), "{ERROR}{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(layout: &Layout, name: &str, addresses: &[&str]) -> Result<(), DriverError> {
    let made = create(layout, name).and_then(|container| start(layout, name, addresses, container));
    if made.is_err()
        && let Err(error) = control::delete(layout, name)
    {
        tracing::error!(error = error.one_line(), "cannot clean up");
    }
    made
}

fn create(layout: &Layout, name: &str) -> Result<Container, DriverError> {
    let path = layout.log(name);
    let log = OpenOptions::new().create(true).append(true).open(&path).map_err(DriverError::io("open", &path))?;
    let errors = log.try_clone().map_err(DriverError::io("open", &path))?;
    let null = File::open("/dev/null").map_err(DriverError::io("open", "/dev/null"))?;
    let build = || {
        ContainerBuilder::new(name.to_owned(), SyscallType::default())
            .with_root_path(layout.runtime_root(OciRuntime::Libcontainer))?
            .with_executor(Program)
            .with_stdin(null)
            .with_stdout(log)
            .with_stderr(errors)
            .validate_id()?
            .as_init(layout.bundle(name))
            .with_systemd(false)
            .with_detach(true)
            .build()
    };
    build().map_err(explain)
}

fn start(layout: &Layout, name: &str, addresses: &[&str], mut container: Container) -> Result<(), DriverError> {
    let lost = |message: &str| DriverError::Runtime { runtime: "libcontainer", message: message.into() };
    let pid = container.pid().and_then(|pid| u32::try_from(pid.as_raw()).ok());
    let pid = pid.ok_or_else(|| lost("made a container without a process"))?;
    answer(&format!("{CREATED}{pid}"))?;
    let mut order = String::new();
    let read = std::io::stdin().lock().take(START.len() as u64).read_line(&mut order);
    read.map_err(DriverError::io("read", "standard input"))?;
    if order != START {
        return Err(lost("the agent went away before the container was started"));
    }
    let process =
        ProcessId::of(pid).ok_or_else(|| lost("the container's first process ended before it was started"))?;
    container.start().map_err(libcontainer)?;
    let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
    layout.save_record(name, &new_record(OciRuntime::Libcontainer, pid, Some(process), addresses))?;
    answer(STARTED)
}

fn answer(line: &str) -> Result<(), DriverError> {
    let mut stdout = std::io::stdout().lock();
    let written = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    written.map_err(DriverError::io("write to", "standard output"))
}

fn explain(error: LibcontainerError) -> DriverError {
    if matches!(error, LibcontainerError::CgroupCreate(_) | LibcontainerError::CgroupGet(_))
        || error.source().is_some_and(|cause| cause.to_string().contains("detect cgroup setup"))
    {
        let message = "no control groups at /sys/fs/cgroup; mount them (ip netns exec hides them: enter with nsenter)";
        return DriverError::Runtime { runtime: "libcontainer", message: message.into() };
    }
    libcontainer(error)
}

/// Becomes the container's program. The standard library's way, because Rust ignores SIGPIPE in its own processes and
/// this gives the program the default back.
#[derive(Clone)]
struct Program;

impl Executor for Program {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let args = spec.process().as_ref().and_then(|process| process.args().as_ref());
        let (program, rest) = args.and_then(|args| args.split_first()).ok_or(ExecutorError::InvalidArg)?;
        let error = Command::new(program).args(rest).exec();
        Err(ExecutorError::Other(format!("cannot execute {program}: {error}")))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        DefaultExecutor {}.validate(spec)
    }
}
