//! `ringmesh container`

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use ringmesh_proto::v1::{
    Container, GetContainerRequest, ListContainersRequest, OrderContainerRequest, Source, WatchContainersRequest,
    WatchContainersResponse, change, container::State, containers_client::ContainersClient, operation::Kind,
    operations_client::OperationsClient,
};

use super::{
    cell, empty_answer, fields, labels_text,
    operation::{Reason, Wait, ordered},
};
use crate::{
    args,
    context::{Context, client},
    error::CliError,
    natural::Natural,
    output::{
        Resource,
        details::Details,
        note_missing,
        pages::Pages,
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
  ringmesh container list --verdict critical --state stopped
  ringmesh container list -o json | jq '.[] | select(.verdict == \"critical\")'"
    )]
    List(ListArgs),
    /// Show all that is known of a container.
    #[command(after_help = "\
Examples:
  ringmesh container show web
  ringmesh container show h3/web    if several hosts have one of that name")]
    Show(ShowArgs),
    /// Kill a container and make it anew, or only one of its services.
    #[command(after_help = "\
Examples:
  ringmesh container restart web
  ringmesh container restart h3/web --service http    runs that service's restart command")]
    Restart(RestartArgs),
    /// Pause a container and hold back all automatic action on it.
    #[command(after_help = "\
It stays so when its agent is started again, and is not probed meanwhile.

Examples:
  ringmesh container freeze web --reason \"looking at a leak\" --for 2h
  ringmesh container release web")]
    Freeze(FreezeArgs),
    /// Let a frozen container go on.
    Release(OrderArgs),
    /// Remove a container and start another of its template, under the name CONTAINER.N.
    Clone(OrderArgs),
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
    verdicts: args::Verdicts,
    /// Only those in this state: running, paused, stopped, absent, created or unknown; any, if given more than once.
    #[arg(long = "state", value_name = "STATE", value_parser = state)]
    states: Vec<i32>,
    #[command(flatten)]
    watch: args::Watch,
}

fn state(text: &str) -> Result<i32, &'static str> {
    State::from_str_name(text).map(i32::from).ok_or("expected running, paused, stopped, absent, created or unknown")
}

/// What the table shows, but for what names a container.
const TABLE_FIELDS: &[&str] = &["tenant", "state", "verdict", "score", "services", "started_at"];

#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// Its name, and the host's if needed.
    #[arg(value_name = "[HOST/]CONTAINER")]
    container: String,
}

#[derive(Args, Debug)]
pub(crate) struct OrderArgs {
    /// Its name, and the host's if needed.
    #[arg(value_name = "[HOST/]CONTAINER")]
    container: String,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Args, Debug)]
pub(crate) struct RestartArgs {
    /// Only this service, by its restart command.
    #[arg(long, value_name = "SERVICE", default_value = "", hide_default_value = true)]
    service: String,
    #[command(flatten)]
    order: OrderArgs,
}

#[derive(Args, Debug)]
pub(crate) struct FreezeArgs {
    /// Released by itself after so long [default: not].
    #[arg(long = "for", value_name = "TIME", value_parser = args::duration)]
    lasts: Option<Duration>,
    #[command(flatten)]
    order: OrderArgs,
}

