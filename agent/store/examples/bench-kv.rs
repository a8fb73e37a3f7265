//! What the keys cost: time of commands, memory of keys and watchers. Nothing here is durable: the disk is memory.
//!
//! `cargo run -p ringmesh-store --example bench-kv [KEYS]`

#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use bytes::Bytes;
use redb::backends::InMemoryBackend;
use ringmesh_proto::{
    etcd::etcdserverpb::{CompactionRequest, PutRequest, RangeRequest, WatchCreateRequest},
    store::{Command, command::Change},
};
use ringmesh_store::kv::{Kv, Settings};

const VALUE_BYTES: usize = 256;
const WATCHERS: u64 = 100_000;

fn main() {
    let keys: u64 = std::env::args().nth(1).and_then(|keys| keys.parse().ok()).unwrap_or(200_000);
    let before = resident_kb();
    let mut kv = Kv::open(InMemoryBackend::new(), Settings::default()).expect("memory does not fail");
    println!("an empty store: {} kB", resident_kb() - before);

    let (mut writing, file_before) = (Writing::default(), kv.size_bytes());
    timed("put of a new key, with checkpoints", keys, |n| {
        apply(&mut kv, put(n, 0));
        writing.checkpoint_if_due(&mut kv);
    });
    println!("    {writing}; the file grew by {} kB", (kv.size_bytes() - file_before) / 1024);
    let mut writing = Writing::default();
    timed("put of a known key, with checkpoints", keys, |n| {
        apply(&mut kv, put(n * 7919 % keys, 1));
        writing.checkpoint_if_due(&mut kv);
    });
    println!("    {writing}");
    timed("range of a key", keys, |n| {
        let key = key(n * 7919 % keys);
        let found = kv.range(&RangeRequest { key, ..RangeRequest::default() }).expect("it can be read");
        assert_eq!(found.count, 1);
    });
    timed("range of ten keys", keys / 10, |n| {
        let (key, range_end) = (key(n * 10), key(n * 10 + 10));
        let found = kv.range(&RangeRequest { key, range_end, ..RangeRequest::default() }).expect("it can be read");
        assert_eq!(found.kvs.len(), 10);
    });

    let revision = kv.revision();
    timed("compaction, with what it clears", 1, |_| {
        apply(&mut kv, Change::Compaction(CompactionRequest { revision, physical: false }));
        while kv.tidy() {}
    });
    timed("checkpoint after it", 1, |_| _ = checkpoint(&mut kv));
    timed("hash", 1, |_| {
        println!("    {:?}", kv.begin_hash(0).and_then(|work| work.run()).expect("it can be read").hash)
    });
    watchers(&mut kv, keys);
}

fn watchers(kv: &mut Kv, keys: u64) {
    let before = resident_kb();
    let streams: Vec<_> = (0..100).map(|_| kv.open_stream()).collect();
    timed("watch of a key", WATCHERS, |n| {
        let stream = streams[n as usize % streams.len()];
        kv.watch(stream, &WatchCreateRequest { key: key(n % keys), ..WatchCreateRequest::default() });
        while kv.poll_watch(stream, 1 << 20).is_some() {}
    });
    println!("    a watcher: {} bytes", (resident_kb() - before) * 1024 / WATCHERS);
    timed("put of a watched key, and its event", keys.min(WATCHERS), |n| {
        apply(kv, put(n, 2));
        if kv.checkpoint_due() {
            checkpoint(kv);
        }
        while let Some(stream) = kv.poll_ready() {
            while kv.poll_watch(stream, 1 << 20).is_some() {}
        }
    });
}

fn timed(what: &str, count: u64, mut act: impl FnMut(u64)) {
    let (start, before) = (Instant::now(), resident_kb());
    (0..count).for_each(&mut act);
    let each = start.elapsed().as_nanos() as f64 / count as f64 / 1000.0;
    println!("{what}: {each:.2} µs; memory grew by {} kB", resident_kb() as i64 - before as i64);
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("/registry/things/{number:08}"))
}

fn put(number: u64, round: u8) -> Change {
    Change::Put(PutRequest { key: key(number), value: Bytes::from(vec![round; VALUE_BYTES]), ..PutRequest::default() })
}

fn apply(kv: &mut Kv, change: Change) {
    let index = kv.applied().index + 1;
    kv.apply(index, 1, &Command { id: index, change: Some(change) }).expect("it is a good command");
}

/// What checkpoints took.
#[derive(Default)]
struct Writing {
    count: u32,
    total: Duration,
    longest: Duration,
}

impl Writing {
    fn checkpoint_if_due(&mut self, kv: &mut Kv) {
        if kv.checkpoint_due() {
            let took = checkpoint(kv);
            (self.count, self.total, self.longest) = (self.count + 1, self.total + took, self.longest.max(took));
        }
    }
}

impl Display for Writing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "of it {} checkpoints took {:.0?}, the longest {:.0?}", self.count, self.total, self.longest)
    }
}

fn checkpoint(kv: &mut Kv) -> Duration {
    let start = Instant::now();
    if let Some(checkpoint) = kv.begin_checkpoint() {
        let written = checkpoint.write().expect("memory does not fail");
        kv.end_checkpoint(written);
    }
    start.elapsed()
}

/// Of this process, the disk in memory included.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
