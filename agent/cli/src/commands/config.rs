//! `ringmesh config`

use clap::Subcommand;
use ringmesh_proto::v1::{GetConfigRequest, agent_client::AgentClient};

use crate::{
    context::{Context, client},
    error::CliError,
};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the configuration that the agent runs, every default spelled out, without secrets.
    #[command(after_help = "\
Examples:
  ringmesh config show
  ringmesh --host h2 config show > h2.toml")]
    Show,
}

pub(crate) async fn run(context: &Context, command: ConfigCommand) -> Result<(), CliError> {
    let ConfigCommand::Show = command;
    let mut client = client!(context, AgentClient);
    let answer = context.call(client.get_config(GetConfigRequest {})).await?;
    context.printer.message(&answer, |answer| {
        let end = if answer.toml.ends_with('\n') { "" } else { "\n" };
        format!("{}{end}", answer.toml)
    })
}
