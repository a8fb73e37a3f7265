//! The configuration on hosts, over their API and QUIC on loopback: it forms by itself, any host serves it, and a replica
//! whose place or disk is lost does no harm. What gossip would say the test says.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use ringmesh_agentd::{
    api::{self, Api, StoreEnd},
    clock,
    config::ConfigFile,
    identity::Identity,
    keeper::Keeper,
    lab,
    quic::Transport,
    store::{Access, Holder, Holding},
};
use ringmesh_node::{
    Peer, View, Way,
    roles::{self, Voters},
};
use ringmesh_proto::{
    HostId, Uplink,
    etcd::etcdserverpb::{
        MemberListRequest, PutRequest, RangeRequest, WatchCreateRequest, WatchRequest, cluster_client::ClusterClient,
        kv_client::KvClient, watch_client::WatchClient, watch_request::RequestUnion,
    },
    peer::ReplicaRecord,
    v1::{self, GetStoreStatusRequest, StoreStatus, host::State, store_client::StoreClient, store_member::Role},
};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tonic::{Code, Status, transport::Channel};

use crate::support::{Cluster, Host, within};

/// Between two looks at a status, which tells nobody when it changes.
const LOOK: Duration = Duration::from_millis(20);

/// How long a voter is down before it is replaced.
const REPLACE_AFTER: Duration = Duration::from_millis(300);

/// What all hosts know of one.
struct Known {
    host: v1::Host,
    peer: Peer,
    view: watch::Sender<Arc<View>>,
}

/// In place of gossip: what a host says of itself all know at once.
#[derive(Clone, Default)]
struct Gossip(Arc<Mutex<BTreeMap<HostId, Known>>>);

impl Gossip {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<HostId, Known>)) {
        let mut all = self.0.lock().expect("no panic");
        change(&mut all);
        for (id, known) in all.iter() {
            let hosts = all.iter().map(|(other, of)| v1::Host { local: other == id, ..of.host.clone() });
            let peers = all.iter().filter(|(other, _)| *other != id).map(|(other, of)| (*other, of.peer.clone()));
            let view = View {
                name: known.host.name.clone(),
                hosts: Arc::new(hosts.collect()),
                peers: Arc::new(peers.collect()),
                ..View::default()
            };
            known.view.send_replace(Arc::new(view));
        }
    }

    fn set_state(&self, host: HostId, state: State) {
        self.change(|all| {
            let known = all.get_mut(&host).expect("it was started");
            known.host.state = state.into();
            known.peer.askable = state == State::Alive;
        });
    }

    fn set_replica(&self, host: HostId, record: Option<ReplicaRecord>) {
        let replica = record.map(|record| v1::Replica {
            id: format!("{:016x}", record.id),
            role: if record.votes { v1::replica::Role::Voter } else { v1::replica::Role::Standby }.into(),
            leads: record.leads,
            term: record.term,
        });
        self.change(|all| all.get_mut(&host).expect("it was started").host.replica = replica);
    }
}

/// Hosts of one cluster.
struct World {
    cluster: Cluster,
    gossip: Gossip,
    standbys: usize,
    directories: BTreeMap<String, TempDir>,
    identities: BTreeMap<String, Arc<Identity>>,
    agents: BTreeMap<String, Agent>,
}

/// One that runs.
struct Agent {
    id: HostId,
    channel: Channel,
    transport: Transport,
    store: Access,
    end: StoreEnd,
}

impl World {
    /// `h1` has founded.
    async fn start(names: &[&str], standbys: usize) -> Self {
        let mut world = Self {
            cluster: Cluster::new(),
            gossip: Gossip::default(),
            standbys,
            directories: BTreeMap::new(),
            identities: BTreeMap::new(),
            agents: BTreeMap::new(),
        };
        for name in names {
            world.add(name).await;
        }
        world
    }

    fn state_dir(&self, name: &str) -> PathBuf {
        if name == "h1" { self.cluster.state_dir() } else { self.directories[name].path().into() }
    }

    async fn add(&mut self, name: &str) {
        let identity = if name == "h1" { Arc::clone(&self.cluster.first) } else { self.cluster.admit(name) };
        self.identities.insert(name.into(), identity);
        self.directories.insert(name.into(), tempfile::tempdir().expect("a directory for the test"));
        self.run(name, true).await;
    }

