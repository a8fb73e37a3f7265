//! `ringmesh store`

use std::{fs::File, io::Write, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use ringmesh_proto::v1::{
    GetSnapshotRequest, GetStoreStatusRequest, StoreMember, StoreStatus, store_client::StoreClient, store_member::Role,
};

use crate::{
    agentd::store::{
        self, StoreError,
        settings::{DEFAULT_CLIENT_URL, Options, Settings},
    },
    args::duration,
    context::{Context, client},
    error::CliError,
    natural::Natural,
    output::{
        Printer, Resource,
        details::Details,
        note,
        style::Style,
        table::{Cell, Column, column, wide},
    },
};

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Show which hosts hold the replicated configuration, and why.
    #[command(after_help = "\
Voters agree on each change; a stand-by has all and takes the place of a voter that is lost; a spare passes calls on. The \
hosts choose them among themselves, over racks, and heal the set by themselves.

Examples:
  ringmesh store status
  ringmesh store status -o json | jq -r .leader")]
    Status,
    Snapshot(SnapshotArgs),
    Serve(ServeArgs),
    Restore(RestoreArgs),
}

/// Write all keys of this moment to a file, as `etcdctl snapshot save` does.
#[derive(Args, Debug)]
#[command(after_help = "\
The file is whole when this ends well: its checksum is in it. `ringmesh store restore` makes a store of it.

Example:
  ringmesh store snapshot backup-2026-11-27")]
pub(crate) struct SnapshotArgs {
    /// The file, which must not be there.
    #[arg(value_name = "FILE")]
    file: PathBuf,
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

pub(crate) async fn status(context: &Context) -> Result<(), CliError> {
    let mut client = client!(context, StoreClient);
    let status = context.call(client.get_store_status(GetStoreStatusRequest {})).await?;
    context.printer.message(&status, |status| describe(status, &context.printer))?;
    status.warnings.iter().for_each(|warning| note(&format!("warning: {warning}")));
    Ok(())
}

fn describe(status: &StoreStatus, printer: &Printer) -> String {
    let mut details = Details::default();
    details.add("Cluster", &status.cluster_id);
    details.add("Leader", if status.leader.is_empty() { "none" } else { &status.leader });
    details.add("Term", status.term.to_string());
    details.add("Revision", format!("{}, readable from {}", status.revision, status.compacted_revision.max(1)));
    details.add("Used", format!("{} of {} MiB", status.used_bytes >> 20, status.quota_bytes >> 20));
    let changing = if status.is_changing { ", changing" } else { "" };
    details.add("May lose", format!("{} voters{changing}", status.tolerance));
    let mut table = printer.table::<StoreMember>();
    status.members.iter().for_each(|member| table.push(member.cells(Timestamp::now())));
    format!("{}\n{}", details.render(printer.color), table.render(printer.color, printer.width()))
}

impl Resource for StoreMember {
    const PLURAL: &'static str = "members";
    const COLUMNS: &'static [Column] = &[
        column("HOST"),
        column("ROLE"),
        column("LEADS"),
        column("HEARD"),
        column("LAG"),
        wide("REPLICA"),
        column("WHY"),
    ];

    fn key(&self) -> Natural {
        Natural::of(&[&self.host])
    }

    fn cells(&self, _: Timestamp) -> Vec<Cell> {
        let is_replica = self.role() != Role::Spare;
        let yes = |yes: bool| Cell::new(if yes { "yes" } else { "-" });
        let heard = match (is_replica, self.heard) {
            (false, _) => Cell::new("-"),
            (true, true) => Cell::new("yes"),
            (true, false) => Cell::styled("no", Style::Warn),
        };
        vec![
            Cell::new(&self.host),
            Cell::new(self.role().as_str_name()),
            yes(self.leads),
            heard,
            Cell::new(if is_replica { self.lag.to_string() } else { "-".into() }),
            Cell::new(&self.replica),
            Cell::new(&self.why),
        ]
    }
}

pub(crate) async fn snapshot(context: &Context, args: SnapshotArgs) -> Result<(), CliError> {
    let mut client = client!(context, StoreClient);
    let mut parts = context.call(client.get_snapshot(GetSnapshotRequest {})).await?;
    let failed = |error: std::io::Error| {
        CliError::Failed(format!("cannot write {}: {error}; check the directory and the disk", args.file.display()))
    };
    let mut file = File::create_new(&args.file).map_err(failed)?;
    let mut bytes = 0;
    let written = loop {
        match parts.message().await {
            Ok(Some(part)) => {
                bytes += part.blob.len();
                if let Err(error) = file.write_all(&part.blob) {
                    break Err(failed(error));
                }
            }
            Ok(None) => break file.sync_all().map_err(failed),
            Err(status) => break Err(context.status(&status)),
        }
    };
    if written.is_err() {
        // Half a snapshot is none.
        let _ = std::fs::remove_file(&args.file);
    } else {
        note(&format!("wrote {bytes} bytes to {}", args.file.display()));
    }
    written
}

pub(crate) fn restore(args: RestoreArgs) -> Result<(), CliError> {
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

pub(crate) fn serve(args: ServeArgs) -> Result<(), CliError> {
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
