//! The same random requests to ours and to Debian's etcd: all answers are equal but for ids and terms.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use bytes::Bytes;
use ringmesh_proto::etcd::{
    etcdserverpb::{
        CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseLeasesRequest, LeaseRevokeRequest,
        LeaseTimeToLiveRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, ResponseOp, TxnRequest,
        WatchCancelRequest, WatchCreateRequest, WatchRequest, WatchResponse, compare::TargetUnion, kv_client::KvClient,
        lease_client::LeaseClient, request_op, response_op, watch_client::WatchClient, watch_request::RequestUnion,
    },
    mvccpb::Event,
};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::support::{Chance, LONG, Member, eventually, free_ports, get, http, words};

/// Requests of one run.
const REQUESTS: usize = 3000;

/// Keys that they are about: few, so that they meet.
const KEYS: u64 = 8;

/// Leases likewise.
const LEASES: u64 = 4;

/// What nothing but the end has for its value.
const LAST: &[u8] = b"the last";

/// Runs, each with new stores.
const RUNS: u64 = 2;

#[tokio::test]
#[ignore = "needs Debian's etcd-server"]
async fn random_requests_are_answered_as_etcd_answers_them() {
    for run in 0..RUNS {
        let seed = u64::from(std::process::id()) * RUNS + run;
        compare(seed).await;
    }
}

