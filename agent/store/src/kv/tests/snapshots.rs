//! What was restored is what was there; and a snapshot in which anything is changed is restored by nobody.

use proptest::prelude::*;

use super::{
    properties::{Run, Step, step},
    *,
};

/// A store with history, leases, an alarm, a large value and a compaction.
fn store() -> Kv {
    let mut kv = empty();
    let put = |key: &'static str, value: Bytes, lease| {
        Change::Put(PutRequest { key: Bytes::from(key), value, lease, ..PutRequest::default() })
    };
    apply(&mut kv, Change::LeaseGrant(LeaseGrantRequest { ttl: 60, id: 7 })).unwrap();
    apply(&mut kv, put("a", Bytes::from("1"), 0)).unwrap();
    apply(&mut kv, put("a", Bytes::from("2"), 7)).unwrap();
    apply(&mut kv, put("b", Bytes::from(vec![7; 200_000]), 0)).unwrap();
    apply(&mut kv, Change::Compaction(CompactionRequest { revision: 3, physical: false })).unwrap();
    let alarm = AlarmRequest { action: 1, member_id: 5, alarm: 1 };
    apply(&mut kv, Change::Alarm(alarm)).unwrap();
    let index = kv.applied().index + 1;
    kv.reconfigure(index, 2, Bytes::from("who votes"));
    checkpoint(&mut kv);
    kv
}

fn bytes_of(kv: &Kv) -> Vec<Bytes> {
    kv.snapshot().of_cluster(99).map(Result::unwrap).collect()
}

fn restore(chunks: &[Bytes]) -> Result<Kv, RestoreError> {
    let mut restore = Restore::new(Memory::default(), Settings::default())?;
    chunks.iter().try_for_each(|chunk| restore.push(chunk))?;
    assert_eq!(restore.cluster(), Some(99));
    restore.finish()
}

fn hash(kv: &mut Kv) -> u32 {
    kv.begin_hash(0).unwrap().run().unwrap().hash
}

#[test]
fn a_snapshot_holds_all() {
    let mut kv = store();
    let chunks = bytes_of(&kv);
    assert!(chunks.len() > 3 && chunks.iter().all(|chunk| chunk.len() <= 64 << 10));
    let mut restored = restore(&chunks).unwrap();
    assert_eq!(restored.applied(), kv.applied());
    assert_eq!((restored.revision(), restored.compacted()), (4, 3));
    assert_eq!(restored.leases().keys(7).collect::<Vec<_>>(), [b"a"]);
    assert_eq!(restored.alarms(AlarmType::None), kv.alarms(AlarmType::Nospace));
    assert_eq!(hash(&mut restored), hash(&mut kv));
    // What a compaction makes unreadable may be in a snapshot still. Without it both are alike to the byte.
    kv.tidy_all();
    for kv in [&mut kv, &mut restored] {
        checkpoint(kv);
    }
    assert_eq!((bytes_of(&restored), restored.size_in_use()), (bytes_of(&kv), kv.size_in_use()));
}

#[test]
fn it_is_of_the_last_checkpoint_whatever_comes_after() {
    let mut kv = store();
    let (chunks, snapshot) = (bytes_of(&kv), kv.snapshot().of_cluster(99));
    apply(&mut kv, Change::DeleteRange(DeleteRangeRequest { key: Bytes::from("a"), ..Default::default() })).unwrap();
    checkpoint(&mut kv);
    assert_eq!(snapshot.map(Result::unwrap).collect::<Vec<_>>(), chunks);
}

#[test]
fn it_may_come_in_any_pieces() {
    let mut kv = store();
    let whole = bytes_of(&kv).concat();
    for size in [1, 7, 4096, whole.len()] {
        let pieces: Vec<_> = whole.chunks(size).map(Bytes::copy_from_slice).collect();
        assert_eq!(hash(&mut restore(&pieces).unwrap()), hash(&mut kv), "pieces of {size}");
    }
}

