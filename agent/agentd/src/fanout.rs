//! Questions to many hosts: all of a zone at once, or one of the delegates of another zone, which asks its own.
//!
//! It owns the time that each may take, and what is said of those who did not answer.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use prost::Message;
use ringmesh_node::{Peer, View};
use ringmesh_proto::{
    UnixMillis, frame,
    peer::{QueryRequest, QueryResponse},
    v1,
};

use crate::{clock, quic::Transport};

/// For all tries to ask one host.
const ASK_TIMEOUT: Duration = Duration::from_millis(2500);

/// For a delegate to ask its zone.
const ZONE_TIMEOUT: Duration = Duration::from_secs(5);

/// Hosts asked at once.
const ASK_CONCURRENCY: usize = 64;

/// Bytes of an answer for a whole zone; what is left to the frame's bound is for the sources.
const MAX_ZONE_ANSWER: usize = frame::MAX_RESPONSE - 1024 * 1024;

/// What one host says, or why it says nothing.
pub struct Answer {
    /// Who, and how old it is.
    pub source: v1::Source,
    /// Its details.
    pub details: Option<QueryResponse>,
}

/// Asks every host of this one's zone, or only the one of this name or id. Hosts that have left are not asked; ones that are
/// down are not asked and named among the sources.
pub async fn ask_hosts(transport: &Transport, view: &Arc<View>, query: &QueryRequest, only: &str) -> Vec<Answer> {
    let wanted = view.hosts.iter().filter(|host| only.is_empty() || host.name == only || host.id == only);
    let peer = |host: &v1::Host| view.peers.get(&host.id.parse().ok()?).filter(|peer| peer.askable).cloned();
    let asked = wanted.filter(|host| host.state() != v1::host::State::Left).map(|host| {
        let (peer, local, name) = (peer(host), host.local, host.name.clone());
        async move {
            match peer {
                _ if local => own_apart(Arc::clone(view), query.clone()).await,
                Some(peer) => ask(transport, peer, query.clone(), &view.zone).await,
                None => unreached(&name, &view.zone, "the host is down".into()),
            }
        }
    });
    let asked: Vec<_> = asked.collect();
    // In the order of the hosts.
    stream::iter(asked).buffered(ASK_CONCURRENCY).collect().await
}

/// Asks one host of this zone.
pub async fn ask(transport: &Transport, peer: Peer, query: QueryRequest, zone: &str) -> Answer {
    match tokio::time::timeout(ASK_TIMEOUT, transport.query(peer.member, peer.way, query)).await {
        Ok(Ok(details)) => {
            let source = v1::Source {
                host: peer.name,
                zone: zone.to_owned(),
                reached: true,
                observed_at: Some(UnixMillis(details.observed_unix_ms).into()),
                age_ms: details.age_ms,
                error: String::new(),
            };
            Answer { source, details: Some(details) }
        }
        Ok(Err(error)) => unreached(&peer.name, zone, error.to_string()),
        Err(_) => unreached(&peer.name, zone, "no answer in time".into()),
    }
}

/// Asks the delegates of another zone, one after the other until one answers for it.
pub async fn ask_zone(transport: &Transport, view: &View, zone: &v1::Zone, query: QueryRequest) -> Answer {
    let query = QueryRequest { whole_zone: true, ..query };
    let mut errors = Vec::new();
    for peer in view.gateways.get(&zone.name).into_iter().flatten() {
        match transport.query_within(peer.member, peer.way, query.clone(), ZONE_TIMEOUT).await {
            Ok(details) => {
                let source = v1::Source {
                    host: peer.name.clone(),
                    zone: zone.name.clone(),
                    reached: true,
                    observed_at: Some(UnixMillis(details.observed_unix_ms).into()),
                    age_ms: details.age_ms,
                    error: String::new(),
                };
                return Answer { source, details: Some(details) };
            }
            Err(error) => errors.push(format!("{}: {error}", peer.name)),
        }
        // Of a zone that is lost one try is enough.
        if zone.state() == v1::zone::State::Unreachable {
            break;
        }
    }
    let error = match errors.as_slice() {
        [] => "no delegate of it is known".into(),
        errors => {
            format!("no delegate of it answers ({}); last heard of {} s ago", errors.join(", "), zone.age_ms / 1000)
        }
    };
    unreached("", &zone.name, error)
}

