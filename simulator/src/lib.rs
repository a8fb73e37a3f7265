//! Many hosts in virtual time: the very code of the agents, on a network that obeys.
//!
//! This first form owns a clock, a total order of events and a network of two uplinks a host, each of which can be
//! cut. Its events are ordered by (time, sequence), so a run is determined by its seed.

mod world;

pub use world::{FORGET_AFTER, HostIndex, World};
