//! The summary of everything that runs on a host: at most 64 bytes, spread by gossip.
//!
//! Its layout is versioned by its length: a later version appends fields, and a reader takes the prefix it knows.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of this version's digest.
pub const LEN: usize = 47;

/// Bytes of the first version's, which ends with the fingerprint.
pub const MIN_LEN: usize = 39;

/// The most bytes that a digest of any version has.
pub const MAX_LEN: usize = 64;

/// Counts and a fingerprint of a host's containers and services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// Containers that the host should run.
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
    /// 0 unknown, 1 passing, 2 warning, 3 critical: the worst verdict, as in ringmesh.v1.Verdict.
    pub worst: u8,
    /// Changes whenever any detail does that a query would show, other than times and latencies.
    pub fingerprint: u64,
    /// A hash of all cells: changes when a member of one becomes another, or another thing. 0 if the host does not say.
    pub cells: u64,
}

impl Digest {
    /// Services without a verdict yet.
    pub fn unverified(&self) -> u32 {
        self.services.saturating_sub(self.passing).saturating_sub(self.warning).saturating_sub(self.critical)
    }

    /// [`LEN`] bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(LEN);
        out.put_u8(1);
        for count in
            [self.containers, self.running, self.services, self.passing, self.warning, self.critical, self.frozen]
        {
            out.put_u32(count);
        }
        out.put_u8(self.score);
        out.put_u8(self.worst);
        out.put_u64(self.fingerprint);
        out.put_u64(self.cells);
        out.freeze()
    }

    /// `None` if it is too short, too long or of an unknown version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < MIN_LEN || bytes.len() > MAX_LEN {
            return None;
        }
        let mut bytes = bytes;
        if bytes.get_u8() != 1 {
            return None;
        }
        Some(Self {
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
            cells: bytes.try_get_u64().unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_bounds() {
        let digest = Digest {
            containers: 32_000,
            critical: 3,
            score: 99,
            worst: 3,
            fingerprint: 7,
            cells: 9,
            ..Digest::default()
        };
        let bytes = digest.encode();
        assert_eq!(bytes.len(), LEN);
        assert_eq!(Digest::decode(&bytes), Some(digest));
        assert_eq!(Digest::decode(&bytes[..MIN_LEN]), Some(Digest { cells: 0, ..digest }), "of a host before cells");
        assert_eq!(Digest::decode(&bytes[..MIN_LEN - 1]), None);
        assert_eq!(Digest::decode(&[1; MAX_LEN + 1]), None);
        assert_eq!(Digest::decode(&[2; LEN]), None);
    }
}
