//! Any commands, with checkpoints and reopenings between them, do what the model does.

use proptest::prelude::*;
use redb::StorageBackend;

use super::{model::Model, *};

/// A store, the log that made it, and the model that it should equal.
pub(super) struct Run<B> {
    pub(super) kv: Kv,
    backend: B,
    pub(super) log: Vec<Change>,
    pub(super) model: Model,
    writing: Option<Checkpoint>,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Apply(Change),
    Range(RangeRequest),
    Read(TxnRequest),
    Begin,
    End,
    Reopen,
    Tidy,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => strategy::change().prop_map(Step::Apply),
        8 => strategy::range().prop_map(Step::Range),
        2 => strategy::txn().prop_map(Step::Read),
        2 => Just(Step::Begin),
        2 => Just(Step::End),
        1 => Just(Step::Reopen),
        1 => Just(Step::Tidy),
    ]
}

impl<B: StorageBackend + Clone> Run<B> {
    pub(super) fn new(backend: B) -> Self {
        let kv = Kv::open(backend.clone(), Settings::default()).unwrap();
        Self { kv, backend, log: Vec::new(), model: Model::default(), writing: None }
    }

    pub(super) fn step(&mut self, step: &Step) {
        match step {
            Step::Apply(change) => {
                if self.kv.check(change).is_ok() {
                    assert_eq!(apply(&mut self.kv, change.clone()), self.model.apply(change), "{change:?}");
                    self.log.push(change.clone());
                }
            }
            Step::Range(request) => assert_eq!(self.kv.range(request), self.model.range(request), "{request:?}"),
            Step::Read(request) => {
                if Kv::txn_is_read_only(request) && self.kv.check(&Change::Txn(request.clone())).is_ok() {
                    let expected = self.model.apply(&Change::Txn(request.clone()));
                    assert_eq!(self.kv.read(request).map(Outcome::Txn), expected, "{request:?}");
                }
            }
            Step::Begin => self.writing = self.writing.take().or_else(|| self.kv.begin_checkpoint()),
            Step::End => {
                if let Some(checkpoint) = self.writing.take() {
                    let written = checkpoint.write().unwrap();
                    self.kv.end_checkpoint(written);
                }
            }
            Step::Reopen => self.reopen(),
            Step::Tidy => _ = self.kv.tidy(),
        }
    }

    /// What was not in a checkpoint is applied again.
    fn reopen(&mut self) {
        self.writing = None;
        let before = std::mem::replace(&mut self.kv, empty());
        drop(before);
        self.kv = Kv::open(self.backend.clone(), Settings::default()).unwrap();
        let applied = self.kv.applied().index as usize;
        for change in self.log.get(applied..).unwrap() {
            _ = apply(&mut self.kv, change.clone());
        }
    }

    /// That all that can be read is the model's.
    pub(super) fn check(&mut self) {
        let (kv, model) = (&self.kv, &self.model);
        assert_eq!((kv.revision(), kv.compacted()), (model.revision, model.compacted));
        assert_eq!(kv.leases().iter().collect::<Vec<_>>(), model.leases.clone().into_iter().collect::<Vec<_>>());
        for lease in model.leases.keys() {
            let mut keys = model.keys(i64::MAX);
            keys.retain(|_, record| record.lease == *lease);
            assert!(kv.leases().keys(*lease).eq(keys.keys()), "of lease {lease}");
        }
        for revision in model.compacted.max(0)..=model.revision {
            let all = Bytes::from_static(b"\0");
            let request = RangeRequest { key: all.clone(), range_end: all, revision, ..RangeRequest::default() };
            assert_eq!(kv.range(&request), model.range(&request), "at {revision}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(steps in prop::collection::vec(step(), 0..60)) {
        let mut run = Run::new(Memory::default());
        steps.iter().for_each(|step| run.step(step));
        run.check();
        run.reopen();
        run.check();
    }

    #[test]
    fn replicas_that_made_checkpoints_at_other_times_have_the_same_hash(
        steps in prop::collection::vec(step(), 0..40), revision in 0..20_i64,
    ) {
        let mut run = Run::new(Memory::default());
        steps.iter().for_each(|step| run.step(step));
        let mut other = empty();
        run.log.iter().for_each(|change| _ = apply(&mut other, change.clone()));
        let hash = |kv: &mut Kv| kv.begin_hash(revision).and_then(HashWork::run);
        prop_assert_eq!(hash(&mut run.kv), hash(&mut other));
    }
}
