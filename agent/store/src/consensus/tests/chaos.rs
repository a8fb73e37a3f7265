//! Clusters in which everything breaks, and that must heal when it no longer does.

use std::time::Duration;

use bytes::Bytes;
use rand::{RngExt, seq::IndexedRandom};

use super::{cluster::Cluster, node::Node, number};
use crate::consensus::{Conf, ConfChange};

const TURN: Duration = Duration::from_millis(50);

#[test]
fn nothing_agreed_is_lost_and_all_agree_again() {
    let (mut writes, mut answers, mut limits) = (0, 0, [0; 3]);
    let first = number("RINGMESH_FIRST_SEED", 0);
    for seed in first..first + number("RINGMESH_SEEDS", 200) {
        let cluster = run(seed, false);
        writes += cluster.checks.writes;
        answers += cluster.checks.answers;
        let met = [cluster.checks.full, cluster.checks.busy, cluster.checks.disk_failures];
        limits.iter_mut().zip(met).for_each(|(limit, met)| *limit += met);
    }
    assert!(writes > 2000 && answers > 2000, "{writes} writes and {answers} reads prove little");
    assert!(limits.iter().all(|met| *met > 20), "full, busy and failing disks were met {limits:?} times");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 11] {
        assert_eq!(run(seed, false).trace, run(seed, false).trace, "seed {seed}");
    }
}

#[test]
fn one_wiped_disk_costs_nothing_that_was_agreed() {
    let first = number("RINGMESH_FIRST_SEED", 0);
    let (seeds, mut wiped) = (number("RINGMESH_SEEDS", 100), 0);
    for seed in first..first + seeds {
        wiped += run(seed, true).wiped.len() as u64;
    }
    assert!(wiped > seeds / 4, "{wiped} wiped disks prove little");
}

/// With `wipes`, one of at least three founders once loses its disk; their places stay theirs.
fn run(seed: u64, wipes: bool) -> Cluster {
    let mut cluster = Cluster::new(seed, if wipes { 3 + seed % 5 } else { 1 + seed % 7 });
    cluster.is_lazy = true;
    let mut chaos = Chaos { next_id: 100, command: 0, wipes, is_founded: false };
    for _ in 0..120 {
        chaos.load(&mut cluster);
        if cluster.rng.random_ratio(1, 3) {
            chaos.harm(&mut cluster);
        }
        cluster.run_for(TURN);
    }
    heal(&mut cluster);
    chaos.settle(&mut cluster);
    cluster
}

struct Chaos {
    next_id: u64,
    command: u64,
    wipes: bool,
    /// All have begun and stored something: before, nobody can tell a wiped disk from a new one.
    is_founded: bool,
}

impl Chaos {
    /// What clients do.
    fn load(&mut self, cluster: &mut Cluster) {
        let ids: Vec<u64> = cluster.nodes.keys().copied().collect();
        for _ in 0..cluster.rng.random_range(0..6) {
            let id = *ids.choose(&mut cluster.rng).unwrap();
            if cluster.rng.random() {
                // A deposed leader that does not know it is the one who could answer wrongly.
                let claimants = cluster.claimants();
                let claimant = claimants.choose(&mut cluster.rng).copied().filter(|_| cluster.rng.random());
                cluster.read(claimant.unwrap_or(id));
            } else {
                let leader = cluster.leader().filter(|_| cluster.rng.random_ratio(3, 4)).unwrap_or(id);
                let command = self.command(cluster);
                cluster.propose(leader, command);
            }
        }
        let id = *ids.choose(&mut cluster.rng).unwrap();
        if cluster.rng.random_ratio(1, 4) {
            cluster.nodes.get_mut(&id).unwrap().checkpoint();
        }
    }

    fn command(&mut self, cluster: &mut Cluster) -> Bytes {
        self.command += 1;
        let mut command = self.command.to_le_bytes().to_vec();
        command.resize(8 + cluster.rng.random_range(0..300), 1);
        command.into()
    }

    fn harm(&mut self, cluster: &mut Cluster) {
        let has_begun = |node: &Node| {
            let consensus = node.running.as_ref().map(|node| &node.consensus);
            consensus.is_some_and(|consensus| {
                !consensus.is_fresh && consensus.is_settled() && consensus.status().persisted > 1
            })
        };
        self.is_founded |= cluster.nodes.values().all(has_begun);
        let ids: Vec<u64> = cluster.nodes.keys().copied().collect();
        let id = *ids.choose(&mut cluster.rng).unwrap();
        let other = *ids.choose(&mut cluster.rng).unwrap();
        let time = Duration::from_millis(cluster.rng.random_range(1..2500));
        match cluster.rng.random_range(0..19) {
            // After its disk it does not lose its memory, too, before it has what it had.
            0..=3 if !cluster.wiped.is_empty() => {
                if !cluster.wiped.contains(&id) {
                    cluster.stop(id, true);
                    cluster.start_after(id, time);
                }
            }
            0..=2 => {
                let loses_power = cluster.rng.random();
                cluster.stop(id, loses_power);
                cluster.start_after(id, time);
            }
            3 => {
                for id in ids {
                    cluster.stop(id, true);
                    cluster.start_after(id, time);
                }
            }
            4 => {
                cluster.network.cut.insert((id, other));
            }
            5 => {
                let side: Vec<u64> = ids.iter().copied().filter(|_| cluster.rng.random()).collect();
                for from in &ids {
                    let across = ids.iter().filter(|to| side.contains(from) != side.contains(to));
                    cluster.network.cut.extend(across.flat_map(|to| [(*from, *to), (*to, *from)]));
                }
            }
            6 | 7 => cluster.network.cut.clear(),
            8 => cluster.network.loss = cluster.rng.random_range(0..30),
            9 => cluster.network.duplication = cluster.rng.random_range(0..30),
            10..=13 if self.wipes && cluster.wiped.is_empty() => self.wipe(cluster, id),
            13 if self.wipes => {}
            10 => {
                // Now and then it stalls: longer than any election. Elections then take as long, and in the middle of one no
                // disk is to be wiped.
                let stalls = cluster.rng.random_ratio(1, 4) && !self.wipes;
                let most = if stalls { 5000 } else { 800 };
                cluster.disk_delay = Duration::from_millis(cluster.rng.random_range(1..most));
            }
            11 => cluster.pause(id, time),
            12 => cluster.nodes.get_mut(&id).unwrap().skew += time.as_nanos() as u64 * 2,
            13 => self.change(cluster),
            14 => {
                let leader = cluster.leader().unwrap_or(id);
                cluster.with(leader, |consensus, _| consensus.transfer_leader(other));
            }
            15 => {
                cluster.with(id, |consensus, _| consensus.campaign());
            }
            16 if !cluster.wiped.contains(&id) => cluster.break_disk(id),
            _ => self.flood(cluster),
        }
    }

