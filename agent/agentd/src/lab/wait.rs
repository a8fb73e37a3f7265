//! Waiting for what hosts of a lab say, by their watch streams: for tests and for scripts in Rust.
//!
//! A stream that breaks is opened again, since agents are killed here on purpose; what is held of an object is then
//! forgotten, so that nothing old is taken for an answer.

use std::{
    collections::BTreeMap,
    future::Future,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use ringmesh_proto::v1::{
    self, change::Kind, containers_client::ContainersClient, events_client::EventsClient, hosts_client::HostsClient,
    links_client::LinksClient, rings_client::RingsClient, services_client::ServicesClient, zones_client::ZonesClient,
};
use tonic::{Status, Streaming, transport::Channel};

use super::{client, error::LabError, record::HostStatus};

/// Before a broken stream is opened again.
const PAUSE: Duration = Duration::from_millis(50);

/// Past events that a stream of events begins with.
const BACKLOG: u32 = 1000;

/// An object that can be watched on every host.
pub trait Watched: Clone + Send + Sync + 'static {
    /// What the stream carries.
    type Message: Send + 'static;
    /// Opens the stream.
    fn open(channel: Channel) -> impl Future<Output = Result<Streaming<Self::Message>, Status>> + Send;
    /// What a message says of which object.
    fn split(message: Self::Message) -> (Kind, Option<Self>);
    /// What tells it from others: a host's or ring's name, "host/container", "host/container/service".
    fn key(&self) -> String;
}

/// All objects of a kind as one host has them, by [`Watched::key`].
pub type Seen<T> = BTreeMap<String, T>;

