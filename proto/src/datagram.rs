//! The fixed header of every datagram between hosts.
//!
//! ```text
//!  0        1        2        4             8         12           16
//!  version  kind     cell     cluster tag   zone      sequence     payload …      (big-endian)
//! ```
//!
//! The zone is the sender's: SWIM of one zone is no business of another. The sequence number lets a receiver discard the second copy of a datagram that was sent over both uplinks.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{ClusterId, ZoneId};

/// The version that this build speaks.
pub const VERSION: u8 = 2;

/// Bytes of the header.
pub const HEADER_LEN: usize = 16;

/// The largest datagram, header included, that any path of at least 1,200 bytes carries: what is left of QUIC's
/// smallest packet (RFC 9000 §14) after the longest short header with a 20-byte connection id (RFC 9000 §17.3.1),
/// the AEAD tag, and the DATAGRAM frame's type and length.
pub const MAX_LEN: usize = 1200 - (1 + 20 + 4) - 16 - 9;

/// The largest payload.
pub const MAX_PAYLOAD: usize = MAX_LEN - HEADER_LEN;

/// What the payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A SWIM message of the pool of hosts.
    Swim,
    /// "Are you there?" on one link: 8 bytes that come back as they are, and the sender's round trip.
    LinkProbe,
    /// The answer to [`Kind::LinkProbe`]: its first 8 bytes.
    LinkAck,
    /// As [`Kind::LinkProbe`], on a trunk: between delegates of two zones.
    TrunkProbe,
    /// The answer to [`Kind::TrunkProbe`].
    TrunkAck,
    /// A SWIM message between containers of one service: the 4 bytes of their cell's key, whose lower half is also the
    /// header's `cell`, and the message.
    Cell,
}

impl Kind {
    /// Whether it passes between hosts of two zones; the others do between hosts of one.
    pub const fn is_between_zones(self) -> bool {
        matches!(self, Self::TrunkProbe | Self::TrunkAck)
    }
}

/// A datagram that passed all checks of its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// What the payload is.
    pub kind: Kind,
    /// The gossip pool that it belongs to; 0 is the pool of hosts.
    pub cell: u16,
    /// The sender's zone.
    pub zone: ZoneId,
    /// Grows by one with each datagram of a sender, wrapping.
    pub sequence: u32,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Bytes,
}

/// Why a datagram was refused. Each reason has a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// Shorter than a header.
    #[error("truncated")]
    Truncated,
    /// Longer than [`MAX_LEN`].
    #[error("oversized")]
    Oversized,
    /// A version that this build does not speak.
    #[error("unknown version {0}")]
    Version(u8),
    /// A kind that this version does not have.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// Meant for another cluster.
    #[error("wrong cluster")]
    Cluster,
}

impl Datagram {
    /// The bytes that go on the wire.
    pub fn encode(&self, cluster: ClusterId) -> Bytes {
        debug_assert!(self.payload.len() <= MAX_PAYLOAD, "the sender fills no more than a path carries");
        let mut out = BytesMut::with_capacity(HEADER_LEN + self.payload.len());
        out.put_u8(VERSION);
        out.put_u8(match self.kind {
            Kind::Swim => 1,
            Kind::LinkProbe => 2,
            Kind::LinkAck => 3,
            Kind::TrunkProbe => 4,
            Kind::TrunkAck => 5,
            Kind::Cell => 6,
        });
        out.put_u16(self.cell);
        out.put_u32(cluster.tag());
        out.put_u32(self.zone.raw());
        out.put_u32(self.sequence);
        out.put_slice(&self.payload);
        out.freeze()
    }

    /// Checks the header; allocates nothing.
    pub fn decode(mut bytes: Bytes, cluster: ClusterId) -> Result<Self, DatagramError> {
        if bytes.len() < HEADER_LEN {
            return Err(DatagramError::Truncated);
        }
        if bytes.len() > MAX_LEN {
            return Err(DatagramError::Oversized);
        }
        let version = bytes.get_u8();
        if version != VERSION {
            return Err(DatagramError::Version(version));
        }
        let kind = match bytes.get_u8() {
            1 => Kind::Swim,
            2 => Kind::LinkProbe,
            3 => Kind::LinkAck,
            4 => Kind::TrunkProbe,
            5 => Kind::TrunkAck,
            6 => Kind::Cell,
            other => return Err(DatagramError::Kind(other)),
        };
        let cell = bytes.get_u16();
        if bytes.get_u32() != cluster.tag() {
            return Err(DatagramError::Cluster);
        }
        let zone = ZoneId::new(bytes.get_u32());
        let sequence = bytes.get_u32();
        Ok(Self { kind, cell, zone, sequence, payload: bytes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLUSTER: ClusterId = ClusterId::new(0xfeed_f00d_dead_beef);

    fn sample() -> Datagram {
        Datagram {
            kind: Kind::Swim,
            cell: 7,
            zone: ZoneId::of("east"),
            sequence: 99,
            payload: Bytes::from_static(b"hello"),
        }
    }

    #[test]
    fn each_broken_header_has_its_reason() {
        let good = sample().encode(CLUSTER);
        let broken = |place: usize| {
            let mut bytes = good.to_vec();
            bytes[place] ^= 0x80;
            Datagram::decode(bytes.into(), CLUSTER)
        };
        assert_eq!(Datagram::decode(good.slice(..HEADER_LEN - 1), CLUSTER), Err(DatagramError::Truncated));
        assert_eq!(Datagram::decode(vec![1; MAX_LEN + 1].into(), CLUSTER), Err(DatagramError::Oversized));
        assert_eq!(broken(0), Err(DatagramError::Version(VERSION ^ 0x80)));
        assert_eq!(broken(1), Err(DatagramError::Kind(0x81)));
        assert_eq!(broken(4), Err(DatagramError::Cluster));
    }

    proptest! {
        #[test]
        fn round_trip(cell: u16, zone: u32, sequence: u32, payload in prop::collection::vec(any::<u8>(), 0..MAX_PAYLOAD)) {
            let zone = ZoneId::new(zone);
            let datagram = Datagram { kind: Kind::LinkAck, cell, zone, sequence, payload: payload.into() };
            prop_assert_eq!(Datagram::decode(datagram.encode(CLUSTER), CLUSTER), Ok(datagram));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = Datagram::decode(bytes.into(), CLUSTER);
        }
    }
}
