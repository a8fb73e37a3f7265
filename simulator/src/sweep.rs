//! Many runs over all cores: each by itself, so that the result does not depend on how many there are.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use crate::{
    failure::Failure,
    run::{Report, Run},
    scenario::{Problem, Scenario},
};

/// What came of all of them.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Runs that were made.
    pub runs: u64,
    /// Inputs that nodes handled.
    pub events: u64,
    /// Virtual time of all.
    pub virtual_seconds: f64,
    /// By seed.
    pub failures: Vec<Failure>,
}

/// Runs the scenario that `scenario` makes of each seed, on so many threads. `told` is called after each run.
pub fn sweep(
    seeds: std::ops::Range<u64>,
    threads: usize,
    scenario: impl Fn(u64) -> Scenario + Sync,
    told: impl Fn(&Report, Option<&Failure>) + Sync,
) -> Result<Sweep, Problem> {
    let next = AtomicU64::new(seeds.start);
    let all = Mutex::new((Sweep::default(), None));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let scenario = scenario(seed);
            let report = Run::new(&scenario).map(|run| run.finish(true));
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            match report {
                Ok(report) => {
                    let failure = Failure::of(&scenario, &report);
                    told(&report, failure.as_ref());
                    let sweep = &mut all.0;
                    sweep.runs += 1;
                    sweep.events += report.events;
                    sweep.virtual_seconds += report.virtual_seconds;
                    sweep.failures.extend(failure);
                }
                Err(problem) => {
                    all.1.get_or_insert(problem);
                    return;
                }
            }
        }
    };
    thread::scope(|scope| {
        (0..threads.max(1)).for_each(|_| drop(scope.spawn(work)));
    });
    let (mut sweep, problem) = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    sweep.failures.sort_by_key(|failure| failure.scenario.seed);
    problem.map_or(Ok(sweep), Err)
}

/// Sizes of random scenarios by seed: most of them small, one in twenty with up to 200 hosts.
pub fn size_of(seed: u64, largest: usize) -> usize {
    let mut draw = crate::draw::Draw::new(seed, 1, crate::draw::Purpose::Scenario);
    let most = match draw.below(20) {
        0 => 200,
        1..=3 => 64,
        4..=8 => 32,
        _ => 16,
    };
    let most = most.min(largest).max(5) as u64;
    5 + draw.below(most - 4) as usize
}
