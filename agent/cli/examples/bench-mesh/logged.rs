//! Programs that are observed by their logs: one process in the namespace of each host, whose lines are news.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use ringmesh_agentd::lab::HostStatus;

use crate::{
    program::{Program, name},
    watch::{Teller, What},
};

/// Held while a process is started, and for ever by whoever clears up.
static STARTING: Mutex<()> = Mutex::new(());

/// Lets no more processes be started, so that none escapes from being cleared up.
pub(crate) fn start_no_more() {
    std::mem::forget(starting());
}

fn starting() -> MutexGuard<'static, ()> {
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What tells one such program from another.
pub(crate) trait Dialect: Send + Clone + 'static {
    /// As the tables call it.
    const NAME: &'static str;
    /// Whether it logs what becomes of uplink A.
    const TELLS_OF_UPLINKS: bool;
    /// The agent of a host, its log going to its piped standard output.
    fn command(&self, index: usize, host: &HostStatus) -> Command;
    /// What a line says.
    fn parse(line: &str) -> Vec<What>;
}

/// Agents that run until they are killed or this is dropped.
pub(crate) struct Logged<D> {
    dialect: D,
    hosts: Vec<HostStatus>,
    teller: Teller,
    agents: Vec<Option<(Child, thread::JoinHandle<()>)>>,
}

impl<D: Dialect> Logged<D> {
    pub(crate) fn new(dialect: D, hosts: Vec<HostStatus>, teller: Teller) -> Self {
        let agents = hosts.iter().map(|_| None).collect();
        Self { dialect, hosts, teller, agents }
    }
}

impl<D: Dialect> Program for Logged<D> {
    fn name(&self) -> &'static str {
        D::NAME
    }

    fn start(&mut self, host: usize) -> Result<(), String> {
        let mut command = self.dialect.command(host, &self.hosts[host]);
        let failed = |error| format!("start {} on {}: {error}", D::NAME, name(host));
        let starting = starting();
        let mut child = command.spawn().map_err(failed)?;
        drop(starting);
        let log = BufReader::new(child.stdout.take().expect("it is piped"));
        let teller = self.teller.clone();
        teller.tell(host, What::Reset, "it is started");
        let reader = thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                for what in D::parse(&line) {
                    teller.tell(host, what, &line);
                }
            }
        });
        self.agents[host] = Some((child, reader));
        Ok(())
    }

    fn kill(&mut self, host: usize) -> Result<(), String> {
        let Some((mut child, reader)) = self.agents[host].take() else { return Ok(()) };
        let killed = child.kill().and_then(|()| child.wait());
        killed.map_err(|error| format!("kill {} on {}: {error}", D::NAME, name(host)))?;
        // Its end of the pipe is closed, so this ends; later lines would be taken for those of its successor.
        reader.join().map_err(|_| format!("the reader of the log of {} failed", name(host)))
    }

    fn pid(&self, host: usize) -> Result<u32, String> {
        let none = || format!("{} does not run on {}", D::NAME, name(host));
        self.agents[host].as_ref().map(|(child, _)| child.id()).ok_or_else(none)
    }

    fn tells_of_uplinks(&self) -> bool {
        D::TELLS_OF_UPLINKS
    }

    fn observe(&mut self, _open: bool) {}
}

impl<D> Drop for Logged<D> {
    fn drop(&mut self) {
        for (child, _) in self.agents.iter_mut().flatten() {
            // One that has ended is what is wanted; the lab's `down` finds what is left in its namespaces.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
