//! Paths and round trips between any two hosts, from a snapshot.

use std::collections::{BTreeMap, BTreeSet};

use ringmesh_proto::{HostId, UnixMillis, Uplink, v1};
use ringmesh_topology::{Hop, Role, shortest_path};

use super::{Links, View};
use crate::coordinate;

/// What both ends of a link say of it.
#[derive(Clone, Copy)]
struct Seen {
    role: Role,
    /// The worse of both.
    state: v1::link::State,
    /// The lesser of both, of those that measured.
    rtt_us: Option<u32>,
    loss_percent: u32,
    observed: UnixMillis,
}

/// The lower host, the higher one, and the uplink at the lower one.
type Key = (HostId, HostId, Uplink);

impl View {
    /// The shortest path over links that carry traffic, each as seen from where it begins; `None` if there is none.
    pub fn path(&self, from: HostId, to: HostId, avoid: &BTreeSet<HostId>) -> Option<Vec<v1::Link>> {
        // The two ends of a cable are plugged into different uplinks.
        let cabled = self.rings.first().is_some_and(|ring| ring.mode == "cabled");
        let seen = self.links.seen(cabled);
        let hops =
            seen.iter().filter(|(_, seen)| carries(seen.state)).flat_map(|(key, seen)| both(*key, *seen, cabled));
        let path = shortest_path(hops, from, to, avoid)?;
        Some(path.iter().filter_map(|hop| Some(self.links.show_hop(hop, seen.get(&key(hop, cabled))?))).collect())
    }

    /// The estimated round trip of two hosts; `None` if one has no coordinate.
    pub fn round_trip(&self, from: &v1::Host, to: &v1::Host) -> Option<v1::RoundTrip> {
        let (one, other) = (coordinate::decode(from.coordinate.as_ref())?, coordinate::decode(to.coordinate.as_ref())?);
        let ids: [HostId; 2] = [from.id.parse().ok()?, to.id.parse().ok()?];
        let of_pair = |(low, high, _): &Key| ids.contains(low) && ids.contains(high);
        let seen = self.links.seen(false);
        let links = seen.iter().filter(|(key, seen)| of_pair(key) && carries(seen.state));
        Some(v1::RoundTrip {
            from: from.name.clone(),
            to: to.name.clone(),
            estimate_us: if ids[0] == ids[1] { 0 } else { coordinate::estimate_us(&one, &other) },
            error_permille: one.error_permille().max(other.error_permille()).into(),
            measured_us: links.filter_map(|(_, seen)| seen.rtt_us).min().unwrap_or(0),
            answered_by: self.name.clone(),
        })
    }
}

impl Links {
    /// All links between live hosts, each once.
    fn seen(&self, cabled: bool) -> BTreeMap<Key, Seen> {
        let live: BTreeSet<u32> = self.records.iter().map(|heard| heard.record.host).collect();
        let mut all: BTreeMap<Key, Seen> = BTreeMap::new();
        for heard in &self.records {
            let from = HostId::new(heard.record.host);
            for link in heard.record.links.iter().filter(|link| live.contains(&link.peer)) {
                let to = HostId::new(link.peer);
                let uplink = Uplink::from_index(link.uplink).unwrap_or(Uplink::A);
                let at_low = if cabled && from > to { uplink.other() } else { uplink };
                let this = Seen {
                    role: role(link.role),
                    state: v1::link::State::try_from(link.state as i32).unwrap_or_default(),
                    rtt_us: Some(link.rtt_us).filter(|rtt| *rtt > 0),
                    loss_percent: link.loss_percent,
                    observed: heard.heard.unix,
                };
                let merge = |other: &mut Seen| *other = worse(*other, this);
                all.entry((from.min(to), from.max(to), at_low)).and_modify(merge).or_insert(this);
            }
        }
        all
    }

    fn show_hop(&self, hop: &Hop, seen: &Seen) -> v1::Link {
        let name = |host: HostId| self.names.get(&host).cloned().unwrap_or_else(|| host.to_string());
        let (from, to) = (name(hop.from), name(hop.to));
        v1::Link {
            name: format!("{from}/{to}/{}", hop.uplink),
            from,
            to,
            uplink: hop.uplink.as_str().into(),
            role: hop.role.as_str().into(),
            state: seen.state as i32,
            rtt_us: hop.rtt_us.unwrap_or(0),
            loss_percent: seen.loss_percent,
            observed_at: Some(seen.observed.into()),
            // What carries is neither broken nor relayed.
            ..v1::Link::default()
        }
    }
}

fn carries(state: v1::link::State) -> bool {
    matches!(state, v1::link::State::Up | v1::link::State::Degraded)
}

