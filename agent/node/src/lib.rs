//! One host as a pure machine: membership, overlay and health.
//!
//! It owns the decisions of a host and knows no socket, file, clock or thread: inputs come in through `handle_*`, outputs
//! are drained with `poll_*`.
//!
//! ```text
//!  datagrams, gossip, sync ──▶ ┌──────────────────────────────┐ ──▶ Output (send, pin, probe, persist)
//!  probe replies, statuses ──▶ │ Node: membership │ overlay   │ ──▶ View (for every query)
//!  time ─────────────────────▶ │       gossip     │ health    │ ──▶ next deadline
//!                              └──────────────────────────────┘
//! ```

pub mod gossip;
pub mod health;
pub mod membership;
mod node;
pub mod overlay;
mod view;

pub use node::{Class, Config, Node, Output, Persistent, TimerKind};
pub use view::{Peer, View};
