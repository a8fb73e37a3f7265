//! Seals: by which a host knows who said what others pass on.
//!
//! It owns what the node wants of them. Keys and certificates are the daemon's, the order of the bytes is proto's.

use bytes::Bytes;
use ringmesh_proto::HostId;

/// Makes this host's seals and checks those of others. [`ringmesh_proto::seal`] says over which bytes.
pub trait Seals: Send {
    /// This host's certificate, which others are shown. [`Self::seal`] uses its key until this is called again.
    fn certificate(&mut self) -> Bytes;

    /// This host's seal over these bytes; an empty one, which nobody believes, if none can be made.
    fn seal(&mut self, bytes: &[u8]) -> Bytes;

    /// Whether `certificate` is one of `host` that counts, and its key sealed these bytes.
    fn verify(&mut self, host: HostId, certificate: &Bytes, bytes: &[u8], seal: &[u8]) -> bool;
}
