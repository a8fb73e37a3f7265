//! What a container's own member is asked: `inside = { unix = "/run/app.sock", http = "/healthz" }`.

use std::{net::SocketAddr, time::Duration};

use ringmesh_node::health::spec::{Check, InsideCheck, InsideTarget, Said};
use serde::{Deserialize, Serialize};

use super::{Expect, MAX_SENT, Wrong, expect::bytes};

/// The most bytes of the path of a unix socket, and of the name of an abstract one (unix(7)).
const MAX_SOCKET: usize = 107;

/// The most bytes of a file's path: with all else it must fit in one packet.
const MAX_PATH: usize = 1024;

/// `inside`: exactly one of `unix`, `tcp` and `file` is there, and the container has `member = true`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Inside {
    /// A unix socket of streams in the container: an absolute path, or "@NAME" for an abstract one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unix: Option<String>,
    /// "ADDRESS:PORT" as the container sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<SocketAddr>,
    /// A file that must be there: an absolute path in the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Only with `file`: it must have been written within this time. 1 s to 365 d; default none.
    #[serde(
        skip_serializing_if = "Option::is_none",
        with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional"
    )]
    pub max_age: Option<Duration>,
    /// Only with a socket: GET this path by HTTP/1.0; a status from 200 to 399 is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// Only with a socket: sent first, up to 1200 bytes. Default nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send: Option<String>,
    /// The same in hexadecimal digits, for what is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_hex: Option<String>,
    /// What the answer must be, of which 1024 bytes are looked at. Default: that the connection is accepted is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
}

impl Inside {
    pub(super) fn check(&self) -> Result<Check, Wrong> {
        let at = |(key, message): Wrong| (format!("inside.{key}"), message);
        let target = self.target().map_err(at)?;
        let send = bytes("send", &self.send, &self.send_hex, MAX_SENT).map_err(at)?;
        let expect = self.expect.as_ref().map(|expect| expect.matching("expect")).transpose().map_err(at)?;
        let is_file = matches!(target, InsideTarget::File { .. });
        if is_file && (send.is_some() || expect.is_some() || self.http.is_some()) {
            return Err(("inside.file".into(), "goes with no http, send or expect".into()));
        }
        let (send, expect) = match (&self.http, send, expect) {
            (None, send, None) => (send.unwrap_or_default(), Said::Nothing),
            (None, send, Some(expect)) => (send.unwrap_or_default(), Said::Match(expect)),
            (Some(path), None, None) => (request(path).map_err(at)?, Said::Http),
            (Some(_), _, _) => return Err(("inside.http".into(), "goes with no send or expect".into())),
        };
        Ok(Check::Inside(Box::new(InsideCheck { target, send, expect })))
    }

    fn target(&self) -> Result<InsideTarget, Wrong> {
        let wrong = |key: &str, message: &str| Err((key.to_owned(), message.to_owned()));
        let is_path = |path: &str, most| path.starts_with('/') && path.len() <= most && !path.contains('\0');
        match (&self.unix, self.tcp, &self.file) {
            (Some(_) | None, _, _) if self.max_age.is_some() && self.file.is_none() => {
                wrong("max_age", "has a meaning only with file")
            }
            (Some(unix), None, None) => match unix.strip_prefix('@') {
                Some(name) if !name.is_empty() && name.len() <= MAX_SOCKET => Ok(InsideTarget::Abstract(name.into())),
                None if is_path(unix, MAX_SOCKET) => Ok(InsideTarget::Unix(unix.clone())),
                Some(_) | None => wrong("unix", "must be an absolute path or \"@NAME\", at most 107 bytes"),
            },
            (None, Some(address), None) => Ok(InsideTarget::Tcp(address)),
            (None, None, Some(path)) if !is_path(path, MAX_PATH) => {
                wrong("file", "must be an absolute path, at most 1024 bytes")
            }
            (None, None, Some(path)) => {
                let range = Duration::from_secs(1)..=Duration::from_secs(365 * 86_400);
                if self.max_age.is_some_and(|max_age| !range.contains(&max_age)) {
                    return wrong("max_age", "is not within 1 s to 365 d");
                }
                Ok(InsideTarget::File { path: path.clone(), max_age: self.max_age })
            }
            _ => wrong("unix", "needs exactly one of unix, tcp and file"),
        }
    }
}

/// HTTP/1.0, so that the server closes the connection and sends no chunks.
fn request(path: &str) -> Result<Vec<u8>, Wrong> {
    if !path.starts_with('/') || path.len() > MAX_PATH || !path.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(("http".into(), "must start with '/' and be without spaces, at most 1024 bytes".into()));
    }
    Ok(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nUser-Agent: ringmesh\r\n\r\n").into_bytes())
}
