//! `[judgement]` and `[[application]]`: what outcomes of probes and scores of containers mean.

use std::{collections::BTreeMap, time::Duration};

use ringmesh_node::health::{
    self, Damping, LatencyLimits, PENALTY,
    spec::{self, ScoreLimits},
};
use serde::{Deserialize, Serialize};

use super::{labels, range, time};

/// `[judgement]`: of all services of this host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Judgement {
    /// Each time that a service becomes critical costs it 1000. Above this penalty it is damped: a warning, until it is
    /// steady. 1000 to 1000000, default 3000.
    pub flap_suppress: u32,
    /// Below this penalty it is damped no more. 1 to `flap_suppress`, default 1000.
    pub flap_reuse: u32,
    /// In which a penalty halves. 1 s to 1 h, default 5 min.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub flap_half_life: Duration,
    /// So long after its last change a service is damped at the most. `flap_half_life` to 24 h, default 30 min.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub flap_longest: Duration,
    /// A service that fails for so long without interruption is critical, damped or not. 1 s to 1 h, default 2 min.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub flap_steady: Duration,
    /// A service is slow, which is a warning, when it answers more slowly than is normal for it by this factor. 2 to 1000, or 0:
    /// latencies are not judged. Default 4.
    pub slow_factor: u32,
    /// And by so much. 0 to 1 min, default 20 ms.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub slow_floor: Duration,
    /// So many answers in a row make it slow, or normal again. 1 to 100, default 5.
    pub slow_probes: u32,
}

impl Default for Judgement {
    fn default() -> Self {
        let health::Judgement { damping, latency } = health::Judgement::default();
        Self {
            flap_suppress: damping.suppress,
            flap_reuse: damping.reuse,
            flap_half_life: damping.half_life,
            flap_longest: damping.longest,
            flap_steady: damping.steady,
            slow_factor: latency.factor,
            slow_floor: latency.floor,
            slow_probes: latency.probes,
        }
    }
}

impl Judgement {
    /// As the node takes it.
    pub fn limits(&self) -> health::Judgement {
        health::Judgement {
            damping: Damping {
                suppress: self.flap_suppress,
                reuse: self.flap_reuse,
                half_life: self.flap_half_life,
                longest: self.flap_longest,
                steady: self.flap_steady,
            },
            latency: LatencyLimits { factor: self.slow_factor, floor: self.slow_floor, probes: self.slow_probes },
        }
    }

    pub(super) fn check(&self) -> Result<(), (String, String)> {
        range("judgement.flap_suppress", self.flap_suppress, PENALTY, 1000 * PENALTY)?;
        range("judgement.flap_reuse", self.flap_reuse, 1, self.flap_suppress)?;
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        for (key, value, least, most) in [
            ("flap_half_life", self.flap_half_life, second, hour),
            ("flap_longest", self.flap_longest, self.flap_half_life, hour * 24),
            ("flap_steady", self.flap_steady, second, hour),
            ("slow_floor", self.slow_floor, Duration::ZERO, hour / 60),
        ] {
            time(&format!("judgement.{key}"), value, least, most)?;
        }
        if self.slow_factor != 0 {
            range("judgement.slow_factor", self.slow_factor, 2, 1000)?;
        }
        range("judgement.slow_probes", self.slow_probes, 1, 100)
    }
}

/// The most kinds of applications of a host.
pub(super) const MAX_APPLICATIONS: usize = 1000;

/// `[[application]]`: the first one that matches a container says what its score means.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Application {
    /// Labels that a container of this kind has; an empty table matches every one.
    #[serde(rename = "match")]
    pub labels: BTreeMap<String, String>,
    /// A score below it is a warning. 0 to 100.
    pub warning_below: u32,
    /// A score below it is critical. 0 to `warning_below`.
    pub critical_below: u32,
}

impl Application {
    pub(super) fn limits(&self) -> ScoreLimits {
        ScoreLimits { critical_below: self.critical_below, warning_below: self.warning_below }
    }

    pub(super) fn check(&self, number: usize) -> Result<(), (String, String)> {
        labels(&format!("application {number}.match"), &self.labels)?;
        range(&format!("application {number}.warning_below"), self.warning_below, 0, 100)?;
        range(&format!("application {number}.critical_below"), self.critical_below, 0, self.warning_below)
    }
}

/// When a service that fails becomes critical.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alarm {
    /// By its threshold.
    #[default]
    Threshold,
    /// With the first answer that is outright an error.
    AtOnce,
}

impl Alarm {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl From<Alarm> for spec::Alarm {
    fn from(alarm: Alarm) -> Self {
        match alarm {
            Alarm::Threshold => Self::Threshold,
            Alarm::AtOnce => Self::AtOnce,
        }
    }
}