#[test]
fn what_is_cut_or_doubled_or_in_another_order_is_refused() {
    let chunks = bytes_of(&store());
    assert!(restore(&chunks[..chunks.len() - 1]).is_err());
    assert!(restore(&[&chunks[..], &chunks[..1]].concat()).is_err());
    assert!(restore(&[&chunks[..2], &chunks[1..]].concat()).is_err());
    assert!(restore(&[&chunks[..1], &chunks[2..]].concat()).is_err());
    let mut swapped = chunks.clone();
    swapped.swap(1, 2);
    assert!(restore(&swapped).is_err());
    let newest = chunks.concat();
    for cut in [0, 1, 5, 30, 70_000, newest.len() - 1] {
        let mut restore = Restore::new(Memory::default(), Settings::default()).unwrap();
        assert!(restore.push(&newest[..cut]).is_ok() && restore.finish().is_err(), "cut at {cut}");
    }
}

#[test]
fn any_changed_byte_is_found() {
    let mut kv = empty();
    let put = PutRequest { key: Bytes::from("a"), value: Bytes::from("1"), ..PutRequest::default() };
    apply(&mut kv, Change::Put(put)).unwrap();
    checkpoint(&mut kv);
    let whole = bytes_of(&kv).concat();
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut changed = whole.clone();
            changed[at] ^= 1 << bit;
            let mut restore = Restore::new(Memory::default(), Settings::default()).unwrap();
            assert!(restore.push(&changed).is_err() || restore.finish().is_err(), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn its_bytes_are_those_of_format_1() {
    let mut kv = empty();
    let put = PutRequest { key: Bytes::from("a"), value: Bytes::from("1"), lease: 7, ..PutRequest::default() };
    apply(&mut kv, Change::LeaseGrant(LeaseGrantRequest { ttl: 60, id: 7 })).unwrap();
    apply(&mut kv, Change::Put(put)).unwrap();
    checkpoint(&mut kv);
    let expected = [
        "72000000",                                 // length of the payload
        "72696e676d657368010000006300000000000000", // ringmesh, format, cluster
        "11000000",                                 // length of meta
        "080210ffffffffffffffffff0118022001",       // revision 2, nothing compacted, index 2, term 1
        "01000000000000000200000000",               // a record at 2/0
        "1e000000",                                 // its length
        "0200000000000000010000000000000007000000000000000100000061",
        "31",
        "0207000000000000003c00000000000000", // lease 7, 60 s
        "000200000000000000",                 // two rows
        "294194e1",                           // CRC-32
    ];
    let hex: String = bytes_of(&kv).concat().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected.concat());
}

#[test]
fn it_is_restored_into_nothing_else() {
    let memory = Memory::default();
    let mut kv = Kv::open(memory.clone(), Settings::default()).unwrap();
    kv.skip(1, 1);
    checkpoint(&mut kv);
    drop(kv);
    assert!(matches!(Restore::new(memory, Settings::default()), Err(RestoreError::NotEmpty)));
}

#[test]
fn the_watches_of_a_replaced_replica_go_on() {
    let mut kv = empty();
    kv.skip(1, 1);
    checkpoint(&mut kv);
    let stream = kv.open_stream();
    let from_now = WatchCreateRequest { key: Bytes::from("a"), ..WatchCreateRequest::default() };
    kv.watch(stream, &from_now);
    assert!(kv.poll_watch(stream, 999).unwrap().created);

    let mut ahead = restore(&bytes_of(&kv)).unwrap();
    for value in ["3", "4"] {
        let put = PutRequest { key: Bytes::from("a"), value: Bytes::from(value), ..PutRequest::default() };
        apply(&mut ahead, Change::Put(put)).unwrap();
    }
    ahead.adopt_watchers(kv.take_watchers());
    assert!(!ahead.catch_up());
    let response = ahead.poll_watch(stream, 999).unwrap();
    let told: Vec<_> = response.events.iter().map(|event| event.kv.as_ref().unwrap().value.clone()).collect();
    assert_eq!(told, ["3", "4"]);
    assert_eq!(ahead.poll_watch(stream, 999), None);
}

/// A row as a snapshot has it: a version of a key at a revision, or a lease.
#[derive(Clone, Debug)]
enum Row {
    Record { after: i64, create: i64, version: i64, lease: i64, key: u8 },
    Lease(i64),
}

fn row() -> impl Strategy<Value = Row> {
    let record = (0..3_i64, 1..9_i64, 0..3_i64, 0..2_i64, 0..3_u8);
    prop_oneof![
        4 => record.prop_map(|(after, create, version, lease, key)| Row::Record { after, create, version, lease, key }),
        1 => (1..3_i64).prop_map(Row::Lease),
    ]
}

/// A snapshot of these rows, whose checksum and end fit.
fn snapshot_of(rows: &[Row]) -> Vec<u8> {
    let mut payload = b"ringmesh\x01\0\0\0\x63\0\0\0\0\0\0\0\x04\0\0\0\x08\x20\x18\x01".to_vec();
    let mut main = 1;
    for row in rows {
        match row {
            Row::Record { after, create, version, lease, key } => {
                main += after;
                payload.push(1);
                payload.extend(main.to_be_bytes());
                payload.extend([0; 4]);
                payload.extend(29_u32.to_le_bytes());
                [create, version, lease].into_iter().for_each(|number| payload.extend(number.to_le_bytes()));
                payload.extend([1, 0, 0, 0, b'a' + key]);
            }
            Row::Lease(lease) => {
                payload.push(2);
                payload.extend(lease.to_le_bytes());
                payload.extend(60_i64.to_le_bytes());
            }
        }
    }
    payload.push(0);
    payload.extend((rows.len() as u64).to_le_bytes());
    framed(&payload)
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let checksum = crc32fast::hash(payload).to_le_bytes();
    [&(payload.len() as u32).to_le_bytes()[..], payload, &checksum].concat()
}

#[test]
fn rows_that_nobody_wrote_are_restored_if_they_can_be() {
    let record = |after, lease| Row::Record { after, create: 2, version: 1, lease, key: 0 };
    for (rows, is_restored) in [
        (vec![record(1, 0)], true),
        (vec![record(1, 1), Row::Lease(1)], true),
        (vec![record(1, 1)], false),
        (vec![record(1, 0), record(0, 0)], false),
    ] {
        assert_eq!(restore(&[snapshot_of(&rows).into()]).is_ok(), is_restored, "{rows:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_restored_or_refused(payload in prop::collection::vec(any::<u8>(), 0..200), is_row in any::<bool>()) {
        let head = b"ringmesh\x01\0\0\0cluster!\x04\0\0\0\x08\x02\x10\0";
        let payload = if is_row { [&head[..], &payload].concat() } else { payload };
        let framed = framed(&payload);
        for bytes in [payload, framed] {
            let mut restore = Restore::new(Memory::default(), Settings::default()).unwrap();
            if restore.push(&bytes).is_ok() {
                _ = restore.finish();
            }
        }
    }

    #[test]
    fn what_is_restored_of_any_rows_can_be_used_and_sent_on(rows in prop::collection::vec(row(), 0..9)) {
        if let Ok(mut kv) = restore(&[snapshot_of(&rows).into()]) {
            let all = request::range_of("\0", "\0");
            let found = kv.range(&all).unwrap();
            let mut again = restore(&bytes_of(&kv)).unwrap();
            prop_assert_eq!(again.range(&all).unwrap(), found);
            prop_assert_eq!(hash(&mut again), hash(&mut kv));
            apply(&mut kv, request::delete("a", "z")).unwrap();
            prop_assert_eq!(kv.range(&all).unwrap().count, 0);
        }
    }

    #[test]
    fn any_store_is_restored_as_it_was_checkpointed(steps in prop::collection::vec(step(), 0..60)) {
        let mut run = Run::new(Memory::default());
        steps.iter().for_each(|step| run.step(step));
        run.step(&Step::End);
        checkpoint(&mut run.kv);
        let chunks: Vec<_> = bytes_of(&run.kv);
        run.kv = restore(&chunks).unwrap();
        run.check();
    }
}
