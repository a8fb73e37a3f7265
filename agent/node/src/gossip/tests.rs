use bytes::Bytes;
use ringmesh_proto::{
    HostId, Now,
    peer::{AccusationRecord, EventRecord, Gossip, HostRecord, SyncRequest},
};

use super::{EVENT_CAPACITY, Groups, Store};

fn record(host: u32, generation: u32, seq: u32) -> HostRecord {
    HostRecord { host, generation, seq, name: format!("h{host}"), ..HostRecord::default() }
}

fn event(origin: u32, generation: u32, seq: u32) -> EventRecord {
    EventRecord { origin, generation, seq, kind: "service-verdict".into(), ..EventRecord::default() }
}

fn hosts(records: Vec<HostRecord>) -> Gossip {
    Gossip { hosts: records.into_iter().map(Into::into).collect(), ..Gossip::default() }
}

fn events(records: Vec<EventRecord>) -> Gossip {
    Gossip { events: records, ..Gossip::default() }
}

#[test]
fn the_newest_record_wins_in_any_order_and_only_news_is_passed_on() {
    let mut store = Store::default();
    let now = Now::default();
    let new = store.accept(now, hosts(vec![record(1, 1, 5), record(1, 1, 4), record(1, 2, 1), record(1, 2, 1)]));
    assert_eq!(new.hosts.iter().map(|r| (r.generation, r.seq)).collect::<Vec<_>>(), [(1, 5), (2, 1)]);
    let newest = store.host(HostId::new(1)).expect("accepted");
    assert_eq!((newest.record.generation, newest.record.seq), (2, 1));
}

