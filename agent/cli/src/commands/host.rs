//! `ringmesh host`

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use ringmesh_proto::v1::{
    Detection, GetHostRequest, GetRoundTripRequest, Host, ListHostsRequest, OrderHostRequest, ProbeLoad,
    RevokeHostRequest, RevokeHostResponse, RoundTrip, Source, WatchHostsRequest, WatchHostsResponse,
    certificates_client::CertificatesClient, change::Kind, hosts_client::HostsClient, operation,
    operations_client::OperationsClient, uplink, uplinks,
};
use serde::Serialize;

use super::operation::{Reason, Wait, ordered};
use crate::{
    args,
    context::{Context, client},
    error::CliError,
    natural::Natural,
    output::{
        Resource,
        details::Details,
        document::Canonical,
        note, note_missing,
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
  ringmesh host list --watch               those of the zone of the host that answers
  ringmesh host list --zone east
  ringmesh host list -o json | jq -r '.[] | select(.state != \"alive\") | .name'"
    )]
    List(ListArgs),
    /// Show all that is known of a host.
    Show(HostArg),
    /// Say who accuses a host of being unreachable, on what evidence, and when.
    #[command(after_help = "\
An accuser has probed the host over both uplinks, itself and through others, and heard nothing. The host is down when \
it has not answered the accusation in time.

Example:
  ringmesh host why h3")]
    Why(HostArg),
    /// Throw a host out of the cluster: its certificates do not count any more.
    #[command(after_help = "\
Every host closes its connections to it and refuses new ones; it is shown as left, and comes back only by joining anew. \
Its containers run on. Only on a host that holds the CA's key.

Examples:
  ringmesh host revoke h5
  ringmesh host revoke h5 --serial 5f0c…    only a certificate that was copied, after `ringmesh --host h5 cert renew`")]
    Revoke(RevokeArgs),
    /// Begin no automatic action on a host's containers.
    #[command(after_help = "\
What would be done is proposed; what operators order is done. It survives restarts of its agent.

Examples:
  ringmesh host drain h3 --for 4h --reason \"new memory\"
  ringmesh host undrain h3")]
    Drain(DrainArgs),
    /// Repair a host's containers as usual again.
    Undrain(UndrainArgs),
    /// Estimate the round trip between any two hosts.
    #[command(after_help = "\
Each host finds a coordinate from the round trips of its own links; the estimate is the distance of two of them. If there \
is a link between the two, what it measures is shown, too.

Example:
  ringmesh host rtt h3 h7")]
    Rtt(RttArgs),
}

#[derive(Args, Debug)]
pub(crate) struct RevokeArgs {
    /// Name or id.
    host: String,
    /// Only the certificate with this serial number, as `cert show` prints it; the host itself stays.
    #[arg(long, value_name = "HEX", default_value = "", hide_default_value = true)]
    serial: String,
}

#[derive(Args, Debug)]
pub(crate) struct DrainArgs {
    /// Ends by itself after so long [default: not].
    #[arg(long = "for", value_name = "TIME", value_parser = args::duration)]
    lasts: Option<Duration>,
    #[command(flatten)]
    order: UndrainArgs,
}

#[derive(Args, Debug)]
pub(crate) struct UndrainArgs {
    /// Name or id.
    host: String,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    zone: args::InZone,
    #[command(flatten)]
    watch: args::Watch,
}

#[derive(Args, Debug)]
pub(crate) struct RttArgs {
    /// Name or id.
    from: String,
    /// Name or id.
    to: String,
}

#[derive(Args, Debug)]
pub(crate) struct HostArg {
    /// Name or id.
    host: String,
}

pub(crate) async fn run(context: &Context, command: HostCommand) -> Result<(), CliError> {
    match command {
        HostCommand::List(ListArgs { zone, watch: args::Watch { watch: false } }) => {
            let mut client = client!(context, HostsClient);
            let answer = context.call(client.list_hosts(ListHostsRequest { zone: zone.name() })).await?;
            context.printer.list(answer.hosts)?;
            note_missing(&answer.sources, Host::PLURAL);
            Ok(())
        }
        HostCommand::List(ListArgs { watch: args::Watch { watch: true }, .. }) => {
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
        HostCommand::Revoke(RevokeArgs { host, serial }) => {
            let mut client = client!(context, CertificatesClient);
            let answer = context.call(client.revoke_host(RevokeHostRequest { host, serial })).await;
            let answer = answer.map_err(|error| error.or_see("ringmesh host list"))?;
            context.printer.message(&answer, revoked)?;
            if !answer.warning.is_empty() {
                note(&format!("warning: {}", printable(&answer.warning)));
            }
            Ok(())
        }
        HostCommand::Drain(DrainArgs { lasts, order }) => {
            let lasts = lasts.map(args::proto_duration).transpose()?;
            give_order(context, operation::Kind::Drain, lasts, order).await
        }
        HostCommand::Undrain(order) => give_order(context, operation::Kind::Undrain, None, order).await,
        HostCommand::Rtt(RttArgs { from, to }) => {
            let mut client = client!(context, HostsClient);
            let answer = context.call(client.get_round_trip(GetRoundTripRequest { from, to })).await;
            let answer = answer.map_err(|error| error.or_see("ringmesh host list"))?;
            context.printer.message(&answer, round_trip)
        }
    }
}

async fn give_order(
    context: &Context,
    kind: operation::Kind,
    lasts: Option<prost_types::Duration>,
    order: UndrainArgs,
) -> Result<(), CliError> {
    let UndrainArgs { host, reason: Reason { reason }, wait } = order;
    let mut client = client!(context, OperationsClient);
    let answer = context.call(client.order_host(OrderHostRequest { kind: kind as i32, host, reason, lasts })).await;
    ordered(context, answer.map_err(|error| error.or_see("ringmesh host list"))?, &wait).await
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
        wide("RACK"),
        wide("RTT-ESTIMATE"),
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
            Cell::new(&self.rack),
            Cell::new(estimate(self)),
        ]
    }
}

