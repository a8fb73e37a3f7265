//! The real binary against a fake agent on a unix socket: what people and scripts see.

mod errors;
mod fake;
mod lists;
mod run;
mod terminal;
mod watches;