    /// Begins, or begins again with what its state directory holds.
    async fn run(&mut self, name: &str, eligible: bool) {
        let identity = &self.identities[name];
        let Host { keyring, transport, member, counters, view, inbound, store_streams, .. } = Host::start(identity);
        // Nobody gossips.
        drop(inbound);
        let host = v1::Host {
            name: name.into(),
            id: member.id.to_string(),
            state: State::Alive.into(),
            zone: "default".into(),
            ..v1::Host::default()
        };
        let way = Way::over(Uplink::A);
        let peer = Peer { member, name: name.into(), askable: true, fingerprint: 0, way };
        let shown = view.subscribe();
        self.gossip.change(|all| drop(all.insert(member.id, Known { host, peer, view })));

        let holding = Holding {
            cluster: identity.cluster,
            host: member.id,
            name: name.into(),
            state_dir: self.state_dir(name),
            eligible,
            roles: roles::Settings { voters: Voters::Auto, standbys: self.standbys, replace_after: REPLACE_AFTER },
            quota_bytes: 16 << 20,
            retention: None,
        };
        let (holder, store, mut told) = Holder::new(holding, transport.clone(), shown.clone(), store_streams);
        let gossip = self.gossip.clone();
        tokio::spawn(async move {
            while told.changed().await.is_ok() {
                let record = *told.borrow_and_update();
                gossip.set_replica(member.id, record);
            }
        });
        let (commands, authority) = (mpsc::channel(1).0, Arc::default());
        let (keeper_view, state_dir) = (shown.clone(), self.state_dir(name));
        let keeper = Keeper::new(
            keyring.clone(),
            transport.clone(),
            keeper_view,
            Arc::clone(&authority),
            state_dir,
            commands.clone(),
        );
        let directory = self.directories[name].path();
        let socket = directory.join("agent.sock");
        let file = config(&directory.join("agent.toml"), name, &socket);
        let api = Api {
            view: shown,
            transport: transport.clone(),
            commands,
            authority,
            keyring,
            keeper,
            config: Arc::new(file.parse().expect("it is good")),
            config_file: Arc::new(file),
            counters,
            started_at: clock::unix(),
            watches: Arc::default(),
            store: store.clone(),
        };
        // The API of one that has ended serves on in this process: its socket makes room.
        let _ = std::fs::remove_file(&socket);
        let end = api::start(api, holder).await.expect("nobody has its socket");
        let channel = lab::channel(&format!("unix:{}", socket.display()));
        self.agents.insert(name.into(), Agent { id: member.id, channel, transport, store, end });
    }

    /// Ends it in order, and all others see that it is gone.
    async fn end(&mut self, name: &str) -> HostId {
        let agent = self.agents.remove(name).expect("it runs");
        within("a store ends", agent.end.end()).await;
        agent.transport.close().await;
        self.gossip.set_replica(agent.id, None);
        self.gossip.set_state(agent.id, State::Down);
        agent.id
    }

    /// As `ringmesh leave`.
    async fn leave(&mut self, name: &str) {
        within("it may leave", self.agents[name].store.leave()).await;
        let id = self.end(name).await;
        self.gossip.set_state(id, State::Left);
    }

    fn channel(&self, name: &str) -> Channel {
        self.agents[name].channel.clone()
    }

    async fn status(&self, name: &str) -> Result<StoreStatus, Status> {
        let asked = StoreClient::new(self.channel(name)).get_store_status(GetStoreStatusRequest {}).await;
        asked.map(tonic::Response::into_inner)
    }

    /// Asks `name` until its answer is so.
    async fn until(&self, name: &str, what: &str, is_so: impl Fn(&StoreStatus) -> bool) -> StoreStatus {
        let last = Mutex::new(None);
        let look = async {
            loop {
                let status = self.status(name).await;
                if let Ok(status) = &status
                    && is_so(status)
                {
                    return status.clone();
                }
                *last.lock().expect("no panic") = Some(status);
                tokio::time::sleep(LOOK).await;
            }
        };
        let found = tokio::time::timeout(3 * crate::support::LONG, look).await;
        found.unwrap_or_else(|_| panic!("not: {what}; last: {last:?}"))
    }

    async fn until_roles(&self, name: &str, voters: usize, standbys: usize, spares: usize) -> StoreStatus {
        let what = format!("{voters} voters, {standbys} stand-bys, {spares} spares");
        self.until(name, &what, |status| roles_of(status) == (voters, standbys, spares) && all_heard(status)).await
    }

    /// Also while another one is being elected, when its outcome may be unknown; the value is the key's only one.
    async fn put(&self, name: &str, key: &'static str) {
        within(&format!("{name} takes {key}"), async {
            let mut client = KvClient::new(self.channel(name));
            let put = || PutRequest { key: key.into(), value: key.into(), ..PutRequest::default() };
            while client.put(put()).await.is_err() {
                tokio::time::sleep(LOOK).await;
            }
        })
        .await;
    }

    async fn has(&self, name: &str, key: &'static str) -> bool {
        let request = RangeRequest { key: key.into(), ..RangeRequest::default() };
        let found = within("an answer", KvClient::new(self.channel(name)).range(request)).await;
        found.expect("it is served").into_inner().kvs.first().is_some_and(|kv| kv.value == key)
    }
}

