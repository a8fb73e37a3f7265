//! `ringmesh ca`

use std::time::Duration;

use clap::{Args, Subcommand};
use ringmesh_proto::v1::{
    RetireAuthorityRequest, RotateAuthorityRequest, ShareAuthorityRequest, certificates_client::CertificatesClient,
};

use super::cert::describe;
use crate::{
    args::duration,
    context::{Context, client},
    error::CliError,
    output::{note, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Replace the cluster's CA by a new one, while all runs on.
    #[command(after_help = "\
The new CA is signed by the old one and made known to all hosts. Each gets a certificate of it, while both are trusted. \
The old one goes by itself when the overlap is over and all hosts have renewed, or by `ringmesh ca retire`. A host that \
is away for all of that time must join again. Tokens made before are void. Only on a host that holds the CA's key; the \
new key is on that host alone: back it up, and give it to others with `ringmesh ca share`.

Examples:
  ringmesh ca rotate
  ringmesh ca rotate --overlap 720h")]
    Rotate(RotateArgs),
    /// End trust in the old CA now.
    Retire(RetireArgs),
    /// Give the CA's key to another host, which then signs and admits hosts, too.
    #[command(after_help = "\
Who has the key can make hosts of this cluster: give it to few. Two are enough to go on without one of them.

Example:
  ringmesh ca share h2")]
    Share(ShareArgs),
}

#[derive(Args, Debug)]
pub(crate) struct RotateArgs {
    /// How long the old CA is trusted still, at least; 1 s to 90 days [default: as the agent is configured, 7 days].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    overlap: Option<Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct RetireArgs {
    /// Even if hosts have no certificate of the new CA yet; they must join again.
    #[arg(long)]
    force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ShareArgs {
    /// Name or id of the host.
    host: String,
}

pub(crate) async fn run(context: &Context, command: CaCommand) -> Result<(), CliError> {
    let mut client = client!(context, CertificatesClient);
    match command {
        CaCommand::Rotate(RotateArgs { overlap }) => {
            let overlap = overlap.map(prost_types::Duration::try_from).transpose();
            let overlap = overlap.map_err(|_| CliError::Usage("--overlap is too long: 90 days are the most".into()))?;
            let now = context.call(client.rotate_authority(RotateAuthorityRequest { overlap })).await?;
            context.printer.details(&now, describe)?;
            let until = time::stamp(now.overlap_until.as_ref());
            note(&format!("A new CA signs. The old one is trusted until {until}, and as long as a host needs it."));
            note(
                "Back up its key, identity/ca.key; other hosts that held the old one get it by `ringmesh ca share HOST`.",
            );
            Ok(())
        }
        CaCommand::Retire(RetireArgs { force }) => {
            let now = context.call(client.retire_authority(RetireAuthorityRequest { force })).await?;
            context.printer.details(&now, describe)
        }
        CaCommand::Share(ShareArgs { host }) => {
            let request = ShareAuthorityRequest { host: host.clone() };
            context.call(client.share_authority(request)).await.map_err(|error| error.or_see("ringmesh host list"))?;
            note(&format!("{host} holds the CA's key: it signs and makes tokens"));
            Ok(())
        }
    }
}
