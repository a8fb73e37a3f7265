//! Keeps what runs equal to what is configured: starts what is absent, awaits ends, reports every change.
//!
//! A container whose first process has ended is reported and left alone: what to do then is decided elsewhere.
//! Only an absent one is started: never made before, deleted, or lost when the host restarted.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::pending,
    path::Path,
    sync::Arc,
    time::Duration,
};

use ringmesh_node::health::spec::{ContainerState, ContainerStatus};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    declared::DeclaredDriver,
    docker::DockerDriver,
    driver::{Driver, DriverError, Observed},
    handle::{Job, Order, Replacement, Reply, RuntimeError, RuntimeHandle},
    oci::OciDriver,
    process::ProcessId,
    watch::{End, Watcher},
};
use crate::config::Container;

/// Starts under way at once: more would only wait for the kernel's locks.
const STARTS: usize = 4;
/// Containers looked at at once because their driver told of a change: more would only wait for its daemon.
const LOOKS: usize = 8;
/// Tellings of drivers that wait to be read; they wait beyond that.
const CHANGES: usize = 64;
/// Reports that wait for the host loop; beyond that changes of one container become one.
const REPORTS: usize = 16;
/// A start that failed is tried again after the first of these, then twice as long, up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Orders for one container that wait until it is not busy; repair gives it one or two at a time.
const WAITING: usize = 4;
/// Containers that no descriptor watches are looked at so often.
const RECONCILE: Duration = Duration::from_secs(10);

/// What an earlier life of the agent has left.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// Containers that are not to be started by themselves.
    pub held: BTreeSet<String>,
    /// By the name of a clone: what it replaces, and what must be gone before it is started.
    pub replaced: BTreeMap<String, String>,
}

/// Runs the supervisor for these containers on the current event loop.
///
/// `instance` tells the agents of one machine apart; `shim_path` is the program `ringmesh`. The receiver gets the full
/// list first, then every container whose status has changed; the host loop may be slow, it misses no last state.
pub fn spawn(
    state_dir: &Path,
    containers: Vec<Container>,
    instance: &str,
    shim_path: &Path,
    left: &Left,
) -> (RuntimeHandle, mpsc::Receiver<Vec<ContainerStatus>>) {
    let oci: Arc<dyn Driver> = Arc::new(OciDriver::new(state_dir, instance, shim_path.to_owned()));
    // A daemon may be silent when it is asked for all that we ever made there, and what was replaced must go all the same.
    let replaced =
        |clone: &Container| Some(Container { name: left.replaced.get(&clone.name)?.clone(), ..clone.clone() });
    let replaced: Vec<Container> = containers.iter().filter_map(replaced).collect();
    let docker = DockerDriver::new(containers.iter().chain(&replaced), state_dir, instance);
    let docker: Arc<dyn Driver> = Arc::new(docker);
    let declared: Arc<dyn Driver> = Arc::new(DeclaredDriver::new(&containers));
    let driver_of = |container: &Container| match (&container.oci, &container.docker) {
        (Some(_), _) => oci.clone(),
        (None, Some(_)) => docker.clone(),
        (None, None) => declared.clone(),
    };
    let slot = |container: Container| {
        let driver = driver_of(&container);
        Slot {
            held: left.held.contains(&container.name),
            replaces: left.replaced.get(&container.name).cloned(),
            ..Slot::new(Arc::new(container.to_run()), driver)
        }
    };
    let slots = containers.into_iter().map(slot).collect();
    supervise(slots, vec![oci.clone(), docker.clone(), declared.clone()], BACKOFF)
}

