//! One run: a scenario, its faults at their times, and the oracles looking on.

use std::{collections::BTreeMap, time::Duration};

use ringmesh_proto::Instant;
use serde::{Deserialize, Serialize};

use crate::{
    HostIndex,
    fault::Action,
    oracle::{Figures, Oracles, Outcome, agree_within, down_within},
    scenario::{Problem, Scenario},
    stage::Stage,
};

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Two runs of a scenario with a seed have the same, in hexadecimal.
    pub trace_hash: String,
    /// All that ever ran.
    pub hosts: usize,
    /// Of the run.
    pub seed: u64,
    /// Faults, after generators were expanded.
    pub faults: usize,
    /// Virtual time that passed.
    pub virtual_seconds: f64,
    /// Real time that it took; 0 until somebody measured it.
    pub wall_seconds: f64,
    /// Inputs that nodes handled.
    pub events: u64,
    /// What was seen of the containers of a fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<Figures>,
    /// What each oracle says.
    pub oracles: Vec<Outcome>,
}

impl Report {
    /// The oracles that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Outcome> {
        self.oracles.iter().filter(|outcome| !outcome.ok)
    }

    /// Whether none did.
    pub fn is_ok(&self) -> bool {
        self.failed().next().is_none()
    }
}

/// What is to be done at a time.
enum Step {
    Start(HostIndex),
    Begin(usize),
    End(usize),
    /// Look whether all agree.
    Look,
    /// A second has passed.
    Second,
    /// Look what is told of containers, and who has heard it.
    Hear,
    /// Forget containers of which nothing need be kept any more.
    Rest,
    /// A host that died then must be known to be dead now.
    Death(HostIndex, Instant),
}

/// Between two looks at whether all agree, and at who knows of the dead.
const LOOK: Duration = Duration::from_millis(250);

/// Between two looks at what is told of containers: what is measured of that is so exact.
const HEAR: Duration = Duration::from_millis(20);

/// Between two looks at which containers need not be kept any more.
const REST: Duration = Duration::from_secs(5);

/// A run under way.
pub struct Run {
    stage: Stage,
    oracles: Oracles,
    actions: Vec<Action>,
    agenda: BTreeMap<(Instant, u64), Step>,
    planned: u64,
    end: Instant,
    /// The dead of whom not all know.
    deaths: Vec<(HostIndex, Instant)>,
    scenario: Scenario,
}

impl Run {
    /// A run of a scenario, whose generators are expanded first.
    pub fn new(scenario: &Scenario) -> Result<Self, Problem> {
        let scenario = scenario.expanded();
        scenario.check()?;
        let actions = scenario.actions()?;
        let stage = Stage::new(&scenario);
        let oracles = Oracles::new(&scenario, &stage);
        let end = Instant::ZERO + scenario.duration.0;
        let (agenda, deaths) = (BTreeMap::new(), Vec::new());
        let mut run = Self { stage, oracles, actions, agenda, planned: 0, end, deaths, scenario };
        for host in 0..run.scenario.hosts {
            run.plan(run.scenario.stagger.0 * host as u32, Step::Start(host));
        }
        for number in 0..run.scenario.fault.len() {
            let fault = &run.scenario.fault[number];
            let (at, ends) = (fault.at.0, fault.lasts.map(|lasts| fault.at.0 + lasts.0));
            run.plan(at, Step::Begin(number));
            if let Some(ends) = ends {
                run.plan(ends, Step::End(number));
            }
        }
        run.plan(LOOK, Step::Look);
        run.plan(Duration::from_secs(1), Step::Second);
        if run.scenario.fleet.is_some() {
            run.plan(HEAR, Step::Hear);
            run.plan(REST, Step::Rest);
        }
        Ok(run)
    }

    /// Runs to the end, or to the first violation.
    pub fn finish(self, stop_early: bool) -> Report {
        self.finish_telling(stop_early, |_| {})
    }

