//! An agent that answers from a script and remembers what it was asked.

use std::{
    fmt::Debug,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use prost_types::{Duration, Timestamp};
use ringmesh_proto::v1::{self, *};
use tokio::{net::UnixListener, sync::oneshot};
use tokio_stream::{Stream, StreamExt, wrappers::UnixListenerStream};
use tonic::{Code, Request, Response, Status as Refusal, transport::Server};

type Answer<T> = Result<Response<T>, Refusal>;
type Watch<T> = Pin<Box<dyn Stream<Item = Result<T, Refusal>> + Send>>;

/// How the agent behaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    /// Seconds since 1970 at which all happened; default three minutes ago.
    pub(crate) at: Option<i64>,
    /// Lists are empty.
    pub(crate) empty: bool,
    /// Watches end after the last change.
    pub(crate) ends: bool,
    /// Host h3 does not answer.
    pub(crate) missing: bool,
    /// Every question is refused.
    pub(crate) refuses: Option<Code>,
    /// Takes questions and says nothing.
    pub(crate) silent: bool,
    /// Events without end.
    pub(crate) endless: bool,
    /// So many pages of containers, if it is not 0.
    pub(crate) pages: usize,
}

/// Served until it is dropped.
pub(crate) struct Agent {
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    pub(crate) fn start(manner: Manner) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("agent.sock");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let fake = Fake { manner, asked: asked.clone() };
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = UnixListener::bind(path).expect("a socket");
                ready.send(()).expect("someone waits");
                let server = Server::builder()
                    .add_service(hosts_server::HostsServer::new(fake.clone()))
                    .add_service(rings_server::RingsServer::new(fake.clone()))
                    .add_service(links_server::LinksServer::new(fake.clone()))
                    .add_service(containers_server::ContainersServer::new(fake.clone()))
                    .add_service(services_server::ServicesServer::new(fake.clone()))
                    .add_service(events_server::EventsServer::new(fake.clone()))
                    .add_service(operations_server::OperationsServer::new(fake.clone()))
                    .add_service(zones_server::ZonesServer::new(fake.clone()))
                    .add_service(cells_server::CellsServer::new(fake.clone()))
                    .add_service(agent_server::AgentServer::new(fake))
                    .serve_with_incoming(UnixListenerStream::new(listener));
                tokio::select! {
                    served = server => served.expect("serves"),
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().expect("the agent starts");
        Self { directory, asked, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> &Path {
        // A static name in the directory keeps the path under the limit of unix sockets.
        Box::leak(self.directory.path().join("agent.sock").into_boxed_path())
    }

    /// The requests so far, as Rust prints them.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no test panics in it").clone()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone)]
struct Fake {
    manner: Manner,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    async fn take<T: Debug>(&self, request: Request<T>) -> Result<T, Refusal> {
        let request = request.into_inner();
        self.asked.lock().expect("no test panics in it").push(format!("{request:?}"));
        if self.manner.silent {
            std::future::pending::<()>().await;
        }
        match self.manner.refuses {
            Some(code) => Err(Refusal::new(code, "the reason\nin two lines")),
            None => Ok(request),
        }
    }

    /// `back` seconds before what the fixture calls now.
    fn at(&self, back: i64) -> Option<Timestamp> {
        let now = || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
            // In the middle of the third minute, so that a slow test still reads 3m.
            i64::try_from(now.as_secs()).expect("fits") - 190
        };
        Some(Timestamp { seconds: self.manner.at.unwrap_or_else(now) - back, nanos: 0 })
    }

    fn watch<T: Send + 'static>(&self, messages: Vec<T>) -> Answer<Watch<T>> {
        let messages = tokio_stream::iter(messages.into_iter().map(Ok));
        if self.manner.ends {
            return Ok(Response::new(Box::pin(messages)));
        }
        Ok(Response::new(Box::pin(messages.chain(tokio_stream::pending()))))
    }

    fn some<T>(&self, items: Vec<T>) -> Vec<T> {
        if self.manner.empty { Vec::new() } else { items }
    }

    fn sources(&self) -> Vec<Source> {
        let good = Source { host: "h1".into(), reached: true, ..Default::default() };
        let bad = Source { host: "h3".into(), error: "timed out after 500 ms".into(), ..Default::default() };
        if self.manner.missing { vec![good, bad] } else { vec![good] }
    }

    fn host(&self, number: u32, state: host::State) -> Host {
        let alive = state == host::State::Alive;
        let accused = |accuser: &str| Accusation {
            accuser: accuser.into(),
            accused: format!("h{number}"),
            generation: 4,
            evidence: "no answer on uplink a for 1500 ms".into(),
            time: self.at(0),
        };
        Host {
            certificate: None,
            name: format!("h{number}"),
            id: format!("0000000{number}"),
            state: state.into(),
            uplinks: Some(Uplinks {
                a: if alive { uplink::State::Up } else { uplink::State::Down }.into(),
                b: uplink::State::Degraded.into(),
                ..Default::default()
            }),
            zone: "default".into(),
            address: format!("10.77.0.{number}:7400"),
            address_b: format!("10.77.1.{number}:7400"),
            generation: 4,
            version: "0.1.0".into(),
            since: self.at(0),
            heard_at: self.at(0),
            digest: Some(Digest {
                containers: 4,
                running: 4,
                services: 8,
                passing: 7,
                critical: 1,
                score: 97,
                worst: verdict::Value::Critical.into(),
                ..Default::default()
            }),
            accusations: if alive { Vec::new() } else { vec![accused("h1"), accused("h4")] },
            local: number == 1,
            rack: format!("r{}", number % 2),
            coordinate: Some(Coordinate {
                position_us: vec![-120, 33, 0],
                height_us: 45,
                adjustment_us: -7,
                error_permille: 83,
            }),
            rtt_estimate_us: if number == 1 { 0 } else { 1240 },
            chords: "rack-aware:2".into(),
            drained: false,
            replica: None,
            detection: None,
            probe_load: None,
            disk_problem: String::new(),
        }
    }

    fn hosts(&self) -> Vec<Host> {
        self.some(vec![
            self.host(10, host::State::Down),
            self.host(1, host::State::Alive),
            self.host(2, host::State::Alive),
        ])
    }

    fn zones(&self) -> Vec<Zone> {
        let delegate = |number: u32| ZoneDelegate {
            name: format!("h{number}"),
            id: format!("0000000{number}"),
            address: format!("10.77.0.{number}:7400"),
            address_b: String::new(),
        };
        let east = Zone {
            name: "east".into(),
            id: "00000001".into(),
            state: zone::State::Reachable.into(),
            since: self.at(0),
            hosts: 5,
            alive: 4,
            down: 1,
            digest: Some(Digest { containers: 20, running: 16, services: 20, passing: 15, ..Default::default() }),
            delegates: vec![delegate(1), delegate(2)],
            observed_at: self.at(0),
            local: true,
            ..Default::default()
        };
        let west = Zone {
            name: "west".into(),
            id: "00000002".into(),
            state: zone::State::Unreachable.into(),
            local: false,
            ..east.clone()
        };
        vec![west, east]
    }

    fn container(&self, host: &str, name: &str) -> Container {
        Container {
            name: name.into(),
            host: host.into(),
            tenant: "acme".into(),
            state: container::State::Running.into(),
            score: 100,
            verdict: verdict::Value::Passing.into(),
            driver: "oci".into(),
            pid: 4711,
            addresses: vec!["10.1.3.2/24".into()],
            labels: [("tier".to_owned(), "web".to_owned())].into(),
            started_at: self.at(0),
            services: 1,
            ..Default::default()
        }
    }

    fn operation(&self, state: operation::State) -> Operation {
        Operation {
            id: "0000002a-3-17".into(),
            kind: operation::Kind::RestartContainer.into(),
            state: state.into(),
            host: "h1".into(),
            container: "web".into(),
            service: "http".into(),
            rung: 2,
            attempt: 1,
            evidence: Some(Evidence {
                verdict: verdict::Value::Critical.into(),
                answer: "connection refused".into(),
                since: self.at(0),
            }),
            who: "repair".into(),
            automatic: true,
            progress: "it is not well in time".into(),
            created_at: self.at(0),
            ..Default::default()
        }
    }

    fn containers(&self) -> Vec<Container> {
        self.some(vec![self.container("h2", "web"), self.container("h1", "web"), self.container("h1", "db")])
    }

    fn cell(&self, number: u32) -> Cell {
        let member = |container: &str, slot, state: cell_member::State| CellMember {
            container: container.into(),
            cell: number,
            slot,
            generation: 2,
            state: state.into(),
            silent_since: self.at(0).filter(|_| state == cell_member::State::Down),
            ..Default::default()
        };
        Cell {
            host: "h1".into(),
            number,
            size: 2,
            alive: 1,
            down: 1,
            hash: 0xabc,
            members: vec![member("web", 1, cell_member::State::Alive), member("db", 2, cell_member::State::Down)],
            ..Default::default()
        }
    }

    fn service(&self) -> Service {
        Service {
            name: "http".into(),
            container: "web".into(),
            host: "h1".into(),
            verdict: verdict::Value::Critical.into(),
            probe: Some(Probe {
                kind: "http".into(),
                target: "http://10.1.3.2:8080/".into(),
                interval: Some(Duration { seconds: 2, nanos: 0 }),
                timeout: Some(Duration { seconds: 0, nanos: 500_000_000 }),
                threshold_up: 1,
                threshold_down: 3,
                alarms_at_once: false,
            }),
            last_change: self.at(0),
            last_answer: "connection refused\x1b[2J".into(),
            last_latency: Some(Duration { seconds: 0, nanos: 1_240_000 }),
            last_probe: self.at(0),
            weight: 1,
            tenant: "acme".into(),
            ..Default::default()
        }
    }

    fn event(&self, sequence: u32) -> Event {
        Event {
            time: self.at(100 - i64::from(sequence)),
            kind: "host-down".into(),
            host: "h3".into(),
            severity: event::Severity::Critical.into(),
            accusers: vec!["h1".into(), "h4".into()],
            text: format!("h3 is down, event {sequence}"),
            id: format!("00000001-4-{sequence}"),
            ..Default::default()
        }
    }

    fn rings(&self) -> Vec<Ring> {
        let ring = |name: &str, hosts: [&str; 3]| Ring {
            name: name.into(),
            mode: "switched".into(),
            hosts: hosts.map(str::to_owned).into(),
        };
        vec![ring("a", ["h1", "h2", "h10"]), ring("b", ["h1", "h10", "h2"])]
    }

    fn links(&self) -> Vec<v1::Link> {
        let link = |uplink: &str, from: &str, to: &str, state: link::State| v1::Link {
            name: format!("{from}/{to}/{uplink}"),
            from: from.into(),
            to: to.into(),
            uplink: uplink.into(),
            role: format!("ring-{uplink}"),
            state: state.into(),
            rtt_us: 210,
            observed_at: self.at(0),
            ..Default::default()
        };
        self.some(vec![
            link("a", "h1", "h2", link::State::Up),
            v1::Link { pair_broken: true, via: "h1".into(), ..link("a", "h2", "h10", link::State::Down) },
            link("a", "h10", "h1", link::State::Up),
            link("b", "h1", "h10", link::State::Up),
        ])
    }
}

#[tonic::async_trait]
impl hosts_server::Hosts for Fake {
    type WatchHostsStream = Watch<WatchHostsResponse>;

