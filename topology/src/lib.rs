//! Where hosts stand: the dual ring, its chords, paths over them, measures of the graph that they make, how zones are
//! joined, which containers share a cell, which hosts hold the
//! configuration, and coordinates by round trips.
//!
//! ```text
//!  ring A over uplink A:  h1 ─ h4 ─ h2 ─ h5 ─ h3 ─ (h1)      a seeded cyclic order
//!  ring B over uplink B:  h1 ─ h5 ─ h4 ─ h3 ─ h2 ─ (h1)      another one, independent of A
//!  chords (from 8 hosts): h1 ┄ h2                            places on ring A, by a rule of the cluster
//! ```
//!
//! Rings and chords are a function of the set of hosts, a seed, a rule and racks: two hosts that know the same set agree on every
//! link without a word. This crate knows no membership protocol, no address, no time, and nothing of routes.

pub mod cell;
mod chord;
pub mod coordinate;
mod dual_ring;
pub mod graph;
mod hash;
mod path;
mod relay;
pub mod replicas;
pub mod zone;

pub use chord::{ChordKind, Chords, MAX_COUNT as MAX_CHORDS, NoChords, Racks};
pub use coordinate::{Coordinate, Vivaldi};
pub use dual_ring::{DualRing, Link, Mode, Ring, Role};
pub use hash::{fnv1a, hash};
pub use path::{Hop, shortest_path};
pub use relay::relay;
