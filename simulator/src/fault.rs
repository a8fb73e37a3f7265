//! Faults: what a scenario says of them, checked and turned into actions on known hosts.

use ringmesh_proto::Uplink;
use serde::{Deserialize, Serialize};

use crate::{
    HostIndex, Way,
    fleet::{Fleet, How, container_name, number_of},
    span::Span,
    world::Cure,
};

/// One fault as a scenario has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When it begins, after the start of the run.
    pub at: Span,
    /// How long it lasts; without it, to the end of the run.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub lasts: Option<Span>,
    /// What happens.
    pub kind: Kind,
    /// To whom: "h1", "h2" and so on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// To which containers of the fleet: "h1-c17".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<String>,
    /// To all containers of this app, "app3", on these hosts or, without any, on all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// What a container needs to become well, "command", "restart" or "clone"; without it, that the fault ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cure: Option<Cure>,
    /// Over which uplink, "a" or "b"; without it, both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<Side>,
    /// Which way of the cable, "in" or "out"; without it, both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way: Option<Direction>,
    /// Whose switch, or who is parted from the others; racks count from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<u16>,
    /// Probability that a message is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// How much later a slow host does everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Span>,
    /// By how much a wall clock is set, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_ms: Option<i64>,
}

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The process is stopped.
    Pause,
    /// The process does everything later, by `by`.
    Slow,
    /// The process ends, what is not yet on the disk is lost; it starts again when the fault ends.
    Crash,
    /// The same, and the kernel does not answer either.
    PowerOff,
    /// The wall clock is set by `step_ms`, and back when the fault ends.
    ClockStep,
    /// The cable of a host's uplink carries nothing.
    Cut,
    /// Both cables of a host carry nothing.
    Isolate,
    /// Two hosts do not hear each other.
    CutPair,
    /// These hosts, or those of a rack, and the others do not hear each other.
    Partition,
    /// A rack's switch has no power.
    Switch,
    /// Messages on a host's cables are lost, with probability `loss` each.
    Loss,
    /// Nothing more becomes durable on the disk.
    DiskFull,
    /// The services answer wrongly.
    Sick,
    /// The host leaves on purpose, and comes back when the fault ends.
    Leave,
    /// A host that was not there from the start joins: the one after the last, "h6" of five hosts.
    Join,
    /// The first processes of containers end; those that are not there again at the end of the fault are started by hand.
    End,
    /// Services of containers answer wrongly, and say so.
    Wrong,
    /// Services of containers answer late, by `by`.
    Late,
    /// Containers hang: they give no sign of life.
    Silent,
    /// An operator freezes containers, and releases them when the fault ends.
    Freeze,
    /// An operator disarms the cluster at a host, and arms it again there when the fault ends.
    Disarm,
}

impl Kind {
    /// Those that random scenarios draw from.
    pub const ALL: [Self; 15] = [
        Self::Pause,
        Self::Slow,
        Self::Crash,
        Self::PowerOff,
        Self::ClockStep,
        Self::Cut,
        Self::Isolate,
        Self::CutPair,
        Self::Partition,
        Self::Switch,
        Self::Loss,
        Self::DiskFull,
        Self::Sick,
        Self::Leave,
        Self::Join,
    ];
}

impl Kind {
    /// Whether it strikes containers of the fleet.
    pub fn is_of_containers(self) -> bool {
        matches!(self, Self::End | Self::Wrong | Self::Late | Self::Silent | Self::Freeze)
    }
}

/// "a" or "b".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Uplink A.
    A,
    /// Uplink B.
    B,
}

impl From<Side> for Uplink {
    fn from(side: Side) -> Self {
        match side {
            Side::A => Self::A,
            Side::B => Self::B,
        }
    }
}

/// "in" or "out", seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the host.
    In,
    /// From the host.
    Out,
}

/// A fault whose hosts are known to exist.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Stopped until it ends.
    Pause(Vec<HostIndex>, Span),
    /// Late by so much.
    Slow(Vec<HostIndex>, Span),
    /// Does not run; `true`: has no power.
    Down(Vec<HostIndex>, bool),
    /// Wall clock off by so many milliseconds.
    Clock(Vec<HostIndex>, i64),
    /// Ways of cables that carry nothing.
    Cut(Vec<HostIndex>, Vec<Uplink>, Vec<Way>),
    /// Two that do not hear each other.
    Pair(HostIndex, HostIndex, Vec<Uplink>),
    /// Those and all others do not hear each other.
    Part(Vec<HostIndex>),
    /// A rack's switches without power.
    Switch(u16, Vec<Uplink>),
    /// Ways of cables that lose so much.
    Loss(Vec<HostIndex>, Vec<Uplink>, Vec<Way>, f64),
    /// Full disk.
    Disk(Vec<HostIndex>),
    /// Services that fail.
    Sick(Vec<HostIndex>),
    /// Left on purpose.
    Leave(Vec<HostIndex>),
    /// Started for the first time.
    Join(Vec<HostIndex>),
    /// Containers that are not well, in order.
    Ail(Vec<(HostIndex, u32)>, How, Cure),
    /// Containers that are frozen.
    Freeze(Vec<(HostIndex, u32)>),
    /// Where the cluster was disarmed.
    Disarm(Vec<HostIndex>),
}

