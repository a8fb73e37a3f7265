//! Building a lab, step by step, and adding a host to one.
//!
//! ```text
//! record → namespaces → root file system → configurations → h1: init, agent → token → others: join, agent → converged
//! ```
//!
//! What fails before an agent runs is taken down again; after that the lab is left up, since it tells more than an
//! error can.

use std::{
    collections::VecDeque,
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use ringmesh_proto::Uplink;

use super::{
    UpOptions,
    converge::{self, Expected},
    down,
    error::LabError,
    host_config, netns, network,
    plan::{self, HostNumber, MAX_CONTAINERS, MAX_HOSTS},
    process::{self, AgentState, ProcessId},
    record::{self, HostStatus, LabStatus, Lock, Record},
    rootfs,
};
use crate::config::Mode;

/// Hosts that join at the same time: each needs a core for its keys and certificates.
const JOINS_AT_ONCE: usize = 4;

const INIT_WITHIN: Duration = Duration::from_secs(30);
const JOIN_WITHIN: Duration = Duration::from_secs(60);

/// From the start of an agent until its API takes connections.
const API_WITHIN: Duration = Duration::from_secs(30);

/// What a path of a unix socket may have, without its closing zero.
const SOCKET_PATH_MAX: usize = 107;

/// Makes a lab and waits until it has converged.
pub(super) fn up(options: &UpOptions, progress: &mut dyn FnMut(&str)) -> Result<LabStatus, LabError> {
    check(options)?;
    let (lock, mut record) = claim(options)?;
    let all: Vec<_> = HostNumber::first(options.hosts).collect();
    let built = build(&record, &all).and_then(|()| {
        let UpOptions { hosts, containers, zones, .. } = options;
        let zones = if *zones > 1 { format!(", in {zones} zones") } else { String::new() };
        progress(&format!("{hosts} hosts in network namespaces, {containers} containers each{zones}"));
        start_first(&mut record, all[0])
    });
    if let Err(error) = built {
        // The first error is the one to report; what cannot be removed is found by `down`.
        let _ = down::clear(&record.name, Some(&record));
        return Err(error);
    }
    progress("h1 has made the cluster");
    let left_up = |record: &Record| {
        let (name, dir) = (record.name.clone(), record.dir.clone());
        move |error: LabError| LabError::LeftUp { name, dir, reason: with_source(&error) }
    };
    start_others(&mut record, &all[1..], progress).map_err(left_up(&record))?;
    drop(lock);
    let expected = Expected { hosts: all.len(), containers: record.containers };
    let within = Duration::from_secs(60 + u64::from(options.hosts));
    let alive = || agents_alive(&record);
    converge::wait(&record.status().hosts, expected, within, &alive).map_err(left_up(&record))?;
    progress("converged: every host sees all hosts, both rings, all containers and services well");
    Ok(record.status())
}

/// Adds a host to a lab and waits until it and the first host see it well.
pub(super) fn add_host(name: Option<&str>) -> Result<HostStatus, LabError> {
    let (lock, mut record) = Lock::open(name)?;
    let all: Vec<_> = record.hosts.iter().map(|host| host.number).collect();
    let next = all.iter().map(|number| number.get()).max().unwrap_or(0) + 1;
    let newcomer = HostNumber::new(next).ok_or_else(|| LabError::Full { lab: record.name.clone() })?;
    let first = *record.host("h1")?;
    if first.state() == AgentState::Dead {
        return Err(LabError::NotRunning { host: first.number.name() });
    }
    let token = create_token(&record, first.number, 1)?;
    let joined = build_host(&record, newcomer, &all).and_then(|()| join(&record, newcomer, &token));
    let agent = joined.inspect_err(|_| {
        // The first error is the one to report; what cannot be removed is found by `down`.
        let _ = netns::delete(&newcomer.netns(&record.name));
        let _ = fs::remove_dir_all(newcomer.dir(&record.dir));
    })?;
    record.set_agent(newcomer, agent);
    record.save()?;
    drop(lock);
    let status = record.host_status(record.host(&newcomer.name())?);
    let asked = [status.clone(), record.host_status(&first)];
    let within = Duration::from_secs(60 + u64::from(next));
    let alive = || agent_alive(&record, newcomer, agent);
    converge::wait_for_host(&asked, &status.name, record.containers, within, &alive)?;
    Ok(status)
}

/// Starts the agent of a host and waits until its API takes connections.
pub(super) fn start_agent(record: &Record, host: HostNumber) -> Result<ProcessId, LabError> {
    let agent = spawn_agent(record, host)?;
    let deadline = Instant::now() + API_WITHIN;
    while UnixStream::connect(host.socket(&record.dir)).is_err() {
        agent_alive(record, host, agent)?;
        if Instant::now() >= deadline {
            let reason = format!("the API of {} takes no connections", host.name());
            return Err(LabError::TimedOut { seconds: API_WITHIN.as_secs(), reason });
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(agent)
}

fn check(options: &UpOptions) -> Result<(), LabError> {
    record::check_name(&options.name)?;
    if !(2..=MAX_HOSTS).contains(&options.hosts) {
        return Err(LabError::HostCount(options.hosts));
    }
    if !(1..=options.hosts).contains(&options.zones) {
        return Err(LabError::ZoneCount(options.zones));
    }
    if options.containers > MAX_CONTAINERS {
        return Err(LabError::ContainerCount(options.containers));
    }
    if options.mode == Mode::Cabled {
        return Err(LabError::Cabled);
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    rootfs::check_busybox()
}

/// Makes the record, unless there is one, or what one would find.
fn claim(options: &UpOptions) -> Result<(Lock, Record), LabError> {
    let name = &options.name;
    let record_dir = plan::record_dir(name);
    fs::create_dir_all(&record_dir).map_err(LabError::file("make", &record_dir))?;
    let lock = Lock::take(name).map_err(LabError::file("lock", &record_dir))?;
    let namespaces =
        netns::list(|netns| plan::is_netns_of(name, netns)).map_err(LabError::system("list namespaces"))?;
    if record::is_used(&record_dir) || !namespaces.is_empty() {
        return Err(LabError::Exists { name: name.clone() });
    }
    let claimed = lab_dir(options).and_then(|dir| {
        let binary = options.binary.canonicalize().map_err(LabError::file("find", &options.binary))?;
        let mut record = Record::new(name, dir, binary, options.containers, options.zones);
        record.repair = options.repair;
        record.save()?;
        Ok(record)
    });
    match claimed {
        Ok(record) => Ok((lock, record)),
        Err(error) => {
            // Only directories of labs, and only if they are empty.
            let _ = down::remove_record_dir(name);
            Err(error)
        }
    }
}

fn lab_dir(options: &UpOptions) -> Result<PathBuf, LabError> {
    let dir = match &options.dir {
        Some(dir) => std::path::absolute(dir).map_err(LabError::file("find", dir))?,
        None => plan::record_dir(&options.name),
    };
    if options.dir.is_some() && record::is_used(&dir) {
        return Err(LabError::DirInUse { path: dir });
    }
    let longest = HostNumber::first(MAX_HOSTS).last().map(|host| host.socket(&dir).as_os_str().len());
    if longest > Some(SOCKET_PATH_MAX) {
        return Err(LabError::DirTooLong { path: dir });
    }
    Ok(dir)
}

/// Everything that needs no agent.
fn build(record: &Record, all: &[HostNumber]) -> Result<(), LabError> {
    netns::prepare_dir().map_err(LabError::system("make the directory of namespaces, /run/netns"))?;
    fs::create_dir_all(&record.dir).map_err(LabError::file("make", &record.dir))?;
    rootfs::create(&record.dir.join("rootfs"))?;
    network::create_switch(&record.name)?;
    for host in all {
        network::create_host(&record.name, *host, all)?;
        write_config(record, *host)?;
    }
    network::connect(&record.name, all, &Uplink::BOTH, true)
}

/// What [`build`] does, for one host more.
fn build_host(record: &Record, newcomer: HostNumber, all: &[HostNumber]) -> Result<(), LabError> {
    network::create_host(&record.name, newcomer, all)?;
    write_config(record, newcomer)?;
    for host in all {
        network::introduce(&record.name, *host, newcomer)?;
    }
    network::connect(&record.name, &[newcomer], &Uplink::BOTH, true)
}

fn write_config(record: &Record, host: HostNumber) -> Result<(), LabError> {
    let dir = host.dir(&record.dir);
    fs::create_dir_all(&dir).map_err(LabError::file("make", &dir))?;
    let Record { name, dir, containers, zones, repair, .. } = record;
    let config = host_config::host_config(name, dir, host, *containers, *zones, *repair);
    let path = host.config(&record.dir);
    fs::write(&path, config.to_toml()).map_err(LabError::file("write", path))
}

fn start_first(record: &mut Record, first: HostNumber) -> Result<(), LabError> {
    let config = host_path(first.config(&record.dir))?;
    run(record, first, &["init", "--config", &config], INIT_WITHIN)?;
    let agent = start_agent(record, first)?;
    record.set_agent(first, agent);
    record.save()
}

/// Lets the others join, some at a time, and notes each agent as it starts.
fn start_others(record: &mut Record, others: &[HostNumber], progress: &mut dyn FnMut(&str)) -> Result<(), LabError> {
    let Some(first) = record.hosts.first().map(|host| host.number) else { return Ok(()) };
    let token = create_token(record, first, others.len())?;
    let queue = Mutex::new(others.iter().copied().collect::<VecDeque<_>>());
    let (started, starts) = mpsc::sync_channel(others.len());
    let plan = record.clone();
    let mut failed = None;
    thread::scope(|scope| {
        for _ in 0..JOINS_AT_ONCE.min(others.len()) {
            let (queue, plan, token, started) = (&queue, &plan, &token, started.clone());
            scope.spawn(move || {
                let next = || queue.lock().expect("no thread panics with the lock").pop_front();
                while let Some(host) = next() {
                    // The receiver lives until all senders are gone.
                    let _ = started.send((host, join(plan, host, token)));
                }
            });
        }
        drop(started);
        for (host, agent) in starts {
            match agent {
                Ok(agent) => {
                    record.set_agent(host, agent);
                    progress(&format!("{} has joined, {} of {}", host.name(), record.hosts.len(), others.len() + 1));
                }
                Err(error) => {
                    queue.lock().expect("no thread panics with the lock").clear();
                    failed.get_or_insert(error);
                }
            }
        }
    });
    record.hosts.sort_by_key(|host| host.number);
    record.save()?;
    failed.map_or(Ok(()), Err)
}

fn join(record: &Record, host: HostNumber, token: &str) -> Result<ProcessId, LabError> {
    let config = host_path(host.config(&record.dir))?;
    run(record, host, &["join", token, "--config", &config], JOIN_WITHIN)?;
    spawn_agent(record, host)
}

fn create_token(record: &Record, issuer: HostNumber, uses: usize) -> Result<String, LabError> {
    let api = issuer.api(&record.dir);
    let uses = uses.to_string();
    let args = ["--host", &api, "token", "create", "--uses", &uses, "-o", "json"];
    let output = run(record, issuer, &args, INIT_WITHIN)?;
    let token = serde_json::from_str::<serde_json::Value>(&output).ok().and_then(|json| {
        let token = json.get("token")?.as_str()?;
        Some(token.to_owned())
    });
    let problem = "`token create -o json` printed no token".to_owned();
    token.ok_or_else(|| LabError::Api { host: issuer.name(), problem })
}

fn spawn_agent(record: &Record, host: HostNumber) -> Result<ProcessId, LabError> {
    let config = host_path(host.config(&record.dir))?;
    let (netns, log) = (host.netns(&record.name), host.log(&record.dir));
    process::spawn_detached(&netns, &record.binary, &["agent", "--config", &config], &log)
        .map_err(LabError::system(format!("start the agent of {}", host.name())))
}

fn run(record: &Record, host: HostNumber, args: &[&str], within: Duration) -> Result<String, LabError> {
    // The second word may be a token.
    let command = || format!("ringmesh {} on {}", args.first().copied().unwrap_or_default(), host.name());
    process::run(&host.netns(&record.name), &record.binary, args, within)
        .map_err(LabError::system(format!("run `{}`", command())))?
        .map_err(|stderr| LabError::Command { command: command(), stderr })
}

fn agents_alive(record: &Record) -> Result<(), LabError> {
    record.hosts.iter().try_for_each(|host| match host.agent {
        Some(agent) => agent_alive(record, host.number, agent),
        None => Ok(()),
    })
}

fn agent_alive(record: &Record, host: HostNumber, agent: ProcessId) -> Result<(), LabError> {
    if agent.state() != AgentState::Dead {
        return Ok(());
    }
    let log = host.log(&record.dir);
    let text = fs::read(&log).unwrap_or_default();
    let last_line = process::last_line(&String::from_utf8_lossy(&text));
    Err(LabError::AgentEnded { host: host.name(), last_line, log })
}

/// As an argument.
fn host_path(path: impl AsRef<Path>) -> Result<String, LabError> {
    let path = path.as_ref();
    let not_text = || std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not UTF-8");
    path.to_str().map(str::to_owned).ok_or_else(|| LabError::file("name", path)(not_text()))
}

fn with_source(error: &LabError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
