//! `ringmesh container`

use clap::{Args, Subcommand};
use jiff::Timestamp;
use ringmesh_proto::v1::{
    Container, GetContainerRequest, ListContainersRequest, Source, WatchContainersRequest, WatchContainersResponse,
    change::Kind, containers_client::ContainersClient,
};

use super::{cell, empty_answer, labels_text};
use crate::{
    args,
    context::{Context, client},
    error::CliError,
    natural::Natural,
    output::{
        Resource,
        details::Details,
        note_missing,
        style::Style,
        table::{Cell, Column, column, wide},
        time,
    },
    watch::{self, Watched},
};

#[derive(Debug, Subcommand)]
pub(crate) enum ContainerCommand {
    /// List the containers of all hosts.
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  ringmesh container list --on h3
  ringmesh container list -l tier=web --watch
  ringmesh container list -o json | jq '.[] | select(.verdict == \"critical\")'"
    )]
    List(ListArgs),
    /// Show all that is known of a container.
    #[command(after_help = "\
Examples:
  ringmesh container show web
  ringmesh container show h3/web    if several hosts have one of that name")]
    Show(ShowArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only those on this host.
    #[arg(long, value_name = "HOST")]
    on: Option<String>,
    #[command(flatten)]
    zone: args::InZone,
    #[command(flatten)]
    selector: args::Selector,
    #[command(flatten)]
    watch: args::Watch,
}

#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// Its name, and the host's if needed.
    #[arg(value_name = "[HOST/]CONTAINER")]
    container: String,
}

pub(crate) async fn run(context: &Context, command: ContainerCommand) -> Result<(), CliError> {
    let mut client = client!(context, ContainersClient);
    match command {
        ContainerCommand::List(args) => {
            let (host, labels, zone) = (args.on.unwrap_or_default(), args.selector.labels(), args.zone.name());
            if args.watch.watch {
                let stream = context.call(client.watch_containers(WatchContainersRequest { host, labels })).await?;
                return watch::list(context, stream).await;
            }
            let answer = context.call(client.list_containers(ListContainersRequest { host, labels, zone })).await?;
            context.printer.list(answer.containers)?;
            note_missing(&answer.sources, Container::PLURAL);
            Ok(())
        }
        ContainerCommand::Show(ShowArgs { container }) => {
            let (host, name) = container.rsplit_once('/').unwrap_or(("", &container));
            let request = GetContainerRequest { name: name.into(), host: host.into() };
            let answer = context.call(client.get_container(request)).await;
            let answer = answer.map_err(|error| error.or_see("ringmesh container list"))?;
            context.printer.details(&answer.container.ok_or_else(empty_answer)?, describe)?;
            note_missing(&answer.sources, Container::PLURAL);
            Ok(())
        }
    }
}

impl Resource for Container {
    const PLURAL: &'static str = "containers";
    const COLUMNS: &'static [Column] = &[
        column("NAME"),
        column("HOST"),
        column("TENANT"),
        column("STATE"),
        column("VERDICT"),
        column("SCORE"),
        column("SERVICES"),
        column("AGE"),
        wide("ADDRESSES"),
        wide("DRIVER"),
        wide("PID"),
        wide("FROZEN"),
        wide("LABELS"),
        wide("PROBLEM"),
    ];

    fn key(&self) -> Natural {
        Natural::of(&[&self.host, &self.name])
    }

    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            Cell::new(&self.name),
            Cell::new(&self.host),
            Cell::new(&self.tenant),
            Cell::state(self.state().as_str_name()),
            Cell::state(self.verdict().as_str_name()),
            Cell::new(self.score.to_string()),
            Cell::new(self.services.to_string()),
            Cell::new(time::age(now, self.started_at.as_ref())),
            Cell::new(self.addresses.join(",")),
            Cell::new(&self.driver),
            Cell::new(pid(self)),
            Cell::new(if self.frozen { "yes" } else { "no" }),
            Cell::new(labels_text(&self.labels)),
            Cell::styled(&self.problem, Style::Bad),
        ]
    }
}

fn pid(container: &Container) -> String {
    if container.pid == 0 { String::new() } else { container.pid.to_string() }
}

impl Watched for WatchContainersResponse {
    type Item = Container;

    fn split(self) -> (Kind, Option<Container>, Option<Source>) {
        (self.change(), self.container, self.source)
    }
}

fn describe(container: &Container, out: &mut Details) {
    out.add("Name", &container.name);
    out.add("Host", &container.host);
    out.add("Tenant", &container.tenant);
    out.state("State", container.state().as_str_name());
    out.add("Problem", &container.problem);
    out.state("Verdict", container.verdict().as_str_name());
    out.add("Score", container.score.to_string());
    out.add("Services", container.services.to_string());
    out.add("Frozen", if container.frozen { "yes" } else { "no" });
    out.add("Cell", cell::membership(container.cell.as_ref()));
    out.add("Driver", &container.driver);
    out.add("Pid", pid(container));
    out.add("Addresses", container.addresses.join(", "));
    out.add("Labels", labels_text(&container.labels));
    out.add("Started", time::stamp_and_age(Timestamp::now(), container.started_at.as_ref()));
}
