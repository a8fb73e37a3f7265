//! `[repair]`, `[[repair.policy]]` and `[[pool]]`: how sick containers are repaired, and which addresses clones get.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ringmesh_node::remedy::{self, Limits, Policy, Rung, Settings};
use serde::{Deserialize, Serialize};

use super::{labels, range, time};

/// The most policies: they are tried one after the other.
const MAX_POLICIES: usize = 256;

/// The most pools of addresses.
const MAX_POOLS: usize = 1024;

/// The most reserved addresses of a pool.
const MAX_RESERVED: usize = 4096;

/// `[repair]`: what is done to a container that has stopped, or of which a service is critical.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Repair {
    /// "automatic": the agent acts. "manual": it proposes and waits for `ringmesh operation approve`. "off". Default "automatic".
    pub mode: Mode,
    /// The ladder, from the mildest. Rungs that the container's driver or service has no means for are left out. Default all
    /// four: "restart-service", "restart-container", "clone", "freeze".
    pub rungs: Vec<RungName>,
    /// A container that was well for so long begins at the foot of the ladder again. 1 s to 24 h, default 10 min.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub quiet: Duration,
    /// The rung that runs a service's restart command.
    pub restart_service: RepairStep,
    /// The rung that makes the container anew.
    pub restart_container: RepairStep,
    /// The rung that replaces the container.
    pub clone: RepairStep,
    /// Beyond these repair stops, alarms and proposes.
    pub limits: RepairLimits,
    /// Of containers with certain labels; the first that matches counts.
    #[serde(rename = "policy", skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<RepairPolicy>,
}

impl Default for Repair {
    fn default() -> Self {
        let Policy { quiet, .. } = Policy::default();
        Self {
            mode: Mode::default(),
            rungs: vec![RungName::RestartService, RungName::RestartContainer, RungName::Clone, RungName::Freeze],
            quiet,
            restart_service: RepairStep::default(),
            restart_container: RepairStep::default(),
            clone: RepairStep::default(),
            limits: RepairLimits::default(),
            policies: Vec::new(),
        }
    }
}

/// Who decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The agent.
    #[default]
    Automatic,
    /// An operator.
    Manual,
    /// Nobody.
    Off,
}

/// A rung of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RungName {
    /// Run the restart command of the service that fails.
    RestartService,
    /// Kill the container and make it anew.
    RestartContainer,
    /// Remove it, and start another of the same template.
    Clone,
    /// Pause it for an operator to look at.
    Freeze,
}

/// `restart_service = { attempts = 2, timeout = "20s", back_off = "1s" }`, and so on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepairStep {
    /// So often, before the next rung. 1 to 100, default 2.
    pub attempts: u32,
    /// The container is well so soon after it was done, or it has failed; a restart command is killed after it. 100 ms to 10 min,
    /// default 20 s.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub timeout: Duration,
    /// After a failed attempt; twice as long after each further one. 0 to 1 h, default 1 s.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub back_off: Duration,
}

impl Default for RepairStep {
    fn default() -> Self {
        let remedy::Step { attempts, timeout, back_off, .. } = remedy::Step::of(Rung::RestartContainer);
        Self { attempts, timeout, back_off }
    }
}

/// `[repair.limits]`
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepairLimits {
    /// Automatic actions on one container and its clones within `window`. 1 to 1000, default 10.
    pub container_actions: usize,
    /// Automatic actions on all containers of this host within `window`. 1 to 100000, default 60.
    pub host_actions: usize,
    /// 1 s to 24 h, default 10 min.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub window: Duration,
    /// Containers that are being repaired at once. 1 to 64, default 4.
    pub at_once: usize,
    /// Share of this host's containers that may be sick, in percent. 1 to 100, default 40.
    pub host_sick_percent: u64,
    /// Share of the zone's services that may be critical, in percent. 1 to 100, default 40.
    pub zone_sick_percent: u64,
    /// So many may be sick whatever share they are. 0 to 1000, default 2.
    pub sick_min: u64,
}

impl Default for RepairLimits {
    fn default() -> Self {
        let Limits { container_actions, host_actions, window, at_once, host_sick_percent, zone_sick_percent, sick_min } =
            Limits::default();
        Self { container_actions, host_actions, window, at_once, host_sick_percent, zone_sick_percent, sick_min }
    }
}

/// `[[repair.policy]]`: what is not given is as in `[repair]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairPolicy {
    /// Of containers that have all of these labels; not empty.
    #[serde(rename = "match")]
    pub labels: BTreeMap<String, String>,
    /// As in `[repair]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// As in `[repair]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rungs: Option<Vec<RungName>>,
    /// As in `[repair]`.
    #[serde(
        default,
        with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub quiet: Option<Duration>,
    /// As in `[repair]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_service: Option<RepairStep>,
    /// As in `[repair]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_container: Option<RepairStep>,
    /// As in `[repair]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone: Option<RepairStep>,
}

