//! What must hold at each moment, whatever breaks.

use std::collections::BTreeMap;

use ringmesh_store::consensus::{Committed, Conf, Payload};

use super::node::Keys;

/// All that was seen.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    seed: u64,
    leaders: BTreeMap<u64, u64>,
    /// By index.
    committed: BTreeMap<u64, Committed>,
    /// How the keys were after an index.
    keys: BTreeMap<u64, u32>,
    most_voters: usize,
    /// Configurations that were agreed on.
    pub(super) confs: u64,
    /// A disk was lost, or a host left: then there may be fewer voters for a while, and an even number.
    pub(super) may_shrink: bool,
}

impl Oracle {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub(super) fn leads(&mut self, term: u64, id: u64) {
        let leader = *self.leaders.entry(term).or_insert(id);
        assert_eq!(leader, id, "seed {}: two lead in term {term}", self.seed);
    }

    pub(super) fn committed(&mut self, committed: &Committed) {
        let index = committed.position.index;
        let known = self.committed.get(&index);
        assert!(known.is_none_or(|known| known == committed), "seed {}: {known:?}, {committed:?}", self.seed);
        if known.is_none() {
            if let Payload::Conf(conf) = &committed.payload {
                self.conf(conf);
            }
            self.committed.insert(index, committed.clone());
        }
    }

    pub(super) fn has(&mut self, keys: &Keys) {
        let index = keys.applied.position.index;
        let known = *self.keys.entry(index).or_insert(keys.digest);
        assert_eq!(known, keys.digest, "seed {}: keys differ at {index}", self.seed);
    }

    fn conf(&mut self, conf: &Conf) {
        self.confs += 1;
        if self.may_shrink {
            return;
        }
        let seed = self.seed;
        for voters in [&conf.voters, &conf.outgoing].into_iter().filter(|voters| !voters.is_empty()) {
            assert!(!voters.len().is_multiple_of(2), "seed {seed}: {conf:?}");
        }
        assert!(conf.voters.len() >= self.most_voters, "seed {seed}: {conf:?}, once {} voted", self.most_voters);
        self.most_voters = conf.voters.len();
    }
}
