//! Standard output in the four formats: a table, a wider one, JSON and YAML.
//!
//! It knows of resources only what [`Resource`] says; it asks nobody anything.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use jiff::Timestamp;
use ringmesh_proto::v1::Source;
use serde::Serialize;

pub(crate) mod details;
pub(crate) mod document;
pub(crate) mod drawing;
pub(crate) mod pages;
pub(crate) mod style;
pub(crate) mod table;
pub(crate) mod time;

use details::Details;
use document::{Canonical, Message};
use table::{Cell, Column, Table};

use crate::{
    error::{CliError, one_line},
    natural::Natural,
};

/// `-o`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns.
    Table,
    /// More columns.
    Wide,
    /// One document: an array for lists.
    Json,
    /// The same as YAML.
    Yaml,
}

/// What lists show.
pub(crate) trait Resource: Message {
    /// For sentences, such as "containers".
    const PLURAL: &'static str;
    /// Those of the wide table included.
    const COLUMNS: &'static [Column];

    /// Identity and place in a list.
    fn key(&self) -> Natural;

    /// One for each of `COLUMNS`.
    fn cells(&self, now: Timestamp) -> Vec<Cell>;
}

/// The format, and what standard output is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    pub(crate) format: Format,
    pub(crate) color: bool,
    /// Standard output is a terminal.
    pub(crate) terminal: bool,
}

impl Printer {
    pub(crate) fn new(format: Format, no_color: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let color = style::wanted(no_color, terminal, |name| std::env::var(name).ok());
        Self { format, color, terminal }
    }

    /// Columns of the terminal; none if there is none.
    pub(crate) fn width(&self) -> Option<usize> {
        self.terminal.then(size).flatten().map(|(width, _)| width)
    }

    /// Lines of the terminal; none if there is none.
    pub(crate) fn height(&self) -> Option<usize> {
        self.terminal.then(size).flatten().map(|(_, height)| height)
    }

    /// An empty table of `R`.
    pub(crate) fn table<R: Resource>(&self) -> Table {
        Table::new(R::COLUMNS, self.format == Format::Wide)
    }

    /// A list in the order of its keys.
    pub(crate) fn list<R: Resource>(&self, mut items: Vec<R>) -> Result<(), CliError> {
        items.sort_by_cached_key(Resource::key);
        self.list_in_order(&items)
    }

    /// A list as it comes.
    pub(crate) fn list_in_order<R: Resource>(&self, items: &[R]) -> Result<(), CliError> {
        match self.format {
            Format::Json | Format::Yaml => {
                let items: Vec<Canonical> = items.iter().map(Canonical::of).collect();
                self.document(&items)
            }
            Format::Table | Format::Wide if items.is_empty() => {
                note(&format!("no {}", R::PLURAL));
                Ok(())
            }
            Format::Table | Format::Wide => {
                let mut table = self.table::<R>();
                for item in items {
                    table.push(item.cells(Timestamp::now()));
                }
                self.write(&table.render(self.color, None))
            }
        }
    }

    /// One message: as a document, or as the text that `describe` makes.
    pub(crate) fn message<M: Message>(&self, message: &M, describe: impl FnOnce(&M) -> String) -> Result<(), CliError> {
        self.value(&Canonical::of(message), || describe(message))
    }

    /// One object, its fields below each other.
    pub(crate) fn details<M: Message>(
        &self,
        message: &M,
        describe: impl FnOnce(&M, &mut Details),
    ) -> Result<(), CliError> {
        self.message(message, |message| {
            let mut details = Details::default();
            describe(message, &mut details);
            details.render(self.color)
        })
    }

    /// Any value: as a document, or as the text that `describe` makes.
    pub(crate) fn value(&self, value: &impl Serialize, describe: impl FnOnce() -> String) -> Result<(), CliError> {
        match self.format {
            Format::Json | Format::Yaml => self.document(value),
            Format::Table | Format::Wide => self.write(&describe()),
        }
    }

    /// One of many documents: a line of JSON, or a part of a YAML stream.
    pub(crate) fn stream_document<M: Message>(&self, message: &M) -> Result<(), CliError> {
        let value = Canonical::of(message);
        let text = match self.format {
            Format::Yaml => format!("---\n{}", document::yaml(&value)?),
            Format::Json | Format::Table | Format::Wide => document::json_line(&value)?,
        };
        self.write(&text)
    }

    /// Writes and flushes.
    pub(crate) fn write(&self, text: &str) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    fn document(&self, value: &impl Serialize) -> Result<(), CliError> {
        let text = match self.format {
            Format::Yaml => document::yaml(value)?,
            Format::Json | Format::Table | Format::Wide => document::json(value)?,
        };
        self.write(&text)
    }
}

fn size() -> Option<(usize, usize)> {
    let (width, height) = terminal_size::terminal_size()?;
    // A terminal that does not know its size says 0.
    (width.0 > 0 && height.0 > 0).then_some((width.0.into(), height.0.into()))
}

/// A line for people, on standard error, so that what scripts read stays clean.
pub(crate) fn note(text: &str) {
    // If nobody reads it, nobody misses it.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Says which hosts an answer lacks.
pub(crate) fn note_missing(sources: &[Source], plural: &str) {
    for source in sources.iter().filter(|source| !source.reached) {
        note(&missing(source, plural));
    }
}

/// "h3 did not answer: …; its containers are missing"
pub(crate) fn missing(source: &Source, plural: &str) -> String {
    let why = if source.error.is_empty() { "no reason given" } else { &source.error };
    let who = if source.host.is_empty() { format!("zone {}", source.zone) } else { source.host.clone() };
    format!("{} did not answer: {}; its {plural} are missing", one_line(&who), one_line(why))
}
