//! serf agents with their defaults, for a comparison: one in each network namespace of a lab, on uplink A.
//!
//! The namespaces and addresses are the lab's (`up-a` is 10.77.0.N at host hN); its own agents must be dead by then.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    path::Path,
    process::Child,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use ringmesh_agentd::lab::HostStatus;

use crate::bench::serf;

/// The interface that serf uses.
pub(crate) const INTERFACE: &str = "up-a";

/// Log lines that wait while nobody asks; serf at rest logs some lines a minute.
const BOUND: usize = 8192;

/// Agents that run until this is dropped.
pub(crate) struct Serf<'a> {
    program: &'a Path,
    agents: Vec<(HostStatus, Child)>,
    /// When an agent logged what.
    lines: mpsc::Receiver<(Instant, usize, String)>,
    logs: mpsc::SyncSender<(Instant, usize, String)>,
}

impl<'a> Serf<'a> {
    /// Starts an agent for each host and waits until each sees all.
    pub(crate) fn up(program: &'a Path, hosts: &[HostStatus]) -> Result<Self, String> {
        let (logs, lines) = mpsc::sync_channel(BOUND);
        let mut serf = Self { program, agents: Vec::new(), lines, logs };
        for (index, host) in hosts.iter().enumerate() {
            let child = serf.spawn(index, host)?;
            serf.agents.push((host.clone(), child));
        }
        let all: Vec<_> = (0..hosts.len()).collect();
        let names: Vec<_> = hosts.iter().map(|host| host.name.as_str()).collect();
        serf.until(&all, "EventMemberJoin", &names, Duration::from_secs(30))?;
        Ok(serf)
    }

    /// Of the agents, in the order of the hosts.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.agents.iter().map(|(_, child)| child.id()).collect()
    }

    /// Ends an agent by SIGKILL, waits until all others log that it failed, and starts it again. Returns how long each
    /// of the others took.
    pub(crate) fn kill(&mut self, victim: usize) -> Result<Vec<Duration>, String> {
        let others: Vec<_> = (0..self.agents.len()).filter(|index| *index != victim).collect();
        let (host, child) = &mut self.agents[victim];
        let host = host.clone();
        let start = Instant::now();
        child.kill().and_then(|()| child.wait()).map_err(|error| format!("kill serf on {}: {error}", host.name))?;
        let told = self.until(&others, "EventMemberFailed", &[&host.name], Duration::from_secs(60))?;
        self.agents[victim].1 = self.spawn(victim, &host)?;
        self.until(&others, "EventMemberJoin", &[&host.name], Duration::from_secs(30))?;
        Ok(told.into_iter().map(|at| at.saturating_duration_since(start)).collect())
    }

    fn spawn(&self, index: usize, host: &HostStatus) -> Result<Child, String> {
        let failed = |error| format!("start serf on {}: {error}", host.name);
        let mut child = serf::command(self.program, index, host).spawn().map_err(failed)?;
        let log = BufReader::new(child.stdout.take().expect("it is piped"));
        let logs = self.logs.clone();
        thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                // Beyond the bound a line is lost, and the wait for it tells so.
                let _ = logs.try_send((Instant::now(), index, line));
            }
        });
        Ok(child)
    }

    /// Waits until each agent of `who` has logged `event` for all of `names`; returns when each had.
    fn until(&self, who: &[usize], event: &str, names: &[&str], within: Duration) -> Result<Vec<Instant>, String> {
        let deadline = Instant::now() + within;
        let mut awaited: BTreeSet<_> = who.iter().flat_map(|index| names.iter().map(|name| (*index, *name))).collect();
        let mut told = Vec::new();
        while !awaited.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let (at, index, line) = self.lines.recv_timeout(left).map_err(|_| {
                let who = awaited.iter().map(|(index, _)| index).collect::<BTreeSet<_>>().len();
                format!("{who} serf agents logged no {event} within {} s", within.as_secs())
            })?;
            let subject = serf::subject(&line, event);
            let Some(name) = names.iter().find(|name| subject == Some(**name)) else { continue };
            if awaited.remove(&(index, *name)) && !awaited.iter().any(|(other, _)| *other == index) {
                told.push(at);
            }
        }
        Ok(told)
    }
}

impl Drop for Serf<'_> {
    fn drop(&mut self) {
        for (_, child) in &mut self.agents {
            // One that has ended is what is wanted; the lab's `down` finds what is left in its namespaces.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
