//! The transport over loopback: members reach each other, and nothing that anybody sends does harm.

mod certificates;
mod connections;
mod datagrams;
mod details;
mod forged;
mod keeper;
mod members;
mod relays;
mod replicas;
mod requests;
mod store;
mod strangers;
mod streams;
mod support;
mod unsendable;
