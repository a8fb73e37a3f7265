//! Very many real containers on one host: all come up, some are harmed in each round, and in the end nothing is left.
//!
//! ```text
//!   lab of 2 hosts ─ h1 gets N containers ─ all pass ─┬─ round: some end, services of others end ─ all pass ─┬─ lab down
//!                                                     └── in one of them h1's agent ends as well ◄───────────┘
//! ```
//!
//! `make test-root` runs it with 1,000 containers, `make soak` with 4,000 and more rounds. Each container has namespaces and
//! control groups, an interface on a bridge, and a web server that is probed every 10 s. What a host's processes are is for
//! `processes.rs` to find out.

#[allow(dead_code)] // It has more than is needed here.
#[path = "../common/mod.rs"]
mod common;
mod processes;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use common::{LONG, Lab, Past, Traces};
use processes::{Figures, Processes, child, figures, kill_hard, shims};
use ringmesh_agentd::{
    config::{Alarm, Config, Container, Kind, Network, RepairMode, Service, Tcp},
    lab::{Fault, HostStatus, wait},
    runtime,
};
use ringmesh_proto::v1::{self, container::State, event::Severity, verdict::Value as Verdict};

const LAB: &str = "soak";
const H1: &str = "h1";
const BOTH: [&str; 2] = ["h1", "h2"];

/// Containers on a bridge: it has at most 1,024 ports, and its network is a /24.
const PER_BRIDGE: usize = 250;

/// Containers that end in a round, and as many of which the service ends. Each of the first is eight changes until it is well;
/// beyond 50 at once they are told as a number, without names.
const HARMED: usize = 6;

/// What an agent may have grown by since all was well for the first time in its life: it keeps events, operations and changes of
/// checks up to their bounds, which are not reached here.
const GROWTH: u64 = 8 << 20;

/// Descriptors that are no container's: the same again for calls and probes that are just under way.
const DESCRIPTORS: u64 = 100;

#[test]
#[ignore = "needs root"]
fn very_many_containers_come_up_are_repaired_and_leave_nothing() {
    let (number, rounds) = (from_environment("RINGMESH_SOAK", 1000), from_environment("RINGMESH_SOAK_ROUNDS", 3));
    assert!(number >= 100, "of fewer too many would be sick at once");
    let before = Traces::of(LAB);
    let soak = Soak::start(number);
    let restart = (rounds - 1) / 2;
    let mut first = soak.well("all are up");
    for nth in 0..rounds {
        soak.round(nth, nth == restart);
        let now = soak.well(&format!("round {} of {rounds}", nth + 1));
        if nth == restart {
            first = now;
        }
        assert!(now.rss <= first.rss + GROWTH, "the agent grows: {now}, and first {first}");
    }
    let instance = soak.instance();
    let begin = Instant::now();
    drop(soak);
    eprintln!("{:>6.1} s  all removed", begin.elapsed().as_secs_f32());
    assert_eq!(Processes::of(&instance).all, BTreeMap::new());
    assert_eq!(Traces::of(LAB), before);
}

fn from_environment(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
        Err(_) => default,
    }
}

/// What h1 has of its containers, by their names.
type Containers = BTreeMap<String, v1::Container>;

struct Soak {
    lab: Lab,
    number: usize,
}

impl Soak {
    /// Returns when both hosts know that all containers run and pass.
    fn start(number: usize) -> Self {
        let soak = Self { lab: Lab::up(LAB, 2, 1), number };
        let past = soak.lab.past(&BOTH);
        soak.lab.fault(&Fault::Kill { host: H1.into() });
        let path = soak.lab.status().dir.join("h1/agent.toml");
        let mut config = Config::load(&path).expect("the lab wrote it");
        soak.employ(&mut config);
        fs::write(&path, config.to_toml()).expect("it is ours");
        soak.lab.fault(&Fault::Start { host: H1.into() });
        soak.until_all_pass();
        soak.nothing_false(&past, &BTreeSet::new());
        soak
    }

    /// The lab's container is the first, and the model of all others.
    fn employ(&self, config: &mut Config) {
        config.repair.mode = RepairMode::Automatic;
        config.repair.limits.host_actions = 100_000;
        config.repair.limits.at_once = 16;
        config.containers[0].services = services(config.containers[0].services[0].clone());
        let model = config.containers[0].clone();
        config.containers.extend((1..self.number).map(|nth| container(&model, nth)));
    }

