use std::sync::Mutex;

use super::*;
use crate::runtime::driver::{Answer, Capabilities};

const FAST: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(40));

/// A runtime in memory. The first process of a running container is a real one: it can be killed.
#[derive(Default)]
struct Fake {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: BTreeMap<String, std::process::Child>,
    stopped: BTreeSet<String>,
    /// So many starts fail first.
    failures: usize,
    starting: usize,
    most_starting: usize,
}

impl Drop for State {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            child.kill().and_then(|()| child.wait()).expect("it is ours");
        }
    }
}

impl Fake {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds this")
    }

    fn observe(&self, name: &str) -> Observed {
        let mut state = self.state();
        let status = |state, pid| ContainerStatus { name: name.into(), state, pid, ..Default::default() };
        let process = state.running.get_mut(name).and_then(|child| ProcessId::of(child.id()));
        match process {
            Some(_) => Observed { status: status(ContainerState::Running, process.map(|p| p.pid)), process },
            None if state.running.contains_key(name) || state.stopped.contains(name) => {
                Observed { status: status(ContainerState::Stopped, None), process }
            }
            None => Observed::absent(name),
        }
    }

    fn kill(&self, name: &str) {
        let mut state = self.state();
        if let Some(mut child) = state.running.remove(name) {
            child.kill().and_then(|()| child.wait()).expect("it is ours");
        }
        state.stopped.insert(name.into());
    }
}

impl Driver for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { start: true, stop: true, delete: true, ..Default::default() }
    }

    fn list(&self) -> Answer<'_, Vec<Observed>> {
        let names: Vec<String> = self.state().running.keys().cloned().collect();
        let list = names.iter().map(|name| self.observe(name)).collect();
        Box::pin(std::future::ready(Ok(list)))
    }

    fn inspect<'a>(&'a self, name: &'a str) -> Answer<'a, Observed> {
        Box::pin(std::future::ready(Ok(self.observe(name))))
    }

    fn start<'a>(&'a self, container: &'a Container) -> Answer<'a, ()> {
        Box::pin(async move {
            {
                let mut state = self.state();
                state.starting += 1;
                state.most_starting = state.most_starting.max(state.starting);
            }
            tokio::task::yield_now().await;
            let mut state = self.state();
            state.starting -= 1;
            if state.failures > 0 {
                state.failures -= 1;
                return Err(DriverError::Runtime { runtime: "fake", message: "not today".into() });
            }
            let child = std::process::Command::new("sleep").arg("600").spawn().expect("sleep is installed");
            state.stopped.remove(&container.name);
            state.running.insert(container.name.clone(), child);
            Ok(())
        })
    }

    fn stop<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.kill(name);
        Box::pin(std::future::ready(Ok(())))
    }

    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.kill(name);
        self.state().stopped.remove(name);
        Box::pin(std::future::ready(Ok(())))
    }
}

type Reports = mpsc::Receiver<Vec<ContainerStatus>>;

fn containers(count: usize) -> Vec<Arc<Container>> {
    let one = |n: usize| Container {
        name: format!("c{n}"),
        tenant: String::new(),
        labels: BTreeMap::new(),
        oci: None,
        docker: None,
        declared: None,
        network: None,
        member: false,
        services: Vec::new(),
    };
    (0..count).map(|n| Arc::new(one(n))).collect()
}

fn supervise_fake(fake: &Arc<Fake>, count: usize) -> (RuntimeHandle, Reports) {
    let driver: Arc<dyn Driver> = fake.clone();
    supervise(containers(count).into_iter().map(|c| Slot::new(c, driver.clone())).collect(), vec![driver], FAST)
}

