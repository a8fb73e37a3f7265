//! Which trials there are, and in which round each is made.

use std::fmt;

use crate::Arguments;

/// A kind of trial; the table has rows for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Case {
    Idle,
    Kill,
    Cut,
    /// For so many seconds.
    Pause(u64),
    Isolate,
    /// So many agents.
    Stall(usize),
}

/// What `--cases` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Named {
    Idle,
    Kill,
    Cut,
    Pause,
    Isolate,
    Stall,
}

/// One trial. The hosts to which something is done differ from trial to trial.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) case: Case,
    /// Its place among those of its case, from 0.
    pub(crate) nth: usize,
    pub(crate) victims: Vec<usize>,
}

/// How many are stalled, as far as somebody is left to be accused.
pub(crate) fn stalled(hosts: usize) -> Vec<usize> {
    [1, 4, 8].into_iter().filter(|count| count + 2 <= hosts).collect()
}

/// The trials of each round, in their order: what disturbs most comes last.
pub(crate) fn rounds(arguments: &Arguments) -> Vec<Vec<Planned>> {
    let hosts = usize::from(arguments.hosts);
    let mut cases = vec![(Case::Idle, arguments.rounds), (Case::Kill, arguments.kills), (Case::Cut, arguments.cuts)];
    cases.extend([3, 8].map(|seconds| (Case::Pause(seconds), arguments.pauses)));
    cases.push((Case::Isolate, arguments.isolations));
    cases.extend(stalled(hosts).into_iter().map(|count| (Case::Stall(count), 1)));
    cases.retain(|(case, _)| arguments.cases.contains(&case.named()));
    let mut rounds = vec![Vec::new(); arguments.rounds];
    let mut singles = 0;
    for (case, count) in cases {
        // Those that are made once are dealt out too.
        let first = if count == 1 { singles } else { 0 };
        singles += usize::from(count == 1);
        for nth in 0..count {
            let amount = if let Case::Stall(count) = case { count } else { 1 };
            // Neighbours in number are none in particular in the rings; the step visits all hosts in turn.
            let victims = (0..amount).map(|i| (1 + nth * 7 + i * hosts / amount) % hosts).collect();
            rounds[(first + nth) % arguments.rounds].push(Planned { case, nth, victims });
        }
    }
    rounds
}

impl Case {
    fn named(self) -> Named {
        match self {
            Self::Idle => Named::Idle,
            Self::Kill => Named::Kill,
            Self::Cut => Named::Cut,
            Self::Pause(_) => Named::Pause,
            Self::Isolate => Named::Isolate,
            Self::Stall(_) => Named::Stall,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("idle"),
            Self::Kill => f.write_str("kill"),
            Self::Cut => f.write_str("cut"),
            Self::Pause(seconds) => write!(f, "pause of {seconds} s"),
            Self::Isolate => f.write_str("isolation"),
            Self::Stall(count) => write!(f, "{count} stalled"),
        }
    }
}
