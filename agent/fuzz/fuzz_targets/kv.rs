//! Any commands, as two replicas apply them that write their checkpoints, clear up and reopen at other times: nothing panics,
//! and they answer the same, to commands, ranges, watches and sums.
#![no_main]

#[path = "store/memory.rs"]
mod memory;

use std::collections::BTreeMap;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use memory::Memory;
use prost::Message;
use ringmesh_proto::{
    etcd::{
        etcdserverpb::{
            AlarmRequest, AlarmType, CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest,
            LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
            compare::TargetUnion, request_op::Request,
        },
        mvccpb::Event,
    },
    store::{Command, command::Change},
};
use ringmesh_store::kv::{Kv, Refusal, Settings, StreamId};

const MAX_TURNS: usize = 1000;

/// Few, so that they meet; and what is none.
const KEYS: [&[u8]; 7] = [b"a", b"b", b"ba", b"bb", b"c", b"\0", b""];

fuzz_target!(|bytes: &[u8]| {
    let mut replicas = [Replica::new(), Replica::new()];
    let mut rest = bytes;
    // A step is: what it is, its length, its bytes.
    while let [step, len, tail @ ..] = rest {
        let (input, tail) = tail.split_at(tail.len().min(usize::from(*len)));
        rest = tail;
        let which = usize::from(*len % 2);
        match step % 16 {
            0 | 1 => change(&mut replicas, Command::decode(input).unwrap_or_default().change),
            2..=8 => change(&mut replicas, Some(small(*step, input))),
            9 => replicas[which].checkpoint(),
            10 => _ = replicas[which].kv.tidy(),
            11 => replicas[which].reopen(),
            12 => watch(&mut replicas, &WatchCreateRequest::decode(input).unwrap_or_default()),
            13 => watch(&mut replicas, &small_watch(input)),
            14 => replicas.iter_mut().for_each(|replica| replica.kv.cancel_watch(replica.stream, (*len).into())),
            _ => same(&replicas, &RangeRequest::decode(input).unwrap_or_default()),
        }
        replicas.iter_mut().for_each(Replica::listen);
    }
    end(replicas);
});

struct Replica {
    kv: Kv,
    memory: Memory,
    stream: StreamId,
    /// By watch: what was told of it.
    heard: BTreeMap<i64, Vec<Event>>,
    /// Watches that were made, and those that ended, with why.
    answers: Vec<(i64, bool, i64, String)>,
}

impl Replica {
    fn new() -> Self {
        let memory = Memory::default();
        let mut kv = open(&memory);
        let stream = kv.open_stream();
        Self { kv, memory, stream, heard: BTreeMap::new(), answers: Vec::new() }
    }

    fn checkpoint(&mut self) {
        let Some(checkpoint) = self.kv.begin_checkpoint() else { return };
        let written = checkpoint.write().expect("memory does not fail");
        self.kv.end_checkpoint(written);
    }

    /// Watches go on where they stood.
    fn reopen(&mut self) {
        self.checkpoint();
        let watchers = self.kv.take_watchers();
        let applied = self.kv.applied();
        // The file has one owner.
        self.kv = open(&Memory::default());
        self.kv = open(&self.memory);
        assert_eq!(self.kv.applied(), applied);
        self.kv.adopt_watchers(watchers);
    }

    fn listen(&mut self) {
        let mut turns = 0;
        while self.kv.catch_up() {
            turns += 1;
            assert!(turns < MAX_TURNS, "history has an end");
        }
        while let Some(stream) = self.kv.poll_ready() {
            while let Some(response) = self.kv.poll_watch(stream, 100) {
                if !response.events.is_empty() {
                    self.heard.entry(response.watch_id).or_default().extend(response.events);
                }
                if response.created || response.canceled {
                    let reason = response.cancel_reason;
                    self.answers.push((response.watch_id, response.canceled, response.compact_revision, reason));
                }
            }
        }
    }
}

fn open(memory: &Memory) -> Kv {
    Kv::open(memory.clone(), Settings::default()).expect("what was written opens")
}

fn change(replicas: &mut [Replica; 2], change: Option<Change>) {
    // A command of a newer ringmesh, which stops a replica.
    let Some(change) = change else { return };
    // Who proposes checks first; who applies has to get along with what it is given.
    let _ = replicas[0].kv.check(&change);
    let change = Some(change);
    let index = replicas[0].kv.applied().index + 1;
    let command = Command { id: index, change };
    let [one, other] = replicas.each_mut().map(|replica| replica.kv.apply(index, 1, &command));
    assert_eq!(one, other, "of {command:?}");
    assert!(!matches!(one, Err(Refusal::Storage(_))), "memory does not fail: {one:?}");
}

fn watch(replicas: &mut [Replica; 2], request: &WatchCreateRequest) {
    replicas.iter_mut().for_each(|replica| replica.kv.watch(replica.stream, request));
}

fn same(replicas: &[Replica; 2], request: &RangeRequest) {
    let [one, other] = replicas.each_ref().map(|replica| replica.kv.range(request));
    assert_eq!(one, other, "of {request:?}");
}

