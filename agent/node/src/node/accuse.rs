//! Accusations are votes: which hosts this one does not reach, on what evidence, and when enough of them say so.
//!
//! A host is down when a majority of its ring neighbours that are well, and of whoever else accuses it, says so, and two hosts
//! at least, as long as there are two. Every host counts for itself, from the same accusations.

use std::{collections::BTreeSet, time::Duration};

use ringmesh_proto::{HostId, Now, member::Member, peer::AccusationRecord};
use ringmesh_topology::Ring;

use super::Node;
use crate::membership::SwimState;

/// A host with fewer neighbours that could accuse it is watched by some others, too.
const WANTED_OBSERVERS: usize = 3;

/// That many others.
const DEPUTIES: usize = 3;

/// When nothing was taken back for so long, what still stands is said again, so that it comes after all that was taken back.
const QUIET: Duration = Duration::from_secs(60);

impl Node {
    /// Accuses a host, once a life of it.
    pub(super) fn accuse(&mut self, now: Now, accused: HostId, evidence: &str) {
        let Some((member, _)) = self.membership.state(accused) else { return };
        let standing = self.store.accusation(accused, self.me().id);
        if self.has_left(accused)
            || standing.is_some_and(|old| !old.withdrawn && old.accused_generation == member.generation)
        {
            return;
        }
        self.write_accusation(now, accused, member.generation, evidence.to_owned(), false);
        self.judge_accused(now);
    }

    /// Takes back what this host said of one that it hears again.
    pub(super) fn withdraw(&mut self, now: Now, accused: HostId) {
        let standing = self.store.accusation(accused, self.me().id).filter(|old| !old.withdrawn);
        if let Some(generation) = standing.map(|old| old.accused_generation) {
            self.withdrew = Some(now.instant);
            self.write_accusation(now, accused, generation, String::new(), true);
        }
    }

    /// The first of this host's accusations that stands, for its record: by it those before are void, and nobody need
    /// remember that they were taken back.
    pub(super) fn accuses_from(&mut self, now: Now) -> u32 {
        let me = self.me().id;
        if self.withdrew.is_some_and(|at| now.instant.since(at) >= QUIET) {
            self.withdrew = None;
            self.renew_accusations(now);
        }
        self.store.standing(me).map(|record| record.seq).min().unwrap_or(self.accusations + 1)
    }

    /// Says again what this host accuses others of.
    pub(super) fn renew_accusations(&mut self, now: Now) {
        let standing: Vec<_> = self.store.standing(self.me().id).cloned().collect();
        for AccusationRecord { accused, accused_generation, evidence, .. } in standing {
            self.write_accusation(now, HostId::new(accused), accused_generation, evidence, false);
        }
    }

    fn write_accusation(&mut self, now: Now, accused: HostId, generation: u32, evidence: String, withdrawn: bool) {
        let me = self.me();
        self.accusations += 1;
        let mut record = AccusationRecord {
            accuser: me.id.raw(),
            accuser_generation: me.generation,
            seq: self.accusations,
            accused: accused.raw(),
            accused_generation: generation,
            evidence,
            unix_ms: now.unix.0,
            withdrawn,
            ..AccusationRecord::default()
        };
        self.seal(&mut record);
        self.store.put_accusation(record.clone());
        self.outbox.add_accusation(record);
        self.shown.hosts_stale();
    }

    /// Counts the votes on all accused. To be called when there is a new one, or a voter is lost.
    pub(super) fn judge_accused(&mut self, now: Now) {
        for accused in self.store.accused() {
            let Some((member, state)) = self.membership.state(accused) else { continue };
            if state != SwimState::Down && self.is_voted_down(member) {
                self.membership.confirm_down(now.instant, accused);
            }
        }
    }

    /// Whether enough hosts that are well themselves accuse this life of a host.
    pub(super) fn is_voted_down(&self, accused: Member) -> bool {
        let accusations = self.store.accusations(accused.id, accused.generation);
        if accusations.is_empty() {
            return false;
        }
        let accusers = accusations.iter().map(|record| HostId::new(record.accuser));
        let accusers: BTreeSet<HostId> = accusers.filter(|accuser| self.can_vote(*accuser)).collect();
        let votes = accusers.len();
        let electorate = self.well_neighbours(accused.id).union(&accusers).count();
        let others = std::iter::once(self.me().id).chain(self.membership.states().map(|(member, _)| member.id));
        let others = others.filter(|id| *id != accused.id && self.can_vote(*id)).take(2).count();
        votes >= (electorate / 2 + 1).max(others).max(1)
    }

    /// Its neighbours on both rings whose word counts.
    fn well_neighbours(&self, host: HostId) -> BTreeSet<HostId> {
        self.overlay.observers(host).into_iter().filter(|peer| self.can_vote(*peer)).collect()
    }

    /// Whether a host is alive, hears the others, and is not missed itself: by us, or by more than one while SWIM suspects it.
    /// Accusers alone do not silence anybody: the smaller part of a cluster that was cut in two accuses the larger one.
    fn can_vote(&self, host: HostId) -> bool {
        let me = self.me();
        if host == me.id {
            return self.isolated.is_none();
        }
        let Some((member, state)) = self.membership.state(host) else { return false };
        let isolated = self.store.host(host).is_some_and(|heard| heard.record.isolated);
        let accusations = self.store.accusations(host, member.generation);
        let suspect = state == SwimState::Suspect;
        let missed =
            (suspect && accusations.len() > 1) || accusations.iter().any(|record| record.accuser == me.id.raw());
        state != SwimState::Down && !self.has_left(host) && !isolated && !missed
    }

    pub(super) fn is_accused_by_us_alone(&self, host: HostId) -> bool {
        let Some((member, _)) = self.membership.state(host) else { return false };
        let accusations = self.store.accusations(host, member.generation);
        matches!(accusations.as_slice(), [only] if only.accuser == self.me().id.raw())
    }

    /// Others accuse a host that has too few neighbours left to judge it: those that follow it on ring A look as well.
    pub(super) fn deputise(&mut self, now: Now, accused: HostId) {
        let observers = self.overlay.observers(accused);
        let order = self.overlay.rings().order(Ring::A);
        let Some(place) = order.iter().position(|id| *id == accused) else { return };
        let others = order[place..].iter().chain(&order[..place]).copied();
        let mut deputies = others.filter(|id| *id != accused && !observers.contains(id));
        let me = self.me().id;
        if deputies.by_ref().take(DEPUTIES).any(|id| id == me)
            && self.well_neighbours(accused).len() < WANTED_OBSERVERS
            && self.overlay.peers().iter().all(|peer| *peer != accused)
        {
            self.watch(now, accused, now.instant);
        }
    }
}