/// `[[pool]]`: addresses for clones of a tenant's containers that have a network. Without one, a clone has the address of what
/// it replaces.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Whose; default containers of nobody.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// ADDRESS/LENGTH, of this host alone, within the network of the containers' bridge.
    pub prefix: String,
    /// Addresses that no clone gets, such as the gateway's.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub reserved: BTreeSet<IpAddr>,
}

type Problem = (String, String);

impl Repair {
    /// For the node.
    pub(super) fn settings(&self, pools: &[Pool]) -> Settings {
        let limits = self.limits;
        Settings {
            policies: self.policies.iter().map(|policy| (policy.labels.clone(), self.policy(Some(policy)))).collect(),
            default: self.policy(None),
            limits: Limits {
                container_actions: limits.container_actions,
                host_actions: limits.host_actions,
                window: limits.window,
                at_once: limits.at_once,
                host_sick_percent: limits.host_sick_percent,
                zone_sick_percent: limits.zone_sick_percent,
                sick_min: limits.sick_min,
            },
            pools: pools.iter().filter_map(Pool::checked).collect(),
        }
    }

    fn policy(&self, special: Option<&RepairPolicy>) -> Policy {
        let mode = special.and_then(|policy| policy.mode).unwrap_or(self.mode);
        let rungs = special.and_then(|policy| policy.rungs.as_ref()).unwrap_or(&self.rungs);
        let step = |rung: &RungName| {
            let (rung, common, own) = match rung {
                RungName::RestartService => {
                    (Rung::RestartService, self.restart_service, special.and_then(|policy| policy.restart_service))
                }
                RungName::RestartContainer => (
                    Rung::RestartContainer,
                    self.restart_container,
                    special.and_then(|policy| policy.restart_container),
                ),
                RungName::Clone => (Rung::Clone, self.clone, special.and_then(|policy| policy.clone)),
                RungName::Freeze => return remedy::Step::of(Rung::Freeze),
            };
            let RepairStep { attempts, timeout, back_off } = own.unwrap_or(common);
            remedy::Step { rung, attempts, timeout, back_off }
        };
        Policy {
            mode: match mode {
                Mode::Automatic => remedy::Mode::Automatic,
                Mode::Manual => remedy::Mode::Manual,
                Mode::Off => remedy::Mode::Off,
            },
            steps: rungs.iter().map(step).collect(),
            quiet: special.and_then(|policy| policy.quiet).unwrap_or(self.quiet),
        }
    }

    pub(super) fn check(&self) -> Result<(), Problem> {
        ladder("repair", Some(&self.rungs), Some(self.quiet))?;
        for (key, step) in [
            ("restart_service", self.restart_service),
            ("restart_container", self.restart_container),
            ("clone", self.clone),
        ] {
            step.check(&format!("repair.{key}"))?;
        }
        self.limits.check()?;
        range("repair.policy", self.policies.len(), 0, MAX_POLICIES)?;
        for (place, policy) in self.policies.iter().enumerate() {
            let key = format!("repair.policy.{}", place + 1);
            if policy.labels.is_empty() {
                return Err((
                    format!("{key}.match"),
                    "is empty; name labels, or set [repair] for all containers".into(),
                ));
            }
            labels(&format!("{key}.match"), &policy.labels)?;
            ladder(&key, policy.rungs.as_deref(), policy.quiet)?;
            for (name, step) in [
                ("restart_service", policy.restart_service),
                ("restart_container", policy.restart_container),
                ("clone", policy.clone),
            ] {
                step.iter().try_for_each(|step| step.check(&format!("{key}.{name}")))?;
            }
        }
        Ok(())
    }
}

fn ladder(key: &str, rungs: Option<&[RungName]>, quiet: Option<Duration>) -> Result<(), Problem> {
    if let Some(rungs) = rungs
        && rungs.iter().collect::<BTreeSet<_>>().len() < rungs.len()
    {
        return Err((format!("{key}.rungs"), "names a rung twice; say how often with its attempts".into()));
    }
    quiet.map_or(Ok(()), |quiet| {
        time(&format!("{key}.quiet"), quiet, Duration::from_secs(1), Duration::from_secs(86_400))
    })
}

impl RepairStep {
    fn check(&self, key: &str) -> Result<(), Problem> {
        range(&format!("{key}.attempts"), self.attempts, 1, 100)?;
        time(&format!("{key}.timeout"), self.timeout, Duration::from_millis(100), Duration::from_secs(600))?;
        time(&format!("{key}.back_off"), self.back_off, Duration::ZERO, Duration::from_secs(3600))
    }
}

