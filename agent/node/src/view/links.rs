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
            let pair = |peer| heard.record.broken_pairs.iter().find(|pair| pair.peer == peer);
            heard.record.links.iter().map(move |link| v1::Link {
                pair_broken: pair(link.peer).is_some(),
                via: pair(link.peer).filter(|pair| pair.via != 0).map_or_else(String::new, |pair| self.name(pair.via)),
                restored_at: restored_at(heard, link.uplink),
                ..self.show(from, link, heard.heard.unix)
            })
        });
        let mut links: Vec<v1::Link> = links.collect();
        links.sort_by_cached_key(|link| natural(&link.name));
        links
    }

    fn show(&self, from: HostId, link: &LinkRecord, observed: UnixMillis) -> v1::Link {
        let (from, to) = (self.name(from.raw()), self.name(link.peer));
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
            ..v1::Link::default()
        }
    }

    fn name(&self, host: u32) -> String {
        let host = HostId::new(host);
        self.names.get(&host).cloned().unwrap_or_else(|| host.to_string())
    }
}

/// By our own clock, whatever the other host's says.
pub(crate) fn restored_at(heard: &HeardRecord, uplink: u32) -> Option<prost_types::Timestamp> {
    let left_ms = if uplink == 0 { heard.record.restoring_a_ms } else { heard.record.restoring_b_ms };
    (left_ms > 0).then(|| UnixMillis(heard.heard.unix.0 + u64::from(left_ms)).into())
}
