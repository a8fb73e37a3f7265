//! The summary of everything that runs in a zone: at most 88 bytes, in its record.
//!
//! Its layout is versioned by its length, as that of a host's digest: a later version appends fields, and a reader takes the
//! prefix it knows.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of this version's digest.
pub const LEN: usize = 59;

/// The most bytes that a digest of any version has.
pub const MAX_LEN: usize = 88;

/// Counts of a zone's hosts and of what runs on those that are not down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneDigest {
    /// Hosts that have not left.
    pub hosts: u32,
    /// Of these, alive.
    pub alive: u32,
    /// Of these, suspected.
    pub suspect: u32,
    /// Of these, cut off by their own word.
    pub isolated: u32,
    /// Of these, down.
    pub down: u32,
    /// Containers that the hosts should run.
    pub containers: u32,
    /// Of these, running.
    pub running: u32,
    /// Services that are probed.
    pub services: u32,
    /// Of these, judged passing.
    pub passing: u32,
    /// Of these, judged warning.
    pub warning: u32,
    /// Of these, judged critical.
    pub critical: u32,
    /// Frozen containers.
    pub frozen: u32,
    /// Mean container score, 0 to 100.
    pub score: u8,
    /// The worst verdict, as in ringmesh.v1.Verdict ordered unknown, passing, warning, critical.
    pub worst: u8,
    /// Changes whenever a host's fingerprint does.
    pub fingerprint: u64,
}

impl ZoneDigest {
    /// [`LEN`] bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(LEN);
        out.put_u8(1);
        self.counts().into_iter().for_each(|count| out.put_u32(count));
        out.put_u8(self.score);
        out.put_u8(self.worst);
        out.put_u64(self.fingerprint);
        out.freeze()
    }

    /// `None` if it is too short, too long or of an unknown version.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < LEN || bytes.len() > MAX_LEN || bytes.get_u8() != 1 {
            return None;
        }
        Some(Self {
            hosts: bytes.get_u32(),
            alive: bytes.get_u32(),
            suspect: bytes.get_u32(),
            isolated: bytes.get_u32(),
            down: bytes.get_u32(),
            containers: bytes.get_u32(),
            running: bytes.get_u32(),
            services: bytes.get_u32(),
            passing: bytes.get_u32(),
            warning: bytes.get_u32(),
            critical: bytes.get_u32(),
            frozen: bytes.get_u32(),
            score: bytes.get_u8().min(100),
            worst: bytes.get_u8().min(3),
            fingerprint: bytes.get_u64(),
        })
    }

    fn counts(&self) -> [u32; 12] {
        let Self { hosts, alive, suspect, isolated, down, containers, running, services, passing, .. } = *self;
        let Self { warning, critical, frozen, .. } = *self;
        [hosts, alive, suspect, isolated, down, containers, running, services, passing, warning, critical, frozen]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_bounds() {
        let digest =
            ZoneDigest { hosts: 512, down: 3, frozen: 7, score: 99, worst: 3, fingerprint: 8, ..<_>::default() };
        let bytes = digest.encode();
        assert_eq!(bytes.len(), LEN);
        assert_eq!(ZoneDigest::decode(&bytes), Some(digest));
        assert_eq!(ZoneDigest::decode(&bytes[..LEN - 1]), None);
        assert_eq!(ZoneDigest::decode(&[1; MAX_LEN + 1]), None);
        assert_eq!(ZoneDigest::decode(&[2; LEN]), None);
    }
}
