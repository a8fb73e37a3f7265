//! Oracles: what must hold in every run, whatever happens in it.
//!
//! Some look at every change, some at moments when they may expect something: a host has been dead for long enough, or
//! nothing has happened for long enough. None of them is asked by the world; they only look at it.

mod accounts;
mod agreement;
mod containers;
mod ledger;
mod verdicts;

use std::{collections::BTreeMap, time::Duration};

use ringmesh_node::membership::Change;
use ringmesh_proto::Instant;
use serde::{Deserialize, Serialize};

use crate::{HostIndex, scenario::Scenario, stage::Stage, world::name};
use containers::Watch;
pub use containers::{Figures, Quantiles};
use ledger::Ledger;

/// Their names: what a file of a failure and `oracles.off` say.
pub const NAMES: [&str; 12] = [
    "false-down",
    "detection",
    "agreement",
    "generation",
    "rings",
    "pointers",
    "rates",
    "queues",
    "accounts",
    "containers",
    "repair",
    "digests",
];

/// After a run: one oracle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// One of [`NAMES`].
    pub name: String,
    /// Whether what it watches held.
    pub ok: bool,
    /// What it saw: the first violation, or what it is worth that there was none.
    pub detail: String,
}

/// All of them, and what they know.
pub(crate) struct Oracles {
    off: Vec<String>,
    violations: BTreeMap<&'static str, (u64, String)>,
    ledger: Ledger,
    /// No fault is active that ends, and none was since then.
    quiet_since: Option<Instant>,
    agreed: Option<Instant>,
    /// The rings of each zone at the last agreement.
    rings: BTreeMap<usize, agreement::Pointers>,
    generations: BTreeMap<(HostIndex, HostIndex), (u32, u32)>,
    sent: Vec<crate::world::Sent>,
    seen: Seen,
    /// Of the containers of a fleet.
    watch: Option<Watch>,
}

/// What there was to see: an oracle that saw nothing proves nothing.
#[derive(Default)]
struct Seen {
    downs: u64,
    deaths: u64,
    slowest_death: Duration,
    quiet: u64,
    slowest_agreement: Duration,
    rings: u64,
    pointers: u64,
    events: u64,
    most_datagrams: u64,
    most_frames: u64,
    quiet_bytes: (u64, u64),
    waited: usize,
}

/// How long all hosts may take to agree after the last fault has healed: the longest wait between two calls to a host
/// that is gone (8 s), a sync (10 s), what is put off after a pause (6 s), and the rounds of gossip to as many hosts.
pub fn agree_within(hosts: usize) -> Duration {
    Duration::from_secs(24) + Duration::from_secs(2) * (hosts.max(2) as f64).log2().ceil() as u32
}

/// How long a dead host may go without all saying so: that its links are silent (1.5 s), the longest patience with a
/// silent host (6 s), SWIM's suspicion, which grows with the logarithm, and as much again for observers that die with it.
pub fn down_within(hosts: usize) -> Duration {
    Duration::from_millis(15_000 + (4_000.0 * (hosts.max(10) as f64).log10()) as u64)
}

impl Oracles {
    pub(crate) fn new(scenario: &Scenario, stage: &Stage) -> Self {
        let hosts = stage.world.hosts().len();
        Self {
            off: scenario.oracles.off.clone(),
            watch: scenario.fleet.as_ref().map(|fleet| Watch::new(fleet, hosts)),
            violations: BTreeMap::new(),
            ledger: Ledger::new(hosts),
            quiet_since: None,
            agreed: None,
            rings: BTreeMap::new(),
            generations: BTreeMap::new(),
            sent: vec![Default::default(); hosts],
            seen: Seen::default(),
        }
    }

    /// Something has begun or ended; before it did, [`Self::note_quiet_end`] was called. `quiet`: nothing will, for a while.
    pub(crate) fn changed(&mut self, stage: &Stage, quiet: bool) {
        self.ledger.update(stage);
        self.quiet_since = quiet.then(|| stage.world.now());
        self.agreed = None;
    }

