//! Many hosts in virtual time: the very code of the agents, on machines and a network that obey.
//!
//! ```text
//!  scenario (TOML) ──expand──▶ faults as data ──▶ run: World + oracles ──▶ report, trace hash
//!                                                  ▲
//!  sweep: many seeds ── shrink: fewer faults, hosts, time ── replay: the file of a failure
//! ```
//!
//! A run is determined by its scenario and its seed. Nothing here reads a clock but the program around it, to say how long
//! a run took.

pub mod draw;
pub mod expand;
pub mod failure;
pub mod fault;
pub mod fleet;
mod host;
pub mod link;
mod network;
pub mod oracle;
pub mod queue;
pub mod run;
pub mod scenario;
mod seal;
pub mod shrink;
pub mod span;
mod stage;
pub mod sweep;
mod trace;
pub mod world;

pub use network::Way;
pub use world::{FORGET_AFTER, HostIndex, World};
