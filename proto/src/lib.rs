//! The words that all of ringmesh shares: the public API `ringmesh.v1`, the messages between hosts, identifiers,
//! time, and the formats that are not protobuf (datagrams, digests, tokens).
//!
//! It owns names and encodings and knows nothing of what they are used for. The gRPC stubs are behind the feature
//! `grpc`, because they pull in an async runtime that the pure crates must not see.

pub mod datagram;
pub mod digest;
pub mod frame;
pub mod history_file;
pub mod ids;
pub mod member;
pub mod opaque;
pub mod seal;
pub mod shared;
pub mod signed;
pub mod time;
pub mod token;
pub mod zone_digest;

pub use ids::{ClusterId, Generation, HostId, Uplink, ZoneId};
pub use time::{Instant, Now, UnixMillis};

/// The public API, package `ringmesh.v1`.
#[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::wildcard_enum_match_arm, unreachable_pub)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/ringmesh.v1.rs"));

    /// The file descriptor set of this package and what it imports: for gRPC reflection and for JSON.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ringmesh.v1.descriptor.bin"));
}

/// What a host keeps on its own disk, package `ringmesh.disk.v1`.
#[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::wildcard_enum_match_arm, unreachable_pub)]
pub mod disk {
    include!(concat!(env!("OUT_DIR"), "/ringmesh.disk.v1.rs"));
}

/// The etcd v3 API, as its clients speak it: packages `etcdserverpb`, `mvccpb`, `v3lockpb` and `v3electionpb`.
pub mod etcd {
    /// Services and their messages.
    #[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::wildcard_enum_match_arm, unreachable_pub)]
    pub mod etcdserverpb {
        include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
    }

    /// Keys and events.
    #[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::wildcard_enum_match_arm, unreachable_pub)]
    pub mod mvccpb {
        include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
    }

    /// Locks.
    #[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::wildcard_enum_match_arm, unreachable_pub)]
    pub mod v3lockpb {
        include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
    }

    /// Elections.
    #[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::wildcard_enum_match_arm, unreachable_pub)]
    pub mod v3electionpb {
        include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
    }

    /// The file descriptor set of these packages: for gRPC reflection and for JSON.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/etcd.descriptor.bin"));
}

/// What the replicas of the configuration agree on, package `ringmesh.store.v1`.
#[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::wildcard_enum_match_arm, unreachable_pub)]
pub mod store {
    include!(concat!(env!("OUT_DIR"), "/ringmesh.store.v1.rs"));
}

/// What hosts say to each other, package `ringmesh.peer.v1`.
pub mod peer {
    pub use record::*;
    pub use v1::*;

    // Nested as the package is: the generated code counts its way up to `crate::v1`.
    #[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::wildcard_enum_match_arm, unreachable_pub)]
    mod v1 {
        include!(concat!(env!("OUT_DIR"), "/ringmesh.peer.v1.rs"));
    }

    #[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::wildcard_enum_match_arm, unreachable_pub)]
    mod record {
        include!(concat!(env!("OUT_DIR"), "/record/ringmesh.peer.v1.rs"));
    }
}
