//! The standalone store: a member of the replicated configuration that serves etcd's API without an agent around it.
//!
//! It owns the files, the sockets and the threads of a member. What the log agrees on and what the keys mean is decided in
//! ringmesh-store.
//!
//! ```text
//!  port ─┬─ etcd services ─┬─▶ member (the loop) ─▶ hand ─▶ log/
//!        └─ gateway ───────┘        │    └────────▶ checkpoint ─▶ keys.redb
//!                                  peer ◀─TCP─▶ the other members
//! ```

mod access;
mod directory;
mod error;
mod etcd;
mod faces;
mod files;
mod gateway;
mod hand;
mod holder;
mod member;
mod metrics;
mod peer;
mod permission;
mod request;
mod restore;
mod road;
pub mod settings;
mod start;
mod status;
mod transfer;

pub use access::Access;
pub use directory::DirectoryError;
pub use error::StoreError;
pub(crate) use faces::serves;
pub use hand::HandError;
pub use holder::{Holder, Holding, found};
pub use restore::{SnapshotError, restore};
pub use start::serve;
