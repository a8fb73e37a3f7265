//! Details of all hosts: our own from the snapshot, those of the others by asking them, all at once.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use ringmesh_node::{Peer, View};
use ringmesh_proto::{
    UnixMillis,
    peer::{QueryRequest, QueryResponse},
    v1,
};

use tonic::Status;

use super::{Api, not_found};
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
    /// Asks every host, or only the one of this name or id. Hosts that have left are not asked; ones that are down are not
    /// asked and named among the sources.
    pub(super) async fn ask_all(&self, query: QueryRequest, only: &str) -> Result<Vec<Answer>, Status> {
        let view = self.view();
        let wanted: Vec<&v1::Host> =
            view.hosts.iter().filter(|host| only.is_empty() || host.name == only || host.id == only).collect();
        if wanted.is_empty() && !only.is_empty() {
            return Err(not_found("host", only));
        }
        let peer = |host: &v1::Host| view.peers.get(&host.id.parse().ok()?).filter(|peer| peer.askable).cloned();
        let asked = wanted.into_iter().filter(|host| host.state() != v1::host::State::Left).map(|host| {
            let (view, peer, local, name) = (&view, peer(host), host.local, host.name.clone());
            async move {
                match peer {
                    _ if local => own(view, &query),
                    Some(peer) => self.ask(peer, query).await,
                    None => unreached(&name, "the host is down".into()),
                }
            }
        });
        let asked: Vec<_> = asked.collect();
        // In the order of the hosts.
        Ok(stream::iter(asked).buffered(ASK_CONCURRENCY).collect().await)
    }

    /// Asks one host.
    pub(super) async fn ask(&self, peer: Peer, query: QueryRequest) -> Answer {
        match tokio::time::timeout(ASK_TIMEOUT, self.transport.query(peer.member, peer.way, query)).await {
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
            Ok(Err(error)) => unreached(&peer.name, error.to_string()),
            Err(_) => unreached(&peer.name, "no answer in time".into()),
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
        fingerprint: view.fingerprint,
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

pub(super) fn unreached(host: &str, error: String) -> Answer {
    let source = v1::Source { host: host.to_owned(), reached: false, observed_at: None, age_ms: 0, error };
    Answer { source, details: None }
}
