//! Scenarios: what a run consists of, as a TOML file says it, and as it is kept with a failure.

use serde::{Deserialize, Serialize};

use ringmesh_node::{gossip::MAX_HOSTS as MAX_ZONE_HOSTS, zones::MAX_ZONES};

use crate::{
    HostIndex,
    expand::Generate,
    fault::{Action, Fault, Kind, Side, rack_of},
    fleet::Fleet,
    link::LinkSpec,
    span::Span,
};

/// The most hosts of a run. At some 2 KiB a host for each other it knows, they need 2 GB.
pub const MAX_HOSTS: usize = 20_000;

/// The most faults of a run, after generators were expanded.
pub const MAX_FAULTS: usize = 10_000;

/// All that determines a run, but its seed if that is given elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// Hosts that are there from the start.
    pub hosts: usize,
    /// Racks, each with a switch for uplink A and one for uplink B.
    pub racks: u16,
    /// Pools of hosts that know each other, each of neighbouring numbers; they are joined by their delegates.
    pub zones: u16,
    /// Containers of each host.
    pub containers: u16,
    /// Services of each container, probed every second.
    pub services: u16,
    /// Containers by the thousand of each host, instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet: Option<Fleet>,
    /// Virtual time.
    pub duration: Span,
    /// Everything that is drawn follows from it.
    pub seed: u64,
    /// Between the starts of two hosts.
    pub stagger: Span,
    /// Messages are encoded and decoded.
    pub wire: bool,
    /// From hosts to their switches.
    pub link: LinkSpec,
    /// From switches to hosts.
    pub link_in: LinkSpec,
    /// Cables that are different.
    pub cable: Vec<Cable>,
    /// Hosts' disks.
    pub disk: Disk,
    /// What happens when.
    pub fault: Vec<Fault>,
    /// What happens at random; becomes faults before the run.
    pub generate: Vec<Generate>,
    /// What is checked.
    pub oracles: Oracles,
}

/// A cable that is different from the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cable {
    /// Of whom.
    pub host: String,
    /// Of which uplink.
    pub uplink: Side,
    /// From the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<LinkSpec>,
    /// To the host.
    #[serde(rename = "in", default, skip_serializing_if = "Option::is_none")]
    pub into: Option<LinkSpec>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Disk {
    /// What is written is durable so much later.
    pub sync: Span,
}

/// Which oracles look on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Oracles {
    /// Those that do not.
    pub off: Vec<String>,
}

impl Default for Disk {
    fn default() -> Self {
        Self { sync: Span(std::time::Duration::from_millis(2)) }
    }
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            hosts: 5,
            racks: 1,
            zones: 1,
            containers: 0,
            services: 1,
            fleet: None,
            duration: Span::from_secs(60),
            seed: 0,
            stagger: Span(std::time::Duration::from_millis(5)),
            wire: false,
            link: LinkSpec::default(),
            link_in: LinkSpec::none(),
            cable: Vec::new(),
            disk: Disk::default(),
            fault: Vec::new(),
            generate: Vec::new(),
            oracles: Oracles::default(),
        }
    }
}

/// Why a scenario cannot be run. The operator's fault.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// Not TOML, or not a scenario; the text names line and column.
    #[error("{0}")]
    Syntax(#[from] Box<toml::de::Error>),
    /// A fault or another entry says what cannot be.
    #[error("line {line}: {what}")]
    Meaning {
        /// Where.
        line: usize,
        /// What, and what to do.
        what: String,
    },
}

/// Where entries stand in the file.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Lines {
    fault: Vec<toml::Spanned<toml::Value>>,
    generate: Vec<toml::Spanned<toml::Value>>,
    cable: Vec<toml::Spanned<toml::Value>>,
}

