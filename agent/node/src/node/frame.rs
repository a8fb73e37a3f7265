//! A gossip frame on its way to several hosts: shared by them, and encoded once, when somebody wants its bytes.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prost::Message;
use ringmesh_proto::{
    HostId, frame,
    peer::{Gossip, GossipFrame},
};

/// Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Frame(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    message: GossipFrame,
    bytes: OnceLock<Bytes>,
}

impl Frame {
    /// `relay_to`: the host that it is for, if the receiver is to pass it on.
    pub(crate) fn new(cluster: u64, gossip: Gossip, relay_to: Option<HostId>) -> Self {
        let relay_to = relay_to.map_or(0, HostId::raw);
        let message = GossipFrame { version: frame::VERSION, cluster, gossip: Some(gossip), relay_to };
        Self(Arc::new(Shared { message, bytes: OnceLock::new() }))
    }

    /// What it says.
    pub fn gossip(&self) -> Option<&Gossip> {
        self.0.message.gossip.as_ref()
    }

    /// The host that it is for, if the receiver is to pass it on.
    pub fn relay_to(&self) -> Option<HostId> {
        Some(self.0.message.relay_to).filter(|to| *to != 0).map(HostId::new)
    }

    /// Its message behind its prefix.
    pub fn bytes(&self) -> Bytes {
        self.0.bytes.get_or_init(|| frame::encode(&self.0.message)).clone()
    }

    /// How many bytes [`Self::bytes`] has, without encoding it.
    pub fn encoded_len(&self) -> usize {
        frame::PREFIX_LEN + self.0.message.encoded_len()
    }
}