fn supervise(
    slots: Vec<Slot>,
    drivers: Vec<Arc<dyn Driver>>,
    backoff: (Duration, Duration),
) -> (RuntimeHandle, mpsc::Receiver<Vec<ContainerStatus>>) {
    let (handle, order_queue) = RuntimeHandle::new();
    let (reports, report_queue) = mpsc::channel(REPORTS);
    let (watcher, ends) = match Watcher::new() {
        Ok((watcher, ends)) => (Some(watcher), Some(ends)),
        Err(error) => {
            tracing::error!(%error, "cannot watch containers; their ends are noticed only from time to time");
            (None, None)
        }
    };
    let (changes, told) = mpsc::channel(CHANGES);
    drivers.iter().for_each(|driver| driver.watch(changes.clone()));
    let supervisor = Supervisor {
        index: slots.iter().enumerate().map(|(at, slot)| (slot.container.name.clone(), at)).collect(),
        slots,
        drivers,
        backoff,
        orders: order_queue,
        reports,
        changed: BTreeSet::new(),
        starts: VecDeque::new(),
        starting: 0,
        retries: BTreeSet::new(),
        jobs: JoinSet::new(),
        told,
        to_look: BTreeSet::new(),
        looking: 0,
        survey: JoinSet::new(),
        watcher,
        ends,
    };
    tokio::spawn(supervisor.run());
    (handle, report_queue)
}

/// One configured container.
struct Slot {
    container: Arc<Container>,
    driver: Arc<dyn Driver>,
    status: ContainerStatus,
    /// Whose end is awaited.
    watched: Option<ProcessId>,
    /// A job is under way, or a start waits for its turn.
    busy: bool,
    /// Orders for when it is not; at most [`WAITING`].
    waiting: VecDeque<(Job, Reply)>,
    /// It is not started by itself.
    held: bool,
    /// What must be gone before it is started.
    replaces: Option<String>,
    /// Why the last job failed.
    problem: Option<String>,
    /// Starts that failed since the last one that did not.
    failures: u32,
    /// Until then it is not started.
    retry_at: Option<Instant>,
}

impl Slot {
    fn new(container: Arc<Container>, driver: Arc<dyn Driver>) -> Self {
        let status = ContainerStatus { name: container.name.clone(), ..Default::default() };
        Self {
            container,
            driver,
            status,
            watched: None,
            busy: false,
            waiting: VecDeque::new(),
            held: false,
            replaces: None,
            problem: None,
            failures: 0,
            retry_at: None,
        }
    }
}

/// What has come of a job.
struct Done {
    at: usize,
    job: Job,
    result: Result<(), DriverError>,
    observed: Result<Observed, DriverError>,
    /// This container has taken the place of the one before.
    replaced: Option<Arc<Container>>,
    reply: Option<Reply>,
}

struct Supervisor {
    slots: Vec<Slot>,
    /// By name.
    index: BTreeMap<String, usize>,
    drivers: Vec<Arc<dyn Driver>>,
    /// [`BACKOFF`], shorter in tests.
    backoff: (Duration, Duration),
    orders: mpsc::Receiver<Order>,
    reports: mpsc::Sender<Vec<ContainerStatus>>,
    /// Not reported yet.
    changed: BTreeSet<usize>,
    /// Absent containers and restarts that wait for their turn; each slot at most once.
    starts: VecDeque<(usize, Job, Option<Reply>)>,
    /// Of at most [`STARTS`].
    starting: usize,
    retries: BTreeSet<(Instant, usize)>,
    /// At most one a slot.
    jobs: JoinSet<Done>,
    /// What drivers tell of changes.
    told: mpsc::Receiver<Vec<String>>,
    /// Told of, and not looked at yet.
    to_look: BTreeSet<usize>,
    /// [`Job::Inspect`] under way.
    looking: usize,
    /// At most one: what the containers are that nobody watches.
    survey: JoinSet<Vec<(usize, Result<Observed, DriverError>)>>,
    watcher: Option<Watcher>,
    ends: Option<mpsc::Receiver<End>>,
}

impl Supervisor {
    async fn run(mut self) {
        self.take_stock().await;
        let mut tick = interval(RECONCILE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one comes at once, and we have just looked.
        tick.tick().await;
        loop {
            self.start_next();
            self.look_next();
            let retry_at = self.retries.first().map(|(at, _)| *at);
            let retry = async {
                match retry_at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                permit = self.reports.clone().reserve_owned(), if !self.changed.is_empty() => {
                    let Ok(permit) = permit else { return };
                    let changed = std::mem::take(&mut self.changed);
                    permit.send(changed.into_iter().map(|at| self.slots[at].status.clone()).collect());
                }
                order = self.orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => self.finish(done),
                    Err(error) => tracing::error!(%error, "a container's job panicked"),
                },
                Some(names) = self.told.recv() => {
                    self.to_look.extend(names.iter().filter_map(|name| self.index.get(name)));
                }
                Some((at, process)) = next_end(&mut self.ends) => self.ended(at, process),
                Some(survey) = self.survey.join_next() => {
                    for (at, observed) in survey.unwrap_or_default() {
                        self.surveyed(at, observed);
                    }
                }
                () = retry => self.retry(),
                _ = tick.tick() => self.look_around(),
                () = self.reports.closed() => return,
            }
        }
    }

