//! Agreement on one log of commands, by Raft.
//!
//! [`Consensus`] is a pure machine around the crate raft: it owns the part of the log that members still need, and the
//! rules of what may be sent, applied and answered when. It knows no clock, disk, socket or key: what must be stored goes
//! out as [`Output::Persist`], what must be sent as [`Output::Send`], what is agreed as [`Output::Commit`].
//!
//! ```text
//!   propose, read, handle_message ─▶ Consensus ─▶ Send     to the peers
//!   handle_timeout                   │    ▲
//!                                    ▼    │ handle_persisted
//!                                  Persist ─▶ the log on disk (crate::wal)
//!                                    │
//!                                    └─▶ Commit, Read ─▶ the keys (crate::kv)
//! ```

mod admission;
mod conf;
mod entry;
mod error;
mod log;
mod logger;
mod machine;
mod members;
mod message;
mod output;
mod reads;
mod ready;
mod settings;
mod snapshots;
mod start;
mod status;
mod ticks;

#[cfg(test)]
mod tests;

pub use conf::{Conf, ConfChange};
pub(crate) use entry::FRESH;
pub use entry::{Applied, Entry, EntryKind, HardState, Position, origin};
pub use error::{Divergence, Malformed, NotAccepted, Refused, StartError};
pub use machine::{Consensus, Recovered};
pub use output::{Committed, Output, Payload, Persist};
pub use settings::Settings;
pub use status::{Peer, PeerState, Role, Status};
