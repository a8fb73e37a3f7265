//! `make bench-mesh`: what the mesh does when hosts die, stall or are cut off, beside serf and corosync.
//!
//! ```text
//!   lab up ─ its agents end ─ round 1: ringmesh, serf, corosync ─ round 2: ringmesh, serf, corosync ─ … ─ lab down
//!                                      └─ all started ─ trials of the round ─ all ended
//! ```
//!
//! All three run in the same namespaces over the same bridges, one after another; the rounds make a drift of the
//! machine hit all alike. What each figure means stands in docs/benchmarks.md. Nothing is asserted: a slow machine
//! makes figures, no failure.

#[path = "../bench/mod.rs"]
#[expect(dead_code, reason = "the other benches print more of what is measured")]
mod bench;
mod cases;
mod corosync;
mod logged;
mod ours;
mod plan;
mod program;
mod results;
mod serf;
mod watch;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use bench::{
    lab::{Lab, beside, clear_up_on_signals},
    process,
};
use cases::Agents;
use clap::Parser;
use corosync::Corosync;
use logged::Logged;
use ours::Ours;
use plan::{Case, Named, Planned};
use results::Results;
use serf::Serf;
use watch::Watch;

/// The lab's name, of which no other lab should have any.
const LAB: &str = "bench-mesh";

const NAMES: [&str; 3] = ["ringmesh", "serf", "corosync"];

/// Measures ringmesh's mesh beside serf and corosync in a lab on this machine. Needs root.
#[derive(Parser)]
struct Arguments {
    /// The program `ringmesh` to measure; default: the one built beside this.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where Debian's packages serf and corosync are unpacked; default: `bench` in the target directory.
    #[arg(long)]
    unpacked: Option<PathBuf>,
    /// Hosts of the lab, 3 to 64.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(3..=64))]
    hosts: u16,
    /// Rounds among which the trials are dealt.
    #[arg(long, default_value_t = 2, value_parser = at_least_one)]
    rounds: usize,
    /// Seconds between the start of a program's agents and the idle figures.
    #[arg(long, default_value_t = 5)]
    settle: u64,
    /// Seconds over which processor time and traffic are counted, each round.
    #[arg(long, default_value_t = 20)]
    window: u64,
    /// Agents to kill, one after another.
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Times that uplink A of a host is cut.
    #[arg(long, default_value_t = 10)]
    cuts: usize,
    /// Kills and cuts for corosync at most: with its defaults for 32 hosts one kill takes it a minute.
    #[arg(long, default_value_t = 3)]
    corosync_tries: usize,
    /// Pauses of 3 s and of 8 s, so many each.
    #[arg(long, default_value_t = 2)]
    pauses: usize,
    /// Times that a host is isolated for 30 s.
    #[arg(long, default_value_t = 2)]
    isolations: usize,
    /// Seconds for which 1, 4 and 8 agents are stopped for 8 s and run for 64 ms in turn.
    #[arg(long, default_value_t = 60)]
    stall: u64,
    /// A directory, made if need be, to which the logs of ringmesh's agents are copied before the lab goes.
    #[arg(long)]
    logs: Option<PathBuf>,
    /// Programs to leave out.
    #[arg(long, value_delimiter = ',')]
    skip: Vec<Other>,
    /// Kinds of trials to make.
    #[arg(long, value_delimiter = ',', default_value = "idle,kill,cut,pause,isolate,stall")]
    cases: Vec<Named>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Other {
    Serf,
    Corosync,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    let binary = arguments.binary.take().or_else(beside).unwrap_or_else(|| "ringmesh".into());
    if let Err(problem) = clear_up_on_signals(LAB, logged::start_no_more) {
        eprintln!("bench-mesh: {problem}");
        return ExitCode::FAILURE;
    }
    let load = process::load();
    println!("Machine: {}, load {load}", process::machine());
    println!("Binary:  {}", binary.display());
    let mut results = [Results::default(), Results::default(), Results::default()];
    let measured = measure(&arguments, &binary, &mut results);
    // Also after a failure: what was measured is worth having.
    let hosts = arguments.hosts.into();
    println!("\n{}", results::render(&results, &plan::stalled(hosts), hosts));
    print!("{}", results::remarks(&results, NAMES));
    println!("Load at the start {load}, at the end {}.", process::load());
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("bench-mesh: {problem}; some figures are missing");
            ExitCode::FAILURE
        }
    }
}

/// The programs to compare with, as far as they are there.
struct Others {
    serf: Option<Serf>,
    corosync: Option<Corosync>,
}

fn measure(arguments: &Arguments, binary: &Path, results: &mut [Results; 3]) -> Result<(), String> {
    let others = find(arguments, results);
    let (lab, took) = Lab::up(LAB, binary, arguments.hosts, 0)?;
    println!("Lab:     {} hosts, up in {:.1} s\n", arguments.hosts, took.as_secs_f64());
    for host in 0..usize::from(arguments.hosts) {
        lab.fault(&ringmesh_agentd::lab::Fault::Kill { host: program::name(host) })?;
    }
    for (round, trials) in plan::rounds(arguments).iter().enumerate() {
        for (which, results) in results.iter_mut().enumerate().filter(|(_, results)| results.absent.is_none()) {
            eprintln!("  round {} of {}: {}", round + 1, arguments.rounds, NAMES[which]);
            let limit = if which == 2 { arguments.corosync_tries } else { usize::MAX };
            let raise = || raise(which, &lab, &others);
            if let Err(problem) = run(arguments, trials, limit, &raise, results) {
                eprintln!("    NO RESULT: {problem}");
                results.failures.push(format!("round {}: {problem}", round + 1));
            }
        }
    }
    arguments.logs.as_deref().map_or(Ok(()), |logs| keep_logs(&lab, logs))
}

