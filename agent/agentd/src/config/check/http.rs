//! `http = { address = "127.0.0.1:8080", path = "/", status = [200, 399] }` and its other keys.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use ringmesh_node::health::spec::{HttpCheck, JsonMatch, Match, Tls as TlsSpec, Trust};
use serde::{Deserialize, Serialize};

use super::{Expect, Wrong};
use crate::probe::tls;

/// The most bytes of a path, of all headers that are sent, and of a body that is sent.
const MAX_PATH: usize = 2048;
const MAX_HEADERS: usize = 4096;
const MAX_BODY: usize = 16 * 1024;

/// The most redirects that may be allowed.
const MAX_REDIRECTS: u8 = 5;

/// The most statuses that may be named.
const MAX_STATUSES: usize = 32;

/// A request by HTTP/1.1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// As the container sees it.
    pub address: SocketAddr,
    /// "GET", "HEAD", "POST" or another in upper case. Default "GET".
    #[serde(default = "get", skip_serializing_if = "is_get")]
    pub method: String,
    /// Default "/".
    #[serde(default = "root_path")]
    pub path: String,
    /// Sent with the request; they replace those that a probe has by itself, such as Host.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Sent with the request, up to 16384 bytes. Default nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// First and last status that passes. Default 200 to 399.
    #[serde(default = "default_status")]
    pub status: (u16, u16),
    /// Each status that passes, instead of `status`. Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<u16>,
    /// Redirects to follow, 0 to 5. Default 0: a redirect is an answer like any other.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub redirects: u8,
    /// Headers that the answer must have, and what must be in them: `{ server = {} }` for anything.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub expect_headers: BTreeMap<String, Expect>,
    /// What the first 65536 bytes of the body must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
    /// What must stand in the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<Json>,
    /// HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// `json = { pointer = "/database/state", equals = "up" }`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Json {
    /// A JSON pointer (RFC 6901); empty for the whole body.
    pub pointer: String,
    /// Text, number, true or false.
    pub equals: toml::Value,
}

/// A NaN cannot be asked for.
impl Eq for Json {}

/// `tls = { ca = "/etc/ssl/own-ca.pem", name = "shop.example" }`: exactly one of `ca` and `insecure` is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// What the certificate must be for, and what the server is told. Default the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A file of this host with the CAs that are believed, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// True: any certificate does.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

