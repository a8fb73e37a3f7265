//! `ringmesh event`

use clap::{Args, Subcommand};
use jiff::Timestamp;
use ringmesh_proto::v1::{Event, ListEventsRequest, WatchEventsRequest, event::Severity, events_client::EventsClient};

use crate::{
    args,
    context::{Context, client},
    error::CliError,
    natural::Natural,
    output::{
        Format, Resource,
        style::Style,
        table::{Cell, Column, column, wide},
        time,
    },
    watch,
};

#[derive(Debug, Subcommand)]
pub(crate) enum EventCommand {
    /// List the newest events, oldest first.
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  ringmesh event list --limit 20
  ringmesh event list --on h3 -o wide
  ringmesh event list --kind host-down -o json
  ringmesh event list --zone east     of another zone all, not just what was told to all"
    )]
    List(ListArgs),
    /// Print events as they happen, until ^C.
    #[command(after_help = "\
Examples:
  ringmesh event watch
  ringmesh event watch --backlog 0 -o json | jq --unbuffered .text
  ringmesh event watch --after 6e999799-3-17     what came after that one, too")]
    Watch(WatchArgs),
}

#[derive(Args, Debug)]
pub(crate) struct Filter {
    /// Only those about this host.
    #[arg(long, value_name = "HOST")]
    on: Option<String>,
    /// Only those of this kind, such as host-down or service-verdict.
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// At most so many of the newest.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    zone: args::InZone,
    #[command(flatten)]
    watch: args::Watch,
}

#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// Print so many of the newest first.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=10_000))]
    backlog: u32,
    /// Go on after the event of this id, as `event list -o json` shows it.
    #[arg(long, value_name = "ID", conflicts_with = "backlog")]
    after: Option<String>,
    #[command(flatten)]
    filter: Filter,
}

pub(crate) async fn run(context: &Context, command: EventCommand) -> Result<(), CliError> {
    match command {
        EventCommand::List(ListArgs { limit, filter, zone, watch: args::Watch { watch: false } }) => {
            let mut client = client!(context, EventsClient);
            let Filter { on, kind } = filter;
            let (host, kind) = (on.unwrap_or_default(), kind.unwrap_or_default());
            let request = ListEventsRequest { limit, host, kind, zone: zone.name() };
            let answer = context.call(client.list_events(request)).await?;
            context.printer.list_in_order(&answer.events)
        }
        EventCommand::List(ListArgs { limit, filter, watch: args::Watch { watch: true }, .. }) => {
            stream(context, WatchArgs { backlog: limit, after: None, filter }).await
        }
        EventCommand::Watch(args) => stream(context, args).await,
    }
}

async fn stream(context: &Context, WatchArgs { backlog, after, filter }: WatchArgs) -> Result<(), CliError> {
    let mut client = client!(context, EventsClient);
    let (host, kind) = (filter.on.unwrap_or_default(), filter.kind.unwrap_or_default());
    let request = WatchEventsRequest { backlog, host, kind, after: after.unwrap_or_default() };
    let mut stream = context.call(client.watch_events(request)).await?;
    let printer = &context.printer;
    if matches!(printer.format, Format::Json | Format::Yaml) {
        return watch::documents(context, stream).await;
    }
    // "critical", "service-verdict" and host/container/service of a usual length.
    let mut table = printer.table::<Event>();
    for (name, width) in [("TIME", 24), ("SEVERITY", 8), ("KIND", 15), ("ABOUT", 16)] {
        table.reserve(name, width);
    }
    printer.write(&table.render_header(printer.color))?;
    while let Some(event) = watch::next(context, &mut stream).await? {
        printer.write(&table.render_row(event.cells(Timestamp::now()), printer.color))?;
    }
    Err(context.stream_ended())
}

impl Resource for Event {
    const PLURAL: &'static str = "events";
    const COLUMNS: &'static [Column] = &[
        column("TIME"),
        column("SEVERITY"),
        column("KIND"),
        column("ABOUT"),
        wide("ZONE"),
        wide("ACCUSERS"),
        wide("ID"),
        column("TEXT"),
    ];

    fn key(&self) -> Natural {
        Natural::of(&[&self.id])
    }

    fn cells(&self, _now: Timestamp) -> Vec<Cell> {
        let about = [&self.host, &self.container, &self.service];
        let about: Vec<&str> = about.iter().map(|part| part.as_str()).filter(|part| !part.is_empty()).collect();
        let severity = match self.severity() {
            Severity::Info => Style::Plain,
            Severity::Warning => Style::Warn,
            Severity::Critical => Style::Bad,
        };
        vec![
            Cell::new(time::stamp(self.time.as_ref())),
            Cell::styled(self.severity().as_str_name(), severity),
            Cell::new(&self.kind),
            Cell::new(about.join("/")),
            Cell::new(&self.zone),
            Cell::new(self.accusers.join(",")),
            Cell::new(&self.id),
            Cell::new(&self.text),
        ]
    }
}