fn revoked(answer: &RevokeHostResponse) -> String {
    let Some(revoked) = &answer.revocation else { return String::new() };
    let (host, until) = (printable(&revoked.host), time::stamp(revoked.expires_at.as_ref()));
    let what = if revoked.serial.is_empty() { String::new() } else { format!("certificate {} of ", revoked.serial) };
    format!("{what}{host} ({}) is revoked; that is kept until {until}\n", revoked.id)
}

/// "210µs", from the answering host; empty for that one, and if unknown.
fn estimate(host: &Host) -> String {
    if host.rtt_estimate_us == 0 { String::new() } else { micros(host.rtt_estimate_us) }
}

fn micros(us: u32) -> String {
    time::duration(Duration::from_micros(us.into()))
}

/// "h1 to h3: about 1.2ms, within 10 %; measured 1.1ms"
fn round_trip(answer: &RoundTrip) -> String {
    let (from, to) = (printable(&answer.from), printable(&answer.to));
    if from == to {
        return format!("{from} to itself: no round trip\n");
    }
    let estimate = micros(answer.estimate_us);
    let error = answer.error_permille.div_ceil(10);
    let sure =
        if error >= 100 { "not measured enough yet to be sure".into() } else { format!("give or take {error} %") };
    let measured = if answer.measured_us == 0 {
        "there is no link between them".to_owned()
    } else {
        format!("a link between them measures {}", micros(answer.measured_us))
    };
    format!("{from} to {to}: about {estimate}, {sure}; {measured}\n")
}

fn coordinate(host: &Host) -> String {
    let Some(at) = &host.coordinate else { return String::new() };
    let position: Vec<String> = at.position_us.iter().map(i32::to_string).collect();
    let error = f64::from(at.error_permille) / 10.0;
    format!(
        "({}) µs, height {} µs, adjustment {} µs, error {error} %",
        position.join(", "),
        at.height_us,
        at.adjustment_us
    )
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
    out.add("Drained", if host.drained { "yes, nothing is repaired by itself" } else { "" });
    out.add("Zone", &host.zone);
    out.add("Rack", &host.rack);
    out.add("Generation", host.generation.to_string());
    out.add("Version", &host.version);
    out.add("Heard", time::stamp_and_age(now, host.heard_at.as_ref()));
    out.add("Chords", &host.chords);
    out.add("Coordinate", coordinate(host));
    if host.rtt_estimate_us > 0 {
        out.add("Round trip", format!("about {}", estimate(host)));
    }
    if host.local {
        out.add("Answers", "yes, this is the host that you asked");
    }
    if let Some(certificate) = &host.certificate {
        let until = time::stamp(certificate.not_after.as_ref());
        let signs = if certificate.signs_with.is_empty() { "" } else { "; holds a CA's key" };
        out.add("Certificate", format!("until {until}, of CA {}{signs}", certificate.issuer));
    }
    if let Some(detection) = &host.detection {
        out.add("Finds", detection_text(detection));
    }
    if !host.disk_problem.is_empty() {
        out.add("Disk", &host.disk_problem);
    }
    if let Some(load) = &host.probe_load {
        out.add("Probes", probe_load_text(load));
    }
    out.digest(host.digest.as_ref());
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

/// Whether probes keep up.
fn probe_load_text(load: &ProbeLoad) -> String {
    let counts = format!("{} late and {} postponed since the start", load.late, load.postponed);
    if load.stretch_permille <= 1000 {
        return format!("at their intervals; {counts}");
    }
    let factor = f64::from(load.stretch_permille) / 1000.0;
    format!("too many: their intervals are stretched by {factor:.2}; {counts}")
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
