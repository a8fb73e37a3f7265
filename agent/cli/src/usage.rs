//! Turns the parser's view of a mistake into ours: one line, exit status 2.

use std::{ffi::OsString, io::Write, process::ExitCode};

use clap::{Parser, error::ErrorKind};

use crate::args::Cli;

const USAGE: u8 = 2;

/// Parses the arguments; help and mistakes are printed, and the status to end with is the error.
pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Cli, ExitCode> {
    Cli::try_parse_from(arguments).map_err(|error| report(&error))
}

#[allow(clippy::wildcard_enum_match_arm)] // Of some twenty kinds three are no mistakes, and clap may add more.
fn report(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody is left to be told when this fails.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(USAGE)
        }
        _ => {
            let _ = writeln!(std::io::stderr(), "{}", one_line(&error.render().to_string()));
            ExitCode::from(USAGE)
        }
    }
}

/// clap's paragraphs (what, tips, usage) as "what; tip; see `ringmesh … --help`".
fn one_line(text: &str) -> String {
    let (message, usage) = text.split_once("Usage:").unwrap_or((text, ""));
    let message = message.split("For more information").next().unwrap_or(message);
    let paragraphs: Vec<String> = message
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|paragraph| !paragraph.is_empty())
        .collect();
    let command: Vec<&str> =
        usage.split_whitespace().take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase())).collect();
    let command = if command.is_empty() { "ringmesh".to_owned() } else { command.join(" ") };
    format!("{}; see `{command} --help`", paragraphs.join("; "))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn mistake(arguments: &[&str]) -> String {
        let error = Cli::try_parse_from(arguments).expect_err("a mistake");
        one_line(&error.render().to_string())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn mistakes_take_one_line() {
        assert_eq!(
            mistake(&["ringmesh", "host", "show"]),
            "error: the following required arguments were not provided: <HOST>; see `ringmesh host show --help`"
        );
        let unknown = mistake(&["ringmesh", "hots"]);
        assert!(unknown.contains("a similar subcommand exists: 'host'"), "{unknown}");
        assert!(!unknown.contains('\n') && unknown.ends_with("see `ringmesh --help`"), "{unknown}");
        let value = mistake(&["ringmesh", "host", "list", "-o", "xml"]);
        assert!(value.contains("invalid value 'xml'") && !value.contains('\n'), "{value}");
    }
}
