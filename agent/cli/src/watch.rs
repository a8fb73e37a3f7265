//! A list that goes on: redrawn in place on a terminal, changed rows as lines elsewhere, documents as they come.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use ringmesh_proto::v1::{Source, change::Kind};
use tokio::time::{Instant, MissedTickBehavior};
use tonic::Streaming;

use crate::{
    context::Context,
    error::CliError,
    natural::Natural,
    output::{
        Format, Printer, Resource,
        document::Message,
        missing, note,
        style::Style,
        table::{Cell, Column, Table, column, printable},
    },
};

/// Changes within this time are drawn together.
const REDRAW: Duration = Duration::from_millis(100);
/// Ages move even when nothing changes.
const REFRESH: Duration = Duration::from_secs(1);

/// What a watch of lists sends.
pub(crate) trait Watched: Message + Default + 'static {
    /// What is in the list.
    type Item: Resource;

    /// The change, the object that changed, and the source that was lost or found.
    fn split(self) -> (Kind, Option<Self::Item>, Option<Source>);
}

/// Shows the list until the stream ends, which is an error: a watch has no end.
pub(crate) async fn list<W: Watched>(context: &Context, stream: Streaming<W>) -> Result<(), CliError> {
    let printer = &context.printer;
    match printer.format {
        Format::Json | Format::Yaml => documents(context, stream).await,
        Format::Table | Format::Wide if printer.terminal => screen(context, stream).await,
        Format::Table | Format::Wide => lines(context, stream).await,
    }
}

/// Each message as a document of its own.
pub(crate) async fn documents<M: Message + Default + 'static>(
    context: &Context,
    mut stream: Streaming<M>,
) -> Result<(), CliError> {
    while let Some(message) = next(context, &mut stream).await? {
        context.printer.stream_document(&message)?;
    }
    Err(context.stream_ended())
}

/// The next message, if the stream goes on.
pub(crate) async fn next<M>(context: &Context, stream: &mut Streaming<M>) -> Result<Option<M>, CliError> {
    stream.message().await.map_err(|status| context.status(&status))
}

async fn lines<W: Watched>(context: &Context, mut stream: Streaming<W>) -> Result<(), CliError> {
    let printer = &context.printer;
    let columns: Vec<Column> = [column("CHANGE")].into_iter().chain(W::Item::COLUMNS.iter().copied()).collect();
    let mut table = Table::new(&columns, printer.format == Format::Wide);
    // States to come must not move the columns.
    ["STATE", "VERDICT"].iter().for_each(|name| table.reserve(name, "critical".len()));
    let mut first = Some(BTreeMap::new());
    while let Some(message) = next(context, &mut stream).await? {
        let (kind, item, source) = message.split();
        if let Some(source) = source {
            note(&news_of(&source, W::Item::PLURAL));
        }
        match (&mut first, item) {
            (Some(items), Some(item)) => {
                items.insert(item.key(), item);
            }
            (None, Some(item)) => {
                let row = table.render_row(row(kind, &item), printer.color);
                printer.write(&row)?;
            }
            (_, None) => {}
        }
        if kind == Kind::Synced
            && let Some(items) = first.take()
        {
            let items: Vec<_> = items.into_values().collect();
            let rows: Vec<_> = items.iter().map(|item| row(Kind::Present, item)).collect();
            let mut whole = table.clone();
            rows.into_iter().for_each(|row| whole.push(row));
            printer.write(&whole.render(printer.color, None))?;
            // Lines that follow keep to these columns.
            for item in &items {
                table.render_row(row(Kind::Present, item), false);
            }
        }
    }
    Err(context.stream_ended())
}

fn row<R: Resource>(kind: Kind, item: &R) -> Vec<Cell> {
    let style = if kind == Kind::Removed { Style::Dim } else { Style::Plain };
    std::iter::once(Cell::styled(kind.as_str_name(), style)).chain(item.cells(Timestamp::now())).collect()
}

fn news_of(source: &Source, plural: &str) -> String {
    if source.reached { format!("{} answers again", printable(&source.host)) } else { missing(source, plural) }
}

