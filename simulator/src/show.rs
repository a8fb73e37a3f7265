//! What is printed: results on standard output, progress on standard error.

use std::{
    fmt::Arguments,
    io::{self, ErrorKind, IsTerminal, StdoutLock, Write, stderr, stdout},
    path::{Path, PathBuf},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ringmesh_simulator::{
    failure::Failure,
    oracle::{Figures, Quantiles},
    run::Report,
    sweep::Sweep,
};

use crate::args::Format;

/// Standard output. That nobody reads on is no failure: whoever reads has seen enough, and the exit status tells the rest.
struct Output(StdoutLock<'static>);

impl Output {
    fn write_fmt(&mut self, text: Arguments<'_>) -> io::Result<()> {
        self.0.write_fmt(text).or_else(|error| if error.kind() == ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
    }
}

pub(crate) fn report(report: &Report, format: Format) -> anyhow::Result<()> {
    let mut out = Output(stdout().lock());
    if format == Format::Json {
        writeln!(out, "{}", serde_json::to_string_pretty(report)?)?;
        return Ok(());
    }
    writeln!(out, "trace hash    {}", report.trace_hash)?;
    writeln!(out, "seed          {}", report.seed)?;
    writeln!(out, "hosts         {}, {} faults", report.hosts, report.faults)?;
    let (virtual_s, wall_s) = (report.virtual_seconds, report.wall_seconds);
    writeln!(
        out,
        "time          {virtual_s:.3} s in {wall_s:.3} s, {:.1} times real time",
        virtual_s / wall_s.max(1e-9)
    )?;
    writeln!(out, "events        {}, {:.0} a second", report.events, report.events as f64 / wall_s.max(1e-9))?;
    if let Some(fleet) = &report.fleet {
        figures(&mut out, fleet)?;
    }
    writeln!(out)?;
    for outcome in &report.oracles {
        writeln!(out, "{:<12}  {}  {}", outcome.name, if outcome.ok { "ok    " } else { "FAILED" }, outcome.detail)?;
    }
    Ok(())
}

fn figures(out: &mut Output, fleet: &Figures) -> anyhow::Result<()> {
    let Figures { containers, awake, awake_most, failures, told, told_as_numbers, repairs, .. } = fleet;
    writeln!(out, "containers    {containers}; something was kept of {awake_most} at most, of {awake} in the end")?;
    writeln!(
        out,
        "failures      {failures}; {told} events, {told_as_numbers} changes as numbers; {repairs} restarts, clones"
    )?;
    let row = |out: &mut Output, what: &str, times: &Quantiles| {
        let Quantiles { count, p50, p90, p99, max } = times;
        writeln!(out, "  {what:<22} {count:>7} {p50:>8.2} {p90:>8.2} {p99:>8.2} {max:>8.2}")
    };
    writeln!(out, "  seconds                  count      p50      p90      p99      max")?;
    for (what, times) in &fleet.detection {
        row(out, &format!("told, {what}"), times)?;
    }
    for (what, times) in &fleet.everywhere {
        row(out, &format!("at all hosts, {what}"), times)?;
    }
    row(out, "from one host to all", &fleet.spread)?;
    let (mean, most) = fleet.bytes_at_rest;
    writeln!(
        out,
        "sent          {mean:.0} bytes a second of a host while all is well, {most:.0} of the one that sends most"
    )?;
    Ok(())
}

pub(crate) fn sweep(sweep: &Sweep, files: &[PathBuf], took: Duration, format: Format) -> anyhow::Result<()> {
    let mut out = Output(stdout().lock());
    if format == Format::Json {
        let failures = sweep.failures.iter().zip(files).map(|(failure, file)| {
            serde_json::json!({ "seed": failure.scenario.seed, "oracle": failure.oracle, "detail": failure.detail, "file": file })
        });
        let document = serde_json::json!({
            "runs": sweep.runs, "events": sweep.events, "virtual_seconds": sweep.virtual_seconds,
            "wall_seconds": took.as_secs_f64(), "failures": failures.collect::<Vec<_>>(),
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&document)?)?;
        return Ok(());
    }
    let times = sweep.virtual_seconds / took.as_secs_f64().max(1e-9);
    writeln!(
        out,
        "{} runs of {:.0} virtual seconds in {:.1} s ({times:.0} times real time), {} failed",
        sweep.runs,
        sweep.virtual_seconds,
        took.as_secs_f64(),
        files.len()
    )?;
    for file in files {
        writeln!(out, "  ringmesh-sim shrink {}", file.display())?;
    }
    Ok(())
}

pub(crate) fn failure(failure: &Failure, file: &Path, format: Format) -> anyhow::Result<()> {
    let mut out = Output(stdout().lock());
    if format == Format::Json {
        writeln!(out, "{}", serde_json::to_string_pretty(failure)?)?;
        return Ok(());
    }
    let scenario = &failure.scenario;
    writeln!(out, "{}: {}", failure.oracle, failure.detail)?;
    writeln!(out, "{} hosts, {}, seed {}; faults:", scenario.hosts, scenario.duration, scenario.seed)?;
    for fault in &scenario.fault {
        writeln!(out, "  {}", serde_json::to_string(fault)?)?;
    }
    writeln!(out, "replay it: ringmesh-sim replay {}", file.display())?;
    Ok(())
}

/// A bar on a terminal, a line now and then elsewhere.
pub(crate) struct Progress {
    bar: ProgressBar,
    plain: bool,
}

/// Between two lines where there is no terminal, in parts of the whole.
const LINES: u64 = 10;

/// A run that ends sooner needs no such lines.
const TALKS_AFTER: Duration = Duration::from_secs(5);

impl Progress {
    pub(crate) fn new(count: u64, what: &str) -> Self {
        let plain = !stderr().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(count), target);
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} {per_sec}, {eta} to go");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what.to_owned());
        Self { bar, plain }
    }

    /// Of one run that takes so much virtual time.
    pub(crate) fn of_run(span: Duration) -> Self {
        let progress = Self::new(millis(span), "");
        let style = ProgressStyle::with_template("{bar:40} {msg} in {elapsed}, {eta} to go");
        progress.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        progress
    }

    /// The run has come so far.
    pub(crate) fn reach(&self, span: Duration) {
        let (before, now, all) = (self.bar.position(), millis(span), self.bar.length().unwrap_or(1).max(1));
        self.bar.set_position(now);
        self.bar.set_message(format!("{:.1} s", span.as_secs_f64()));
        let elapsed = self.bar.elapsed();
        if self.plain && elapsed >= TALKS_AFTER && now * LINES / all != before * LINES / all {
            let left = elapsed.as_secs_f64() / now.max(1) as f64 * all.saturating_sub(now) as f64;
            eprintln!("{:.1} s of {:.1} s of virtual time, {left:.0} s to go", span.as_secs_f64(), all as f64 / 1e3);
        }
    }

    pub(crate) fn unbounded(what: &str) -> Self {
        let progress = Self::new(0, what);
        let style = ProgressStyle::with_template("{pos} runs, {elapsed}: {msg}");
        progress.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        progress
    }

    pub(crate) fn step(&self) {
        self.bar.inc(1);
        let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(1).max(1));
        if self.plain && done * LINES / all != (done - 1) * LINES / all {
            let left = self.bar.elapsed().as_secs_f64() / done as f64 * (all - done) as f64;
            eprintln!("{done} of {all} {}, {left:.0} s to go", self.bar.message());
        }
    }

    /// Counts a run of unknown many and says how far it is.
    pub(crate) fn note(&self, what: &str) {
        self.bar.inc(1);
        let new = self.bar.message() != what;
        self.bar.set_message(what.to_owned());
        if self.plain && new {
            eprintln!("{} runs: {what}", self.bar.position());
        }
    }

    pub(crate) fn say(&self, line: &str) {
        if self.plain { eprintln!("{line}") } else { self.bar.println(line) }
    }

    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
