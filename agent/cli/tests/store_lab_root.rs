//! The store of a lab's hosts: it forms by itself, any host serves it, and what it acknowledged is there whatever dies.

#[allow(dead_code, reason = "the other lab tests use the rest")]
mod common;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use common::{BINARY, LONG, Lab, Traces};
use hyper_util::rt::TokioIo;
use ringmesh_agentd::lab::{Fault, wait};
use ringmesh_proto::{
    etcd::etcdserverpb::{PutRequest, RangeRequest, kv_client::KvClient},
    v1::{GetStoreStatusRequest, StoreStatus, store_client::StoreClient, store_member::Role},
};
use tokio::{net::UnixStream, runtime::Runtime};
use tonic::{Status, transport::Channel};

const ALL: [&str; 5] = ["h1", "h2", "h3", "h4", "h5"];

/// Keys that each host's writer has.
const KEYS: u64 = 20;

/// For one call; longer than an election.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long nothing may be written when the leader is lost; 3 s are the aim, and this is for a busy machine.
const ELECTED: Duration = Duration::from_secs(10);

/// How long a voter is down before it is replaced, and how long that may take then.
const HEALED: Duration = Duration::from_secs(30 + 30);

#[test]
#[ignore = "needs root"]
fn the_store_of_five_hosts_survives_whoever_dies() {
    let before = Traces::of("e2e-store");
    let lab = Lab::up("e2e-store", 5, 1);
    let world = World::new(&lab);
    world.until("three vote and two stand by", LONG, |status| roles(status) == (3, 2, 0) && status.tolerance == 1);
    any_host_serves_etcd(&lab);
    let load = Load::start(&world);
    ALL.iter().for_each(|host| load.until_written(host));
    the_leader_is_killed(&lab, &world, &load);
    let came_back = the_leader_is_cut_off(&lab, &world, &load);
    a_voter_is_gone_for_good_and_comes_back(&lab, &world, &came_back);
    all_agents_restart_at_once(&lab, &world);
    load.check(&world);
    a_snapshot_makes_a_store_of_its_own(&lab);
    drop(lab);
    assert_eq!(Traces::of("e2e-store"), before);
}

#[test]
#[ignore = "needs root"]
fn two_hosts_have_one_voter_and_nine_have_hosts_that_pass_calls_on() {
    let before = Traces::of("e2e-few");
    let lab = Lab::up("e2e-few", 2, 0);
    let world = World::new(&lab);
    world.until("one votes and one stands by", LONG, |status| roles(status) == (1, 1, 0));
    let third = lab.add_host();
    assert_eq!(third.name, "h3");
    world.until("with a third host three vote", LONG, |status| roles(status) == (3, 0, 0));
    drop(lab);
    assert_eq!(Traces::of("e2e-few"), before);

    let before = Traces::of("e2e-nine");
    let lab = Lab::up("e2e-nine", 9, 0);
    let world = World::new(&lab);
    let status = world.until("five vote and two stand by", LONG, |status| roles(status) == (5, 2, 2));
    let spare = status.members.iter().find(|member| member.role() == Role::Spare).expect("two").host.clone();
    let other = status.members[0].host.clone();
    put(&lab, &spare, "x", "by a spare");
    assert_eq!(get(&lab, &other, "x"), "by a spare");
    put(&lab, &other, "x", "by a voter");
    assert_eq!(get(&lab, &spare, "x"), "by a voter");
    // The host by which it goes is the leader's: it finds another way.
    lab.fault(&Fault::Kill { host: status.leader });
    let asked = wait::until_true(LONG, || etcdctl(&lab, &spare, &["put", "x", "after"]).is_ok());
    assert!(asked, "a spare finds another host");
    assert_eq!(get(&lab, &spare, "x"), "after");
    drop(lab);
    assert_eq!(Traces::of("e2e-nine"), before);
}

#[test]
#[ignore = "needs root"]
fn hosts_of_another_zone_pass_calls_on_by_a_delegate() {
    let before = Traces::of("e2e-zones");
    let lab = Lab::up_in_zones("e2e-zones", 4, 0, 2);
    let world = World::new(&lab);
    let status = world.until("the hosts of one zone hold replicas", LONG, |status| roles(status) == (1, 1, 0));
    let holds = |host: &str| status.members.iter().any(|member| member.host == host);
    let (inside, outside): (Vec<&str>, Vec<&str>) = ALL[..4].iter().partition(|host| holds(host));
    assert_eq!((inside.len(), outside.len()), (2, 2), "{status:?}");
    for host in outside {
        let asked = wait::until_true(LONG, || etcdctl(&lab, host, &["put", host, "from afar"]).is_ok());
        assert!(asked, "{host} finds a delegate");
        assert_eq!(get(&lab, inside[0], host), "from afar");
        assert_eq!(get(&lab, host, host), "from afar");
    }
    drop(lab);
    assert_eq!(Traces::of("e2e-zones"), before);
}

