//! Descriptors that the runtime watches.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// What owns its descriptor, which so stays the same until it is dropped.
pub(crate) trait Owned: AsFd + AsRawFd {}

impl Owned for OwnedFd {}
impl Owned for std::net::UdpSocket {}

/// Watches a descriptor for this interest only.
#[expect(deprecated, reason = "unsound only for what changes its descriptor; its successor asks for unsafe code")]
pub(crate) fn watch<T: Owned>(io: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(io, interest)
}
