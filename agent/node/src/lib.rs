//! One host as a pure machine: membership, overlay and health.
//!
//! It owns the decisions of a host and knows no socket, file, clock or thread: inputs come in through `handle_*`, outputs
//! are drained with `poll_*`.

pub mod health;
