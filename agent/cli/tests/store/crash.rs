//! What was acknowledged is there after a crash.

use std::time::Duration;

use crate::support::{Chance, Member, everything, put};

/// Crashes of one run.
const CRASHES: u64 = 6;

/// Writers at once.
const WRITERS: u64 = 8;

#[tokio::test]
async fn every_acknowledged_write_is_there_after_a_crash_at_any_moment() {
    let seed = std::process::id().into();
    eprintln!("seed {seed}");
    let mut chance = Chance(seed);
    let mut member = Member::alone();
    let mut acknowledged: Vec<u64> = vec![0; usize::try_from(WRITERS).unwrap()];
    let mut revision = 0;
    for crash in 0..CRASHES {
        member.ready().await;
        let writers: Vec<_> =
            (0..WRITERS).zip(&acknowledged).map(|(writer, from)| tokio::spawn(write(&member, writer, *from))).collect();
        tokio::time::sleep(Duration::from_millis(50 + chance.below(400))).await;
        member.kill();
        for (writer, before) in writers.into_iter().zip(&mut acknowledged) {
            let reached = writer.await.unwrap();
            assert!(reached >= *before);
            *before = reached;
        }
        member.start();
        member.ready().await;
        let found = member.kv().range(everything()).await.unwrap().into_inner();
        let newest = found.header.unwrap().revision;
        assert!(newest >= revision, "crash {crash}: revision {newest} after {revision}");
        revision = newest;
        for (writer, acknowledged) in acknowledged.iter().enumerate() {
            let kv = found.kvs.iter().find(|kv| kv.key == format!("w{writer}"));
            let value = kv.map_or(0, |kv| std::str::from_utf8(&kv.value).unwrap().parse::<u64>().unwrap());
            // One more may have been written that was not acknowledged any more.
            assert!(
                (*acknowledged..=acknowledged + 1).contains(&value),
                "crash {crash}: writer {writer} was told {acknowledged}, and there is {value}"
            );
        }
        // What was not acknowledged and is there counts from now on.
        for kv in &found.kvs {
            let writer: usize = std::str::from_utf8(&kv.key[1..]).unwrap().parse().unwrap();
            acknowledged[writer] = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
        }
    }
    assert!(acknowledged.iter().all(|reached| *reached > 0), "{acknowledged:?}");
}

/// Counts upwards under a key of its own until it gets no answer; the last number that was acknowledged.
fn write(member: &Member, writer: u64, from: u64) -> impl Future<Output = u64> + use<> {
    let mut kv = member.kv();
    async move {
        let mut reached = from;
        while kv.put(put(format!("w{writer}"), (reached + 1).to_string())).await.is_ok() {
            reached += 1;
        }
        reached
    }
}

#[tokio::test]
async fn an_end_in_order_loses_nothing_and_says_so() {
    let mut member = Member::alone();
    member.ready().await;
    member.kv().put(put("k", "v")).await.unwrap();
    assert_eq!(member.end(), Some(0));
    member.start();
    member.ready().await;
    let found = member.kv().range(crate::support::get("k")).await.unwrap().into_inner();
    assert_eq!(crate::support::value(&found), Some(b"v".as_slice()));
}
