//! A range that is read in parts is the range that is read at once.

use super::{request::*, *};

/// Reads `keys` keys at a time, with `between` done after the first part.
fn in_parts(
    kv: &mut Kv,
    request: &RangeRequest,
    keys: usize,
    between: impl FnOnce(&mut Kv),
) -> Result<RangeResponse, Refusal> {
    let mut work = RangeWork::new(request.clone())?;
    let mut is_whole = kv.read_on(&mut work, keys, usize::MAX)?;
    between(kv);
    while !is_whole {
        is_whole = kv.read_on(&mut work, keys, usize::MAX)?;
    }
    Ok(work.finish())
}

fn twenty() -> Kv {
    let mut kv = empty();
    for number in 0..20 {
        propose(&mut kv, put(&format!("k{:02}", number * 7 % 20), &format!("{}", number % 3))).unwrap();
    }
    kv
}

#[test]
fn parts_of_any_size_make_the_same_answer() {
    let mut kv = twenty();
    propose(&mut kv, delete("k05", "")).unwrap();
    let all = range_of("k", "l");
    let requests = [
        all.clone(),
        range_of("k03", "\0"),
        range_of("k03", ""),
        range_of("z", "\0"),
        RangeRequest { limit: 4, ..all.clone() },
        RangeRequest { limit: 4, sort_order: 2, ..all.clone() },
        RangeRequest { sort_order: 1, sort_target: 4, ..all.clone() },
        RangeRequest { min_mod_revision: 9, limit: 3, ..all.clone() },
        RangeRequest { count_only: true, ..all.clone() },
        RangeRequest { keys_only: true, ..all.clone() },
        RangeRequest { revision: 10, ..all },
    ];
    for request in requests {
        let expected = kv.range(&request).unwrap();
        for keys in [1, 2, 7, 100] {
            assert_eq!(in_parts(&mut kv, &request, keys, |_| {}).unwrap(), expected, "{keys} of {request:?}");
        }
    }
}

#[test]
fn what_is_written_between_two_parts_is_not_seen_and_a_compaction_ends_the_work() {
    let mut kv = twenty();
    let all = range_of("k", "l");
    let before = kv.range(&all).unwrap();
    let write = |kv: &mut Kv| {
        propose(kv, put("k19", "new")).unwrap();
        propose(kv, put("kz", "new")).unwrap();
        propose(kv, delete("k18", "")).unwrap();
    };
    assert_eq!(in_parts(&mut kv, &all, 3, write).unwrap(), before);
    let compact = |kv: &mut Kv| {
        propose(kv, put("k", "1")).unwrap();
        propose(kv, compaction(kv.revision())).map(drop).unwrap();
    };
    assert_eq!(in_parts(&mut kv, &all, 3, compact), Err(Refusal::Compacted));
}

#[test]
fn a_part_ends_after_so_many_bytes() {
    let mut kv = empty();
    (0..4).for_each(|number| _ = propose(&mut kv, put(&format!("k{number}"), &"v".repeat(100))).unwrap());
    let mut work = RangeWork::new(range_of("k", "l")).unwrap();
    let parts = (1..).find(|_| kv.read_on(&mut work, usize::MAX, 150).unwrap()).unwrap();
    assert_eq!((parts, work.finish().kvs.len()), (2, 4));
}