    /// To be called after every event.
    pub(crate) fn observe(&mut self, stage: &mut Stage) {
        if !stage.world.has_changes() {
            return;
        }
        for (at, change) in stage.world.take_changes() {
            self.judge_change(stage, at, change);
        }
    }

    fn judge_change(&mut self, stage: &Stage, at: HostIndex, change: Change) {
        match change {
            Change::Down(member) => {
                self.judge_down(stage, at, member);
                self.judge_generation(stage, at, member);
            }
            Change::Alive(member) | Change::Renamed(member) | Change::Suspect(member) => {
                self.judge_generation(stage, at, member);
            }
            Change::Renewed(generation) => self.judge_renewal(stage, at, generation),
            Change::Hearsay | Change::ProbeFailed(_) | Change::Active | Change::Paused(_) => {}
        }
    }

    fn violated(&mut self, oracle: &'static str, now: Instant, what: impl FnOnce() -> String) {
        if self.off.iter().any(|off| off == oracle) {
            return;
        }
        let seconds = now.as_nanos() as f64 / 1e9;
        let entry = self.violations.entry(oracle).or_insert_with(|| (0, format!("at {seconds:.3} s: {}", what())));
        entry.0 += 1;
    }

    /// Whether one of them found something: a run may end there.
    pub(crate) fn first_violation(&self) -> Option<&'static str> {
        self.violations.keys().next().copied()
    }

    /// What each of them says in the end.
    pub(crate) fn outcomes(&self, hosts: usize) -> Vec<Outcome> {
        let outcome = |oracle: &&'static str| {
            let violation = self.violations.get(oracle);
            let detail = match violation {
                Some((1, first)) => first.clone(),
                Some((times, first)) => format!("{first} (and {} more)", times - 1),
                None if self.off.iter().any(|off| off == oracle) => "switched off".into(),
                None => self.worth(oracle, hosts),
            };
            Outcome { name: (*oracle).into(), ok: violation.is_none(), detail }
        };
        let of_fleets = ["containers", "repair", "digests"];
        NAMES.iter().filter(|name| self.watch.is_some() || !of_fleets.contains(name)).map(outcome).collect()
    }

    fn worth(&self, oracle: &str, hosts: usize) -> String {
        let seen = &self.seen;
        let seconds = |span: Duration| span.as_secs_f64();
        match oracle {
            "false-down" => format!("{} verdicts \"down\", none of them on a host that was well", seen.downs),
            "detection" => format!(
                "{} deaths, the slowest known everywhere after {:.1} s of {:.1} s",
                seen.deaths,
                seconds(seen.slowest_death),
                seconds(down_within(hosts))
            ),
            "agreement" => format!(
                "{} quiet times, the slowest agreement after {:.1} s of {:.1} s",
                seen.quiet,
                seconds(seen.slowest_agreement),
                seconds(agree_within(hosts))
            ),
            "generation" => format!("{} generations of hosts at hosts, none of them fell", self.generations.len()),
            "rings" => format!("{} times both rings were one cycle at all hosts, with links at both ends", seen.rings),
            "pointers" => format!("{} joins or leaves, each changed 4 pointers a ring", seen.pointers),
            "rates" => {
                let (bytes, seconds) = seen.quiet_bytes;
                format!(
                    "at most {} datagrams and {} frames a second of one host; {:.0} bytes a second at rest",
                    seen.most_datagrams,
                    seen.most_frames,
                    if seconds == 0 { 0.0 } else { bytes as f64 / seconds as f64 }
                )
            }
            "queues" => format!("every message is accounted for; at most {} frames waited on a stream", seen.waited),
            "containers" | "repair" | "digests" => {
                self.watch.as_ref().map(|watch| watch.worth(oracle)).unwrap_or_default()
            }
            _ => format!("{} times each host had all events of each other, each once", seen.events),
        }
    }

    fn who(hosts: &[HostIndex]) -> String {
        hosts.iter().take(5).map(|host| name(*host)).collect::<Vec<_>>().join(", ")
    }
}