fn keep_logs(lab: &Lab, logs: &Path) -> Result<(), String> {
    let status = lab.status()?;
    let copy = || {
        std::fs::create_dir_all(logs)?;
        status.hosts.iter().try_for_each(|host| {
            let log = status.dir.join(&host.name).join("agent.log");
            std::fs::copy(log, logs.join(format!("{}.log", host.name))).map(drop)
        })
    };
    copy().map_err(|error: std::io::Error| format!("copy logs to {}: {error}", logs.display()))
}

/// Says of programs that are not there why they are not.
fn find(arguments: &Arguments, results: &mut [Results; 3]) -> Others {
    let unpacked = arguments.unpacked.clone().or_else(|| Some(beside()?.parent()?.parent()?.join("bench")));
    let unpacked = unpacked.unwrap_or_default();
    let skipped = |other| arguments.skip.contains(&other).then(|| "it was to be left out".to_owned());
    let found = |name: &str, version: &str| println!("Beside:  {name} {version}");
    let serf = match skipped(Other::Serf) {
        Some(why) => Err(why),
        None => {
            let program = unpacked.join("usr/bin/serf");
            let program = if program.exists() { program } else { "serf".into() };
            bench::serf::version(&program).inspect(|version| found("serf", version)).map(|_| Serf { program })
        }
    };
    let corosync = match skipped(Other::Corosync) {
        Some(why) => Err(why),
        None => Corosync::find(&unpacked, arguments.hosts.into()).map(|(corosync, version)| {
            found("corosync", &version);
            corosync
        }),
    };
    for (which, why) in [(1, serf.as_ref().err()), (2, corosync.as_ref().err())] {
        if let Some(why) = why {
            eprintln!("bench-mesh: {} IS NOT MEASURED: {why}", NAMES[which].to_uppercase());
        }
        results[which].absent = why.cloned();
    }
    Others { serf: serf.ok(), corosync: corosync.ok() }
}

/// A program whose agents do not run yet.
fn raise<'a>(which: usize, lab: &'a Lab, others: &Others) -> Result<Agents<'a>, String> {
    let hosts = lab.status()?.hosts;
    let (teller, watch) = Watch::new(hosts.len());
    let count = hosts.len();
    let program: Box<dyn program::Program + 'a> = match (which, &others.serf, &others.corosync) {
        (1, Some(serf), _) => Box::new(Logged::new(serf.clone(), hosts, teller)),
        (2, _, Some(corosync)) => Box::new(Logged::new(corosync.clone(), hosts, teller)),
        _ => Box::new(Ours::new(lab, teller)?),
    };
    Ok(Agents { lab, hosts: count, program, watch })
}

/// Makes the trials of a round with one program. After one that failed, all agents are started anew.
fn run<'a>(
    arguments: &Arguments,
    trials: &[Planned],
    limit: usize,
    raise: &dyn Fn() -> Result<Agents<'a>, String>,
    results: &mut Results,
) -> Result<(), String> {
    let mut agents = start(raise, results)?;
    for trial in trials {
        let limited = matches!(trial.case, Case::Kill | Case::Cut) && trial.nth >= limit;
        if limited || (trial.case == Case::Cut && !agents.program.tells_of_uplinks()) {
            continue;
        }
        let outcome = match trial.case {
            Case::Idle => match agents.idle(arguments.settle, arguments.window) {
                Ok(idle) => {
                    results.idle.push(idle);
                    continue;
                }
                Err(problem) => Err(problem),
            },
            Case::Kill => agents.kill(trial.victims[0]),
            Case::Cut => agents.cut(trial.victims[0]),
            Case::Pause(seconds) => agents.pause(trial.victims[0], seconds),
            Case::Isolate => agents.isolate(trial.victims[0]),
            Case::Stall(_) => agents.stall(&trial.victims, arguments.stall),
        };
        match outcome {
            Ok(outcome) => {
                eprintln!("    {} {}: {outcome}", trial.case, trial.nth + 1);
                results.add(trial.case, outcome);
            }
            Err(problem) => {
                eprintln!("    {} {}: NO RESULT: {problem}", trial.case, trial.nth + 1);
                results.failures.push(format!("{} {}: {problem}", trial.case, trial.nth + 1));
                agents.down()?;
                drop(agents);
                agents = start(raise, results)?;
            }
        }
    }
    agents.down()
}

/// Starts all agents. Those that do not come to see each other are ended again.
fn start<'a>(raise: &dyn Fn() -> Result<Agents<'a>, String>, results: &mut Results) -> Result<Agents<'a>, String> {
    let mut agents = raise()?;
    match agents.up() {
        Ok(formed) => {
            eprintln!("    {} sees all after {formed:.2} s", agents.program.name());
            results.formed.push(formed);
            Ok(agents)
        }
        Err(problem) => {
            agents.down()?;
            Err(problem)
        }
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "it must be 1 or more".to_owned())
}
