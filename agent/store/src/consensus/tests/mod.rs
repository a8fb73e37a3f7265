//! Members together, in virtual time.

mod chaos;
mod checks;
mod cluster;
mod node;
mod peers;
mod pitfalls;
mod starting;

use super::Consensus;

/// How much to try, if the environment says more than is tried each time.
fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}
