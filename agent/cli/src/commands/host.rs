//! `ringmesh host`

use clap::{Args, Subcommand};
use jiff::Timestamp;
use ringmesh_proto::v1::{
    Detection, GetHostRequest, Host, ListHostsRequest, Source, WatchHostsRequest, WatchHostsResponse, change::Kind,
    hosts_client::HostsClient, uplink, uplinks,
};
use serde::Serialize;

use crate::{
    args,
    context::{Context, client},
    error::CliError,
    natural::Natural,
    output::{
        Resource,
        details::Details,
        document::Canonical,
        style::Style,
        table::{Cell, Column, Table, column, printable, wide},
        time,
    },
    watch::{self, Watched},
};

#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// List the hosts.
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  ringmesh host list -o wide
  ringmesh host list --watch
  ringmesh host list -o json | jq -r '.[] | select(.state != \"alive\") | .name'"
    )]
    List(args::Watch),
    /// Show all that is known of a host.
    Show(HostArg),
    /// Say who accuses a host of being unreachable, on what evidence, and when.
    #[command(after_help = "\
An accuser has probed the host over both uplinks, itself and through others, and heard nothing. The host is down when \
it has not answered the accusation in time.

Example:
  ringmesh host why h3")]
    Why(HostArg),
}

#[derive(Args, Debug)]
pub(crate) struct HostArg {
    /// Name or id.
    host: String,
}

pub(crate) async fn run(context: &Context, command: HostCommand) -> Result<(), CliError> {
    match command {
        HostCommand::List(args::Watch { watch: false }) => {
            let mut client = client!(context, HostsClient);
            let answer = context.call(client.list_hosts(ListHostsRequest {})).await?;
            context.printer.list(answer.hosts)
        }
        HostCommand::List(args::Watch { watch: true }) => {
            let mut client = client!(context, HostsClient);
            let stream = context.call(client.watch_hosts(WatchHostsRequest {})).await?;
            watch::list(context, stream).await
        }
        HostCommand::Show(HostArg { host }) => {
            let host = get(context, host).await?;
            context.printer.details(&host, describe)
        }
        HostCommand::Why(HostArg { host }) => {
            let host = get(context, host).await?;
            context.printer.value(&Why::of(&host), || why(&host, context.printer.color))
        }
    }
}

async fn get(context: &Context, name: String) -> Result<Host, CliError> {
    let mut client = client!(context, HostsClient);
    let host = context.call(client.get_host(GetHostRequest { name })).await;
    host.map_err(|error| error.or_see("ringmesh host list"))
}

impl Resource for Host {
    const PLURAL: &'static str = "hosts";
    const COLUMNS: &'static [Column] = &[
        column("NAME"),
        column("STATE"),
        column("UPLINK-A"),
        column("UPLINK-B"),
        column("CONTAINERS"),
        column("SERVICES"),
        column("SCORE"),
        column("ZONE"),
        column("SINCE"),
        wide("ID"),
        wide("GENERATION"),
        wide("ADDRESS"),
        wide("ADDRESS-B"),
        wide("VERSION"),
        wide("HEARD"),
        wide("ACCUSERS"),
    ];

    fn key(&self) -> Natural {
        Natural::of(&[&self.name, &self.id])
    }

    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        let (a, b) = uplink_states(self);
        let digest = self.digest.as_ref();
        let of = |count: Option<(u32, u32)>| {
            let Some((good, all)) = count else { return Cell::new("") };
            Cell::styled(format!("{good}/{all}"), if good < all { Style::Warn } else { Style::Plain })
        };
        let accusers: Vec<&str> = self.accusations.iter().map(|accusation| accusation.accuser.as_str()).collect();
        vec![
            Cell::new(&self.name),
            Cell::state(self.state().as_str_name()),
            Cell::state(a),
            Cell::state(b),
            of(digest.map(|digest| (digest.running, digest.containers))),
            of(digest.map(|digest| (digest.passing, digest.services))),
            Cell::new(digest.map_or_else(String::new, |digest| digest.score.to_string())),
            Cell::new(&self.zone),
            Cell::new(time::age(now, self.since.as_ref())),
            Cell::new(&self.id),
            Cell::new(self.generation.to_string()),
            Cell::new(&self.address),
            Cell::new(&self.address_b),
            Cell::new(&self.version),
            Cell::new(time::age(now, self.heard_at.as_ref())),
            Cell::new(accusers.join(",")),
        ]
    }
}

fn uplink_states(host: &Host) -> (&'static str, &'static str) {
    let uplinks = host.uplinks.unwrap_or_default();
    let name = |state: uplink::State| state.as_str_name();
    (name(uplinks.a()), name(uplinks.b()))
}