pub(crate) async fn run(context: &Context, command: ContainerCommand) -> Result<(), CliError> {
    let mut client = client!(context, ContainersClient);
    match command {
        ContainerCommand::List(args) => {
            let (host, labels, zone) = (args.on.unwrap_or_default(), args.selector.labels(), args.zone.name());
            let (verdicts, states) = (args.verdicts.numbers(), args.states);
            let fields = fields(context, TABLE_FIELDS);
            if args.watch.watch {
                let position = String::new();
                let request = WatchContainersRequest { host, labels, verdicts, states, fields, position };
                let stream = context.call(client.watch_containers(request)).await?;
                return watch::list(context, stream).await;
            }
            let (page_size, page_token) = (0, String::new());
            let mut request =
                ListContainersRequest { host, labels, zone, verdicts, states, fields, page_size, page_token };
            let mut pages = Pages::new(&context.printer);
            loop {
                let answer = context.call(client.list_containers(request.clone())).await?;
                let is_last = answer.next_page_token.is_empty();
                pages.print(answer.containers, answer.sources, is_last)?;
                if is_last {
                    return Ok(());
                }
                request.page_token = answer.next_page_token;
            }
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
        ContainerCommand::Restart(RestartArgs { service, order }) => {
            let kind = if service.is_empty() { Kind::RestartContainer } else { Kind::RestartService };
            let what = OrderContainerRequest { service, ..OrderContainerRequest::default() };
            give_order(context, kind, what, order).await
        }
        ContainerCommand::Freeze(FreezeArgs { lasts, order }) => {
            let lasts = lasts.map(args::proto_duration).transpose()?;
            let what = OrderContainerRequest { lasts, ..OrderContainerRequest::default() };
            give_order(context, Kind::Freeze, what, order).await
        }
        ContainerCommand::Release(order) => give_order(context, Kind::Release, Default::default(), order).await,
        ContainerCommand::Clone(order) => give_order(context, Kind::Clone, Default::default(), order).await,
    }
}

async fn give_order(
    context: &Context,
    kind: Kind,
    what: OrderContainerRequest,
    order: OrderArgs,
) -> Result<(), CliError> {
    let OrderArgs { container, reason: Reason { reason }, wait } = order;
    let (host, name) = container.rsplit_once('/').unwrap_or(("", &container));
    let (container, host) = (name.to_owned(), host.to_owned());
    let request = OrderContainerRequest { kind: kind as i32, container, host, reason, ..what };
    let mut client = client!(context, OperationsClient);
    // Of a service that is not there the list of services says more, and of its container as much.
    let list = if request.service.is_empty() { "ringmesh container list" } else { "ringmesh service list" };
    let answer = context.call(client.order_container(request)).await;
    ordered(context, answer.map_err(|error| error.or_see(list))?, &wait).await
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
            Cell::styled(shown_state(self), Style::of_state(self.state().as_str_name())),
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

/// One that is frozen is paused, as a rule: that somebody ordered it is what matters.
fn shown_state(container: &Container) -> &'static str {
    if container.frozen { "frozen" } else { container.state().as_str_name() }
}

fn pid(container: &Container) -> String {
    if container.pid == 0 { String::new() } else { container.pid.to_string() }
}

impl Watched for WatchContainersResponse {
    type Item = Container;

    fn split(self) -> (change::Kind, Option<Container>, Option<Source>) {
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
    match &container.hold {
        Some(hold) => {
            let since = time::stamp_and_age(Timestamp::now(), hold.since.as_ref());
            out.add("Frozen", format!("by {}, since {since}", hold.who));
            out.add("", &hold.reason);
            out.add("Until", time::stamp(hold.until.as_ref()));
        }
        None => out.add("Frozen", "no"),
    }
    out.add("Operation", &container.operation);
    out.add("Cell", cell::membership(container.cell.as_ref()));
    if let Some(inside) = &container.inside {
        let since = time::stamp_and_age(Timestamp::now(), inside.since.as_ref());
        let since = if since.is_empty() { since } else { format!(", since {since}") };
        let starts = if inside.starts == 1 { "1 start".to_owned() } else { format!("{} starts", inside.starts) };
        out.add("Inside", format!("{}{since}, {starts}", inside.state().as_str_name()));
        out.add("", &inside.problem);
    }
    out.add("Driver", &container.driver);
    out.add("Pid", pid(container));
    out.add("Addresses", container.addresses.join(", "));
    out.add("Labels", labels_text(&container.labels));
    out.add("Started", time::stamp_and_age(Timestamp::now(), container.started_at.as_ref()));
}
