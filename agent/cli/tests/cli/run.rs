//! Starts the binary with a clean environment.

use std::{
    path::Path,
    process::{Command, Output},
};

use crate::fake::Agent;

/// What a run left behind.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The binary, told nothing by the environment of the test.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmesh"));
    command.args(arguments).env("TERM", "xterm");
    for name in ["RINGMESH_HOST", "RINGMESH_CA", "RINGMESH_CERT", "RINGMESH_KEY", "NO_COLOR"] {
        command.env_remove(name);
    }
    command
}

/// One that asks `agent`, by an absolute path.
pub(crate) fn asking(agent: &Agent, arguments: &[&str]) -> Command {
    asking_at(agent.socket(), arguments)
}

pub(crate) fn asking_at(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    command.env("RINGMESH_HOST", socket);
    command
}

pub(crate) fn finish(mut command: Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().expect("the binary starts");
    Ran {
        code: status.code().expect("no signal"),
        out: String::from_utf8(stdout).expect("UTF-8"),
        err: String::from_utf8(stderr).expect("UTF-8"),
    }
}

/// Runs to a good end with nothing on standard error.
pub(crate) fn good(agent: &Agent, arguments: &[&str]) -> String {
    let ran = finish(asking(agent, arguments));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{arguments:?}");
    ran.out
}