fn any_host_serves_etcd(lab: &Lab) {
    for host in ALL {
        put(lab, host, host, "value");
    }
    for host in ALL {
        let all = etcdctl(lab, host, &["get", "--prefix", "h", "--keys-only"]).expect("it is served");
        assert_eq!(all.split_whitespace().count(), 5, "{host}: {all}");
    }
    let refused = etcdctl(lab, "h2", &["put", "/ringmesh/store/replicas/x", "mine"]).expect_err("it is the hosts' own");
    assert!(refused.contains("permission denied"), "{refused}");
    let members = etcdctl(lab, "h4", &["member", "list"]).expect("it is served");
    assert_eq!(members.lines().count(), 5, "{members}");
}

fn the_leader_is_killed(lab: &Lab, world: &World, load: &Load) {
    let before = world.status().expect("it is well");
    load.forget_gaps();
    lab.fault(&Fault::Kill { host: before.leader.clone() });
    let after = world.until("another one leads", LONG, |status| {
        !status.leader.is_empty() && status.leader != before.leader && status.term > before.term
    });
    load.until_written(&after.leader);
    let gap = load.longest_gap(&after.leader);
    eprintln!("longest time without a write: {gap:?}");
    assert!(gap < ELECTED, "{gap:?}");
    lab.fault(&Fault::Start { host: before.leader.clone() });
    world.until("it is back in its place", LONG, |status| all_heard(status) && roles(status) == (3, 2, 0));
    let now = world.status().expect("it is well");
    assert_eq!(replica_of(&now, &before.leader), replica_of(&before, &before.leader), "it was not away for long");
}

/// Returns which it was.
fn the_leader_is_cut_off(lab: &Lab, world: &World, load: &Load) -> String {
    let before = world.status().expect("it is well");
    load.forget_gaps();
    lab.fault(&Fault::Isolate { host: before.leader.clone() });
    let after = world.until_of("another one leads among the others", LONG, &before.leader, |status| {
        !status.leader.is_empty() && status.leader != before.leader
    });
    load.until_written(&after.leader);
    let gap = load.longest_gap(&after.leader);
    eprintln!("longest time without a write: {gap:?}");
    assert!(gap < ELECTED, "{gap:?}");
    lab.fault(&Fault::Heal { host: before.leader.clone() });
    world.until("it is back in its place", LONG, |status| all_heard(status) && roles(status) == (3, 2, 0));
    before.leader
}

/// For one that came back just now it would be waited longer.
fn a_voter_is_gone_for_good_and_comes_back(lab: &Lab, world: &World, came_back: &str) {
    let before = world.status().expect("it is well");
    let is_other = |host: &str| before.leader != host && came_back != host;
    let voter = before.members.iter().find(|member| member.role() == Role::Voter && is_other(&member.host));
    let voter = voter.expect("one of three").host.clone();
    lab.fault(&Fault::Kill { host: voter.clone() });
    let start = Instant::now();
    let healed = world.until("a stand-by has its place", LONG + HEALED, |status| {
        let is_voter =
            |host: &str| status.members.iter().any(|member| member.host == host && member.role() == Role::Voter);
        roles(status).0 == 3 && !is_voter(&voter) && status.tolerance == 1
    });
    eprintln!("healed after {:?}", start.elapsed());
    assert!(start.elapsed() < HEALED, "{:?}", start.elapsed());
    assert_eq!(healed.leader, before.leader, "the leader stays");
    lab.fault(&Fault::Start { host: voter.clone() });
    let now = world.until("it is there again", LONG, |status| all_heard(status) && roles(status) == (3, 2, 0));
    assert_ne!(replica_of(&now, &voter), replica_of(&before, &voter), "under another id");
}

