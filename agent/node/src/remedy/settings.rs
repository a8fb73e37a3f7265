//! How containers are repaired, as the operator configured it: checked, and the same for the life of the agent.

use std::{collections::BTreeMap, time::Duration};

use super::{budget::Limits, pool::Pool};
use crate::health::spec::has_labels;

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Of containers with all of these labels; the first that matches counts.
    pub policies: Vec<(BTreeMap<String, String>, Policy)>,
    /// Of all others.
    pub default: Policy,
    /// Beyond these repair stops.
    pub limits: Limits,
    /// Addresses for clones.
    pub pools: Vec<Pool>,
}

impl Settings {
    /// For a container with these labels.
    pub fn policy(&self, labels: &BTreeMap<String, String>) -> &Policy {
        self.policies
            .iter()
            .find(|(selector, _)| has_labels(labels, selector))
            .map_or(&self.default, |(_, policy)| policy)
    }
}

/// What is done to a container that is sick, and who decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Who decides.
    pub mode: Mode,
    /// The ladder, from the mildest.
    pub steps: Vec<Step>,
    /// A container that was well for so long begins at the foot of the ladder again.
    pub quiet: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        let steps = [Rung::RestartService, Rung::RestartContainer, Rung::Clone, Rung::Freeze].map(Step::of);
        Self { mode: Mode::Automatic, steps: steps.to_vec(), quiet: Duration::from_secs(600) }
    }
}

impl Policy {
    /// The step of this kind, or as it is by default.
    pub fn step(&self, rung: Rung) -> Step {
        self.steps.iter().copied().find(|step| step.rung == rung).unwrap_or_else(|| Step::of(rung))
    }
}

/// Who decides about an action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The agent.
    #[default]
    Automatic,
    /// An operator: it is proposed, and waits for approval.
    Manual,
    /// Nobody: nothing is done or proposed.
    Off,
}

/// One rung and how it is climbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub rung: Rung,
    /// So often, before the next one.
    pub attempts: u32,
    /// The container is well so soon after it was done, or it has failed.
    pub timeout: Duration,
    /// Before the second attempt, or the next rung; twice as long before each further attempt.
    pub back_off: Duration,
}

impl Step {
    /// A step as it is unless it is configured.
    pub fn of(rung: Rung) -> Self {
        Self { rung, attempts: 2, timeout: Duration::from_secs(20), back_off: Duration::from_secs(1) }
    }
}

/// What can be done to a container that is sick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Run the restart command of the service that fails.
    RestartService,
    /// Kill the container and make it anew.
    RestartContainer,
    /// Remove it, and start another of the same template.
    Clone,
    /// Pause it for an operator to look at.
    Freeze,
}

impl Rung {
    /// As in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::RestartService => "restart-service",
            Self::RestartContainer => "restart-container",
            Self::Clone => "clone",
            Self::Freeze => "freeze",
        }
    }
}
