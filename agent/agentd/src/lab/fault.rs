//! What a lab can suffer, and what makes it well again.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ringmesh_proto::Uplink;

use super::{
    error::LabError,
    network, plan,
    process::{self, AgentState, ProcessId},
    record::{HostRecord, Lock, Record},
    rootfs, up,
};

/// How long the kernel may take to carry out a signal.
const SIGNAL_WITHIN: Duration = Duration::from_secs(5);

/// Something that happens to a host of a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Frames on an uplink are lost in both directions; its carrier stays up.
    CutUplink {
        /// "h1" and so on.
        host: String,
        /// Which one.
        uplink: Uplink,
    },
    /// An uplink's cable is pulled out: the host sees that its carrier is gone.
    Unplug {
        /// "h1" and so on.
        host: String,
        /// Which one.
        uplink: Uplink,
    },
    /// An uplink's cable is plugged in again.
    Plug {
        /// "h1" and so on.
        host: String,
        /// Which one.
        uplink: Uplink,
    },
    /// Both uplinks are plugged in and carry frames again.
    Heal {
        /// "h1" and so on.
        host: String,
    },
    /// Both uplinks are cut.
    Isolate {
        /// "h1" and so on.
        host: String,
    },
    /// The agent ends by SIGKILL; the containers run on.
    Kill {
        /// "h1" and so on.
        host: String,
    },
    /// The agent is stopped by SIGSTOP.
    Stop {
        /// "h1" and so on.
        host: String,
    },
    /// The agent goes on by SIGCONT.
    Cont {
        /// "h1" and so on.
        host: String,
    },
    /// The agent starts again after it ended.
    Start {
        /// "h1" and so on.
        host: String,
    },
    /// The service in a container ends by SIGKILL; the container runs on.
    KillService {
        /// "h1" and so on.
        host: String,
        /// "h1-c1" and so on.
        container: String,
    },
    /// The service in a container starts again.
    StartService {
        /// "h1" and so on.
        host: String,
        /// "h1-c1" and so on.
        container: String,
    },
}

/// Brings a fault about; returns when it is in effect.
pub(super) fn fault(name: Option<&str>, fault: &Fault) -> Result<(), LabError> {
    let (_lock, mut record) = Lock::open(name)?;
    match fault {
        Fault::CutUplink { host, uplink } => connect(&record, host, &[*uplink], false),
        Fault::Unplug { host, uplink } => network::carry(&record.name, record.host(host)?.number, *uplink, false),
        Fault::Plug { host, uplink } => network::carry(&record.name, record.host(host)?.number, *uplink, true),
        Fault::Isolate { host } => connect(&record, host, &Uplink::BOTH, false),
        Fault::Heal { host } => connect(&record, host, &Uplink::BOTH, true),
        Fault::Kill { host } => signal(record.host(host)?, Signal::SIGKILL, AgentState::Dead),
        Fault::Stop { host } => signal(record.host(host)?, Signal::SIGSTOP, AgentState::Stopped),
        Fault::Cont { host } => signal(record.host(host)?, Signal::SIGCONT, AgentState::Running),
        Fault::Start { host } => start(&mut record, host),
        Fault::KillService { host, container } => kill_service(init(&record, host, container)?, container),
        Fault::StartService { host, container } => start_service(init(&record, host, container)?, container),
    }
}

/// The first processes that a container has, whether or not its agent runs.
pub(super) fn container_pids(record: &Record, host: &str, container: &str) -> Result<Vec<u32>, LabError> {
    inits(record, host, container).map(|inits| inits.iter().map(|init| init.pid).collect())
}

fn connect(record: &Record, host: &str, uplinks: &[Uplink], plugged: bool) -> Result<(), LabError> {
    network::connect(&record.name, &[record.host(host)?.number], uplinks, plugged)
}

fn signal(host: &HostRecord, signal: Signal, then: AgentState) -> Result<(), LabError> {
    let not_running = || LabError::NotRunning { host: host.number.name() };
    let agent = host.agent.ok_or_else(not_running)?;
    let action = format!("send {signal} to the agent of {}", host.number.name());
    if !agent.signal(signal).map_err(LabError::system(action))? {
        return Err(not_running());
    }
    in_effect(agent.wait_for(then, Instant::now() + SIGNAL_WITHIN), &host.number.name())
}

fn start(record: &mut Record, name: &str) -> Result<(), LabError> {
    let host = *record.host(name)?;
    if let Some(agent) = host.agent.filter(|_| host.state() != AgentState::Dead) {
        return Err(LabError::Running { host: name.into(), pid: agent.pid });
    }
    let agent = up::start_agent(record, host.number)?;
    record.set_agent(host.number, agent);
    record.save()
}

fn kill_service(init: ProcessId, container: &str) -> Result<(), LabError> {
    let services = services(init);
    if services.is_empty() {
        return Err(LabError::Service { container: container.into(), state: "does not run" });
    }
    in_effect(process::kill_all(&services, SIGNAL_WITHIN).is_empty(), container)
}

fn services(init: ProcessId) -> Vec<ProcessId> {
    process::children(init.pid, |name| name == rootfs::SERVICE)
}

fn start_service(init: ProcessId, container: &str) -> Result<(), LabError> {
    if !services(init).is_empty() {
        return Err(LabError::Service { container: container.into(), state: "runs already" });
    }
    let action = format!("send SIGUSR1 to the first process of {container}");
    init.signal(Signal::SIGUSR1).map_err(LabError::system(action))?;
    Ok(())
}

fn init(record: &Record, host: &str, container: &str) -> Result<ProcessId, LabError> {
    let missing = || LabError::NoSuchContainer { host: host.into(), container: container.into() };
    inits(record, host, container)?.into_iter().next().ok_or_else(missing)
}

fn inits(record: &Record, host: &str, container: &str) -> Result<Vec<ProcessId>, LabError> {
    let number = record.host(host)?.number;
    if !(1..=record.containers).any(|nth| number.container_name(nth) == container) {
        return Err(LabError::NoSuchContainer { host: host.into(), container: container.into() });
    }
    let mark = plan::container_mark(&record.name, container);
    Ok(process::container_inits(|argument| argument == mark))
}

fn in_effect(done: bool, what: &str) -> Result<(), LabError> {
    let reason = || format!("the signal has had no effect on {what}");
    done.then_some(()).ok_or_else(|| LabError::TimedOut { seconds: SIGNAL_WITHIN.as_secs(), reason: reason() })
}
