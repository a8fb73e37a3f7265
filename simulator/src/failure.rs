//! A failure on file: the scenario with all its faults as data, the oracle that failed, and what it said.

use serde::{Deserialize, Serialize};

use crate::{
    run::{Report, Run},
    scenario::{Problem, Scenario},
};

/// What `replay` and `shrink` read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Of the program that found it: another one may run otherwise.
    pub version: String,
    /// The oracle that failed first.
    pub oracle: String,
    /// What it said.
    pub detail: String,
    /// Of that run.
    pub trace_hash: String,
    /// Everything that happens in it.
    pub scenario: Scenario,
}

impl Failure {
    /// The failure of a run that was stopped at its first violation; none if there was none.
    pub fn of(scenario: &Scenario, report: &Report) -> Option<Self> {
        let outcome = report.failed().next()?;
        Some(Self {
            version: env!("CARGO_PKG_VERSION").into(),
            oracle: outcome.name.clone(),
            detail: outcome.detail.clone(),
            trace_hash: report.trace_hash.clone(),
            scenario: scenario.expanded(),
        })
    }

    /// Runs a scenario to its first violation.
    pub fn find(scenario: &Scenario) -> Result<Option<Self>, Problem> {
        Ok(Self::of(scenario, &Run::new(scenario)?.finish(true)))
    }

    /// A name for its file.
    pub fn file_name(&self) -> String {
        format!("fail-{}-{}-hosts-seed-{}.json", self.oracle, self.scenario.hosts, self.scenario.seed)
    }
}
