//! Messages on a stream of bytes: length, CRC32, message.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of one message: some entries of the log of 1.5 MiB each, and room.
const MAX_BYTES: usize = 16 << 20;

const HEAD_BYTES: usize = 8;

/// `message` as it is sent.
pub(super) fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + length);
    frame.put_bytes(0, HEAD_BYTES);
    message.encode(&mut frame).expect("a buffer grows");
    let crc = crc32fast::hash(&frame[HEAD_BYTES..]);
    let length = u32::try_from(length).expect("what members say is far below 4 GiB");
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame[4..HEAD_BYTES].copy_from_slice(&crc.to_be_bytes());
    frame.freeze()
}

/// The next message, and an error for one that is too long, damaged or none.
pub(super) async fn read<M: Message + Default>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<M> {
    let length = stream.read_u32().await?;
    let crc = stream.read_u32().await?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_BYTES {
        return Err(bad("a message is too long"));
    }
    let mut bytes = BytesMut::with_capacity(length.min(64 << 10));
    while bytes.len() < length {
        let missing = length - bytes.len();
        if (&mut *stream).take(missing as u64).read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if crc32fast::hash(&bytes) != crc {
        return Err(bad("a message was damaged on its way"));
    }
    M::decode(bytes.freeze()).map_err(|_| bad("a message is none that this version knows"))
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use ringmesh_proto::store::{PeerMessage, peer_message::Kind};

    use super::*;

    #[tokio::test]
    async fn a_message_comes_through_and_each_damage_of_it_is_seen() {
        let message = PeerMessage { kind: Some(Kind::Raft("some bytes".into())) };
        let frame = encode(&message);
        assert_eq!(read::<PeerMessage>(&mut &frame[..]).await.unwrap(), message);
        for byte in 0..frame.len() {
            let mut damaged = frame.to_vec();
            damaged[byte] ^= 0x10;
            read::<PeerMessage>(&mut &damaged[..]).await.unwrap_err();
            read::<PeerMessage>(&mut &frame[..byte]).await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn a_length_is_believed_only_as_far_as_bytes_come() {
        let mut head = u32::try_from(MAX_BYTES + 1).unwrap().to_be_bytes().to_vec();
        head.extend([0; 64]);
        assert_eq!(read::<PeerMessage>(&mut &head[..]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
