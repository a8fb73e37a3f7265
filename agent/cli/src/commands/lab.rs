//! `ringmesh lab`

use std::{
    io::{IsTerminal, Write},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::ExitStatus,
};

use clap::{Args, Subcommand, ValueEnum};
use ringmesh_proto::Uplink;

use crate::{
    agentd::{
        config::{Mode, RepairMode},
        lab::{self, Fault, LabError, LabStatus, UpOptions},
    },
    error::CliError,
    output::{
        Format, Printer, note,
        table::{Cell, Table, column},
    },
};

#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Make a cluster in network namespaces; returns when it has converged.
    #[command(after_help = "\
Needs root. Every host is a network namespace with two uplinks and an agent of its own; its containers are real.

Examples:
  ringmesh lab up
  ringmesh lab up --hosts 32 --containers 2
  ringmesh lab up --hosts 9 --zones 3
  ringmesh host list && ringmesh ring show
  ringmesh lab down")]
    Up(UpArgs),
    /// Let another host join a lab while it runs.
    Add(LabArg),
    /// Show the hosts of a lab, with the pid of each agent.
    Status(LabArg),
    /// Take down all that `lab up` made.
    Down(LabArg),
    /// Run a command in a host's network namespace, and end as it ends.
    #[command(after_help = "\
Examples:
  ringmesh lab exec h1 -- ip addr
  ringmesh lab exec h1 -- ping -c 1 10.77.0.2")]
    Exec(ExecArgs),
    /// Break something, or mend it.
    #[command(after_help = "\
Examples:
  ringmesh lab fault cut-uplink h2 a    a path less; nobody is down
  ringmesh lab fault isolate h2         the others say that h2 is down
  ringmesh lab fault heal h2            and alive again
  ringmesh lab fault kill h3            its containers run on
  ringmesh lab fault start h3
  ringmesh lab fault kill-service h1 h1-c1
Watch it from another terminal with `ringmesh event watch`.")]
    Fault(FaultArgs),
}

