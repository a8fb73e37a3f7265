use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use ringmesh_proto::{
    HostId, Instant, Now, ZoneId,
    member::Member,
    peer::{Delegate, EventKey, EventRecord, Gossip, ZoneRecord, ZoneVector},
    zone_digest::ZoneDigest,
};

use super::*;
use crate::node::Frame;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Now {
    Now { instant: Instant::ZERO + SECOND * seconds as u32, ..Now::default() }
}

fn member(id: u32) -> Member {
    let address = |net: u8| Some(([10, net, 0, id as u8], 7400).into());
    Member { id: HostId::new(id), generation: 1, addresses: [address(77), address(78)] }
}

fn record(name: &str, epoch: u32, seq: u32, writer: u32, delegates: &[u32]) -> ZoneRecord {
    let delegate = |id: &u32| Delegate { member: Some(member(*id).to_record(0, 0)), name: format!("h{id}") };
    ZoneRecord {
        zone: ZoneId::of(name).raw(),
        epoch,
        seq,
        writer,
        name: name.into(),
        digest: ZoneDigest { hosts: 5, ..ZoneDigest::default() }.encode(),
        delegates: delegates.iter().map(delegate).collect(),
        age_ms: 0,
    }
}

fn event(seq: u32, zone: &str) -> EventRecord {
    EventRecord { origin: 7, generation: 1, seq, severity: 2, zone: ZoneId::of(zone).raw(), ..EventRecord::default() }
}

#[test]
fn the_newest_record_wins_whatever_the_order() {
    let mut zones = Zones::new("home", &[]);
    assert_eq!(zones.accept(at(1), &record("east", 1, 5, 9, &[1, 2, 3])), Accepted::New);
    for old in [record("east", 1, 5, 9, &[4]), record("east", 1, 4, 99, &[4]), record("east", 0, 9, 99, &[4])] {
        assert_eq!(zones.accept(at(1), &old), Accepted::Old);
    }
    assert_eq!(zones.accept(at(1), &record("east", 1, 5, 10, &[1, 2])), Accepted::New, "of two writers the higher");
    assert_eq!(zones.accept(at(1), &record("east", 2, 1, 1, &[4])), Accepted::New, "a new epoch");
    let heard = zones.heard(ZoneId::of("east")).unwrap();
    assert_eq!((heard.digest.hosts, heard.delegates[0].0.id), (5, HostId::new(4)));
    // Who was a delegate may still be called when the new ones are gone.
    let (delegates, candidates) = zones.candidates(ZoneId::of("east"));
    assert_eq!((delegates.len(), candidates.iter().map(|m| m.id.raw()).collect::<Vec<_>>()), (1, vec![4, 1, 2, 3]));
}

#[test]
fn records_that_break_a_bound_or_have_the_id_of_another_zone_are_refused() {
    let mut zones = Zones::new("costarring", &[]);
    let known = "costarring".to_owned();
    assert_eq!(zones.accept(at(1), &record("liquid", 1, 1, 1, &[1])), Accepted::Clash { known });
    let good = record("east", 1, 1, 1, &[1]);
    let bad = [
        ZoneRecord { name: String::new(), ..good.clone() },
        ZoneRecord { zone: 1, ..good.clone() },
        ZoneRecord { name: "e".repeat(64), zone: ZoneId::of(&"e".repeat(64)).raw(), ..good.clone() },
        ZoneRecord { digest: Bytes::from(vec![1; 89]), ..good.clone() },
        ZoneRecord { delegates: vec![Delegate::default()], ..good.clone() },
        record("east", 1, 1, 1, &[1, 2, 3, 4]),
    ];
    for record in &bad {
        assert_eq!(zones.accept(at(1), record), Accepted::Refused, "{record:?}");
    }
    for number in 0..100 {
        zones.accept(at(1), &record(&format!("z{number}"), 1, 1, 1, &[1]));
    }
    assert_eq!(zones.count(), MAX_ZONES);
    assert_eq!(zones.accept(at(1), &good), Accepted::Refused, "there are as many as there may be");
}

#[test]
fn an_age_is_the_sum_of_the_times_at_all_who_passed_the_record_on() {
    let (mut one, mut two) = (Zones::new("a", &[]), Zones::new("b", &[]));
    one.accept(at(10), &record("east", 1, 1, 1, &[1]));
    let sent = one.lacking(at(14), &ZoneVector { zones: two.versions(), ..ZoneVector::default() });
    assert_eq!((sent.len(), sent[0].age_ms), (1, 4000));
    // The second's clock is another one.
    two.accept(at(1), &sent[0]);
    assert_eq!(two.heard(ZoneId::of("east")).unwrap().age(at(3)), SECOND * 6);
    assert!(one.lacking(at(15), &ZoneVector { zones: two.versions(), ..ZoneVector::default() }).is_empty());
}

