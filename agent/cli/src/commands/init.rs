//! `ringmesh init`

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    agentd::{
        config::DEFAULT_PATH,
        identity::commands::{InitOptions, init},
    },
    error::CliError,
    output::note,
};

/// What `init` and `join` both need to know of this host.
#[derive(Args, Debug)]
pub(super) struct HostArgs {
    /// Configuration file; made if it is not there, and then read for what is not given here.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub(super) config: PathBuf,
    /// Name of this host, unique in the cluster [default: from the file, else its host name].
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Our address on uplink A.
    #[arg(long, value_name = "ADDRESS")]
    pub(super) uplink_a: Option<IpAddr>,
    /// Our address on uplink B.
    #[arg(long, value_name = "ADDRESS")]
    pub(super) uplink_b: Option<IpAddr>,
    /// Where keys and state are kept [default: from the file, else /var/lib/ringmesh].
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
    /// The zone that this host is in [default: from the file, else default].
    #[arg(long)]
    pub(super) zone: Option<String>,
}

/// Make a new cluster, with this host as its first.
#[derive(Args, Debug)]
#[command(after_help = "\
Makes a CA, an identity for this host and an operator's certificate. The other hosts then join with a token.

Example, on the first host:
  ringmesh init --name h1 --uplink-a 10.0.0.1 --uplink-b 10.0.1.1
  ringmesh agent
  ringmesh token create")]
pub(crate) struct InitArgs {
    #[command(flatten)]
    host: HostArgs,
}

pub(crate) fn run(args: InitArgs) -> Result<(), CliError> {
    let HostArgs { config: config_path, name, uplink_a, uplink_b, state_dir, zone } = args.host;
    let config = config_path.clone();
    let outcome = init(&InitOptions { config_path, name, uplink_a, uplink_b, state_dir, zone })
        .map_err(|error| CliError::failed(&error))?;
    note(&format!("made cluster {} with this host, {} ({})", outcome.cluster, outcome.name, outcome.host));
    next_steps(&config, outcome.config_written, outcome.has_uplink_b);
    note("  ringmesh token create           a token with which another host joins");
    Ok(())
}

/// What to do after init or join.
pub(super) fn next_steps(config: &Path, written: bool, has_uplink_b: bool) {
    if written {
        note(&format!("wrote {}", config.display()));
    }
    if !has_uplink_b {
        note("warning: without an uplink b the loss of one cable cuts this host off");
    }
    note(&format!("\nNext:\n  ringmesh agent --config {}", config.display()));
}
