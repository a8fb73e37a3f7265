//! `ringmesh ring`

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use ringmesh_proto::v1::{
    GetPathRequest, Link, ListRingsRequest, ListRingsResponse, MeshPath, Ring, WatchLinksRequest, WatchLinksResponse,
    WatchRingsRequest, WatchRingsResponse, change::Kind, links_client::LinksClient, rings_client::RingsClient,
};
use tokio::time::{Duration, Instant, MissedTickBehavior};

use crate::{
    args,
    context::{Context, client},
    error::CliError,
    output::{
        Format, Printer,
        drawing::{Canvas, draw},
        table::{Cell, Table, column, printable},
        time,
    },
    watch::{self, Screen},
};

/// Of output that is no terminal.
const DEFAULT_WIDTH: usize = 100;
/// Changes within this time are drawn together.
const REDRAW: Duration = Duration::from_millis(100);
/// On a terminal round trips move even when nothing else changes.
const REFRESH: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub(crate) enum RingCommand {
    /// Draw both rings and list the chords.
    #[command(after_help = "\
Ring A runs over uplink A, ring B over uplink B; each is a circle of all hosts that are alive or suspected. Between two hosts stands \
the state of their link:
  h1 ─ 210µs ─ h2   up, with its round trip
  h1 ~ 2.1ms ~ h2   degraded
  h1 ─╳─ h2         down
  h1 ┄┄┄ h2         not measured
Rings of more than twelve hosts leave the round trips out; -o wide shows them.

Examples:
  ringmesh ring show
  ringmesh ring show --watch")]
    Show(args::Watch),
    /// Find the shortest path between two hosts over ring links and chords.
    #[command(after_help = "\
The path has the fewest links, of those the fewest degraded ones, of those the least round trip. Links that are down, and \
hosts that are, are not passed. UPLINK is the one over which FROM sends.

Examples:
  ringmesh ring path h1 h9
  ringmesh ring path h1 h9 --avoid h4 --avoid h7")]
    Path(PathArgs),
}

#[derive(Args, Debug)]
pub(crate) struct PathArgs {
    /// Name or id of the host where it begins.
    from: String,
    /// Name or id of the host where it ends.
    to: String,
    /// Only paths that do not touch this host; may be given more than once.
    #[arg(long, value_name = "HOST")]
    avoid: Vec<String>,
}

pub(crate) async fn run(context: &Context, command: RingCommand) -> Result<(), CliError> {
    match command {
        RingCommand::Show(args::Watch { watch: true }) => show_on(context).await,
        RingCommand::Show(args::Watch { watch: false }) => {
            let mut client = client!(context, RingsClient);
            let answer = context.call(client.list_rings(ListRingsRequest {})).await?;
            context.printer.message(&answer, |answer| draw(answer, canvas(&context.printer)))
        }
        RingCommand::Path(PathArgs { from, to, avoid }) => {
            let mut client = client!(context, RingsClient);
            let answer = context.call(client.get_path(GetPathRequest { from, to, avoid })).await;
            let answer = answer.map_err(|error| error.or_see("ringmesh host list` and `ringmesh link list"))?;
            context.printer.message(&answer, |answer| path(answer, context.printer.color))
        }
    }
}

/// "h1 to h9: 2 links, 410µs", and each link.
fn path(answer: &MeshPath, color: bool) -> String {
    let (from, to) = (printable(&answer.from), printable(&answer.to));
    let time = |us: u32| if us == 0 { String::new() } else { time::duration(Duration::from_micros(us.into())) };
    let count = match answer.links.len() {
        0 => return format!("{from} to itself: no link\n"),
        1 => "1 link".to_owned(),
        more => format!("{more} links"),
    };
    let all = if answer.rtt_us == 0 { "not measured".to_owned() } else { time(answer.rtt_us) };
    let columns = ["FROM", "TO", "UPLINK", "ROLE", "STATE", "RTT", "LOSS"].map(column);
    let mut table = Table::new(&columns, false);
    for link in &answer.links {
        table.push(vec![
            Cell::new(&link.from),
            Cell::new(&link.to),
            Cell::new(&link.uplink),
            Cell::new(&link.role),
            Cell::state(link.state().as_str_name()),
            Cell::new(time(link.rtt_us)),
            Cell::new(format!("{}%", link.loss_percent)),
        ]);
    }
    format!("{from} to {to}: {count}, {all}\n{}", table.render(color, None))
}

