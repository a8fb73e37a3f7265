//! `ringmesh cell`

use clap::{Args, Subcommand};
use jiff::Timestamp;
use ringmesh_proto::v1::{Cell, CellMember, GetCellRequest, ListCellsRequest, cells_client::CellsClient};

use super::empty_answer;
use crate::{
    context::{Context, client},
    error::CliError,
    natural::Natural,
    output::{
        Resource,
        details::Details,
        note_missing,
        style::Style,
        table::{self, Column, column, wide},
        time,
    },
};

#[derive(Debug, Subcommand)]
pub(crate) enum CellCommand {
    /// List the cells of all hosts.
    #[command(
        visible_alias = "ls",
        after_help = "\
A cell is a pool of gossip of at most 63 containers of one host and its agent, which watch each other by SWIM. A member
answers only while there is evidence that its container lives: its process runs, is not frozen, and gives signs of life.
The cell of a service has up to three containers of each of several hosts, and is listed by each of them.

Examples:
  ringmesh cell list --on h3"
    )]
    List(ListArgs),
    /// Show a cell and its members.
    #[command(after_help = "\
Examples:
  ringmesh cell show h3/0")]
    Show(ShowArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only those on this host.
    #[arg(long, value_name = "HOST")]
    on: Option<String>,
    /// Only those of this zone [default: of all].
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// The host and the cell's number there.
    #[arg(value_name = "HOST/NUMBER", value_parser = address)]
    cell: (String, u32),
}

fn address(text: &str) -> Result<(String, u32), &'static str> {
    let parts = text.rsplit_once('/').filter(|(host, _)| !host.is_empty());
    let address = parts.and_then(|(host, number)| Some((host.to_owned(), number.parse().ok()?)));
    address.ok_or("expected HOST/NUMBER, such as h3/0; see `ringmesh cell list`")
}

pub(crate) async fn run(context: &Context, command: CellCommand) -> Result<(), CliError> {
    let mut client = client!(context, CellsClient);
    match command {
        CellCommand::List(ListArgs { on, zone }) => {
            let request = ListCellsRequest { host: on.unwrap_or_default(), zone: zone.unwrap_or_default() };
            let answer = context.call(client.list_cells(request)).await?;
            context.printer.list(answer.cells)?;
            note_missing(&answer.sources, Cell::PLURAL);
            Ok(())
        }
        CellCommand::Show(ShowArgs { cell: (host, number) }) => {
            let answer = context.call(client.get_cell(GetCellRequest { host, number })).await;
            let answer = answer.map_err(|error| error.or_see("ringmesh cell list"))?;
            context.printer.details(&answer.cell.ok_or_else(empty_answer)?, describe)
        }
    }
}

impl Resource for Cell {
    const PLURAL: &'static str = "cells";
    const COLUMNS: &'static [Column] = &[
        column("HOST"),
        column("NUMBER"),
        column("SERVICE"),
        column("MEMBERS"),
        column("ALIVE"),
        column("SUSPECT"),
        column("DOWN"),
        column("FROZEN"),
        wide("HASH"),
    ];

    fn key(&self) -> Natural {
        Natural::of(&[&self.host, &self.number.to_string()])
    }

    fn cells(&self, _: Timestamp) -> Vec<table::Cell> {
        let count =
            |count: u32, style| table::Cell::styled(count.to_string(), if count > 0 { style } else { Style::Plain });
        vec![
            table::Cell::new(&self.host),
            table::Cell::new(self.number.to_string()),
            table::Cell::new(&self.service),
            table::Cell::new(self.size.to_string()),
            table::Cell::new(self.alive.to_string()),
            count(self.suspect, Style::Warn),
            count(self.down, Style::Bad),
            count(self.frozen, Style::Warn),
            table::Cell::new(hash(self)),
        ]
    }
}

fn describe(cell: &Cell, out: &mut Details) {
    out.add("Host", &cell.host);
    out.add("Number", cell.number.to_string());
    out.add("Service", &cell.service);
    out.add(
        "Members",
        format!(
            "{}: {} alive, {} suspect, {} down, {} frozen",
            cell.size, cell.alive, cell.suspect, cell.down, cell.frozen
        ),
    );
    out.add("Hash", hash(cell));
    for member in &cell.members {
        let at = if member.host.is_empty() { String::new() } else { format!("at {}", member.host) };
        let name: Vec<&str> = [member.container.as_str(), &at].into_iter().filter(|part| !part.is_empty()).collect();
        out.add("Member", format!("{}: {}", name.join(" "), opinion(member)));
    }
}

/// Of a service's cell there is none.
fn hash(cell: &Cell) -> String {
    if cell.service.is_empty() { format!("{:016x}", cell.hash) } else { String::new() }
}

/// "alive, slot 3, generation 1".
fn opinion(member: &CellMember) -> String {
    let silent =
        member.silent_since.as_ref().map(|since| format!(", silent for {}", time::age(Timestamp::now(), Some(since))));
    let state = member.state().as_str_name();
    let inside = if member.inside { " by its member inside" } else { "" };
    let (silent, slot) = (silent.unwrap_or_default(), member.slot);
    format!("{state}{inside}{silent}, slot {slot}, generation {}", member.generation)
}

/// What its cell takes a container for: "cell 0: alive, slot 3, generation 1".
pub(super) fn membership(member: Option<&CellMember>) -> String {
    member.map_or_else(String::new, |member| format!("{}: {}", member.cell, opinion(member)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_named_by_its_host_and_number() {
        assert_eq!(address("h3/12"), Ok(("h3".into(), 12)));
        for bad in ["h3", "/1", "h3/", "h3/x", "h3/-1"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
