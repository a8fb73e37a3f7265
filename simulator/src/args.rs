//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use ringmesh_simulator::span::Span;

/// Many ringmesh hosts in virtual time: the agents' own code, faults, and oracles that look on.
#[derive(Debug, Parser)]
#[command(name = "ringmesh-sim", version, after_help = AFTER)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER: &str = "Exit status: 0 all oracles held, 1 one of them failed or the run did, 2 wrong usage or scenario.";

const RUN: &str = "\
Hosts of 32,000 containers each: a scenario with a table [fleet], of which nothing is kept that is well. Then the report also
says how soon failures were told, and at all hosts, how many bytes hosts send while all is well, and how many containers
something was kept of. simulator/scenarios/fleet.toml is one of 100 hosts; docs/simulator.md says what is modelled.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs one scenario and says what each oracle saw
    #[command(after_help = RUN)]
    Run(RunArgs),
    /// Runs many seeds over all cores and keeps each failure in a file
    Sweep(SweepArgs),
    /// Runs a failure again and says whether it is the same
    Replay(FailureArgs),
    /// Makes a failure smaller: fewer faults, fewer hosts, less time; the same oracle fails
    Shrink(ShrinkArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    /// A scenario in TOML; without one, hosts without faults
    pub(crate) scenario: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) what: What,
    /// Everything that is drawn follows from it
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Run a second time and compare the trace hashes
    #[arg(long)]
    pub(crate) twice: bool,
    /// Write a failure to this file, for `replay` and `shrink`
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// What takes the place of the scenario's own.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct What {
    /// Hosts from the start
    #[arg(long, value_name = "N")]
    pub(crate) hosts: Option<usize>,
    /// Zones that they are divided into; of at most 512 hosts each
    #[arg(long, value_name = "N", conflicts_with = "random")]
    pub(crate) zones: Option<u16>,
    /// Virtual time, as in 60s
    #[arg(long = "for", value_name = "SPAN")]
    pub(crate) duration: Option<Span>,
    /// Encode and decode every message; slower, and the trace hash is the same
    #[arg(long)]
    pub(crate) wire: bool,
    /// Random faults, drawn from the seed; --hosts is the size then, else it is drawn too
    #[arg(long, conflicts_with_all = ["scenario", "duration"])]
    pub(crate) random: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SweepArgs {
    /// A scenario in TOML; else --random, or hosts without faults
    pub(crate) scenario: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) what: What,
    /// First seed
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// How many seeds
    #[arg(long, default_value_t = 100)]
    pub(crate) seeds: u64,
    /// Threads; else one for each core
    #[arg(long)]
    pub(crate) jobs: Option<usize>,
    /// Where failures are written
    #[arg(long, value_name = "DIR", default_value = "sim-failures")]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct FailureArgs {
    /// As `run --save` and `sweep` write it
    pub(crate) failure: PathBuf,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ShrinkArgs {
    /// As `run --save` and `sweep` write it
    pub(crate) failure: PathBuf,
    /// Where the smaller one is written; else beside the file, as NAME.small.json
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Clone, Copy, Debug, ClapArgs)]
pub(crate) struct Output {
    /// How the result is printed
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// One JSON document
    Json,
}
