//! Any bytes as what a member of the store says to another, in pieces of any length. The first byte says how long they are.
#![no_main]

// The daemon itself would be built with coverage only for this file, which refers to nothing else of it.
#[path = "../../agentd/src/store/peer/frame.rs"]
#[allow(unreachable_pub)]
mod frame;

use std::{
    fmt::Debug,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::BufMut;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use ringmesh_proto::store::{Hello, PeerMessage};
use tokio::io::{AsyncRead, ReadBuf};

fuzz_target!(|bytes: &[u8]| {
    let [step, rest @ ..] = bytes else { return };
    let step = usize::from(*step) + 1;
    stream(rest, step);
    // What the fuzzer would take long to find: a head that fits.
    let mut framed = Vec::new();
    framed.put_u32(rest.len() as u32);
    framed.put_u32(crc32fast::hash(rest));
    framed.put_slice(rest);
    stream(&framed, step);
});

/// A hello and then messages, as a member reads them.
fn stream(bytes: &[u8], step: usize) {
    let _ = next::<Hello>(&mut Pieces { rest: bytes, step });
    let (mut cut, mut whole) = (Pieces { rest: bytes, step }, Pieces { rest: bytes, step: usize::MAX });
    loop {
        let read = next::<PeerMessage>(&mut cut);
        assert_eq!(read, next(&mut whole), "it does not matter how a message is cut");
        let Some(message) = read else { return };
        let frame = frame::encode(&message);
        assert_eq!(next(&mut Pieces { rest: &frame, step }), Some(message), "what we encode, we decode");
    }
}

fn next<M: Message + Default + Debug>(pieces: &mut Pieces<'_>) -> Option<M> {
    match pin!(frame::read(pieces)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(read) => read.ok(),
        Poll::Pending => panic!("it waits for bytes that are there"),
    }
}

/// Gives so many bytes at once.
struct Pieces<'a> {
    rest: &'a [u8],
    step: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (piece, rest) = self.rest.split_at(self.step.min(self.rest.len()).min(buffer.remaining()));
        buffer.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}
