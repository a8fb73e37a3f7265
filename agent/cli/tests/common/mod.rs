//! A lab for a test: it goes when the test ends, and tells what its agents logged when the test failed.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use ringmesh_agentd::{
    config::{Mode, RepairMode},
    lab::{
        self, Fault, HostStatus, LabError, LabStatus, UpOptions,
        wait::{self, Seen},
    },
};
use ringmesh_proto::v1;

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_ringmesh");

/// Longer than anything here takes on a machine that is busy; a test that waits so long has failed.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Log lines of each agent that a failed test shows.
const LOG_TAIL: usize = 15;

/// A lab that is up.
pub(crate) struct Lab {
    name: &'static str,
}

impl Lab {
    /// Takes down what an earlier run left and makes a lab.
    pub(crate) fn up(name: &'static str, hosts: u16, containers: u16) -> Self {
        Self::up_in_zones(name, hosts, containers, 1)
    }

    /// The same with more than one zone.
    pub(crate) fn up_in_zones(name: &'static str, hosts: u16, containers: u16, zones: u16) -> Self {
        lab::down(Some(name)).expect("nothing of an earlier run is left");
        let start = Instant::now();
        let lab = Self { name };
        let (name_of, mode, binary) = (name.into(), Mode::Switched, BINARY.into());
        let options =
            UpOptions { name: name_of, hosts, containers, zones, mode, repair: RepairMode::Off, dir: None, binary };
        let up = lab::up(&options, &mut |step| eprintln!("{:>6.1} s  {step}", start.elapsed().as_secs_f32()));
        up.unwrap_or_else(|error| panic!("{error}"));
        lab
    }

    /// As it is now.
    pub(crate) fn status(&self) -> LabStatus {
        lab::status(Some(self.name)).expect("it is up")
    }

    /// A host as it is now.
    pub(crate) fn host(&self, name: &str) -> HostStatus {
        self.status().hosts.into_iter().find(|host| host.name == name).expect("a host of the lab")
    }

    /// Brings a fault about.
    pub(crate) fn fault(&self, fault: &Fault) {
        lab::fault(Some(self.name), fault).unwrap_or_else(|error| panic!("{fault:?}: {error}"));
    }

