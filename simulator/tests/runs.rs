//! A run is determined by its scenario and seed, however messages are carried, and kept failures stay mended.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{fs, path::PathBuf};

use ringmesh_simulator::{
    expand,
    failure::Failure,
    fault::{Fault, Kind},
    run::{Report, Run},
    scenario::Scenario,
    span::Span,
};

fn run(scenario: &Scenario) -> Report {
    Run::new(scenario).unwrap().finish(false)
}

#[test]
fn a_run_twice_has_the_same_trace_and_another_seed_another() {
    let mut hashes = Vec::new();
    for seed in 0..4 {
        let scenario = expand::random(seed, 9);
        let report = run(&scenario);
        assert_eq!(run(&scenario), report, "seed {seed}");
        hashes.push(report.trace_hash);
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 4);
}

#[test]
fn messages_that_are_handed_over_give_the_same_run_as_encoded_ones() {
    for seed in 0..8 {
        let fast = expand::random(seed, 5 + seed as usize * 2);
        let wire = Scenario { wire: true, ..fast.clone() };
        assert_eq!(run(&wire), run(&fast), "seed {seed}");
    }
}

/// A fault is left out: nothing that happened before it differs. Hosts are left out: the others' faults stay.
#[test]
fn what_is_left_out_moves_nothing_else() {
    let mut scenario = Scenario { hosts: 8, duration: Span::from_secs(40), seed: 3, ..Scenario::default() };
    let fault = |at, kind, host| Fault::new(Span::from_secs(at), Some(Span::from_secs(2)), kind, &[host]);
    scenario.fault = vec![fault(20, Kind::Pause, 1), fault(30, Kind::Crash, 4)];
    let until =
        |scenario: &Scenario, end| run(&Scenario { duration: Span::from_secs(end), ..scenario.clone() }).trace_hash;
    let without = Scenario { fault: scenario.fault[..1].to_vec(), ..scenario.clone() };
    assert_eq!(until(&scenario, 29), until(&without, 29));
    assert_ne!(until(&scenario, 35), until(&without, 35));

    let rates = "hosts = 8\n[[generate]]\nkind = \"pause\"\nmean_up = \"5s\"\nmean_down = \"1s\"\nuntil = \"60s\"";
    let all = Scenario::parse(rates).unwrap().expanded().fault;
    let fewer = Scenario::parse(&rates.replace("hosts = 8", "hosts = 5")).unwrap().expanded().fault;
    let of_these: Vec<_> = all.into_iter().filter(|fault| fault.indexes()[0] < 5).collect();
    assert!(fewer.len() > 20);
    assert_eq!(fewer, of_these);
}

/// Rates are rates: λ and μ of the file are those of the faults.
#[test]
fn generated_faults_have_the_rates_that_were_asked_for() {
    let text = "hosts = 20\n[[generate]]\nkind = \"crash\"\nmean_up = \"60s\"\nmean_down = \"20s\"\nuntil = \"1h\"";
    let faults = Scenario::parse(text).unwrap().expanded().fault;
    let cycles = 20.0 * 3600.0 / 80.0;
    assert!((faults.len() as f64 - cycles).abs() < cycles * 0.1, "{} of {cycles}", faults.len());
    let down: f64 = faults.iter().map(|fault| fault.lasts.unwrap().0.as_secs_f64()).sum();
    assert!((down / faults.len() as f64 - 20.0).abs() < 2.0);
}

#[test]
fn failures_that_were_mended_do_not_come_back() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 4);
    for file in files {
        let failure: Failure = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let now = Failure::find(&failure.scenario).unwrap();
        assert!(now.is_none(), "{}: {now:?}; ringmesh-sim replay {}", file.display(), file.display());
    }
}
