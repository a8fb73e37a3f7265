//! Everything at once, by chance; and afterwards all is well again.

use std::time::Duration;

use rand::{RngExt, seq::IteratorRandom};

use super::{MINUTE, cluster::Cluster, settled, sizes};

#[test]
fn whatever_breaks_nothing_agreed_is_lost_and_the_members_are_again_what_they_should_be() {
    let seeds = std::env::var("RINGMESH_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    let mut changes = 0;
    for seed in 0..seeds {
        let hosts = 4 + seed as usize % 5;
        let racks: Vec<&str> = (0..hosts).map(|host| ["a", "b", "c"][host % (1 + seed as usize % 3)]).collect();
        let mut cluster = settled(seed, &racks);
        cluster.oracle.may_shrink = seed % 2 == 1;
        let before = cluster.oracle.confs;
        for _ in 0..60 {
            harm(&mut cluster);
            let time = cluster.rng.random_range(100..20_000);
            for _ in 0..4 {
                cluster.write();
                cluster.run_for(Duration::from_millis(time / 4));
            }
        }
        (cluster.loss, cluster.cut) = (0, <_>::default());
        cluster.rise_all();
        changes += cluster.oracle.confs - before;
        // A host that came and went is waited for up to 16 minutes.
        for _ in 0..40 {
            cluster.run_for(MINUTE);
        }
        let expected = if hosts >= 7 { (5, 2) } else { (3, (hosts - 3).min(2)) };
        assert_eq!(sizes(&cluster.conf()), expected, "seed {seed}: {:?}", cluster.conf());
        assert!(cluster.write_is_agreed_on(), "seed {seed}");
    }
    assert!(changes > seeds, "{changes} changes of members prove little");
}

fn harm(cluster: &mut Cluster) {
    let host = *cluster.hosts.keys().choose(&mut cluster.rng).expect("there are hosts");
    let other = *cluster.hosts.keys().choose(&mut cluster.rng).expect("there are hosts");
    match cluster.rng.random_range(0..12) {
        0..=2 => cluster.fall(host),
        3..=5 => cluster.rise(host),
        6 => cluster.rise_all(),
        7 => _ = cluster.cut.insert((host.min(other), host.max(other))),
        8 => {
            let side: Vec<u32> = cluster.hosts.keys().copied().filter(|host| host % 3 == other % 3).collect();
            let pairs = cluster.hosts.keys().flat_map(|a| side.iter().map(move |b| (*a, *b)));
            let pairs: Vec<(u32, u32)> = pairs.filter(|(a, _)| !side.contains(a)).collect();
            cluster.cut.extend(pairs.into_iter().map(|(a, b)| (a.min(b), a.max(b))));
        }
        9 => cluster.cut.clear(),
        10 => cluster.loss = cluster.rng.random_range(0..20),
        _ => {
            // As many as would leave no majority are never lost: nobody could give back what was on them.
            if cluster.oracle.may_shrink && cluster.can_lose_disk(host) {
                cluster.lose_disk(host);
            }
        }
    }
}