#[test]
fn each_event_is_kept_once_and_a_sync_fills_the_gap() {
    let now = Now::default();
    let (mut full, mut holed) = (Store::default(), Store::default());
    for store in [&mut full, &mut holed] {
        store.accept(now, hosts(vec![record(1, 1, 1)]));
    }
    full.accept(now, events((1..=5).map(|seq| event(1, 1, seq)).collect()));
    let new = holed.accept(now, events([1, 2, 5, 5, 2].map(|seq| event(1, 1, seq)).to_vec()));
    assert_eq!(new.events.len(), 3);
    assert_eq!(holed.events().contiguous(HostId::new(1)), (1, 2));

    let response = full.compare(&SyncRequest { have: holed.versions(Groups::ALL), ..SyncRequest::default() });
    assert!(response.lack.is_empty());
    let filled = holed.accept(now, response.missing.unwrap_or_default());
    assert_eq!(filled.events.iter().map(|e| e.seq).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(holed.events().contiguous(HostId::new(1)), (1, 5));
    let response = full.compare(&SyncRequest { have: holed.versions(Groups::ALL), ..SyncRequest::default() });
    assert!(response.missing.unwrap_or_default() == Gossip::default() && response.lack.is_empty());
}

#[test]
fn what_the_asker_has_and_the_answerer_lacks_is_named() {
    let now = Now::default();
    let (mut asker, answerer) = (Store::default(), Store::default());
    asker.accept(now, hosts(vec![record(7, 1, 1)]));
    let response = answerer.compare(&SyncRequest { have: asker.versions(Groups::ALL), ..SyncRequest::default() });
    assert!(response.missing.unwrap_or_default().hosts.is_empty());
    assert_eq!(response.lack.iter().map(|v| v.host).collect::<Vec<_>>(), [7]);
    assert_eq!(asker.select(&response.lack).hosts.len(), 1, "and just that is pushed");
    asker.accept(now, hosts(vec![record(8, 1, 1)]));
    assert_eq!(asker.select(&response.lack).hosts.len(), 1);
}

#[test]
fn a_gap_is_waited_for_until_someone_had_it_all_and_a_long_sync_goes_on_where_it_was_cut() {
    let now = Now::default();
    let (mut full, mut late) = (Store::default(), Store::default());
    for store in [&mut full, &mut late] {
        store.accept(now, hosts(vec![record(1, 1, 1)]));
    }
    full.accept(now, events((1..=900).map(|seq| event(1, 1, seq)).collect()));
    late.accept(now, events(vec![event(1, 1, 900)]));
    for expected in [512, 900] {
        let response = full.compare(&SyncRequest { have: late.versions(Groups::ALL), ..SyncRequest::default() });
        late.accept(now, response.missing.unwrap_or_default());
        late.cover(&response.covers);
        assert_eq!(late.events().contiguous(HostId::new(1)), (1, expected));
    }
    // Two that both lack event 5 do not talk each other out of it.
    let (mut one, mut other) = (Store::default(), Store::default());
    for store in [&mut one, &mut other] {
        store.accept(now, hosts(vec![record(1, 1, 1)]));
        store.accept(now, events([1, 2, 3, 4, 6].map(|seq| event(1, 1, seq)).to_vec()));
    }
    let response = other.compare(&SyncRequest { have: one.versions(Groups::ALL), ..SyncRequest::default() });
    one.accept(now, response.missing.unwrap_or_default());
    one.cover(&response.covers);
    assert_eq!(one.events().contiguous(HostId::new(1)), (1, 4));
    assert_eq!(one.accept(now, events(vec![event(1, 1, 5)])).events.len(), 1);
    // What nobody keeps any more is given up.
    let mut fresh = Store::default();
    fresh.accept(now, hosts(vec![record(1, 1, 1)]));
    full.accept(now, events((901..=6000).map(|seq| event(1, 1, seq)).collect()));
    for _ in 0..10 {
        let response = full.compare(&SyncRequest { have: fresh.versions(Groups::ALL), ..SyncRequest::default() });
        fresh.accept(now, response.missing.unwrap_or_default());
        fresh.cover(&response.covers);
    }
    assert_eq!(fresh.events().contiguous(HostId::new(1)), (1, 6000));
}

#[test]
fn a_restarted_origin_counts_from_one_again_and_its_old_events_come_no_more() {
    let mut store = Store::default();
    assert_eq!(
        store.accept(Now::default(), events(vec![event(1, 1, 9), event(1, 2, 1), event(1, 1, 10)])).events.len(),
        2
    );
    assert_eq!(store.events().contiguous(HostId::new(1)), (2, 1));
}

#[test]
fn an_accusation_counts_until_it_is_withdrawn_or_the_accused_lives_anew() {
    let mut store = Store::default();
    let accuse = |seq, withdrawn| AccusationRecord {
        accuser: 2,
        accuser_generation: 1,
        seq,
        accused: 3,
        accused_generation: 4,
        withdrawn,
        ..AccusationRecord::default()
    };
    let accepted = |store: &mut Store, record| {
        store.accept(Now::default(), Gossip { accusations: vec![record], ..Gossip::default() }).accusations.len()
    };
    assert_eq!(accepted(&mut store, accuse(1, false)), 1);
    assert_eq!(accepted(&mut store, accuse(1, false)), 0, "a copy");
    assert_eq!(store.accusations(HostId::new(3), 4).len(), 1);
    assert_eq!(store.accusations(HostId::new(3), 5).len(), 0, "another life");
    assert_eq!(accepted(&mut store, accuse(2, true)), 1);
    assert_eq!(store.accusations(HostId::new(3), 4).len(), 0);
}

#[test]
fn an_accusation_ends_with_its_accusers_life_or_word_and_does_not_come_again() {
    let accuse = |generation, seq, accused| AccusationRecord {
        accuser: 2,
        accuser_generation: generation,
        seq,
        accused,
        ..AccusationRecord::default()
    };
    let mut store = Store::default();
    let mut accepted = |hosts: Vec<HostRecord>, accusations: Vec<AccusationRecord>| {
        let new = store.accept(Now::default(), Gossip { accusations, ..self::hosts(hosts) });
        let standing: Vec<u32> = store.standing(HostId::new(2)).map(|record| record.seq).collect();
        (new.accusations.len(), standing, store.void())
    };
    let says = |generation, seq, accuses_from| HostRecord { accuses_from, ..record(2, generation, seq) };
    let all = || (1..=3).map(|seq| accuse(1, seq, 10 + seq)).collect::<Vec<_>>();
    assert_eq!(accepted(vec![says(1, 1, 1)], all()), (3, vec![1, 2, 3], 0));
    assert_eq!(accepted(vec![says(1, 2, 3)], all()), (0, vec![3], 2), "the first two were taken back");
    assert_eq!(accepted(vec![says(2, 1, 1)], all()), (0, vec![], 5), "another life");
    // That its record has not come yet does not matter.
    assert_eq!(accepted(vec![], vec![accuse(3, 9, 11)]), (1, vec![9], 5));
    assert_eq!(accepted(vec![says(3, 1, 9)], all()), (0, vec![9], 8));
}

/// As they are decoded, bytes are parts of the frame that they came in.
#[test]
fn what_is_kept_of_a_record_does_not_keep_its_frame() {
    let frame = Bytes::from(vec![7; 1000]);
    let mut store = Store::default();
    let said = |seq| HostRecord {
        certificate: frame.slice(..500),
        seal: frame.slice(500..570),
        more: frame.slice(570..),
        digest: frame.slice(..64),
        ..record(1, 1, seq)
    };
    let new = store.accept(Now::default(), hosts(vec![said(1)]));
    let kept = store.host(HostId::new(1)).expect("it is new").record.clone();
    assert_eq!((new.hosts.as_slice(), &kept), (&[said(1).into()][..], &said(1).into()));
    let parts =
        |record: &HostRecord| [&record.certificate, &record.seal, &record.more, &record.digest].map(|b| b.as_ptr());
    let within = frame.as_ptr_range();
    assert!(parts(&kept).iter().all(|part| !within.contains(part)));
    store.accept(Now::default(), hosts(vec![said(2)]));
    let next = store.host(HostId::new(1)).expect("it is there").record.clone();
    assert_eq!(parts(&next)[0], parts(&kept)[0], "one certificate is kept once");
}

#[test]
fn nothing_grows_without_bound() {
    let mut store = Store::default();
    let now = Now::default();
    store.accept(now, hosts((0..2000).map(|host| record(host, 1, 1)).collect()));
    assert_eq!(store.versions(Groups::ALL).len(), super::MAX_HOSTS);
    store.accept(now, events((1..=10_000).map(|seq| event(1, 1, seq * 2)).collect()));
    assert_eq!(store.events().iter().count(), EVENT_CAPACITY);
    let long = HostRecord { name: "x".repeat(10_000), ..record(1, 9, 9) };
    let before = store.refused();
    for long in [
        long,
        HostRecord { certificate: vec![0; 2000].into(), ..record(1, 9, 9) },
        HostRecord { seal: vec![0; 200].into(), ..record(1, 9, 9) },
        HostRecord { more: vec![0; 2000].into(), ..record(1, 9, 9) },
    ] {
        assert!(store.accept(now, hosts(vec![long])).hosts.is_empty());
    }
    assert_eq!(store.refused() - before, 4);
}

#[test]
fn hosts_that_have_the_same_find_it_by_digests_and_others_compare_what_differs() {
    let (mut one, mut other) = (Store::default(), Store::default());
    for store in [&mut one, &mut other] {
        store.accept(Now::default(), hosts((1..40).map(|host| record(host, 1, 1)).collect()));
    }
    let ask = |store: &Store| SyncRequest { digests: store.digests(), ..SyncRequest::default() };
    assert_eq!(one.compare(&ask(&other)).differ, 0);

    one.accept(Now::default(), hosts(vec![record(7, 1, 2)]));
    let response = one.compare(&ask(&other));
    assert_eq!((response.differ, response.missing.unwrap_or_default().hosts.len()), (1 << 7, 0));
    let have = other.versions(Groups::from_mask(1 << 7));
    assert_eq!(have.iter().map(|version| version.host).collect::<Vec<_>>(), [7, 23, 39]);
    let response = one.compare(&SyncRequest { have, groups: 1 << 7, ..SyncRequest::default() });
    assert_eq!(response.covers.len(), 3);
    other.accept(Now::default(), response.missing.unwrap_or_default());
    assert_eq!(one.compare(&ask(&other)).differ, 0);

    // What came out of order and what was said against others counts, too; a strange number of digests is another version's.
    one.accept(Now::default(), events(vec![event(3, 1, 2)]));
    assert_eq!(one.compare(&ask(&other)).differ, 1 << 3);
    assert_eq!(other.compare(&SyncRequest { digests: vec![1], ..SyncRequest::default() }).differ, Groups::ALL.mask());
}
