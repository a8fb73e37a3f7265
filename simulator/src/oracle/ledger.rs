//! Who is well: who must not be called down, and whose word counts.

use std::time::Duration;

use ringmesh_proto::Instant;

use crate::{
    HostIndex,
    fault::Action,
    stage::Stage,
    world::{id, index},
};

/// A pause shorter than this takes nobody down; longer ones may. Below the 6 s that silence of a stuck agent needs, for
/// what waits when it goes on.
const LONGEST_PAUSE: Duration = Duration::from_millis(5_000);

/// A host that handles everything so much later may miss SWIM's time limits.
const SLOWEST: Duration = Duration::from_millis(100);

/// A way that loses more is no way.
const MOST_LOSS: f64 = 0.25;

/// After a host was not well it may still be called down for so long, or call others so: votes and suspicions of before.
const GRACE: Duration = Duration::from_secs(10);

/// Of each host whether it is well, and since when.
pub(super) struct Ledger {
    well_since: Vec<Option<Instant>>,
    /// It does not run since then, for good or until it is started again.
    dead_since: Vec<Option<Instant>>,
    lives: Vec<u32>,
    /// From when to when it was stopped the last time, pauses that follow each other closely being one.
    stalls: Vec<(Instant, Instant)>,
    /// The last moment at which the hosts were in parts that may each have thought the others dead, and whether they are.
    parted: (Instant, bool),
}

/// A pause that begins so soon after another one goes on with it.
const BREATH: Duration = Duration::from_secs(3);

impl Ledger {
    pub(super) fn new(hosts: usize) -> Self {
        let stalls = vec![(Instant::ZERO, Instant::ZERO); hosts];
        let none = vec![None; hosts];
        Self {
            well_since: none.clone(),
            dead_since: none,
            lives: vec![0; hosts],
            stalls,
            parted: (Instant::ZERO, false),
        }
    }

    /// To be called whenever a fault begins or ends.
    pub(super) fn update(&mut self, stage: &Stage) {
        let now = stage.world.now();
        let parts = stage.active().any(|action| matches!(action, Action::Part(_) | Action::Switch(..)));
        if parts || self.parted.1 {
            self.parted = (now, parts);
        }
        for host in stage.world.hosts() {
            let well = !self.stalls_too_long(stage, host) && is_well(stage, host);
            let same_life = std::mem::replace(&mut self.lives[host], stage.world.life(host)) == self.lives[host];
            let since = &mut self.well_since[host];
            *since = well.then(|| since.filter(|_| same_life).unwrap_or(now));
            let dead = stage.has_started(host) && !stage.world.runs(host) && !stage.world.has_left(host);
            let since = &mut self.dead_since[host];
            *since = dead.then(|| since.unwrap_or(now));
        }
    }

    fn stalls_too_long(&mut self, stage: &Stage, host: HostIndex) -> bool {
        let (now, until) = (stage.world.now(), stage.world.paused_until(host));
        if until <= now {
            return false;
        }
        let stall = &mut self.stalls[host];
        if now.since(stall.1) > BREATH || stall.1 == Instant::ZERO {
            *stall = (now, until);
        }
        stall.1 = stall.1.max(until);
        stall.1.since(stall.0) > LONGEST_PAUSE
    }

    /// Whether a host has been well for long enough not to be called down for what was before.
    pub(super) fn is_well(&self, host: HostIndex, now: Instant) -> bool {
        self.well_since[host].is_some_and(|since| now.since(since) >= GRACE)
    }

    /// Whether several hosts were cut off from the others, together, at this time or not long before: then each side may have
    /// thought the other dead, and whoever was thought dead begins another life.
    pub(super) fn was_parted(&self, now: Instant) -> bool {
        self.parted.1 || (self.parted.0 > Instant::ZERO && now.since(self.parted.0) < GRACE)
    }

    /// Since when a host has been well.
    pub(super) fn well_since(&self, host: HostIndex) -> Option<Instant> {
        self.well_since[host]
    }

    /// Since when a host is dead.
    pub(super) fn dead_since(&self, host: HostIndex) -> Option<Instant> {
        self.dead_since[host]
    }
}

fn is_well(stage: &Stage, host: HostIndex) -> bool {
    if !stage.world.runs(host) {
        return false;
    }
    let ails = stage.active().any(|action| match action {
        Action::Slow(hosts, by) => by.0 > SLOWEST && hosts.contains(&host),
        Action::Leave(hosts) => hosts.contains(&host),
        Action::Pause(..)
        | Action::Down(..)
        | Action::Clock(..)
        | Action::Cut(..)
        | Action::Pair(..)
        | Action::Part(_)
        | Action::Switch(..)
        | Action::Loss(..)
        | Action::Disk(_)
        | Action::Sick(_)
        | Action::Join(_)
        | Action::Ail(..)
        | Action::Freeze(_)
        | Action::Disarm(_) => false,
    });
    !ails && hears_most(stage, host)
}

/// Whether a host hears a majority of the running ones, itself counted, and a majority of its neighbours on the rings, over
/// at least one uplink each. The neighbours judge it: whom most of them do not hear is down by design, though others hear it.
fn hears_most(stage: &Stage, host: HostIndex) -> bool {
    let cuts = |action: &Action| {
        matches!(action, Action::Cut(..) | Action::Pair(..) | Action::Part(_) | Action::Switch(..) | Action::Loss(..))
    };
    if !stage.active().any(cuts) {
        return true;
    }
    let world = &stage.world;
    let hears = |other: &&HostIndex| world.hear_each_other(host, **other, MOST_LOSS);
    let zone = stage.zone_with(host).iter().copied();
    let others: Vec<HostIndex> = zone.filter(|other| *other != host && world.runs(*other)).collect();
    let mut judges: Vec<HostIndex> = world.node(host).map_or(Vec::new(), |node| {
        let neighbours = node.rings().neighbours(id(host)).into_iter();
        neighbours.filter_map(|link| index(link.peer)).collect()
    });
    judges.sort_unstable();
    judges.dedup();
    (others.iter().filter(hears).count() + 1) * 2 > others.len() + 1
        && (judges.is_empty() || judges.iter().filter(hears).count() * 2 > judges.len())
}
