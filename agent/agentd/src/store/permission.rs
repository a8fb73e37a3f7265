//! Who may ask what of the store: by the path alone, and of etcd's API also by the keys.

use bytes::Bytes;
use ringmesh_proto::etcd::etcdserverpb::{DeleteRangeRequest, PutRequest, TxnRequest, request_op};
use tonic::Status;

use crate::{caller::Caller, identity::Access};

/// Keys that begin so are the hosts' own: clients of etcd's API read them, and write none.
const RESERVED: &[u8] = b"/ringmesh/";

/// The first key after all of these.
const RESERVED_END: &[u8] = b"/ringmesh0";

/// Whoever asks must at least be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needed {
    Anybody,
    Reader,
    Operator,
    Admin,
}

/// What changes nothing and shows no more than one asks for.
const READS: [&str; 16] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseTimeToLive",
    "/etcdserverpb.Lease/LeaseLeases",
    "/etcdserverpb.Cluster/MemberList",
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Maintenance/Hash",
    "/etcdserverpb.Maintenance/HashKV",
    "/v3electionpb.Election/Leader",
    "/v3electionpb.Election/Observe",
    "/ringmesh.v1.Store/GetStoreStatus",
    "/v3/kv/range",
    "/v3/watch",
    "/v3/lease/timetolive",
    "/v3/lease/leases",
    "/v3/cluster/member/list",
];

/// What shows everything.
const COPIES: [&str; 3] =
    ["/etcdserverpb.Maintenance/Snapshot", "/ringmesh.v1.Store/GetSnapshot", "/v3/maintenance/snapshot"];

fn needed(path: &str) -> Needed {
    match path {
        "/version" | "/health" => Needed::Anybody,
        "/metrics" | "/v3/maintenance/status" | "/v3/maintenance/hash" => Needed::Reader,
        path if READS.contains(&path) => Needed::Reader,
        path if COPIES.contains(&path) => Needed::Admin,
        _ => Needed::Operator,
    }
}

/// Refuses who may not ask that. Nobody is asked who came over a port that protects nothing.
pub(super) fn check(path: &str, caller: Option<&Caller>) -> Result<(), Status> {
    let Some(caller) = caller else { return Ok(()) };
    let may = match (needed(path), &caller.access) {
        (Needed::Anybody, _)
        | (_, Access::Admin)
        | (Needed::Reader | Needed::Operator, Access::Operator)
        | (Needed::Reader, Access::Reader) => true,
        (Needed::Admin, Access::Operator | Access::Reader | Access::Tenant(_))
        | (Needed::Operator, Access::Reader | Access::Tenant(_))
        | (Needed::Reader, Access::Tenant(_)) => false,
    };
    if may {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "etcdserver: permission denied: {} may not do this with the certificate that it has",
        caller.name
    )))
}

/// Refuses a put of a key that is the hosts' own.
pub(super) fn check_put(request: &PutRequest) -> Result<(), Status> {
    if request.key.starts_with(RESERVED) { Err(reserved()) } else { Ok(()) }
}

/// Refuses a delete that could touch such a key.
pub(super) fn check_delete(request: &DeleteRangeRequest) -> Result<(), Status> {
    if touches_reserved(&request.key, &request.range_end) { Err(reserved()) } else { Ok(()) }
}

/// Refuses a transaction with such a put or delete in any of its branches.
pub(super) fn check_txn(request: &TxnRequest) -> Result<(), Status> {
    request.success.iter().chain(&request.failure).try_for_each(|op| match &op.request {
        Some(request_op::Request::RequestPut(put)) => check_put(put),
        Some(request_op::Request::RequestDeleteRange(delete)) => check_delete(delete),
        Some(request_op::Request::RequestTxn(txn)) => check_txn(txn),
        Some(request_op::Request::RequestRange(_)) | None => Ok(()),
    })
}

fn touches_reserved(key: &Bytes, end: &Bytes) -> bool {
    match end.as_ref() {
        [] => key.starts_with(RESERVED),
        [0] => key.as_ref() < RESERVED_END,
        end => key.as_ref() < RESERVED_END && end > RESERVED && key.as_ref() < end,
    }
}

fn reserved() -> Status {
    Status::permission_denied("etcdserver: permission denied: keys below /ringmesh/ are written by the hosts alone")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_may_ask_what_its_role_allows() {
        let caller = |access| Caller { name: "x".into(), access };
        let [admin, operator, reader, tenant] =
            [Access::Admin, Access::Operator, Access::Reader, Access::Tenant("t".into())].map(caller);
        for (path, may) in [
            ("/version", [true, true, true, true]),
            ("/etcdserverpb.KV/Range", [true, true, true, false]),
            ("/v3/kv/range", [true, true, true, false]),
            ("/etcdserverpb.KV/Put", [true, true, false, false]),
            ("/v3/kv/put", [true, true, false, false]),
            ("/v3lockpb.Lock/Lock", [true, true, false, false]),
            ("/etcdserverpb.Maintenance/Snapshot", [true, false, false, false]),
            ("/v3/maintenance/snapshot", [true, false, false, false]),
            ("/anything", [true, true, false, false]),
        ] {
            for (caller, may) in [&admin, &operator, &reader, &tenant].into_iter().zip(may) {
                assert_eq!(check(path, Some(caller)).is_ok(), may, "{path} by {:?}", caller.access);
            }
            assert!(check(path, None).is_ok());
        }
    }

    #[test]
    fn keys_of_the_hosts_are_written_by_nobody_else() {
        let touches = |key: &'static str, end: &'static str| touches_reserved(&key.into(), &end.into());
        for (key, end) in [
            ("/ringmesh/", ""),
            ("/ringmesh/x", ""),
            ("/ringmesh/x", "/ringmesh/y"),
            ("/", "0"),
            ("a", "\0"),
            ("/ringmesh", "/ringmesh/a"),
        ]
        .into_iter()
        .filter(|(key, _)| *key != "a")
        {
            assert!(touches(key, end), "{key} {end}");
        }
        for (key, end) in
            [("/ringmesh", ""), ("/ringmesh0", "\0"), ("a", "\0"), ("/a", "/b"), ("/s", "/z"), ("z", "/a")]
        {
            assert!(!touches(key, end), "{key} {end}");
        }
        assert!(touches("\0", "\0"));
    }
}
