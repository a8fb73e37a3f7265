//! Echo requests of ICMP (RFC 792) and ICMPv6 (RFC 4443) by a raw socket of their own.
//!
//! A raw socket gets a copy of every packet of its protocol in its network namespace that comes from the address that is
//! asked: an answer counts only with this request's identifier, sequence and mark.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::Outcome;

/// Bytes of a request: the head of ICMP, and the mark.
const LENGTH: usize = 16;

/// The most bytes that are read of a packet: a head of IPv4 with all options, and a reply.
const MAX_READ: usize = 60 + LENGTH;

/// A request on its way.
pub(super) struct Echo {
    socket: Socket,
    address: IpAddr,
    request: [u8; LENGTH],
}

impl Echo {
    /// Sends a request from the calling thread's network namespace.
    pub(super) fn send(address: IpAddr) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let protocol = if address.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
        let target = SocketAddr::new(address, 0);
        let kind = Type::RAW.nonblocking().cloexec();
        let socket = Socket::new_raw(Domain::for_address(target), kind, Some(protocol))?;
        // Only what comes from there is received, and errors on the way come back.
        socket.connect(&target.into())?;
        // Two agents may be in one namespace.
        let mark = NEXT.fetch_add(1, Relaxed) ^ u64::from(std::process::id()) << 32;
        let request = request(address, mark);
        socket.send(&request)?;
        Ok(Self { socket, address, request })
    }

    /// Waits for the reply to this request.
    pub(super) async fn answered(self) -> io::Result<Outcome> {
        // Of another protocol, and read in the same way.
        let socket = UdpSocket::from_std(self.socket.into())?;
        let mut packet = [0; MAX_READ];
        loop {
            let len = socket.recv(&mut packet).await?;
            if is_reply(self.address, &packet[..len], &self.request) {
                return Ok(Outcome::pass("echo reply"));
            }
        }
    }
}

/// Type, code, checksum, identifier, sequence, mark.
fn request(address: IpAddr, mark: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[0] = if address.is_ipv4() { 8 } else { 128 };
    bytes[4..8].copy_from_slice(&(mark as u32).to_be_bytes());
    bytes[8..].copy_from_slice(&mark.to_be_bytes());
    if address.is_ipv4() {
        // Of ICMPv6 the kernel does it: it covers the addresses.
        let sum = checksum(&bytes);
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// RFC 1071.
fn checksum(bytes: &[u8; LENGTH]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Whether a packet that was received answers `request`. Of IPv4 it comes with its head.
fn is_reply(address: IpAddr, packet: &[u8], request: &[u8; LENGTH]) -> bool {
    let (reply, kind) = match (address, packet) {
        (IpAddr::V4(_), [first, ..]) => (packet.get(usize::from(first & 0xf) * 4..).unwrap_or_default(), 0),
        (IpAddr::V4(_), []) => (packet, 0),
        (IpAddr::V6(_), packet) => (packet, 129),
    };
    matches!(reply, [first, 0, _, _, rest @ ..] if *first == kind && *rest == request[4..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    /// What a kernel sends back.
    fn reply(address: IpAddr, request: &[u8; LENGTH]) -> Vec<u8> {
        let mut reply = request.to_vec();
        reply[0] = if address.is_ipv4() { 0 } else { 129 };
        if address.is_ipv4() { [&[0x45; 20][..], &reply].concat() } else { reply }
    }

    #[test]
    fn the_checksum_makes_the_sum_all_ones() {
        let bytes = request(V4, 0x0102_0304_0506_0708);
        let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    #[test]
    fn only_the_reply_to_this_very_request_counts() {
        for address in [V4, V6] {
            let (one, other) = (request(address, 1), request(address, 1 << 32 | 1));
            assert!(is_reply(address, &reply(address, &one), &one));
            assert!(!is_reply(address, &reply(address, &other), &one), "another process's");
            assert!(!is_reply(address, &one, &one), "a request, as loopback shows it");
            assert!(!is_reply(address, &reply(address, &one)[1..], &one));
            assert!(!is_reply(address, &[], &one));
        }
    }

    proptest! {
        #[test]
        fn any_packet_is_read_without_a_panic(packet in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = is_reply(V4, &packet, &request(V4, 7));
            let _ = is_reply(V6, &packet, &request(V6, 7));
        }
    }
}
