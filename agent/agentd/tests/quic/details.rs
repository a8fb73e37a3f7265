//! Lists and watches of details over the API: in pages, over several hosts, filtered, and going on where they ended.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use ringmesh_agentd::{
    api::{self, Api, StoreEnd},
    clock,
    config::ConfigFile,
    keeper::Keeper,
    lab,
    store::{Holder, Holding},
};
use ringmesh_node::{
    ContainerRow, Declared, Peer, Position, Removed, ServiceRow, Told, View, Way,
    health::spec::{Check, ContainerSpec, ContainerState, ContainerStatus, ServiceSpec},
    roles,
};
use ringmesh_proto::{
    UnixMillis, Uplink,
    peer::{Moment, QueryRequest, Selection},
    v1::{
        self, Container, ListContainersRequest, ListContainersResponse, WatchContainersRequest,
        WatchContainersResponse, change::Kind, containers_client::ContainersClient, services_client::ServicesClient,
        verdict::Value,
    },
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tonic::{Code, Streaming, transport::Channel};

use crate::support::{Cluster, Host, within};

/// h1, whose API is asked, and h2.
struct Two {
    cluster: Cluster,
    h1: Host,
    h2: Host,
    channel: Channel,
    _directory: TempDir,
    _store: StoreEnd,
}

impl Two {
    async fn start() -> Self {
        let cluster = Cluster::new();
        let (mut h1, h2) = (Host::start(&cluster.first), Host::start(&cluster.admit("h2")));
        let directory = tempfile::tempdir().expect("a directory for the test");
        let socket = directory.path().join("agent.sock");
        let text = format!("[host]\nname = \"h1\"\n[uplink.a]\naddress = \"127.0.0.1\"\n[api]\nsocket = {socket:?}\n");
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, text).expect("it can be written");
        let file = ConfigFile::read(&path).expect("it is there");
        let config = file.parse().expect("it is good");
        let (commands, _) = mpsc::channel(1);
        let (view, authority) = (h1.view.subscribe(), Arc::default());
        let keeper = Keeper::new(
            h1.keyring.clone(),
            h1.transport.clone(),
            view.clone(),
            Arc::clone(&authority),
            cluster.state_dir(),
            commands.clone(),
        );
        let holding = Holding {
            cluster: cluster.first.cluster,
            host: h1.id(),
            name: "h1".into(),
            // Nothing was founded there: this host has no replica.
            state_dir: directory.path().into(),
            eligible: false,
            roles: roles::Settings::default(),
            quota_bytes: 0,
            retention: None,
        };
        let streams = std::mem::replace(&mut h1.store_streams, mpsc::channel(1).1);
        let (holder, store, _) = Holder::new(holding, h1.transport.clone(), view.clone(), streams);
        let api = Api {
            view,
            transport: h1.transport.clone(),
            commands,
            authority,
            keyring: h1.keyring.clone(),
            keeper,
            config: Arc::new(config),
            config_file: Arc::new(file),
            counters: h1.counters.clone(),
            started_at: clock::unix(),
            watches: Arc::default(),
            store,
        };
        let end = api::start(api, holder).await.expect("nobody has its socket");
        let channel = lab::channel(&format!("unix:{}", socket.display()));
        Self { cluster, h1, h2, channel, _directory: directory, _store: end }
    }

    /// Both know each other; these are their containers.
    fn show(&self, of_h1: Vec<ContainerRow>, of_h2: Vec<ContainerRow>) {
        for (me, name, other, other_name, containers) in
            [(&self.h1, "h1", &self.h2, "h2", of_h1), (&self.h2, "h2", &self.h1, "h1", of_h2)]
        {
            let host = |host: &Host, name: &str| v1::Host {
                name: name.into(),
                id: host.id().to_string(),
                local: host.id() == me.id(),
                ..v1::Host::default()
            };
            let before = me.view.borrow().clone();
            let fingerprint = before.fingerprint + 1;
            let way = Way::over(Uplink::A);
            let peer = Peer { member: other.member, name: other_name.into(), askable: true, fingerprint, way };
            let services = containers.iter().map(service).map(Arc::new).collect();
            let view = View {
                name: name.into(),
                zone: "default".into(),
                fingerprint,
                hosts: Arc::new(vec![host(me, name), host(other, other_name)]),
                containers: Arc::new(containers.into_iter().map(Arc::new).collect()),
                services: Arc::new(services),
                peers: Arc::new(BTreeMap::from([(other.id(), peer)])),
                zones: Arc::new(vec![v1::Zone { name: "default".into(), local: true, ..v1::Zone::default() }]),
                // As after a start: nothing is known of the moment before.
                position: Position { born: fingerprint as u32, revision: 0 },
                ..View::default()
            };
            me.view.send_replace(Arc::new(view));
        }
    }

    fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone())
    }

    async fn list(&self, request: &ListContainersRequest) -> Result<ListContainersResponse, tonic::Status> {
        let mut client = self.containers();
        let answer = client.list_containers(request.clone());
        within("a list", answer).await.map(tonic::Response::into_inner)
    }

    /// All pages.
    async fn whole(&self, mut request: ListContainersRequest) -> Vec<ListContainersResponse> {
        let mut pages = Vec::new();
        loop {
            let page = self.list(&request).await.expect("a page");
            request.page_token.clone_from(&page.next_page_token);
            pages.push(page);
            if request.page_token.is_empty() {
                return pages;
            }
        }
    }

    async fn watch(&self, request: WatchContainersRequest) -> Streaming<WatchContainersResponse> {
        self.containers().watch_containers(request).await.expect("a stream").into_inner()
    }
}