/// Reads reports until the newest status of each container satisfies `enough`.
async fn until(
    reports: &mut Reports,
    seen: &mut BTreeMap<String, ContainerStatus>,
    enough: impl Fn(&BTreeMap<String, ContainerStatus>) -> bool,
) {
    let wait = async {
        while !enough(seen) {
            let report = reports.recv().await.expect("the supervisor runs");
            seen.extend(report.into_iter().map(|status| (status.name.clone(), status)));
        }
    };
    tokio::time::timeout(Duration::from_secs(120), wait).await.expect("it comes to that");
}

fn all(state: ContainerState) -> impl Fn(&BTreeMap<String, ContainerStatus>) -> bool {
    move |seen| !seen.is_empty() && seen.values().all(|status| status.state == state)
}

#[tokio::test]
async fn absent_containers_are_started_a_few_at_once_and_taken_over_later() {
    let fake = Arc::new(Fake::default());
    let (handle, mut reports) = supervise_fake(&fake, 20);
    let first = reports.recv().await.expect("the full list");
    assert_eq!(first.len(), 20);
    assert!(first.iter().all(|status| status.state == ContainerState::Absent));
    let mut seen = BTreeMap::new();
    until(&mut reports, &mut seen, |seen| seen.len() == 20 && all(ContainerState::Running)(seen)).await;
    assert_eq!(fake.state().most_starting, STARTS);

    drop(handle);
    while reports.recv().await.is_some() {}
    let (_handle, mut reports) = supervise_fake(&fake, 20);
    let again = reports.recv().await.expect("the full list");
    let pids = |statuses: &mut dyn Iterator<Item = &ContainerStatus>| {
        statuses.map(|status| (status.name.clone(), status.pid)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(pids(&mut again.iter()), pids(&mut seen.values()));
}

#[tokio::test]
async fn an_end_is_reported_and_not_repaired() {
    let fake = Arc::new(Fake::default());
    let (handle, mut reports) = supervise_fake(&fake, 2);
    let mut seen = BTreeMap::new();
    until(&mut reports, &mut seen, |seen| seen.len() == 2 && all(ContainerState::Running)(seen)).await;
    let before = seen["c1"].pid;
    fake.kill("c1");
    until(&mut reports, &mut seen, |seen| seen["c1"].state == ContainerState::Stopped).await;
    assert_eq!(seen["c0"].state, ContainerState::Running);

    handle.restart("c1").await.expect("it can be restarted");
    until(&mut reports, &mut seen, |seen| seen["c1"].state == ContainerState::Running).await;
    assert_ne!(seen["c1"].pid, before);
    handle.stop("c0").await.expect("it can be stopped");
    until(&mut reports, &mut seen, |seen| seen["c0"].state == ContainerState::Stopped).await;
    assert_eq!(seen["c0"].problem, None);

    let error = handle.pause("c1").await.expect_err("not advertised");
    assert_eq!(error.to_string(), "the driver fake cannot pause a container");
    let error = handle.restart("c9").await.expect_err("no such container");
    assert_eq!(error.to_string(), "no container c9 is configured on this host");
}

#[tokio::test]
async fn a_failed_start_is_shown_and_tried_again_more_and_more_slowly() {
    let fake = Arc::new(Fake::default());
    fake.state().failures = 5;
    let begin = Instant::now();
    let (_handle, mut reports) = supervise_fake(&fake, 1);
    let mut seen = BTreeMap::new();
    until(&mut reports, &mut seen, |seen| seen.get("c0").is_some_and(|status| status.problem.is_some())).await;
    assert_eq!(seen["c0"].problem.as_deref(), Some("fake: not today"));
    assert_eq!(seen["c0"].state, ContainerState::Absent);
    until(&mut reports, &mut seen, all(ContainerState::Running)).await;
    assert_eq!(seen["c0"].problem, None);
    let waited = begin.elapsed().as_millis();
    assert!(waited >= 10 + 20 + 40 + 40 + 40, "{waited}");
}

#[tokio::test]
async fn a_replacement_is_started_when_what_it_replaces_is_gone() {
    let fake = Arc::new(Fake::default());
    let (handle, mut reports) = supervise_fake(&fake, 1);
    let mut seen = BTreeMap::new();
    until(&mut reports, &mut seen, all(ContainerState::Running)).await;
    handle.replace("c0", "c0.1".into(), None).await.expect("it can be replaced");
    until(&mut reports, &mut seen, |seen| {
        seen.get("c0.1").is_some_and(|status| status.state == ContainerState::Running)
    })
    .await;
    assert_eq!(fake.state().running.keys().collect::<Vec<_>>(), ["c0.1"]);
    assert!(!fake.state().stopped.contains("c0"), "nothing is left of it");
    handle.restart("c0").await.expect_err("it is not there any more");
    handle.restart("c0.1").await.expect("it is in its place");

    // The new one cannot be started: the old one is gone all the same, and it is tried again.
    fake.state().failures = 1;
    let error = handle.replace("c0.1", "c0.2".into(), None).await.expect_err("not today");
    assert!(matches!(error, RuntimeError::Removed(_)), "{error}");
    until(&mut reports, &mut seen, |seen| {
        seen.get("c0.2").is_some_and(|status| status.state == ContainerState::Running)
    })
    .await;
    assert_eq!(fake.state().running.keys().collect::<Vec<_>>(), ["c0.2"]);
}

/// The agent ended after it had been written down that one container replaces another, and before anything was done.
#[tokio::test]
async fn what_an_earlier_life_began_to_replace_goes_first() {
    let fake = Arc::new(Fake::default());
    let (handle, mut reports) = supervise_fake(&fake, 1);
    let mut seen = BTreeMap::new();
    until(&mut reports, &mut seen, all(ContainerState::Running)).await;
    drop(handle);
    while reports.recv().await.is_some() {}

    let driver: Arc<dyn Driver> = fake.clone();
    let clone = Container { name: "c0.1".into(), ..Container::clone(&containers(1)[0]) };
    let slot = Slot { replaces: Some("c0".into()), ..Slot::new(Arc::new(clone), driver.clone()) };
    let (_handle, mut reports) = supervise(vec![slot], vec![driver], FAST);
    let mut seen = BTreeMap::new();
    until(&mut reports, &mut seen, all(ContainerState::Running)).await;
    assert_eq!(fake.state().running.keys().collect::<Vec<_>>(), ["c0.1"]);
}

#[tokio::test]
async fn what_is_held_is_not_started_until_it_is_released() {
    let fake = Arc::new(Fake::default());
    let driver: Arc<dyn Driver> = fake.clone();
    let slots = containers(2).into_iter().map(|c| Slot { held: c.name == "c0", ..Slot::new(c, driver.clone()) });
    let (handle, mut reports) = supervise(slots.collect(), vec![driver], FAST);
    let mut seen = BTreeMap::new();
    until(&mut reports, &mut seen, |seen| seen.get("c1").is_some_and(|status| status.state == ContainerState::Running))
        .await;
    assert_eq!(seen["c0"].state, ContainerState::Absent);
    handle.freeze("c1").await.expect("what cannot be paused is held only");
    fake.kill("c1");
    handle.release("c0").await.expect("it is held");
    until(&mut reports, &mut seen, |seen| seen["c0"].state == ContainerState::Running).await;
}

#[tokio::test]
async fn orders_for_a_container_that_is_busy_wait_their_turn() {
    let fake = Arc::new(Fake::default());
    let (handle, mut reports) = supervise_fake(&fake, 1);
    let mut seen = BTreeMap::new();
    until(&mut reports, &mut seen, all(ContainerState::Running)).await;
    let orders = (0..WAITING + 2).map(|_| handle.restart("c0"));
    let done = futures_util::future::join_all(orders).await;
    let busy = done.iter().filter(|result| matches!(result, Err(RuntimeError::Busy(_)))).count();
    assert_eq!((done.iter().filter(|result| result.is_ok()).count(), busy), (WAITING + 1, 1));
}
