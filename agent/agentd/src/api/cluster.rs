//! Details of the whole cluster: our own from the snapshot, those of the other hosts of our zone by asking them, those of other
//! zones by asking one of their delegates; all at once.

use ringmesh_node::Peer;
use ringmesh_proto::{
    peer::{QueryRequest, QueryResponse},
    v1,
};
use tonic::Status;

use super::{Api, not_found};
use crate::fanout::{self, Answer};

/// What was gathered, and where it came from.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) sources: Vec<v1::Source>,
    pub(super) details: Vec<QueryResponse>,
}

impl Gathered {
    fn add(&mut self, Answer { source, details }: Answer) {
        self.sources.push(source);
        self.details.extend(details);
    }
}

impl Api {
    /// Asks every host, or only the one of this name or id, or only those of this zone.
    pub(super) async fn ask_all(&self, query: QueryRequest, only: &str, zone: &str) -> Result<Gathered, Status> {
        let view = self.view();
        let (ours, others) = self.wanted_zones(zone)?;
        let here = |host: &v1::Host| host.name == only || host.id == only;
        let ours = ours && (only.is_empty() || view.hosts.iter().any(here));
        let mut gathered = Gathered::default();
        if ours {
            fanout::ask_hosts(&self.transport, &view, &query, only).await.into_iter().for_each(|a| gathered.add(a));
        }
        if !others || (ours && !only.is_empty()) {
            return if gathered.sources.is_empty() { Err(not_found("host", only)) } else { Ok(gathered) };
        }
        let query = QueryRequest { host: only.to_owned(), ..query };
        for mut answer in fanout::ask_zones(&self.transport, &view, &query, zone).await {
            match &mut answer.details {
                // Each of its hosts speaks for itself.
                Some(details) => gathered.sources.append(&mut details.sources),
                None => gathered.sources.push(answer.source),
            }
            gathered.details.extend(answer.details);
        }
        if gathered.sources.is_empty() && !only.is_empty() {
            return Err(not_found("host", only));
        }
        Ok(gathered)
    }

    /// Whether the own zone and whether others are meant by a zone's name or id; empty for all.
    pub(super) fn wanted_zones(&self, zone: &str) -> Result<(bool, bool), Status> {
        let view = self.view();
        let found = view.zones.iter().find(|found| found.name == zone || found.id == zone);
        match found {
            _ if zone.is_empty() => Ok((true, view.zones.len() > 1)),
            Some(found) => Ok((found.local, !found.local)),
            None => Err(not_found("zone", zone)),
        }
    }

    /// Asks one host of our zone.
    pub(super) async fn ask(&self, peer: Peer, query: QueryRequest) -> Answer {
        let zone = self.view().zone.clone();
        fanout::ask(&self.transport, peer, query, &zone).await
    }
}
