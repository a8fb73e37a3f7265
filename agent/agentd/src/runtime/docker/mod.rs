//! The driver `docker-api`: containers of a daemon that speaks Docker's API over a unix socket, such as dockerd or podman.
//!
//! ```text
//!   DockerDriver ── Target (name at the daemon, ours or adopted) ── Daemon (rest, events) ── Client (HTTP, bounds)
//! ```
//!
//! It makes containers that bear a label with its instance and removes no others. Of others it starts, stops and pauses
//! only those that the configuration names. While a daemon is silent, what its containers' first processes do counts.

mod client;
mod daemon;
mod message;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{StreamExt, stream};
use hyper::StatusCode;
use ringmesh_node::health::spec::{ContainerState, ContainerStatus};
use tokio::sync::mpsc;

use self::{
    daemon::Daemon,
    message::{Created, Inspect},
};
use super::{
    driver::{Answer, Capabilities, Driver, DriverError, Observed},
    network,
    process::ProcessId,
};
use crate::{
    config::{Container, Docker},
    probe::heartbeat,
};

/// Containers of a daemon that are looked at at once.
const LOOKS: usize = 8;

/// Containers that a daemon runs.
pub struct DockerDriver {
    state_dir: PathBuf,
    instance: String,
    /// One for each socket in the configuration.
    daemons: Mutex<Vec<Arc<Daemon>>>,
    known: Arc<Mutex<BTreeMap<String, Known>>>,
    /// Held while a bridge is made: several containers share it.
    bridges: tokio::sync::Mutex<()>,
}

/// What is known of one container.
struct Known {
    target: Target,
    /// As it was seen last.
    observed: Option<Observed>,
}

/// Where a container is, and whose.
#[derive(Clone)]
struct Target {
    daemon: Arc<Daemon>,
    /// Its name at the daemon.
    name: String,
    /// Somebody else made it.
    adopted: bool,
}