#[test]
fn an_event_is_new_once_and_a_vector_finds_what_is_missing() {
    let (mut one, mut two) = (Crossing::default(), Crossing::default());
    for seq in 1..=10 {
        assert!(one.accept(&event(seq, "east")) && !one.accept(&event(seq, "east")));
        assert!(seq % 2 == 0 || two.accept(&event(seq, "east")));
    }
    let missing =
        |one: &Crossing, theirs: &[EventKey]| one.lacking(theirs, None).iter().map(|e| e.seq).collect::<Vec<_>>();
    assert_eq!(missing(&one, &two.keys(None)), [2, 4, 6, 8, 10]);
    assert_eq!(one.keys(Some(ZoneId::of("east"))), [], "a zone need not be told its own");
    (11..5000).for_each(|seq| assert!(one.accept(&event(seq, "east"))));
    assert_eq!(one.keys(None).len(), MAX_VECTOR);
    assert_eq!(missing(&one, &[]).len(), MAX_VECTOR);
}

#[test]
fn warnings_and_what_became_of_hosts_cross_and_nothing_else() {
    let event = |severity, kind: &str| EventRecord { severity, kind: kind.into(), ..EventRecord::default() };
    assert!(crosses(&event(2, "service-verdict")) && crosses(&event(1, "uplink-changed")));
    assert!(crosses(&event(0, "host-alive")));
    assert!(!crosses(&event(0, "service-verdict")) && !crosses(&event(0, "container-state")));
}

/// Of so many bytes.
fn frame(len: usize) -> Frame {
    let of = |text: usize| {
        let event = EventRecord { text: "x".repeat(text), ..EventRecord::default() };
        Frame::new(7, Gossip { events: vec![event], ..Gossip::default() }, None)
    };
    let frame = of(len - (of(len).encoded_len() - len));
    assert_eq!(frame.encoded_len(), len);
    frame
}

#[test]
fn a_bucket_sends_its_rate_holds_the_rest_back_and_drops_what_waits_too_long() {
    let mut bucket = Bucket::new(1000);
    (0..300).for_each(|_| bucket.push(at(100).instant, member(1), frame(100)));
    let sent = |bucket: &mut Bucket, now: Now| std::iter::from_fn(|| bucket.pop(now.instant)).count();
    // A second's worth of it is saved up, and the last one may put it into debt.
    assert_eq!(sent(&mut bucket, at(100)), 11);
    let next = bucket.poll_timeout().unwrap();
    assert!(bucket.pop(next - Duration::from_millis(1)).is_none() && bucket.pop(next).is_some());
    let rest = (101..=109).map(|second| sent(&mut bucket, at(second))).sum::<usize>();
    assert!((85..=95).contains(&rest), "{rest} frames in 9 s");
    assert_eq!(sent(&mut bucket, at(111)), 0);
    assert_eq!(bucket.dropped(), 300 - 12 - rest as u64);
    assert_eq!(bucket.poll_timeout(), None);
    // Bytes have a bound, too.
    (0..100).for_each(|_| bucket.push(at(200).instant, member(1), frame(64 * 1024)));
    assert_eq!(bucket.dropped(), 300 - 12 - rest as u64 + 96);
}

/// Runs what is due up to a time; says whom it probes.
fn calls(trunks: &mut Trunks, until: Now, candidates: &[Member]) -> Vec<(Instant, TrunkProbe)> {
    let mut calls = Vec::new();
    while let Some(due) = trunks.poll_timeout().filter(|due| *due <= until.instant) {
        let (probes, _) = trunks.handle_timeout(due, |_| (vec![candidates[0]], candidates), |_, _| true);
        calls.extend(probes.into_iter().map(|probe| (due, probe)));
    }
    calls
}

#[test]
fn a_lost_trunk_is_tried_over_both_uplinks_and_with_others_ever_more_seldom() {
    let candidates = [member(1), member(2), member(3)];
    let mut trunks = Trunks::default();
    let wanted = BTreeSet::from([(ZoneId::of("east"), 0)]);
    assert!(trunks.rewire(at(1).instant, &wanted, |_| (Some(candidates[0]), &candidates[..]), |_, _| true));
    assert!(!trunks.rewire(at(1).instant, &wanted, |_| (Some(candidates[0]), &candidates[..]), |_, _| true));
    let first = calls(&mut trunks, at(60), &candidates);
    let ways: BTreeSet<_> = first.iter().map(|(_, probe)| (probe.to.id, probe.uplink)).collect();
    assert_eq!(ways.len(), 6, "each of three hosts over each of two uplinks: {ways:?}");
    let minute = calls(&mut trunks, at(120), &candidates).len();
    assert!((16..=40).contains(&minute), "{minute} probes in a minute");
    // Whoever answers, it is up at once, and then watched as any link.
    let (due, probe) = loop {
        let due = trunks.poll_timeout().unwrap();
        if let Some(call) = calls(&mut trunks, Now { instant: due, ..at(0) }, &candidates).pop() {
            break call;
        }
    };
    assert!(trunks.handle_ack(due + Duration::from_millis(1), probe.to.id, probe.uplink, probe.number));
    assert!(trunks.to(probe.to.id).unwrap().1.is_usable());
}

#[test]
fn the_more_zones_the_rarer_each_speaks() {
    let mut zones = Zones::new("home", &[]);
    let (refresh, least) = (zones.refresh(), zones.min_interval());
    assert_eq!((refresh, least), (SECOND * 10, SECOND * 2));
    (0..63).for_each(|number| drop(zones.accept(at(1), &record(&format!("z{number}"), 1, 1, 1, &[1]))));
    assert_eq!((zones.refresh(), zones.min_interval(), zones.lost_after()), (SECOND * 60, SECOND * 60, SECOND * 185));
}
