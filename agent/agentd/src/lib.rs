//! The daemon: the only crate that does I/O.
//!
//! It owns sockets, files, processes, clocks and the host loop, and decides nothing: that is for `ringmesh-node`.

pub mod agent;
pub mod alarm;
pub mod api;
mod caller;
pub mod carrier;
pub mod clock;
pub mod config;
pub mod counters;
pub mod details;
pub mod disk;
pub mod fanout;
mod fd;
pub mod host_loop;
pub mod identity;
pub mod keeper;
pub mod lab;
mod port;
pub mod probe;
pub mod quic;
pub mod reach;
pub mod repair;
pub mod runtime;
pub mod store;
