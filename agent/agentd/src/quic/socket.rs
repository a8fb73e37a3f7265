//! The UDP socket of an uplink, as quinn wants it: what cannot be sent to one host never keeps another waiting.
//!
//! A packet that the kernel refuses (no route, a filter, a full table of neighbours) is lost and counted, and QUIC treats
//! it as any lost packet. Only a full send buffer makes all connections of the endpoint wait, and what fills it is packets
//! that wait for the hardware address of a host that is gone: so the buffer is made far larger than the kernel keeps for
//! any one of those.

use std::{
    io::{self, ErrorKind, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt::SndBufForce},
};
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    counters::{Counters, count},
    fd,
};

/// Bytes of packets that the kernel has not sent yet. It keeps some 212 kB for each neighbour whose address it does not know
/// (net.ipv4.neigh.default.unres_qlen_bytes): this is room for a rack of 32 that is gone.
const SEND_BUFFER: usize = 8 * 1024 * 1024;

/// Packets given to the kernel at once. Each connection keeps a buffer of so many, and hosts have little to say at once.
const MAX_SEGMENTS: usize = 2;

/// A socket that counts what it could not send.
///
/// It is registered for reading only: else each packet that the kernel has sent wakes this thread, to say that there is room
/// for another. Only who finds the buffer full asks for that.
#[derive(Debug)]
pub(super) struct Socket {
    io: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    /// The last packet found no room.
    full: AtomicBool,
    counters: Arc<Counters>,
}

impl Socket {
    /// Takes a bound socket.
    pub(super) fn new(socket: UdpSocket, counters: Arc<Counters>) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        // Beyond net.core.wmem_max for root; others get what that allows.
        if setsockopt(&socket, SndBufForce, &SEND_BUFFER).is_err() {
            let _ = state.set_send_buffer_size((&socket).into(), SEND_BUFFER);
            let bytes = state.send_buffer_size((&socket).into()).unwrap_or_default();
            tracing::warn!(
                bytes,
                "the send buffer is small: hosts that are gone may delay others for seconds; run as root, or raise net.core.wmem_max to {SEND_BUFFER}"
            );
        }
        let io = fd::watch(socket, Interest::READABLE)?;
        Ok(Self { state, io, full: AtomicBool::new(false), counters })
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Err(error) = self.state.try_send(self.io.get_ref().into(), transmit) else { return Ok(()) };
        if error.kind() == ErrorKind::WouldBlock {
            self.full.store(true, Relaxed);
            count(&self.counters.sends_delayed);
            return Err(error);
        }
        // A probe of the path's size that was too large: expected.
        if error.raw_os_error() != Some(Errno::EMSGSIZE as i32) {
            count(&self.counters.sends_refused);
            tracing::trace!(to = %transmit.destination, %error, "not sent");
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.io.poll_read_ready(cx))?;
            match self.state.recv(self.io.get_ref().into(), bufs, meta) {
                Ok(count) => {
                    // Fewer than there is room for: these were all, and what comes now is told anew.
                    if count < bufs.len() {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready.clear_ready(),
                // An error of one packet (an ICMP message, an interface that went down) must not end the endpoint.
                Err(error) => {
                    count(&self.counters.receives_failed);
                    tracing::debug!(%error, "not received");
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments().min(MAX_SEGMENTS)
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

/// Waits for room in the send buffer, for one connection.
#[derive(Debug)]
struct Writable {
    socket: Arc<Socket>,
    /// The same socket, registered for writing.
    waiting: Option<AsyncFd<UdpSocket>>,
}

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, waiting } = self.get_mut();
        if !socket.full.load(Relaxed) {
            *waiting = None;
            return Poll::Ready(Ok(()));
        }
        if waiting.is_none() {
            *waiting = Some(fd::watch(socket.io.get_ref().try_clone()?, Interest::WRITABLE)?);
        }
        if let Some(io) = waiting {
            ready!(io.poll_write_ready(cx))?.retain_ready();
            *waiting = None;
        }
        socket.full.store(false, Relaxed);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn whoever_finds_the_buffer_full_is_told_when_there_is_room_and_others_need_not_ask() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has ports");
        socket.set_nonblocking(true).expect("a socket");
        let socket = Arc::new(Socket::new(socket, Arc::default()).expect("it can be watched"));
        let mut first = Arc::clone(&socket).create_io_poller();
        let mut second = Arc::clone(&socket).create_io_poller();
        poll_fn(|cx| first.as_mut().poll_writable(cx)).await.expect("nobody has found it full");
        socket.full.store(true, Relaxed);
        // Both wait for what the kernel says; it has room.
        poll_fn(|cx| {
            assert!(first.as_mut().poll_writable(cx).is_pending() && second.as_mut().poll_writable(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| first.as_mut().poll_writable(cx)).await.expect("there is room");
        assert!(!socket.full.load(Relaxed));
        poll_fn(|cx| second.as_mut().poll_writable(cx)).await.expect("there is room for all");
    }
}
