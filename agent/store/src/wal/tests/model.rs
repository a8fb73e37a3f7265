//! Random histories against a log that is a `Vec`.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use ringmesh_proto::Instant;

use super::{disk::MemoryDisk, entry, open, snapshot};
use crate::{
    consensus::{
        Applied, Conf, Consensus, Entry, HardState, Persist, Position, Recovered, Settings, StartError, origin,
    },
    wal::Recovery,
};

/// What has been stored.
#[derive(Clone, Default)]
struct Model {
    recovery: Recovery,
    /// What may have been cut.
    below: u64,
}

impl Model {
    fn last_index(&self) -> u64 {
        self.recovery.entries.last().map_or(self.recovery.base.index, |last| last.position.index)
    }

    fn store(&mut self, persist: &Persist) {
        let recovery = &mut self.recovery;
        if let Some(snapshot) = &persist.snapshot {
            recovery.base = snapshot.position;
            recovery.entries.clear();
        }
        for entry in &persist.entries {
            recovery.entries.retain(|old| old.position.index < entry.position.index);
            recovery.entries.push(entry.clone());
        }
        recovery.hard = persist.hard.unwrap_or(recovery.hard);
    }

    fn matches(&self, found: &Recovery) -> bool {
        let first = found.entries.first().map_or(u64::MAX, |first| first.position.index);
        let kept: Vec<&Entry> = self.recovery.entries.iter().filter(|entry| entry.position.index >= first).collect();
        let must: usize = self.recovery.entries.iter().filter(|entry| entry.position.index >= self.below).count();
        found.hard == self.recovery.hard
            && found.base == self.recovery.base
            && kept.len() >= must
            && kept.into_iter().eq(&found.entries)
    }
}

/// A batch that consensus could give out: what is of a new term comes with it.
fn persist(model: &Model, rng: &mut StdRng) -> Persist {
    let known = model.recovery.hard;
    let term = (known.term + u64::from(rng.random_ratio(1, 4))).max(1);
    let mut hard = HardState { term, vote: rng.random_range(0..4), commit: known.commit };
    if rng.random_ratio(1, 30) {
        hard.commit = model.last_index() + rng.random_range(1..50);
        let entries = (0..rng.random_range(0..6)).map(|at| entry(term, hard.commit + 1 + at, 600)).collect();
        return Persist { hard: Some(hard), entries, ..snapshot(term, hard.commit) };
    }
    let back = if rng.random_ratio(1, 5) { rng.random_range(0..4) } else { 0 };
    let lowest = model.recovery.base.index.max(model.below).max(known.commit) + 1;
    let first = (model.last_index() + 1).saturating_sub(back).max(lowest);
    let entries = (0..rng.random_range(0..6)).map(|at| command(term, first + at, rng.random_range(0..700))).collect();
    hard.commit = hard.commit.max(first - 1);
    let is_told = term != known.term || rng.random();
    Persist { number: 0, snapshot: None, entries, hard: is_told.then_some(hard) }
}

/// The first one says who founded.
fn command(term: u64, index: u64, size: usize) -> Entry {
    let position = Position { term, index };
    if index == 1 { Entry { position, ..origin(&Conf::of_voters([1])) } } else { entry(term, index, size) }
}

/// Whether a member goes on with it, whose keys are as old as they may be.
fn start(found: &Recovery) -> Result<Consensus, StartError> {
    let first = found.entries.first().map_or(found.base, |first| first.position);
    let conf = Conf::of_voters([1]).encode();
    let is_cut = found.base.index > 0 || first.index > 1;
    let applied = if is_cut { Applied { position: first, conf } } else { Applied::default() };
    let recovered = Recovered { hard: found.hard, base: found.base, entries: found.entries.clone(), applied };
    Consensus::new(Settings::new(1), recovered, 1, Instant::ZERO)
}

fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let disk = MemoryDisk::default();
    let mut model = Model::default();
    let (mut wal, _) = open(&disk);
    for step in 0..120 {
        match rng.random_range(0..20) {
            0 => {
                model.below = model.below.max(rng.random_range(0..=model.last_index()));
                wal.cut(model.below).unwrap();
            }
            1 | 2 => wal.prepare().unwrap(),
            3 => {
                disk.lose_power(&mut rng);
                let (opened, found) = open(&disk);
                assert!(model.matches(&found), "seed {seed}, step {step}");
                assert_eq!(start(&found).err(), None, "seed {seed}, step {step}: {found:?}");
                wal = opened;
            }
            4 => {
                // What is broken off may be there as far as it was written, and is never mixed.
                let lost = persist(&model, &mut rng);
                disk.fail_after(Some(rng.random_range(0..3)));
                let done = wal.append(std::slice::from_ref(&lost));
                disk.lose_power(&mut rng);
                let (opened, found) = open(&disk);
                let outcomes = outcomes(&model, &lost);
                let at = outcomes.iter().rposition(|outcome| outcome.matches(&found));
                let at = at.unwrap_or_else(|| panic!("seed {seed}, step {step}: {found:?}"));
                assert!(done.is_err() || at + 1 == outcomes.len(), "seed {seed}, step {step}");
                assert_eq!(start(&found).err(), None, "seed {seed}, step {step}: {found:?}");
                (wal, model) = (opened, outcomes[at].clone());
            }
            _ => {
                let batch: Vec<Persist> = (0..rng.random_range(1..4))
                    .map(|_| {
                        let persist = persist(&model, &mut rng);
                        model.store(&persist);
                        persist
                    })
                    .collect();
                wal.append(&batch).unwrap();
            }
        }
    }
}

/// The model after each record of a batch that may not have been written wholly.
fn outcomes(model: &Model, persist: &Persist) -> Vec<Model> {
    let mut early = model.clone();
    if let Some(hard) = persist.hard {
        early.recovery.hard = HardState { commit: model.recovery.hard.commit, ..hard };
    }
    let mut outcomes = vec![model.clone(), early.clone()];
    for count in 0..=persist.entries.len() {
        let mut outcome = early.clone();
        outcome.store(&Persist { entries: persist.entries[..count].to_vec(), hard: None, ..persist.clone() });
        outcomes.push(outcome);
    }
    let mut whole = model.clone();
    whole.store(persist);
    outcomes.push(whole);
    outcomes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn what_was_acknowledged_is_what_is_found(seed: u64) {
        run(seed);
    }
}
