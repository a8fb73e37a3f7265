//! `make bench-agent`: the figures of the agent, measured at the real binary in labs on this machine.
//!
//! ```text
//!   lab 5×4   up ─ settle ─ idle ─ services killed ─ agents killed ─ (agents dead) serf in the same namespaces ─ down
//!   lab 32×4  up ─ settle ─ idle ─ down
//! ```
//!
//! What each figure means stands in docs/benchmarks.md. Nothing is asserted: a slow machine makes figures, no failure.

#[path = "../bench/mod.rs"]
mod bench;
mod observers;
mod serf;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use bench::table::{Aim, Figure, Table};
use bench::{
    idle::Idle,
    lab::{Lab, UPLINKS, beside, clear_up_on_signals, pids},
    process,
    sample::Sample,
};
use clap::Parser;
use observers::Observers;
use ringmesh_agentd::lab::{Fault, HostStatus, LabStatus, wait};
use ringmesh_proto::v1::{self, host::State, verdict::Value as Verdict};
use serf::Serf;

/// The lab's name, of which no other lab should have any.
const LAB: &str = "bench";

/// Longer than anything here takes; whoever waits so long has failed.
const LONG: Duration = Duration::from_secs(60);

const MB: f64 = 1e6;

/// Measures the agent in labs on this machine and prints its figures. Needs root.
#[derive(Parser)]
struct Arguments {
    /// The program `ringmesh` to measure; default: the one built beside this.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// The program `serf` to compare with; default: the one in PATH.
    #[arg(long, default_value = "serf")]
    serf: PathBuf,
    /// Seconds between the start of a lab and the idle figures.
    #[arg(long, default_value_t = 30)]
    settle: u64,
    /// Seconds over which processor time and traffic are counted.
    #[arg(long, default_value_t = 60)]
    window: u64,
    /// Services to kill, one after another.
    #[arg(long, default_value_t = 40)]
    kills: u16,
    /// Agents to kill, one after another, of each program.
    #[arg(long, default_value_t = 5)]
    host_kills: u16,
    /// Hosts of the large lab; 0 leaves it out.
    #[arg(long, default_value_t = 32)]
    large: u16,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    let binary = arguments.binary.take().or_else(beside).unwrap_or_else(|| "ringmesh".into());
    if let Err(problem) = clear_up_on_signals(LAB, || {}) {
        eprintln!("bench-agent: {problem}");
        return ExitCode::FAILURE;
    }
    let load = process::load();
    println!("Machine: {}, load {load}", process::machine());
    println!("Binary:  {}\n", binary.display());
    let mut figures = Table::default();
    let mut peers = Table::default();
    let result = small(&arguments, &binary, &mut figures, &mut peers)
        .and_then(|()| if arguments.large == 0 { Ok(()) } else { large(&arguments, &binary, &mut figures) });
    // Also after a failure: what was measured is worth having.
    println!("{}", figures.render(["figure", "measured", "target", "measured/target"]));
    println!("{}", peers.render(["against serf, 5 agents", "ringmesh", "serf", "ringmesh/serf"]));
    println!("Load at the start {load}, at the end {}.", process::load());
    println!("{} of {} targets missed.", figures.missed, figures.targets);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("bench-agent: {problem}; some figures are missing");
            ExitCode::FAILURE
        }
    }
}

