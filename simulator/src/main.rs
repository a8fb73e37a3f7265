//! The binary `ringmesh-sim`.

mod args;
mod commands;
mod show;

use std::{
    io::{self, ErrorKind},
    process::ExitCode,
};

use clap::Parser;

fn main() -> ExitCode {
    match commands::run(args::Args::parse()) {
        Ok(status) => status,
        // Whoever reads has seen enough.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ringmesh-sim: {error:#}");
            error.downcast_ref::<commands::Usage>().map_or(ExitCode::from(1), |_| ExitCode::from(2))
        }
    }
}
