//! `ringmesh token`

use std::time::Duration;

use clap::{Args, Subcommand};
use ringmesh_proto::v1::{CreateTokenRequest, agent_client::AgentClient};

use crate::{
    args::duration,
    context::{Context, client},
    error::CliError,
    output::{Format, note, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    Create(CreateArgs),
}

/// Make a token with which hosts join.
#[derive(Args, Debug)]
#[command(after_help = "\
It holds addresses, the CA's fingerprint and a secret: keep it as you keep a password until it expires. Only a host \
that holds the CA's key makes one: the first of the cluster, and those to which `ringmesh ca share` gave it.

Examples:
  ringmesh token create
  ringmesh token create --ttl 24h --uses 10
  ssh h2 ringmesh join \"$(ringmesh token create)\"")]
pub(crate) struct CreateArgs {
    /// How long it is good for, at most 30 days.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    ttl: Duration,
    /// How many hosts may join with it.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
}

pub(crate) async fn run(context: &Context, command: TokenCommand) -> Result<(), CliError> {
    let TokenCommand::Create(args) = command;
    let ttl = prost_types::Duration::try_from(args.ttl)
        .map_err(|_| CliError::Usage("--ttl is too long: 30 days are the most".into()))?;
    let mut client = client!(context, AgentClient);
    let request = CreateTokenRequest { ttl: Some(ttl), uses: args.uses };
    let answer = context.call(client.create_token(request)).await?;
    context.printer.message(&answer, |answer| format!("{}\n", answer.token))?;
    if matches!(context.printer.format, Format::Table | Format::Wide) {
        let hosts = if answer.uses == 1 { "one host".to_owned() } else { format!("{} hosts", answer.uses) };
        let until = time::stamp(answer.expires_at.as_ref());
        note(&format!("For {hosts} until {until}: run `ringmesh join TOKEN` there."));
    }
    Ok(())
}
