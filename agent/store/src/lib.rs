//! The replicated configuration: it will own raft, the versioned keys, watches, leases, objects and the choice of who
//! holds a replica.
//!
//! Empty until then. It will know no disk, clock or peer address: it will say what must be persisted and to whom a
//! message goes, and the daemon does it.
