//! Accusations: which host this one cannot reach, on what evidence, and when it takes that back.

use ringmesh_proto::{HostId, Now, peer::AccusationRecord};

use super::Node;
use crate::{membership::SwimState, overlay::LinkState};

impl Node {
    /// Accuses a host, once a life of it.
    pub(super) fn accuse(&mut self, now: Now, accused: HostId, evidence: &str) {
        let Some((member, _)) = self.membership.state(accused) else { return };
        let me = self.me();
        let standing = self.store.accusation(accused, me.id);
        if self.has_left(accused)
            || standing.is_some_and(|old| !old.withdrawn && old.accused_generation == member.generation)
        {
            return;
        }
        let links = self.silent_links(now, accused);
        let evidence = if links.is_empty() { evidence.to_owned() } else { format!("{evidence}; {links}") };
        self.write_accusation(now, accused, member.generation, evidence, false);
    }

    /// Accuses the hosts that SWIM suspects and that do not answer on any link of ours.
    pub(super) fn accuse_silent(&mut self, now: Now) {
        let suspects = self.membership.states().filter(|(_, state)| *state == SwimState::Suspect);
        let silent: Vec<HostId> = suspects
            .map(|(member, _)| member.id)
            .filter(|id| {
                let mut links = self.overlay.links().filter(|(_, link)| link.peer.id == *id).peekable();
                links.peek().is_some() && links.all(|(_, link)| link.monitor.state() == LinkState::Down)
            })
            .collect();
        for host in silent {
            self.accuse(now, host, "suspected, and silent on every link of this host");
        }
    }

    /// Takes back what this host said of one that it hears again.
    pub(super) fn withdraw(&mut self, now: Now, accused: HostId) {
        let standing = self.store.accusation(accused, self.me().id).filter(|old| !old.withdrawn);
        if let Some(generation) = standing.map(|old| old.accused_generation) {
            self.write_accusation(now, accused, generation, String::new(), true);
        }
    }

    fn write_accusation(&mut self, now: Now, accused: HostId, generation: u32, evidence: String, withdrawn: bool) {
        let me = self.me();
        self.accusations += 1;
        let record = AccusationRecord {
            accuser: me.id.raw(),
            accuser_generation: me.generation,
            seq: self.accusations,
            accused: accused.raw(),
            accused_generation: generation,
            evidence,
            unix_ms: now.unix.0,
            withdrawn,
        };
        self.store.put_accusation(record.clone());
        self.outbox.accusations.push(record);
        self.shown.hosts_stale();
    }

    /// "no answer on uplink a for 1500 ms" for each failing link to a host.
    fn silent_links(&self, now: Now, host: HostId) -> String {
        let failing = self.overlay.links().filter(|(_, link)| link.peer.id == host).filter_map(|(uplink, link)| {
            let since = link.monitor.failing_since()?;
            Some(format!("no answer on uplink {uplink} for {} ms", now.instant.since(since).as_millis()))
        });
        failing.collect::<Vec<_>>().join(", ")
    }
}
