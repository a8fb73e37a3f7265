//! Where the agent is, and a connection to it: a unix socket, or TCP with a client certificate.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, ServerName,
    pem::{self, PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tonic::transport::{Channel, Endpoint};

use crate::{
    agentd::{identity::tls::api_client_config, lab},
    args::Global,
    error::{CliError, chain, is_tls_alert, reason},
};

const DEFAULT_SOCKET: &str = "/run/ringmesh/agent.sock";
const IDENTITY: &str = "/var/lib/ringmesh/identity";

/// An agent's address and what is needed to be let in.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Unix(PathBuf),
    Tls { host: String, port: u16, files: TlsFiles },
}

/// PEM files: who signs the agents, who we are.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

impl Target {
    /// The one that was named; otherwise this host's agent, if it is there; otherwise the newest lab's first host.
    pub(crate) fn find(global: &Global) -> Result<Self, CliError> {
        if let Some(address) = &global.address {
            return match lab_host(address) {
                Some(api) => Self::parse(&api, global),
                None => Self::parse(address, global),
            };
        }
        if !Path::new(DEFAULT_SOCKET).exists()
            && let Some(api) = lab::newest().and_then(|lab| api_of(&lab, None))
        {
            return Self::parse(&api, global);
        }
        Ok(Self::Unix(DEFAULT_SOCKET.into()))
    }

    fn parse(address: &str, global: &Global) -> Result<Self, CliError> {
        if let Some(path) = address.strip_prefix("unix:") {
            // Both unix:/path and unix:///path are common.
            let path = path.strip_prefix("//").unwrap_or(path);
            return Ok(Self::Unix(path.into()));
        }
        if address.starts_with(['/', '.']) {
            return Ok(Self::Unix(address.into()));
        }
        let rest = address.strip_prefix("https://").unwrap_or(address).trim_end_matches('/');
        let (host, port) = rest
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse().ok().filter(|port| *port != 0)?)))
            .filter(|(host, _)| !host.is_empty() && !host.contains('/'))
            .ok_or_else(|| {
                CliError::Usage(format!(
                    "--host \"{}\" is no address: use unix:/PATH, /PATH, ADDRESS:PORT, or a host of the newest lab",
                    address.escape_debug()
                ))
            })?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let file =
            |given: &Option<PathBuf>, name: &str| given.clone().unwrap_or_else(|| Path::new(IDENTITY).join(name));
        let files = TlsFiles {
            ca: file(&global.ca, "ca.pem"),
            cert: file(&global.cert, "operator.pem"),
            key: file(&global.key, "operator.key"),
        };
        Ok(Self::Tls { host, port, files })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tls { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tls { host, port, .. } => write!(f, "{host}:{port}"),
        }
    }
}

impl TlsFiles {
    fn client_config(&self) -> Result<rustls::ClientConfig, CliError> {
        let authorities = certificates(&self.ca, "--ca")?;
        let chain = certificates(&self.cert, "--cert")?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| unreadable(&self.key, "--key", &error))?;
        let mut config = api_client_config(&authorities, chain, key).map_err(|error| CliError::failed(&error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn certificates(path: &Path, option: &str) -> Result<Vec<CertificateDer<'static>>, CliError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match found {
        Ok(found) if found.is_empty() => Err(unreadable(path, option, &pem::Error::NoItemsFound)),
        Ok(found) => Ok(found),
        Err(error) => Err(unreadable(path, option, &error)),
    }
}

fn unreadable(path: &Path, option: &str, error: &pem::Error) -> CliError {
    // Its message has the system's own in brackets, which say enough.
    let why = if let pem::Error::Io(error) = error { reason(error) } else { error.to_string() };
    CliError::Failed(format!("cannot read {} ({why}): name another file with {option}", path.display()))
}

/// The API of a host of the newest lab, if `name` is one.
fn lab_host(name: &str) -> Option<String> {
    if name.contains(['/', ':', '.']) {
        return None;
    }
    api_of(&lab::newest()?, Some(name))
}

/// Read from the lab's JSON, which is its contract.
fn api_of(lab: &lab::LabStatus, name: Option<&str>) -> Option<String> {
    let lab = serde_json::to_value(lab).ok()?;
    let hosts = lab.get("hosts")?.as_array()?;
    let host = match name {
        Some(name) => hosts.iter().find(|host| host.get("name").and_then(|n| n.as_str()) == Some(name))?,
        None => hosts.first()?,
    };
    Some(host.get("api")?.as_str()?.to_owned())
}

/// Connects, within `timeout`.
pub(crate) async fn channel(target: &Target, timeout: Duration) -> Result<Channel, CliError> {
    let connected = tokio::time::timeout(timeout, async {
        match target {
            Target::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| no_agent(target, &error))?;
                handshake(target, stream).await
            }
            Target::Tls { host, port, files } => {
                let stream = tls_stream(target, host, *port, files).await?;
                handshake(target, stream).await
            }
        }
    });
    connected.await.unwrap_or_else(|_| Err(no_agent(target, &io::ErrorKind::TimedOut.into())))
}