impl Watched for WatchHostsResponse {
    type Item = Host;

    fn split(self) -> (Kind, Option<Host>, Option<Source>) {
        (self.change(), self.host, None)
    }
}

fn describe(host: &Host, out: &mut Details) {
    let now = Timestamp::now();
    let (a, b) = uplink_states(host);
    out.add("Name", &host.name);
    out.add("Id", &host.id);
    out.state("State", host.state().as_str_name());
    out.add("Since", time::stamp_and_age(now, host.since.as_ref()));
    let of = host.uplinks.unwrap_or_default();
    out.state("Uplink A", a);
    out.add("", time::restoring(now, of.restored_at_a.as_ref()));
    out.add("", if of.no_carrier_a { "its interface has no carrier or address" } else { "" });
    out.add("Address A", &host.address);
    out.state("Uplink B", b);
    out.add("", time::restoring(now, of.restored_at_b.as_ref()));
    out.add("", if of.no_carrier_b { "its interface has no carrier or address" } else { "" });
    out.add("Address B", &host.address_b);
    out.add("Order", order(of.order()));
    out.add("Zone", &host.zone);
    out.add("Generation", host.generation.to_string());
    out.add("Version", &host.version);
    out.add("Heard", time::stamp_and_age(now, host.heard_at.as_ref()));
    if host.local {
        out.add("Answers", "yes, this is the host that you asked");
    }
    if let Some(detection) = &host.detection {
        out.add("Finds", detection_text(detection));
    }
    if let Some(digest) = &host.digest {
        out.add("Containers", format!("{}, {} running, score {}", digest.containers, digest.running, digest.score));
        out.add(
            "Services",
            format!(
                "{}: {} passing, {} warning, {} critical, {} unverified",
                digest.services, digest.passing, digest.warning, digest.critical, digest.unverified
            ),
        );
        out.state("Worst", digest.worst().as_str_name());
    }
    for accusation in &host.accusations {
        out.add("Accused by", format!("{}: {}", accusation.accuser, accusation.evidence));
    }
}

fn order(order: uplinks::Order) -> &'static str {
    match order {
        uplinks::Order::Better => "",
        uplinks::Order::ForcedA => "uplink a, however it does",
        uplinks::Order::ForcedB => "uplink b, however it does",
        uplinks::Order::ManualA => "uplink a, as long as it is well",
        uplinks::Order::ManualB => "uplink b, as long as it is well",
    }
}

/// The longest times to a verdict.
fn detection_text(detection: &Detection) -> String {
    let seconds = |time: &Option<prost_types::Duration>| {
        let time = time.unwrap_or_default();
        format!("{:.2} s", time.seconds as f64 + f64::from(time.nanos) / 1e9)
    };
    format!(
        "a silent uplink within {}, an ended agent {}, a dead host {}, a stuck agent {}",
        seconds(&detection.silent_uplink),
        seconds(&detection.refused_port),
        seconds(&detection.dead_host),
        seconds(&detection.stuck_agent)
    )
}

/// `host why` as a document.
#[derive(Serialize)]
struct Why<'a> {
    host: &'a str,
    id: &'a str,
    state: &'static str,
    generation: u32,
    accusations: Vec<Canonical>,
}

impl<'a> Why<'a> {
    fn of(host: &'a Host) -> Self {
        let accusations = host.accusations.iter().map(Canonical::of).collect();
        let state = host.state().as_str_name();
        Self { host: &host.name, id: &host.id, state, generation: host.generation, accusations }
    }
}

fn why(host: &Host, color: bool) -> String {
    let name = printable(&host.name);
    let state = host.state().as_str_name();
    if host.accusations.is_empty() {
        let state = Style::of_state(state).paint(state, color);
        return format!("nobody accuses {name}; its state is {state}\n");
    }
    let now = Timestamp::now();
    let count = host.accusations.len();
    let accuse = if count == 1 { "1 host accuses it".to_owned() } else { format!("{count} hosts accuse it") };
    let state = Style::of_state(state).paint(state, color);
    let since = time::stamp_and_age(now, host.since.as_ref());
    let since = if since.is_empty() { since } else { format!(" since {since}") };
    let mut table = Table::new(&[column("ACCUSER"), column("AGE"), column("GENERATION"), column("EVIDENCE")], false);
    for accusation in &host.accusations {
        table.push(vec![
            Cell::new(&accusation.accuser),
            Cell::new(time::age(now, accusation.time.as_ref())),
            Cell::new(accusation.generation.to_string()),
            Cell::new(&accusation.evidence),
        ]);
    }
    format!("{name} is {state}{since}: {accuse}\n{}", table.render(color, None))
}
