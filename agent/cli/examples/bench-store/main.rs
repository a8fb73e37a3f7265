//! `make bench-store`: three members of ringmesh's store beside three of etcd, in turns, with the same client.
//!
//! ```text
//!   round: ┌ ringmesh: three members, fresh ─ idle ─ puts of 1, 64, 256 clients ─ gets ─ memory, disk ─ ended ┐
//!          └ etcd:     the same ───────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Members speak over loopback and write below one directory, each batch with its own fdatasync. Ratios are of medians over
//! the rounds. What each figure means stands in docs/benchmarks.md. Nothing is asserted.

#[path = "../bench/mod.rs"]
#[expect(dead_code, reason = "the other benches measure labs")]
mod bench;
mod cluster;
mod load;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use bench::{
    lab::beside,
    process,
    sample::{Sample, number, table},
};
use clap::Parser;
use cluster::{Cluster, Program};
use load::{Kind, Leg};

/// What is asked of both, in this order.
const LEGS: [(Kind, usize); 6] = [
    (Kind::Put, 1),
    (Kind::Put, 64),
    (Kind::Put, 256),
    (Kind::Get { serializable: false }, 1),
    (Kind::Get { serializable: false }, 64),
    (Kind::Get { serializable: true }, 64),
];

/// Measures the store beside etcd.
#[derive(Parser)]
struct Arguments {
    /// The program `ringmesh` to measure; default: the one built beside this.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Debian's etcd 3.4.
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
    /// Where the members keep their data; default: a new directory in the one for temporary files.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// How often both are measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each leg.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Seconds over which idle members are watched.
    #[arg(long, default_value_t = 20)]
    window: u64,
}

/// What one round says of one program; per member where it is not of the whole.
struct Round {
    idle_rss_mb: f64,
    idle_cpu_percent: f64,
    idle_disk_mb: f64,
    /// In the order of [`LEGS`].
    legs: Vec<Leg>,
    loaded_rss_mb: f64,
    /// Processor time of all members for a thousand operations of the legs, in seconds.
    cpu_per_1000: f64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = tokio::select! {
        done = run(&arguments) => done,
        _ = tokio::signal::ctrl_c() => Err("ended by a signal".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("bench-store: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), String> {
    let binary = arguments.binary.clone().or_else(beside).unwrap_or_else(|| "ringmesh".into());
    let programs = [Program::Ringmesh(binary), Program::Etcd(arguments.etcd.clone())];
    println!("Machine: {}, load {}", process::machine(), process::load());
    for program in &programs {
        println!("{}", program.version()?);
    }
    let below = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut rounds: [Vec<Round>; 2] = [Vec::new(), Vec::new()];
    for nth in 1..=arguments.rounds {
        for (program, rounds) in programs.iter().zip(&mut rounds) {
            eprintln!("round {nth} of {}: {}", arguments.rounds, program.name());
            rounds.push(round(arguments, program, &below).await?);
        }
    }
    println!("\n{}", render(&rounds));
    println!("Load at the end {}.", process::load());
    Ok(())
}

async fn round(arguments: &Arguments, program: &Program, below: &std::path::Path) -> Result<Round, String> {
    let cluster = Cluster::start(program, below).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = cluster.cpu_seconds()?;
    tokio::time::sleep(Duration::from_secs(arguments.window)).await;
    let count = cluster.members() as f64;
    let idle_cpu_percent = (cluster.cpu_seconds()? - before) / arguments.window as f64 / count * 100.0;
    let (idle_rss_mb, idle_disk_mb) = (cluster.rss_mb()? / count, cluster.disk_mb()? / count);

    let (before, mut legs) = (cluster.cpu_seconds()?, Vec::new());
    for (kind, clients) in LEGS {
        let leg = load::run(cluster.urls(), kind, clients, Duration::from_secs(arguments.seconds)).await?;
        eprintln!("    {}: {} /s, {leg}", label(kind, clients), number(leg.per_second));
        legs.push(leg);
    }
    let operations: f64 = legs.iter().map(|leg| leg.operations as f64).sum();
    let cpu_per_1000 = (cluster.cpu_seconds()? - before) / operations * 1000.0;
    let loaded_rss_mb = cluster.rss_mb()? / count;
    cluster.stop().await;
    Ok(Round { idle_rss_mb, idle_cpu_percent, idle_disk_mb, legs, loaded_rss_mb, cpu_per_1000 })
}

fn label(kind: Kind, clients: usize) -> String {
    format!("{kind}, {clients} client{}", if clients == 1 { "" } else { "s" })
}

/// A table of medians with ratios.
fn render(rounds: &[Vec<Round>; 2]) -> String {
    let mut rows = Vec::new();
    let mut row = |name: String, unit: &str, goal: &str, of: &dyn Fn(&Round) -> f64| {
        let [ours, theirs] = rounds.each_ref().map(|rounds| {
            let median = Sample::new(rounds.iter().map(of)).map(|sample| sample.quantile(0.5));
            median.unwrap_or(f64::NAN)
        });
        let with_unit = |value| format!("{} {unit}", number(value));
        rows.push([name, with_unit(ours), with_unit(theirs), format!("{:.2}", ours / theirs), goal.to_owned()]);
    };
    for (at, (kind, clients)) in LEGS.into_iter().enumerate() {
        let goal = match (kind, clients) {
            (Kind::Put, 1) => "≥ 1",
            (Kind::Put, _) | (Kind::Get { serializable: false }, _) => "≥ 2",
            (Kind::Get { serializable: true }, _) => "",
        };
        row(label(kind, clients), "/s", goal, &|round| round.legs[at].per_second);
        row(format!("{}: median", label(kind, clients)), "ms", "", &|round| round.legs[at].median_ms);
        row(format!("{}: p99", label(kind, clients)), "ms", "≤ 1", &|round| round.legs[at].p99_ms);
    }
    row("processor time of three members, 1,000 operations".into(), "s", "", &|round| round.cpu_per_1000);
    row("idle member: RSS".into(), "MB", "", &|round| round.idle_rss_mb);
    row("idle member: CPU".into(), "% of a core", "", &|round| round.idle_cpu_percent);
    row("idle member: disk".into(), "MB", "", &|round| round.idle_disk_mb);
    row("member after the load: RSS".into(), "MB", "", &|round| round.loaded_rss_mb);
    table(["figure", "ringmesh", "etcd", "ratio", "goal"], &rows)
}
