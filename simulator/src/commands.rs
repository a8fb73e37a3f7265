//! What each command does.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Instant,
};

use anyhow::Context as _;
use ringmesh_simulator::{
    expand,
    failure::Failure,
    run::{Report, Run},
    scenario::{Problem, Scenario},
    shrink::Shrinker,
    sweep,
};

use crate::{
    args::{Args, Command, FailureArgs, RunArgs, ShrinkArgs, SweepArgs, What},
    show::{self, Progress},
};

/// What the operator gave cannot be run.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(String);

impl From<Problem> for Usage {
    fn from(problem: Problem) -> Self {
        Self(problem.what)
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Run(args) => run_one(&args),
        Command::Sweep(args) => run_sweep(&args),
        Command::Replay(args) => replay(&args),
        Command::Shrink(args) => shrink(&args),
    }
}

fn run_one(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let base = args.scenario.as_deref().map(read_scenario).transpose()?;
    let scenario = scenario(base.as_ref(), &args.what, args.seed);
    let report = timed(&scenario, false)?;
    show::report(&report, args.output.format)?;
    if args.twice {
        let again = timed(&scenario, false)?;
        anyhow::ensure!(
            again.trace_hash == report.trace_hash,
            "the second run differs: {} after {}; something draws or orders what the seed does not determine",
            again.trace_hash,
            report.trace_hash
        );
        eprintln!("ringmesh-sim: the second run is the same");
    }
    if let Some(file) = &args.save {
        match Failure::find(&scenario).map_err(Usage::from)? {
            Some(failure) => write_failure(&failure, file)?,
            None => eprintln!("ringmesh-sim: no oracle failed; {} is not written", file.display()),
        }
    }
    Ok(status(report.is_ok()))
}

fn run_sweep(args: &SweepArgs) -> anyhow::Result<ExitCode> {
    let base = args.scenario.as_deref().map(read_scenario).transpose()?;
    let threads = args.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let end = args.seed.checked_add(args.seeds).ok_or(Usage("--seed and --seeds go beyond the largest seed".into()))?;
    let progress = Progress::new(args.seeds, "runs");
    let started = Instant::now();
    let told = |_: &Report, failure: Option<&Failure>| {
        if let Some(failure) = failure {
            progress.say(&format!("seed {}: {}: {}", failure.scenario.seed, failure.oracle, failure.detail));
        }
        progress.step();
    };
    let make = |seed| scenario(base.as_ref(), &args.what, Some(seed));
    let found = sweep::sweep(args.seed..end, threads, make, told).map_err(Usage::from)?;
    progress.end();
    if !found.failures.is_empty() {
        fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
    }
    let mut files = Vec::new();
    for failure in &found.failures {
        let file = args.dir.join(failure.file_name());
        write_failure(failure, &file)?;
        files.push(file);
    }
    show::sweep(&found, &files, started.elapsed(), args.output.format)?;
    Ok(status(found.failures.is_empty()))
}

fn replay(args: &FailureArgs) -> anyhow::Result<ExitCode> {
    let failure = read_failure(&args.failure)?;
    let report = timed(&failure.scenario, true)?;
    show::report(&report, args.output.format)?;
    let now = report.failed().next();
    let what = match now {
        Some(outcome) if report.trace_hash == failure.trace_hash => format!("the same run: {} fails", outcome.name),
        Some(outcome) if outcome.name == failure.oracle => {
            format!("{} fails, but the run is another one than that of version {}", outcome.name, failure.version)
        }
        Some(outcome) => format!("another oracle fails: {}, and not {}", outcome.name, failure.oracle),
        None => format!("{} holds now", failure.oracle),
    };
    eprintln!("ringmesh-sim: {what}");
    Ok(status(now.is_none()))
}

fn shrink(args: &ShrinkArgs) -> anyhow::Result<ExitCode> {
    let before = read_failure(&args.failure)?;
    let Some(found) = Failure::find(&before.scenario).map_err(Usage::from)? else {
        anyhow::bail!("{}: no oracle fails in it now, so there is nothing to shrink", args.failure.display());
    };
    let progress = Progress::unbounded("runs");
    let mut told = |_: usize, best: &Failure| {
        let scenario = &best.scenario;
        progress.note(&format!("{} faults, {} hosts, {}", scenario.fault.len(), scenario.hosts, scenario.duration));
    };
    let small = Shrinker::new(found, &mut told).shrink();
    progress.end();
    let to = args.to.clone().unwrap_or_else(|| args.failure.with_extension("small.json"));
    write_failure(&small, &to)?;
    show::failure(&small, &to, args.output.format)?;
    Ok(ExitCode::SUCCESS)
}

/// The scenario of a seed, with what the command line says instead.
fn scenario(base: Option<&Scenario>, what: &What, seed: Option<u64>) -> Scenario {
    let mut scenario = match base {
        None if what.random => {
            let seed = seed.unwrap_or_default();
            expand::random(seed, what.hosts.unwrap_or_else(|| sweep::size_of(seed, usize::MAX)))
        }
        base => base.cloned().unwrap_or_default(),
    };
    scenario.seed = seed.unwrap_or(scenario.seed);
    scenario.hosts = what.hosts.unwrap_or(scenario.hosts);
    scenario.zones = what.zones.unwrap_or(scenario.zones);
    scenario.duration = what.duration.unwrap_or(scenario.duration);
    scenario.wire |= what.wire;
    scenario
}

fn timed(scenario: &Scenario, stop_early: bool) -> Result<Report, Usage> {
    let run = Run::new(scenario)?;
    let progress = Progress::of_run(scenario.duration.0);
    let started = Instant::now();
    let mut report = run.finish_telling(stop_early, |passed| progress.reach(passed));
    report.wall_seconds = started.elapsed().as_secs_f64();
    progress.end();
    Ok(report)
}

fn read_scenario(file: &Path) -> anyhow::Result<Scenario> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()));
    let text = text.map_err(|error| Usage(format!("{error:#}")))?;
    let scenario = Scenario::parse(&text);
    Ok(scenario.map_err(|error| Usage(format!("{}: {}", file.display(), error.to_string().trim_end())))?)
}

fn read_failure(file: &Path) -> anyhow::Result<Failure> {
    let usage = |what: String| Usage(format!("{}: {what}", file.display()));
    let text = fs::read_to_string(file).map_err(|error| usage(format!("cannot be read: {error}")))?;
    let failure: Failure = serde_json::from_str(&text)
        .map_err(|error| usage(format!("is no failure that `run --save` or `sweep` wrote: {error}")))?;
    failure.scenario.check().map_err(|problem| usage(problem.what))?;
    Ok(failure)
}

fn write_failure(failure: &Failure, file: &PathBuf) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(failure)?;
    fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
}

fn status(ok: bool) -> ExitCode {
    if ok { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
