//! The replicated configuration: it will own raft, the versioned keys, watches, leases, objects and the choice of who
//! holds a replica.
//!
//! It knows no clock and no peer address: it says what must be persisted and to whom a message goes, and the daemon does it.

pub mod consensus;
pub mod kv;
pub mod wal;
