//! The gRPC health check (grpc.health.v1) over a connection that somebody else made.

use std::{
    error::Error,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{Outcome, answer};

/// The most bytes of an answer and of its headers; a right one has two and some hundred.
const MAX_ANSWERED: u32 = 8192;

/// Asks for the health of `service`; SERVING passes.
pub(super) async fn check(stream: TcpStream, address: SocketAddr, service: &str) -> Outcome {
    let channel = match channel(stream, address).await {
        Ok(channel) => channel,
        Err(error) => return Outcome::fail(format!("no gRPC answer: {}", answer::root_cause(error.as_ref()))),
    };
    let mut client = HealthClient::new(channel).max_decoding_message_size(MAX_ANSWERED as usize);
    match client.check(HealthCheckRequest { service: service.to_owned() }).await {
        Ok(response) => match response.into_inner().status() {
            ServingStatus::Serving => Outcome::pass("SERVING"),
            down @ ServingStatus::NotServing => Outcome::outright(down.as_str_name()),
            other @ (ServingStatus::Unknown | ServingStatus::ServiceUnknown) => Outcome::fail(other.as_str_name()),
        },
        Err(status) => Outcome::fail(words(&status, service)),
    }
}

/// A channel that lives in the one connection and never makes another.
async fn channel(stream: TcpStream, address: SocketAddr) -> Result<Channel, Box<dyn Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let mut stream = Some(TokioIo::new(Unclosed(stream)));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or_else(|| io::Error::other("the connection was closed"));
        async { stream }
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .user_agent(concat!("ringmesh/", env!("CARGO_PKG_VERSION")))?
        .http2_max_header_list_size(MAX_ANSWERED)
        .connect_with_connector(connector)
        .await?;
    Ok(endpoint)
}

/// A connection whose write half is never closed by itself, so that dropping it resets it (see
/// [`Dial`](super::socket::Dial)).
///
/// The HTTP client closes it on its way out; a server that then closes its own half in time would leave us in TIME_WAIT.
struct Unclosed(TcpStream);

impl AsyncRead for Unclosed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Unclosed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn words(status: &Status, service: &str) -> String {
    if let Some(error) = status.source() {
        return format!("no gRPC answer: {}", answer::root_cause(error));
    }
    #[allow(clippy::wildcard_enum_match_arm, reason = "the other codes say what they mean")]
    match status.code() {
        Code::Unimplemented => "the server has no gRPC health service".into(),
        Code::NotFound => format!("the server knows no service \"{service}\""),
        code if status.message().is_empty() => format!("gRPC {code:?}"),
        code => format!("gRPC {code:?}: {}", status.message()),
    }
}
