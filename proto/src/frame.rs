//! Frames on streams between hosts: a 4-byte big-endian length, then a protobuf message.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use crate::{
    ClusterId,
    peer::{GossipFrame, Refusal, Request, Response, refusal::Reason},
};

/// The version that this build speaks; also the only one.
pub const VERSION: u32 = 1;

/// Bytes of the length in front of each message.
pub const PREFIX_LEN: usize = 4;

/// The most bytes of a gossip frame: some hundred records of events.
pub const MAX_GOSSIP: usize = 256 * 1024;

/// The most bytes of a request.
pub const MAX_REQUEST: usize = 256 * 1024;

/// The most bytes of a response: a sync of all that a zone may know. A page of details has far less.
pub const MAX_RESPONSE: usize = 32 * 1024 * 1024;

/// Why a frame was refused. Each reason has a counter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length says more than the kind of frame may have.
    #[error("a frame of {len} bytes, more than the {max} allowed")]
    Oversized {
        /// What the length field says.
        len: usize,
        /// The bound of this kind.
        max: usize,
    },
    /// Not the protobuf message it should be.
    #[error("malformed: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A version that this build does not speak.
    #[error("version {0} of the peer protocol, this host speaks {VERSION}")]
    Version(u32),
    /// Meant for another cluster.
    #[error("meant for cluster {0}")]
    Cluster(ClusterId),
}

impl FrameError {
    /// What to tell the sender, in words that it can show.
    pub fn refusal(&self) -> Refusal {
        let reason = match self {
            Self::Oversized { .. } | Self::Malformed(_) => Reason::Malformed,
            Self::Version(_) => Reason::Version,
            Self::Cluster(_) => Reason::Cluster,
        };
        refusal(reason, self.to_string())
    }
}

/// A refusal that carries the versions of this build.
pub fn refusal(reason: Reason, text: impl Into<String>) -> Refusal {
    Refusal { reason: reason as i32, text: text.into(), version_min: VERSION, version_max: VERSION }
}

/// A message with its length in front.
pub fn encode(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX_LEN + len);
    out.put_u32(u32::try_from(len).expect("our own messages stay far below 4 GiB"));
    message.encode(&mut out).expect("BytesMut grows");
    out.freeze()
}

/// The length that a prefix announces, if it is within `max`.
pub fn decode_prefix(prefix: [u8; PREFIX_LEN], max: usize) -> Result<usize, FrameError> {
    let len = u32::from_be_bytes(prefix) as usize;
    if len > max { Err(FrameError::Oversized { len, max }) } else { Ok(len) }
}

/// Reads a gossip frame's message, without its prefix.
pub fn decode_gossip(bytes: impl Buf, cluster: ClusterId) -> Result<GossipFrame, FrameError> {
    let frame = GossipFrame::decode(bytes)?;
    check(frame.version, frame.cluster, cluster)?;
    Ok(frame)
}

/// Reads a request's message, without its prefix. `cluster` is `None` for a join: the joining host knows it not yet.
pub fn decode_request(bytes: impl Buf, cluster: Option<ClusterId>) -> Result<Request, FrameError> {
    let request = Request::decode(bytes)?;
    check(request.version, request.cluster, cluster.unwrap_or(ClusterId::new(request.cluster)))?;
    Ok(request)
}

/// Reads a response's message, without its prefix.
pub fn decode_response(bytes: impl Buf) -> Result<Response, FrameError> {
    let response = Response::decode(bytes)?;
    if response.version != VERSION {
        return Err(FrameError::Version(response.version));
    }
    Ok(response)
}

fn check(version: u32, theirs: u64, ours: ClusterId) -> Result<(), FrameError> {
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    if theirs != ours.raw() {
        return Err(FrameError::Cluster(ClusterId::new(theirs)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::peer::{SyncRequest, request::Body};

    const CLUSTER: ClusterId = ClusterId::new(42);

    #[test]
    fn another_version_and_another_cluster_are_refused_politely() {
        let request = |version, cluster| {
            Request { version, cluster, body: Some(Body::Sync(SyncRequest::default())) }.encode_to_vec()
        };
        assert!(decode_request(&request(1, 42)[..], Some(CLUSTER)).is_ok());
        let error = decode_request(&request(9, 42)[..], Some(CLUSTER)).expect_err("version 9 is unknown");
        assert_eq!(error.refusal().reason(), Reason::Version);
        assert_eq!((error.refusal().version_min, error.refusal().version_max), (1, 1));
        let error = decode_request(&request(1, 43)[..], Some(CLUSTER)).expect_err("cluster 43 is not ours");
        assert_eq!(error, FrameError::Cluster(ClusterId::new(43)));
        assert_eq!(decode_prefix([0, 0, 1, 1], 256), Err(FrameError::Oversized { len: 257, max: 256 }));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode_gossip(&bytes[..], CLUSTER);
            let _ = decode_request(&bytes[..], Some(CLUSTER));
            let _ = decode_response(&bytes[..]);
        }
    }
}