/// HTTP/2 over a stream that is connected already, so that what goes wrong below is reported as it is. A command lives
/// as long as its connection; there is no second one.
async fn handshake<S>(target: &Target, stream: S) -> Result<Channel, CliError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = Arc::new(OnceLock::new());
    let mut stream = Some(TokioIo::new(Told { stream, broken: Arc::clone(&broken) }));
    let connector = tower::service_fn(move |_| {
        // Asked for a second stream, it says why the first one broke: nobody else remembers.
        let why = || broken.get().cloned().unwrap_or_else(|| "connection reset".to_owned());
        let stream = stream.take().ok_or_else(|| io::Error::new(io::ErrorKind::ConnectionReset, why()));
        std::future::ready(stream)
    });
    // The name is not looked up: the stream exists.
    Endpoint::from_static("http://ringmesh").connect_with_connector(connector).await.map_err(|error| {
        if is_tls_alert(&error) {
            return CliError::distrust(&target.to_string(), &error);
        }
        CliError::Unreachable(format!("{target} does not speak gRPC ({}): is it an agent's API?", chain(&error)))
    })
}

/// A stream that remembers why reading from it failed.
struct Told<S> {
    stream: S,
    broken: Arc<OnceLock<String>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Told<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, into);
        if let Poll::Ready(Err(error)) = &read {
            self.broken.get_or_init(|| chain(error));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Told<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn tls_stream(
    target: &Target,
    host: &str,
    port: u16,
    files: &TlsFiles,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, CliError> {
    let config = files.client_config()?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| CliError::Usage(format!("--host: \"{}\" is no host name or address", host.escape_debug())))?;
    let stream = TcpStream::connect((host, port)).await.map_err(|error| no_agent(target, &error))?;
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| CliError::distrust(&target.to_string(), &error))
}

fn no_agent(target: &Target, error: &io::Error) -> CliError {
    let why = reason(error);
    if error.kind() == io::ErrorKind::PermissionDenied {
        return CliError::Refused(format!("no access to {target} ({why}): run as root, or name a host with --host"));
    }
    let start = match target {
        Target::Unix(_) => "start one with `ringmesh agent`, or name a host with --host",
        Target::Tls { .. } => "is [api] listen set there? Or name another host with --host",
    };
    CliError::Unreachable(format!("no agent at {target} ({why}): {start}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(address: &str) -> Result<String, String> {
        let global = Global::for_tests();
        Target::parse(address, &global).map(|target| format!("{target}")).map_err(|error| error.to_string())
    }

    #[test]
    fn addresses() {
        for (address, expected) in [
            ("unix:/run/x.sock", "unix:/run/x.sock"),
            ("unix:///run/x.sock", "unix:/run/x.sock"),
            ("/run/x.sock", "unix:/run/x.sock"),
            ("./x.sock", "unix:./x.sock"),
            ("10.0.0.1:7443", "10.0.0.1:7443"),
            ("https://h1.example:7443/", "h1.example:7443"),
            ("https://[fd00::1]:7443", "[fd00::1]:7443"),
        ] {
            assert_eq!(parse(address).as_deref(), Ok(expected));
        }
        for bad in ["h1", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:65536", ":7443", "http://h1:80/x", "http://h1:80"] {
            assert!(parse(bad).is_err_and(|error| error.contains("is no address")), "{bad}");
        }
    }
}
