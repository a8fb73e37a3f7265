//! The one binary `ringmesh`: the daemon, the lab and the commands.
//!
//! The commands know the gRPC API `ringmesh.v1` and nothing behind it; only `agent`, `init`, `join` and `lab` call
//! into agentd. Here it is decided which of the two worlds a process belongs to: the hidden subcommands run
//! single-threaded and never see what follows.

use std::{ffi::OsString, process::ExitCode};

mod args;
mod commands;
mod connect;
mod context;
mod error;
mod natural;
mod output;
mod usage;
mod watch;

use ringmesh_agentd as agentd;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = hidden(&arguments) {
        return code;
    }
    match usage::parse(arguments) {
        Ok(cli) => commands::run(cli),
        Err(code) => code,
    }
}

/// What the daemon starts itself as. These fork or change namespaces, so no thread and no runtime may exist yet; they
/// are no part of the command line that people see.
fn hidden(arguments: &[OsString]) -> Option<ExitCode> {
    match arguments.get(1)?.to_str()? {
        "oci-shim" => {
            let rest = arguments.iter().skip(2).map(|argument| argument.to_string_lossy().into_owned()).collect();
            Some(agentd::runtime::shim::main(rest))
        }
        "exec-runner" => Some(agentd::probe::runner::main()),
        "exec-child" => Some(agentd::probe::child::main()),
        _ => None,
    }
}