impl Fault {
    /// A fault that names hosts and nothing else.
    pub fn new(at: Span, lasts: Option<Span>, kind: Kind, hosts: &[HostIndex]) -> Self {
        let hosts = hosts.iter().map(|host| crate::world::name(*host)).collect();
        Self {
            at,
            lasts,
            kind,
            hosts,
            containers: Vec::new(),
            app: None,
            cure: None,
            uplink: None,
            way: None,
            rack: None,
            loss: None,
            by: None,
            step_ms: None,
        }
    }

    /// The numbers of its hosts, as far as these are names of hosts.
    pub fn indexes(&self) -> Vec<HostIndex> {
        self.hosts.iter().filter_map(|name| index_of(name)).collect()
    }

    /// What it does to the `hosts` that are there from the start, the `joining` ones after them, the racks and the fleet.
    pub fn action(&self, hosts: usize, joining: usize, racks: u16, fleet: Option<&Fleet>) -> Result<Action, String> {
        if self.kind.is_of_containers() {
            self.refuse_idle_fields()?;
            let who = self.named_containers(hosts + joining, fleet)?;
            #[allow(clippy::wildcard_enum_match_arm, reason = "the kinds that are of no container were turned away")]
            let how = match self.kind {
                Kind::End => How::End,
                Kind::Late => How::Late(self.by.ok_or("late needs \"by\", as in by = \"2s\"")?),
                Kind::Silent => How::Silent,
                Kind::Freeze => return Ok(Action::Freeze(who)),
                _ => How::Wrong,
            };
            return Ok(Action::Ail(who, how, self.cure.unwrap_or(Cure::Nothing)));
        }
        let named = self.named_hosts(hosts, joining)?;
        let uplinks = self.uplink.map_or(Uplink::BOTH.to_vec(), |side| vec![side.into()]);
        let ways = match self.way {
            None => Way::BOTH.to_vec(),
            Some(Direction::In) => vec![Way::In],
            Some(Direction::Out) => vec![Way::Out],
        };
        self.refuse_idle_fields()?;
        Ok(match self.kind {
            Kind::Pause => Action::Pause(named, self.lasts.ok_or("a pause needs \"for\"")?),
            Kind::Slow => Action::Slow(named, self.by.ok_or("slow needs \"by\", as in by = \"200ms\"")?),
            Kind::Crash => Action::Down(named, false),
            Kind::PowerOff => Action::Down(named, true),
            Kind::ClockStep => Action::Clock(named, self.step_ms.ok_or("clock-step needs \"step_ms\"")?),
            Kind::Cut => Action::Cut(named, uplinks, ways),
            Kind::Isolate => Action::Cut(named, Uplink::BOTH.to_vec(), Way::BOTH.to_vec()),
            Kind::CutPair => match named[..] {
                [one, other] if one != other => Action::Pair(one, other, uplinks),
                _ => return Err("cut-pair needs two hosts, as in hosts = [\"h1\", \"h2\"]".into()),
            },
            Kind::Partition => match self.rack {
                Some(rack) => Action::Part(in_rack(self.rack_of(rack, racks)?, hosts, racks)),
                None => Action::Part(named),
            },
            Kind::Switch => Action::Switch(self.rack_of(self.rack.unwrap_or(0), racks)?, uplinks),
            Kind::Loss => {
                let loss = self.loss.ok_or("loss needs \"loss\", as in loss = 0.1")?;
                if !(0.0..=1.0).contains(&loss) {
                    return Err(format!("loss = {loss} is no probability; it is 0 to 1"));
                }
                Action::Loss(named, uplinks, ways, loss)
            }
            Kind::DiskFull => Action::Disk(named),
            Kind::Sick => Action::Sick(named),
            Kind::Leave => Action::Leave(named),
            Kind::Join => Action::Join(named),
            Kind::Disarm => Action::Disarm(named),
            Kind::End | Kind::Wrong | Kind::Late | Kind::Silent | Kind::Freeze => {
                return Err("it strikes containers".into());
            }
        })
    }

