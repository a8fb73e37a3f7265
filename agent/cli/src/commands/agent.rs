//! `ringmesh agent`

use std::path::PathBuf;

use clap::Args;

use crate::{
    agentd::{self, config::DEFAULT_PATH},
    error::CliError,
    output::note,
};

/// Run the daemon in the foreground.
#[derive(Args, Debug)]
#[command(after_help = "\
It ends on SIGTERM and SIGINT; its containers run on.

Examples:
  ringmesh agent --config /etc/ringmesh/agent.toml --check
  ringmesh agent --config /etc/ringmesh/agent.toml")]
pub(crate) struct AgentArgs {
    /// Configuration file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Only check the file; status 1 and one line if it is wrong.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &AgentArgs) -> Result<(), CliError> {
    if args.check {
        for oddity in agentd::agent::check(&args.config).map_err(|error| CliError::failed(&error))? {
            note(&format!("{}: {oddity}", args.config.display()));
        }
        note(&format!("{}: no mistakes found", args.config.display()));
        return Ok(());
    }
    agentd::agent::run(&args.config).map_err(|error| CliError::failed(&error))
}