fn canvas(printer: &Printer) -> Canvas {
    Canvas {
        color: printer.color,
        width: printer.width().unwrap_or(DEFAULT_WIDTH),
        wide: printer.format == Format::Wide,
    }
}

/// Rings and links are two watches; the picture is of both.
async fn show_on(context: &Context) -> Result<(), CliError> {
    let mut rings_client = client!(context, RingsClient);
    let mut links_client = client!(context, LinksClient);
    let mut rings = context.call(rings_client.watch_rings(WatchRingsRequest {})).await?;
    let mut links = context.call(links_client.watch_links(WatchLinksRequest {})).await?;
    let printer = &context.printer;
    let documents = matches!(printer.format, Format::Json | Format::Yaml);
    let mut picture = Picture::default();
    let mut screen = Screen::default();
    let mut drawn = Instant::now();
    let mut tick = tokio::time::interval(REDRAW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = watch::next(context, &mut rings) => {
                let message = message?.ok_or_else(|| context.stream_ended())?;
                if documents { printer.stream_document(&message)? } else { picture.ring(message) }
            }
            message = watch::next(context, &mut links) => {
                let message = message?.ok_or_else(|| context.stream_ended())?;
                if documents { printer.stream_document(&message)? } else { picture.link(message) }
            }
            _ = tick.tick() => if let Some(answer) = picture.news(printer.terminal && drawn.elapsed() >= REFRESH) {
                drawn = Instant::now();
                let text = draw(&answer, canvas(printer));
                let text = if printer.terminal { screen.redraw(&text, printer.height()) } else { text + "\n" };
                printer.write(&text)?;
            }
        }
    }
}

/// What both watches have told so far.
#[derive(Default)]
struct Picture {
    rings: BTreeMap<String, Ring>,
    links: BTreeMap<String, Link>,
    rings_synced: bool,
    links_synced: bool,
    /// As it was drawn last: round trips alone are no news.
    drawn: Option<Shape>,
}

/// The rings, and each link with its state.
type Shape = (Vec<Ring>, Vec<(String, i32)>);

impl Picture {
    fn ring(&mut self, message: WatchRingsResponse) {
        let kind = message.change();
        self.rings_synced |= kind == Kind::Synced;
        if let Some(ring) = message.ring {
            change(&mut self.rings, kind, ring.name.clone(), ring);
        }
    }

    fn link(&mut self, message: WatchLinksResponse) {
        let kind = message.change();
        self.links_synced |= kind == Kind::Synced;
        if let Some(link) = message.link {
            change(&mut self.links, kind, link.name.clone(), link);
        }
    }

    /// What to draw, if it differs from the last time or is to be drawn anyhow.
    fn news(&mut self, anyhow: bool) -> Option<ListRingsResponse> {
        if !self.rings_synced || !self.links_synced {
            return None;
        }
        let rings: Vec<Ring> = self.rings.values().cloned().collect();
        let states = self.links.iter().map(|(name, link)| (name.clone(), link.state)).collect();
        let now = Some((rings, states));
        if now == self.drawn && !anyhow {
            return None;
        }
        self.drawn = now;
        Some(ListRingsResponse {
            rings: self.rings.values().cloned().collect(),
            links: self.links.values().cloned().collect(),
            answered_by: String::new(),
        })
    }
}

fn change<T>(all: &mut BTreeMap<String, T>, kind: Kind, name: String, item: T) {
    match kind {
        Kind::Removed => drop(all.remove(&name)),
        Kind::Present | Kind::Updated | Kind::Synced | Kind::Bookmark => drop(all.insert(name, item)),
    }
}
