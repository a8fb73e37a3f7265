//! The links of the whole cluster, kept as the hosts' records have them and put into the API's words when asked for.
//!
//! They are by far the most objects of a snapshot, some twenty a host, and few queries want them.

use std::{collections::BTreeMap, sync::Arc};

use ringmesh_proto::{HostId, UnixMillis, Uplink, peer::LinkRecord, v1};

use crate::{gossip::HeardRecord, natural};

/// All links that any live host measures.
#[derive(Clone, Debug, Default)]
pub struct Links {
    /// The newest records of the live hosts; this host's own has its links as they are now.
    pub(crate) records: Vec<Arc<HeardRecord>>,
    /// Of all hosts that have one.
    pub(crate) names: BTreeMap<HostId, String>,
}

impl Links {
    /// All of them, by name.
    pub fn list(&self) -> Vec<v1::Link> {
        let links = self.records.iter().flat_map(|heard| {
            let from = HostId::new(heard.record.host);
            heard.record.links.iter().map(move |link| self.show(from, link, heard.heard.unix))
        });
        let mut links: Vec<v1::Link> = links.collect();
        links.sort_by_cached_key(|link| natural(&link.name));
        links
    }

    fn show(&self, from: HostId, link: &LinkRecord, observed: UnixMillis) -> v1::Link {
        let name = |host: HostId| self.names.get(&host).cloned().unwrap_or_else(|| host.to_string());
        let (from, to) = (name(from), name(HostId::new(link.peer)));
        let uplink = Uplink::from_index(link.uplink).unwrap_or(Uplink::A);
        v1::Link {
            name: format!("{from}/{to}/{uplink}"),
            from,
            to,
            uplink: uplink.as_str().into(),
            role: match link.role {
                0 => "ring-a",
                1 => "ring-b",
                _ => "chord",
            }
            .into(),
            state: link.state as i32,
            rtt_us: link.rtt_us,
            loss_percent: link.loss_percent,
            observed_at: Some(observed.into()),
        }
    }
}