fn all_agents_restart_at_once(lab: &Lab, world: &World) {
    let before = world.status().expect("it is well");
    for host in ALL {
        lab.fault(&Fault::Kill { host: host.into() });
    }
    for host in ALL {
        lab.fault(&Fault::Start { host: host.into() });
    }
    let after = world.until("all are back", LONG, |status| all_heard(status) && roles(status) == (3, 2, 0));
    let ids = |status: &StoreStatus| {
        status.members.iter().map(|member| (member.host.clone(), member.replica.clone())).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(ids(&after), ids(&before));
}

fn a_snapshot_makes_a_store_of_its_own(lab: &Lab) {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let (file, data) = (directory.path().join("backup"), directory.path().join("data"));
    let api = lab.host("h3").api;
    let run = |arguments: &[&str]| {
        let ran = Command::new(BINARY).args(arguments).output().expect("the binary runs");
        assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    };
    let [file, data] = [&file, &data].map(|path| path.display().to_string());
    run(&["--host", &api, "store", "snapshot", &file]);
    run(&["store", "restore", "--data-dir", &data, &file]);
}

/// Voters, stand-bys and spares.
fn roles(status: &StoreStatus) -> (usize, usize, usize) {
    let count = |role: Role| status.members.iter().filter(|member| member.role() == role).count();
    (count(Role::Voter), count(Role::Standby), count(Role::Spare))
}

fn all_heard(status: &StoreStatus) -> bool {
    status.members.iter().all(|member| member.role() == Role::Spare || (member.heard && member.lag < 100))
}

fn replica_of(status: &StoreStatus, host: &str) -> String {
    status.members.iter().find(|member| member.host == host).expect("it is one").replica.clone()
}

/// Within the host's namespace, over its loopback.
fn etcdctl(lab: &Lab, host: &str, arguments: &[&str]) -> Result<String, String> {
    let netns = lab.host(host).netns;
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &netns, "etcdctl", "--endpoints", "127.0.0.1:2379", "--command-timeout", "4s"]);
    let ran = command.args(arguments).env("ETCDCTL_API", "3").output().expect("etcdctl runs: see make install-test");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if ran.status.success() { Ok(text(&ran.stdout)) } else { Err(text(&ran.stderr)) }
}

fn put(lab: &Lab, host: &str, key: &str, value: &str) {
    etcdctl(lab, host, &["put", key, value]).unwrap_or_else(|error| panic!("{host}: {error}"));
}

fn get(lab: &Lab, host: &str, key: &str) -> String {
    let got = etcdctl(lab, host, &["get", key, "--print-value-only"]);
    got.unwrap_or_else(|error| panic!("{host}: {error}")).trim().to_owned()
}

/// The APIs of all hosts.
struct World {
    runtime: Runtime,
    sockets: BTreeMap<String, PathBuf>,
}

async fn channel(socket: &Path) -> Result<Channel, Status> {
    let socket = socket.to_owned();
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://agent").timeout(PATIENCE);
    endpoint.connect_with_connector(connect).await.map_err(|error| Status::unavailable(error.to_string()))
}

impl World {
    fn new(lab: &Lab) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let path = |api: &str| PathBuf::from(api.trim_start_matches("unix:"));
        let sockets = lab.status().hosts.into_iter().map(|host| (host.name, path(&host.api))).collect();
        Self { runtime: runtime.expect("a runtime"), sockets }
    }

    /// As the first host that knows who leads says it.
    fn status(&self) -> Option<StoreStatus> {
        self.status_of("")
    }

    /// The same, without asking one of them.
    fn status_of(&self, not: &str) -> Option<StoreStatus> {
        self.runtime.block_on(async {
            for (_, socket) in self.sockets.iter().filter(|(host, _)| *host != not) {
                let Ok(channel) = channel(socket).await else { continue };
                let asked = StoreClient::new(channel).get_store_status(GetStoreStatusRequest {}).await;
                match asked.map(tonic::Response::into_inner) {
                    Ok(status)
                        if !status.leader.is_empty() && status.members.iter().any(|member| !member.why.is_empty()) =>
                    {
                        return Some(status);
                    }
                    Ok(_) | Err(_) => {}
                }
            }
            None
        })
    }

    fn until(&self, what: &str, limit: Duration, is_so: impl Fn(&StoreStatus) -> bool) -> StoreStatus {
        self.until_of(what, limit, "", is_so)
    }

    fn until_of(&self, what: &str, limit: Duration, not: &str, is_so: impl Fn(&StoreStatus) -> bool) -> StoreStatus {
        let start = Instant::now();
        let mut last = None;
        let found = wait::until_true(limit, || {
            last = self.status_of(not);
            last.as_ref().is_some_and(&is_so)
        });
        assert!(found, "{what}: {last:?}");
        eprintln!("{what}: after {:?}", start.elapsed());
        last.expect("it was seen")
    }
}

/// A register with one writer, which writes 1, 2, 3 and so on.
#[derive(Clone, Copy, Debug, Default)]
struct Register {
    acknowledged: u64,
    tried: u64,
    /// By any reader that has ended.
    seen: u64,
}

/// By host and number.
type Registers = Arc<Mutex<BTreeMap<String, Register>>>;

/// Acknowledged writes by host, with their time.
type Times = Arc<Mutex<BTreeMap<String, Vec<Instant>>>>;