/// Sent one after the other, in JSON.
const JSON: [(&str, &str); 24] = [
    ("kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#),
    ("kv/put", r#"{"key":"Zm9v","value":"YmF6","prev_kv":true}"#),
    ("kv/put", r#"{"value":"YmF6"}"#),
    ("kv/put", r#"{"key":"Zm9v","lease":"77"}"#),
    ("lease/grant", r#"{"TTL":"100","ID":"77"}"#),
    ("lease/grant", r#"{"TTL":100,"ID":77}"#),
    ("kv/put", r#"{"key":"Zm9w","lease":"77","unknown":[1]}"#),
    ("kv/range", r#"{"key":"Zm9v","range_end":"Zm9y"}"#),
    ("kv/range", r#"{"key":"AA==","rangeEnd":"AA==","sortOrder":"DESCEND","sort_target":"MOD","limit":1}"#),
    ("kv/range", r#"{"key":"Zm9v","count_only":true}"#),
    ("kv/range", r#"{"key":"Zm9v","revision":"99"}"#),
    ("kv/range", ""),
    (
        "kv/txn",
        r#"{"compare":[{"key":"Zm9v","target":"VERSION","result":"GREATER","version":"1"}],
            "success":[{"request_put":{"key":"YQ==","value":"Yg=="}},{"requestRange":{"key":"YQ=="}},
            {"request_delete_range":{"key":"YQ==","prev_kv":true}}],"failure":[]}"#,
    ),
    ("kv/txn", r#"{"success":[{"request_put":{"key":"YQ=="}},{"request_put":{"key":"YQ=="}}]}"#),
    ("kv/txn", "{}"),
    ("kv/deleterange", r#"{"key":"Zm9v","prev_kv":true}"#),
    ("kv/compaction", r#"{"revision":"3"}"#),
    ("kv/compaction", r#"{"revision":"3"}"#),
    ("lease/leases", "{}"),
    ("kv/lease/leases", "{}"),
    ("lease/revoke", r#"{"ID":"78"}"#),
    ("kv/lease/revoke", r#"{"ID":"77"}"#),
    ("lease/keepalive", r#"{"ID":"77"}"#),
    ("auth/authenticate", r#"{"name":"root","password":"x"}"#),
];

#[tokio::test]
#[ignore = "needs Debian's etcd-server"]
async fn json_is_read_and_written_as_etcd_does() {
    let ours = Member::alone();
    ours.ready().await;
    let etcd = Etcd::start();
    etcd.ready().await;
    for (path, body) in JSON {
        let path = format!("/v3/{path}");
        let (a, b) = (ours.http("POST", &path, body), http(etcd.port, "POST", &path, body));
        assert_eq!(plain(&a), plain(&b), "{path} {body}");
    }
}

#[tokio::test]
#[ignore = "needs Debian's etcd-server"]
async fn a_stream_of_watches_is_answered_as_etcd_answers_it() {
    let ours = Member::alone();
    ours.ready().await;
    let etcd = Etcd::start();
    etcd.ready().await;
    let (mut ours, mut theirs) = (Side::of(ours.channel()), Side::of(etcd.channel()));
    let (a, b) = (ours.converse().await, theirs.converse().await);
    assert_eq!(a.len(), b.len());
    for (nth, (a, b)) in a.into_iter().zip(b).enumerate() {
        assert_eq!(a, b, "answer {nth}: ours and theirs differ");
    }
}

/// Without what says who answered and in which term.
fn plain((status, body): &(u16, String)) -> (u16, serde_json::Value) {
    let mut answer: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
    for header in ["/header", "/result/header"] {
        if let Some(serde_json::Value::Object(header)) = answer.pointer_mut(header) {
            header.retain(|name, _| name == "revision");
        }
    }
    (*status, answer)
}

async fn compare(seed: u64) {
    eprintln!("seed {seed}");
    let ours = Member::alone();
    ours.ready().await;
    let etcd = Etcd::start();
    etcd.ready().await;
    let (mut ours, mut theirs) = (Side::of(ours.channel()), Side::of(etcd.channel()));
    let mut chance = Chance(seed);
    let mut revision = 1;
    let mut compacted = 0;
    for nth in 0..REQUESTS {
        let request = request(&mut chance, revision);
        let (a, b) = (ours.ask(&request).await, theirs.ask(&request).await);
        if matches!(&b, Err((tonic::Code::Unknown | tonic::Code::Unavailable, _))) {
            // A put that keeps the value of a key which the same transaction has deleted ends etcd 3.4.
            eprintln!("etcd does not survive request {nth}, and answers no more");
            return;
        }
        assert_eq!(a, b, "seed {seed}, request {nth}: {request:?}\n ours and theirs differ");
        if let Request::Compact(compaction) = &request
            && a.is_ok()
        {
            compacted = compaction.revision;
        }
        revision = a.map_or(revision, |answer| answer.revision().max(revision));
    }
    for key in 0..KEYS {
        let last = Request::Put(PutRequest { key: name(key), value: LAST.into(), ..PutRequest::default() });
        assert_eq!(ours.ask(&last).await, theirs.ask(&last).await);
        let create = watch(&mut chance, key, compacted + 1);
        assert_eq!(ours.history(&create).await, theirs.history(&create).await, "seed {seed}: {create:?}");
    }
}

/// Debian's etcd, on free ports, in a directory of its own.
struct Etcd {
    child: Child,
    port: u16,
    _directory: TempDir,
}

impl Etcd {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [port, peer_port] = free_ports();
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
        let child = Command::new(program())
            .args(["--name", "e", "--data-dir"])
            .arg(directory.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("e={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is there: `make etcd-peer` unpacks it");
        Self { child, port, _directory: directory }
    }

    fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port)).unwrap().connect_lazy()
    }

    async fn ready(&self) {
        eventually("etcd answers", || async { KvClient::new(self.channel()).range(get("x")).await.map(drop) }).await;
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Installed, or unpacked below the target directory.
fn program() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_ringmesh")).ancestors().nth(2).unwrap();
    let unpacked = target.join("bench/usr/bin/etcd");
    if unpacked.is_file() { unpacked } else { "/usr/bin/etcd".into() }
}

#[derive(Clone, Debug)]
enum Request {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    Grant(LeaseGrantRequest),
    Revoke(LeaseRevokeRequest),
    Left(LeaseTimeToLiveRequest),
    Leases,
}

#[derive(Debug, PartialEq)]
enum Answer {
    Header(i64),
    Kv(i64, Vec<ResponseOp>),
    Txn(i64, bool, Vec<ResponseOp>),
    Lease(i64, Vec<i64>, Vec<Bytes>),
}

impl Answer {
    fn revision(&self) -> i64 {
        match self {
            Self::Header(revision) | Self::Kv(revision, _) | Self::Txn(revision, ..) | Self::Lease(revision, ..) => {
                *revision
            }
        }
    }
}

struct Side {
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    watch: WatchClient<Channel>,
}

type Asked = Result<Answer, (tonic::Code, String)>;

impl Side {
    fn of(channel: Channel) -> Self {
        Self {
            kv: KvClient::new(channel.clone()),
            lease: LeaseClient::new(channel.clone()),
            watch: WatchClient::new(channel),
        }
    }

    async fn ask(&mut self, request: &Request) -> Asked {
        self.answer(request.clone()).await.map_err(|status| words(&status))
    }

    async fn answer(&mut self, request: Request) -> Result<Answer, tonic::Status> {
        Ok(match request {
            Request::Range(request) => {
                let mut answer = self.kv.range(request).await?.into_inner();
                let revision = take(&mut answer.header);
                Answer::Kv(revision, vec![op(response_op::Response::ResponseRange(answer))])
            }
            Request::Put(request) => {
                let mut answer = self.kv.put(request).await?.into_inner();
                let revision = take(&mut answer.header);
                Answer::Kv(revision, vec![op(response_op::Response::ResponsePut(answer))])
            }
            Request::Delete(request) => {
                let mut answer = self.kv.delete_range(request).await?.into_inner();
                let revision = take(&mut answer.header);
                Answer::Kv(revision, vec![op(response_op::Response::ResponseDeleteRange(answer))])
            }
            Request::Txn(request) => {
                let mut answer = self.kv.txn(request).await?.into_inner();
                Answer::Txn(take(&mut answer.header), answer.succeeded, answer.responses)
            }
            Request::Compact(request) => Answer::Header(take(&mut self.kv.compact(request).await?.into_inner().header)),
            Request::Grant(request) => {
                let mut answer = self.lease.lease_grant(request).await?.into_inner();
                Answer::Lease(take(&mut answer.header), vec![answer.id, answer.ttl], Vec::new())
            }
            Request::Revoke(request) => {
                Answer::Header(take(&mut self.lease.lease_revoke(request).await?.into_inner().header))
            }
            Request::Left(request) => {
                let mut answer = self.lease.lease_time_to_live(request).await?.into_inner();
                // What is left runs down meanwhile: only whether there is something.
                let left = answer.ttl.signum();
                answer.keys.sort();
                Answer::Lease(take(&mut answer.header), vec![answer.id, left, answer.granted_ttl], answer.keys)
            }
            Request::Leases => {
                let mut answer = self.lease.lease_leases(LeaseLeasesRequest {}).await?.into_inner();
                let mut ids: Vec<i64> = answer.leases.iter().map(|lease| lease.id).collect();
                ids.sort_unstable();
                Answer::Lease(take(&mut answer.header), ids, Vec::new())
            }
        })
    }

    /// Some changes and a compaction, then a stream of watches: what is said on it, each followed by as many answers as it has.
    async fn converse(&mut self) -> Vec<WatchResponse> {
        for nth in 0..6 {
            let put = PutRequest { key: "k".into(), value: nth.to_string().into(), ..PutRequest::default() };
            self.kv.put(put).await.unwrap();
        }
        self.kv.compact(CompactionRequest { revision: 4, physical: true }).await.unwrap();
        let create = |key: &'static str, end: &'static str, start_revision: i64, watch_id: i64| {
            let (key, range_end) = (key.into(), end.into());
            let create =
                WatchCreateRequest { key, range_end, start_revision, watch_id, ..WatchCreateRequest::default() };
            RequestUnion::CreateRequest(create)
        };
        let filtered = WatchCreateRequest { key: "k".into(), filters: vec![0, 1], ..WatchCreateRequest::default() };
        let said: [(RequestUnion, usize); 13] = [
            (create("k", "", 2, 0), 2),
            (create("k", "", 4, 0), 2),
            (create("k", "", 5, 0), 2),
            (create("k", "a", 0, 0), 1),
            (create("k", "k", 0, 0), 1),
            (create("x", "", 0, 77), 1),
            (create("x", "", 0, 77), 1),
            (create("", "", 0, 0), 1),
            (create("x", "\0", 0, 0), 1),
            (RequestUnion::CreateRequest(filtered), 1),
            (RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 77 }), 1),
            (RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 78 }), 0),
            (create("k", "", 99, 0), 1),
        ];
        let (say, to_say) = tokio::sync::mpsc::channel(1);
        let to_say = tokio_stream::wrappers::ReceiverStream::new(to_say);
        let mut told: Option<tonic::Streaming<WatchResponse>> = None;
        let mut answers = Vec::new();
        let mut to_say = Some(to_say);
        for (union, count) in said {
            say.send(WatchRequest { request_union: Some(union.clone()) }).await.unwrap();
            if let Some(to_say) = to_say.take() {
                told = Some(self.watch.watch(to_say).await.unwrap().into_inner());
            }
            for nth in 0..count {
                let answer = tokio::time::timeout(LONG, told.as_mut().unwrap().message()).await;
                let answer = answer.unwrap_or_else(|_| panic!("no answer {nth} to {union:?} after {answers:#?}"));
                let mut answer = answer.unwrap().unwrap();
                let revision = take(&mut answer.header);
                answer.header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
                answers.push(answer);
            }
        }
        answers
    }

    /// All that a watch tells, up to the key that was put last and that it sees.
    async fn history(&mut self, create: &WatchCreateRequest) -> Vec<Event> {
        let (say, said) = tokio::sync::mpsc::channel(1);
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create.clone())) };
        say.send(request).await.unwrap();
        let said = tokio_stream::wrappers::ReceiverStream::new(said);
        let mut told = self.watch.watch(said).await.unwrap().into_inner();
        let mut events: Vec<Event> = Vec::new();
        while events.last().and_then(|event| event.kv.as_ref()).is_none_or(|kv| kv.value != LAST) {
            let answer = tokio::time::timeout(LONG, told.message()).await;
            let answer = answer.unwrap_or_else(|_| panic!("{} events, and no end: {create:?}", events.len()));
            let answer = answer.unwrap().unwrap();
            assert!(!answer.canceled, "{answer:?}");
            events.extend(answer.events);
        }
        events
    }
}

fn take(header: &mut Option<ResponseHeader>) -> i64 {
    header.take().map_or(-1, |header| header.revision)
}

fn op(response: response_op::Response) -> ResponseOp {
    ResponseOp { response: Some(response) }
}

fn name(key: u64) -> Bytes {
    format!("k{key}").into()
}

fn request(chance: &mut Chance, revision: i64) -> Request {
    match chance.below(100) {
        0..30 => Request::Put(put(chance)),
        30..55 => Request::Range(range(chance, revision)),
        55..65 => Request::Delete(delete(chance)),
        65..88 => Request::Txn(txn(chance, revision, 0)),
        88..90 => Request::Compact(CompactionRequest { revision: some_revision(chance, revision), physical: true }),
        90..93 => Request::Grant(LeaseGrantRequest { ttl: ttl(chance), id: lease(chance).max(1) }),
        93..95 => Request::Revoke(LeaseRevokeRequest { id: lease(chance) }),
        95..98 => Request::Left(LeaseTimeToLiveRequest { id: lease(chance).max(1), keys: chance.one_in(2) }),
        _ => Request::Leases,
    }
}

/// Long enough that none ends meanwhile; or too long.
fn ttl(chance: &mut Chance) -> i64 {
    if chance.one_in(8) { 9_000_000_001 } else { 10_000 }
}

/// One of few, or none.
fn lease(chance: &mut Chance) -> i64 {
    i64::try_from(chance.below(LEASES + 1)).unwrap()
}

/// Mostly one that there is; sometimes one that is compacted, too new or nonsense.
fn some_revision(chance: &mut Chance, newest: i64) -> i64 {
    let back = i64::try_from(chance.below(40)).unwrap();
    match chance.below(10) {
        0 => newest + 1 + back,
        1 => -1,
        2 => 1 + back,
        _ => newest - back,
    }
}

fn put(chance: &mut Chance) -> PutRequest {
    let ignore_value = chance.one_in(8);
    let ignore_lease = chance.one_in(8);
    let keep = |ignored: bool, chance: &mut Chance| ignored && !chance.one_in(6);
    PutRequest {
        key: some_key(chance),
        value: if keep(ignore_value, chance) { Bytes::new() } else { some_value(chance) },
        lease: if keep(ignore_lease, chance) || !chance.one_in(4) { 0 } else { lease(chance) },
        prev_kv: chance.one_in(3),
        ignore_value,
        ignore_lease,
    }
}

fn some_key(chance: &mut Chance) -> Bytes {
    if chance.one_in(40) { Bytes::new() } else { name(chance.below(KEYS)) }
}

fn some_value(chance: &mut Chance) -> Bytes {
    format!("v{}", chance.below(6)).into()
}

/// One key, some, all from one on, none, or backwards.
fn some_end(chance: &mut Chance) -> Bytes {
    match chance.below(6) {
        0 => b"\0".as_slice().into(),
        1 => "l".into(),
        2 | 3 => name(chance.below(KEYS)),
        _ => Bytes::new(),
    }
}

fn delete(chance: &mut Chance) -> DeleteRangeRequest {
    // All keys at once only now and then: else there would be none.
    let range_end = if chance.one_in(4) { some_end(chance) } else { Bytes::new() };
    DeleteRangeRequest { key: some_key(chance), range_end, prev_kv: chance.one_in(2) }
}

fn range(chance: &mut Chance, revision: i64) -> RangeRequest {
    let bound = |chance: &mut Chance| if chance.one_in(6) { some_revision(chance, revision).max(0) } else { 0 };
    RangeRequest {
        key: if chance.one_in(8) { b"\0".as_slice().into() } else { some_key(chance) },
        range_end: some_end(chance),
        limit: if chance.one_in(3) { i64::try_from(chance.below(4)).unwrap() } else { 0 },
        revision: if chance.one_in(3) { some_revision(chance, revision) } else { 0 },
        sort_order: i32::try_from(chance.below(3)).unwrap(),
        sort_target: i32::try_from(chance.below(5)).unwrap(),
        serializable: chance.one_in(3),
        keys_only: chance.one_in(6),
        count_only: chance.one_in(8),
        min_mod_revision: bound(chance),
        max_mod_revision: bound(chance),
        min_create_revision: bound(chance),
        max_create_revision: bound(chance),
    }
}

fn txn(chance: &mut Chance, revision: i64, depth: u32) -> TxnRequest {
    let compare = (0..chance.below(3)).map(|_| some_compare(chance, revision)).collect();
    let success = ops(chance, revision, depth);
    let failure = ops(chance, revision, depth);
    TxnRequest { compare, success, failure }
}

fn ops(chance: &mut Chance, revision: i64, depth: u32) -> Vec<RequestOp> {
    let count = if chance.one_in(60) { 129 } else { chance.below(4) };
    (0..count).map(|_| RequestOp { request: Some(some_op(chance, revision, depth)) }).collect()
}

fn some_op(chance: &mut Chance, revision: i64, depth: u32) -> request_op::Request {
    match chance.below(10) {
        0..4 => request_op::Request::RequestPut(put(chance)),
        4..7 => request_op::Request::RequestRange(range(chance, revision)),
        7 | 8 => request_op::Request::RequestDeleteRange(delete(chance)),
        _ if depth < 2 => request_op::Request::RequestTxn(txn(chance, revision, depth + 1)),
        _ => request_op::Request::RequestPut(put(chance)),
    }
}

fn some_compare(chance: &mut Chance, revision: i64) -> Compare {
    let number = some_revision(chance, revision).max(0);
    let (target, union) = match chance.below(5) {
        0 => (0, TargetUnion::Version(i64::try_from(chance.below(4)).unwrap())),
        1 => (1, TargetUnion::CreateRevision(number)),
        2 => (2, TargetUnion::ModRevision(number)),
        3 => (3, TargetUnion::Value(some_value(chance))),
        _ => (4, TargetUnion::Lease(lease(chance))),
    };
    Compare {
        result: i32::try_from(chance.below(4)).unwrap(),
        target,
        key: some_key(chance),
        target_union: Some(union),
        range_end: if chance.one_in(4) { some_end(chance) } else { Bytes::new() },
    }
}

/// Of `key` alone, or of more keys with it.
fn watch(chance: &mut Chance, key: u64, start_revision: i64) -> WatchCreateRequest {
    let range_end = if chance.one_in(2) { "l".into() } else { Bytes::new() };
    let filters = if chance.one_in(4) { vec![1] } else { Vec::new() };
    WatchCreateRequest {
        key: name(key),
        range_end,
        start_revision,
        prev_kv: chance.one_in(2),
        filters,
        ..WatchCreateRequest::default()
    }
}