#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// How many hosts.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..=64))]
    hosts: u16,
    /// How many containers on each.
    #[arg(long, value_name = "K", default_value_t = 4, value_parser = clap::value_parser!(u16).range(0..=64))]
    containers: u16,
    /// How many zones; the hosts are dealt out to them in turn.
    #[arg(long, value_name = "Z", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    zones: u16,
    /// How the uplinks are wired.
    #[arg(long, value_enum, default_value_t = Wiring::Switched)]
    mode: Wiring,
    /// Whether sick containers are repaired: automatic, manual (it is proposed) or off.
    #[arg(long, value_enum, default_value_t = Repairs::Off, hide_possible_values = true)]
    repair: Repairs,
    /// Where its files are kept [default: /run/ringmesh/labs/NAME].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// What to call it; several labs can run side by side.
    #[arg(long, default_value = "lab")]
    name: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Wiring {
    /// Each uplink reaches every host.
    Switched,
    /// Each uplink is a cable to a neighbour.
    Cabled,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Repairs {
    /// By itself.
    Automatic,
    /// When it is approved.
    Manual,
    /// Not at all.
    Off,
}

impl From<Repairs> for RepairMode {
    fn from(repairs: Repairs) -> Self {
        match repairs {
            Repairs::Automatic => Self::Automatic,
            Repairs::Manual => Self::Manual,
            Repairs::Off => Self::Off,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct LabArg {
    /// Which lab [default: the newest].
    #[arg(long)]
    name: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ExecArgs {
    /// In whose namespace.
    host: String,
    #[command(flatten)]
    lab: LabArg,
    /// Program and arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct FaultArgs {
    /// Which lab [default: the newest].
    #[arg(long, global = true)]
    name: Option<String>,
    #[command(subcommand)]
    fault: FaultCommand,
}

#[derive(Debug, Subcommand)]
enum FaultCommand {
    /// Cut one uplink of a host silently: its carrier stays.
    CutUplink {
        /// Whose.
        host: String,
        /// Which: a or b.
        uplink: Uplink,
    },
    /// Pull out the cable of an uplink: the host sees that its carrier is gone.
    Unplug {
        /// Whose.
        host: String,
        /// Which: a or b.
        uplink: Uplink,
    },
    /// Plug the cable of an uplink in again.
    Plug {
        /// Whose.
        host: String,
        /// Which: a or b.
        uplink: Uplink,
    },
    /// Mend the uplinks of a host and plug them in.
    Heal {
        /// Whose.
        host: String,
    },
    /// Cut both uplinks of a host.
    Isolate {
        /// Whose.
        host: String,
    },
    /// Kill a host's agent (SIGKILL); its containers run on.
    Kill {
        /// Whose.
        host: String,
    },
    /// Stop a host's agent (SIGSTOP), as if it hung.
    Stop {
        /// Whose.
        host: String,
    },
    /// Let a stopped agent continue (SIGCONT).
    Cont {
        /// Whose.
        host: String,
    },
    /// Start a host's agent that was killed.
    Start {
        /// Whose.
        host: String,
    },
    /// Kill the service in a container.
    KillService {
        /// Where the container is.
        host: String,
        /// Its name, such as h1-c1.
        container: String,
    },
    /// Start the service in a container again.
    StartService {
        /// Where the container is.
        host: String,
        /// Its name, such as h1-c1.
        container: String,
    },
}

pub(crate) fn run(printer: &Printer, command: LabCommand) -> Result<(), CliError> {
    match command {
        LabCommand::Up(args) => up(printer, args),
        LabCommand::Add(LabArg { name }) => {
            let host = lab::add_host(name.as_deref()).map_err(|error| failed(&error))?;
            note(&format!("{} joined", host.name));
            show(printer, &lab::status(name.as_deref()).map_err(|error| failed(&error))?)
        }
        LabCommand::Status(LabArg { name }) => {
            let status = lab::status(name.as_deref()).map_err(|error| failed(&error))?;
            show(printer, &status)
        }
        LabCommand::Down(LabArg { name }) => {
            lab::down(name.as_deref()).map_err(|error| failed(&error))?;
            note("nothing of the lab is left");
            Ok(())
        }
        LabCommand::Exec(ExecArgs { host, lab: LabArg { name }, command }) => {
            let status = lab::exec(name.as_deref(), &host, &command).map_err(|error| failed(&error))?;
            ended(status)
        }
        LabCommand::Fault(FaultArgs { name, fault }) => {
            lab::fault(name.as_deref(), &fault.into()).map_err(|error| failed(&error))
        }
    }
}

fn up(printer: &Printer, args: UpArgs) -> Result<(), CliError> {
    let binary = std::env::current_exe()
        .map_err(|error| CliError::Failed(format!("cannot find this program's file ({error}): is /proc mounted?")))?;
    let mode = match args.mode {
        Wiring::Switched => Mode::Switched,
        Wiring::Cabled => Mode::Cabled,
    };
    let UpArgs { hosts, containers, zones, dir, name, repair, .. } = args;
    let repair = repair.into();
    let mut progress = Progress::new();
    let options = UpOptions { name, hosts, containers, zones, mode, repair, dir, binary };
    let status = lab::up(&options, &mut |step| progress.step(step));
    progress.end();
    let status = status.map_err(|error| failed(&error))?;
    show(printer, &status)?;
    if matches!(printer.format, Format::Table | Format::Wide) {
        note(
            "\nNext:\n  ringmesh host list\n  ringmesh ring show\n  ringmesh service list\n  \
             ringmesh lab fault kill h3\n  ringmesh host why h3\n  ringmesh lab down",
        );
    }
    Ok(())
}

fn failed(error: &LabError) -> CliError {
    CliError::with_status(error.exit_status(), error)
}

fn show(printer: &Printer, status: &LabStatus) -> Result<(), CliError> {
    printer.value(status, || table(status).render(printer.color, None))
}

/// From the lab's JSON, which is its contract.
fn table(status: &LabStatus) -> Table {
    let columns = ["name", "state", "pid", "netns", "api"];
    let mut table =
        Table::new(&[column("NAME"), column("STATE"), column("PID"), column("NETNS"), column("API")], false);
    let status = serde_json::to_value(status).unwrap_or_default();
    let hosts = status.get("hosts").and_then(|hosts| hosts.as_array());
    for host in hosts.into_iter().flatten() {
        let cell = |name: &&str| match host.get(*name) {
            Some(serde_json::Value::String(text)) => Cell::new(text),
            Some(serde_json::Value::Null) | None => Cell::new(""),
            Some(value) => Cell::new(value.to_string()),
        };
        table.push(columns.iter().map(cell).collect());
    }
    table
}

/// Ends as the program did; 128 and the signal's number if it was killed, as shells do.
fn ended(status: ExitStatus) -> Result<(), CliError> {
    if status.success() {
        return Ok(());
    }
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    Err(CliError::Exit(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

impl From<FaultCommand> for Fault {
    fn from(command: FaultCommand) -> Self {
        match command {
            FaultCommand::CutUplink { host, uplink } => Self::CutUplink { host, uplink },
            FaultCommand::Unplug { host, uplink } => Self::Unplug { host, uplink },
            FaultCommand::Plug { host, uplink } => Self::Plug { host, uplink },
            FaultCommand::Heal { host } => Self::Heal { host },
            FaultCommand::Isolate { host } => Self::Isolate { host },
            FaultCommand::Kill { host } => Self::Kill { host },
            FaultCommand::Stop { host } => Self::Stop { host },
            FaultCommand::Cont { host } => Self::Cont { host },
            FaultCommand::Start { host } => Self::Start { host },
            FaultCommand::KillService { host, container } => Self::KillService { container, host },
            FaultCommand::StartService { host, container } => Self::StartService { container, host },
        }
    }
}

/// The step that is under way: one line that changes on a terminal, a line each elsewhere.
struct Progress {
    terminal: bool,
}

impl Progress {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal() }
    }

    fn step(&mut self, step: &str) {
        let mut out = std::io::stderr().lock();
        // Progress that nobody sees is no failure.
        let _ = if self.terminal { write!(out, "\r\x1b[K{step}") } else { writeln!(out, "{step}") };
        let _ = out.flush();
    }

    fn end(&mut self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