impl RepairLimits {
    fn check(&self) -> Result<(), Problem> {
        range("repair.limits.container_actions", self.container_actions, 1, 1000)?;
        range("repair.limits.host_actions", self.host_actions, 1, 100_000)?;
        time("repair.limits.window", self.window, Duration::from_secs(1), Duration::from_secs(86_400))?;
        range("repair.limits.at_once", self.at_once, 1, 64)?;
        range("repair.limits.host_sick_percent", self.host_sick_percent, 1, 100)?;
        range("repair.limits.zone_sick_percent", self.zone_sick_percent, 1, 100)?;
        range("repair.limits.sick_min", self.sick_min, 0, 1000)
    }
}

impl Pool {
    fn checked(&self) -> Option<remedy::Pool> {
        let (network, length) = self.prefix.split_once('/')?;
        let (network, length): (IpAddr, u8) = (network.parse().ok()?, length.parse().ok()?);
        let bits = if network.is_ipv4() { 32 } else { 128 };
        let is_first = match network {
            IpAddr::V4(address) => {
                length == 32 || u32::from(address).checked_shl(length.into()) == Some(0) || length == 0
            }
            IpAddr::V6(address) => {
                length == 128 || u128::from(address).checked_shl(length.into()) == Some(0) || length == 0
            }
        };
        (length <= bits && is_first).then(|| remedy::Pool {
            tenant: self.tenant.clone(),
            network,
            length,
            reserved: self.reserved.clone(),
        })
    }

    pub(super) fn check(pools: &[Self]) -> Result<(), Problem> {
        range("pool", pools.len(), 0, MAX_POOLS)?;
        for (place, pool) in pools.iter().enumerate() {
            let key = format!("pool.{}", place + 1);
            if pool.checked().is_none() {
                let message =
                    format!("\"{}\" is not ADDRESS/LENGTH with a first address, such as 10.1.3.128/25", pool.prefix);
                return Err((format!("{key}.prefix"), message));
            }
            range(&format!("{key}.reserved"), pool.reserved.len(), 0, MAX_RESERVED)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let text = format!("[host]\nname = \"h1\"\n[uplink.a]\naddress = \"10.0.0.1\"\n{text}");
        Config::parse(Path::new("agent.toml"), &text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_policy_says_only_what_is_different() {
        let text = "[repair]\nclone = { attempts = 5 }\n[[repair.policy]]\nmatch = { app = \"db\" }\nmode = \"manual\"\n\
                    rungs = [\"clone\", \"restart-container\"]\nrestart_container = { timeout = \"1m\" }\n\
                    [[pool]]\ntenant = \"red\"\nprefix = \"10.1.3.128/25\"\nreserved = [\"10.1.3.129\"]\n";
        let config = parse(text).expect("it is valid");
        let settings = config.repair_settings();
        assert_eq!(settings.default.mode, remedy::Mode::Automatic);
        assert_eq!(settings.default.steps.len(), 4);
        let policy = settings.policy(&[("app".to_owned(), "db".to_owned())].into());
        assert_eq!((policy.mode, policy.quiet), (remedy::Mode::Manual, settings.default.quiet));
        let steps: Vec<_> =
            policy.steps.iter().map(|step| (step.rung, step.attempts, step.timeout.as_secs())).collect();
        assert_eq!(steps, [(Rung::Clone, 5, 20), (Rung::RestartContainer, 2, 60)]);
        assert_eq!(settings.pools[0].length, 25);
        let printed = config.to_toml();
        assert_eq!(Config::parse(Path::new("x"), &printed).expect("our own output").to_toml(), printed);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let cases = [
            ("[repair]\nmode = \"perhaps\"\n", "unknown variant `perhaps`"),
            ("[repair]\nrungs = [\"clone\", \"clone\"]\n", "repair.rungs: names a rung twice"),
            ("[repair]\nclone = { attempts = 0 }\n", "repair.clone.attempts: 0 is not within 1 to 100"),
            ("[repair]\nclone = { tries = 1 }\n", "unknown field `tries`"),
            ("[repair]\nclone = { back_off = \"2h\" }\n", "repair.clone.back_off: 2h is not within 0s to 1h"),
            ("[repair.limits]\nwindow = \"25h\"\n", "repair.limits.window: 25h is not within 1s to 24h"),
            ("[[repair.policy]]\nmatch = {}\n", "repair.policy.1.match: is empty"),
            (
                "[[repair.policy]]\nmatch = { a = \"b\" }\nquiet = \"1ms\"\n",
                "repair.policy.1.quiet: 1ms is not within 1s to 24h",
            ),
            ("[repair.limits]\nhost_sick_percent = 101\n", "repair.limits.host_sick_percent: 101 is not within"),
            (
                "[[pool]]\nprefix = \"10.1.3.1/25\"\n",
                "pool.1.prefix: \"10.1.3.1/25\" is not ADDRESS/LENGTH with a first",
            ),
            ("[[pool]]\nprefix = \"10.1.3.0\"\n", "pool.1.prefix"),
        ];
        for (text, expected) in cases {
            let error = parse(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
