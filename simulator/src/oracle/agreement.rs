//! When nothing happens any more: all agree, the rings are rings, and a join or a leave touched its neighbours only.

use std::collections::BTreeMap;

use ringmesh_node::{Node, membership::SwimState, overlay::UplinkState};
use ringmesh_proto::HostId;
use ringmesh_topology::{Ring, Role};

use super::{Oracles, agree_within};
use crate::{
    HostIndex,
    fault::Action,
    stage::Stage,
    world::{id, name},
};

/// Each host's successor on both rings.
pub(super) type Pointers = [BTreeMap<HostId, HostId>; 2];

impl Oracles {
    /// To be called now and then: takes note of the first agreement.
    pub(crate) fn look_for_agreement(&mut self, stage: &Stage) {
        let Some(quiet) = self.quiet_since.filter(|_| self.agreed.is_none()) else { return };
        let now = stage.world.now();
        match disagreement(stage) {
            None => {
                self.agreed = Some(now);
                self.seen.quiet += 1;
                self.seen.slowest_agreement = self.seen.slowest_agreement.max(now.since(quiet));
                self.judge_rings(stage);
                self.judge_pointers(stage);
            }
            Some(what) if now.since(quiet) >= agree_within(stage.world.hosts().len()) => {
                self.violated("agreement", now, || {
                    format!("{what}, {:.1} s after the last fault", now.since(quiet).as_secs_f64())
                });
                // Said once.
                self.agreed = Some(now);
            }
            Some(_) => {}
        }
    }

    /// A quiet time ends: what was agreed must still hold.
    pub(crate) fn note_quiet_end(&mut self, stage: &Stage) {
        let (Some(quiet), Some(_)) = (self.quiet_since, self.agreed) else { return };
        let now = stage.world.now();
        if let Some(what) = disagreement(stage) {
            self.violated("agreement", now, || format!("{what}, although all had agreed and nothing happened"));
        }
        if now.since(quiet) >= agree_within(stage.world.hosts().len()) {
            self.judge_events(stage);
        }
    }

    /// Both ends of each link of a ring have it, over the same uplink. A chord is its owner's alone.
    fn judge_rings(&mut self, stage: &Stage) {
        let now = stage.world.now();
        self.seen.rings += 1;
        let all: Vec<HostIndex> = stage.world.hosts().collect();
        for (host, node) in running(stage, &all) {
            let mut of_rings = node.links().filter(|(_, link)| link.role != Role::Chord);
            let one_sided = of_rings.find(|(uplink, link)| {
                let peer = crate::world::index(link.peer.id).and_then(|peer| stage.world.node(peer));
                !peer.is_some_and(|peer| peer.links().any(|(over, back)| over == *uplink && back.peer.id == id(host)))
            });
            if let Some((uplink, link)) = one_sided {
                self.violated("rings", now, || {
                    format!("{} has a link over {uplink} to {}, which has none back", name(host), link.peer.id)
                });
            }
            for ring in Ring::BOTH {
                let order = node.rings().order(ring);
                let mut sorted = order.to_vec();
                sorted.sort_unstable();
                sorted.dedup();
                if sorted.len() != order.len() {
                    self.violated("rings", now, || format!("a host stands twice on ring {ring} of {}", name(host)));
                }
            }
        }
    }

    /// Against the agreement before: one host more or less is four pointers a ring.
    fn judge_pointers(&mut self, stage: &Stage) {
        for (zone, hosts) in stage.zones().iter().enumerate() {
            if let Some((_, node)) = running(stage, hosts).next() {
                self.judge_pointers_of(stage, zone, node);
            }
        }
    }

    /// `node`: any of the zone.
    fn judge_pointers_of(&mut self, stage: &Stage, zone: usize, node: &Node) {
        let pointers = Ring::BOTH.map(|ring| successors(node.rings().order(ring)));
        let Some(before) = self.rings.insert(zone, pointers.clone()) else { return };
        let differ =
            |one: &Pointers, other: &Pointers| one[0].keys().filter(|host| !other[0].contains_key(host)).count();
        let (came, went) = (differ(&pointers, &before), differ(&before, &pointers));
        if came + went != 1 || pointers[0].len().min(before[0].len()) < 3 {
            return;
        }
        self.seen.pointers += 1;
        for ring in Ring::BOTH {
            let (old, new) = (&before[ring.index()], &pointers[ring.index()]);
            let changed = changed_pointers(old, new);
            if changed != 4 {
                self.violated("pointers", stage.world.now(), || {
                    format!("one host came or went, and {changed} pointers of ring {ring} changed")
                });
            }
        }
    }
}