    /// The first full list. What runs already is taken over as it is.
    async fn take_stock(&mut self) {
        let mut known = BTreeMap::new();
        for driver in &self.drivers {
            match driver.list().await {
                Ok(list) => known.extend(list.into_iter().map(|o| ((driver.name(), o.status.name.clone()), o))),
                Err(error) => {
                    tracing::error!(driver = driver.name(), error = error.one_line(), "cannot list containers")
                }
            }
        }
        for at in 0..self.slots.len() {
            let slot = &self.slots[at];
            let observed = known.remove(&(slot.driver.name(), slot.container.name.clone()));
            let observed = observed.unwrap_or_else(|| Observed::absent(&slot.container.name));
            self.observe(at, observed);
            self.changed.insert(at);
        }
        for ((driver, name), observed) in known {
            if observed.process.is_some() {
                tracing::warn!(driver, container = name, "runs but is not configured any more; it is left alone");
            }
        }
        // So that the host loop has the list before starts change it.
        if let Ok(permit) = self.reports.reserve().await {
            self.changed.clear();
            permit.send(self.slots.iter().map(|slot| slot.status.clone()).collect());
        }
    }

    fn obey(&mut self, Order { container, job, reply }: Order) {
        let Some(&at) = self.index.get(&container) else {
            // Who asked may have gone.
            let _ = reply.send(Err(RuntimeError::Unknown(container)));
            return;
        };
        let slot = &mut self.slots[at];
        // From this moment on, whatever is under way.
        slot.held = (slot.held || job == Job::Freeze) && job != Job::Release;
        if !slot.busy {
            self.dispatch(at, job, reply);
        } else if slot.waiting.len() < WAITING {
            slot.waiting.push_back((job, reply));
        } else {
            let _ = reply.send(Err(RuntimeError::Busy(container)));
        }
    }

    fn dispatch(&mut self, at: usize, job: Job, reply: Reply) {
        self.slots[at].busy = true;
        match job {
            Job::Restart | Job::Start | Job::Replace(_) => self.starts.push_front((at, job, Some(reply))),
            Job::Inspect | Job::Stop | Job::Pause | Job::Resume | Job::Freeze | Job::Release => {
                self.begin(at, job, Some(reply));
            }
        }
    }

    fn start_next(&mut self) {
        while self.starting < STARTS
            && let Some((at, job, reply)) = self.starts.pop_front()
        {
            self.starting += 1;
            self.begin(at, job, reply);
        }
    }

    fn look_next(&mut self) {
        while self.looking < LOOKS
            && let Some(at) = self.to_look.pop_first()
        {
            // A job that is under way looks when it is done.
            if !self.slots[at].busy {
                self.begin(at, Job::Inspect, None);
            }
        }
    }

    fn begin(&mut self, at: usize, job: Job, reply: Option<Reply>) {
        let slot = &mut self.slots[at];
        slot.busy = true;
        // A look is no reason to try again sooner.
        if job != Job::Inspect
            && let Some(retry_at) = slot.retry_at.take()
        {
            self.retries.remove(&(retry_at, at));
        }
        let (driver, container, replaces) = (slot.driver.clone(), slot.container.clone(), slot.replaces.clone());
        self.looking += usize::from(job == Job::Inspect);
        self.jobs.spawn(async move {
            let name = &container.name;
            let mut replaced = None;
            let result = match &job {
                Job::Inspect => Ok(()),
                Job::Start => start(&*driver, &container, replaces.as_deref()).await,
                Job::Restart => match &replaces {
                    Some(old) => match driver.delete(old).await {
                        Ok(()) => driver.restart(&container).await,
                        Err(error) => Err(error),
                    },
                    None => driver.restart(&container).await,
                },
                Job::Replace(replacement) => match driver.delete(name).await {
                    Ok(()) => {
                        let new = replaced.insert(Arc::new(replacement.of(&container)));
                        start(&*driver, new, replaces.as_deref()).await
                    }
                    Err(error) => Err(error),
                },
                Job::Stop => driver.stop(name).await,
                Job::Pause => driver.pause(name).await,
                Job::Resume => driver.resume(name).await,
                Job::Freeze => set_frozen(&*driver, name, true).await,
                Job::Release => set_frozen(&*driver, name, false).await,
            };
            let observed = driver.inspect(replaced.as_ref().map_or(name, |new| &new.name)).await;
            Done { at, job, result, observed, replaced, reply }
        });
    }

