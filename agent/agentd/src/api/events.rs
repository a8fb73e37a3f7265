//! `ringmesh.v1.Events`.

use std::{collections::BTreeSet, sync::Arc};

use ringmesh_node::View;
use ringmesh_proto::v1::{
    Event, GetEventRequest, ListEventsRequest, ListEventsResponse, WatchEventsRequest, events_server::Events,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Answers, Api};

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
        let events = newest(&view, limit, &request.host, &request.kind).iter().map(|event| (**event).clone()).collect();
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
        let backlog = newest(&first, request.backlog as usize, &request.host, &request.kind);
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

/// The newest events that match, oldest first.
fn newest(view: &View, limit: usize, host: &str, kind: &str) -> Vec<Arc<Event>> {
    let mut events: Vec<_> =
        view.events.iter().rev().filter(|event| matches(event, host, kind)).take(limit).cloned().collect();
    events.reverse();
    events
}

fn matches(event: &Event, host: &str, kind: &str) -> bool {
    (host.is_empty() || event.host == host) && (kind.is_empty() || event.kind == kind)
}

/// Tells events of two snapshots that share them apart without comparing what they say.
fn address(event: &Arc<Event>) -> usize {
    Arc::as_ptr(event).addr()
}
