//! `ringmesh store serve --standalone`: real members on loopback. No privilege is needed.

#![allow(clippy::unwrap_used, reason = "this is a test, its helpers too")]

mod alone;
mod chaos;
mod crash;
mod options;
mod support;
mod together;