    async fn list_hosts(&self, request: Request<ListHostsRequest>) -> Answer<ListHostsResponse> {
        self.take(request).await?;
        Ok(Response::new(ListHostsResponse { hosts: self.hosts(), answered_by: "h1".into(), sources: Vec::new() }))
    }

    async fn get_host(&self, request: Request<GetHostRequest>) -> Answer<Host> {
        let name = self.take(request).await?.name;
        let host = self.hosts().into_iter().find(|host| host.name == name);
        host.map(Response::new).ok_or_else(|| Refusal::not_found(format!("no host is named {name}")))
    }

    async fn get_round_trip(&self, request: Request<GetRoundTripRequest>) -> Answer<RoundTrip> {
        let GetRoundTripRequest { from, to } = self.take(request).await?;
        if to == "h9" {
            return Err(Refusal::not_found("there is no host \"h9\""));
        }
        let (estimate_us, measured_us) = if from == to { (0, 0) } else { (1240, if to == "h2" { 1190 } else { 0 }) };
        let (error_permille, answered_by) = (if to == "h10" { 1500 } else { 83 }, "h1".into());
        Ok(Response::new(RoundTrip { from, to, estimate_us, error_permille, measured_us, answered_by }))
    }

    async fn watch_hosts(&self, request: Request<WatchHostsRequest>) -> Answer<Self::WatchHostsStream> {
        self.take(request).await?;
        let message = |change: change::Kind, host| WatchHostsResponse { change: change.into(), host };
        self.watch(vec![
            message(change::Kind::Present, Some(self.host(2, host::State::Alive))),
            message(change::Kind::Present, Some(self.host(1, host::State::Alive))),
            message(change::Kind::Synced, None),
            message(change::Kind::Updated, Some(self.host(2, host::State::Suspect))),
            message(change::Kind::Removed, Some(self.host(2, host::State::Left))),
        ])
    }
}

#[tonic::async_trait]
impl zones_server::Zones for Fake {
    type WatchZonesStream = Watch<WatchZonesResponse>;