/// Asks all other zones at once, or only the one of this name or id.
pub async fn ask_zones(transport: &Transport, view: &View, query: &QueryRequest, only: &str) -> Vec<Answer> {
    let wanted = |zone: &&v1::Zone| !zone.local && (only.is_empty() || zone.name == only || zone.id == only);
    let asked: Vec<_> =
        view.zones.iter().filter(wanted).map(|zone| ask_zone(transport, view, zone, query.clone())).collect();
    stream::iter(asked).buffered(ASK_CONCURRENCY).collect().await
}

/// Answers for this host's zone.
pub async fn answer_for_zone(transport: &Transport, view: &Arc<View>, query: QueryRequest) -> QueryResponse {
    let mut response = QueryResponse {
        hosts: if query.hosts { hosts(view, &query.host) } else { Vec::new() },
        events: events(view, &query),
        ..base(view)
    };
    if !query.containers && !query.services && !query.cells {
        return response;
    }
    let QueryRequest { containers, services, cells, cell_members, .. } = query;
    let plain = QueryRequest { containers, services, cells, cell_members, ..QueryRequest::default() };
    let mut room = MAX_ZONE_ANSWER.saturating_sub(response.encoded_len());
    for Answer { mut source, details } in ask_hosts(transport, view, &plain, &query.host).await {
        let details = details.unwrap_or_default();
        let len = details.encoded_len();
        if len <= room {
            room -= len;
            response.containers.extend(details.containers);
            response.services.extend(details.services);
            response.cells.extend(details.cells);
        } else {
            source.reached = false;
            source.error = "its details do not fit into one answer; ask for this host alone".into();
        }
        response.sources.push(source);
    }
    response
}

/// A zone's hosts, to be told outside of it: none of them is the one that answers there.
fn hosts(view: &View, only: &str) -> Vec<v1::Host> {
    let wanted = view.hosts.iter().filter(|host| only.is_empty() || host.name == only || host.id == only);
    wanted.map(|host| v1::Host { local: false, ..host.clone() }).collect()
}

/// The newest events of this zone's own hosts, oldest first.
fn events(view: &View, query: &QueryRequest) -> Vec<v1::Event> {
    let wanted = |event: &&Arc<v1::Event>| {
        event.zone == view.zone
            && (query.host.is_empty() || event.host == query.host)
            && (query.event_kind.is_empty() || event.kind == query.event_kind)
    };
    let newest = view.events.iter().rev().filter(wanted).take(query.events as usize);
    let mut newest: Vec<v1::Event> = newest.map(|event| (**event).clone()).collect();
    newest.reverse();
    newest
}

/// Our own details, copied on another thread: those of 32,000 containers take milliseconds.
async fn own_apart(view: Arc<View>, query: QueryRequest) -> Answer {
    let (name, zone) = (view.name.clone(), view.zone.clone());
    let copied = tokio::task::spawn_blocking(move || own(&view, &query)).await;
    copied.unwrap_or_else(|_| unreached(&name, &zone, "this host is ending".into()))
}

/// Our own details, from the snapshot.
pub fn own(view: &View, query: &QueryRequest) -> Answer {
    let details = show(view, query);
    let source = v1::Source {
        host: view.name.clone(),
        zone: view.zone.clone(),
        reached: true,
        observed_at: Some(view.taken.unix.into()),
        age_ms: details.age_ms,
        error: String::new(),
    };
    Answer { source, details: Some(details) }
}

/// The details of this host alone.
pub fn show(view: &View, query: &QueryRequest) -> QueryResponse {
    QueryResponse {
        containers: if query.containers { copy(&view.containers) } else { Vec::new() },
        services: if query.services { copy(&view.services) } else { Vec::new() },
        cells: if query.cells { cells(view, query.cell_members) } else { Vec::new() },
        ..base(view)
    }
}

fn cells(view: &View, members: bool) -> Vec<v1::Cell> {
    let mut cells = view.cells.to_vec();
    if !members {
        cells.iter_mut().for_each(|cell| cell.members.clear());
    }
    cells
}

fn base(view: &View) -> QueryResponse {
    let age = clock::unix().0.saturating_sub(view.taken.unix.0);
    QueryResponse {
        observed_unix_ms: view.taken.unix.0,
        age_ms: u32::try_from(age).unwrap_or(u32::MAX),
        fingerprint: view.fingerprint,
        ..QueryResponse::default()
    }
}

fn copy<T: Clone>(items: &[Arc<T>]) -> Vec<T> {
    items.iter().map(|item| T::clone(item)).collect()
}

/// Who did not answer, and why.
pub fn unreached(host: &str, zone: &str, error: String) -> Answer {
    let (host, zone) = (host.to_owned(), zone.to_owned());
    Answer { source: v1::Source { host, zone, error, ..v1::Source::default() }, details: None }
}
