//! The store as clients know it that others made: Debian's etcdctl and python3-etcd3; and beside Debian's etcd, which has to
//! answer the same. All need those packages: `make test-root` sees that they are there.

#![allow(clippy::unwrap_used, reason = "this is a test, its helpers too")]

mod differential;
mod etcdctl;
mod python;
#[path = "../store/support.rs"]
mod support;