    async fn list_zones(&self, request: Request<ListZonesRequest>) -> Answer<ListZonesResponse> {
        self.take(request).await?;
        Ok(Response::new(ListZonesResponse { zones: self.some(self.zones()), answered_by: "h1".into() }))
    }

    async fn get_zone(&self, request: Request<GetZoneRequest>) -> Answer<Zone> {
        let name = self.take(request).await?.name;
        let found = self.zones().into_iter().find(|zone| zone.name == name);
        found.map(Response::new).ok_or_else(|| Refusal::not_found(format!("there is no zone \"{name}\"")))
    }

    async fn watch_zones(&self, request: Request<WatchZonesRequest>) -> Answer<Self::WatchZonesStream> {
        self.take(request).await?;
        let synced = WatchZonesResponse { change: change::Kind::Synced as i32, zone: None };
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(synced)]))))
    }
}

#[tonic::async_trait]
impl operations_server::Operations for Fake {
    async fn list_operations(&self, request: Request<ListOperationsRequest>) -> Answer<ListOperationsResponse> {
        self.take(request).await?;
        let operations = self.some(vec![self.operation(operation::State::Proposed)]);
        Ok(Response::new(ListOperationsResponse { operations, sources: self.sources() }))
    }

    async fn get_operation(&self, request: Request<GetOperationRequest>) -> Answer<Operation> {
        self.take(request).await?;
        Ok(Response::new(self.operation(operation::State::Running)))
    }

