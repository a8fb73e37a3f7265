//! Seals of simulated hosts: a keyed sum instead of a signature, and a certificate that only says whose and which it is.
//!
//! Whoever knows this file can make any seal, and no host of a simulation does: each has only its own.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use bytes::{BufMut, Bytes, BytesMut};
use ringmesh_node::Seals;
use ringmesh_proto::HostId;

use crate::draw::mix;

const CERTIFICATE_LEN: usize = 8;

/// One host's.
pub(crate) struct SimSeals {
    host: HostId,
    /// How often its certificate was replaced.
    renewals: Arc<AtomicU32>,
    own: Bytes,
}

impl SimSeals {
    pub(crate) fn new(host: HostId, renewals: Arc<AtomicU32>) -> Self {
        let own = certificate(host, renewals.load(Relaxed));
        Self { host, renewals, own }
    }
}

impl Seals for SimSeals {
    fn certificate(&mut self) -> Bytes {
        let newest = certificate(self.host, self.renewals.load(Relaxed));
        if newest != self.own {
            self.own = newest;
        }
        self.own.clone()
    }

    fn seal(&mut self, bytes: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&sum(&self.own, bytes).to_be_bytes())
    }

    fn verify(&mut self, host: HostId, certificate: &Bytes, bytes: &[u8], seal: &[u8]) -> bool {
        certificate.len() == CERTIFICATE_LEN
            && certificate[..4] == host.raw().to_be_bytes()
            && seal == sum(certificate, bytes).to_be_bytes()
    }
}

fn certificate(host: HostId, renewals: u32) -> Bytes {
    let mut bytes = BytesMut::with_capacity(CERTIFICATE_LEN);
    bytes.put_u32(host.raw());
    bytes.put_u32(renewals);
    bytes.freeze()
}

fn sum(certificate: &[u8], bytes: &[u8]) -> u64 {
    let words = certificate.chunks(8).chain(bytes.chunks(8)).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_be_bytes(word)
    });
    words.fold(bytes.len() as u64, |sum, word| mix(sum ^ word))
}