/// Writers and readers at all hosts, whose answers must be those of registers: no reader that begins later sees less, none
/// sees less than was acknowledged before or more than was written.
struct Load {
    registers: Registers,
    times: Times,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// A key of which nobody knows what became of a write is used no more: that may be done at any time.
fn key(host: &str, number: u64, epoch: u64) -> String {
    format!("/load/{host}/{number}/{epoch}")
}

impl Load {
    fn start(world: &World) -> Self {
        let load = Self { registers: Arc::default(), times: Arc::default(), stop: Arc::default(), tasks: Vec::new() };
        let mut tasks = Vec::new();
        for (number, (host, socket)) in (0..).zip(&world.sockets) {
            let (registers, times, stop) = (load.registers.clone(), load.times.clone(), load.stop.clone());
            let writer = write(host.clone(), socket.clone(), registers, times, stop);
            tasks.push(world.runtime.spawn(writer));
            let (registers, stop) = (load.registers.clone(), load.stop.clone());
            tasks.push(world.runtime.spawn(read(socket.clone(), number, registers, stop)));
        }
        Self { tasks, ..load }
    }

    fn forget_gaps(&self) {
        let now = Instant::now();
        self.times.lock().expect("no panic").values_mut().for_each(|times| *times = vec![now]);
    }

    /// At a host that was well all the time.
    fn longest_gap(&self, host: &str) -> Duration {
        let times = self.times.lock().expect("no panic");
        let times = times.get(host).cloned().unwrap_or_default();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    fn until_written(&self, host: &str) {
        let count = || self.times.lock().expect("no panic").get(host).map_or(0, Vec::len);
        let before = count();
        assert!(wait::until_true(LONG, || count() > before + 50), "{host} writes again");
    }

    /// Ends it, and reads everything at every host.
    fn check(self, world: &World) {
        self.stop.store(true, Ordering::SeqCst);
        world.runtime.block_on(async {
            for task in self.tasks {
                task.await.expect("no answer was wrong");
            }
            let registers = self.registers.lock().expect("no panic").clone();
            let writes: u64 = registers.values().map(|register| register.acknowledged).sum();
            eprintln!("{writes} writes were acknowledged");
            assert!(writes > 100, "{registers:?}");
            for socket in world.sockets.values() {
                let mut client = KvClient::new(channel(socket).await.expect("it is served"));
                for (key, register) in &registers {
                    let value = look(&mut client, key).await.expect("it is well");
                    let may = register.acknowledged.max(register.seen)..=register.tried;
                    assert!(may.contains(&value), "{key}: {value}, {register:?}");
                }
            }
        });
    }
}

async fn write(host: String, socket: PathBuf, registers: Registers, times: Times, stop: Arc<AtomicBool>) {
    let (mut client, mut epoch) = (None, 0);
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let key = key(&host, number % KEYS, epoch);
        let value = {
            let mut registers = registers.lock().expect("no panic");
            let register = registers.entry(key.clone()).or_default();
            register.tried += 1;
            register.tried
        };
        let Some(connected) = &mut client else {
            client = channel(&socket).await.ok().map(KvClient::new);
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let put = PutRequest { key: key.clone().into(), value: value.to_string().into(), ..PutRequest::default() };
        match connected.put(put).await {
            Ok(_) => {
                registers.lock().expect("no panic").entry(key).or_default().acknowledged = value;
                times.lock().expect("no panic").entry(host.clone()).or_default().push(Instant::now());
            }
            Err(_) => {
                (client, epoch) = (None, epoch + 1);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn look(client: &mut KvClient<Channel>, key: &str) -> Result<u64, Status> {
    let found = client.range(RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() }).await?;
    let value = found.into_inner().kvs.pop().map_or_else(String::new, |kv| String::from_utf8_lossy(&kv.value).into());
    Ok(value.parse().unwrap_or(0))
}

async fn read(socket: PathBuf, seed: u64, registers: Registers, stop: Arc<AtomicBool>) {
    let mut client = None;
    for round in seed.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let host = ALL[(round % 5) as usize];
        let (key, before) = {
            let registers = registers.lock().expect("no panic");
            let prefix = format!("/load/{host}/{}/", round / 5 % KEYS);
            let newest = registers.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix)).last();
            newest.map_or_else(|| (key(host, 0, 0), Register::default()), |(key, register)| (key.clone(), *register))
        };
        let Some(connected) = &mut client else {
            client = channel(&socket).await.ok().map(KvClient::new);
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        match look(connected, &key).await {
            Ok(value) => {
                let mut registers = registers.lock().expect("no panic");
                let now = registers.entry(key.clone()).or_default();
                let least = before.acknowledged.max(before.seen);
                assert!((least..=now.tried).contains(&value), "{key}: read {value}, before {before:?}, now {now:?}");
                now.seen = now.seen.max(value);
            }
            Err(_) => {
                client = None;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
