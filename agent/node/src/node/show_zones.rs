//! The zones in the words of the API.

use std::collections::BTreeMap;

use ringmesh_proto::{
    HostId, Now, UnixMillis, Uplink, ZoneId, digest::Digest, member::Member, v1, zone_digest::ZoneDigest,
};

use super::{Node, Way, show::show_digest};
use crate::view::Peer;

impl Node {
    /// The zones in the words of the API, the own one by what this host knows itself.
    pub(super) fn show_zones(&self, now: Now) -> Vec<v1::Zone> {
        let own = self.zone.delegates.iter().filter_map(|id| Some((self.member_of(*id)?, self.name_of(*id))));
        let own = own.collect::<Vec<_>>();
        let own = v1::Zone {
            since: self.since.get(&self.me().id).map(|since| since.unix.into()),
            observed_at: Some(now.unix.into()),
            local: true,
            ..show_zone(&self.config.zone, v1::zone::State::Reachable, &self.zone_digest(), &own)
        };
        let others = self.zones.others().map(|(id, name, heard)| {
            let state = match (self.zone.lost.get(&id), heard) {
                (Some(_), _) => v1::zone::State::Unreachable,
                (None, Some(_)) => v1::zone::State::Reachable,
                (None, None) => v1::zone::State::Unknown,
            };
            let since = self.zone.lost.get(&id).or_else(|| self.zone.found.get(&id));
            let since = since.map(|since| since.unix.into());
            let Some(heard) = heard else {
                return v1::Zone { since, ..show_zone(name, state, &ZoneDigest::default(), &[]) };
            };
            let age_ms = u32::try_from(heard.age(now).as_millis()).unwrap_or(u32::MAX);
            let observed_at = Some(UnixMillis(now.unix.0.saturating_sub(age_ms.into())).into());
            v1::Zone { since, observed_at, age_ms, ..show_zone(name, state, &heard.digest, &heard.delegates) }
        });
        let mut zones: Vec<v1::Zone> = std::iter::once(own).chain(others).collect();
        zones.sort_by_cached_key(|zone| crate::natural(&zone.name));
        zones
    }

    /// The hosts of other zones that answer for them, by the zone's name.
    pub(super) fn show_gateways(&self) -> BTreeMap<String, Vec<Peer>> {
        let others = self.zones.others().map(|(id, name, heard)| {
            let (_, candidates) = self.zones.candidates(id);
            let names: BTreeMap<HostId, &String> =
                heard.iter().flat_map(|heard| &heard.delegates).map(|(member, name)| (member.id, name)).collect();
            let fingerprint = heard.map_or(0, |heard| heard.digest.fingerprint);
            let peer = |member: &Member| Peer {
                member: *member,
                name: names.get(&member.id).map_or_else(|| member.id.to_string(), |name| (*name).clone()),
                askable: true,
                way: Way::over(Uplink::A),
                fingerprint,
            };
            (name.to_owned(), candidates.iter().map(peer).collect())
        });
        others.collect()
    }
}

fn show_zone(name: &str, state: v1::zone::State, digest: &ZoneDigest, delegates: &[(Member, String)]) -> v1::Zone {
    let services = Digest {
        containers: digest.containers,
        running: digest.running,
        services: digest.services,
        passing: digest.passing,
        warning: digest.warning,
        critical: digest.critical,
        frozen: digest.frozen,
        score: digest.score,
        worst: digest.worst,
        fingerprint: digest.fingerprint,
        cells: 0,
    };
    let show = |(member, name): &(Member, String)| {
        let address = |uplink: Uplink| member.address(uplink).map(|address| address.to_string()).unwrap_or_default();
        v1::ZoneDelegate {
            name: name.clone(),
            id: member.id.to_string(),
            address: address(Uplink::A),
            address_b: address(Uplink::B),
        }
    };
    v1::Zone {
        name: name.to_owned(),
        id: ZoneId::of(name).to_string(),
        state: state as i32,
        hosts: digest.hosts,
        alive: digest.alive,
        suspect: digest.suspect,
        isolated: digest.isolated,
        down: digest.down,
        digest: Some(show_digest(&services)),
        delegates: delegates.iter().map(show).collect(),
        ..v1::Zone::default()
    }
}
