//! `ringmesh join`

use clap::Args;

use super::init::{HostArgs, next_steps};
use crate::{
    agentd::identity::commands::{JoinOptions, join},
    error::CliError,
    output::note,
};

/// Join this host to a cluster.
#[derive(Args, Debug)]
#[command(after_help = "\
The hosts that the token names give this host a certificate, if the token is still good.

A zone has at most 512 hosts; name another with --zone and the first host that does founds it.

Example, with a token from `ringmesh token create` on a host of the cluster:
  ringmesh join rm1.… --name h2 --uplink-a 10.0.0.2 --uplink-b 10.0.1.2
  ringmesh agent")]
pub(crate) struct JoinArgs {
    /// What `ringmesh token create` printed.
    token: String,
    #[command(flatten)]
    host: HostArgs,
}

pub(crate) fn run(args: JoinArgs) -> Result<(), CliError> {
    let HostArgs { config: config_path, name, uplink_a, uplink_b, state_dir, zone } = args.host;
    let config = config_path.clone();
    let options = JoinOptions { config_path, name, uplink_a, uplink_b, state_dir, zone, token: args.token };
    let outcome = join(&options).map_err(|error| CliError::failed(&error))?;
    note(&format!("{} ({}) joined cluster {} through {}", outcome.name, outcome.host, outcome.cluster, outcome.via));
    if outcome.zones.iter().all(|zone| zone.name != outcome.zone) {
        note(&format!("it is the first host of zone {}", outcome.zone));
    }
    next_steps(&config, outcome.config_written, outcome.has_uplink_b);
    Ok(())
}
