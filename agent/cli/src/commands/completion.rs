//! `ringmesh completion`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{args::Cli, error::CliError, output::Printer};

/// Print a completion script for a shell.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  ringmesh completion bash > /usr/share/bash-completion/completions/ringmesh
  ringmesh completion zsh > \"${fpath[1]}/_ringmesh\"
  ringmesh completion fish > ~/.config/fish/completions/ringmesh.fish")]
pub(crate) struct CompletionArgs {
    /// Whose.
    shell: Shell,
}

pub(crate) fn run(printer: &Printer, args: &CompletionArgs) -> Result<(), CliError> {
    // Into memory first: the generator panics when its output is closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ringmesh", &mut script);
    printer.write(&String::from_utf8_lossy(&script))
}
