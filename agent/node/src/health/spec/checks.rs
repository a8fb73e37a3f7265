//! What is asked of a service, and which answer is right.
//!
//! It holds patterns and files by their text and name: compiling and reading them is for those who ask.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

/// One probe: what is asked inside the container's network namespace, and which answer is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// Run in the container's namespaces; exit status 0 passes.
    Exec {
        /// Program and arguments; never empty.
        argv: Vec<String>,
    },
    /// A connection is accepted.
    Tcp {
        /// Where.
        address: SocketAddr,
    },
    /// A connection is accepted, and what comes over it is right.
    Talk(Exchange),
    /// A datagram is answered rightly. That no port is there is known at once.
    Udp(Exchange),
    /// An echo request (ping) is answered.
    Icmp {
        /// Whom.
        address: IpAddr,
    },
    /// HTTP/1.1, over TLS or not.
    Http(Box<HttpCheck>),
    /// grpc.health.v1.Health/Check answers SERVING.
    Grpc {
        /// Where.
        address: SocketAddr,
        /// Empty asks for the server as a whole.
        service: String,
    },
    /// Nothing is asked: the service is heard of within its interval, or has failed.
    Heartbeat {
        /// The socket where it speaks up, as the container sees it.
        socket: PathBuf,
    },
    /// Asked by the container's own member, from the inside.
    Inside(Box<InsideCheck>),
    /// One step after the other, until one fails.
    Plan {
        /// None of them a plan or a heartbeat; at least one.
        steps: Vec<Step>,
        /// For all of them together.
        timeout: Duration,
    },
}

/// What is sent and expected over a connection, or in datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Where.
    pub address: SocketAddr,
    /// Sent first; may be empty.
    pub send: Vec<u8>,
    /// What the answer must be; any does without.
    pub expect: Option<Match>,
}

/// What a member is asked about its container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InsideCheck {
    /// Where it looks.
    pub target: InsideTarget,
    /// Of a connection: what is sent first; may be empty.
    pub send: Vec<u8>,
    /// Of a connection: what the answer must be.
    pub expect: Said,
}

/// Where a member looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InsideTarget {
    /// A TCP port, as the container sees it.
    Tcp(SocketAddr),
    /// A unix socket in the container's files.
    Unix(String),
    /// A unix socket without a file.
    Abstract(String),
    /// A file in the container.
    File {
        /// Where.
        path: String,
        /// It must have been written within this time; `None`: it must be there.
        max_age: Option<Duration>,
    },
}

/// What must come over a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing: that it is accepted is enough.
    Nothing,
    /// This.
    Match(Match),
    /// A status line of HTTP/1 with a status from 200 to 399.
    Http,
}

/// How an answer is compared with what is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// It is just this.
    Exact(Vec<u8>),
    /// It begins with this.
    Prefix(Vec<u8>),
    /// This is within it.
    Contains(Vec<u8>),
    /// A regular expression, valid by the rules of the crate `regex`, matches within it.
    Regex(String),
}

impl fmt::Display for Match {
    /// For people: `"PONG" at its beginning`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |bytes: &[u8]| format!("\"{}\"", bytes.escape_ascii());
        match self {
            Self::Exact(bytes) => write!(f, "{}", quoted(bytes)),
            Self::Prefix(bytes) => write!(f, "{} at its beginning", quoted(bytes)),
            Self::Contains(bytes) => write!(f, "{} within it", quoted(bytes)),
            Self::Regex(pattern) => write!(f, "a match of /{pattern}/"),
        }
    }
}

/// A request by HTTP/1.1 and which answer is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// Where.
    pub address: SocketAddr,
    /// `None` for plain HTTP.
    pub tls: Option<Tls>,
    /// Upper case.
    pub method: String,
    /// Starts with '/'.
    pub path: String,
    /// Names and values; they replace those that a probe has by itself.
    pub headers: Vec<(String, String)>,
    /// May be empty.
    pub body: String,
    /// First and last status of each range that passes.
    pub status: Vec<(u16, u16)>,
    /// Redirects that are followed; the one beyond is a wrong answer. With 0 they are answers like any other.
    pub redirects: u8,
    /// Headers that must be there, and what must be in them.
    pub expect_headers: Vec<(String, Option<Match>)>,
    /// What the body must be.
    pub expect_body: Option<Match>,
    /// What must stand in the body, which is JSON.
    pub expect_json: Option<JsonMatch>,
}

impl HttpCheck {
    /// GET, any status from 200 to 399.
    pub fn get(address: SocketAddr, path: &str) -> Self {
        Self {
            address,
            tls: None,
            method: "GET".to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: String::new(),
            status: vec![(200, 399)],
            redirects: 0,
            expect_headers: Vec::new(),
            expect_body: None,
            expect_json: None,
        }
    }

    /// Whether the answer is decided by its head and body, and not by its status alone.
    pub fn looks_inside(&self) -> bool {
        !self.expect_headers.is_empty() || self.looks_at_body()
    }

    /// Whether the body has a part in the decision.
    pub fn looks_at_body(&self) -> bool {
        self.expect_body.is_some() || self.expect_json.is_some()
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// A value within a JSON document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonMatch {
    /// Where it stands (RFC 6901); empty for the document as a whole.
    pub pointer: String,
    /// What it must be, as JSON.
    pub equals: String,
}

/// How a server proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// A DNS name or an IP address: what the certificate must be for, and what the server is told.
    pub name: String,
    /// Who must have signed the certificate.
    pub trust: Trust,
}

/// Whose certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// Those of the CAs in this file of the host, in PEM.
    Ca(PathBuf),
    /// Anyone's, for any name and time.
    Anyone,
}

/// A step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// For answers: which step failed.
    pub name: String,
    /// What is asked and which answer is right.
    pub check: Arc<Check>,
    /// An answer that took longer is wrong.
    pub max_latency: Option<Duration>,
}

impl Check {
    /// "exec", "tcp", "udp", "icmp", "http", "https", "grpc", "heartbeat", "inside" or "plan".
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Tcp { .. } | Self::Talk(_) => "tcp",
            Self::Udp(_) => "udp",
            Self::Icmp { .. } => "icmp",
            Self::Http(http) => http.scheme(),
            Self::Grpc { .. } => "grpc",
            Self::Heartbeat { .. } => "heartbeat",
            Self::Inside(_) => "inside",
            Self::Plan { .. } => "plan",
        }
    }

    /// What is asked, for people: "http://10.1.3.2:8080/healthz".
    pub fn target(&self) -> String {
        match self {
            Self::Exec { argv } => argv.join(" "),
            Self::Tcp { address } | Self::Talk(Exchange { address, .. }) => format!("tcp://{address}"),
            Self::Udp(Exchange { address, .. }) => format!("udp://{address}"),
            Self::Icmp { address } => format!("icmp://{address}"),
            Self::Http(http) => format!("{}://{}{}", http.scheme(), http.address, http.path),
            Self::Grpc { address, service } => format!("grpc://{address}/{service}"),
            Self::Heartbeat { socket } => socket.display().to_string(),
            Self::Inside(inside) => match &inside.target {
                InsideTarget::Tcp(address) => format!("tcp://{address}"),
                InsideTarget::Unix(path) => format!("unix://{path}"),
                InsideTarget::Abstract(name) => format!("unix://@{name}"),
                InsideTarget::File { path, .. } => format!("file://{path}"),
            },
            Self::Plan { steps, .. } => steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>().join(", "),
        }
    }
}