    /// In order, each once.
    fn named_containers(&self, hosts: usize, fleet: Option<&Fleet>) -> Result<Vec<(HostIndex, u32)>, String> {
        let fleet = fleet.ok_or("there are no containers that it could strike; write [fleet]")?;
        let mut found = Vec::new();
        if let Some(app) = &self.app {
            let of_app = fleet.of_app(app);
            let of_app = of_app.ok_or(format!("\"{app}\" is no app; apps are app1 to app{}", fleet.apps))?;
            let named = if self.hosts.is_empty() { (0..hosts).collect() } else { self.indexes() };
            if let Some(host) = named.iter().find(|host| **host >= hosts).filter(|_| !self.hosts.is_empty()) {
                return Err(format!("there is no h{}; hosts are h1 to h{hosts}", host + 1));
            }
            found.extend(named.iter().flat_map(|host| of_app.clone().map(|number| (*host, number))));
        } else if !self.hosts.is_empty() {
            return Err("it names hosts and no app; write app = \"app1\", or containers = [\"h1-c1\"]".into());
        }
        for name in &self.containers {
            let known = number_of(name).filter(|(host, number)| *host < hosts && *number < fleet.containers);
            let last = container_name(hosts.saturating_sub(1), fleet.containers - 1);
            found.push(known.ok_or(format!("\"{name}\" is no container; they are h1-c1 to {last}"))?);
        }
        found.sort_unstable();
        found.dedup();
        if found.is_empty() {
            return Err("it names no containers; write containers = [\"h1-c1\"], or app = \"app1\"".into());
        }
        Ok(found)
    }

    fn named_hosts(&self, hosts: usize, joining: usize) -> Result<Vec<HostIndex>, String> {
        let known = |name: &String| {
            let index = index_of(name).ok_or(format!("\"{name}\" is no host; hosts are h1 to h{hosts}"))?;
            let joins = self.kind == Kind::Join;
            match (joins, index < hosts, index < hosts + joining) {
                (false, _, true) | (true, false, true) => Ok(index),
                (true, true, _) => {
                    Err(format!("{name} is there from the start; the first that can join is h{}", hosts + 1))
                }
                _ => Err(format!("there is no {name}; hosts are h1 to h{}", hosts + joining)),
            }
        };
        let named: Vec<HostIndex> = self.hosts.iter().map(known).collect::<Result<_, String>>()?;
        let by_rack = matches!(self.kind, Kind::Switch) || self.kind == Kind::Partition && self.rack.is_some();
        match (by_rack, named.is_empty()) {
            (false, true) => Err("it names no hosts; write hosts = [\"h1\"]".into()),
            (true, false) => Err("it names hosts and a rack; write one of them".into()),
            _ => Ok(named),
        }
    }

    fn rack_of(&self, rack: u16, racks: u16) -> Result<u16, String> {
        if rack < racks { Ok(rack) } else { Err(format!("there is no rack {rack}; racks are 0 to {}", racks - 1)) }
    }

    fn refuse_idle_fields(&self) -> Result<(), String> {
        let kinds = |kinds: &[Kind]| kinds.contains(&self.kind);
        let idle = [
            ("uplink", self.uplink.is_some(), kinds(&[Kind::Cut, Kind::CutPair, Kind::Switch, Kind::Loss])),
            ("way", self.way.is_some(), kinds(&[Kind::Cut, Kind::Loss])),
            ("rack", self.rack.is_some(), kinds(&[Kind::Switch, Kind::Partition])),
            ("loss", self.loss.is_some(), kinds(&[Kind::Loss])),
            ("by", self.by.is_some(), kinds(&[Kind::Slow, Kind::Late])),
            ("containers", !self.containers.is_empty(), self.kind.is_of_containers()),
            ("app", self.app.is_some(), self.kind.is_of_containers()),
            ("cure", self.cure.is_some(), kinds(&[Kind::Wrong, Kind::Late])),
            ("step_ms", self.step_ms.is_some(), kinds(&[Kind::ClockStep])),
            ("for", self.lasts.is_some(), !kinds(&[Kind::Join])),
        ];
        match idle.iter().find(|(_, there, used)| *there && !used) {
            Some((name, ..)) => Err(format!("\"{name}\" means nothing for this kind; leave it out")),
            None => Ok(()),
        }
    }
}

/// The number of the host with this name.
fn index_of(name: &str) -> Option<HostIndex> {
    let number: usize = name.strip_prefix('h')?.parse().ok()?;
    (number > 0 && !name.starts_with("h0") && !name.starts_with("h+")).then(|| number - 1)
}

/// The rack of a host: as many neighbours by number in each.
pub fn rack_of(host: HostIndex, hosts: usize, racks: u16) -> u16 {
    (host * usize::from(racks) / hosts.max(1)).min(usize::from(racks).saturating_sub(1)) as u16
}

fn in_rack(rack: u16, hosts: usize, racks: u16) -> Vec<HostIndex> {
    (0..hosts).filter(|host| rack_of(*host, hosts, racks) == rack).collect()
}
