//! Who holds the configuration, with the consensus that decides it: replicas in virtual time, on hosts that fall, come back and
//! are cut off. Gossip is what each host can reach.

mod churn;
mod cluster;
mod node;
mod oracle;

use std::time::Duration;

use ringmesh_store::consensus::Conf;

use self::cluster::Cluster;

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

fn sizes(conf: &Conf) -> (usize, usize) {
    (conf.voters.len(), conf.learners.len())
}

/// Grown to what its hosts allow.
fn settled(seed: u64, racks: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(seed, racks);
    cluster.run_for(MINUTE);
    let expected = if racks.len() >= 7 { 5 } else { 3 };
    assert_eq!(sizes(&cluster.conf()).0, expected, "seed {seed}");
    cluster
}

#[test]
fn a_cluster_grows_with_its_hosts() {
    for seed in 0..10 {
        let mut cluster = Cluster::new(seed, &["r"]);
        for (hosts, expected) in [(1, (1, 0)), (2, (1, 1)), (3, (3, 0)), (5, (3, 2)), (7, (5, 2))] {
            while cluster.hosts.len() < hosts {
                cluster.add_host("r");
            }
            cluster.run_for(MINUTE);
            assert_eq!(sizes(&cluster.conf()), expected, "seed {seed}, {hosts} hosts");
        }
        assert!(cluster.write_is_agreed_on());
    }
}

#[test]
fn a_voter_that_dies_is_replaced_in_one_change_within_a_minute() {
    for seed in 0..10 {
        let mut cluster = settled(seed, &["r"; 5]);
        let dead = *cluster.conf().voters.iter().find(|id| Some(**id) != cluster.leader()).unwrap();
        cluster.fall(cluster.host_of(dead));
        let changes = cluster.oracle.confs;
        cluster.run_for(MINUTE);
        let conf = cluster.conf();
        assert!(!conf.contains(dead) && conf.voters.len() == 3, "seed {seed}: {conf:?}");
        // Into the joint configuration and out of it.
        assert_eq!(cluster.oracle.confs - changes, 2, "seed {seed}");
        assert!(cluster.write_is_agreed_on());
        // Its host comes back, and holds a replica under another id.
        cluster.rise_all();
        cluster.run_for(MINUTE);
        assert_eq!(sizes(&cluster.conf()), (3, 2), "seed {seed}");
    }
}

#[test]
fn a_leader_that_dies_is_replaced_too() {
    for seed in 0..10 {
        let mut cluster = settled(seed, &["r"; 5]);
        let dead = cluster.leader().unwrap();
        cluster.fall(cluster.host_of(dead));
        cluster.run_for(MINUTE);
        let conf = cluster.conf();
        assert!(!conf.contains(dead) && conf.voters.len() == 3, "seed {seed}: {conf:?}");
    }
}

#[test]
fn a_flap_changes_nothing() {
    for seed in 0..10 {
        let mut cluster = settled(seed, &["r"; 5]);
        let before = (cluster.conf(), cluster.oracle.confs);
        for host in 1..=5 {
            cluster.fall(host);
            cluster.run_for(5 * SECOND);
            cluster.rise_all();
            cluster.run_for(5 * SECOND);
        }
        assert_eq!((cluster.conf(), cluster.oracle.confs), before, "seed {seed}");
    }
}

#[test]
fn while_most_voters_are_gone_nothing_is_changed_and_one_that_returns_heals_it() {
    for seed in 0..10 {
        let mut cluster = settled(seed, &["r"; 5]);
        let (before, changes) = (cluster.conf(), cluster.oracle.confs);
        let dead = [before.voters[1], before.voters[2]].map(|id| cluster.host_of(id));
        dead.into_iter().for_each(|host| cluster.fall(host));
        cluster.run_for(3 * MINUTE);
        assert_eq!(cluster.oracle.confs, changes, "seed {seed}");
        cluster.rise(dead[0]);
        cluster.run_for(2 * MINUTE);
        let conf = cluster.conf();
        assert!(conf.voters.len() == 3 && !conf.contains(before.voters[2]), "seed {seed}: {conf:?}");
        assert!(cluster.write_is_agreed_on());
    }
}

#[test]
fn the_loss_of_a_rack_is_healed_from_the_others() {
    for seed in 0..10 {
        let mut cluster = settled(seed, &["a", "a", "b", "b", "c", "c"]);
        let racks = cluster.racks(&cluster.conf().voters);
        assert_eq!(racks.len(), 3, "seed {seed}: {racks:?}");
        let rack = ["a", "b", "c"][seed as usize % 3];
        let dead: Vec<u32> =
            cluster.hosts.iter().filter(|(_, host)| host.domain.rack == rack).map(|(id, _)| *id).collect();
        dead.iter().for_each(|host| cluster.fall(*host));
        cluster.run_for(2 * MINUTE);
        let voters = cluster.conf().voters;
        assert_eq!(voters.len(), 3, "seed {seed}");
        assert!(voters.iter().all(|id| !dead.contains(&cluster.host_of(*id))), "seed {seed}");
    }
}

#[test]
fn a_lost_disk_is_a_new_replica() {
    for seed in 0..10 {
        let mut cluster = settled(seed, &["r"; 4]);
        let lost = *cluster.conf().voters.iter().find(|id| Some(**id) != cluster.leader()).unwrap();
        cluster.oracle.may_shrink = true;
        cluster.lose_disk(cluster.host_of(lost));
        cluster.run_for(MINUTE);
        let conf = cluster.conf();
        assert!(!conf.contains(lost) && sizes(&conf) == (3, 1), "seed {seed}: {conf:?}");
    }
}
