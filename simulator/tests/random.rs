//! Random faults on clusters of 5 to 200 hosts: no oracle may fail, whatever the seed.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{num::NonZero, thread};

use ringmesh_simulator::{expand, failure::Failure, run::Run, sweep};

const SEEDS: std::ops::Range<u64> = 0..100;

fn threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Most are small, for time; one in fifty is large.
fn size_of(seed: u64) -> usize {
    if seed % 50 == 49 { 200 } else { sweep::size_of(seed, 200) }
}

#[test]
fn no_oracle_fails_under_random_faults() {
    let scenario = |seed| expand::random(seed, size_of(seed));
    let told = |_: &_, failure: Option<&Failure>| {
        if let Some(failure) = failure {
            let seed = failure.scenario.seed;
            eprintln!("seed {seed}: {}: {}", failure.oracle, failure.detail);
            let random = format!("--random --seed {seed} --hosts {}", size_of(seed));
            eprintln!("  ringmesh-sim run {random} --save fail.json; ringmesh-sim shrink fail.json");
        }
    };
    let found = sweep::sweep(SEEDS, threads(), scenario, told).unwrap();
    assert_eq!(found.runs, SEEDS.end);
    assert!(found.failures.is_empty(), "{} of {} runs failed, see above", found.failures.len(), found.runs);
}

/// The sizes are what the first test says: few large ones, for time, but some.
#[test]
fn sizes_are_mostly_small_and_sometimes_large() {
    let sizes: Vec<usize> = SEEDS.map(size_of).collect();
    assert!(sizes.iter().all(|size| (5..=200).contains(size)));
    let large = sizes.iter().filter(|size| **size > 64).count();
    let small = sizes.iter().filter(|size| **size <= 16).count();
    assert!((2..15).contains(&large) && small > 50, "{large} large, {small} small");
}

/// In a run of random faults there is something to see for each oracle.
#[test]
fn random_faults_give_every_oracle_something_to_see() {
    let all: Vec<_> = (0..12).map(|seed| Run::new(&expand::random(seed, 9)).unwrap().finish(false)).collect();
    for (name, nothing) in [
        ("false-down", "0 verdicts"),
        ("detection", "0 deaths"),
        ("agreement", "0 quiet"),
        ("generation", "0 generations"),
        ("rings", "0 times"),
        ("pointers", "0 joins"),
        ("accounts", "0 times"),
    ] {
        let details = all.iter().flat_map(|report| &report.oracles).filter(|outcome| outcome.name == name);
        assert!(details.clone().any(|outcome| !outcome.detail.starts_with(nothing)), "{name} saw nothing");
    }
}
