//! What serf logs of its members.

use std::{path::PathBuf, process::Command};

use ringmesh_agentd::lab::HostStatus;

use crate::{bench, logged::Dialect, program::number, watch::What};

/// serf with its defaults for local networks, on uplink A.
#[derive(Clone)]
pub(crate) struct Serf {
    /// The program.
    pub(crate) program: PathBuf,
}

impl Dialect for Serf {
    const NAME: &'static str = "serf";
    const TELLS_OF_UPLINKS: bool = false;

    fn command(&self, index: usize, host: &HostStatus) -> Command {
        bench::serf::command(&self.program, index, host)
    }

    fn parse(line: &str) -> Vec<What> {
        let of = |event| bench::serf::subject(line, event).and_then(number);
        let joined = of("EventMemberJoin").map(|host| What::Sees(host, true));
        let failed = of("EventMemberFailed").map(What::Failed);
        let gone = of("EventMemberLeave").or_else(|| of("EventMemberReap")).map(|host| What::Sees(host, false));
        joined.into_iter().chain(failed).chain(gone).collect()
    }
}
