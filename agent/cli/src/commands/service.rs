//! `ringmesh service`

use clap::{Args, Subcommand};
use jiff::Timestamp;
use ringmesh_proto::v1::{
    GetHistoryRequest, GetServiceRequest, ListServicesRequest, Service, Source, WatchServicesRequest,
    WatchServicesResponse, change::Kind, services_client::ServicesClient,
};

use super::{empty_answer, fields, history, labels_text};
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
        table::{Cell, Column, column, wide},
        time,
    },
    watch::{self, Watched},
};

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// List the services and their verdicts.
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  ringmesh service list --on h3 --container web
  ringmesh service list -l tier=web -o wide
  ringmesh service list --verdict critical --verdict unknown
  ringmesh service list --watch"
    )]
    List(ListArgs),
    /// Show all that is known of a service.
    #[command(after_help = "\
Examples:
  ringmesh service show http
  ringmesh service show web/http
  ringmesh service show h3/web/http")]
    Show(ShowArgs),
    /// Show what its host remembers of a service: latencies, answers, and each change with its cause.
    #[command(after_help = "\
The memory of a service is of bounded size, and survives restarts of the agent; that of a service that was removed is kept for \
a week. In the line of the newest probes a higher bar is a slower answer, on a scale of orders of magnitude, and × is a failure.

Examples:
  ringmesh service history http
  ringmesh service history http --container web --on h3
  ringmesh service history h3/web/http -o json")]
    History(HistoryArgs),
}

#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    /// Its name, and its container's and host's if needed.
    #[arg(value_name = "[[HOST/]CONTAINER/]SERVICE")]
    service: String,
    /// The one in this container.
    #[arg(long, value_name = "CONTAINER")]
    container: Option<String>,
    /// The one on this host.
    #[arg(long, value_name = "HOST")]
    on: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only those on this host.
    #[arg(long, value_name = "HOST")]
    on: Option<String>,
    /// Only those in this container.
    #[arg(long, value_name = "CONTAINER")]
    container: Option<String>,
    #[command(flatten)]
    zone: args::InZone,
    #[command(flatten)]
    selector: args::Selector,
    #[command(flatten)]
    verdicts: args::Verdicts,
    #[command(flatten)]
    watch: args::Watch,
}

/// What the table shows, but for what names a service.
const TABLE_FIELDS: &[&str] = &["verdict", "probe", "last_latency", "last_change"];

#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// Its name, and its container's and host's if needed.
    #[arg(value_name = "[[HOST/]CONTAINER/]SERVICE")]
    service: String,
}

pub(crate) async fn run(context: &Context, command: ServiceCommand) -> Result<(), CliError> {
    let mut client = client!(context, ServicesClient);
    match command {
        ServiceCommand::List(args) => {
            let (host, container) = (args.on.unwrap_or_default(), args.container.unwrap_or_default());
            let (labels, zone, verdicts) = (args.selector.labels(), args.zone.name(), args.verdicts.numbers());
            let fields = fields(context, TABLE_FIELDS);
            if args.watch.watch {
                let position = String::new();
                let request = WatchServicesRequest { host, container, labels, verdicts, fields, position };
                let stream = context.call(client.watch_services(request)).await?;
                return watch::list(context, stream).await;
            }
            let (page_size, page_token) = (0, String::new());
            let mut request =
                ListServicesRequest { host, container, labels, zone, verdicts, fields, page_size, page_token };
            let mut pages = Pages::new(&context.printer);
            loop {
                let answer = context.call(client.list_services(request.clone())).await?;
                let is_last = answer.next_page_token.is_empty();
                pages.print(answer.services, answer.sources, is_last)?;
                if is_last {
                    return Ok(());
                }
                request.page_token = answer.next_page_token;
            }
        }
        ServiceCommand::Show(ShowArgs { service }) => {
            let (host, container, name) = split(&service);
            let request = GetServiceRequest { name: name.into(), container: container.into(), host: host.into() };
            let answer = context.call(client.get_service(request)).await;
            let answer = answer.map_err(|error| error.or_see("ringmesh service list"))?;
            context.printer.details(&answer.service.ok_or_else(empty_answer)?, describe)?;
            note_missing(&answer.sources, Service::PLURAL);
            Ok(())
        }
        ServiceCommand::History(HistoryArgs { service, container, on }) => {
            let (host, inside, name) = split(&service);
            let request = GetHistoryRequest {
                service: name.into(),
                container: container.unwrap_or_else(|| inside.into()),
                host: on.unwrap_or_else(|| host.into()),
            };
            let answer = context.call(client.get_history(request)).await;
            let answer = answer.map_err(|error| error.or_see("ringmesh service list"))?;
            let color = context.printer.color;
            let shown = answer.history.ok_or_else(empty_answer)?;
            context.printer.message(&shown, |shown| history::describe(shown, color))?;
            note_missing(&answer.sources, Service::PLURAL);
            Ok(())
        }
    }
}

