//! Identifiers, each a type of its own.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A host of the cluster: given at join, random, never reused. Printed as eight hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostId(u32);

impl HostId {
    /// Wraps the number that stands on the wire.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The number that stands on the wire.
    pub const fn raw(self) -> u32 {
        self.0
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for HostId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_hex(text, 8).map(|raw| Self(raw as u32))
    }
}

/// A cluster: random, made by `ringmesh init`. Printed as sixteen hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(u64);

impl ClusterId {
    /// Wraps the number that stands on the wire.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The number that stands on the wire.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The 32 bits that stand in each datagram: both halves, folded.
    pub const fn tag(self) -> u32 {
        (self.0 >> 32) as u32 ^ self.0 as u32
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for ClusterId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_hex(text, 16).map(Self)
    }
}

/// A zone, one pool of gossip: the FNV-1a hash of its name (32 bits; Fowler, Noll, Vo). Printed as eight hexadecimal
/// digits. Two names may hash alike, so that whoever meets a zone compares the names too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZoneId(u32);

impl ZoneId {
    /// Wraps the number that stands on the wire.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The zone of this name.
    pub const fn of(name: &str) -> Self {
        let bytes = name.as_bytes();
        let (mut hash, mut place) = (0x811c_9dc5_u32, 0);
        while place < bytes.len() {
            hash = (hash ^ bytes[place] as u32).wrapping_mul(0x0100_0193);
            place += 1;
        }
        Self(hash)
    }

    /// The number that stands on the wire.
    pub const fn raw(self) -> u32 {
        self.0
    }
}

impl fmt::Display for ZoneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// How often a host's identity was made anew: by a start of its agent, or because it was thought down. Persisted;
/// never taken from a clock.
pub type Generation = u32;

/// One of a host's two network interfaces for the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Uplink {
    /// Carries ring A.
    A,
    /// Carries ring B.
    B,
}

impl Uplink {
    /// Both, A first.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// 0 for A, 1 for B: the place in arrays and on the wire.
    pub const fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    /// The uplink with this place, if there is one.
    pub const fn from_index(index: u32) -> Option<Self> {
        match index {
            0 => Some(Self::A),
            1 => Some(Self::B),
            _ => None,
        }
    }

    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// "a" or "b".
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

impl fmt::Display for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Uplink {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "a" | "A" => Ok(Self::A),
            "b" | "B" => Ok(Self::B),
            _ => Err(ParseIdError { expected: "a or b" }),
        }
    }
}

/// Text that is not the identifier it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct ParseIdError {
    expected: &'static str,
}

fn parse_hex(text: &str, digits: usize) -> Result<u64, ParseIdError> {
    let expected = if digits == 8 { "8 hexadecimal digits" } else { "16 hexadecimal digits" };
    if text.len() != digits || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(ParseIdError { expected });
    }
    u64::from_str_radix(text, 16).map_err(|_| ParseIdError { expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_as_text_and_refuse_the_rest() {
        let host = HostId::new(0x00ab_cdef);
        assert_eq!(host.to_string(), "00abcdef");
        assert_eq!("00abcdef".parse(), Ok(host));
        assert!("abcdef".parse::<HostId>().is_err());
        assert!("+0abcdef".parse::<HostId>().is_err());
        let cluster = ClusterId::new(0x0123_4567_89ab_cdef);
        assert_eq!(cluster.to_string().parse(), Ok(cluster));
        assert_eq!(cluster.tag(), 0x0123_4567 ^ 0x89ab_cdef);
    }

    #[test]
    fn zones_are_hashed_as_in_the_published_vectors() {
        assert_eq!(ZoneId::of("").raw(), 0x811c_9dc5);
        assert_eq!(ZoneId::of("a").raw(), 0xe40c_292c);
        assert_eq!(ZoneId::of("foobar").raw(), 0xbf9c_f968);
        assert_eq!(ZoneId::of("costarring"), ZoneId::of("liquid"), "a known pair of names that hash alike");
    }
}
