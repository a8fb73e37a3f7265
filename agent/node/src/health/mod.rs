//! What runs on this host and how well.

pub mod spec;
