//! The commands, one file a noun: arguments, the question to the agent, and how the answer looks.

use std::{future::Future, io::Write, process::ExitCode};

use self::store::StoreCommand;
use crate::{
    args::{Cli, Command},
    context::Context,
    error::CliError,
    output::Format,
};

pub(crate) mod agent;
pub(crate) mod arming;
pub(crate) mod ca;
pub(crate) mod cell;
pub(crate) mod cert;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod container;
pub(crate) mod event;
mod history;
pub(crate) mod host;
pub(crate) mod init;
pub(crate) mod join;
pub(crate) mod lab;
pub(crate) mod leave;
pub(crate) mod link;
pub(crate) mod operation;
pub(crate) mod ring;
pub(crate) mod service;
pub(crate) mod store;
pub(crate) mod token;
pub(crate) mod version;
pub(crate) mod zone;

/// Runs one command to its exit status.
pub(crate) fn run(cli: Cli) -> ExitCode {
    let Err(error) = dispatch(cli) else { return ExitCode::SUCCESS };
    if !error.is_silent() {
        // If standard error is closed, the status still tells.
        let _ = writeln!(std::io::stderr(), "error: {error}");
    }
    error.exit_code()
}

fn dispatch(cli: Cli) -> Result<(), CliError> {
    let context = Context::new(cli.global);
    match cli.command {
        Command::Agent(args) => agent::run(&args),
        Command::Store(StoreCommand::Serve(args)) => store::serve(args),
        Command::Store(StoreCommand::Restore(args)) => store::restore(args),
        Command::Store(StoreCommand::Status) => ask(store::status(&context)),
        Command::Store(StoreCommand::Snapshot(args)) => ask(store::snapshot(&context, args)),
        Command::Init(args) => init::run(args),
        Command::Join(args) => join::run(args),
        Command::Lab(command) => lab::run(&context.printer, command),
        Command::Completion(args) => completion::run(&context.printer, &args),
        Command::Cert(command) => ask(cert::run(&context, command)),
        Command::Ca(command) => ask(ca::run(&context, command)),
        Command::Token(command) => ask(token::run(&context, command)),
        Command::Leave(args) => ask(leave::run(&context, &args)),
        Command::Host(command) => ask(host::run(&context, command)),
        Command::Zone(command) => ask(zone::run(&context, command)),
        Command::Ring(command) => ask(ring::run(&context, command)),
        Command::Link(command) => ask(link::run(&context, command)),
        Command::Container(command) => ask(container::run(&context, command)),
        Command::Cell(command) => ask(cell::run(&context, command)),
        Command::Service(command) => ask(service::run(&context, command)),
        Command::Operation(command) => ask(operation::run(&context, command)),
        Command::Disarm(args) => ask(arming::disarm(&context, args)),
        Command::Arm(args) => ask(arming::arm(&context, args)),
        Command::Event(command) => ask(event::run(&context, command)),
        Command::Config(command) => ask(config::run(&context, command)),
        Command::Version => ask(version::run(context)),
    }
}

/// A runtime for one question. The daemon and the lab make their own.
fn ask(question: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start ({error}): too many open files?")))?;
    let result = runtime.block_on(question);
    // A name that is still being looked up must not keep us.
    runtime.shutdown_background();
    result
}

/// An answer that lacks what it is for.
fn empty_answer() -> CliError {
    CliError::Failed("the agent's answer is empty: is it of another version? Compare with `ringmesh version`".into())
}

/// The fields that are to be asked for: those of the table when that is printed, else all.
fn fields(context: &Context, of_table: &[&str]) -> Option<prost_types::FieldMask> {
    let paths = of_table.iter().map(|field| (*field).to_owned()).collect();
    (context.printer.format == Format::Table).then_some(prost_types::FieldMask { paths })
}

/// "tier=web,zone=b"
fn labels_text(labels: &std::collections::BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