impl Http {
    /// One with all defaults.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            method: get(),
            path: root_path(),
            headers: BTreeMap::new(),
            body: String::new(),
            status: default_status(),
            statuses: Vec::new(),
            redirects: 0,
            expect_headers: BTreeMap::new(),
            expect: None,
            json: None,
            tls: None,
        }
    }

    pub(in crate::config) fn hide_secrets(&mut self) {
        let hidden = || "(hidden)".to_owned();
        self.headers.values_mut().for_each(|value| *value = hidden());
        if !self.body.is_empty() {
            self.body = hidden();
        }
    }

    pub(super) fn check(&self) -> Result<HttpCheck, Wrong> {
        self.request()?;
        let tls = self.tls.as_ref().map(|tls| tls.spec(self.address)).transpose()?;
        let expect_headers: Result<Vec<(String, Option<Match>)>, Wrong> =
            self.expect_headers.iter().map(|(name, expect)| expected_header(name, expect)).collect();
        Ok(HttpCheck {
            address: self.address,
            tls,
            method: self.method.clone(),
            path: self.path.clone(),
            headers: self.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            body: self.body.clone(),
            status: self.ranges()?,
            redirects: self.redirects,
            expect_headers: expect_headers?,
            expect_body: self.expect.as_ref().map(|expect| expect.matching("http.expect")).transpose()?,
            expect_json: self.json.as_ref().map(Json::spec).transpose()?,
        })
    }

    fn request(&self) -> Result<(), Wrong> {
        let wrong = |key: &str, message: &str| Err((format!("http.{key}"), message.to_owned()));
        if self.method.is_empty() || self.method.len() > 16 || !self.method.bytes().all(|b| b.is_ascii_uppercase()) {
            return wrong("method", "must be 1 to 16 upper case letters");
        }
        if !self.path.starts_with('/') || self.path.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return wrong("path", "must start with '/' and hold no white space");
        }
        if self.path.len() > MAX_PATH {
            return wrong("path", &format!("is longer than {MAX_PATH} bytes"));
        }
        if self.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_HEADERS {
            return wrong("headers", &format!("are longer than {MAX_HEADERS} bytes"));
        }
        for (name, value) in &self.headers {
            // They frame the request, which is not the operator's to do.
            let framing = ["connection", "content-length", "transfer-encoding"];
            if !is_token(name) || framing.iter().any(|own| own.eq_ignore_ascii_case(name)) {
                return wrong(&format!("headers.{name}"), "is no header that can be set");
            }
            if value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
                return wrong(&format!("headers.{name}"), "holds a control character");
            }
        }
        if self.body.len() > MAX_BODY {
            return wrong("body", &format!("is longer than {MAX_BODY} bytes"));
        }
        if self.redirects > MAX_REDIRECTS {
            return wrong("redirects", &format!("{} is not within 0 to {MAX_REDIRECTS}", self.redirects));
        }
        if self.method == "HEAD" && (self.expect.is_some() || self.json.is_some()) {
            return wrong("method", "HEAD has answers without a body, and one is expected");
        }
        Ok(())
    }

    fn ranges(&self) -> Result<Vec<(u16, u16)>, Wrong> {
        let wrong = |key: &str, message: &str| Err((format!("http.{key}"), message.to_owned()));
        let (first, last) = self.status;
        if first < 100 || last > 599 || first > last {
            return wrong("status", "must be two statuses within 100 to 599, the lower one first");
        }
        if self.statuses.is_empty() {
            return Ok(vec![self.status]);
        }
        if self.status != default_status() {
            return wrong("statuses", "and status are the same; give one");
        }
        if self.statuses.len() > MAX_STATUSES || !self.statuses.iter().all(|status| (100..600).contains(status)) {
            return wrong("statuses", &format!("must be up to {MAX_STATUSES} statuses within 100 to 599"));
        }
        Ok(self.statuses.iter().map(|status| (*status, *status)).collect())
    }
}

fn expected_header(name: &str, expect: &Expect) -> Result<(String, Option<Match>), Wrong> {
    let key = format!("http.expect_headers.{name}");
    if !is_token(name) {
        return Err((key, "is no name of a header".into()));
    }
    let expected = if *expect == Expect::default() { None } else { Some(expect.matching(&key)?) };
    Ok((name.to_owned(), expected))
}

/// RFC 9110 §5.6.2.
fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

impl Json {
    fn spec(&self) -> Result<JsonMatch, Wrong> {
        if !self.pointer.is_empty() && !self.pointer.starts_with('/') {
            return Err((
                "http.json.pointer".into(),
                "must be empty or start with '/', such as /database/state".into(),
            ));
        }
        let scalar = !matches!(self.equals, toml::Value::Table(_) | toml::Value::Array(_) | toml::Value::Datetime(_));
        let text = serde_json::to_string(&self.equals).ok().filter(|text| scalar && text != "null");
        let equals =
            text.ok_or_else(|| ("http.json.equals".to_owned(), "must be text, a number, true or false".to_owned()))?;
        Ok(JsonMatch { pointer: self.pointer.clone(), equals })
    }
}

impl Tls {
    fn spec(&self, address: SocketAddr) -> Result<TlsSpec, Wrong> {
        let name = self.name.clone().unwrap_or_else(|| address.ip().to_string());
        tls::server_name(&name).map_err(|message| ("http.tls.name".to_owned(), message))?;
        let trust = match (&self.ca, self.insecure) {
            (Some(path), false) if path.is_absolute() => Trust::Ca(path.clone()),
            (Some(_), false) => return Err(("http.tls.ca".into(), "must be an absolute path".into())),
            (None, true) => Trust::Anyone,
            (Some(_), true) | (None, false) => {
                return Err(("http.tls".into(), "needs exactly one of ca and insecure = true".into()));
            }
        };
        Ok(TlsSpec { name, trust })
    }
}

fn get() -> String {
    "GET".into()
}

fn is_get(method: &str) -> bool {
    method == "GET"
}

fn root_path() -> String {
    "/".into()
}

fn default_status() -> (u16, u16) {
    (200, 399)
}

fn is_zero(number: &u8) -> bool {
    *number == 0
}
