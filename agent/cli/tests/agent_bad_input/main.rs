//! The real binary and bad input: each mistake ends in one line that says what, why and what to do, and an agent that
//! runs is not impressed. Loopback only, no namespaces, no privilege.

mod api;
mod init_and_join;
mod start;
mod support;
mod users;
