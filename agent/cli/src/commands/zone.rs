//! `ringmesh zone`

use clap::{Args, Subcommand};
use jiff::Timestamp;
use ringmesh_proto::v1::{
    GetZoneRequest, ListZonesRequest, Source, WatchZonesRequest, WatchZonesResponse, Zone, change::Kind,
    zones_client::ZonesClient,
};

use crate::{
    args,
    context::{Context, client},
    error::CliError,
    natural::Natural,
    output::{
        Resource,
        details::Details,
        style::Style,
        table::{Cell, Column, column, wide},
        time,
    },
    watch::{self, Watched},
};

#[derive(Debug, Subcommand)]
pub(crate) enum ZoneCommand {
    /// List the zones.
    #[command(
        visible_alias = "ls",
        after_help = "\
A zone is a pool of at most 512 hosts that gossip with each other. Three of them, its delegates, speak for it to the other
zones. Of a zone from which nothing comes is shown what it last said; its hosts are called down by nobody else.

Examples:
  ringmesh zone list
  ringmesh host list --zone east"
    )]
    List(args::Watch),
    /// Show all that is known of a zone.
    Show(ZoneArg),
}

#[derive(Args, Debug)]
pub(crate) struct ZoneArg {
    /// Name or id.
    zone: String,
}

pub(crate) async fn run(context: &Context, command: ZoneCommand) -> Result<(), CliError> {
    let mut client = client!(context, ZonesClient);
    match command {
        ZoneCommand::List(args::Watch { watch: false }) => {
            let answer = context.call(client.list_zones(ListZonesRequest {})).await?;
            context.printer.list(answer.zones)
        }
        ZoneCommand::List(args::Watch { watch: true }) => {
            let stream = context.call(client.watch_zones(WatchZonesRequest {})).await?;
            watch::list(context, stream).await
        }
        ZoneCommand::Show(ZoneArg { zone }) => {
            let zone = context.call(client.get_zone(GetZoneRequest { name: zone })).await;
            let zone = zone.map_err(|error| error.or_see("ringmesh zone list"))?;
            context.printer.details(&zone, describe)
        }
    }
}

impl Resource for Zone {
    const PLURAL: &'static str = "zones";
    const COLUMNS: &'static [Column] = &[
        column("NAME"),
        column("STATE"),
        column("HOSTS"),
        column("DOWN"),
        column("CONTAINERS"),
        column("SERVICES"),
        column("SCORE"),
        column("DELEGATES"),
        column("HEARD"),
        column("SINCE"),
        wide("ID"),
        wide("SUSPECT"),
        wide("ISOLATED"),
        wide("CRITICAL"),
    ];

    fn key(&self) -> Natural {
        Natural::of(&[&self.name])
    }

    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        let digest = self.digest.unwrap_or_default();
        let of = |good: u32, all: u32| {
            Cell::styled(format!("{good}/{all}"), if good < all { Style::Warn } else { Style::Plain })
        };
        let count =
            |count: u32, style: Style| Cell::styled(count.to_string(), if count > 0 { style } else { Style::Plain });
        vec![
            Cell::new(&self.name),
            Cell::state(self.state().as_str_name()),
            of(self.alive, self.hosts),
            count(self.down, Style::Bad),
            of(digest.running, digest.containers),
            of(digest.passing, digest.services),
            Cell::new(digest.score.to_string()),
            Cell::new(delegates(self)),
            Cell::new(time::age(now, self.observed_at.as_ref())),
            Cell::new(time::age(now, self.since.as_ref())),
            Cell::new(&self.id),
            count(self.suspect, Style::Warn),
            count(self.isolated, Style::Warn),
            count(digest.critical, Style::Bad),
        ]
    }
}

fn delegates(zone: &Zone) -> String {
    zone.delegates.iter().map(|delegate| delegate.name.as_str()).collect::<Vec<_>>().join(",")
}

impl Watched for WatchZonesResponse {
    type Item = Zone;

    fn split(self) -> (Kind, Option<Zone>, Option<Source>) {
        (self.change(), self.zone, None)
    }
}

fn describe(zone: &Zone, out: &mut Details) {
    let now = Timestamp::now();
    out.add("Name", &zone.name);
    out.add("Id", &zone.id);
    out.state("State", zone.state().as_str_name());
    out.add("Since", time::stamp_and_age(now, zone.since.as_ref()));
    out.add("Heard", time::stamp_and_age(now, zone.observed_at.as_ref()));
    out.add(
        "Hosts",
        format!(
            "{}: {} alive, {} suspect, {} isolated, {} down",
            zone.hosts, zone.alive, zone.suspect, zone.isolated, zone.down
        ),
    );
    out.digest(zone.digest.as_ref());
    for delegate in &zone.delegates {
        let addresses = [delegate.address.as_str(), delegate.address_b.as_str()];
        let addresses: Vec<&str> = addresses.into_iter().filter(|address| !address.is_empty()).collect();
        out.add("Delegate", format!("{} ({}) at {}", delegate.name, delegate.id, addresses.join(" and ")));
    }
    if zone.local {
        out.add("Answers", "yes, the host that you asked is in this zone");
    }
}