/// The lab of 5 hosts with 4 containers each.
fn small(arguments: &Arguments, binary: &Path, figures: &mut Table, peers: &mut Table) -> Result<(), String> {
    let size = binary.metadata().map_err(|error| format!("find {}: {error}", binary.display()))?.len();
    figures.row("size of the binary", Figure(size as f64 / MB, "MB"), Aim::Target(20.0));
    let (lab, took) = Lab::up(LAB, binary, 5, 4)?;
    figures.row("lab 5×4 up", Figure(took.as_secs_f64(), "s"), Aim::Target(20.0));
    let idle = Idle::measure(arguments.settle, arguments.window, &pids(&lab.status()?.hosts)?, &UPLINKS)?;
    let label = |what: &str| format!("idle agent of 5×4: {what}");
    let rss = &idle.rss;
    figures.row(&label("RSS, mean"), Figure(rss.mean(), "MB"), Aim::None);
    figures.row(&label("RSS, most of one"), Figure(rss.max(), "MB"), Aim::Target(25.0));
    figures.row(&label("RSS of it alone, mean"), Figure(idle.alone.mean(), "MB"), Aim::None);
    figures.row(&label("of it no file's, mean"), Figure(idle.anonymous.mean(), "MB"), Aim::None);
    figures.row(&label("PSS, mean"), Figure(idle.pss.mean(), "MB"), Aim::None);
    figures.row(&label("CPU, mean"), Figure(idle.cpu.mean(), "% of a core"), Aim::None);
    figures.row(&label("CPU, most of one"), Figure(idle.cpu.max(), "% of a core"), Aim::Target(0.5));
    figures.row(&label("waits of its threads"), Figure(idle.waits, "/s"), Aim::None);
    figures.row(&label("threads"), Figure(idle.threads, ""), Aim::None);
    for (uplink, (bytes, packets)) in ["a", "b"].iter().zip(&idle.traffic) {
        figures.row(&label(&format!("sent on uplink {uplink}")), Figure(*bytes, "B/s"), Aim::None);
        figures.row(&label(&format!("sent on uplink {uplink}, frames")), Figure(*packets, "/s"), Aim::None);
    }
    let (bytes, frames) = idle.sent();
    figures.row(&label("sent, mean"), Figure(bytes / 1000.0, "kB/s"), Aim::Later(8.0));

    services_killed(&lab, arguments.kills, figures)?;
    let down = agents_killed(&lab, arguments.host_kills, figures)?;

    for host in &lab.status()?.hosts {
        lab.fault(&Fault::Kill { host: host.name.clone() })?;
    }
    match against_serf(arguments, &lab) {
        Ok(serf) => {
            peers.note("version", &format!("this binary / {}", serf.version));
            let idle_serf = &serf.idle;
            peers.compare("idle: RSS, mean", Some(rss.mean()), idle_serf.rss.mean(), "MB");
            peers.compare("idle: PSS, mean", Some(idle.pss.mean()), idle_serf.pss.mean(), "MB");
            peers.compare("idle: CPU, mean", Some(idle.cpu.mean()), idle_serf.cpu.mean(), "% of a core");
            let (serf_bytes, serf_frames) = idle_serf.sent();
            peers.compare("idle: sent", Some(bytes), serf_bytes, "B/s");
            peers.compare("idle: frames sent", Some(frames), serf_frames, "/s");
            let quantile = |sample: &Option<Sample>, share| sample.as_ref().map(|sample| sample.quantile(share));
            for (name, share) in [("median", 0.5), ("most", 1.0)] {
                let name = format!("agent killed, all others know: {name} of {}", arguments.host_kills);
                if let Some(theirs) = quantile(&serf.down, share) {
                    peers.compare(&name, quantile(&down, share), theirs, "s");
                }
            }
        }
        Err(problem) => {
            eprintln!("bench-agent: NO COMPARISON WITH SERF: {problem}");
            peers.note("NOT COMPARED", &problem);
        }
    }
    Ok(())
}

/// The lab of 32 hosts with 4 containers each.
fn large(arguments: &Arguments, binary: &Path, figures: &mut Table) -> Result<(), String> {
    let hosts = arguments.large;
    let (lab, took) = Lab::up(LAB, binary, hosts, 4)?;
    figures.row(&format!("lab {hosts}×4 up"), Figure(took.as_secs_f64(), "s"), Aim::Target(60.0));
    let idle = Idle::measure(arguments.settle, arguments.window, &pids(&lab.status()?.hosts)?, &UPLINKS)?;
    let label = |what: &str| format!("{hosts} idle agents: {what}");
    figures.row(&label("RSS, sum"), Figure(idle.rss.sum(), "MB"), Aim::Target(600.0));
    figures.row(&label("RSS of them alone, sum"), Figure(idle.alone.sum(), "MB"), Aim::None);
    figures.row(&label("PSS, sum"), Figure(idle.pss.sum(), "MB"), Aim::None);
    figures.row(&label("of it no file's, sum"), Figure(idle.anonymous.sum(), "MB"), Aim::None);
    figures.row(&label("CPU, mean of one"), Figure(idle.cpu.mean(), "% of a core"), Aim::None);
    figures.row(&label("CPU, sum"), Figure(idle.cpu.sum(), "% of a core"), Aim::None);
    figures.row(&label("sent by one, mean"), Figure(idle.sent().0 / 1000.0, "kB/s"), Aim::Later(8.0));
    Ok(())
}

/// Kills services in turn, each at another moment between two probes, while all hosts are watched.
fn services_killed(lab: &Lab, kills: u16, figures: &mut Table) -> Result<(), String> {
    let hosts = lab.status()?.hosts;
    let observers = Observers::<v1::Service>::open(&hosts)?;
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let probe = wait_for_probe(&hosts[0])?;
    let interval = duration(probe.interval);
    let limit = interval * probe.threshold_down + Duration::from_millis(500);
    for kill in 0..kills {
        let host = &hosts[usize::from(kill) % hosts.len()].name;
        let container = format!("{host}-c{}", usize::from(kill) / hosts.len() % 4 + 1);
        // By the golden ratio, moments spread evenly however many there are.
        thread::sleep(interval.mul_f64((f64::from(kill) * 0.618_034).fract()));
        let is = |wanted: Verdict| {
            let container = &container;
            move |service: &v1::Service| service.container == *container && service.verdict() == wanted
        };
        let start = Instant::now();
        lab.fault(&Fault::KillService { host: host.clone(), container: container.clone() })?;
        let told = observers.until("a killed service is critical", start, LONG, is(Verdict::Critical))?;
        let delays: Vec<_> = told.iter().map(|at| at.duration_since(start).as_secs_f64()).collect();
        let sample = Sample::new(delays).ok_or("no host told")?;
        first.push(sample.quantile(0.0));
        last.push(sample.max());
        let start = Instant::now();
        lab.fault(&Fault::StartService { host: host.clone(), container: container.clone() })?;
        observers.until("a started service is passing", start, LONG, is(Verdict::Passing))?;
    }
    let name = format!("service killed ({kills} times) → critical");
    let spread = first.iter().zip(&last).map(|(first, last)| (last - first) * 1000.0);
    let spread = Sample::new(spread).map(|sample| sample.max());
    let Some(last) = Sample::new(last) else { return Ok(()) };
    for (share_name, share, aim) in quantiles(limit.as_secs_f64()) {
        figures.row(&format!("{name} at every host: {share_name}"), Figure(last.quantile(share), "s"), aim);
    }
    let name = "  from the first host that knows to the last: most";
    figures.row(name, Figure(spread.unwrap_or_default(), "ms"), Aim::None);
    Ok(())
}

