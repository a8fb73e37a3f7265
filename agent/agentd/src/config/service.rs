//! `[[container.service]]`: what is probed in a container, how, and which answer is right.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ringmesh_node::health::spec::{Check, ServiceKind, ServiceSpec};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Alarm, name, range};

/// `[[container.service]]`: exactly one of `exec`, `tcp`, `http` and `grpc` is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Unique in its container; as a host's name.
    pub name: String,
    /// "liveness", "readiness" or "startup". Default "liveness".
    #[serde(default)]
    pub kind: Kind,
    /// Its share in the container's score. 1 to 1000, default 1.
    #[serde(default = "one")]
    pub weight: u32,
    /// Between the starts of two probes. 100 ms to 1 h, default 10 s.
    #[serde(default = "default_interval", with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub interval: Duration,
    /// Without an answer for so long a probe has failed. 10 ms to `interval`, default 1 s.
    #[serde(default = "default_timeout", with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub timeout: Duration,
    /// Successes in a row that make it passing. 1 to 100, default 1.
    #[serde(default = "one")]
    pub threshold_up: u32,
    /// Failures in a row that make it critical. 1 to 100, default 3.
    #[serde(default = "three")]
    pub threshold_down: u32,
    /// "threshold", or "at-once": an answer that is outright an error (HTTP 5xx, a refused connection, NOT_SERVING, an exit status)
    /// makes it critical at once. Default "threshold".
    #[serde(default, skip_serializing_if = "Alarm::is_default")]
    pub alarm: Alarm,
    /// Program and arguments, run in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Vec<String>>,
    /// "ADDRESS:PORT" as the container sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<SocketAddr>,
    /// A GET request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// grpc.health.v1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<Grpc>,
}

/// What a service's verdict is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A container whose service fails may be repaired.
    #[default]
    Liveness,
    /// Never a reason for a repair.
    Readiness,
    /// Until it has passed once since the start of its container, nothing else in the container is probed.
    Startup,
}

impl From<Kind> for ServiceKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Liveness => Self::Liveness,
            Kind::Readiness => Self::Readiness,
            Kind::Startup => Self::Startup,
        }
    }
}

/// `http = { address = "127.0.0.1:8080", path = "/", status = [200, 399] }`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// As the container sees it.
    pub address: SocketAddr,
    /// Default "/".
    #[serde(default = "root_path")]
    pub path: String,
    /// First and last status that passes. Default 200 to 399.
    #[serde(default = "default_status")]
    pub status: (u16, u16),
}

/// `grpc = { address = "127.0.0.1:9000", service = "" }`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grpc {
    /// As the container sees it.
    pub address: SocketAddr,
    /// Default empty: the server as a whole.
    #[serde(default)]
    pub service: String,
}

impl Service {
    /// One that is not probed yet, with all defaults.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: Kind::Liveness,
            weight: one(),
            interval: default_interval(),
            timeout: default_timeout(),
            threshold_up: one(),
            threshold_down: three(),
            alarm: Alarm::Threshold,
            exec: None,
            tcp: None,
            http: None,
            grpc: None,
        }
    }

    pub(super) fn spec(&self) -> ServiceSpec {
        let check = match (&self.exec, self.tcp, &self.http, &self.grpc) {
            (Some(argv), ..) => Check::Exec { argv: argv.clone() },
            (_, Some(address), ..) => Check::Tcp { address },
            (_, _, Some(http), _) => {
                Check::Http { address: http.address, path: http.path.clone(), status: http.status }
            }
            (_, _, _, Some(grpc)) => Check::Grpc { address: grpc.address, service: grpc.service.clone() },
            (None, None, None, None) => unreachable!("check() wants exactly one"),
        };
        ServiceSpec {
            name: self.name.clone(),
            kind: self.kind.into(),
            weight: self.weight,
            check: Arc::new(check),
            interval: self.interval,
            timeout: self.timeout,
            threshold_up: self.threshold_up,
            threshold_down: self.threshold_down,
            plan: None,
            alarm: self.alarm.into(),
            definition: self.definition(),
        }
    }

    /// Differs when anything here does, and stays over restarts and new versions: keys that are not there do not count.
    fn definition(&self) -> u64 {
        let text = serde_json::to_vec(self).expect("a service is plain data");
        let digest = Sha256::digest(&text);
        u64::from_be_bytes(digest[..8].try_into().expect("it has 32 bytes"))
    }

    pub(super) fn check(&self, key: &str) -> Result<(), (String, String)> {
        name(&format!("{key}.name"), &self.name)?;
        let given = [self.exec.is_some(), self.tcp.is_some(), self.http.is_some(), self.grpc.is_some()];
        if given.into_iter().filter(|given| *given).count() != 1 {
            return Err((key.into(), "needs exactly one of exec, tcp, http and grpc".into()));
        }
        range(&format!("{key}.weight"), self.weight, 1, 1000)?;
        range(&format!("{key}.threshold_up"), self.threshold_up, 1, 100)?;
        range(&format!("{key}.threshold_down"), self.threshold_down, 1, 100)?;
        if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&self.interval) {
            return Err((format!("{key}.interval"), format!("{:?} is not within 100 ms to 1 h", self.interval)));
        }
        if !(Duration::from_millis(10)..=self.interval).contains(&self.timeout) {
            let message = format!("{:?} is not within 10 ms to the interval, {:?}", self.timeout, self.interval);
            return Err((format!("{key}.timeout"), message));
        }
        if self.exec.as_ref().is_some_and(Vec::is_empty) {
            return Err((format!("{key}.exec"), "is empty; name a program".into()));
        }
        if let Some(http) = &self.http {
            if !http.path.starts_with('/') || http.path.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err((format!("{key}.http.path"), "must start with '/' and hold no white space".into()));
            }
            let (first, last) = http.status;
            if first < 100 || last > 599 || first > last {
                let message = "must be two statuses within 100 to 599, the lower one first";
                return Err((format!("{key}.http.status"), message.into()));
            }
        }
        Ok(())
    }
}

fn default_interval() -> Duration {
    Duration::from_secs(10)
}

fn default_timeout() -> Duration {
    Duration::from_secs(1)
}

fn default_status() -> (u16, u16) {
    (200, 399)
}

fn root_path() -> String {
    "/".into()
}

fn one() -> u32 {
    1
}

fn three() -> u32 {
    3
}
