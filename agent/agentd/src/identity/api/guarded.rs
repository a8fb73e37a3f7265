//! A client's connection over which nothing goes any more once the client's certificate is revoked.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpConnectInfo, TlsConnectInfo};

use crate::identity::{
    PeerError, PeerIdentity,
    keyring::{Keyring, Shown},
    tls,
};

/// See above.
pub struct Guarded {
    stream: TlsStream<TcpStream>,
    keyring: Arc<Keyring>,
    /// `None` for operators, who are not revoked.
    shown: Option<Shown>,
    /// Of the keyring, when it was last asked.
    revision: u64,
}

impl Guarded {
    pub(super) fn new(stream: TlsStream<TcpStream>, keyring: Arc<Keyring>) -> Self {
        let certificates = stream.get_ref().1.peer_certificates();
        let shown = certificates.and_then(<[_]>::first).and_then(Shown::of);
        // None of the keyring's: the first use asks it.
        Self { stream, keyring, shown, revision: u64::MAX }
    }

    /// Who made it, by its certificate.
    ///
    /// # Errors
    /// If that names nobody of this cluster: the handshake would have failed.
    pub fn peer(&self) -> Result<PeerIdentity, PeerError> {
        tls::check_peer(self.stream.get_ref().1.peer_certificates(), self.keyring.cluster)
    }

    fn check(&mut self) -> io::Result<()> {
        let Some(shown) = &self.shown else { return Ok(()) };
        let revision = self.keyring.revision();
        if revision == self.revision {
            return Ok(());
        }
        if self.keyring.is_shown_revoked(shown) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the client's certificate was revoked"));
        }
        self.revision = revision;
        Ok(())
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Guarded {
    type ConnectInfo = TlsConnectInfo<TcpConnectInfo>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}
