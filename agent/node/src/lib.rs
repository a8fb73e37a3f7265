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

pub mod cells;
mod coordinate;
pub mod gossip;
pub mod health;
pub mod membership;
mod node;
pub mod overlay;
pub mod remedy;
pub mod roles;
mod seal;
mod view;
pub mod zones;

pub use node::{
    Certificate, Class, Config, Detection, Frame, Implicit, Node, Output, Path, Persistent, Reach, TimerKind, Way,
};
pub use ringmesh_topology::{ChordKind, Chords, MAX_CHORDS};
pub use seal::Seals;
pub use view::{ContainerRow, Declared, Links, Peer, Position, Removed, ServiceRow, Told, View};

/// A name in an order that people expect: h2 before h10.
fn natural(name: &str) -> Vec<(u64, String)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let text = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(text);
        let digits = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, tail) = tail.split_at(digits);
        parts.push((0, word.to_owned()));
        parts.push((number.parse().unwrap_or(0), String::new()));
        rest = tail;
    }
    parts
}