fn running<'a>(stage: &'a Stage, hosts: &'a [HostIndex]) -> impl Iterator<Item = (HostIndex, &'a Node)> {
    hosts.iter().filter_map(|host| Some((*host, stage.world.node(*host)?)))
}

/// The first thing on which the hosts do not agree with each other or with what is so.
fn disagreement(stage: &Stage) -> Option<String> {
    let zones = stage.zones().iter().filter(|hosts| running(stage, hosts).next().is_some()).count();
    stage.zones().iter().find_map(|hosts| disagreement_in(stage, hosts, zones))
}

/// The same of the hosts of one zone, of so many that have hosts.
fn disagreement_in(stage: &Stage, hosts: &[HostIndex], zones: usize) -> Option<String> {
    let world = &stage.world;
    let first = running(stage, hosts).next()?.1;
    let sick_cable = stage.active().any(|action| {
        matches!(action, Action::Cut(..) | Action::Pair(..) | Action::Part(_) | Action::Switch(..) | Action::Loss(..))
    });
    let count = running(stage, hosts).count();
    for (at, node) in running(stage, hosts) {
        if node.zones_heard() < zones {
            return Some(format!("{} hears of {} zones of {zones}", name(at), node.zones_heard()));
        }
        if node.is_isolated() {
            return Some(format!("{} takes itself for cut off", name(at)));
        }
        if !sick_cable && node.uplinks().contains(&UplinkState::Down) {
            return Some(format!("{} takes an uplink of its own for down", name(at)));
        }
        for of in hosts.iter().copied().filter(|of| *of != at) {
            let state = node.state(id(of));
            let agreed = match (world.node(of), state) {
                // That it has not left either, the rings show.
                (Some(other), Some((member, SwimState::Alive))) => member.generation == other.me().generation,
                (Some(_), _) => false,
                (None, Some((_, SwimState::Alive | SwimState::Suspect))) => node.knows_left(id(of)),
                (None, Some((_, SwimState::Down)) | None) => true,
            };
            if !agreed {
                let runs = if world.runs(of) { "runs" } else { "does not run" };
                return Some(format!(
                    "{} says {:?} of {}, which {runs}",
                    name(at),
                    state.map(|(_, state)| state),
                    name(of)
                ));
            }
        }
        for ring in Ring::BOTH {
            if node.rings().order(ring).len() != count || node.rings().order(ring) != first.rings().order(ring) {
                let len = node.rings().order(ring).len();
                return Some(format!("ring {ring} of {} has {len} hosts of {count}, or another order", name(at)));
            }
        }
    }
    None
}

fn successors(order: &[HostId]) -> BTreeMap<HostId, HostId> {
    (0..order.len()).map(|place| (order[place], order[(place + 1) % order.len()])).collect()
}

/// Successors and predecessors that are not what they were.
fn changed_pointers(old: &BTreeMap<HostId, HostId>, new: &BTreeMap<HostId, HostId>) -> usize {
    let changed = |old: &BTreeMap<HostId, HostId>, new: &BTreeMap<HostId, HostId>| {
        let gone = old.keys().filter(|host| !new.contains_key(host)).count();
        gone + new.iter().filter(|(host, next)| old.get(host) != Some(next)).count()
    };
    let turned = |ring: &BTreeMap<HostId, HostId>| ring.iter().map(|(host, next)| (*next, *host)).collect();
    changed(old, new) + changed(&turned(old), &turned(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_counted_as_the_rings_define_them() {
        let ring = |hosts: &[u32]| successors(&hosts.iter().map(|host| HostId::new(*host)).collect::<Vec<_>>());
        assert_eq!(changed_pointers(&ring(&[1, 2, 3]), &ring(&[1, 2, 3])), 0);
        assert_eq!(changed_pointers(&ring(&[1, 2, 3]), &ring(&[1, 9, 2, 3])), 4);
        assert_eq!(changed_pointers(&ring(&[1, 9, 2, 3]), &ring(&[1, 2, 3])), 4);
        assert!(changed_pointers(&ring(&[1, 2, 3, 4, 5]), &ring(&[2, 1, 9, 3, 4, 5])) > 4);
    }
}