/// Host, container and service of "[[HOST/]CONTAINER/]SERVICE".
fn split(path: &str) -> (&str, &str, &str) {
    let (rest, service) = path.rsplit_once('/').unwrap_or(("", path));
    let (host, container) = rest.rsplit_once('/').unwrap_or(("", rest));
    (host, container, service)
}

impl Resource for Service {
    const PLURAL: &'static str = "services";
    const COLUMNS: &'static [Column] = &[
        column("NAME"),
        column("CONTAINER"),
        column("HOST"),
        column("VERDICT"),
        column("PROBE"),
        column("LATENCY"),
        column("CHANGED"),
        wide("KIND"),
        wide("TARGET"),
        wide("INTERVAL"),
        wide("TIMEOUT"),
        wide("UP/DOWN"),
        wide("WEIGHT"),
        wide("TENANT"),
        wide("PROBED"),
        wide("LABELS"),
        wide("ANSWER"),
    ];

    fn key(&self) -> Natural {
        Natural::of(&[&self.host, &self.container, &self.name])
    }

    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        let probe = self.probe.clone().unwrap_or_default();
        vec![
            Cell::new(&self.name),
            Cell::new(&self.container),
            Cell::new(&self.host),
            Cell::state(self.verdict().as_str_name()),
            Cell::new(&probe.kind),
            Cell::new(time::proto_duration(self.last_latency.as_ref())),
            Cell::new(time::age(now, self.last_change.as_ref())),
            Cell::new(service_kind(self)),
            Cell::new(&probe.target),
            Cell::new(time::proto_duration(probe.interval.as_ref())),
            Cell::new(time::proto_duration(probe.timeout.as_ref())),
            Cell::new(format!("{}/{}", probe.threshold_up, probe.threshold_down)),
            Cell::new(self.weight.to_string()),
            Cell::new(&self.tenant),
            Cell::new(time::age(now, self.last_probe.as_ref())),
            Cell::new(labels_text(&self.labels)),
            Cell::new(&self.last_answer),
        ]
    }
}

/// "liveness", "readiness" or "startup".
fn service_kind(service: &Service) -> &'static str {
    service.kind().as_str_name()
}

impl Watched for WatchServicesResponse {
    type Item = Service;

    fn split(self) -> (Kind, Option<Service>, Option<Source>) {
        (self.change(), self.service, self.source)
    }
}

fn describe(service: &Service, out: &mut Details) {
    let now = Timestamp::now();
    out.add("Name", &service.name);
    out.add("Container", &service.container);
    out.add("Host", &service.host);
    out.add("Tenant", &service.tenant);
    out.add("Kind", service_kind(service));
    out.state("Verdict", service.verdict().as_str_name());
    out.add("", if service.flapping { "it flaps: a warning until it is steady" } else { "" });
    out.add("", if service.slow { "it answers more slowly than is normal for it" } else { "" });
    out.add("Changed", time::stamp_and_age(now, service.last_change.as_ref()));
    out.add("Answer", &service.last_answer);
    out.add("Latency", time::proto_duration(service.last_latency.as_ref()));
    out.add("Normal", time::proto_duration(service.normal_latency.as_ref()));
    out.add("Probed", time::stamp_and_age(now, service.last_probe.as_ref()));
    if let Some(probe) = &service.probe {
        out.add("Probe", format!("{} {}", probe.kind, probe.target));
        out.add("Interval", time::proto_duration(probe.interval.as_ref()));
        out.add("Timeout", time::proto_duration(probe.timeout.as_ref()));
        out.add(
            "Thresholds",
            format!(
                "{} in a row to pass, {} to be critical{}",
                probe.threshold_up,
                probe.threshold_down,
                if probe.alarms_at_once { ", at once with an outright error" } else { "" }
            ),
        );
    }
    out.add("Weight", service.weight.to_string());
    out.add("Labels", labels_text(&service.labels));
}