fn worse(one: Seen, other: Seen) -> Seen {
    Seen {
        role: one.role.min(other.role),
        state: if (other.state as i32) > (one.state as i32) { other.state } else { one.state },
        rtt_us: [one.rtt_us, other.rtt_us].into_iter().flatten().min(),
        loss_percent: one.loss_percent.max(other.loss_percent),
        observed: UnixMillis(one.observed.0.min(other.observed.0)),
    }
}

fn role(number: u32) -> Role {
    match number {
        0 => Role::RingA,
        1 => Role::RingB,
        _ => Role::Chord,
    }
}

/// A link in both directions.
fn both((low, high, uplink): Key, seen: Seen, cabled: bool) -> [Hop; 2] {
    let degraded = seen.state == v1::link::State::Degraded;
    let hop = |from, to, uplink| Hop { from, to, uplink, role: seen.role, degraded, rtt_us: seen.rtt_us };
    [hop(low, high, uplink), hop(high, low, if cabled { uplink.other() } else { uplink })]
}

fn key(hop: &Hop, cabled: bool) -> Key {
    let at_low = if cabled && hop.from > hop.to { hop.uplink.other() } else { hop.uplink };
    (hop.from.min(hop.to), hop.from.max(hop.to), at_low)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ringmesh_proto::{
        Now,
        digest::Digest,
        peer::{HostRecord, LinkRecord},
    };

    use super::*;
    use crate::gossip::HeardRecord;

    const UP: u32 = v1::link::State::Up as u32;
    const DOWN: u32 = v1::link::State::Down as u32;

    fn record(host: u32, links: &[(u32, u32, u32, u32)]) -> Arc<HeardRecord> {
        let link = |(peer, uplink, state, rtt_us): &(u32, u32, u32, u32)| LinkRecord {
            peer: *peer,
            uplink: *uplink,
            state: *state,
            rtt_us: *rtt_us,
            loss_percent: 0,
            role: *uplink,
        };
        let record = HostRecord { host, links: links.iter().map(link).collect(), ..HostRecord::default() };
        Arc::new(HeardRecord { record: record.into(), digest: Digest::default(), heard: Now::default() })
    }

    fn view(mode: &str, records: Vec<Arc<HeardRecord>>) -> View {
        let names = records.iter().map(|heard| (HostId::new(heard.record.host), format!("h{}", heard.record.host)));
        let links = Links { names: names.collect(), records };
        let ring = v1::Ring { mode: mode.into(), ..v1::Ring::default() };
        View { links: Arc::new(links), rings: Arc::new(vec![ring]), ..View::default() }
    }

    fn names(path: Option<Vec<v1::Link>>) -> Option<Vec<String>> {
        path.map(|path| path.into_iter().map(|link| link.name).collect())
    }

    #[test]
    fn a_link_that_one_end_calls_down_carries_nothing_and_a_host_without_a_record_is_not_passed() {
        let (one, three) = (HostId::new(1), HostId::new(3));
        let records = vec![
            record(1, &[(3, 0, UP, 90), (3, 1, DOWN, 0), (2, 0, UP, 50), (9, 0, UP, 10)]),
            record(2, &[(1, 0, UP, 40), (3, 1, UP, 60), (9, 0, UP, 10)]),
            record(3, &[(1, 0, DOWN, 0), (1, 1, UP, 80)]),
        ];
        let view = view("switched", records);
        let path = view.path(one, three, &BTreeSet::new());
        assert_eq!(path.as_ref().map(|path| (path[0].rtt_us, path[1].rtt_us)), Some((40, 60)));
        assert_eq!(names(path), Some(vec!["h1/h2/a".into(), "h2/h3/b".into()]));
        assert_eq!(names(view.path(three, one, &BTreeSet::new())), Some(vec!["h3/h2/b".into(), "h2/h1/a".into()]));
        assert_eq!(view.path(one, three, &BTreeSet::from([HostId::new(2)])), None);
    }

    #[test]
    fn the_ends_of_a_cable_have_different_uplinks() {
        let records = vec![record(1, &[(2, 0, UP, 50)]), record(2, &[(1, 1, UP, 70)])];
        let view = view("cabled", records);
        let (one, two) = (HostId::new(1), HostId::new(2));
        assert_eq!(names(view.path(one, two, &BTreeSet::new())), Some(vec!["h1/h2/a".into()]));
        assert_eq!(names(view.path(two, one, &BTreeSet::new())), Some(vec!["h2/h1/b".into()]));
        assert_eq!(
            view.path(two, one, &BTreeSet::new()).map(|path| path[0].rtt_us),
            Some(50),
            "both speak of one link"
        );
    }
}