fn container(host: &str, number: usize, verdict: Value) -> ContainerRow {
    let check = Check::Tcp { address: ([10, 1, 3, 2], 8080).into() };
    let labels = [("app".to_owned(), "web".to_owned()), ("even".to_owned(), number.is_multiple_of(2).to_string())];
    let spec = ContainerSpec {
        name: format!("c{number:05}"),
        driver: "oci".into(),
        tenant: "acme".into(),
        labels: Arc::new(labels.into()),
        services: vec![ServiceSpec::new("http", check)],
        ..ContainerSpec::default()
    };
    let status = ContainerStatus {
        name: spec.name.clone(),
        state: ContainerState::Running,
        pid: Some(4711),
        started_at: Some(UnixMillis(1_750_000_000_000)),
        addresses: vec!["10.1.3.2/24".into()],
        ..ContainerStatus::default()
    };
    let (spec, status) = (spec.into(), status.into());
    ContainerRow { host: host.into(), spec, status, verdict, score: 100, ..ContainerRow::default() }
}

fn service(container: &ContainerRow) -> ServiceRow {
    let spec = Declared::all(&container.spec).next().expect("it has one");
    let told = Told { verdict: container.verdict, answer: "connected".into(), ..Told::default() };
    ServiceRow { host: container.host.clone(), spec, told, changed: container.changed }
}

fn many(host: &str, count: usize) -> Vec<ContainerRow> {
    (0..count).map(|number| container(host, number, Value::Passing)).collect()
}

fn names(containers: &[Container]) -> Vec<String> {
    containers.iter().map(|container| format!("{}/{}", container.host, container.name)).collect()
}

async fn next(stream: &mut Streaming<WatchContainersResponse>) -> WatchContainersResponse {
    within("a message", stream.message()).await.expect("no error").expect("no end")
}

/// Up to the first message with a position.
async fn batch(stream: &mut Streaming<WatchContainersResponse>) -> (Vec<(Kind, String)>, String) {
    let mut told = Vec::new();
    loop {
        let message = next(stream).await;
        let kind = message.change();
        told.extend(message.container.map(|container| (kind, format!("{}/{}", container.host, container.name))));
        if !message.position.is_empty() {
            return (told, message.position);
        }
    }
}

#[tokio::test]
async fn pages_run_over_all_hosts_in_order_and_bear_changes() {
    let two = Two::start().await;
    two.show(many("h1", 1200), many("h2", 1500));
    let pages = two.whole(ListContainersRequest::default()).await;
    assert_eq!(pages.iter().map(|page| page.containers.len()).collect::<Vec<_>>(), [1000, 1000, 700]);
    let all: Vec<Container> = pages.into_iter().flat_map(|page| page.containers).collect();
    let expected = [many("h1", 1200), many("h2", 1500)].concat().iter().map(ContainerRow::show).collect::<Vec<_>>();
    assert_eq!(names(&all), names(&expected));

    // What vanishes and comes between two pages moves no other from one page to another.
    let mut request = ListContainersRequest { page_size: 3, host: "h2".into(), ..Default::default() };
    let first = two.list(&request).await.expect("a page");
    assert_eq!(names(&first.containers), ["h2/c00000", "h2/c00001", "h2/c00002"]);
    let mut fewer = many("h2", 6);
    fewer.drain(1..3);
    two.show(Vec::new(), fewer);
    request.page_token = first.next_page_token;
    request.page_size = 1000;
    let last = two.list(&request).await.expect("a page");
    assert_eq!(names(&last.containers), ["h2/c00003", "h2/c00004", "h2/c00005"]);
    assert_eq!((last.next_page_token.as_str(), last.sources.len()), ("", 1));

    // A page that is full with the last object there is has none after it.
    let exact = ListContainersRequest { page_size: 4, ..Default::default() };
    assert_eq!(two.whole(exact).await.len(), 1);
    let services = ServicesClient::new(two.channel.clone()).list_services(v1::ListServicesRequest::default()).await;
    assert_eq!(services.expect("a page").into_inner().services.len(), 4);
}