async fn screen<W: Watched>(context: &Context, mut stream: Streaming<W>) -> Result<(), CliError> {
    let printer = &context.printer;
    let mut state = State::<W::Item>::default();
    let mut screen = Screen::default();
    let mut drawn = Instant::now();
    let mut dirty = false;
    let mut tick = tokio::time::interval(REDRAW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = next(context, &mut stream) => match message? {
                Some(message) => dirty |= state.apply(message.split()),
                None => return Err(context.stream_ended()),
            },
            _ = tick.tick() => if state.synced && (dirty || drawn.elapsed() >= REFRESH) {
                printer.write(&screen.redraw(&state.text(printer), printer.height()))?;
                (dirty, drawn) = (false, Instant::now());
            }
        }
    }
}

/// What a watch has told so far.
struct State<R> {
    items: BTreeMap<Natural, R>,
    /// By host, those that do not answer.
    missing: BTreeMap<String, Source>,
    synced: bool,
}

impl<R> Default for State<R> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), missing: BTreeMap::new(), synced: false }
    }
}

impl<R: Resource> State<R> {
    /// Whether there is something to draw.
    fn apply(&mut self, (kind, item, source): (Kind, Option<R>, Option<Source>)) -> bool {
        if let Some(source) = source {
            self.missing.remove(&source.host);
            if !source.reached {
                self.missing.insert(source.host.clone(), source);
            }
        }
        match (kind, item) {
            (Kind::Removed, Some(item)) => drop(self.items.remove(&item.key())),
            (Kind::Present | Kind::Updated | Kind::Synced | Kind::Bookmark, Some(item)) => {
                drop(self.items.insert(item.key(), item))
            }
            (_, None) => {}
        }
        self.synced |= kind == Kind::Synced;
        true
    }

    fn text(&self, printer: &Printer) -> String {
        let now = Timestamp::now();
        let mut table = printer.table::<R>();
        self.items.values().for_each(|item| table.push(item.cells(now)));
        let mut text = table.render(printer.color, printer.width());
        if self.items.is_empty() {
            text = format!("no {}\n", R::PLURAL);
        }
        for source in self.missing.values() {
            let line: String = missing(source, R::PLURAL).chars().take(printer.width().unwrap_or(usize::MAX)).collect();
            text += &Style::Warn.paint(&line, printer.color);
            text.push('\n');
        }
        text
    }
}

/// The part of a terminal that is drawn anew each time.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    lines: usize,
}

impl Screen {
    /// What to write so that `text` stands where the last one stood. What does not fit is counted instead: lines that
    /// have scrolled away cannot be reached again.
    pub(crate) fn redraw(&mut self, text: &str, height: Option<usize>) -> String {
        let mut out = String::new();
        if self.lines > 0 {
            out += &format!("\x1b[{}A", self.lines);
        }
        out += "\r\x1b[J";
        let count = text.lines().count();
        let room = height.unwrap_or(24).saturating_sub(1).max(2);
        if count <= room {
            self.lines = count;
            return out + text;
        }
        for line in text.lines().take(room - 1) {
            out += line;
            out.push('\n');
        }
        self.lines = room;
        out + &format!("… {} more lines; a larger terminal shows them\n", count + 1 - room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_goes_back_over_what_it_drew() {
        let mut screen = Screen::default();
        assert_eq!(screen.redraw("a\nb\n", Some(10)), "\r\x1b[Ja\nb\n");
        assert_eq!(screen.redraw("c\n", Some(10)), "\x1b[2A\r\x1b[Jc\n");
        let cut = screen.redraw("1\n2\n3\n4\n5\n", Some(4));
        assert_eq!(cut, "\x1b[1A\r\x1b[J1\n2\n… 3 more lines; a larger terminal shows them\n");
        assert!(screen.redraw("x\n", Some(4)).starts_with("\x1b[3A"));
    }

    #[test]
    fn removed_objects_and_reached_sources_go() {
        use ringmesh_proto::v1::Host;

        let host = |name: &str| Some(Host { name: name.into(), ..Default::default() });
        let source = |reached| Some(Source { host: "h3".into(), reached, error: "late".into(), ..Default::default() });
        let mut state = State::default();
        state.apply((Kind::Present, host("h1"), None));
        state.apply((Kind::Present, host("h2"), source(false)));
        assert!(!state.synced && state.missing.len() == 1);
        state.apply((Kind::Synced, None, None));
        state.apply((Kind::Removed, host("h1"), source(true)));
        assert!(state.synced && state.missing.is_empty());
        assert_eq!(state.items.values().map(|host| host.name.as_str()).collect::<Vec<_>>(), ["h2"]);
    }
}
