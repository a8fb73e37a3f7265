//! A member of the pool of hosts, and its checked conversion from the wire.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{Generation, HostId, Uplink, peer::MemberRecord};

/// One life of a host: who it is, which life it is, and where its uplinks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// The host.
    pub id: HostId,
    /// Of two lives of a host, the higher one is the current.
    pub generation: Generation,
    /// Address and port of uplink A and B; a host has at least one.
    pub addresses: [Option<SocketAddr>; 2],
}

impl Member {
    /// Where this uplink listens, if the host has it.
    pub fn address(&self, uplink: Uplink) -> Option<SocketAddr> {
        self.addresses[uplink.index()]
    }

    /// Its record with the given SWIM incarnation and state (0 alive, 1 suspect, 2 down).
    pub fn to_record(&self, incarnation: u32, state: u32) -> MemberRecord {
        let text = |address: Option<SocketAddr>| address.map(|a| a.to_string()).unwrap_or_default();
        MemberRecord {
            host: self.id.raw(),
            generation: self.generation,
            incarnation,
            state,
            address_a: text(self.addresses[0]),
            address_b: text(self.addresses[1]),
        }
    }
}

impl TryFrom<&MemberRecord> for Member {
    type Error = MemberError;

    fn try_from(record: &MemberRecord) -> Result<Self, Self::Error> {
        let parse = |text: &str| match text {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| MemberError::Address),
        };
        let addresses = [parse(&record.address_a)?, parse(&record.address_b)?];
        if addresses == [None, None] {
            return Err(MemberError::NoAddress);
        }
        Ok(Self { id: HostId::new(record.host), generation: record.generation, addresses })
    }
}

/// Why a member record was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// An address is not "ADDRESS:PORT".
    #[error("an uplink's address is not ADDRESS:PORT")]
    Address,
    /// There is no address at all.
    #[error("the member has no address")]
    NoAddress,
}
