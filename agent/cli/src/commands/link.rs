//! `ringmesh link`

use clap::{Args, Subcommand};
use jiff::Timestamp;
use ringmesh_proto::v1::{
    Link, ListLinksRequest, Source, WatchLinksRequest, WatchLinksResponse, change::Kind, links_client::LinksClient,
};

use crate::{
    args,
    context::{Context, client},
    error::CliError,
    natural::Natural,
    output::{
        Resource,
        style::Style,
        table::{Cell, Column, column, wide},
        time,
    },
    watch::{self, Watched},
};

#[derive(Debug, Subcommand)]
pub(crate) enum LinkCommand {
    /// List the links, each as the host at its one end measures it.
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  ringmesh link list --on h1
  ringmesh link list --watch"
    )]
    List(ListArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only those that this host measures.
    #[arg(long, value_name = "HOST", conflicts_with = "watch")]
    on: Option<String>,
    #[command(flatten)]
    watch: args::Watch,
}

pub(crate) async fn run(context: &Context, command: LinkCommand) -> Result<(), CliError> {
    let LinkCommand::List(args) = command;
    let mut client = client!(context, LinksClient);
    if args.watch.watch {
        let stream = context.call(client.watch_links(WatchLinksRequest {})).await?;
        return watch::list(context, stream).await;
    }
    let request = ListLinksRequest { host: args.on.unwrap_or_default() };
    let answer = context.call(client.list_links(request)).await?;
    context.printer.list(answer.links)
}

impl Resource for Link {
    const PLURAL: &'static str = "links";
    const COLUMNS: &'static [Column] = &[
        column("FROM"),
        column("TO"),
        column("UPLINK"),
        column("ROLE"),
        column("STATE"),
        column("RTT"),
        column("LOSS"),
        wide("NAME"),
        wide("OBSERVED"),
    ];

    fn key(&self) -> Natural {
        Natural::of(&[&self.from, &self.uplink, &self.to, &self.name])
    }

    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        let rtt = if self.rtt_us == 0 {
            String::new()
        } else {
            time::duration(std::time::Duration::from_micros(self.rtt_us.into()))
        };
        let loss = if self.loss_percent == 0 { Style::Plain } else { Style::Warn };
        vec![
            Cell::new(&self.from),
            Cell::new(&self.to),
            Cell::new(&self.uplink),
            Cell::new(&self.role),
            Cell::state(self.state().as_str_name()),
            Cell::new(rtt),
            Cell::styled(format!("{}%", self.loss_percent), loss),
            Cell::new(&self.name),
            Cell::new(time::age(now, self.observed_at.as_ref())),
        ]
    }
}

impl Watched for WatchLinksResponse {
    type Item = Link;

    fn split(self) -> (Kind, Option<Link>, Option<Source>) {
        (self.change(), self.link, None)
    }
}
