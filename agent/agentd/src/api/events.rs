//! `ringmesh.v1.Events`.

use std::{collections::BTreeSet, sync::Arc};

use ringmesh_node::{View, gossip::EVENT_CAPACITY};
use ringmesh_proto::{
    peer::QueryRequest,
    v1::{Event, GetEventRequest, ListEventsRequest, ListEventsResponse, WatchEventsRequest, events_server::Events},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Answers, Api, not_found};
use crate::fanout::{self, Answer};

/// When a client names no limit.
const DEFAULT_LIMIT: usize = 100;

/// Events on their way to one client; beyond them it waits, and what leaves the log meanwhile is lost to it.
const BOUND: usize = 256;

#[tonic::async_trait]
impl Events for Api {
    type WatchEventsStream = Answers<Event>;

    async fn list_events(&self, request: Request<ListEventsRequest>) -> Result<Response<ListEventsResponse>, Status> {
        let request = request.into_inner();
        let limit = if request.limit == 0 { DEFAULT_LIMIT } else { request.limit as usize };
        let view = self.view();
        let (ours, _) = self.wanted_zones(&request.zone)?;
        if !ours {
            return self.events_of_zone(&view, request, limit).await.map(Response::new);
        }
        let events = newest(&view, limit, &request.host, &request.kind);
        let of_zone = events.iter().filter(|event| request.zone.is_empty() || event.zone == view.zone);
        let events = of_zone.map(|event| (**event).clone()).collect();
        Ok(Response::new(ListEventsResponse { events, answered_by: view.name.clone() }))
    }

    async fn get_event(&self, request: Request<GetEventRequest>) -> Result<Response<Event>, Status> {
        let id = request.into_inner().id;
        let found = self.view().events.iter().rfind(|event| event.id == id).map(|event| (**event).clone());
        let none = || Status::not_found("there is no such event, or it is no longer kept; see `ringmesh event list`");
        found.map(Response::new).ok_or_else(none)
    }

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let request = request.into_inner();
        let mut view = self.view.clone();
        let (sender, receiver) = mpsc::channel(BOUND);
        // The log is short enough that what was there is known by its ids.
        let first = Arc::clone(&view.borrow_and_update());
        let backlog = if request.after.is_empty() {
            newest(&first, request.backlog as usize, &request.host, &request.kind)
        } else {
            since(&first, &request.after, &request.host, &request.kind)?
        };
        tokio::spawn(async move {
            let mut seen = Arc::clone(&first.events);
            drop(first);
            for event in backlog {
                if sender.send(Ok((*event).clone())).await.is_err() {
                    return;
                }
            }
            loop {
                tokio::select! {
                    changed = view.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
                let now = Arc::clone(&view.borrow_and_update());
                if Arc::ptr_eq(&seen, &now.events) {
                    continue;
                }
                let old: BTreeSet<usize> = seen.iter().map(address).collect();
                let new = now.events.iter().filter(|event| !old.contains(&address(event)));
                let new: Vec<Arc<Event>> =
                    new.filter(|event| matches(event, &request.host, &request.kind)).cloned().collect();
                seen = Arc::clone(&now.events);
                drop(now);
                for event in new {
                    if sender.send(Ok((*event).clone())).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Api {
    /// Asks another zone for all events of its hosts, of which only the more important ones come here by themselves.
    async fn events_of_zone(
        &self,
        view: &View,
        request: ListEventsRequest,
        limit: usize,
    ) -> Result<ListEventsResponse, Status> {
        let events = u32::try_from(limit.min(EVENT_CAPACITY)).unwrap_or(u32::MAX);
        let query = QueryRequest { events, host: request.host, event_kind: request.kind, ..QueryRequest::default() };
        let mut answers = fanout::ask_zones(&self.transport, view, &query, &request.zone).await;
        match answers.pop() {
            Some(Answer { source, details: Some(details) }) => {
                Ok(ListEventsResponse { events: details.events, answered_by: source.host })
            }
            Some(Answer { source, details: None }) => {
                Err(Status::unavailable(format!("zone {} cannot be asked: {}", source.zone, source.error)))
            }
            None => Err(not_found("zone", &request.zone)),
        }
    }
}

/// The newest events that match, oldest first.
fn newest(view: &View, limit: usize, host: &str, kind: &str) -> Vec<Arc<Event>> {
    let mut events: Vec<_> =
        view.events.iter().rev().filter(|event| matches(event, host, kind)).take(limit).cloned().collect();
    events.reverse();
    events
}

/// Those that match after the one of this id, oldest first.
fn since(view: &View, id: &str, host: &str, kind: &str) -> Result<Vec<Arc<Event>>, Status> {
    let Some(at) = view.events.iter().rposition(|event| event.id == id) else {
        return Err(Status::out_of_range("after: this host has no such event, or keeps it no more; watch without it"));
    };
    Ok(view.events[at + 1..].iter().filter(|event| matches(event, host, kind)).cloned().collect())
}

fn matches(event: &Event, host: &str, kind: &str) -> bool {
    (host.is_empty() || event.host == host) && (kind.is_empty() || event.kind == kind)
}

/// Tells events of two snapshots that share them apart without comparing what they say.
fn address(event: &Arc<Event>) -> usize {
    Arc::as_ptr(event).addr()
}