    async fn wait_operation(&self, request: Request<WaitOperationRequest>) -> Answer<Operation> {
        self.take(request).await?;
        Ok(Response::new(self.operation(operation::State::Failed)))
    }

    async fn order_container(&self, request: Request<OrderContainerRequest>) -> Answer<Operation> {
        self.take(request).await?;
        Ok(Response::new(self.operation(operation::State::Running)))
    }

    async fn decide_operation(&self, request: Request<DecideOperationRequest>) -> Answer<Operation> {
        self.take(request).await?;
        Ok(Response::new(self.operation(operation::State::Refused)))
    }

    async fn order_host(&self, request: Request<OrderHostRequest>) -> Answer<Operation> {
        self.take(request).await?;
        Ok(Response::new(self.operation(operation::State::Done)))
    }

    async fn disarm(&self, request: Request<DisarmRequest>) -> Answer<Arming> {
        let DisarmRequest { mode, reason, .. } = self.take(request).await?;
        let hold = Hold { reason, who: "root on h1".into(), ..Hold::default() };
        Ok(Response::new(Arming { mode, hold: Some(hold), sources: Vec::new() }))
    }

    async fn arm(&self, request: Request<ArmRequest>) -> Answer<Arming> {
        self.take(request).await?;
        Ok(Response::new(Arming::default()))
    }

    async fn get_arming(&self, request: Request<GetArmingRequest>) -> Answer<Arming> {
        self.take(request).await?;
        Ok(Response::new(Arming::default()))
    }
}

#[tonic::async_trait]
impl cells_server::Cells for Fake {
    async fn list_cells(&self, request: Request<ListCellsRequest>) -> Answer<ListCellsResponse> {
        self.take(request).await?;
        Ok(Response::new(ListCellsResponse { cells: self.some(vec![self.cell(1), self.cell(0)]), sources: vec![] }))
    }

    async fn get_cell(&self, request: Request<GetCellRequest>) -> Answer<GetCellResponse> {
        let GetCellRequest { host, number } = self.take(request).await?;
        if number > 1 {
            return Err(Refusal::not_found(format!("no host has cell \"{host}/{number}\"")));
        }
        Ok(Response::new(GetCellResponse { cell: Some(self.cell(number)), sources: vec![] }))
    }
}

#[tonic::async_trait]
impl rings_server::Rings for Fake {
    type WatchRingsStream = Watch<WatchRingsResponse>;

    async fn list_rings(&self, request: Request<ListRingsRequest>) -> Answer<ListRingsResponse> {
        self.take(request).await?;
        let (rings, links) = (self.rings(), self.links());
        Ok(Response::new(ListRingsResponse { rings, links, answered_by: "h1".into() }))
    }

    async fn get_ring(&self, _: Request<GetRingRequest>) -> Answer<Ring> {
        Err(Refusal::unimplemented("no command asks this"))
    }

