//! The binary `ringmesh-sim`.

mod args;
mod commands;
mod show;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match commands::run(args::Args::parse()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("ringmesh-sim: {error:#}");
            error.downcast_ref::<commands::Usage>().map_or(ExitCode::from(1), |_| ExitCode::from(2))
        }
    }
}
