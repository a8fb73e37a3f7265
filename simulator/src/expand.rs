//! Faults at random: from rates, or a whole scenario from a seed. All become data before a run begins.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    HostIndex,
    draw::{Draw, Purpose},
    fault::{Direction, Fault, Kind, Side},
    fleet::{Fleet, container_name},
    scenario::Scenario,
    span::Span,
    world::Cure,
};

/// Faults of one kind that strike each host by itself, at a constant rate, and end at another: λ and μ of a Markov chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// What happens; not join, partition or switch.
    pub kind: Kind,
    /// Mean time of a host to its next fault, after the end of the one before: 1/λ.
    pub mean_up: Span,
    /// Mean time until a fault ends: 1/μ.
    pub mean_down: Span,
    /// Not before.
    #[serde(default)]
    pub from: Span,
    /// Not after, and all have ended then.
    pub until: Span,
    /// As of a fault. Of containers, one that is drawn of each host is struck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cure: Option<Cure>,
    /// As of a fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<Side>,
    /// As of a fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// As of a fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Span>,
    /// As of a fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_ms: Option<i64>,
}

/// The shortest time that a fault is drawn for.
const SHORTEST: Duration = Duration::from_millis(1);

impl Generate {
    /// What is wrong with it.
    pub(crate) fn check(&self, fleet: Option<&Fleet>) -> Result<(), String> {
        if matches!(self.kind, Kind::Join | Kind::Partition | Kind::Switch) {
            return Err("join, partition and switch strike no single host; write them as [[fault]]".into());
        }
        if self.mean_up.0 < Duration::from_millis(10) {
            return Err("mean_up is at least 10ms".into());
        }
        // A second host stands for the one that is drawn.
        let hosts: &[HostIndex] = if self.kind == Kind::CutPair { &[0, 1] } else { &[0] };
        self.fault(Span::ZERO, Span::from_secs(1), hosts, 0).action(2, 0, 1, fleet).map(|_| ())
    }

    fn fault(&self, at: Span, lasts: Span, hosts: &[HostIndex], container: u32) -> Fault {
        let mut fault = Fault::new(at, Some(lasts), self.kind, hosts);
        if self.kind.is_of_containers() {
            (fault.hosts, fault.containers) = (Vec::new(), vec![container_name(hosts[0], container)]);
        }
        Fault { cure: self.cure, uplink: self.uplink, loss: self.loss, by: self.by, step_ms: self.step_ms, ..fault }
    }

    /// The faults of this scenario. Each host draws by itself.
    pub(crate) fn expand(&self, scenario: &Scenario) -> Vec<Fault> {
        let mut faults = Vec::new();
        for host in 0..scenario.hosts {
            let mut draw = Draw::new(scenario.seed, host as u32, Purpose::Fault(self.kind as u8));
            let span = |draw: &mut Draw, mean: Span| Duration::from_secs_f64(draw.exponential(mean.0.as_secs_f64()));
            let mut at = self.from.0;
            loop {
                at += span(&mut draw, self.mean_up);
                let lasts = span(&mut draw, self.mean_down).max(SHORTEST);
                if at + lasts > self.until.0 || faults.len() > crate::scenario::MAX_FAULTS {
                    break;
                }
                let mut hosts = vec![host];
                if self.kind == Kind::CutPair && scenario.hosts > 1 {
                    let other = draw.below(scenario.hosts as u64 - 1) as usize;
                    hosts.push(if other >= host { other + 1 } else { other });
                }
                // Any of its containers.
                let containers = scenario.fleet.as_ref().filter(|_| self.kind.is_of_containers());
                let container = containers.map_or(0, |fleet| draw.below(fleet.containers.into()) as u32);
                faults.push(self.fault(whole_us(at), whole_us(lasts), &hosts, container));
                at += lasts;
            }
        }
        faults
    }
}

/// Seconds that a random scenario gives its hosts to find each other, at the most.
const SETTLE: u64 = 15;