    async fn get_path(&self, request: Request<GetPathRequest>) -> Answer<MeshPath> {
        let GetPathRequest { from, to, avoid } = self.take(request).await?;
        if avoid.len() == 2 {
            let text = format!("no path leads from {from} to {to}: too few links are up besides those to avoid");
            return Err(Refusal::not_found(text));
        }
        let mut links = vec![self.links().remove(0), self.links().remove(1)];
        links[1] = v1::Link {
            role: "chord".into(),
            state: link::State::Degraded.into(),
            rtt_us: 1900,
            loss_percent: 25,
            ..links[1].clone()
        };
        let links = if from == to { Vec::new() } else { links };
        let rtt_us = links.iter().map(|link| link.rtt_us).sum();
        Ok(Response::new(MeshPath { from, to, links, rtt_us, answered_by: "h1".into() }))
    }

    async fn watch_rings(&self, request: Request<WatchRingsRequest>) -> Answer<Self::WatchRingsStream> {
        self.take(request).await?;
        let present = |ring| WatchRingsResponse { change: change::Kind::Present.into(), ring: Some(ring) };
        let mut messages: Vec<_> = self.rings().into_iter().map(present).collect();
        messages.push(WatchRingsResponse { change: change::Kind::Synced.into(), ring: None });
        self.watch(messages)
    }
}

#[tonic::async_trait]
impl links_server::Links for Fake {
    type WatchLinksStream = Watch<WatchLinksResponse>;

    async fn list_links(&self, request: Request<ListLinksRequest>) -> Answer<ListLinksResponse> {
        self.take(request).await?;
        Ok(Response::new(ListLinksResponse { links: self.links(), answered_by: "h1".into() }))
    }

    async fn get_link(&self, _: Request<GetLinkRequest>) -> Answer<v1::Link> {
        Err(Refusal::unimplemented("no command asks this"))
    }

    async fn watch_links(&self, request: Request<WatchLinksRequest>) -> Answer<Self::WatchLinksStream> {
        self.take(request).await?;
        let present = |link| WatchLinksResponse { change: change::Kind::Present.into(), link: Some(link) };
        let mut messages: Vec<_> = self.links().into_iter().map(present).collect();
        messages.push(WatchLinksResponse { change: change::Kind::Synced.into(), link: None });
        self.watch(messages)
    }
}

#[tonic::async_trait]
impl containers_server::Containers for Fake {
    type WatchContainersStream = Watch<WatchContainersResponse>;

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        let page = self.take(request).await?.page_token;
        let pages = self.manner.pages;
        if pages == 0 {
            let (containers, sources) = (self.containers(), self.sources());
            return Ok(Response::new(ListContainersResponse { containers, sources, ..Default::default() }));
        }
        // One container a page, the token being its number.
        let number: usize = page.parse().unwrap_or(0);
        let containers = vec![self.container("h1", &format!("c{number}"))];
        let next_page_token = if number + 1 < pages { (number + 1).to_string() } else { String::new() };
        Ok(Response::new(ListContainersResponse { containers, sources: Vec::new(), next_page_token }))
    }

    async fn get_container(&self, request: Request<GetContainerRequest>) -> Answer<GetContainerResponse> {
        let request = self.take(request).await?;
        let container = Some(self.container(&request.host, &request.name));
        Ok(Response::new(GetContainerResponse { container, sources: self.sources() }))
    }

    async fn watch_containers(&self, request: Request<WatchContainersRequest>) -> Answer<Self::WatchContainersStream> {
        self.take(request).await?;
        let message = |change: change::Kind, container, source| WatchContainersResponse {
            change: change.into(),
            container,
            source,
            position: String::new(),
        };
        let back = Source { host: "h3".into(), reached: true, ..Default::default() };
        self.watch(vec![
            message(change::Kind::Present, Some(self.container("h1", "web")), self.sources().pop()),
            message(change::Kind::Synced, None, None),
            message(change::Kind::Updated, None, Some(back)),
        ])
    }
}

#[tonic::async_trait]
impl services_server::Services for Fake {
    type WatchServicesStream = Watch<WatchServicesResponse>;

    async fn list_services(&self, request: Request<ListServicesRequest>) -> Answer<ListServicesResponse> {
        self.take(request).await?;
        Ok(Response::new(ListServicesResponse {
            services: self.some(vec![self.service()]),
            sources: self.sources(),
            ..Default::default()
        }))
    }

