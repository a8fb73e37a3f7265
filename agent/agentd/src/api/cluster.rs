//! Details of all hosts: our own from the snapshot, those of the others by asking them, all at once.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use ringmesh_node::{Peer, View};
use ringmesh_proto::{
    UnixMillis,
    peer::{QueryRequest, QueryResponse},
    v1,
};

use super::Api;
use crate::clock;

/// For all tries to ask one host.
const ASK_TIMEOUT: Duration = Duration::from_millis(2500);

/// Hosts asked at once.
const ASK_CONCURRENCY: usize = 64;

/// What one host says, or why it says nothing.
pub(super) struct Answer {
    pub(super) source: v1::Source,
    pub(super) details: Option<QueryResponse>,
}

impl Api {
    /// Asks every host, or only the one of this name. Hosts that are down or have left are not asked; down ones are named
    /// among the sources.
    pub(super) async fn ask_all(&self, query: QueryRequest, only: &str) -> Vec<Answer> {
        let view = self.view();
        let wanted = |name: &str| only.is_empty() || only == name;
        let mut answers = Vec::new();
        if wanted(&view.name) {
            answers.push(own(&view, &query));
        }
        let state = |name: &str| view.hosts.iter().find(|host| host.name == name).map(v1::Host::state);
        let peers = view.peers.values().filter(|peer| wanted(&peer.name));
        let (askable, gone): (Vec<&Peer>, Vec<&Peer>) = peers.partition(|peer| peer.askable);
        answers.extend(
            gone.into_iter()
                .filter(|peer| state(&peer.name) != Some(v1::host::State::Left))
                .map(|peer| unreached(peer, "the host is down".into())),
        );
        let asked = stream::iter(askable.into_iter().cloned()).map(|peer| self.ask(peer, query));
        answers.extend(asked.buffer_unordered(ASK_CONCURRENCY).collect::<Vec<_>>().await);
        answers.sort_by(|one, other| one.source.host.cmp(&other.source.host));
        answers
    }

    /// Asks one host.
    pub(super) async fn ask(&self, peer: Peer, query: QueryRequest) -> Answer {
        match tokio::time::timeout(ASK_TIMEOUT, self.transport.query(peer.member, query)).await {
            Ok(Ok(details)) => {
                let source = v1::Source {
                    host: peer.name,
                    reached: true,
                    observed_at: Some(UnixMillis(details.observed_unix_ms).into()),
                    age_ms: details.age_ms,
                    error: String::new(),
                };
                Answer { source, details: Some(details) }
            }
            Ok(Err(error)) => unreached(&peer, error.to_string()),
            Err(_) => unreached(&peer, "no answer in time".into()),
        }
    }
}

/// Our own details, from the snapshot.
pub(super) fn own(view: &View, query: &QueryRequest) -> Answer {
    let age = clock::unix().0.saturating_sub(view.taken.unix.0);
    let details = QueryResponse {
        containers: if query.containers { copy(&view.containers) } else { Vec::new() },
        services: if query.services { copy(&view.services) } else { Vec::new() },
        observed_unix_ms: view.taken.unix.0,
        age_ms: u32::try_from(age).unwrap_or(u32::MAX),
    };
    let source = v1::Source {
        host: view.name.clone(),
        reached: true,
        observed_at: Some(view.taken.unix.into()),
        age_ms: details.age_ms,
        error: String::new(),
    };
    Answer { source, details: Some(details) }
}

fn copy<T: Clone>(items: &[Arc<T>]) -> Vec<T> {
    items.iter().map(|item| T::clone(item)).collect()
}

fn unreached(peer: &Peer, error: String) -> Answer {
    let source = v1::Source { host: peer.name.clone(), reached: false, observed_at: None, age_ms: 0, error };
    Answer { source, details: None }
}