    fn until_all_pass(&self) {
        let agent = self.agent();
        let (begin, number) = (Instant::now(), self.number as u32);
        let largest_shim = Mutex::new(Figures::default());
        self.until::<v1::Host>("all containers run and pass", &BOTH, |_, hosts| {
            let mut largest = lock(&largest_shim);
            *largest = shims(agent).into_iter().fold(*largest, Figures::max);
            let digest = hosts.get(H1).and_then(|host| host.digest).unwrap_or_default();
            let all = (digest.running, digest.passing) == (number, digest.services) && digest.containers == number;
            if all { Ok(()) } else { Err(format!("{digest:?}")) }
        });
        let times = self.containers().into_values().filter_map(|container| container.started_at);
        let times: BTreeSet<i128> =
            times.map(|at| i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos)).collect();
        // The first was there before.
        let begun = times.iter().nth(1).zip(times.last());
        let took = begun.map_or(0.0, |(first, last)| (last - first) as f64 / 1e9);
        eprintln!(
            "{:>6.1} s  all containers run and pass: {} in {took:.1} s, {:.0} a second; a shim has at the most {}",
            begin.elapsed().as_secs_f32(),
            self.number - 1,
            (self.number - 2) as f64 / took,
            lock(&largest_shim),
        );
    }

    /// Harms some containers, waits until all are well, and looks what became of the others.
    fn round(&self, nth: usize, with_agent: bool) {
        let before = self.containers();
        let (past, verdicts) = (self.lab.past(&BOTH), self.verdicts());
        let names: Vec<&String> = before.keys().collect();
        let spread = names.len() / (2 * HARMED);
        let harmed: Vec<&str> = (0..2 * HARMED).map(|i| names[(i * spread + nth) % names.len()].as_str()).collect();
        let half = |which: usize| harmed.iter().skip(which).step_by(2).copied().collect::<Vec<&str>>();
        // Of one half the first process is killed, of the other the service.
        let (ending, losing) = (half(0), half(1));

        let begin = Instant::now();
        let harm = |part: usize| {
            ending.iter().skip(part).step_by(2).for_each(|name| kill_hard(before[*name].pid));
            losing.iter().skip(part).step_by(2).for_each(|name| kill_hard(server(&before[*name]).expect("it serves")));
        };
        harm(0);
        if with_agent {
            let started = |event: &v1::Event| event.kind == "operation-started" && event.host == H1;
            self.lab.until_event("repair has begun", &[H1], &past, started);
            self.lab.fault(&Fault::Kill { host: H1.into() });
        }
        harm(1);
        if with_agent {
            self.lab.fault(&Fault::Start { host: H1.into() });
        }
        self.until::<v1::Container>("all are well again", &[H1], |_, seen| {
            let of = |name: &str| seen.get(&key(name)).ok_or_else(|| format!("{name} is not there"));
            for name in &ending {
                if of(name)?.pid == before[*name].pid {
                    return Err(format!("{name} has the process that was killed"));
                }
            }
            for name in &losing {
                server(of(name)?).ok_or_else(|| format!("{name} serves nothing"))?;
            }
            let sick = seen.values().find(|container| container.host == H1 && !is_well(container));
            sick.map_or(Ok(()), |container| Err(format!("{container:?}")))
        });
        eprintln!("{:>6.1} s  {} are well again", begin.elapsed().as_secs_f32(), 2 * HARMED);

        let after = self.containers();
        assert!(before.keys().eq(after.keys()), "none is lost, and none has come");
        for (name, container) in &after {
            let same = (container.pid, container.started_at) == (before[name].pid, before[name].started_at);
            assert_eq!(same, !ending.contains(&name.as_str()), "{:?}, and now {container:?}", before[name]);
        }
        let harmed = harmed.into_iter().collect();
        self.nothing_false(&past, &harmed);
        // What is told as a number only is seen here. An agent that takes over judges all of them anew.
        let changed = self.verdicts().into_iter().filter(|(key, at)| verdicts.get(key) != Some(at));
        let changed: BTreeSet<String> = changed.map(|((container, _), _)| container).collect();
        let false_ones: Vec<_> = changed.iter().filter(|name| !harmed.contains(name.as_str())).collect();
        assert!(with_agent || false_ones.is_empty(), "verdicts changed in {false_ones:?}");
    }

    /// When the verdict of each service of h1 changed last, by its container and name.
    fn verdicts(&self) -> BTreeMap<(String, String), Option<(i64, i32)>> {
        let all = Mutex::new(BTreeMap::new());
        self.until::<v1::Service>("h1 lists its services", &[H1], |_, seen| {
            let of_h1 = seen.values().filter(|service| service.host == H1);
            let key = |service: &v1::Service| (service.container.clone(), service.name.clone());
            let at = |service: &v1::Service| service.last_change.as_ref().map(|at| (at.seconds, at.nanos));
            *lock(&all) = of_h1.map(|service| (key(service), at(service))).collect();
            let listed = lock(&all).len();
            if listed == 2 * self.number { Ok(()) } else { Err(format!("{listed} services")) }
        });
        all.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// No host was told anything bad of a container that was not harmed, or did anything to it.
    fn nothing_false(&self, past: &Past, harmed: &BTreeSet<&str>) {
        let bad = |event: &v1::Event| {
            let untouched = !event.container.is_empty() && !harmed.contains(event.container.as_str());
            let about = untouched && (event.severity() == Severity::Critical || event.kind.starts_with("operation-"));
            past.lacks(event) && (about || event.kind == "repair-stopped")
        };
        for host in BOTH {
            let events = wait::events(&self.lab.host(host)).expect("it answers");
            let bad: Vec<&String> = events.iter().filter(|event| bad(event)).map(|event| &event.text).collect();
            assert!(bad.is_empty(), "{host} was told: {bad:#?}");
        }
    }

    /// What the agent needs while all is well, and that there is one of each container, and nothing else.
    fn well(&self, when: &str) -> Figures {
        let agent = self.agent();
        // The last shim and the last restart of a service may be just about to end.
        let quiet = wait::until_true(LONG, || shims(agent).is_empty());
        assert!(quiet, "shims are left: {:?}", shims(agent));
        let containers = self.containers();
        let processes = Processes::of(&self.instance());
        let running: BTreeMap<&str, Vec<u32>> =
            containers.iter().map(|(name, container)| (name.as_str(), vec![container.pid])).collect();
        let inits: BTreeMap<&str, Vec<u32>> =
            processes.all.iter().map(|(name, processes)| (name.as_str(), processes.inits.clone())).collect();
        assert_eq!(inits, running, "each runs once, and is the one that the agent knows");
        let most = processes.all.values().map(|processes| processes.number).max();
        let figures = figures(agent);
        let (number, others) = (self.number as u64, figures.descriptors.saturating_sub(self.number as u64));
        assert!(others <= DESCRIPTORS, "{figures} for {number} containers");
        let total: usize = processes.all.values().map(|processes| processes.number).sum();
        eprintln!("          {when}: the agent has {figures}, the containers {total} processes, at most {most:?} each");
        figures
    }

    fn containers(&self) -> Containers {
        let all = Mutex::new(Containers::new());
        self.until::<v1::Container>("h1 lists its containers", &[H1], |_, seen| {
            let of_h1 = seen.values().filter(|container| container.host == H1);
            *lock(&all) = of_h1.map(|container| (container.name.clone(), container.clone())).collect();
            let listed = lock(&all).len();
            if listed == self.number { Ok(()) } else { Err(format!("{listed} containers")) }
        });
        all.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Lab::until`], with more patience for more containers.
    fn until<T: wait::Watched>(
        &self,
        what: &str,
        observers: &[&str],
        expect: impl Fn(&HostStatus, &wait::Seen<T>) -> Result<(), String> + Sync,
    ) {
        let hosts: Vec<HostStatus> = observers.iter().map(|name| self.lab.host(name)).collect();
        let patience = LONG + Duration::from_millis(100) * self.number as u32;
        let done = wait::until(&hosts.iter().collect::<Vec<_>>(), patience, expect);
        done.unwrap_or_else(|error| panic!("{what}: {error}"));
    }

    fn agent(&self) -> u32 {
        self.lab.host(H1).pid.expect("its agent runs")
    }

    /// What the containers' control groups are named after.
    fn instance(&self) -> String {
        runtime::instance(&self.lab.status().dir.join("h1/state"))
    }
}

/// A web server needs a moment, or a minute where thousands start at once, and nothing is held against it before. Another agent that takes over begins
/// with this, too, so that it has the same restart command.
fn services(model: Service) -> Vec<Service> {
    let address = model.http.as_ref().expect("the lab's web server").address;
    let boot = Service {
        kind: Kind::Startup,
        interval: Duration::from_secs(1),
        threshold_down: 60,
        restart: model.restart.clone(),
        tcp: Some(Tcp { address, send: None, send_hex: None, expect: None }),
        ..Service::new("boot")
    };
    let web = Service {
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(2),
        threshold_down: 3,
        alarm: Alarm::AtOnce,
        ..model
    };
    vec![boot, web]
}

fn container(model: &Container, nth: usize) -> Container {
    let mut new = Container { name: format!("h1-c{}", nth + 1), ..model.clone() };
    let oci = new.oci.as_mut().expect("it is one");
    for argument in &mut oci.args {
        // By this mark the lab finds what it must end.
        if let Some(mark) = argument.strip_suffix(&model.name) {
            *argument = format!("{mark}{}", new.name);
        }
    }
    let (bridge, host) = (nth / PER_BRIDGE, nth % PER_BRIDGE + 2);
    new.network = Some(Network {
        bridge: format!("soak{bridge}"),
        address: format!("10.201.{bridge}.{host}/24"),
        gateway: Some([10, 201, bridge as u8, 1].into()),
    });
    new
}

/// The process that serves in a container.
fn server(container: &v1::Container) -> Option<u32> {
    child(container.pid, "httpd")
}

fn is_well(container: &v1::Container) -> bool {
    let runs = container.state() == State::Running && !container.frozen;
    runs && container.verdict() == Verdict::Passing && container.operation.is_empty()
}

fn key(container: &str) -> String {
    format!("{H1}/{container}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
