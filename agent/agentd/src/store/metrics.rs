//! What watches the store from outside: whether it is healthy, and some numbers in Prometheus' format under the names that
//! etcd gives them.

use std::fmt::Write;

use ringmesh_proto::etcd::etcdserverpb::AlarmType;

use super::request::{Handle, Sight};

/// Asks the loop.
#[derive(Clone)]
pub(super) struct Metrics {
    handle: Handle,
}

impl Metrics {
    pub(super) fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// Whether it has a leader, takes part, answers, and has no alarm on.
    pub(super) async fn is_healthy(&self) -> bool {
        let healthy = |sight: &Sight<'_>| {
            let status = sight.consensus.status();
            status.leader.is_some() && status.diverged.is_none() && sight.kv.alarms(AlarmType::None).is_empty()
        };
        self.handle.look(true, healthy).await.unwrap_or(false)
    }

    /// All numbers; none if the store ends.
    pub(super) async fn text(&self) -> String {
        self.handle.look(false, text).await.unwrap_or_default()
    }
}

fn text(sight: &Sight<'_>) -> String {
    let status = sight.consensus.status();
    let is_leader = status.leader == Some(status.id);
    let numbers: [(&str, &str, u64); 10] = [
        ("etcd_server_has_leader", "gauge", status.leader.is_some().into()),
        ("etcd_server_is_leader", "gauge", is_leader.into()),
        ("etcd_server_proposals_committed_total", "gauge", status.commit),
        ("etcd_server_proposals_applied_total", "gauge", sight.kv.applied().index),
        ("etcd_mvcc_db_total_size_in_bytes", "gauge", sight.kv.size_bytes()),
        ("etcd_mvcc_db_total_size_in_use_in_bytes", "gauge", sight.kv.size_in_use()),
        ("etcd_debugging_mvcc_current_revision", "gauge", sight.kv.revision().unsigned_abs()),
        ("etcd_debugging_mvcc_compact_revision", "gauge", sight.kv.compacted().unsigned_abs()),
        ("etcd_debugging_lease_total", "gauge", sight.kv.leases().iter().count() as u64),
        ("ringmesh_store_raft_term", "gauge", status.term),
    ];
    let mut text = String::new();
    for (name, kind, number) in numbers.into_iter().chain(resident_bytes()) {
        // Writing to a String does not fail.
        let _ = writeln!(text, "# TYPE {name} {kind}\n{name} {number}");
    }
    text
}

/// What `etcdctl check datascale` compares.
fn resident_bytes() -> Option<(&'static str, &'static str, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(("process_resident_memory_bytes", "gauge", kib * 1024))
}