impl DockerDriver {
    /// Knows those of `containers` that a daemon runs. Sockets for heartbeats are below `state_dir`; `instance` tells the agents
    /// of one machine apart.
    pub fn new<'a>(containers: impl IntoIterator<Item = &'a Container>, state_dir: &Path, instance: &str) -> Self {
        let driver = Self {
            // The daemon knows nothing of our working directory.
            state_dir: std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned()),
            instance: instance.to_owned(),
            daemons: Mutex::default(),
            known: Arc::default(),
            bridges: tokio::sync::Mutex::new(()),
        };
        for container in containers {
            if let Some(docker) = &container.docker {
                driver.target_of(container, docker);
            }
        }
        driver
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn target(&self, name: &str) -> Option<Target> {
        self.known().get(name).map(|known| known.target.clone())
    }

    /// The target of a container that is configured, be it known before or not.
    fn target_of(&self, container: &Container, docker: &Docker) -> Target {
        let target = Target {
            daemon: self.daemon(&docker.socket),
            name: docker.container.clone().unwrap_or_else(|| self.name_at_daemon(&container.name)),
            adopted: docker.container.is_some(),
        };
        self.remember(&container.name, target.clone());
        target
    }

    fn remember(&self, name: &str, target: Target) {
        let mut known = self.known();
        match known.get_mut(name) {
            Some(known) => known.target = target,
            None => drop(known.insert(name.to_owned(), Known { target, observed: None })),
        }
    }

    /// Unique among all agents that share a daemon.
    fn name_at_daemon(&self, name: &str) -> String {
        format!("{name}.{}", self.instance)
    }

    fn daemon(&self, socket: &Path) -> Arc<Daemon> {
        let mut daemons = self.daemons.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(daemon) = daemons.iter().find(|daemon| daemon.socket() == socket) {
            return daemon.clone();
        }
        let daemon = Arc::new(Daemon::new(socket.to_owned()));
        daemons.push(daemon.clone());
        daemon
    }

    fn daemons(&self) -> Vec<Arc<Daemon>> {
        self.daemons.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The container as it is, if it is there and may be touched.
    async fn find(&self, target: &Target, verb: &'static str) -> Result<Option<Inspect>, DriverError> {
        let found = target.daemon.inspect(&target.name).await?;
        match found {
            Some(found) if !target.adopted && !found.is_of(&self.instance) => Err(foreign(target, verb)),
            found => Ok(found),
        }
    }

    async fn look(&self, name: &str) -> Observed {
        let Some(target) = self.target(name) else { return Observed::absent(name) };
        let observed = match target.daemon.look(&target.name).await {
            Ok(Some(found)) if target.adopted || found.is_of(&self.instance) => observe(name, &target, &found),
            // Of somebody else who took our name: a start says so.
            Ok(_) => Observed::absent(name),
            Err(error) => return self.unheard(name, &error),
        };
        if let Some(known) = self.known().get_mut(name) {
            known.observed = Some(observed.clone());
        }
        observed
    }

    /// What is so for certain though the daemon says nothing: the first process still runs, or it has ended.
    fn unheard(&self, name: &str, error: &DriverError) -> Observed {
        let last = self.known().get(name).and_then(|known| known.observed.clone());
        let nothing = ContainerStatus { name: name.into(), ..Default::default() };
        let mut observed = last.unwrap_or_else(|| Observed { status: nothing.clone(), process: None });
        if observed.process.is_some_and(|process| !process.is_alive()) {
            let status = ContainerStatus { state: ContainerState::Stopped, ..nothing };
            observed = Observed { status, process: None };
        }
        observed.status.problem = Some(error.one_line());
        observed.status.unreachable = true;
        observed
    }

    async fn make(&self, container: &Container, docker: &Docker, image: &str) -> Result<(), DriverError> {
        let target = self.target_of(container, docker);
        if self.find(&target, "replaced").await?.is_some() {
            target.daemon.remove(&target.name).await?;
        }
        let interface = network::interface_name(&self.instance, &container.name);
        let unfinished = Unfinished { left: Some((target.clone(), self.instance.clone(), interface)) };
        let result = self.make_anew(&target, container, docker, image).await;
        match result {
            Ok(()) => unfinished.keep(),
            Err(_) => unfinished.remove().await,
        }
        result
    }

    async fn make_anew(
        &self,
        target: &Target,
        container: &Container,
        docker: &Docker,
        image: &str,
    ) -> Result<(), DriverError> {
        let daemon = &target.daemon;
        let heartbeat = heartbeat::directory(&self.state_dir, &container.name);
        let heartbeat = heartbeat.is_dir().then_some(heartbeat);
        let body = message::create(container, docker, image, &self.instance, heartbeat.as_deref());
        let reply = daemon.create(&target.name, &body).await?;
        if reply.status == StatusCode::NOT_FOUND {
            let message = format!("there is no image {image} at {}; pull it there first", daemon.socket().display());
            return Err(DriverError::Runtime { runtime: self.name(), message });
        }
        let Created { id } = daemon.read(&reply)?;
        daemon.post(&id, "start").await?;
        let Some(interface) = &container.network else { return Ok(()) };
        match daemon.inspect(&id).await? {
            Some(found) if found.state.pid != 0 => {
                network::attach(&self.instance, &container.name, found.state.pid, interface, &self.bridges).await
            }
            Some(_) | None => Err(DriverError::Runtime {
                runtime: self.name(),
                message: "its first process ended before it had an interface".into(),
            }),
        }
    }

    async fn start_adopted(&self, target: &Target) -> Result<(), DriverError> {
        if self.find(target, "started").await?.is_some() {
            return target.daemon.post(&target.name, "start").await;
        }
        let (name, socket) = (&target.name, target.daemon.socket().display());
        let message = format!("there is no container {name} at {socket}; make it, or name an image");
        Err(DriverError::Runtime { runtime: self.name(), message })
    }

    async fn set_paused(&self, name: &str, paused: bool) -> Result<(), DriverError> {
        let state = if paused { "running" } else { "paused" };
        let refusal = || DriverError::State { name: name.into(), state };
        let target = self.target(name).ok_or_else(refusal)?;
        let found = self.find(&target, "paused").await?.ok_or_else(refusal)?;
        if !found.state.running || found.state.paused == paused {
            return Err(refusal());
        }
        target.daemon.post(&found.id, if paused { "pause" } else { "unpause" }).await
    }
}