/// A scenario of random faults on so many hosts. It ends in a quiet time, long enough for every oracle to speak.
pub fn random(seed: u64, hosts: usize) -> Scenario {
    let mut draw = Draw::new(seed, 0, Purpose::Scenario);
    let racks = if hosts >= 8 && draw.chance(0.3) { 2 + draw.below(3) as u16 } else { 1 };
    let mut scenario = Scenario { hosts, racks, seed, ..Scenario::default() };
    if draw.chance(0.3) {
        scenario.link.loss = 0.001 + 0.02 * draw.unit();
    }
    if draw.chance(0.2) {
        scenario.link.duplicate = 0.05 * draw.unit();
        scenario.link.reorder = 0.05 * draw.unit();
    }
    if draw.chance(0.2) {
        scenario.link.distribution = crate::link::Distribution::Exponential;
    }
    scenario.containers = draw.below(2) as u16;
    // Each phase has a few faults at once and a pause after them, sometimes long enough for all to agree again.
    let phases = 1 + draw.below(3);
    let mut at = SETTLE as f64 + 5.0 * draw.unit();
    let mut joined = 0;
    for _ in 0..phases {
        let count = 1 + draw.below(3);
        let mut end = at;
        for _ in 0..count {
            let begins = at + 3.0 * draw.unit();
            let lasts = [0.2, 1.0, 4.0, 9.0, 25.0][draw.below(5) as usize] * (0.5 + draw.unit());
            let fault = random_fault(&mut draw, hosts, racks, begins, lasts, &mut joined);
            end = end.max(begins + fault.lasts.map_or(0.0, |lasts| lasts.0.as_secs_f64()));
            scenario.fault.push(fault);
        }
        at = end + if draw.chance(0.5) { 2.0 + 10.0 * draw.unit() } else { 45.0 };
    }
    let end = scenario.fault.iter().map(|fault| fault.at.0 + fault.lasts.unwrap_or_default().0).max();
    let quiet = crate::oracle::agree_within(hosts + joined) + Duration::from_secs(2);
    let end = end.unwrap_or_default().max(Duration::from_secs(SETTLE)) + quiet;
    scenario.duration = Span::from_secs(end.as_secs() + 1);
    scenario.fault.sort_by_key(|fault| fault.at);
    scenario
}

fn random_fault(draw: &mut Draw, hosts: usize, racks: u16, at: f64, lasts: f64, joined: &mut usize) -> Fault {
    let one = draw.below(hosts as u64) as usize;
    let other = (one + 1 + draw.below(hosts as u64 - 1) as usize) % hosts;
    let kind = Kind::ALL[draw.below(Kind::ALL.len() as u64) as usize];
    let at = whole_us(Duration::from_secs_f64(at));
    let lasts = Some(whole_us(Duration::from_secs_f64(lasts)));
    let fault = Fault::new(at, lasts, kind, &[one]);
    let uplink = [None, Some(Side::A), Some(Side::B)][draw.below(3) as usize];
    let way = [None, Some(Direction::In), Some(Direction::Out)][draw.below(3) as usize];
    match kind {
        Kind::Pause | Kind::ClockStep | Kind::Isolate | Kind::DiskFull | Kind::Sick => {
            Fault { step_ms: (kind == Kind::ClockStep).then(|| draw.below(7_200_000) as i64 - 3_600_000), ..fault }
        }
        Kind::Slow => Fault { by: Some(whole_us(Duration::from_secs_f64(0.5 * draw.unit()))), ..fault },
        Kind::Crash | Kind::PowerOff => {
            let hosts = if draw.chance(0.3) { vec![one, other] } else { vec![one] };
            let lasts = lasts.filter(|_| draw.chance(0.8));
            Fault { lasts, ..Fault::new(at, lasts, kind, &hosts) }
        }
        Kind::Cut => Fault { uplink: uplink.or(Some(Side::A)), way, ..fault },
        Kind::CutPair => Fault { uplink, ..Fault::new(at, lasts, kind, &[one, other]) },
        Kind::Partition => {
            let count = 1 + draw.below(hosts as u64 / 2) as usize;
            let group: Vec<usize> = (0..count).map(|nth| (one + nth) % hosts).collect();
            Fault::new(at, lasts, kind, &group)
        }
        Kind::Switch => {
            let rack = draw.below(racks.into()) as u16;
            Fault { hosts: vec![], rack: Some(rack), uplink: uplink.or(Some(Side::B)), ..fault }
        }
        Kind::Loss => Fault { uplink, way, loss: Some(0.5 * draw.unit()), ..fault },
        Kind::Leave => Fault { lasts: lasts.map(|lasts| Span(lasts.0 + Duration::from_secs(2))), ..fault },
        // These are of a fleet, which random scenarios have not.
        Kind::End | Kind::Wrong | Kind::Late | Kind::Silent | Kind::Freeze | Kind::Disarm => fault,
        Kind::Join => {
            *joined += 1;
            Fault::new(at, None, kind, &[hosts + *joined - 1])
        }
    }
}

/// Whole microseconds, so that a file says exactly the same.
fn whole_us(span: Duration) -> Span {
    Span(Duration::from_micros(span.as_micros() as u64))
}
