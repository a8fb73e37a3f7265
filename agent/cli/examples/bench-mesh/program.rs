//! A program that keeps a membership: what a bench does to its agents.

/// One agent for each host of a lab, of which none runs at first. Hosts are counted from 0.
pub(crate) trait Program {
    /// As the tables call it.
    fn name(&self) -> &'static str;
    /// Starts the agent of a host, which does not run.
    fn start(&mut self, host: usize) -> Result<(), String>;
    /// Ends the agent of a host by SIGKILL; returns when it has ended. One that does not run is no error.
    fn kill(&mut self, host: usize) -> Result<(), String>;
    /// Of an agent that runs.
    fn pid(&self, host: usize) -> Result<u32, String>;
    /// Whether it says what becomes of uplink A.
    fn tells_of_uplinks(&self) -> bool;
    /// Opens or closes what costs the agents time and is only there to observe them.
    fn observe(&mut self, open: bool);
}

/// The lab's name of a host.
pub(crate) fn name(host: usize) -> String {
    format!("h{}", host + 1)
}

/// The number of a host with one of the lab's names.
pub(crate) fn number(name: &str) -> Option<usize> {
    name.strip_prefix('h')?.parse::<usize>().ok()?.checked_sub(1)
}
