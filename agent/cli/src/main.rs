//! The command line and the one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before any thread or runtime exists.
    match std::env::args_os().nth(1).as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("exec-runner") => return ringmesh_agentd::probe::runner::main(),
        Some("exec-child") => return ringmesh_agentd::probe::child::main(),
        Some(_) | None => {}
    }
    ExitCode::SUCCESS
}
