//! Questions to many hosts: those of a zone, or one of the delegates of another zone, which asks its own.
//!
//! It owns the time that each may take, and what is said of those who did not answer. Details come in pages: only as many
//! hosts are asked as one page needs.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use prost::Message;
use ringmesh_node::{ContainerRow, Peer, View};
use ringmesh_proto::{
    UnixMillis, frame,
    peer::{Moment, Position, QueryRequest, QueryResponse, Selection},
    v1,
};

use crate::{
    clock,
    details::{self, Detail, Fields, Page},
    quic::Transport,
};

/// For all tries to ask one host.
const ASK_TIMEOUT: Duration = Duration::from_millis(2500);

/// Bytes of an answer for a whole zone; what is left to the frame's bound is for the sources.
const MAX_ZONE_ANSWER: usize = frame::MAX_RESPONSE - 1024 * 1024;

/// For a delegate to ask its zone.
const ZONE_TIMEOUT: Duration = Duration::from_secs(5);

/// Hosts asked at once.
const ASK_CONCURRENCY: usize = 64;

/// Histories of one name, of all hosts together: enough to say in how many places it is.
const MAX_HISTORIES: usize = 3;

/// What one host says, or why it says nothing.
pub struct Answer {
    /// Who, and how old it is.
    pub source: v1::Source,
    /// Its details.
    pub details: Option<QueryResponse>,
}

/// A page that is being gathered, and who was asked for it.
pub struct Gathered<T> {
    /// The objects.
    pub page: Page<T>,
    /// Whose they are, and who did not answer.
    pub sources: Vec<v1::Source>,
    /// Of the last object.
    zone: String,
}

impl<T: Detail> Gathered<T> {
    /// For a page of at most so many objects.
    pub fn new(limit: u32) -> Self {
        Self { page: Page::new(limit), sources: Vec::new(), zone: String::new() }
    }

    /// Takes what a delegate says of its zone.
    pub fn add_zone(&mut self, mut answer: Answer) {
        match &mut answer.details {
            // Each of its hosts speaks for itself.
            Some(details) => self.sources.append(&mut details.sources),
            None => self.sources.push(answer.source.clone()),
        }
        self.extend(answer);
    }

    fn add(&mut self, answer: Answer) {
        self.sources.push(answer.source.clone());
        self.extend(answer);
    }

    fn extend(&mut self, Answer { source: v1::Source { zone, .. }, details }: Answer) {
        let Some(mut details) = details else { return };
        let count = self.page.items.len();
        std::mem::take(T::in_answer(&mut details)).into_iter().for_each(|item| self.page.push(item));
        if self.page.items.len() > count {
            self.zone = zone;
            self.page.cut |= details.last.is_some();
        }
    }

    /// Where the next page begins, if there is one.
    pub fn last(&self) -> Option<Position> {
        self.page.last(&self.zone)
    }
}

/// Fills a page with details of the hosts of this one's zone, in the order of their names: of all, or only of the one of this name
/// or id. Hosts that have left are not asked; ones that are down are not asked and named among the sources.
pub async fn gather<T: Detail>(
    gathered: &mut Gathered<T>,
    transport: &Transport,
    view: &Arc<View>,
    selection: &Selection,
    only: &str,
) {
    let after = selection.after.clone().unwrap_or_default();
    let wanted = |host: &&v1::Host| {
        (only.is_empty() || host.name == only || host.id == only)
            && host.state() != v1::host::State::Left
            && host.name >= after.host
    };
    let mut hosts: Vec<&v1::Host> = view.hosts.iter().filter(wanted).collect();
    hosts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let mut rest = hosts.as_slice();
    while !rest.is_empty() {
        if gathered.page.is_full() {
            gathered.page.cut = true;
            return;
        }
        let sizes = rest.iter().map(|host| T::count(host.digest.as_ref()));
        let (wave, later) = rest.split_at(wave(sizes, selection, gathered.page.missing()));
        rest = later;
        let asked = wave.iter().map(|host| {
            let after = selection.after.clone().filter(|after| after.host == host.name);
            let query = T::query(Selection { after, limit: gathered.page.missing(), ..selection.clone() });
            ask_host(transport, view, host, query)
        });
        // In the order of the hosts.
        let mut answers = stream::iter(asked.collect::<Vec<_>>()).buffered(ASK_CONCURRENCY);
        while let Some(answer) = answers.next().await {
            if gathered.page.is_full() {
                gathered.page.cut = true;
                return;
            }
            gathered.add(answer);
        }
    }
}

