//! Identity end to end, over loopback: a cluster is made, hosts join it, and everybody else is refused.

mod admission;
mod api;
mod join;
mod keyring;
mod peers;
mod seals;
mod state;
mod support;
