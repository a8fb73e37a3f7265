//! Details of the whole cluster, a page at a time: our own from the snapshot, those of the other hosts of our zone by asking
//! them, those of other zones by asking one of their delegates.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use ringmesh_node::{Peer, View};
use ringmesh_proto::{
    opaque,
    peer::{PageToken, QueryRequest, QueryResponse, Selection},
    v1,
};
use sha2::{Digest, Sha256};
use tonic::Status;

use super::{Api, not_found};
use crate::{
    details::{Detail, Fields},
    fanout::{self, Answer, Gathered},
};

impl Api {
    /// Asks every host, or only the one of this name or id, or only those of this zone, until a page is full.
    pub(super) async fn page<T: Detail>(
        &self,
        selection: Selection,
        only: &str,
        zone: &str,
    ) -> Result<Gathered<T>, Status> {
        let view = self.view();
        let (ours, others) = self.wanted_zones(zone)?;
        let here = only.is_empty() || view.hosts.iter().any(|host| host.name == only || host.id == only);
        // Whoever is here is nowhere else.
        let others = others && !(ours && here && !only.is_empty());
        let after = selection.after.as_ref().map_or("", |after| &after.zone);
        let mut zones: Vec<&v1::Zone> = view
            .zones
            .iter()
            .filter(|found| {
                let wanted = if found.local { ours && here } else { others };
                wanted && (zone.is_empty() || found.name == zone || found.id == zone) && found.name.as_str() >= after
            })
            .collect();
        zones.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut gathered = Gathered::new(selection.limit);
        self.fill(&mut gathered, &view, &zones, &selection, only).await;
        if gathered.sources.is_empty() && !only.is_empty() && selection.after.is_none() {
            return Err(not_found("host", only));
        }
        Ok(gathered)
    }

    async fn fill<T: Detail>(
        &self,
        gathered: &mut Gathered<T>,
        view: &Arc<View>,
        zones: &[&v1::Zone],
        selection: &Selection,
        only: &str,
    ) {
        let mut rest = zones;
        while let Some(first) = rest.first() {
            if gathered.page.is_full() {
                gathered.page.cut = true;
                return;
            }
            let after = |zone: &v1::Zone| selection.after.clone().filter(|after| after.zone == zone.name);
            if first.local {
                let selection = Selection { after: after(first), ..selection.clone() };
                fanout::gather(gathered, &self.transport, view, &selection, only).await;
                rest = &rest[1..];
                continue;
            }
            // All up to ours at once, or as many as fill the page.
            let foreign = rest.iter().take_while(|zone| !zone.local);
            let wave =
                fanout::wave(foreign.map(|zone| T::count(zone.digest.as_ref())), selection, gathered.page.missing());
            let (asked, later) = rest.split_at(wave);
            rest = later;
            let asked = asked.iter().map(|zone| {
                let (after, limit) = (after(zone), gathered.page.missing());
                let query = T::query(Selection { after, limit, ..selection.clone() });
                fanout::ask_zone(&self.transport, view, zone, QueryRequest { host: only.to_owned(), ..query })
            });
            let mut answers = stream::iter(asked.collect::<Vec<_>>()).buffered(wave);
            while let Some(answer) = answers.next().await {
                if gathered.page.is_full() {
                    gathered.page.cut = true;
                    return;
                }
                gathered.add_zone(answer);
            }
        }
    }

    /// Asks every host, or only the one of this name or id, or only those of this zone, for what does not come in pages.
    pub(super) async fn ask_all(
        &self,
        query: QueryRequest,
        only: &str,
        zone: &str,
    ) -> Result<(Vec<QueryResponse>, Vec<v1::Source>), Status> {
        let view = self.view();
        let (ours, others) = self.wanted_zones(zone)?;
        let here = only.is_empty() || view.hosts.iter().any(|host| host.name == only || host.id == only);
        let (mut answers, mut sources) = (Vec::new(), Vec::new());
        if ours && here {
            for answer in fanout::ask_hosts(&self.transport, &view, &query, only).await {
                answers.extend(answer.details);
                sources.push(answer.source);
            }
        }
        // Whoever is here is nowhere else.
        if others && (only.is_empty() || !here) {
            let query = QueryRequest { host: only.to_owned(), ..query };
            for answer in fanout::ask_zones(&self.transport, &view, &query, zone).await {
                match answer.details {
                    // Each of its hosts speaks for itself.
                    Some(mut details) => {
                        sources.append(&mut details.sources);
                        answers.push(details);
                    }
                    None => sources.push(answer.source),
                }
            }
        }
        if sources.is_empty() && !only.is_empty() {
            return Err(not_found("host", only));
        }
        Ok((answers, sources))
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

/// Refuses fields that an object does not have.
pub(super) fn checked_fields<T: Detail>(mask: Option<prost_types::FieldMask>) -> Result<(Vec<String>, Fields), Status> {
    let paths = mask.map(|mask| mask.paths).unwrap_or_default();
    let fields = Fields::named::<T>(&paths).map_err(|error| Status::invalid_argument(format!("fields: {error}")))?;
    Ok((paths, fields))
}

/// Tells questions apart: a page or a position is good for that question alone of which it is.
pub(super) fn question(request: &impl prost::Message) -> u64 {
    let hash: [u8; 32] = Sha256::digest(request.encode_to_vec()).into();
    u64::from_be_bytes(hash[..8].try_into().expect("8 of 32 bytes"))
}

/// The place that a page token names, if it is of this question.
pub(super) fn page_after(token: &str, question: u64) -> Result<Option<ringmesh_proto::peer::Position>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    match opaque::decode::<PageToken>(token) {
        Ok(PageToken { question: of, after: Some(after) }) if of == question => Ok(Some(after)),
        Ok(_) => Err(Status::invalid_argument(
            "page_token: is of another question; ask for the next page with all else as before, or begin without it",
        )),
        Err(error) => Err(Status::invalid_argument(format!("page_token: {error}; begin without it"))),
    }
}

/// The token of the page after this one; empty if there is none.
pub(super) fn next_page<T: Detail>(gathered: &Gathered<T>, question: u64) -> String {
    let token = gathered.last().map(|after| PageToken { question, after: Some(after) });
    token.map(|token| opaque::encode(&token)).unwrap_or_default()
}