#[tokio::test]
async fn hosts_select_and_tell_only_what_is_wanted() {
    let two = Two::start().await;
    let mut of_h2 = many("h2", 5000);
    of_h2[4321] = container("h2", 4321, Value::Critical);
    two.show(many("h1", 2000), of_h2);
    let fields = Some(prost_types::FieldMask { paths: vec!["verdict".into()] });
    let verdicts = vec![Value::Critical.into()];
    let request = ListContainersRequest { verdicts, fields, ..Default::default() };
    let page = two.list(&request).await.expect("a page");
    let verdict = Value::Critical.into();
    let expected = Container { name: "c04321".into(), host: "h2".into(), verdict, ..Container::default() };
    assert_eq!((page.containers, page.next_page_token.as_str()), (vec![expected], ""));
    let labels = [("even".to_owned(), "true".to_owned())].into();
    let even = two.whole(ListContainersRequest { labels, ..Default::default() }).await;
    assert_eq!(even.iter().map(|page| page.containers.len()).sum::<usize>(), 3500);
    let states = vec![v1::container::State::Stopped.into()];
    let stopped = two.list(&ListContainersRequest { states, ..Default::default() }).await.expect("a page");
    assert_eq!((stopped.containers.len(), stopped.sources.len()), (0, 2));

    let get = async |name: &str| {
        let request = v1::GetContainerRequest { name: name.into(), host: String::new() };
        two.containers().get_container(request).await.map(|answer| answer.into_inner().container.expect("it").host)
    };
    assert_eq!(get("c04000").await.expect("one has it"), "h2");
    assert_eq!(get("c00001").await.expect_err("both have one").code(), Code::FailedPrecondition);
    assert_eq!(get("").await.expect_err("none has no name").code(), Code::NotFound);
}

#[tokio::test]
async fn bad_fields_and_tokens_are_refused_by_name() {
    let two = Two::start().await;
    two.show(many("h1", 3), Vec::new());
    let refused = async |request: ListContainersRequest| {
        let status = two.list(&request).await.expect_err("it is refused");
        assert_eq!(status.code(), Code::InvalidArgument);
        status.message().to_owned()
    };
    let fields = Some(prost_types::FieldMask { paths: vec!["name".into(), "colour".into()] });
    let message = refused(ListContainersRequest { fields, ..Default::default() }).await;
    assert!(message.starts_with("fields: a container has no field \"colour\"; it has name, "), "{message}");
    let message = refused(ListContainersRequest { page_token: "?".into(), ..Default::default() }).await;
    assert_eq!(message, "page_token: is none that this API gave; begin without it");
    let request = ListContainersRequest { page_size: 1, ..Default::default() };
    let page_token = two.list(&request).await.expect("a page").next_page_token;
    let other = ListContainersRequest { page_token, host: "h1".into(), ..Default::default() };
    assert!(refused(other).await.starts_with("page_token: is of another question"));
}

#[tokio::test]
async fn a_watch_goes_on_where_it_ended() {
    let two = Two::start().await;
    two.show(many("h1", 2), many("h2", 1200));
    let mut first = two.watch(WatchContainersRequest::default()).await;
    let (present, position) = batch(&mut first).await;
    assert_eq!(present.len(), 1202);
    assert!(present.iter().all(|(kind, _)| *kind == Kind::Present));
    drop(first);

    let mut changed = many("h1", 3);
    changed[0] = container("h1", 0, Value::Critical);
    two.show(changed.clone(), many("h2", 1199));
    let request = WatchContainersRequest { position, ..Default::default() };
    let mut again = two.watch(request.clone()).await;
    let mut missed = Vec::new();
    // h2 is asked again, which may take longer than the client to come back.
    while missed.len() < 3 {
        missed.extend(batch(&mut again).await.0);
    }
    missed.sort_by(|a, b| a.1.cmp(&b.1));
    let told = |kind, name: &str| (kind, name.to_owned());
    let expected =
        [told(Kind::Updated, "h1/c00000"), told(Kind::Updated, "h1/c00002"), told(Kind::Removed, "h2/c01199")];
    assert_eq!(missed, expected);

    let other = WatchContainersRequest { host: "h1".into(), ..request };
    let status = two.containers().watch_containers(other).await.expect_err("of another question");
    assert_eq!(status.code(), Code::OutOfRange, "{}", status.message());
    let _ = &two.cluster;
}