    fn finish(&mut self, Done { at, job, result, observed, replaced, reply }: Done) {
        let removed = replaced.is_some();
        if let Some(container) = replaced {
            self.take_place(at, container);
        }
        let slot = &mut self.slots[at];
        slot.busy = false;
        self.looking -= usize::from(job == Job::Inspect);
        if matches!(job, Job::Start | Job::Restart | Job::Replace(_)) {
            self.starting -= 1;
            match &result {
                Ok(()) => (slot.failures, slot.replaces) = (0, None),
                Err(_) => {
                    let (first, longest) = self.backoff;
                    let delay = first.saturating_mul(2_u32.saturating_pow(slot.failures)).min(longest);
                    let retry_at = Instant::now() + delay;
                    slot.retry_at = Some(retry_at);
                    slot.failures = slot.failures.saturating_add(1);
                    self.retries.insert((retry_at, at));
                }
            }
        }
        if job != Job::Inspect {
            // An order that makes no sense says nothing of the container.
            let of_asker = |e: &DriverError| matches!(e, DriverError::Unsupported { .. } | DriverError::State { .. });
            if !result.as_ref().is_err_and(of_asker) {
                slot.problem = result.as_ref().err().map(DriverError::one_line);
            }
            if let Some(problem) = &slot.problem {
                tracing::warn!(container = slot.container.name, ?job, problem, "a container could not be changed");
            }
        }
        if matches!(job, Job::Replace(_)) {
            // Under whichever name: the host loop has heard nothing of it yet.
            self.changed.insert(at);
        }
        self.update(at, observed);
        if let Some(reply) = reply {
            // Who asked may have gone.
            let error = if removed { RuntimeError::Removed } else { RuntimeError::Driver };
            let _ = reply.send(result.map_err(error));
        }
        if !self.slots[at].busy
            && let Some((job, reply)) = self.slots[at].waiting.pop_front()
        {
            self.dispatch(at, job, reply);
        }
    }

    /// The container of this slot is another one from now on. The host loop knows it already.
    fn take_place(&mut self, at: usize, container: Arc<Container>) {
        let slot = &mut self.slots[at];
        self.index.remove(&slot.container.name);
        self.index.insert(container.name.clone(), at);
        slot.status = ContainerStatus { name: container.name.clone(), ..ContainerStatus::default() };
        slot.container = container;
        slot.watched = None;
    }

    fn update(&mut self, at: usize, observed: Result<Observed, DriverError>) {
        match observed {
            Ok(observed) => self.observe(at, observed),
            Err(error) => {
                let slot = &mut self.slots[at];
                let status = ContainerStatus { problem: Some(error.one_line()), ..slot.status.clone() };
                if status != slot.status {
                    slot.status = status;
                    self.changed.insert(at);
                }
            }
        }
    }

    fn observe(&mut self, at: usize, observed: Observed) {
        let mut status = observed.status;
        let slot = &mut self.slots[at];
        status.problem = status.problem.or_else(|| slot.problem.clone());
        if status != slot.status {
            tracing::info!(container = status.name, state = ?status.state, pid = status.pid, "container");
            slot.status = status;
            self.changed.insert(at);
        }
        let absent = slot.status.state == ContainerState::Absent;
        let starts = slot.driver.capabilities().start && !slot.held;
        if absent && starts && !slot.busy && slot.waiting.is_empty() && slot.retry_at.is_none() {
            slot.busy = true;
            self.starts.push_back((at, Job::Start, None));
        }
        if let Some(process) = observed.process {
            self.watch(at, process);
        }
    }

