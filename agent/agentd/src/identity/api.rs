//! The API over TCP: TLS under tonic, whose own settings cannot check a role instead of a name.
//!
//! It owns the handshakes, at most so many at once and each with a time limit. What is served is the caller's matter.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};

use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{IdentityError, Keyring, read_certificates, read_key, tls};

/// Handshakes under way at once; beyond them, connections wait in the kernel's backlog.
const MAX_HANDSHAKES: usize = 64;

/// For a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// For a client to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// After an error of accept(2), such as too many open files, which would otherwise come again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

mod guarded;

pub use guarded::Guarded;

/// What tonic serves from: `Server::serve_with_incoming`.
pub type Incoming = ReceiverStream<io::Result<Guarded>>;

/// Accepts clients with a certificate of our cluster; the rest are counted in `refused`. Ends when dropped.
pub fn incoming(
    listener: TcpListener,
    keyring: &Arc<Keyring>,
    refused: Arc<AtomicU64>,
) -> Result<Incoming, IdentityError> {
    let acceptor = TlsAcceptor::from(Arc::new(tls::api_server(keyring)?));
    let keyring = Arc::clone(keyring);
    let (sender, receiver) = mpsc::channel(MAX_HANDSHAKES);
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = accept(&listener, &acceptor, &sender, &keyring, &refused) => {}
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// A client's configuration from files in PEM: the cluster's CA, a certificate and its key.
pub fn client_config(authorities: &Path, certificate: &Path, key: &Path) -> Result<ClientConfig, IdentityError> {
    tls::api_client_config(&read_certificates(authorities)?, read_certificates(certificate)?, read_key(key)?.into())
}

/// Connects to a host's API, with a configuration of [`client_config`] or [`tls::api_client_config`].
pub async fn connect(address: SocketAddr, config: ClientConfig) -> Result<Channel, tonic::transport::Error> {
    let connector = TlsConnector::from(Arc::new(config));
    let dial = move |_: Uri| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let any = ServerName::try_from("host.ringmesh").expect("a DNS name");
            connector.connect(any, stream).await.map(TokioIo::new)
        }
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(CONNECT_TIMEOUT);
    endpoint.connect_with_connector(tower::service_fn(dial)).await
}

async fn accept(
    listener: &TcpListener,
    acceptor: &TlsAcceptor,
    sender: &mpsc::Sender<io::Result<Guarded>>,
    keyring: &Arc<Keyring>,
    refused: &Arc<AtomicU64>,
) {
    let slots = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections to the API");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, sender, refused) = (acceptor.clone(), sender.clone(), refused.clone());
        let keyring = Arc::clone(keyring);
        tokio::spawn(async move {
            let _slot = slot;
            // It saves milliseconds; without it the connection works as well.
            let _ = stream.set_nodelay(true);
            match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                // Fails only when the server has ended.
                Ok(Ok(stream)) => drop(sender.send(Ok(Guarded::new(stream, keyring))).await),
                Ok(Err(error)) => {
                    refused.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%peer, %error, "refused a client of the API");
                }
                Err(_) => {
                    refused.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%peer, "a client of the API did not finish its handshake");
                }
            }
        });
    }
}
