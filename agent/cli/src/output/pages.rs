//! Lists that come in pages: each is printed as it comes, so that a list of any length needs the memory of one page.

use jiff::Timestamp;
use ringmesh_proto::v1::Source;

use super::{
    Format, Printer, Resource,
    document::{self, Canonical},
    note_missing,
    table::Table,
};
use crate::error::CliError;

/// A list of which some pages have been printed. One of a single page is in natural order, as every list; a longer one in
/// the order in which it comes.
pub(crate) struct Pages<'a> {
    printer: &'a Printer,
    /// Of the pages before; none before the first.
    table: Option<Table>,
    is_begun: bool,
    missing: Vec<Source>,
}

impl<'a> Pages<'a> {
    pub(crate) fn new(printer: &'a Printer) -> Self {
        Self { printer, table: None, is_begun: false, missing: Vec::new() }
    }

    /// Prints one page.
    pub(crate) fn print<R: Resource>(
        &mut self,
        items: Vec<R>,
        sources: Vec<Source>,
        is_last: bool,
    ) -> Result<(), CliError> {
        self.missing.extend(sources.into_iter().filter(|source| !source.reached));
        if is_last && !self.is_begun {
            self.printer.list(items)?;
        } else {
            match self.printer.format {
                Format::Json => self.json(&items, is_last)?,
                Format::Yaml if items.is_empty() => {}
                Format::Yaml => self.printer.write(&document::yaml(&canonical(&items))?)?,
                Format::Table | Format::Wide => self.rows(&items)?,
            }
        }
        self.is_begun = true;
        if is_last {
            note_missing(&self.missing, R::PLURAL);
        }
        Ok(())
    }

    /// Part of an array that looks as if it had come at once.
    fn json<R: Resource>(&mut self, items: &[R], is_last: bool) -> Result<(), CliError> {
        let mut text = String::new();
        if !items.is_empty() {
            let array = document::json(&canonical(items))?;
            text += if self.is_begun { ",\n" } else { "[\n" };
            text += array.trim_start_matches("[\n").trim_end_matches("\n]\n");
        }
        if is_last {
            text += "\n]\n";
        }
        self.printer.write(&text)
    }

    /// Columns are as wide as those of the first page, or wider.
    fn rows<R: Resource>(&mut self, items: &[R]) -> Result<(), CliError> {
        let (now, color) = (Timestamp::now(), self.printer.color);
        let mut text = String::new();
        let table = match &mut self.table {
            Some(table) => table,
            None => {
                let table = self.table.insert(self.printer.table::<R>());
                items.iter().for_each(|item| drop(table.render_row(item.cells(now), false)));
                text += &table.render_header(color);
                table
            }
        };
        items.iter().for_each(|item| text += &table.render_row(item.cells(now), color));
        self.printer.write(&text)
    }
}

fn canonical<R: Resource>(items: &[R]) -> Vec<Canonical> {
    items.iter().map(Canonical::of).collect()
}