fn config(path: &Path, name: &str, socket: &Path) -> ConfigFile {
    let text = format!("[host]\nname = \"{name}\"\n[uplink.a]\naddress = \"127.0.0.1\"\n[api]\nsocket = {socket:?}\n");
    std::fs::write(path, text).expect("it can be written");
    ConfigFile::read(path).expect("it is there")
}

fn roles_of(status: &StoreStatus) -> (usize, usize, usize) {
    let count = |role: Role| status.members.iter().filter(|member| member.role() == role).count();
    (count(Role::Voter), count(Role::Standby), count(Role::Spare))
}

fn all_heard(status: &StoreStatus) -> bool {
    status.members.iter().all(|member| member.heard || member.role() == Role::Spare)
}

fn replica_of(status: &StoreStatus, name: &str) -> String {
    status.members.iter().find(|member| member.host == name).map(|member| member.replica.clone()).unwrap_or_default()
}

fn follower(status: &StoreStatus) -> String {
    let is_follower = |member: &&v1::StoreMember| member.role() == Role::Voter && !member.leads;
    status.members.iter().find(is_follower).expect("three vote").host.clone()
}

/// Another host than these.
fn other<'a>(names: &[&'a str], not: &str) -> &'a str {
    names.iter().find(|name| **name != not).expect("there are others")
}

#[tokio::test]
async fn hosts_form_a_store_by_themselves_and_each_serves_it() {
    let names = ["h1", "h2", "h3"];
    let mut world = World::start(&["h1"], 2).await;
    let alone = world.until_roles("h1", 1, 0, 0).await;
    world.put("h1", "alone").await;
    world.add("h2").await;
    world.until_roles("h2", 1, 1, 0).await;
    world.add("h3").await;
    let status = world.until_roles("h3", 3, 0, 0).await;
    assert_eq!((status.tolerance, &status.cluster_id), (1, &alone.cluster_id));
    for name in names {
        world.put(name, name).await;
        assert!(world.has(name, "alone").await, "{name}");
    }
    for name in names {
        for key in names {
            assert!(world.has(name, key).await, "{name} has {key}");
        }
    }
}

#[tokio::test]
async fn a_host_without_a_replica_passes_calls_on_and_finds_another_way() {
    let names = ["h1", "h2", "h3"];
    let mut world = World::start(&names, 0).await;
    world.until_roles("h1", 3, 0, 0).await;
    world.add("h4").await;
    let status = world.until_roles("h4", 3, 0, 1).await;
    world.put("h4", "by a spare").await;
    assert!(world.has("h1", "by a spare").await);
    // Streams pass, too.
    let create = WatchCreateRequest { key: "watched".into(), ..WatchCreateRequest::default() };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = futures_util::StreamExt::chain(
        futures_util::stream::once(async { create }),
        futures_util::stream::pending::<WatchRequest>(),
    );
    let mut watches = WatchClient::new(world.channel("h4"));
    let mut answers = within("a watch", watches.watch(requests)).await.expect("it is served").into_inner();
    let created = within("an answer", answers.message()).await.expect("it is open").expect("it is open");
    assert!(created.created);
    world.put("h2", "watched").await;
    let told = within("an event", answers.message()).await.expect("it is open").expect("it is open");
    assert_eq!(told.events.len(), 1);

    let leader = status.leader.clone();
    world.end(&leader).await;
    world.put("h4", "after").await;
    assert!(world.has(other(&names, &leader), "after").await);
}

#[tokio::test]
async fn a_host_that_knows_of_no_replica_says_so() {
    let mut world = World::start(&["h1"], 0).await;
    world.until_roles("h1", 1, 0, 0).await;
    world.end("h1").await;
    world.add("h2").await;
    let error = world.status("h2").await.expect_err("there is none");
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(error.message().contains("replica"), "{error}");
}

#[tokio::test]
async fn a_voter_that_is_down_for_long_is_replaced_and_comes_back_as_another_replica() {
    let names = ["h1", "h2", "h3", "h4"];
    let mut world = World::start(&names, 1).await;
    let before = world.until_roles("h1", 3, 1, 0).await;
    let gone = follower(&before);
    let id = world.end(&gone).await;
    let rest = other(&names, &gone);
    let healed = world
        .until(rest, "the stand-by votes", |status| {
            let votes =
                |name: &str| status.members.iter().any(|member| member.host == name && member.role() == Role::Voter);
            !votes(&gone) && roles_of(status).0 == 3 && replica_of(status, &gone).is_empty()
        })
        .await;
    assert_eq!(healed.leader, before.leader, "it stays");
    world.put(rest, "meanwhile").await;
    world.run(&gone, true).await;
    world.gossip.set_state(id, State::Alive);
    let after = world.until_roles(rest, 3, 1, 0).await;
    let replica = replica_of(&after, &gone);
    assert!(!replica.is_empty() && replica != replica_of(&before, &gone), "{after:?}");
    assert!(world.state_dir(&gone).join("store.removed").is_dir(), "what it had is kept");
    assert!(world.has(&gone, "meanwhile").await);
}

