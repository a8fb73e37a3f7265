//! What is found on disk is read as it was written, or refused with the reason.

use redb::{Database, TableDefinition};
use ringmesh_proto::etcd::mvccpb::KeyValue;

use super::*;
use crate::kv::{
    disk::{Changes, Disk},
    meta::Meta,
    revision::Revision,
};

const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

/// Writes what no store would.
fn written(record: KeyValue, meta: &Meta) -> Memory {
    let memory = Memory::default();
    let disk = Disk::open(memory.clone(), 1 << 20).unwrap();
    let at = Revision { main: record.mod_revision, sub: 0 };
    let mut records = std::iter::once((at, &record));
    let changes = Changes { records: &mut records, forgotten: &[], leases: &Default::default(), meta };
    _ = disk.writer().write(&mut { changes }).unwrap();
    memory
}

fn damage(memory: Memory) -> String {
    match Kv::open(memory, Settings::default()) {
        Err(OpenError::Damaged { what }) => what,
        other => panic!("{:?}", other.map(|kv| kv.revision())),
    }
}

#[test]
fn a_store_that_contradicts_itself_is_refused() {
    let record = |mod_revision, lease| KeyValue {
        key: Bytes::from("a"),
        create_revision: mod_revision,
        mod_revision,
        version: 1,
        value: Bytes::new(),
        lease,
    };
    let meta = Meta { revision: 4, ..Meta::empty() };
    assert!(Kv::open(written(record(4, 0), &meta), Settings::default()).is_ok());
    assert_eq!(damage(written(record(5, 0), &meta)), "there is revision 5/0, and the newest is 4");
    for (revision, compacted) in [(0, -1), (4, 5), (i64::MAX, 1)] {
        let meta = Meta { revision, compacted, ..Meta::empty() };
        let expected = format!("the newest revision is {revision}, the compacted one {compacted}");
        assert_eq!(damage(written(record(4, 0), &meta)), expected);
    }
    assert_eq!(damage(written(record(4, 7), &meta)), "a key has lease 7, which is not there");
}

#[test]
fn a_newer_format_is_refused_and_so_is_none() {
    let with_rows = |rows: &[(&str, &[u8])]| {
        let memory = Memory::default();
        let database = Database::builder().create_with_backend(memory.clone()).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut table = transaction.open_table(META).unwrap();
        rows.iter().for_each(|(name, row)| _ = table.insert(name, row).unwrap());
        drop(table);
        transaction.commit().unwrap();
        memory
    };
    let newer = Kv::open(with_rows(&[("format", &[2, 0, 0, 0])]), Settings::default());
    assert!(matches!(newer, Err(OpenError::Format { found: 2, known: 1 })));
    assert_eq!(damage(with_rows(&[])), "the row format is missing");
    assert_eq!(damage(with_rows(&[("format", &[1])])), "the row format holds no number");
    assert_eq!(damage(with_rows(&[("format", &[1, 0, 0, 0])])), "the row state is missing");
    assert!(damage(with_rows(&[("format", &[1, 0, 0, 0]), ("state", &[9])])).starts_with("the row state: "));
}

#[test]
fn what_is_no_database_is_refused() {
    let memory = Memory::default();
    redb::StorageBackend::write(&memory, 0, &[7; 100_000]).unwrap();
    assert!(matches!(Kv::open(memory, Settings::default()), Err(OpenError::Platform(_))));
}

#[test]
fn damage_after_a_loss_of_power_never_brings_an_older_checkpoint_back() {
    let memory = Memory::default();
    let mut kv = Kv::open(memory.clone(), Settings::default()).unwrap();
    let (mut found, mut durable) = (0, 0);
    for round in 0..400_u64 {
        let key = Bytes::from(format!("key {}", round % 40));
        let put = PutRequest { key, value: Bytes::from(vec![7; 50]), ..PutRequest::default() };
        apply(&mut kv, Change::Put(put)).unwrap();
        if round % 20 == 0 {
            checkpoint(&mut kv);
            durable = kv.applied().index;
        }
        // It is not closed, as after a loss of power.
        for seed in [round * 2, round * 2 + 1] {
            match Kv::open(memory.damaged(seed), Settings::default()) {
                Ok(kv) => assert_eq!(kv.applied().index, durable, "round {round}, seed {seed}"),
                Err(OpenError::Damaged { .. }) => found += 1,
                Err(error) => panic!("round {round}, seed {seed}: {error:?}"),
            }
        }
    }
    assert!(found > 20, "{found}");
}

#[test]
fn a_store_whose_first_sector_is_lost_is_refused_and_left_as_it_is() {
    let memory = Memory::default();
    let mut kv = Kv::open(memory.clone(), Settings::default()).unwrap();
    apply(&mut kv, Change::Put(PutRequest { key: Bytes::from("a"), ..PutRequest::default() })).unwrap();
    checkpoint(&mut kv);
    drop(kv);
    redb::StorageBackend::write(&memory, 0, &[0; 512]).unwrap();
    let length = redb::StorageBackend::len(&memory).unwrap();
    assert_eq!(damage(memory.clone()), "the first bytes are zero, and those after the first page are not");
    assert_eq!(redb::StorageBackend::len(&memory).unwrap(), length);
}

#[test]
fn damage_anywhere_is_harmless_or_found() {
    let memory = Memory::default();
    let mut kv = Kv::open(memory.clone(), Settings::default()).unwrap();
    for round in 0..300 {
        let key = Bytes::from(format!("key {}", round % 40));
        let put = PutRequest { key, value: Bytes::from(vec![7; 50]), ..PutRequest::default() };
        apply(&mut kv, Change::Put(put)).unwrap();
        if round % 100 == 0 {
            checkpoint(&mut kv);
        }
    }
    checkpoint(&mut kv);
    let all = RangeRequest { key: Bytes::from("\0"), range_end: Bytes::from("\0"), ..RangeRequest::default() };
    let expected = kv.range(&all);
    drop(kv);
    let mut found = 0;
    for seed in 0..300 {
        match Kv::open(memory.damaged(seed), Settings::default()) {
            Ok(kv) => assert_eq!(kv.range(&all), expected, "seed {seed}"),
            Err(OpenError::Damaged { .. }) => found += 1,
            Err(error) => panic!("seed {seed}: {error:?}"),
        }
    }
    assert!(found > 30, "{found}");
}