    async fn get_service(&self, request: Request<GetServiceRequest>) -> Answer<GetServiceResponse> {
        self.take(request).await?;
        Ok(Response::new(GetServiceResponse { service: Some(self.service()), sources: self.sources() }))
    }

    async fn get_history(&self, request: Request<GetHistoryRequest>) -> Answer<GetHistoryResponse> {
        self.take(request).await?;
        let latency = |millis: i32| Some(Duration { seconds: 0, nanos: millis * 1_000_000 });
        let outcome =
            |back, success, millis| history::Outcome { time: self.at(back), success, latency: latency(millis) };
        let window = history::Window {
            since: self.at(10),
            successes: 2,
            failures: 1,
            p50: latency(2),
            p90: latency(16),
            p99: latency(16),
        };
        let answer = |text: &str, success, count| history::Answer {
            text: text.into(),
            success,
            first: self.at(10),
            last: self.at(0),
            count,
        };
        let change = history::Behaviour {
            time: self.at(0),
            kind: history::behaviour::Kind::Verdict.into(),
            from: verdict::Value::Passing.into(),
            to: verdict::Value::Critical.into(),
            cause: "HTTP 503\x1b[2J".into(),
        };
        let history = History {
            service: "http".into(),
            container: "web".into(),
            host: "h1".into(),
            verdict: verdict::Value::Critical.into(),
            since: self.at(3600),
            outcomes: vec![outcome(10, true, 2), outcome(5, true, 16), outcome(0, false, 500)],
            windows: vec![window],
            answers: vec![answer("HTTP 200 OK", true, 2), answer("HTTP 503", false, 1)],
            changes: vec![change],
            normal_latency: latency(2),
            ..Default::default()
        };
        Ok(Response::new(GetHistoryResponse { history: Some(history), sources: self.sources() }))
    }

    async fn watch_services(&self, request: Request<WatchServicesRequest>) -> Answer<Self::WatchServicesStream> {
        self.take(request).await?;
        let message = |change: change::Kind, service| WatchServicesResponse {
            change: change.into(),
            service,
            ..Default::default()
        };
        self.watch(vec![message(change::Kind::Present, Some(self.service())), message(change::Kind::Synced, None)])
    }
}

#[tonic::async_trait]
impl events_server::Events for Fake {
    type WatchEventsStream = Watch<Event>;

    async fn list_events(&self, request: Request<ListEventsRequest>) -> Answer<ListEventsResponse> {
        self.take(request).await?;
        let events = self.some(vec![self.event(1), self.event(2)]);
        Ok(Response::new(ListEventsResponse { events, answered_by: "h1".into() }))
    }

    async fn get_event(&self, _: Request<GetEventRequest>) -> Answer<Event> {
        Err(Refusal::unimplemented("no command asks this"))
    }

    async fn watch_events(&self, request: Request<WatchEventsRequest>) -> Answer<Self::WatchEventsStream> {
        self.take(request).await?;
        if self.manner.endless {
            let fake = self.clone();
            let events = tokio_stream::iter((1..).map(move |sequence| Ok(fake.event(sequence))));
            return Ok(Response::new(Box::pin(events)));
        }
        self.watch(vec![self.event(1), self.event(2)])
    }
}

#[tonic::async_trait]
impl agent_server::Agent for Fake {
    async fn get_status(&self, request: Request<GetStatusRequest>) -> Answer<v1::Status> {
        self.take(request).await?;
        let (name, version) = ("h1".into(), "0.1.0".into());
        Ok(Response::new(v1::Status { name, version, pid: 42, started_at: self.at(0), ..Default::default() }))
    }

    async fn get_config(&self, request: Request<GetConfigRequest>) -> Answer<GetConfigResponse> {
        self.take(request).await?;
        Ok(Response::new(GetConfigResponse { toml: "[host]\nname = \"h1\"\n".into() }))
    }

    async fn create_token(&self, request: Request<CreateTokenRequest>) -> Answer<CreateTokenResponse> {
        let uses = self.take(request).await?.uses;
        Ok(Response::new(CreateTokenResponse { token: "rm1_secret".into(), expires_at: self.at(0), uses }))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Answer<LeaveResponse> {
        self.take(request).await?;
        Ok(Response::new(LeaveResponse {}))
    }

    async fn switch_uplink(&self, request: Request<SwitchUplinkRequest>) -> Answer<SwitchUplinkResponse> {
        self.take(request).await?;
        Ok(Response::new(SwitchUplinkResponse {}))
    }
}