/// Waits until `expect`, given what a host sees, is content at every host of `observers`. Its error is what it lacks.
pub fn until<T: Watched>(
    observers: &[&HostStatus],
    within: Duration,
    expect: impl Fn(&HostStatus, &Seen<T>) -> Result<(), String> + Sync,
) -> Result<(), LabError> {
    let expect = &expect;
    all(observers, within, |observer| async move {
        let mut lacking = "nothing yet".to_owned();
        let deadline = tokio::time::sleep(within);
        tokio::pin!(deadline);
        loop {
            let watch = watch(observer, expect, &mut lacking);
            tokio::select! {
                done = watch => if done { return Ok(()) },
                () = &mut deadline => return Err(format!("{}: {lacking}", observer.name)),
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .map(drop)
}

/// Waits until every host of `observers` has received an event for which `wanted` holds, past ones included. Returns
/// one event for each, in their order.
pub fn until_event(
    observers: &[&HostStatus],
    within: Duration,
    wanted: impl Fn(&v1::Event) -> bool + Sync,
) -> Result<Vec<v1::Event>, LabError> {
    let wanted = &wanted;
    all(observers, within, |observer| async move {
        let deadline = tokio::time::sleep(within);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                found = watch_events(observer, wanted) => if let Some(event) = found { return Ok(event) },
                () = &mut deadline => return Err(format!("{}: no such event", observer.name)),
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
}

/// The events that a host has, oldest first, at most 10,000.
pub fn events(observer: &HostStatus) -> Result<Vec<v1::Event>, LabError> {
    client::block_on(async {
        let request = client::bounded(v1::ListEventsRequest { limit: 10_000, ..v1::ListEventsRequest::default() });
        let answer = EventsClient::new(client::channel(&observer.api)).list_events(request).await;
        let problem = |status: Status| LabError::Api { host: observer.name.clone(), problem: status.to_string() };
        answer.map(|answer| answer.into_inner().events).map_err(problem)
    })
}

/// Runs `one` for each observer at once; the error names all that were not content.
fn all<'a, T: Send, F>(
    observers: &[&'a HostStatus],
    within: Duration,
    one: impl Fn(&'a HostStatus) -> F + Sync,
) -> Result<Vec<T>, LabError>
where
    F: Future<Output = Result<T, String>> + Send,
{
    let results = client::block_on(async { join_all(observers.iter().map(|observer| one(observer))).await });
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for result in results {
        match result {
            Ok(value) => good.push(value),
            Err(problem) => bad.push(problem),
        }
    }
    if bad.is_empty() {
        return Ok(good);
    }
    Err(LabError::TimedOut { seconds: within.as_secs(), reason: bad.join("; ") })
}

/// True when `expect` is content; false when the stream broke.
async fn watch<T: Watched>(
    observer: &HostStatus,
    expect: &(impl Fn(&HostStatus, &Seen<T>) -> Result<(), String> + Sync),
    lacking: &mut String,
) -> bool {
    let mut stream = match T::open(client::channel(&observer.api)).await {
        Ok(stream) => stream,
        Err(status) => {
            *lacking = format!("its API says {}: {}", status.code(), status.message());
            return false;
        }
    };
    let mut seen = Seen::new();
    let mut synced = false;
    loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return false,
            Err(status) => {
                *lacking = format!("its API says {}: {}", status.code(), status.message());
                return false;
            }
        };
        match T::split(message) {
            (Kind::Removed, Some(object)) => {
                seen.remove(&object.key());
            }
            (Kind::Present | Kind::Updated, Some(object)) => {
                seen.insert(object.key(), object);
            }
            (Kind::Synced, _) => synced = true,
            (Kind::Present | Kind::Updated | Kind::Removed | Kind::Bookmark, _) => {}
        }
        // Before it is synced, it is no whole answer.
        if synced {
            match expect(observer, &seen) {
                Ok(()) => return true,
                Err(problem) => *lacking = problem,
            }
        }
    }
}

async fn watch_events(observer: &HostStatus, wanted: &impl Fn(&v1::Event) -> bool) -> Option<v1::Event> {
    let request = v1::WatchEventsRequest { backlog: BACKLOG, ..v1::WatchEventsRequest::default() };
    let mut events = EventsClient::new(client::channel(&observer.api));
    let mut stream = events.watch_events(request).await.ok()?.into_inner();
    loop {
        let event = stream.message().await.ok()??;
        if wanted(&event) {
            return Some(event);
        }
    }
}

impl Watched for v1::Host {
    type Message = v1::WatchHostsResponse;

    async fn open(channel: Channel) -> Result<Streaming<Self::Message>, Status> {
        HostsClient::new(channel).watch_hosts(v1::WatchHostsRequest {}).await.map(tonic::Response::into_inner)
    }

    fn split(message: Self::Message) -> (Kind, Option<Self>) {
        (message.change(), message.host)
    }

    fn key(&self) -> String {
        self.name.clone()
    }
}

impl Watched for v1::Ring {
    type Message = v1::WatchRingsResponse;

    async fn open(channel: Channel) -> Result<Streaming<Self::Message>, Status> {
        RingsClient::new(channel).watch_rings(v1::WatchRingsRequest {}).await.map(tonic::Response::into_inner)
    }

    fn split(message: Self::Message) -> (Kind, Option<Self>) {
        (message.change(), message.ring)
    }

    fn key(&self) -> String {
        self.name.clone()
    }
}

impl Watched for v1::Link {
    type Message = v1::WatchLinksResponse;

    async fn open(channel: Channel) -> Result<Streaming<Self::Message>, Status> {
        LinksClient::new(channel).watch_links(v1::WatchLinksRequest {}).await.map(tonic::Response::into_inner)
    }

    fn split(message: Self::Message) -> (Kind, Option<Self>) {
        (message.change(), message.link)
    }

    fn key(&self) -> String {
        self.name.clone()
    }
}

impl Watched for v1::Container {
    type Message = v1::WatchContainersResponse;

    async fn open(channel: Channel) -> Result<Streaming<Self::Message>, Status> {
        let request = v1::WatchContainersRequest::default();
        ContainersClient::new(channel).watch_containers(request).await.map(tonic::Response::into_inner)
    }

    fn split(message: Self::Message) -> (Kind, Option<Self>) {
        (message.change(), message.container)
    }

    fn key(&self) -> String {
        format!("{}/{}", self.host, self.name)
    }
}

impl Watched for v1::Service {
    type Message = v1::WatchServicesResponse;

    async fn open(channel: Channel) -> Result<Streaming<Self::Message>, Status> {
        let request = v1::WatchServicesRequest::default();
        ServicesClient::new(channel).watch_services(request).await.map(tonic::Response::into_inner)
    }

    fn split(message: Self::Message) -> (Kind, Option<Self>) {
        (message.change(), message.service)
    }

    fn key(&self) -> String {
        format!("{}/{}/{}", self.host, self.container, self.name)
    }
}

impl Watched for v1::Zone {
    type Message = v1::WatchZonesResponse;

    async fn open(channel: Channel) -> Result<Streaming<Self::Message>, Status> {
        ZonesClient::new(channel).watch_zones(v1::WatchZonesRequest {}).await.map(tonic::Response::into_inner)
    }

    fn split(message: Self::Message) -> (Kind, Option<Self>) {
        (message.change(), message.zone)
    }

    fn key(&self) -> String {
        self.name.clone()
    }
}

/// Waits until something holds that no stream tells of, such as a process that ended. False when it did not in time.
pub fn until_true(within: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    while !holds() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}