    /// More than the leader, or who follows with a slow disk, takes at once.
    fn flood(&mut self, cluster: &mut Cluster) {
        let Some(leader) = cluster.leader() else { return };
        for _ in 0..cluster.rng.random_range(20..300) {
            let command = self.command(cluster);
            cluster.propose(leader, command);
        }
    }

    /// What was forgotten with a vote or a term cannot be known again: in the middle of an election a wiped disk may cost
    /// something, and its member must not come back under its id.
    fn wipe(&self, cluster: &mut Cluster, id: u64) {
        if self.is_founded && cluster.wiped.is_empty() && cluster.claimants().len() == 1 {
            cluster.wipe(id);
        }
    }

    /// Changes the members, if the leader lets it.
    fn change(&mut self, cluster: &mut Cluster) {
        let Some(leader) = cluster.leader() else { return };
        let Some(conf) = cluster.with(leader, |consensus, _| consensus.status().conf) else { return };
        let mut any = |ids: &[u64]| ids.choose(&mut cluster.rng).copied();
        let (voter, learner) = (any(&conf.voters).unwrap(), any(&conf.learners));
        let change = match (cluster.rng.random_range(0..6), learner) {
            (0, _) | (_, None) if self.next_id < 103 => {
                self.next_id += 1;
                cluster.join(self.next_id);
                ConfChange::AddLearner(self.next_id)
            }
            (1, Some(learner)) => ConfChange::Promote(learner),
            (2, _) if conf.voters.len() > 2 => ConfChange::Remove(voter),
            (3, _) if conf.voters.len() > 2 => ConfChange::Demote(voter),
            (_, Some(new)) => ConfChange::Swap { old: voter, new },
            (_, None) => return,
        };
        let _ = cluster.with(leader, |consensus, clock| consensus.propose_conf(clock, change));
    }

    /// After all is healed, a write is agreed on, and all members have it.
    fn settle(&mut self, cluster: &mut Cluster) {
        let seed = cluster.seed;
        let mut target = None;
        for _ in 0..600 {
            cluster.nodes.values_mut().for_each(Node::checkpoint_if_due);
            if let Some(leader) = cluster.leader().filter(|_| target.is_none()) {
                let command = self.command(cluster);
                let before = cluster.checks.writes;
                cluster.propose(leader, command);
                cluster.run_for(TURN);
                target = (cluster.checks.writes > before).then(|| cluster.checks.last_committed());
            }
            cluster.run_for(TURN);
            if target.is_some_and(|index| agree(cluster, index)) {
                cluster.run_for(Duration::from_secs(2));
                assert_eq!(cluster.checks.open_reads(), 0, "seed {seed}: a read is neither answered nor failed");
                return;
            }
        }
        for node in cluster.nodes.values() {
            println!("{:?}", node.running.as_ref().map(|running| running.consensus.status()));
        }
        panic!("seed {seed}: no agreement a long time after all is healed, {target:?}");
    }
}

/// Whether all members have applied as much, in no configuration but the last.
fn agree(cluster: &Cluster, index: u64) -> bool {
    let Some(leader) = cluster.leader() else { return false };
    let keys = |id: &u64| cluster.nodes.get(id).and_then(|node| Some(&node.running.as_ref()?.keys));
    let Some(conf) = keys(&leader).and_then(|keys| Conf::decode(&keys.applied.conf)) else { return false };
    let mut members = conf.voters.iter().chain(&conf.learners).filter(|id| !cluster.wiped.contains(*id));
    !conf.is_joint()
        && members.all(|id| {
            keys(id).is_some_and(|keys| keys.applied.position.index >= index && keys == keys_of(cluster, leader))
        })
}

fn keys_of(cluster: &Cluster, id: u64) -> &super::node::Keys {
    &cluster.nodes[&id].running.as_ref().unwrap().keys
}

fn heal(cluster: &mut Cluster) {
    cluster.network.cut.clear();
    (cluster.network.loss, cluster.network.duplication) = (0, 0);
    cluster.disk_delay = Duration::from_millis(3);
    let ids: Vec<u64> = cluster.nodes.keys().copied().collect();
    for id in ids {
        cluster.start(id);
    }
}
