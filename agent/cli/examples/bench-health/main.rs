//! `make bench-health`: one host that probes tens of thousands of containers, and how soon others hear of a failure.
//!
//! ```text
//!   lab of 3 hosts ─ h1 gets 32,000 containers ─ all passing ─ idle ─ services end ─ h1 gets 2,000 ─ idle ─ lab down
//!                                                              prometheus and blackbox exporter, the same 2,000 ─┘
//! ```
//!
//! The containers are declared network namespaces, 500 services in each, every service a listening socket of its own; half of
//! them are probed by HTTP, half by TCP. What each figure means stands in docs/benchmarks.md. Nothing is asserted.

#[path = "../bench/mod.rs"]
#[expect(dead_code, reason = "the other benches print more of what is measured")]
mod bench;
mod prober;
mod responder;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use bench::{
    idle::Idle,
    lab::{Lab, UPLINKS, beside, clear_up_on_signals, pids},
    process,
    sample::Sample,
    table::{Aim, Figure, Table},
};
use clap::Parser;
use prober::Prometheus;
use responder::{Responder, address, respond};
use ringmesh_agentd::lab::{Fault, HostStatus, LabStatus, wait};
use ringmesh_proto::v1;

/// The lab's name, of which no other lab should have any.
const LAB: &str = "bench-health";

/// Services of one namespace.
const PER_NETNS: u32 = 500;

/// Between two probes of a service.
const INTERVAL: Duration = Duration::from_secs(10);

/// Until all services of a full host have been found passing.
const LONG: Duration = Duration::from_secs(120);

/// Measures the probes of one host with many containers. Needs root.
#[derive(Parser)]
struct Arguments {
    /// The program `ringmesh` to measure; default: the one built beside this.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where Debian's packages prometheus and prometheus-blackbox-exporter are unpacked; default: `bench` in the target
    /// directory.
    #[arg(long)]
    unpacked: Option<PathBuf>,
    /// Containers of the full host.
    #[arg(long, default_value_t = 32_000, value_parser = clap::value_parser!(u32).range(1..=32_000))]
    containers: u32,
    /// Containers of the host that is compared with prometheus; 0 leaves the comparison out.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(0..=5_000))]
    compared: u32,
    /// Seconds between all passing and the idle figures.
    #[arg(long, default_value_t = 30)]
    settle: u64,
    /// Seconds over which processor time, traffic and probes are counted.
    #[arg(long, default_value_t = 600)]
    window: u64,
    /// Services that are ended, one after another.
    #[arg(long, default_value_t = 10)]
    failures: u32,
    /// What the bench starts in each namespace.
    #[arg(long, hide = true)]
    respond: Option<u32>,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    if let Some(services) = arguments.respond {
        return match respond(services) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("bench-health: the responder ended: {error}");
                ExitCode::FAILURE
            }
        };
    }
    if let Err(problem) = clear_up_on_signals(LAB, || {}) {
        eprintln!("bench-health: {problem}");
        return ExitCode::FAILURE;
    }
    let binary = arguments.binary.take().or_else(beside).unwrap_or_else(|| "ringmesh".into());
    let load = process::load();
    println!("Machine: {}, load {load}", process::machine());
    println!("Binary:  {}\n", binary.display());
    let mut figures = Table::default();
    let mut peers = Table::default();
    let result = Lab::up(LAB, &binary, 3, 0).and_then(|(lab, _)| {
        full(&arguments, &lab, &mut figures)?;
        if arguments.compared == 0 { Ok(()) } else { compared(&arguments, &lab, &mut peers) }
    });
    // Also after a failure: what was measured is worth having.
    println!("{}", figures.render(["figure", "measured", "target", "measured/target"]));
    let against = format!("{} services probed by HTTP", arguments.compared);
    println!("{}", peers.render([&against, "ringmesh", "prometheus", "ringmesh/prometheus"]));
    println!("Load at the start {load}, at the end {}.", process::load());
    println!("{} of {} targets missed.", figures.missed, figures.targets);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("bench-health: {problem}; some figures are missing");
            ExitCode::FAILURE
        }
    }
}

