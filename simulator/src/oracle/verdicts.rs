//! Nobody who is well is called down, whoever is dead is, and generations only grow.

use ringmesh_node::membership::SwimState;
use ringmesh_proto::{Generation, HostId, Instant, member::Member};

use super::{Oracles, down_within};
use crate::{
    HostIndex,
    stage::Stage,
    world::{self, id, name},
};

impl Oracles {
    /// A host calls another one down.
    pub(super) fn judge_down(&mut self, stage: &Stage, at: HostIndex, member: Member) {
        self.seen.downs += 1;
        let now = stage.world.now();
        let Some(of) = world::index(member.id) else { return };
        let Some(node) = stage.world.node(of) else { return };
        // An earlier life of it is over indeed.
        let present = member.generation >= node.me().generation;
        if present && self.ledger.is_well(of, now) && self.ledger.is_well(at, now) {
            self.violated("false-down", now, || {
                let names = |ids: &mut dyn Iterator<Item = HostId>| {
                    let hosts: Vec<HostIndex> = ids.filter_map(world::index).collect();
                    hosts.into_iter().map(name).collect::<Vec<_>>().join(" ")
                };
                let accusers = stage.world.node(at).map(|at| at.accusers(member.id)).unwrap_or_default();
                let accusers = names(&mut accusers.into_iter());
                let neighbours = names(&mut node.rings().neighbours(member.id).into_iter().map(|link| link.peer));
                let (at, of) = (name(at), name(of));
                format!("{at} calls {of} down, which is well; accused by {accusers}; its neighbours: {neighbours}")
            });
        }
    }

    /// A host learned that it was thought down, and began another life.
    pub(super) fn judge_renewal(&mut self, stage: &Stage, at: HostIndex, generation: Generation) {
        let now = stage.world.now();
        if self.ledger.is_well(at, now) && !self.ledger.was_parted(now) {
            self.violated("false-down", now, || {
                format!("{} is well, and was made to begin another life, generation {generation}", name(at))
            });
        }
    }

    /// A host has a word on a life of another.
    pub(super) fn judge_generation(&mut self, stage: &Stage, at: HostIndex, member: Member) {
        let now = stage.world.now();
        let Some(of) = world::index(member.id) else { return };
        let life = stage.world.life(at);
        let known = self.generations.entry((at, of)).or_insert((life, member.generation));
        let before = *known;
        *known = (life, member.generation);
        if before.0 == life && member.generation < before.1 {
            self.violated("generation", now, || {
                format!("{} went from generation {} of {} to {}", name(at), before.1, name(of), member.generation)
            });
        }
    }

    /// A host was dead for as long as it may take all to know.
    pub(crate) fn judge_death(&mut self, stage: &Stage, dead: HostIndex, since: Instant) {
        if self.ledger.dead_since(dead) != Some(since) {
            return;
        }
        self.seen.deaths += 1;
        let unaware: Vec<HostIndex> = self.unaware(stage, dead, since).collect();
        let unaware: Vec<HostIndex> = unaware
            .into_iter()
            .filter(|at| !stage.world.node(*at).is_some_and(|node| node.knows_left(id(dead))))
            .collect();
        if let Some(first) = unaware.first() {
            let state = stage.world.node(*first).and_then(|node| node.state(id(dead))).map(|(_, state)| state);
            let within = down_within(stage.world.hosts().len());
            self.violated("detection", stage.world.now(), || {
                format!(
                    "{} is dead for {:.1} s, and {} of the hosts that are well do not say so: {} ({} has {state:?})",
                    name(dead),
                    within.as_secs_f64(),
                    unaware.len(),
                    Self::who(&unaware),
                    name(*first)
                )
            });
        }
    }

    /// Who has been well all that time and does not call it down.
    fn unaware<'a>(
        &'a self,
        stage: &'a Stage,
        dead: HostIndex,
        since: Instant,
    ) -> impl Iterator<Item = HostIndex> + 'a {
        stage.zone_with(dead).iter().copied().filter(move |at| {
            let well = self.ledger.well_since(*at).is_some_and(|well| well <= since);
            let state = stage.world.node(*at).and_then(|node| node.state(id(dead)));
            well && state.is_some_and(|(_, state)| state != SwimState::Down)
        })
    }

    /// Notes how long the dead have been known to all that are well; to be called now and then.
    pub(crate) fn measure_deaths(&mut self, stage: &Stage, pending: &mut Vec<(HostIndex, Instant)>) {
        let now = stage.world.now();
        pending.retain(|(dead, since)| {
            if self.ledger.dead_since(*dead) != Some(*since) {
                return false;
            }
            let known = self.unaware(stage, *dead, *since).next().is_none();
            if known {
                self.seen.slowest_death = self.seen.slowest_death.max(now.since(*since));
            }
            !known
        });
    }

    /// The hosts that have just died.
    pub(crate) fn new_deaths(&self, stage: &Stage) -> Vec<(HostIndex, Instant)> {
        let now = stage.world.now();
        let died = |host: &HostIndex| self.ledger.dead_since(*host) == Some(now);
        stage.world.hosts().filter(died).map(|host| (host, now)).collect()
    }
}
