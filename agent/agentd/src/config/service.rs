//! `[[container.service]]`: what is probed in a container, how, and which answer is right.

use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use ringmesh_node::health::spec::{Check, ServiceKind, ServiceSpec};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Alarm,
    check::{Asked, Grpc, Http, Inside, ONE_CHECK, Plan, Tcp, Udp, max_latency},
    name, range,
};

/// `[[container.service]]`: exactly one of `exec`, `tcp`, `udp`, `icmp`, `http`, `grpc`, `inside` and
/// `heartbeat` is there, or `plan` alone.
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
    /// An answer that took longer is wrong. Up to `timeout`; default none.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional"
    )]
    pub max_latency: Option<Duration>,
    /// Successes in a row that make it passing. 1 to 100, default 1.
    #[serde(default = "one")]
    pub threshold_up: u32,
    /// Failures in a row that make it critical. 1 to 100, default 3.
    #[serde(default = "three")]
    pub threshold_down: u32,
    /// Program and arguments that start it anew, run in the container. What it leaves running must be in a session of its own
    /// (setsid). Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart: Vec<String>,
    /// "threshold", or "at-once": an answer that is outright an error (HTTP 5xx, a connection or port that is refused, a host that
    /// is unreachable, NOT_SERVING, an exit status) makes it critical at once. Default "threshold".
    #[serde(default, skip_serializing_if = "Alarm::is_default")]
    pub alarm: Alarm,
    /// Program and arguments, run in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Vec<String>>,
    /// "ADDRESS:PORT" as the container sees it, or a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    /// A datagram and its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<Udp>,
    /// An address that answers to an echo request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<IpAddr>,
    /// A request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// grpc.health.v1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<Grpc>,
    /// Asked by the container's own member, from the inside; needs `member = true` there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<Inside>,
    /// Nothing is asked: the service is to speak up by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Heartbeat>,
    /// Several steps: what is asked when the service deviates, or always if nothing else is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
}

/// `heartbeat = { ttl = "30s" }`: the service sends "NAME [ok|warn|fail] [text]" to its container's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Without a word for so long the service has failed. 1 s to 24 h.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub ttl: Duration,
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

impl Service {
    /// One that is not probed yet, with all defaults.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: Kind::Liveness,
            weight: one(),
            interval: default_interval(),
            timeout: default_timeout(),
            max_latency: None,
            threshold_up: one(),
            threshold_down: three(),
            restart: Vec::new(),
            alarm: Alarm::Threshold,
            exec: None,
            tcp: None,
            udp: None,
            icmp: None,
            http: None,
            grpc: None,
            inside: None,
            heartbeat: None,
            plan: None,
        }
    }

    /// `socket` is where its container's services speak up.
    pub(super) fn spec(&self, socket: &Path) -> ServiceSpec {
        if let Some(Heartbeat { ttl }) = self.heartbeat {
            let check = Check::Heartbeat { socket: socket.to_owned() };
            return ServiceSpec { interval: ttl, timeout: ttl, ..self.spec_with(check) };
        }
        let plan = self.plan.as_ref().map(|plan| plan.check().expect("it was checked"));
        let ordinary = self.ordinary().expect("it was checked");
        let own = self.plan.as_ref().map_or(self.timeout, |plan| plan.timeout);
        let (check, plan, timeout) = match (ordinary, plan) {
            (Some(check), plan) => (check, plan.map(Arc::new), self.timeout),
            (None, Some(plan)) => (plan, None, own),
            (None, None) => unreachable!("check() wants one of them"),
        };
        ServiceSpec { timeout, plan, ..self.spec_with(check) }
    }

    fn spec_with(&self, check: Check) -> ServiceSpec {
        ServiceSpec {
            kind: self.kind.into(),
            weight: self.weight,
            interval: self.interval,
            max_latency: self.max_latency,
            threshold_up: self.threshold_up,
            threshold_down: self.threshold_down,
            restart: self.restart.clone(),
            alarm: self.alarm.into(),
            definition: self.definition(),
            ..ServiceSpec::new(&self.name, check)
        }
    }

    /// Differs when anything here does, and stays over restarts and new versions: keys that are not there do not count.
    fn definition(&self) -> u64 {
        let text = serde_json::to_vec(self).expect("a service is plain data");
        let digest = Sha256::digest(&text);
        u64::from_be_bytes(digest[..8].try_into().expect("it has 32 bytes"))
    }

    /// Replaces what may be a secret: what is sent with requests.
    pub(super) fn hide_secrets(&mut self) {
        let steps = self.plan.iter_mut().flat_map(|plan| &mut plan.steps).filter_map(|step| step.http.as_mut());
        self.http.iter_mut().chain(steps).for_each(Http::hide_secrets);
    }

    /// What is asked every `interval`, if it is not the plan.
    fn ordinary(&self) -> Result<Option<Check>, (String, String)> {
        let Self { exec, tcp, udp, icmp, http, grpc, inside, .. } = self;
        Asked { exec, tcp, udp, icmp, http, grpc, inside }.check()
    }

    /// Whether a member inside is asked.
    pub(super) fn asks_inside(&self) -> bool {
        self.inside.is_some() || self.plan.as_ref().is_some_and(Plan::asks_inside)
    }

    pub(super) fn check(&self, key: &str) -> Result<(), (String, String)> {
        name(&format!("{key}.name"), &self.name)?;
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
        if let Some(Heartbeat { ttl }) = self.heartbeat {
            return self.check_heartbeat(key, ttl);
        }
        max_latency(self.max_latency, self.timeout).map_err(|message| (format!("{key}.max_latency"), message))?;
        let within = |(field, message): (String, String)| {
            (if field.is_empty() { key.to_owned() } else { format!("{key}.{field}") }, message)
        };
        let ordinary = self.ordinary().map_err(within)?;
        match &self.plan {
            Some(plan) => {
                plan.check().map_err(within)?;
                let own = ordinary.is_none();
                if own && plan.timeout > self.interval {
                    let message = format!("{:?} is more than the interval, {:?}", plan.timeout, self.interval);
                    return Err((format!("{key}.plan.timeout"), message));
                }
            }
            None if ordinary.is_none() => return Err((key.into(), format!("needs {ONE_CHECK}, heartbeat or a plan"))),
            None => {}
        }
        Ok(())
    }

    fn check_heartbeat(&self, key: &str, ttl: Duration) -> Result<(), (String, String)> {
        if !matches!(self.ordinary(), Ok(None)) || self.plan.is_some() || self.max_latency.is_some() {
            return Err((format!("{key}.heartbeat"), "goes with no other check, plan or max_latency".into()));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(&ttl) {
            return Err((format!("{key}.heartbeat.ttl"), format!("{ttl:?} is not within 1 s to 24 h")));
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

fn one() -> u32 {
    1
}

fn three() -> u32 {
    3
}
