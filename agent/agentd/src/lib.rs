//! The daemon: the only crate that does I/O.

pub mod config;
pub mod identity;
pub mod lab;
pub mod probe;
pub mod runtime;
