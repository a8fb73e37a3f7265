//! The conditions of a transaction.

use std::cmp::Ordering;

use ringmesh_proto::etcd::{
    etcdserverpb::{
        Compare,
        compare::{CompareResult, CompareTarget, TargetUnion},
    },
    mvccpb::KeyValue,
};

use super::{Kv, Refusal, history::History, span::Span};

impl Kv {
    /// Whether a condition holds for all keys inside, now. No key counts as one of zeros, and has no value, not even another.
    pub(super) fn holds(&self, compare: &Compare) -> Result<bool, Refusal> {
        let mut is_empty = true;
        for (_, history) in self.index.range_alive(Span::new(&compare.key, &compare.range_end)) {
            is_empty = false;
            if !self.holds_for(compare, history)? {
                return Ok(false);
            }
        }
        let is_of_values = compare.target == i32::from(CompareTarget::Value);
        Ok(!is_empty || !is_of_values && satisfies(compare, compare_numbers(compare, &KeyValue::default())))
    }

    fn holds_for(&self, compare: &Compare, history: &History) -> Result<bool, Refusal> {
        if compare.target == i32::from(CompareTarget::Value) {
            let record = self.records.record(history.last())?;
            let given = if let Some(TargetUnion::Value(value)) = &compare.target_union { value.as_ref() } else { &[] };
            return Ok(satisfies(compare, record.value.as_ref().cmp(given)));
        }
        let record = KeyValue {
            create_revision: history.create_revision,
            mod_revision: history.last().main,
            version: history.version,
            lease: history.lease,
            ..KeyValue::default()
        };
        Ok(satisfies(compare, compare_numbers(compare, &record)))
    }
}

/// How a key's number stands to the given one, which is 0 if it is one of something else.
fn compare_numbers(compare: &Compare, record: &KeyValue) -> Ordering {
    // As etcd: by what there is not, all are equal.
    let Ok(target) = CompareTarget::try_from(compare.target) else { return Ordering::Equal };
    let given = match (target, &compare.target_union) {
        (CompareTarget::Version, Some(TargetUnion::Version(given)))
        | (CompareTarget::Create, Some(TargetUnion::CreateRevision(given)))
        | (CompareTarget::Mod, Some(TargetUnion::ModRevision(given)))
        | (CompareTarget::Lease, Some(TargetUnion::Lease(given))) => *given,
        _ => 0,
    };
    match target {
        CompareTarget::Version => record.version.cmp(&given),
        CompareTarget::Create => record.create_revision.cmp(&given),
        CompareTarget::Mod => record.mod_revision.cmp(&given),
        CompareTarget::Lease => record.lease.cmp(&given),
        CompareTarget::Value => Ordering::Equal,
    }
}

fn satisfies(compare: &Compare, ordering: Ordering) -> bool {
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering == Ordering::Equal,
        Ok(CompareResult::NotEqual) => ordering != Ordering::Equal,
        Ok(CompareResult::Greater) => ordering == Ordering::Greater,
        Ok(CompareResult::Less) => ordering == Ordering::Less,
        // As etcd.
        Err(_) => true,
    }
}