/// The host with all of its containers.
fn full(arguments: &Arguments, lab: &Lab, figures: &mut Table) -> Result<(), String> {
    let number = arguments.containers;
    let mut responders = Responders::start(number, PER_NETNS)?;
    let took = employ(lab, &responders, number, Kind::Both)?;
    figures.row("agent killed, started with all → all passing", Figure(took.as_secs_f64(), "s"), Aim::None);

    eprintln!("    settles for {} s", arguments.settle);
    thread::sleep(Duration::from_secs(arguments.settle));
    let before = (responders.count()?, Instant::now());
    let status = lab.status()?;
    let idle = Idle::measure(0, arguments.window, &pids(&status.hosts[..1])?, &UPLINKS)?;
    let probes = (responders.count()? - before.0) as f64 / before.1.elapsed().as_secs_f64();
    let label = |what: &str| format!("{number} containers: {what}");
    figures.row(&label("CPU"), Figure(idle.cpu.mean(), "% of a core"), Aim::Target(50.0));
    figures.row(&label("RSS"), Figure(idle.rss.mean(), "MB"), Aim::Target(250.0));
    figures.row(&label("of it no file's"), Figure(idle.anonymous.mean(), "MB"), Aim::None);
    figures.row(&label("waits of its threads"), Figure(idle.waits, "/s"), Aim::None);
    figures.row(&label("probes"), Figure(probes, "/s"), Aim::None);
    let due = f64::from(number) / INTERVAL.as_secs_f64();
    figures.row(
        &label("probes missing of those due"),
        Figure((100.0 - probes / due * 100.0).max(0.0), "%"),
        Aim::Target(0.0),
    );
    figures.row(&label("CPU for 1,000 probes"), Figure(idle.cpu.mean() * 10.0 / probes, "s"), Aim::Later(0.1));
    figures.row(&label("sent"), Figure(idle.sent().0 / 1000.0, "kB/s"), Aim::Target(2.0));

    failures(arguments, &status, &mut responders, figures)?;
    // vROps 6.6.1, one node of the size "large"; its successor of 2024 takes 44,000 on the same.
    figures.note("for comparison: a central monitor of 15,000 objects, as its maker sizes it", "16 cores, 48 GB");
    Ok(())
}

/// Ends services one after another; how long it takes until every host has the event.
fn failures(
    arguments: &Arguments,
    status: &LabStatus,
    responders: &mut Responders,
    figures: &mut Table,
) -> Result<(), String> {
    let hosts: Vec<&HostStatus> = status.hosts.iter().collect();
    let mut took = Vec::new();
    for nth in 0..arguments.failures {
        let service = nth * (arguments.containers / arguments.failures.max(1));
        let name = container(service);
        // Spread evenly over the moments between two probes.
        thread::sleep(INTERVAL / arguments.failures.max(1));
        let start = Instant::now();
        responders.close(service)?;
        let told = |event: &v1::Event| event.container == name && event.severity() == v1::event::Severity::Critical;
        wait::until_event(&hosts, LONG, told).map_err(|error| error.to_string())?;
        took.push(start.elapsed().as_secs_f64());
        eprintln!("    failure {}: known everywhere after {:.2} s", nth + 1, took[nth as usize]);
        responders.open(service)?;
    }
    if let Some(took) = Sample::new(took) {
        let target = Aim::Target(INTERVAL.as_secs_f64() + 0.5);
        figures.row("service ended → event at every host: median", Figure(took.quantile(0.5), "s"), Aim::None);
        figures.row("service ended → event at every host: most", Figure(took.max(), "s"), target);
    }
    Ok(())
}

