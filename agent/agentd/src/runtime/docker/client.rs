//! HTTP/1.1 over a unix socket: one connection a call, and no answer without a bound.
//!
//! It knows nothing of containers. A daemon that is called some times a minute needs no pool of connections.

use std::{path::PathBuf, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// The most bytes of an answer: a list of some ten thousand containers.
const MAX_ANSWER: usize = 16 << 20;

/// The most bytes of one event, which holds all labels of its container.
const MAX_EVENT: usize = 64 << 10;

/// To connect to a socket of this machine; one whose queue is full lets us wait.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A daemon's socket.
pub(super) struct Client {
    pub(super) socket: PathBuf,
}

/// What a daemon answered.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error(transparent)]
    Connect(#[from] std::io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("an answer that breaks off or has more than {MAX_ANSWER} bytes: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("an event of more than {MAX_EVENT} bytes")]
    Event,
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("the answer {0}")]
    Status(StatusCode),
    #[error("the daemon closed the stream of events")]
    Closed,
}

impl Client {
    /// Asks once, and waits at most `patience` for the whole answer, be it good or bad.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
        patience: Duration,
    ) -> Result<Reply, ClientError> {
        let answer = async {
            let response = self.send(method, path, body).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(ClientError::Body)?;
            Ok(Reply { status, body: body.to_bytes() })
        };
        tokio::time::timeout(patience, answer).await.unwrap_or(Err(ClientError::Timeout(patience)))
    }

    /// Opens a stream of lines that lasts until it is dropped; waits at most `patience` for its beginning.
    pub(super) async fn lines(&self, path: &str, patience: Duration) -> Result<Lines, ClientError> {
        let response = tokio::time::timeout(patience, self.send(Method::GET, path, None)).await;
        let response = response.unwrap_or(Err(ClientError::Timeout(patience)))?;
        match response.status() {
            StatusCode::OK => Ok(Lines { body: response.into_body(), buffer: BytesMut::new() }),
            status => Err(ClientError::Status(status)),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Response<Incoming>, ClientError> {
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(&self.socket));
        let stream = connecting.await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the answer, or when that is dropped.
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        let body = match body {
            Some(body) => (request.header(CONTENT_TYPE, "application/json"), body.to_string()),
            None => (request, String::new()),
        };
        let request = body.0.body(Full::new(Bytes::from(body.1))).expect("names in a path are checked");
        Ok(sender.send_request(request).await?)
    }
}

/// A body that goes on, line by line.
pub(super) struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    /// The next line; the end of the stream is an error.
    pub(super) async fn next(&mut self) -> Result<Bytes, ClientError> {
        loop {
            if let Some(line) = take_line(&mut self.buffer)? {
                return Ok(line);
            }
            let frame = self.body.frame().await.ok_or(ClientError::Closed)??;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

/// A line without its end, if there is a whole one.
fn take_line(buffer: &mut BytesMut) -> Result<Option<Bytes>, ClientError> {
    match buffer.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let mut line = buffer.split_to(end + 1);
            line.truncate(end);
            Ok(Some(line.freeze()))
        }
        None if buffer.len() > MAX_EVENT => Err(ClientError::Event),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_where_they_end_and_have_a_bound() {
        let mut buffer = BytesMut::from(&b"one\ntwo\nthr"[..]);
        assert_eq!(take_line(&mut buffer).expect("short"), Some("one".into()));
        assert_eq!(take_line(&mut buffer).expect("short"), Some("two".into()));
        assert_eq!(take_line(&mut buffer).expect("short"), None);
        buffer.extend_from_slice(b"ee\n");
        assert_eq!(take_line(&mut buffer).expect("short"), Some("three".into()));
        buffer.extend_from_slice(&vec![b' '; MAX_EVENT + 1]);
        assert!(matches!(take_line(&mut buffer), Err(ClientError::Event)));
    }
}