/// How many of the places of these sizes to ask at once for a page that lacks `missing` objects: as many as fill it, if all of
/// their objects are wanted; else as many as may be asked at once.
pub fn wave(sizes: impl Iterator<Item = u32>, selection: &Selection, missing: u32) -> usize {
    let Selection { labels, verdicts, states, container, service, .. } = selection;
    let is_unnamed = container.is_empty() && service.is_empty();
    let is_selective = !(labels.is_empty() && verdicts.is_empty() && states.is_empty() && is_unnamed);
    let (mut count, mut sum) = (0, 0);
    for size in sizes.take(ASK_CONCURRENCY) {
        count += 1;
        sum += u64::from(size);
        if sum >= u64::from(missing) && !is_selective {
            break;
        }
    }
    count
}

async fn ask_host(transport: &Transport, view: &Arc<View>, host: &v1::Host, query: QueryRequest) -> Answer {
    let peer = host.id.parse().ok().and_then(|id| view.peers.get(&id)).filter(|peer| peer.askable);
    match peer {
        _ if host.local => ask_own(transport, Arc::clone(view), query).await,
        Some(peer) => ask(transport, peer.clone(), query, &view.zone).await,
        None => unreached(&host.name, &view.zone, "the host is down".into()),
    }
}

/// Asks every host of this one's zone for what does not come in pages, operations, histories and cells, or only the one of this
/// name or id. Hosts that have left are not asked.
pub async fn ask_hosts(transport: &Transport, view: &Arc<View>, query: &QueryRequest, only: &str) -> Vec<Answer> {
    let QueryRequest { operations, operation, history, cells, cell, .. } = query.clone();
    let query = QueryRequest { operations, operation, history, cells, cell, ..QueryRequest::default() };
    let wanted = view.hosts.iter().filter(|host| only.is_empty() || host.name == only || host.id == only);
    let there = wanted.filter(|host| host.state() != v1::host::State::Left);
    let asked: Vec<_> = there.map(|host| ask_host(transport, view, host, query.clone())).collect();
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
    if query.operations || query.cells || query.history.is_some() {
        let mut room = MAX_ZONE_ANSWER;
        for Answer { mut source, details } in ask_hosts(transport, view, &query, &query.host).await {
            let details = details.unwrap_or_default();
            if let Some(left) = room.checked_sub(details.encoded_len()) {
                room = left;
                response.operations.extend(details.operations);
                response.cells.extend(details.cells);
                add_histories(&mut response.histories, details.histories);
            } else {
                source.reached = false;
                source.error = "what it says does not fit into one answer; ask for this host alone".into();
            }
            response.sources.push(source);
        }
        return response;
    }
    if !query.containers && !query.services {
        return response;
    }
    let selection = query.selection.unwrap_or_default();
    if query.containers {
        gather_into(
            &mut response,
            Gathered::<v1::Container>::new(selection.limit),
            transport,
            view,
            &selection,
            &query.host,
        )
        .await;
    } else {
        gather_into(
            &mut response,
            Gathered::<v1::Service>::new(selection.limit),
            transport,
            view,
            &selection,
            &query.host,
        )
        .await;
    }
    response
}

async fn gather_into<T: Detail>(
    response: &mut QueryResponse,
    mut gathered: Gathered<T>,
    transport: &Transport,
    view: &Arc<View>,
    selection: &Selection,
    only: &str,
) {
    gather(&mut gathered, transport, view, selection, only).await;
    response.last = gathered.last();
    response.sources = gathered.sources;
    *T::in_answer(response) = gathered.page.items;
}