    /// A further host joins.
    pub(crate) fn add_host(&self) -> HostStatus {
        lab::add_host(Some(self.name)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The one first process of each container of a host, in order.
    pub(crate) fn containers(&self, host: &str) -> Vec<u32> {
        let pid = |nth| {
            let container = format!("{host}-c{nth}");
            let pids = lab::container_pids(Some(self.name), host, &container).expect("a container of the lab");
            assert_eq!(pids.len(), 1, "{container} runs once: {pids:?}");
            pids[0]
        };
        (1..=self.status().containers).map(pid).collect()
    }

    /// Waits until `expect` is content with what each of `observers` sees, and says how long it took.
    pub(crate) fn until<T: wait::Watched>(
        &self,
        what: &str,
        observers: &[&str],
        expect: impl Fn(&HostStatus, &Seen<T>) -> Result<(), String> + Sync,
    ) -> Duration {
        let start = Instant::now();
        let hosts = self.observers(observers);
        let done = wait::until(&hosts.iter().collect::<Vec<_>>(), LONG, expect);
        done.unwrap_or_else(|error| panic!("{what}: {error}"));
        eprintln!("{:>6.1} s  {what}", start.elapsed().as_secs_f32());
        start.elapsed()
    }

    /// Waits until each of `observers` has an event that is not in `past` and for which `wanted` holds.
    pub(crate) fn until_event(
        &self,
        what: &str,
        observers: &[&str],
        past: &Past,
        wanted: impl Fn(&v1::Event) -> bool + Sync,
    ) -> Vec<v1::Event> {
        let hosts = self.observers(observers);
        let found =
            wait::until_event(&hosts.iter().collect::<Vec<_>>(), LONG, |event| past.lacks(event) && wanted(event));
        found.unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// The events that these hosts have by now.
    pub(crate) fn past(&self, observers: &[&str]) -> Past {
        let events = self.observers(observers).into_iter().flat_map(|host| wait::events(&host).expect("it answers"));
        Past(events.map(|event| event.id).collect())
    }

    /// Watches for `time` that none of `observers` has an event that is not in `past` and for which `refused` holds.
    pub(crate) fn no_event(
        &self,
        time: Duration,
        observers: &[&str],
        past: &Past,
        refused: impl Fn(&v1::Event) -> bool + Sync,
    ) {
        for host in self.observers(observers) {
            // All are watched for as long as the first; what the others got meanwhile is in their backlog.
            let time = if host.name == observers[0] { time } else { Duration::from_millis(200) };
            let found = wait::until_event(&[&host], time, |event| past.lacks(event) && refused(event));
            assert!(matches!(found, Err(LabError::TimedOut { .. })), "{} has {found:?}", host.name);
        }
    }

    /// Waits until each of `observers` sees the hosts of `alive`, and no others that have not left, alive with both
    /// uplinks up, every container running and every service passing.
    pub(crate) fn until_well(&self, what: &str, alive: &[&str]) -> Duration {
        let containers = u32::from(self.status().containers);
        self.until::<v1::Host>(what, alive, |_, seen| {
            let present = seen.values().filter(|host| host.state() != v1::host::State::Left);
            let names: BTreeSet<_> = present.map(|host| host.name.as_str()).collect();
            if names != alive.iter().copied().collect() {
                return Err(format!("hosts {names:?}"));
            }
            alive.iter().try_for_each(|name| {
                let host = &seen[*name];
                let up = v1::uplink::State::Up;
                let uplinks = host.uplinks.unwrap_or_default();
                let digest = host.digest.unwrap_or_default();
                let well = host.state() == v1::host::State::Alive
                    && (uplinks.a(), uplinks.b()) == (up, up)
                    && (digest.running, digest.passing) == (containers, containers);
                if well { Ok(()) } else { Err(format!("{name} {:?} {uplinks:?} {digest:?}", host.state())) }
            })
        })
    }

    fn observers(&self, names: &[&str]) -> Vec<HostStatus> {
        names.iter().map(|name| self.host(name)).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        let down = lab::down(Some(self.name));
        if !std::thread::panicking() {
            down.expect("nothing is left");
        }
    }
}

impl Lab {
    /// The end of what each agent logged.
    fn show_logs(&self) {
        let Ok(status) = lab::status(Some(self.name)) else { return };
        for host in &status.hosts {
            let log = fs::read_to_string(status.dir.join(&host.name).join("agent.log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- {} {:?}", host.name, host.state);
            for line in &lines[lines.len().saturating_sub(LOG_TAIL)..] {
                eprintln!("{line}");
            }
        }
    }
}

/// Events of the past, by their ids.
pub(crate) struct Past(BTreeSet<String>);

impl Past {
    pub(crate) fn lacks(&self, event: &v1::Event) -> bool {
        !self.0.contains(&event.id)
    }
}

/// What a lab may leave no trace in: mounts, namespaces, control groups, files of labs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Traces {
    mounts: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    labs: BTreeSet<String>,
}

impl Traces {
    /// Of labs whose name begins with `name`; mounts of every kind.
    pub(crate) fn of(name: &str) -> Self {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").expect("procfs");
        let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| point.contains(name));
        Self {
            mounts: points.map(str::to_owned).collect(),
            namespaces: names_in("/run/netns").filter(|netns| netns.starts_with(&format!("rm-{name}"))).collect(),
            cgroups: cgroups(Path::new("/sys/fs/cgroup"), 2),
            labs: names_in("/run/ringmesh/labs").filter(|lab| lab.starts_with(name)).collect(),
        }
    }
}

/// Control groups that belong to a container of ringmesh: below `ringmesh` in each hierarchy.
fn cgroups(dir: &Path, depth: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for name in names_in(dir) {
        let path = dir.join(&name);
        if name == "ringmesh" {
            found.extend(names_in(&path).map(|group| path.join(group)).filter(|path| path.is_dir()).map(text));
        } else if depth > 0 && path.is_dir() {
            found.extend(cgroups(&path, depth - 1));
        }
    }
    found
}

fn names_in(dir: impl AsRef<Path>) -> impl Iterator<Item = String> {
    fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok())
}

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}
