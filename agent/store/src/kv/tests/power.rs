//! The power may go at any write, and the disk keep any part of what was not synced: what a checkpoint said is durable is
//! there, and nothing is there in part.

use proptest::{strategy::ValueTree, test_runner::TestRunner};

use super::{model::Model, *};

/// Changes between two checkpoints.
const A_CHECKPOINT: usize = 12;

/// The same changes in each run, some with values of several pages.
fn log() -> Vec<Change> {
    let mut runner = TestRunner::deterministic();
    let strategy = proptest::collection::vec(strategy::change(), 96);
    let mut log = proptest::strategy::Strategy::new_tree(&strategy, &mut runner).unwrap().current();
    for (at, change) in log.iter_mut().enumerate() {
        if let Change::Put(request) = change
            && !request.ignore_value
        {
            request.value = Bytes::from(vec![at as u8; at * 150]);
        }
    }
    log
}

/// Applies what has not been, with checkpoints, until the disk fails. Returns what is durable for certain, and what may be.
fn run(memory: &Memory, log: &[Change]) -> (u64, u64) {
    let Ok(mut kv) = Kv::open(memory.clone(), Settings::default()) else { return (0, 0) };
    let mut durable = kv.applied().index;
    for change in &log[durable as usize..] {
        if apply(&mut kv, change.clone()).is_err_and(|refusal| refusal.code() == Code::Internal) {
            return (durable, durable);
        }
        if (kv.applied().index as usize).is_multiple_of(A_CHECKPOINT)
            && let Some(checkpoint) = kv.begin_checkpoint()
        {
            let index = kv.applied().index;
            match checkpoint.write() {
                Ok(written) => durable = kv.end_checkpoint(written),
                Err(_) => return (durable, index),
            }
            assert_eq!(durable, index);
        }
    }
    (durable, durable)
}

/// That a store is the model's after as much of the log.
fn check(kv: &mut Kv, log: &[Change]) {
    let mut model = Model::default();
    log[..kv.applied().index as usize].iter().for_each(|change| _ = model.apply(change));
    let mut run = properties::Run::new(Memory::default());
    std::mem::swap(&mut run.kv, kv);
    run.model = model;
    run.check();
    std::mem::swap(&mut run.kv, kv);
}

#[test]
fn what_is_durable_outlives_a_loss_of_power_at_any_write() {
    let log = log();
    let whole = Memory::default();
    run(&whole, &log);
    let operations = whole.operations();
    assert!(operations > 50, "{operations}");
    for at in 0..operations {
        for seed in 0..3 {
            let memory = Memory::default();
            memory.fail_after(at);
            let (durable, begun) = run(&memory, &log);
            let after = memory.after_power_loss(at * 100 + seed);
            let context = format!("power lost at operation {at}, seed {seed}");
            let mut kv = Kv::open(after.clone(), Settings::default()).expect(&context);
            let found = kv.applied().index;
            assert!(found == durable || found == begun, "{context}: found {found}, not {durable} or {begun}");
            check(&mut kv, &log);
            drop(kv);
            run(&after, &log);
            check(&mut Kv::open(after, Settings::default()).expect(&context), &log);
        }
    }
}

#[test]
fn power_may_go_again_while_a_store_is_opened() {
    let log = log();
    for seed in 0..150 {
        let memory = Memory::default();
        memory.fail_after(40 + seed % 37);
        let (mut durable, mut begun) = run(&memory, &log);
        let mut after = memory.after_power_loss(seed);
        for again in 0..6 {
            after.fail_after(again);
            (durable, begun) = match Kv::open(after.clone(), Settings::default()) {
                Ok(kv) => (kv.applied().index, kv.applied().index),
                Err(_) => (durable, begun),
            };
            after = after.after_power_loss(seed * 10 + again);
        }
        let mut kv = Kv::open(after, Settings::default()).unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
        let found = kv.applied().index;
        assert!(found == durable || found == begun, "seed {seed}: found {found}, not {durable} or {begun}");
        check(&mut kv, &log);
    }
}