    /// The same; says how much virtual time has passed, now and then.
    pub fn finish_telling(mut self, stop_early: bool, mut told: impl FnMut(Duration)) -> Report {
        while self.advance() && !(stop_early && self.oracles.first_violation().is_some()) {
            told(self.stage.world.now().since(Instant::ZERO));
        }
        let hosts = self.stage.world.hosts().len();
        let ended = self.stage.world.now() >= self.end;
        if ended {
            self.oracles.note_quiet_end(&self.stage);
            self.oracles.judge_digests(&self.stage);
        }
        Report {
            trace_hash: format!("{:016x}", self.stage.world.trace_hash()),
            hosts,
            seed: self.scenario.seed,
            faults: self.scenario.fault.len(),
            virtual_seconds: self.stage.world.now().as_nanos() as f64 / 1e9,
            wall_seconds: 0.0,
            events: self.stage.world.delivered(),
            fleet: self.oracles.figures(&self.stage),
            oracles: self.oracles.outcomes(hosts),
        }
    }

    /// Runs up to the next step and takes it. False at the end.
    pub fn advance(&mut self) -> bool {
        let next = self.agenda.first_key_value().map(|((at, _), _)| *at).filter(|at| *at <= self.end);
        let until = next.unwrap_or(self.end);
        while self.stage.world.step(until) {
            self.oracles.observe(&mut self.stage);
        }
        if next.is_none() {
            return false;
        }
        if let Some((_, step)) = self.agenda.pop_first() {
            self.take(step);
        }
        true
    }

    fn plan(&mut self, at: Duration, step: Step) {
        self.planned += 1;
        self.agenda.insert((Instant::ZERO + at, self.planned), step);
    }

    fn after(&mut self, span: Duration, step: Step) {
        self.plan(self.stage.world.now().since(Instant::ZERO) + span, step);
    }

    fn take(&mut self, step: Step) {
        if matches!(step, Step::Start(_) | Step::Begin(_) | Step::End(_)) {
            self.oracles.note_quiet_end(&self.stage);
        }
        match step {
            Step::Start(host) => {
                self.stage.start(host);
                self.changed();
            }
            Step::Begin(number) => {
                self.oracles.begins(&self.stage, &self.actions[number]);
                self.stage.begin(number, &self.actions[number]);
                self.changed();
            }
            Step::End(number) => {
                self.stage.end(number);
                self.oracles.ends(&self.stage, &self.actions[number]);
                self.changed();
            }
            Step::Look => {
                self.oracles.look_for_agreement(&self.stage);
                self.oracles.measure_deaths(&self.stage, &mut self.deaths);
                self.after(LOOK, Step::Look);
            }
            Step::Second => {
                self.oracles.judge_rates(&self.stage);
                self.oracles.count_bytes(&self.stage);
                self.after(Duration::from_secs(1), Step::Second);
            }
            Step::Hear => {
                self.oracles.hear(&self.stage);
                self.after(HEAR, Step::Hear);
            }
            Step::Rest => {
                self.stage.world.rest();
                self.after(REST, Step::Rest);
            }
            Step::Death(host, since) => self.oracles.judge_death(&self.stage, host, since),
        }
    }

    /// The oracles learn that something began or ended.
    fn changed(&mut self) {
        let disturbs = |action: &Action| {
            matches!(
                action,
                Action::Pause(..)
                    | Action::Slow(..)
                    | Action::Cut(..)
                    | Action::Pair(..)
                    | Action::Part(_)
                    | Action::Switch(..)
                    | Action::Loss(..)
            )
        };
        let quiet = !self.stage.active().any(disturbs);
        self.oracles.changed(&self.stage, quiet);
        let hosts = self.stage.world.hosts().len();
        for (host, since) in self.oracles.new_deaths(&self.stage) {
            if !self.deaths.contains(&(host, since)) {
                self.deaths.push((host, since));
                self.after(down_within(hosts), Step::Death(host, since));
            }
        }
    }
}

/// How long a run must go on after its last fault for every oracle to speak.
pub fn quiet_end(hosts: usize) -> Duration {
    agree_within(hosts) + Duration::from_secs(2)
}
