//! Text or bytes that are sent, and an answer that is compared: over a connection, or by datagram.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use ringmesh_node::health::spec::Exchange;
use tokio::io::AsyncReadExt;

use super::{Outcome, answer, matching::Patterns, socket::Dial};

/// The most bytes of an answer that are read.
const MAX_READ: usize = 4096;

/// Sends over a connection and reads until the answer is decided, ends or is too long.
pub(super) async fn over(
    dial: Dial,
    exchange: &Exchange,
    patterns: &Patterns,
    heard: &mut bool,
) -> io::Result<Outcome> {
    let mut stream = dial.send(&exchange.send).await?;
    let Some(expected) = &exchange.expect else { return Ok(Outcome::pass("connected")) };
    let mut bytes = vec![0; MAX_READ];
    let mut len = 0;
    let right = loop {
        let read = stream.read(&mut bytes[len..]).await?;
        len += read;
        *heard |= read > 0;
        let ended = read == 0 || len == bytes.len();
        if let Some(right) = patterns.decide(expected, &bytes[..len], ended) {
            break right;
        }
    };
    let said = quote(&bytes[..len]);
    Ok(match right {
        true => Outcome::pass(format!("answered {said}")),
        false if len == 0 => Outcome::fail("the connection was closed without an answer"),
        false => Outcome::fail(format!("answered {said}, not {expected}")),
    })
}

/// A socket, connected, so that an answer that there is no such port comes back to it; the question is sent.
pub(super) fn send(exchange: &Exchange) -> io::Result<UdpSocket> {
    let any: SocketAddr = match exchange.address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(exchange.address)?;
    socket.send(&exchange.send)?;
    Ok(socket)
}

/// Waits for one datagram: what comes from elsewhere never reaches a connected socket.
pub(super) async fn by_datagram(socket: UdpSocket, exchange: &Exchange, patterns: &Patterns) -> io::Result<Outcome> {
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut bytes = vec![0; MAX_READ];
    let len = socket.recv(&mut bytes).await?;
    let said = quote(&bytes[..len]);
    Ok(match &exchange.expect {
        Some(expected) if patterns.decide(expected, &bytes[..len], true) != Some(true) => {
            Outcome::fail(format!("answered {said}, not {expected}"))
        }
        Some(_) | None => Outcome::pass(format!("answered {said}")),
    })
}

/// Bytes that are no text become `\xff`.
pub(super) fn quote(bytes: &[u8]) -> String {
    let bytes = bytes.trim_ascii_end();
    format!("\"{}\"", bytes[..bytes.len().min(answer::QUOTED)].escape_ascii())
}
