//! `ringmesh store`

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use crate::{
    agentd::store::{
        self, StoreError,
        settings::{DEFAULT_CLIENT_URL, Options, Settings},
    },
    args::duration,
    error::CliError,
    output::note,
};

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    Serve(ServeArgs),
    Restore(RestoreArgs),
}

/// Serve the configuration store in the foreground: etcd's API, gRPC and JSON on one port.
#[derive(Args, Debug)]
#[command(after_help = "\
What it has acknowledged is on its disk, or with three members on the disks of two. It ends on SIGTERM and SIGINT. The
standalone store serves neither TLS nor passwords: keep its ports within a network that you trust.

Examples:
  ringmesh store serve --standalone --data-dir /var/lib/ringmesh/store
  etcdctl put greeting hello
  ringmesh store serve --standalone --name a --data-dir a --listen-client-urls http://10.0.0.1:2379 \\
    --initial-cluster a=http://10.0.0.1:2380,b=http://10.0.0.2:2380,c=http://10.0.0.3:2380")]
pub(crate) struct ServeArgs {
    /// Without an agent: members are given by --initial-cluster.
    #[arg(long, required = true)]
    standalone: bool,
    /// Name of this member, unique among them.
    #[arg(long, default_value = "default")]
    name: String,
    /// Where its files are kept; made if it is not there.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Where it listens for clients.
    #[arg(long, value_name = "URLS", value_delimiter = ',', default_value = DEFAULT_CLIENT_URL)]
    listen_client_urls: Vec<String>,
    /// Where it tells clients that it is [default: where it listens].
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    advertise_client_urls: Vec<String>,
    /// Where it listens for other members [default: its URL in --initial-cluster].
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    listen_peer_urls: Vec<String>,
    /// All members, NAME=URL each, and the same for all of them [default: this one alone].
    #[arg(long, value_name = "MEMBERS", value_delimiter = ',')]
    initial_cluster: Vec<String>,
    /// Bytes of keys and values beyond which it takes no more; 0 for 2 GiB.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    quota_backend_bytes: u64,
    /// How long old revisions are kept [default: until a client compacts them].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    auto_compaction_retention: Option<Duration>,
    /// What it logs: error, warn, info, debug, trace, or MODULE=LEVEL.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

/// Make a member from a snapshot, as `etcdctl snapshot save` takes it.
#[derive(Args, Debug)]
#[command(after_help = "\
All members of the new store are made from the same snapshot, with the same --initial-cluster, before one is started.

Example:
  etcdctl snapshot save backup
  ringmesh store restore --data-dir /var/lib/ringmesh/restored backup
  ringmesh store serve --standalone --data-dir /var/lib/ringmesh/restored")]
pub(crate) struct RestoreArgs {
    /// The file with the snapshot.
    #[arg(value_name = "FILE")]
    snapshot: PathBuf,
    /// Name of this member, unique among them.
    #[arg(long, default_value = "default")]
    name: String,
    /// Where its files will be kept: empty, or not there.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// All members, NAME=URL each, and the same for all of them [default: this one alone].
    #[arg(long, value_name = "MEMBERS", value_delimiter = ',')]
    initial_cluster: Vec<String>,
}

pub(crate) fn run(command: StoreCommand) -> Result<(), CliError> {
    match command {
        StoreCommand::Serve(args) => serve(args),
        StoreCommand::Restore(args) => restore(args),
    }
}

fn restore(args: RestoreArgs) -> Result<(), CliError> {
    let settings = Settings::check(Options {
        name: args.name,
        data_dir: args.data_dir,
        listen_client_urls: vec![DEFAULT_CLIENT_URL.into()],
        advertise_client_urls: Vec::new(),
        listen_peer_urls: Vec::new(),
        initial_cluster: args.initial_cluster,
        quota_bytes: 0,
        retention: None,
    })
    .map_err(|error| CliError::Usage(error.to_string()))?;
    let revision = store::restore(&settings, &args.snapshot).map_err(|error| CliError::failed(&error))?;
    note(&format!("restored revision {revision} in {}", settings.data_dir.display()));
    Ok(())
}

fn serve(args: ServeArgs) -> Result<(), CliError> {
    let settings = Settings::check(Options {
        name: args.name,
        data_dir: args.data_dir,
        listen_client_urls: args.listen_client_urls,
        advertise_client_urls: args.advertise_client_urls,
        listen_peer_urls: args.listen_peer_urls,
        initial_cluster: args.initial_cluster,
        quota_bytes: args.quota_backend_bytes,
        retention: args.auto_compaction_retention,
    })
    .map_err(|error| CliError::Usage(error.to_string()))?;
    store::serve(settings, &args.log_level).map_err(|error| {
        if matches!(error, StoreError::LogLevel(_)) {
            CliError::Usage(error.to_string())
        } else {
            CliError::failed(&error)
        }
    })
}
