//! `ringmesh link`

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use ringmesh_proto::v1::{
    Link, ListLinksRequest, Source, SwitchUplinkRequest, WatchLinksRequest, WatchLinksResponse,
    agent_client::AgentClient, change::Kind, links_client::LinksClient,
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
    /// Say over which uplink a host is to send.
    #[command(after_help = "\
What goes over one uplink only (records, digests, syncs, answers) goes over this one from now on, however it does; with --manual only \
as long as it is well. Verdicts and votes go over both uplinks all the same. The order holds until `none` or until the host's agent \
ends; `ringmesh host show HOST` shows it. The host itself must be asked.

Examples:
  ringmesh --host h2 link force h2 b
  ringmesh --host h2 link force h2 b --manual
  ringmesh --host h2 link force h2 none")]
    Force(ForceArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ForceArgs {
    /// Name or id.
    host: String,
    /// Which one; none ends the order.
    uplink: Choice,
    /// As long as it is well, not however it does.
    #[arg(long)]
    manual: bool,
}

/// An uplink, or the better one.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Choice {
    A,
    B,
    None,
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
    let args = match command {
        LinkCommand::List(args) => args,
        LinkCommand::Force(args) => return force(context, args).await,
    };
    let mut client = client!(context, LinksClient);
    if args.watch.watch {
        let stream = context.call(client.watch_links(WatchLinksRequest {})).await?;
        return watch::list(context, stream).await;
    }
    let request = ListLinksRequest { host: args.on.unwrap_or_default() };
    let answer = context.call(client.list_links(request)).await?;
    context.printer.list(answer.links)
}

async fn force(context: &Context, args: ForceArgs) -> Result<(), CliError> {
    let mut client = client!(context, AgentClient);
    let uplink = match args.uplink {
        Choice::A => "a",
        Choice::B => "b",
        Choice::None => "none",
    };
    let request = SwitchUplinkRequest { host: args.host, uplink: uplink.into(), manual: args.manual };
    context.call(client.switch_uplink(request)).await.map(drop)
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
        column("VIA"),
        column("NOTE"),
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
            Cell::styled(via(self), Style::Warn),
            Cell::styled(time::restoring(now, self.restored_at.as_ref()), Style::Warn),
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

/// Of a pair that does not hear each other: by whom messages go.
fn via(link: &Link) -> &str {
    match (link.pair_broken, link.via.as_str()) {
        (false, _) => "",
        (true, "") => "nobody",
        (true, host) => host,
    }
}
