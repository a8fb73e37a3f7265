//! Where hosts stand: the dual ring, its chords, measures of the graph that they make, and how zones are joined.
//!
//! ```text
//!  ring A over uplink A:  h1 ─ h4 ─ h2 ─ h5 ─ h3 ─ (h1)      a seeded cyclic order
//!  ring B over uplink B:  h1 ─ h5 ─ h4 ─ h3 ─ h2 ─ (h1)      another one, independent of A
//!  chords (from 8 hosts): h1 ┄ h2                            targets on ring A, by hash
//! ```
//!
//! Everything here is a function of the set of hosts and a seed: two hosts that know the same set agree on every
//! link without a word. This crate knows no membership protocol, no address, no time, and nothing of routes.

mod chord;
mod dual_ring;
pub mod graph;
mod hash;
pub mod zone;

pub use chord::default_chords;
pub use dual_ring::{DualRing, Link, Mode, Ring, Role};