    fn watch(&mut self, at: usize, process: ProcessId) {
        let slot = &mut self.slots[at];
        if slot.watched == Some(process) {
            return;
        }
        let Some(watcher) = &mut self.watcher else { return };
        match watcher.watch(at, process) {
            Ok(true) => slot.watched = Some(process),
            // It has ended since it was looked at.
            Ok(false) if !slot.busy => self.begin(at, Job::Inspect, None),
            Ok(false) => {}
            // Out of descriptors, most likely. It is looked at from time to time instead.
            Err(error) => tracing::warn!(container = slot.container.name, %error, "cannot watch a process"),
        }
    }

    fn ended(&mut self, at: usize, process: ProcessId) {
        let slot = &mut self.slots[at];
        if slot.watched != Some(process) {
            return;
        }
        slot.watched = None;
        // A job that is under way looks again when it is done.
        if !slot.busy {
            self.begin(at, Job::Inspect, None);
        }
    }

    fn retry(&mut self) {
        let now = Instant::now();
        while let Some(&(retry_at, at)) = self.retries.first()
            && retry_at <= now
        {
            self.retries.pop_first();
            let slot = &mut self.slots[at];
            slot.retry_at = None;
            // What has come to run meanwhile needs no start.
            if !slot.busy && !slot.held && slot.status.state == ContainerState::Absent {
                slot.busy = true;
                self.starts.push_back((at, Job::Start, None));
            }
        }
    }

    /// Looks again at what no descriptor watches.
    fn look_around(&mut self) {
        if !self.survey.is_empty() {
            return;
        }
        let unwatched = |(at, slot): (usize, &Slot)| {
            let idle = slot.watched.is_none() && !slot.busy;
            idle.then(|| (at, slot.driver.clone(), slot.container.clone()))
        };
        let slots: Vec<_> = self.slots.iter().enumerate().filter_map(unwatched).collect();
        let drivers = self.drivers.clone();
        self.survey.spawn(async move {
            for driver in drivers {
                if let Err(error) = driver.trim_logs().await {
                    tracing::warn!(driver = driver.name(), error = error.one_line(), "cannot bound logs");
                }
            }
            let mut survey = Vec::with_capacity(slots.len());
            for (at, driver, container) in slots {
                survey.push((at, driver.inspect(&container.name).await));
                tokio::task::yield_now().await;
            }
            survey
        });
    }

    fn surveyed(&mut self, at: usize, observed: Result<Observed, DriverError>) {
        let slot = &self.slots[at];
        // What has happened since is newer.
        if slot.watched.is_none() && !slot.busy {
            self.update(at, observed);
        }
    }
}

/// Starts a container when what it replaces is gone.
async fn start(driver: &dyn Driver, container: &Container, replaces: Option<&str>) -> Result<(), DriverError> {
    if let Some(old) = replaces {
        driver.delete(old).await?;
    }
    driver.start(container).await
}

/// Pauses what runs, or lets what is paused go on, if the driver can. What is in another state already stays so.
async fn set_frozen(driver: &dyn Driver, name: &str, frozen: bool) -> Result<(), DriverError> {
    let state = driver.inspect(name).await?.status.state;
    let can = driver.capabilities();
    match (frozen, state) {
        (true, ContainerState::Running) if can.pause => driver.pause(name).await,
        (false, ContainerState::Paused) if can.resume => driver.resume(name).await,
        _ => Ok(()),
    }
}

impl Replacement {
    /// Like `container`, but for its name and address.
    fn of(&self, container: &Container) -> Container {
        let mut new = Container { name: self.name.clone(), ..container.clone() };
        if let (Some(network), Some(address)) = (&mut new.network, &self.address) {
            network.address.clone_from(address);
        }
        new
    }
}

async fn next_end(ends: &mut Option<mpsc::Receiver<End>>) -> Option<End> {
    ends.as_mut()?.recv().await
}

#[cfg(test)]
mod tests;
