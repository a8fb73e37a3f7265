//! How a stream to another member is made: over TCP between the members of a standalone store, over the mesh between
//! hosts. What goes over it it does not know.

use std::{fmt, io};

use ringmesh_proto::HostId;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::peer::prepare;
use crate::quic::{Purpose, RequestError, Transport};

/// A stream.
pub(super) trait Line: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}

/// Where a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At an address.
    Address {
        /// For people.
        name: String,
        /// Host and port.
        address: String,
    },
    /// On a host of the mesh.
    Host {
        /// For people.
        name: String,
        /// Which.
        host: HostId,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Address { name, .. } | Self::Host { name, .. }) = self;
        f.write_str(name)
    }
}

/// See above.
#[derive(Clone)]
pub(super) enum Road {
    /// TCP.
    Tcp,
    /// The mesh.
    Mesh(Transport),
}

impl Road {
    /// A new stream to that place.
    pub(super) async fn connect(&self, place: &Place) -> io::Result<Box<dyn Line>> {
        match (self, place) {
            (Self::Tcp, Place::Address { address, .. }) => {
                let stream = TcpStream::connect(address).await?;
                prepare(&stream)?;
                Ok(Box::new(stream))
            }
            (Self::Mesh(transport), Place::Host { host, .. }) => {
                let stream = transport.open_store(*host, Purpose::Replica).await.map_err(broken)?;
                Ok(Box::new(stream))
            }
            (Self::Tcp, Place::Host { .. }) | (Self::Mesh(_), Place::Address { .. }) => {
                Err(io::ErrorKind::Unsupported.into())
            }
        }
    }
}

fn broken(error: RequestError) -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, error.to_string())
}