/// All that the replicas hold; and what one holds that opens it anew.
fn end(mut replicas: [Replica; 2]) {
    for revision in 0..replicas[0].kv.revision().min(20) + 2 {
        let (key, range_end) = (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"));
        same(&replicas, &RangeRequest { key, range_end, revision, ..RangeRequest::default() });
    }
    let [one, other] = replicas.each_mut().map(|replica| {
        let sum = replica.kv.begin_hash(0).and_then(|work| work.run()).expect("all can be summed");
        let leases: Vec<_> = replica.kv.leases().iter().collect();
        (sum, leases, replica.kv.alarms(AlarmType::None), replica.kv.applied(), replica.kv.compacted())
    });
    assert_eq!(one, other);
    assert_eq!(replicas[0].answers, replicas[1].answers);
    assert_eq!(replicas[0].heard, replicas[1].heard);
    replicas[0].reopen();
    same(&replicas, &RangeRequest { key: "a".into(), range_end: "z".into(), ..RangeRequest::default() });
}

/// A command in few bytes, over few keys, so that they meet.
fn small(step: u8, input: &[u8]) -> Change {
    let mut input = Input(input);
    match step / 16 % 8 {
        0..=2 => Change::Put(input.put()),
        3 => Change::DeleteRange(input.delete()),
        4 => {
            let compare = (0..input.byte() % 3).map(|_| input.compare()).collect();
            let success = (0..input.byte() % 4).map(|_| input.operation(2)).collect();
            let failure = (0..input.byte() % 4).map(|_| input.operation(2)).collect();
            Change::Txn(TxnRequest { compare, success, failure })
        }
        5 => Change::Compaction(CompactionRequest { revision: input.number(), physical: input.flag() }),
        6 if input.flag() => Change::LeaseRevoke(LeaseRevokeRequest { id: input.number() % 4 }),
        6 => Change::LeaseGrant(LeaseGrantRequest { id: input.number() % 4, ttl: input.number() }),
        _ => Change::Alarm(AlarmRequest {
            action: (input.byte() % 4).into(),
            member_id: 1,
            alarm: (input.byte() % 4).into(),
        }),
    }
}

fn small_watch(input: &[u8]) -> WatchCreateRequest {
    let mut input = Input(input);
    WatchCreateRequest {
        key: input.key(),
        range_end: input.range_end(),
        start_revision: input.number(),
        prev_kv: input.flag(),
        fragment: input.flag(),
        filters: input.flag().then_some((input.byte() % 3).into()).into_iter().collect(),
        ..WatchCreateRequest::default()
    }
}

/// Bytes to choose by; zeros when there are no more.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    fn number(&mut self) -> i64 {
        self.byte().cast_signed().into()
    }

    fn key(&mut self) -> Bytes {
        Bytes::from_static(KEYS[usize::from(self.byte()) % KEYS.len()])
    }

    fn range_end(&mut self) -> Bytes {
        if self.flag() { self.key() } else { Bytes::new() }
    }

    fn put(&mut self) -> PutRequest {
        PutRequest {
            key: self.key(),
            value: Bytes::from(vec![self.byte(); usize::from(self.byte() % 3)]),
            lease: if self.flag() { self.number() % 4 } else { 0 },
            prev_kv: self.flag(),
            ignore_value: self.byte() % 4 == 1,
            ignore_lease: self.byte() % 4 == 1,
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        DeleteRangeRequest { key: self.key(), range_end: self.range_end(), prev_kv: self.flag() }
    }

    fn compare(&mut self) -> Compare {
        let number = self.number();
        let target = self.byte() % 6;
        let union = match target {
            0 => TargetUnion::Version(number),
            1 => TargetUnion::CreateRevision(number),
            2 => TargetUnion::ModRevision(number),
            3 => TargetUnion::Value(self.key()),
            _ => TargetUnion::Lease(number),
        };
        // Now and then not what the target says, or nothing.
        let target_union = (!self.flag()).then_some(union);
        let (result, target) = ((self.byte() % 5).into(), (target ^ self.byte() / 128).into());
        Compare { result, target, key: self.key(), range_end: self.range_end(), target_union }
    }

    fn operation(&mut self, depth: u8) -> RequestOp {
        let request = match self.byte() % 5 {
            0 => Request::RequestRange(RangeRequest {
                key: self.key(),
                range_end: self.range_end(),
                revision: self.number(),
                limit: (self.byte() % 4).into(),
                sort_order: (self.byte() % 4).into(),
                sort_target: (self.byte() % 6).into(),
                ..RangeRequest::default()
            }),
            1 => Request::RequestDeleteRange(self.delete()),
            2 if depth > 0 => Request::RequestTxn(TxnRequest {
                compare: (0..self.byte() % 2).map(|_| self.compare()).collect(),
                success: (0..self.byte() % 3).map(|_| self.operation(depth - 1)).collect(),
                failure: (0..self.byte() % 3).map(|_| self.operation(depth - 1)).collect(),
            }),
            3 if depth == 0 => return RequestOp::default(),
            _ => Request::RequestPut(self.put()),
        };
        RequestOp { request: Some(request) }
    }
}