/// Kills agents in turn while all others are watched, and returns how long the last of the others took.
fn agents_killed(lab: &Lab, kills: u16, figures: &mut Table) -> Result<Option<Sample>, String> {
    let mut last = Vec::new();
    for kill in 0..kills {
        let hosts = lab.status()?.hosts;
        let victim = hosts[usize::from(kill) % hosts.len()].name.clone();
        let others: Vec<_> = hosts.iter().filter(|host| host.name != victim).cloned().collect();
        let observers = Observers::<v1::Host>::open(&others)?;
        let start = Instant::now();
        lab.fault(&Fault::Kill { host: victim.clone() })?;
        let down = |host: &v1::Host| host.name == victim && host.state() == State::Down;
        let told = observers.until("a host whose agent was killed is down", start, LONG, down)?;
        last.extend(told.iter().max().map(|at| at.duration_since(start).as_secs_f64()));
        lab.fault(&Fault::Start { host: victim.clone() })?;
        until_well(lab)?;
        // So that the next kill meets agents at rest.
        thread::sleep(Duration::from_secs(5));
    }
    let name = format!("agent killed ({kills} times) → down at every other host");
    let sample = Sample::new(last);
    if let Some(sample) = &sample {
        for (share_name, share, aim) in quantiles(3.0) {
            let aim = if let Aim::Target(target) = aim { Aim::Later(target) } else { Aim::None };
            figures.row(&format!("{name}: {share_name}"), Figure(sample.quantile(share), "s"), aim);
        }
    }
    Ok(sample)
}

fn quantiles(target: f64) -> [(&'static str, f64, Aim); 4] {
    let none = Aim::None;
    [("least", 0.0, none), ("median", 0.5, none), ("p99", 0.99, none), ("most", 1.0, Aim::Target(target))]
}

/// What serf does in the namespaces of the lab, whose agents are dead.
struct Compared {
    version: String,
    idle: Idle,
    down: Option<Sample>,
}

fn against_serf(arguments: &Arguments, lab: &Lab) -> Result<Compared, String> {
    let program = &arguments.serf;
    let version = bench::serf::version(program)?;
    let hosts = lab.status()?.hosts;
    let mut serf = Serf::up(program, &hosts)?;
    let idle = Idle::measure(arguments.settle, arguments.window, &serf.pids(), &[serf::INTERFACE])?;
    let mut last = Vec::new();
    for kill in 0..arguments.host_kills {
        let told = serf.kill(usize::from(kill) % hosts.len())?;
        last.extend(told.iter().max().map(Duration::as_secs_f64));
        thread::sleep(Duration::from_secs(5));
    }
    Ok(Compared { version: format!("serf {version}"), idle, down: Sample::new(last) })
}

/// Waits until every host sees all hosts alive and their services passing.
fn until_well(lab: &Lab) -> Result<(), String> {
    let LabStatus { hosts, containers, .. } = lab.status()?;
    let well = wait::until::<v1::Host>(&hosts.iter().collect::<Vec<_>>(), LONG, |_, seen| {
        let passing = |host: &&v1::Host| host.digest.is_some_and(|digest| digest.passing == u32::from(containers));
        let well = seen.values().filter(|host| host.state() == State::Alive).filter(passing).count();
        if well == hosts.len() { Ok(()) } else { Err(format!("{well} of {} hosts are well", hosts.len())) }
    });
    well.map_err(|error| error.to_string())
}

/// The probe of the first service that a host tells of.
fn wait_for_probe(host: &HostStatus) -> Result<v1::Probe, String> {
    let probe = std::sync::Mutex::new(None);
    let found = wait::until::<v1::Service>(&[host], LONG, |_, seen| {
        let first = seen.values().find_map(|service| service.probe.clone()).ok_or("no service has a probe")?;
        probe.lock().map_err(|error| error.to_string())?.replace(first);
        Ok(())
    });
    found.map_err(|error| error.to_string())?;
    probe.into_inner().ok().flatten().ok_or_else(|| "no service has a probe".to_owned())
}

fn duration(duration: Option<prost_types::Duration>) -> Duration {
    duration.and_then(|duration| duration.try_into().ok()).unwrap_or_default()
}
