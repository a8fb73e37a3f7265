//! A route netlink socket that sends many requests at once and waits once.
//!
//! It knows how requests are batched and acknowledged, not what they ask for.

use std::io;

use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

/// Requests in one write. The kernel answers each that fails, and so many answers fit a socket's buffer.
const BATCH: usize = 128;

/// What a request does with what is there already.
#[derive(Clone, Copy, Debug)]
pub(super) enum Intent {
    /// Makes a new thing; one that is there is an error.
    Create,
    /// Makes it or writes over it.
    Put,
    /// Changes what is there.
    Change,
}

/// Requests that are to be sent together, in order.
#[derive(Debug, Default)]
pub(super) struct Batch {
    requests: Vec<(RouteNetlinkMessage, u16)>,
}

impl Batch {
    /// Appends a request.
    pub(super) fn push(&mut self, request: RouteNetlinkMessage, intent: Intent) {
        let flags = match intent {
            Intent::Create => NLM_F_CREATE | NLM_F_EXCL,
            Intent::Put => NLM_F_CREATE | NLM_F_REPLACE,
            Intent::Change => 0,
        };
        self.requests.push((request, NLM_F_REQUEST | flags));
    }

    /// Sends all of it in the calling thread's network namespace. Returns the first refusal; requests after a refused
    /// one are carried out nevertheless.
    pub(super) fn execute(self) -> io::Result<()> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let mut first = 0;
        let mut result = Ok(());
        for chunk in self.requests.chunks(BATCH) {
            socket.send(&encode(chunk, first), 0)?;
            first += chunk.len() as u32;
            result = result.and(acknowledged(&socket, first - 1)?);
        }
        result
    }
}

/// Only the last request of a write asks for an acknowledgement: the kernel carries them out in order, and answers
/// those that fail anyway.
fn encode(chunk: &[(RouteNetlinkMessage, u16)], first: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(chunk.len() * 64);
    for (nth, (request, flags)) in chunk.iter().enumerate() {
        let mut message = NetlinkMessage::from(request.clone());
        message.header.sequence_number = first + nth as u32;
        message.header.flags = if nth + 1 == chunk.len() { flags | NLM_F_ACK } else { *flags };
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..start + message.buffer_len()]);
    }
    bytes
}

/// Reads answers up to the one to request `last`; the inner result is the first refusal.
fn acknowledged(socket: &Socket, last: u32) -> io::Result<io::Result<()>> {
    let mut result = Ok(());
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        let NetlinkPayload::Error(error) = message.payload else { continue };
        if error.code.is_some() && result.is_ok() {
            result = Err(error.to_io());
        }
        if message.header.sequence_number == last {
            return Ok(result);
        }
    }
}