/// The same services probed by ringmesh and by what Debian has.
fn compared(arguments: &Arguments, lab: &Lab, peers: &mut Table) -> Result<(), String> {
    let number = arguments.compared;
    let responders = Responders::start(number, number)?;
    employ(lab, &responders, number, Kind::Http)?;
    let window = arguments.window.min(120);
    let ours = Idle::measure(arguments.settle, window, &pids(&lab.status()?.hosts[..1])?, &UPLINKS)?;
    lab.fault(&Fault::Kill { host: "h1".into() })?;

    let unpacked =
        arguments.unpacked.clone().or_else(|| Some(std::env::current_exe().ok()?.ancestors().nth(3)?.join("bench")));
    let unpacked = unpacked.unwrap_or_default();
    let netns = responders.of(0).netns().to_owned();
    let prometheus = Prometheus::start(&unpacked, &netns, number, INTERVAL.as_secs());
    let theirs = prometheus.and_then(|programs| Idle::measure(arguments.settle, window, &programs.pids(), &[]));
    match theirs {
        Ok(theirs) => {
            peers.compare("RSS", Some(ours.rss.mean()), theirs.rss.sum(), "MB");
            peers.compare("CPU", Some(ours.cpu.mean()), theirs.cpu.sum(), "% of a core");
        }
        Err(problem) => {
            eprintln!("bench-health: NO COMPARISON WITH PROMETHEUS: {problem}");
            peers.note("NOT COMPARED", &problem);
        }
    }
    Ok(())
}

/// How services are probed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    /// One by HTTP, one by TCP, and so on.
    Both,
}

/// Starts h1 anew with so many containers; how long it takes until another host knows that all of them pass.
fn employ(lab: &Lab, responders: &Responders, containers: u32, kind: Kind) -> Result<Duration, String> {
    let config = lab.status()?.dir.join("h1/agent.toml");
    let own = config.with_extension("own");
    let io = |error: std::io::Error| format!("write {}: {error}", config.display());
    if !own.exists() {
        fs::copy(&config, &own).map_err(io)?;
    }
    let mut text = fs::read_to_string(&own).map_err(io)?;
    for nth in 0..containers {
        let (name, netns, address) = (container(nth), responders.of(nth).netns(), address(nth % responders.each));
        let http = kind == Kind::Http || nth % 2 == 0;
        let check = if http { format!("http = {{ address = \"{address}\" }}") } else { format!("tcp = \"{address}\"") };
        // A String takes whatever is written.
        let _ = write!(
            text,
            "\n[[container]]\nname = \"{name}\"\nlabels = {{ app = \"bench\" }}\ndeclared = {{ netns = \"/run/netns/{netns}\" }}\n\
             [[container.service]]\nname = \"web\"\ninterval = \"{}s\"\ntimeout = \"1s\"\nthreshold_down = 1\n\
             {check}\n",
            INTERVAL.as_secs()
        );
    }
    fs::write(&config, text).map_err(io)?;
    if lab.status()?.hosts[0].pid.is_some() {
        lab.fault(&Fault::Kill { host: "h1".into() })?;
    }
    let start = Instant::now();
    lab.fault(&Fault::Start { host: "h1".into() })?;
    eprintln!("    h1 runs with {containers} containers");
    let status = lab.status()?;
    let all = |_: &HostStatus, hosts: &BTreeMap<String, v1::Host>| {
        let passing = hosts.get("h1").and_then(|host| host.digest.as_ref()).map_or(0, |digest| digest.passing);
        if passing == containers { Ok(()) } else { Err(format!("{passing} of {containers} services pass")) }
    };
    wait::until::<v1::Host>(&[&status.hosts[1]], LONG, all).map_err(|error| error.to_string())?;
    Ok(start.elapsed())
}

fn container(nth: u32) -> String {
    format!("c{nth:05}")
}

/// All that answer, in namespaces of `each` services.
struct Responders {
    each: u32,
    all: Vec<Responder>,
}

impl Responders {
    fn start(services: u32, each: u32) -> Result<Self, String> {
        let namespaces = services.div_ceil(each);
        eprintln!("    {services} services in {namespaces} namespaces");
        let start = |nth: u32| Responder::start(&format!("rm-{LAB}-c{nth}"), each.min(services - nth * each));
        Ok(Self { each, all: (0..namespaces).map(start).collect::<Result<_, _>>()? })
    }

    fn of(&self, service: u32) -> &Responder {
        &self.all[(service / self.each) as usize]
    }

    fn close(&mut self, service: u32) -> Result<(), String> {
        self.all[(service / self.each) as usize].close(service % self.each)
    }

    fn open(&mut self, service: u32) -> Result<(), String> {
        self.all[(service / self.each) as usize].open(service % self.each)
    }

    fn count(&mut self) -> Result<u64, String> {
        self.all.iter_mut().map(Responder::count).sum()
    }
}