#[tokio::test]
async fn a_host_tells_others_only_what_changed() {
    let two = Two::start().await;
    two.show(Vec::new(), many("h2", 1200));
    let mut watch = two.watch(WatchContainersRequest::default()).await;
    assert_eq!(batch(&mut watch).await.0.len(), 1200);

    let born = two.h2.view.borrow().position.born;
    let changed = |number, verdict| ContainerRow { changed: 1, ..container("h2", number, verdict) };
    two.h2.view.send_modify(|view| {
        let mut rows: Vec<_> = view.containers.iter().take(1199).cloned().collect();
        rows[7] = changed(7, Value::Critical).into();
        rows.push(changed(1300, Value::Passing).into());
        let removed = Removed::of([(1, "c01199")]);
        *view = Arc::new(View {
            fingerprint: 2,
            position: Position { born, revision: 1 },
            containers: rows.into(),
            removed: removed.into(),
            ..View::clone(view)
        });
    });
    let ask = async |since: Moment| {
        let selection = Some(Selection { since: Some(since), ..Selection::default() });
        let query = QueryRequest { containers: true, selection, ..QueryRequest::default() };
        let asked = two.h1.transport.query(two.h2.member, Way::over(Uplink::A), query);
        let answer = within("an answer", asked).await.expect("h2 answers");
        assert_eq!(answer.moment, Some(Moment { born, revision: 1 }));
        (answer.partial, answer.containers.len(), answer.removed)
    };
    assert_eq!(ask(Moment { born, revision: 0 }).await, (true, 2, vec!["c01199".to_owned()]));
    assert_eq!(ask(Moment { born, revision: 1 }).await, (true, 0, Vec::new()));
    // Of another life, or from the future: nothing is known of it.
    for unknown in [Moment { born: born + 1, revision: 0 }, Moment { born, revision: 2 }] {
        assert_eq!(ask(unknown).await, (false, 1000, Vec::new()));
    }
    // h1 hears that there is news.
    two.h1.view.send_modify(|view| {
        let peers = view.peers.iter().map(|(id, peer)| (*id, Peer { fingerprint: 2, ..peer.clone() }));
        *view = Arc::new(View { peers: Arc::new(peers.collect()), ..View::clone(view) });
    });
    let (mut told, _) = batch(&mut watch).await;
    told.sort_by(|a, b| a.1.cmp(&b.1));
    let expected = [(Kind::Updated, "c00007"), (Kind::Removed, "c01199"), (Kind::Updated, "c01300")];
    assert_eq!(told, expected.map(|(kind, name)| (kind, format!("h2/{name}"))));
}

fn resident_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("proc is mounted");
    let pages: f64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4096.0 / 1024.0 / 1024.0
}

#[tokio::test]
#[ignore = "prints figures; run it in a release build"]
async fn figures_of_32000_containers() {
    const COUNT: usize = 32_000;
    let two = Two::start().await;
    two.show(many("h1", COUNT), Vec::new());
    let before = resident_mib();
    for (what, fields) in [("all fields", vec![]), ("three fields", vec!["verdict".to_owned(), "state".to_owned()])] {
        let begin = Instant::now();
        let fields = Some(prost_types::FieldMask { paths: fields });
        let pages = two.whole(ListContainersRequest { fields, ..Default::default() }).await;
        let bytes: usize = pages.iter().map(prost::Message::encoded_len).sum();
        let count: usize = pages.iter().map(|page| page.containers.len()).sum();
        assert_eq!(count, COUNT);
        eprintln!("{what}: {} pages, {bytes} bytes, {:?}", pages.len(), begin.elapsed());
    }
    let begin = Instant::now();
    let verdicts = vec![Value::Critical.into()];
    two.list(&ListContainersRequest { verdicts, ..Default::default() }).await.expect("a page");
    eprintln!(
        "those that are critical, none: {:?}; resident {before:.0} -> {:.0} MiB",
        begin.elapsed(),
        resident_mib()
    );

    let (before, begin) = (resident_mib(), Instant::now());
    let mut watches = Vec::new();
    for _ in 0..10 {
        let mut stream = two.watch(WatchContainersRequest::default()).await;
        assert_eq!(batch(&mut stream).await.0.len(), COUNT);
        watches.push(stream);
    }
    eprintln!("10 watches: all told after {:?}, resident {before:.0} -> {:.0} MiB", begin.elapsed(), resident_mib());
    let mut changed = many("h1", COUNT);
    changed[17] = container("h1", 17, Value::Critical);
    // As snapshots do: what did not change is shared.
    let view = two.h1.view.borrow().clone();
    let mut containers = (*view.containers).clone();
    containers[17] = Arc::new(changed.swap_remove(17));
    let begin = Instant::now();
    two.h1.view.send_replace(Arc::new(View { containers: Arc::new(containers), ..(*view).clone() }));
    for stream in &mut watches {
        assert_eq!(batch(stream).await.0.len(), 1);
    }
    eprintln!("one change to 10 watches: {:?}", begin.elapsed());
}