impl Driver for DockerDriver {
    fn name(&self) -> &'static str {
        "docker-api"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { start: true, stop: true, delete: true, pause: true, resume: true }
    }

    fn list(&self) -> Answer<'_, Vec<Observed>> {
        Box::pin(async move {
            for daemon in self.daemons() {
                // Those that are configured say themselves that it does not answer.
                for name in daemon.list(&self.instance).await.unwrap_or_default() {
                    if self.target(&name).is_none() {
                        let at_daemon = self.name_at_daemon(&name);
                        self.remember(&name, Target { daemon: daemon.clone(), name: at_daemon, adopted: false });
                    }
                }
            }
            let names: Vec<String> = self.known().keys().cloned().collect();
            let looks = names.into_iter().map(|name| async move { self.look(&name).await });
            Ok(stream::iter(looks).buffered(LOOKS).collect().await)
        })
    }

    fn inspect<'a>(&'a self, name: &'a str) -> Answer<'a, Observed> {
        Box::pin(async move { Ok(self.look(name).await) })
    }

    fn start<'a>(&'a self, container: &'a Container) -> Answer<'a, ()> {
        Box::pin(async move {
            match &container.docker {
                Some(docker @ Docker { image: Some(image), .. }) => self.make(container, docker, image).await,
                Some(docker) => self.start_adopted(&self.target_of(container, docker)).await,
                None => Err(DriverError::State { name: container.name.clone(), state: "configured with docker" }),
            }
        })
    }

    fn stop<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let Some(target) = self.target(name) else { return Ok(()) };
            let Some(found) = self.find(&target, "stopped").await? else { return Ok(()) };
            if !found.state.running {
                return Ok(());
            }
            // Of one that has ended a daemon may not know yet, and fails to kill it.
            if let Some(process) = ProcessId::of(found.state.pid) {
                // Frozen by version 1 of control groups, a process does not die before it is thawed; and podman kills none.
                if found.state.paused {
                    target.daemon.post(&found.id, "unpause").await?;
                }
                let killed = target.daemon.post(&found.id, "kill").await;
                if process.is_alive() {
                    killed?;
                }
            }
            target.daemon.post(&found.id, "wait").await
        })
    }

    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let Some(target) = self.target(name) else { return Ok(()) };
            if target.adopted {
                return Err(foreign(&target, "removed"));
            }
            if let Some(found) = self.find(&target, "removed").await? {
                target.daemon.remove(&found.id).await?;
            }
            network::remove(&[network::interface_name(&self.instance, name)]).await?;
            // Clones have ever new names.
            self.known().remove(name);
            Ok(())
        })
    }

    fn restart<'a>(&'a self, container: &'a Container) -> Answer<'a, ()> {
        Box::pin(async move {
            if self.target(&container.name).is_some_and(|target| target.adopted) {
                self.stop(&container.name).await?;
            }
            // What is ours, it makes anew.
            self.start(container).await
        })
    }

    fn pause<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(self.set_paused(name, true))
    }

    fn resume<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(self.set_paused(name, false))
    }

    fn watch(&self, changed: mpsc::Sender<Vec<String>>) {
        for daemon in self.daemons() {
            let (known, changed) = (self.known.clone(), changed.clone());
            tokio::spawn(async move {
                let tell = |name: Option<String>| {
                    let known = known.lock().unwrap_or_else(PoisonError::into_inner);
                    let of_daemon = known.iter().filter(|(_, known)| Arc::ptr_eq(&known.target.daemon, &daemon));
                    let wanted = of_daemon.filter(|(_, known)| name.as_ref().is_none_or(|n| *n == known.target.name));
                    let names: Vec<String> = wanted.map(|(name, _)| name.clone()).collect();
                    let changed = changed.clone();
                    async move {
                        if !names.is_empty() {
                            // Nobody listens any more: the task ends below.
                            let _ = changed.send(names).await;
                        }
                    }
                };
                tokio::select! {
                    () = daemon.follow(tell) => {}
                    () = changed.closed() => {}
                }
            });
        }
    }
}

fn foreign(target: &Target, verb: &'static str) -> DriverError {
    DriverError::Foreign { name: target.name.clone(), socket: target.daemon.socket().to_owned(), verb }
}

fn observe(name: &str, target: &Target, found: &Inspect) -> Observed {
    let process = if found.state.running { ProcessId::of(found.state.pid) } else { None };
    let state = match process {
        Some(_) if found.state.paused => ContainerState::Paused,
        Some(_) => ContainerState::Running,
        // A start of ours that was cut off; there is nothing in it to keep.
        None if found.state.status == "created" && !target.adopted => return Observed::absent(name),
        None if found.state.status == "created" => ContainerState::Created,
        None => ContainerState::Stopped,
    };
    let status = ContainerStatus {
        name: name.into(),
        state,
        pid: process.map(|process| process.pid),
        netns: process.map(ProcessId::netns),
        started_at: process.and_then(ProcessId::started_at),
        addresses: if process.is_some() { found.addresses() } else { Vec::new() },
        problem: None,
        unreachable: false,
    };
    Observed { status, process }
}

/// A container that is not made to its end, whose it is and its interface; removed when this is dropped.
struct Unfinished {
    left: Option<(Target, String, String)>,
}

impl Unfinished {
    fn keep(mut self) {
        self.left = None;
    }

    async fn remove(mut self) {
        if let Some((target, instance, interface)) = self.left.take() {
            clean_up(target, instance, interface).await;
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let (Some((target, instance, interface)), Ok(runtime)) =
            (self.left.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(clean_up(target, instance, interface));
        }
    }
}

async fn clean_up(Target { daemon, name, .. }: Target, instance: String, interface: String) {
    let removed = match daemon.inspect(&name).await {
        // Not one that took the name in the meantime.
        Ok(Some(found)) if found.is_of(&instance) => daemon.remove(&found.id).await,
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    // The kernel does it as well, but later.
    let removed = removed.and(network::remove(&[interface]).await);
    if let Err(error) = removed {
        tracing::warn!(container = name, error = error.one_line(), "cannot clean up after a failed start");
    }
}

#[cfg(test)]
mod tests;