#[tokio::test]
async fn a_replica_whose_disk_is_lost_gets_another_id() {
    let names = ["h1", "h2", "h3", "h4"];
    let mut world = World::start(&names, 1).await;
    let before = world.until_roles("h1", 3, 1, 0).await;
    let lost = follower(&before);
    world.put(&lost, "kept").await;
    world.end(&lost).await;
    std::fs::remove_dir_all(world.state_dir(&lost).join("store")).expect("it was there");
    world.run(&lost, true).await;
    let rest = other(&names, &lost);
    let after = world
        .until(rest, "it is another replica", |status| {
            let replica = replica_of(status, &lost);
            roles_of(status) == (3, 1, 0)
                && all_heard(status)
                && !replica.is_empty()
                && replica != replica_of(&before, &lost)
        })
        .await;
    assert_eq!(after.cluster_id, before.cluster_id);
    assert!(world.has(&lost, "kept").await);
}

#[tokio::test]
async fn a_host_that_may_not_hold_a_replica_is_passed_over() {
    let mut world = World::start(&["h1"], 2).await;
    let identity = world.cluster.admit("h2");
    world.identities.insert("h2".into(), identity);
    world.directories.insert("h2".into(), tempfile::tempdir().expect("a directory for the test"));
    world.run("h2", false).await;
    let status = world
        .until("h2", "it has declined", |status| {
            status.members.iter().any(|member| member.host == "h2" && member.why.contains("store.eligible"))
        })
        .await;
    assert_eq!(roles_of(&status), (1, 0, 1));
    world.put("h2", "all the same").await;
}

#[tokio::test]
async fn all_hosts_that_start_again_have_what_they_had() {
    let names = ["h1", "h2", "h3"];
    let mut world = World::start(&names, 0).await;
    let before = world.until_roles("h1", 3, 0, 0).await;
    world.put("h2", "kept").await;
    for name in names {
        world.end(name).await;
    }
    for name in names {
        world.run(name, true).await;
    }
    let after = world.until_roles("h3", 3, 0, 0).await;
    for name in names {
        assert_eq!(replica_of(&after, name), replica_of(&before, name), "{name}");
        assert!(world.has(name, "kept").await, "{name}");
    }
    assert!(after.revision >= before.revision && after.term > before.term);
}

#[tokio::test]
async fn a_founder_whose_log_is_lost_founds_no_second_store() {
    let mut world = World::start(&["h1"], 0).await;
    world.until_roles("h1", 1, 0, 0).await;
    world.put("h1", "precious").await;
    world.end("h1").await;
    std::fs::remove_dir_all(world.state_dir("h1").join("store/log")).expect("it was there");
    world.run("h1", true).await;
    let error = world.status("h1").await.expect_err("it has nothing to say");
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(world.state_dir("h1").join("store/keys.redb").exists(), "what is left is left as it is");
}

#[tokio::test]
async fn the_only_voter_leaves_and_its_stand_by_goes_on_with_all_that_it_had() {
    let mut world = World::start(&["h1", "h2"], 2).await;
    world.until_roles("h1", 1, 1, 0).await;
    world.put("h1", "kept").await;
    world.leave("h1").await;
    let status = world.until_roles("h2", 1, 0, 0).await;
    assert_eq!(status.leader, "h2");
    assert!(world.has("h2", "kept").await);
    world.put("h2", "after").await;
    // It comes back as a new one.
    world.run("h1", true).await;
    world.until_roles("h1", 1, 1, 0).await;
    assert!(world.has("h1", "after").await);
}

#[tokio::test]
async fn a_leader_that_leaves_has_a_successor_before_it_goes() {
    let names = ["h1", "h2", "h3", "h4"];
    let world = World::start(&names, 1).await;
    let before = world.until_roles("h2", 3, 1, 0).await;
    within("it may leave", world.agents[&before.leader].store.leave()).await;
    let rest = other(&names, &before.leader);
    let request = MemberListRequest { linearizable: true };
    let asked = within("an answer", ClusterClient::new(world.channel(rest)).member_list(request)).await;
    let members = asked.expect("it is served").into_inner().members;
    let voters: Vec<&str> = members.iter().filter(|member| !member.is_learner).map(|member| &*member.name).collect();
    assert!(voters.len() == 3 && !voters.contains(&&*before.leader), "{voters:?}");
    world.put(rest, "after").await;
}