/// Puts histories together, those of services that are configured first, as far as they are of use.
pub fn add_histories(histories: &mut Vec<v1::History>, more: Vec<v1::History>) {
    histories.extend(more);
    histories.sort_by_key(|history| history.retired.is_some());
    histories.truncate(MAX_HISTORIES);
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

async fn ask_own(transport: &Transport, view: Arc<View>, query: QueryRequest) -> Answer {
    let (host, zone, observed_at) = (view.name.clone(), view.zone.clone(), Some(view.taken.unix.into()));
    let Some(details) = own(transport, view, query).await else {
        return unreached(&host, &zone, "this host is busy or ending".into());
    };
    let source = v1::Source { host, zone, reached: true, observed_at, age_ms: details.age_ms, error: String::new() };
    Answer { source, details: Some(details) }
}

/// Our own details, looked for on another thread, for among those of 32,000 containers that takes milliseconds; histories are
/// the host loop's. `None` if this host is too busy to answer.
pub async fn own(transport: &Transport, view: Arc<View>, query: QueryRequest) -> Option<QueryResponse> {
    let wanted = query.history.clone();
    let mut details = tokio::task::spawn_blocking(move || show(&view, &query)).await.ok()?;
    if let Some(wanted) = wanted {
        details.histories = transport.own_histories(wanted).await?;
    }
    Some(details)
}

/// The details of this host alone, as far as they fit into one answer: containers, or services.
pub fn show(view: &View, query: &QueryRequest) -> QueryResponse {
    let selection = query.selection.clone().unwrap_or_default();
    let (operations, cells) = (operations(view, query), cells(view, query));
    let mut response = QueryResponse { operations, cells, ..base(view) };
    if query.containers {
        show_into::<v1::Container>(&mut response, view, &selection);
    } else if query.services {
        show_into::<v1::Service>(&mut response, view, &selection);
    }
    response
}

fn show_into<T: Detail>(response: &mut QueryResponse, view: &View, selection: &Selection) {
    let after = selection.after.as_ref().map(|Position { container, service, .. }| (&**container, &**service));
    // A host of another version may ask for fields that this one does not have.
    let fields = Fields::named::<T>(&selection.fields).unwrap_or(Fields::ALL);
    let ringmesh_node::Position { born, revision } = view.position;
    // Of this life of the agent, and as far back as is remembered.
    let since = selection.since.filter(|since| since.born == born && since.revision <= revision);
    let removed = since.and_then(|since| Some((since.revision, view.removed.after(since.revision)?)));
    let since = removed.as_ref().map(|(since, _)| *since);
    let page = details::select::<T>(T::own(view), selection, since, after, fields);
    response.last = page.last(&view.zone);
    response.moment = Some(Moment { born, revision });
    if let Some((_, removed)) = removed {
        response.partial = true;
        response.removed = removed.map(str::to_owned).collect();
    }
    *T::in_answer(response) = page.items;
}

fn operations(view: &View, query: &QueryRequest) -> Vec<v1::Operation> {
    let wanted = |operation: &&Arc<v1::Operation>| query.operation.is_empty() || operation.id == query.operation;
    let found = view.operations.iter().filter(|_| query.operations).filter(wanted);
    found.map(|operation| v1::Operation::clone(operation)).collect()
}

/// All cells of this host without their members, or one with them.
fn cells(view: &View, query: &QueryRequest) -> Vec<v1::Cell> {
    let wanted = |cell: &&v1::Cell| query.cell.is_none_or(|number| cell.number == number);
    let found = view.cells.iter().filter(|_| query.cells).filter(wanted);
    let shown = found.map(|cell| v1::Cell {
        members: match query.cell {
            None => Vec::new(),
            Some(number) if cell.service.is_empty() => members(number, &view.containers),
            Some(_) => cell.members.clone(),
        },
        ..cell.clone()
    });
    shown.collect()
}

fn members(cell: u32, containers: &[Arc<ContainerRow>]) -> Vec<v1::CellMember> {
    let named = |container: &Arc<ContainerRow>| {
        let member = container.member.as_ref().filter(|member| member.cell == cell)?;
        Some(v1::CellMember { container: container.spec.name.clone(), ..v1::CellMember::clone(member) })
    };
    let mut members: Vec<v1::CellMember> = containers.iter().filter_map(named).collect();
    members.sort_by_key(|member| member.slot);
    members
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

/// Who did not answer, and why.
pub fn unreached(host: &str, zone: &str, error: String) -> Answer {
    let (host, zone) = (host.to_owned(), zone.to_owned());
    Answer { source: v1::Source { host, zone, error, ..v1::Source::default() }, details: None }
}

#[cfg(test)]
mod tests {
    use ringmesh_node::health::spec::ContainerSpec;

    use super::*;

    #[test]
    fn histories_of_what_is_configured_come_first_however_many_are_of_the_past() {
        let history = |host: usize, is_over: bool| v1::History {
            host: format!("h{host}"),
            retired: is_over.then(|| UnixMillis(1).into()),
            ..v1::History::default()
        };
        let mut found = Vec::new();
        (0..100).for_each(|host| add_histories(&mut found, vec![history(host, host != 70); 2]));
        let hosts: Vec<&str> = found.iter().map(|history| history.host.as_str()).collect();
        assert_eq!(hosts, ["h70", "h70", "h0"]);
    }

    #[test]
    fn a_cell_has_its_own_containers_by_slot() {
        let container = |name: &str, cell, slot| {
            let spec = ContainerSpec { name: name.into(), ..ContainerSpec::default() }.into();
            let member = v1::CellMember { cell, slot, ..v1::CellMember::default() };
            Arc::new(ContainerRow { spec, member: Some(member.into()), ..ContainerRow::default() })
        };
        let outside = Arc::new(ContainerRow::default());
        let found = members(1, &[container("b", 1, 7), container("c", 0, 1), outside, container("a", 1, 2)]);
        let names: Vec<&str> = found.iter().map(|member| member.container.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