impl Scenario {
    /// Reads and checks a scenario.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text).map_err(Box::new)?;
        let lines: Lines = toml::from_str(text).map_err(Box::new)?;
        let line_of = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
        scenario.check().map_err(|problem| {
            let span = match problem.entry {
                Entry::Whole => None,
                Entry::Fault(place) => lines.fault.get(place).map(toml::Spanned::span),
                Entry::Generate(place) => lines.generate.get(place).map(toml::Spanned::span),
                Entry::Cable(place) => lines.cable.get(place).map(toml::Spanned::span),
            };
            // Of what concerns no entry, the key's own line if the file has it.
            let named = text.find(&format!("\n{}", problem.key)).map_or(0, |offset| offset + 1);
            ScenarioError::Meaning { line: line_of(span.map_or(named, |span| span.start)), what: problem.what }
        })?;
        Ok(scenario)
    }

    /// Finds the first thing that cannot be.
    pub fn check(&self) -> Result<(), Problem> {
        let whole = |key: &'static str, what: String| Err(Problem { entry: Entry::Whole, key, what });
        if !(1..=MAX_HOSTS).contains(&self.hosts) {
            return whole("hosts", format!("hosts = {} is not within 1 to {MAX_HOSTS}", self.hosts));
        }
        if self.racks == 0 || usize::from(self.racks) > self.hosts {
            return whole("racks", format!("racks = {} is not within 1 to the number of hosts", self.racks));
        }
        if self.zones == 0 || usize::from(self.zones) > self.hosts.min(MAX_ZONES) {
            let most = self.hosts.min(MAX_ZONES);
            return whole("zones", format!("zones = {} is not within 1 to {most}", self.zones));
        }
        // Those who join later are in the last zone.
        let largest = self.hosts.div_ceil(usize::from(self.zones)) + self.joining();
        if largest > MAX_ZONE_HOSTS {
            let what = format!("a zone would have {largest} hosts, and may have {MAX_ZONE_HOSTS}: set zones");
            return whole("zones", what);
        }
        if self.containers > 1000 || self.services > 16 {
            let what = "more than 1,000 containers a host or 16 services in each are too many; for more, write [fleet]";
            return whole("containers", what.into());
        }
        if let Some(fleet) = &self.fleet {
            if self.containers > 0 {
                return whole("containers", "containers and [fleet] are two; write one of them".into());
            }
            if let Some(what) = fleet.problem() {
                return whole("[fleet]", what);
            }
        }
        for (key, link) in [("[link]", &self.link), ("[link_in]", &self.link_in)] {
            if let Some(what) = link.problem() {
                return whole(key, what);
            }
        }
        if let Some(name) = self.oracles.off.iter().find(|name| !crate::oracle::NAMES.contains(&name.as_str())) {
            let what = format!("there is no oracle \"{name}\"; there are {}", crate::oracle::NAMES.join(", "));
            return whole("[oracles]", what);
        }
        for (place, cable) in self.cable.iter().enumerate() {
            let problem = |what| Err(Problem { entry: Entry::Cable(place), key: "", what });
            let known = Fault { hosts: vec![cable.host.clone()], ..Fault::new(Span::ZERO, None, Kind::Sick, &[]) };
            if let Err(what) = known.action(self.hosts, self.joining(), self.racks, None) {
                return problem(what);
            }
            if let Some(what) = [&cable.out, &cable.into].into_iter().flatten().find_map(LinkSpec::problem) {
                return problem(what);
            }
        }
        for (place, generate) in self.generate.iter().enumerate() {
            if let Err(what) = generate.check(self.fleet.as_ref()) {
                return Err(Problem { entry: Entry::Generate(place), key: "", what });
            }
        }
        if self.fault.len() > MAX_FAULTS {
            return whole("[[fault]]", format!("more than {MAX_FAULTS} faults"));
        }
        self.actions().map(|_| ())
    }

    /// Hosts that join later.
    pub fn joining(&self) -> usize {
        self.fault.iter().filter(|fault| fault.kind == Kind::Join).map(|fault| fault.hosts.len()).sum()
    }

    /// The zone of a host, counted from 0.
    pub fn zone_of(&self, host: HostIndex) -> usize {
        rack_of(host, self.hosts, self.zones).into()
    }

    /// What each fault does.
    pub fn actions(&self) -> Result<Vec<Action>, Problem> {
        let joining = self.joining();
        let action = |(place, fault): (usize, &Fault)| {
            fault.action(self.hosts, joining, self.racks, self.fleet.as_ref()).map_err(|what| Problem {
                entry: Entry::Fault(place),
                key: "",
                what,
            })
        };
        self.fault.iter().enumerate().map(action).collect()
    }

    /// The same with all that is drawn as data: no generators any more.
    pub fn expanded(&self) -> Self {
        let mut expanded = self.clone();
        for generate in std::mem::take(&mut expanded.generate) {
            expanded.fault.extend(generate.expand(self));
        }
        expanded.fault.truncate(MAX_FAULTS);
        expanded.fault.sort_by_key(|fault| fault.at);
        expanded
    }
}

/// What cannot be, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Problem {
    entry: Entry,
    key: &'static str,
    /// What, and what to do.
    pub what: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Whole,
    Fault(usize),
    Generate(usize),
    Cable(usize),
}
