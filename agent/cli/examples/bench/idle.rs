//! What agents need when nothing happens: memory, processor time, wake-ups, traffic.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    process::{self, Memory, Sent},
    sample::Sample,
};

const MB: f64 = 1e6;

/// What agents are and do when nothing happens. An agent and its exec-runner count together, except where said.
pub(crate) struct Idle {
    /// In MB.
    pub(crate) rss: Sample,
    /// RSS of agents without what they run, in MB.
    pub(crate) alone: Sample,
    /// In MB.
    pub(crate) pss: Sample,
    /// In MB.
    pub(crate) anonymous: Sample,
    /// Percent of a core.
    pub(crate) cpu: Sample,
    /// Of an agent's threads, a second.
    pub(crate) waits: f64,
    /// Of an agent.
    pub(crate) threads: f64,
    /// Bytes and frames a second that one agent's host sends on each interface, in their order.
    pub(crate) traffic: Vec<(f64, f64)>,
}

impl Idle {
    /// Waits for `settle` seconds and counts for `window` seconds. `interfaces` are those of each agent's namespace.
    pub(crate) fn measure(settle: u64, window: u64, agents: &[u32], interfaces: &[&str]) -> Result<Self, String> {
        eprintln!("    settles for {settle} s, is measured for {window} s");
        thread::sleep(Duration::from_secs(settle));
        let read = || -> std::io::Result<(Vec<f64>, u64, Vec<Sent>)> {
            let cpu = |pid: &u32| {
                process::kin(*pid)?.iter().chain([pid]).try_fold(0.0, |sum, pid| Ok(sum + process::cpu_seconds(*pid)?))
            };
            let cpu = agents.iter().map(cpu).collect::<std::io::Result<_>>()?;
            let waits = agents.iter().try_fold(0, |sum, pid| process::waits(*pid).map(|waits| sum + waits))?;
            let each = interfaces.iter().map(|interface| {
                agents.iter().try_fold(Sent::default(), |sum, pid| {
                    let sent = process::sent(*pid, interface)?;
                    Ok(Sent { bytes: sum.bytes + sent.bytes, packets: sum.packets + sent.packets })
                })
            });
            Ok((cpu, waits, each.collect::<std::io::Result<_>>()?))
        };
        let count = agents.len() as f64;
        let measured = || -> std::io::Result<Option<Self>> {
            let start = Instant::now();
            let before = read()?;
            thread::sleep(Duration::from_secs(window));
            let after = read()?;
            let seconds = start.elapsed().as_secs_f64();
            let memory = agents.iter().map(|pid| process::memory(*pid)).collect::<std::io::Result<Vec<_>>>()?;
            let mut kin = Vec::new();
            for pid in agents {
                let each = process::kin(*pid)?.into_iter().map(process::memory);
                kin.push(each.sum::<std::io::Result<Memory>>()?);
            }
            let threads = agents.iter().try_fold(0, |sum, pid| process::threads(*pid).map(|threads| sum + threads))?;
            let cpu = after.0.iter().zip(&before.0).map(|(after, before)| (after - before) / seconds * 100.0);
            let both = |of: fn(&Memory) -> u64| {
                Sample::new(memory.iter().zip(&kin).map(|(agent, kin)| (of(agent) + of(kin)) as f64 / MB))
            };
            let traffic = after.2.iter().zip(&before.2).map(|(after, before)| {
                let sent = *after - *before;
                (sent.bytes as f64 / seconds / count, sent.packets as f64 / seconds / count)
            });
            Ok((|| {
                Some(Self {
                    rss: both(|memory| memory.rss)?,
                    alone: Sample::new(memory.iter().map(|memory| memory.rss as f64 / MB))?,
                    pss: both(|memory| memory.pss)?,
                    anonymous: both(|memory| memory.anonymous)?,
                    cpu: Sample::new(cpu)?,
                    waits: after.1.saturating_sub(before.1) as f64 / seconds / count,
                    threads: threads as f64 / count,
                    traffic: traffic.collect(),
                })
            })())
        };
        let idle = measured().map_err(|error| format!("measure idle agents: {error}"))?;
        idle.ok_or_else(|| "there are no agents to measure".to_owned())
    }

    /// Bytes and frames a second on all interfaces.
    pub(crate) fn sent(&self) -> (f64, f64) {
        self.traffic.iter().fold((0.0, 0.0), |(bytes, frames), (b, f)| (bytes + b, frames + f))
    }
}
