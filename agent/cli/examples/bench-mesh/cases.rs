//! What happens to the agents of a program in a trial, and what their news say about it.
//!
//! Every trial begins and ends with all agents seeing all well. A failure event about a host to which the trial does
//! nothing is false, whoever says it.

use std::{
    collections::BTreeSet,
    fmt,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ringmesh_agentd::lab::Fault;
use ringmesh_proto::Uplink;

use crate::{
    bench::{
        idle::Idle,
        lab::{Lab, UPLINKS},
    },
    program::{Program, name},
    watch::{News, Watch, What},
};

/// How long any program may take to see what happened, or to see all well again.
const LONG: Duration = Duration::from_secs(180);

/// How long nothing happens at the end of a trial before it is taken for its end.
const CALM: Duration = Duration::from_secs(3);

/// How long agents are stopped at a time, and run between: those of the Lifeguard paper.
const STOPPED: Duration = Duration::from_secs(8);
const OPEN: Duration = Duration::from_millis(64);

/// How long a host is cut off.
const ISOLATED: Duration = Duration::from_secs(30);

/// False failure events of one trial whose words are kept.
const MAX_TEXTS: usize = 8;

/// The agents of one program, all running.
pub(crate) struct Agents<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) hosts: usize,
    pub(crate) program: Box<dyn Program + 'a>,
    pub(crate) watch: Watch,
}

/// Failure events about hosts that were well, in one trial.
#[derive(Default)]
pub(crate) struct False {
    /// Said by hosts that were well too.
    pub(crate) at_well: usize,
    /// Said by those to which the trial did something.
    pub(crate) at_sick: usize,
    /// The first of them, in the program's words.
    pub(crate) texts: Vec<String>,
}

/// What a trial showed; durations in seconds.
pub(crate) struct Outcome {
    /// Until the first and the last of the others knew; `None` when that was not awaited.
    pub(crate) known: Option<(f64, f64)>,
    /// From the end of what was done until all agents saw all well.
    pub(crate) well_again: f64,
    /// How many of the others said that a host failed to which something was done.
    pub(crate) declared: usize,
    /// Memberships that were formed anew, and failure events, at all agents.
    pub(crate) changes: usize,
    pub(crate) false_events: False,
    /// What the program gives as its reason for the last failure that it rightly tells of, if it gives any.
    reason: Option<String>,
    /// Whose view of whom was the last to become well.
    last_view: Option<(usize, usize)>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((first, last)) = self.known {
            write!(f, "known after {first:.2} to {last:.2} s, ")?;
        }
        write!(f, "declared failed by {}, {} changes, ", self.declared, self.changes)?;
        let False { at_well, at_sick, texts } = &self.false_events;
        write!(f, "one view after {:.2} s", self.well_again)?;
        if let Some((observer, host)) = self.last_view {
            write!(f, " ({} of {} last)", name(observer), name(host))?;
        }
        write!(f, ", false: {at_well} at the well, {at_sick} at the sick")?;
        if let Some(reason) = &self.reason {
            write!(f, "\n      {reason}")?;
        }
        texts.iter().try_for_each(|text| write!(f, "\n      {text}"))
    }
}

impl Agents<'_> {
    /// Starts all agents and returns how long it took until each saw all, in seconds.
    pub(crate) fn up(&mut self) -> Result<f64, String> {
        let start = Instant::now();
        self.program.observe(true);
        for host in 0..self.hosts {
            self.program.start(host)?;
        }
        let mut trial = Trial::new(self, &[]);
        trial.until_well(start)
    }

    /// Ends all agents.
    pub(crate) fn down(&mut self) -> Result<(), String> {
        self.program.observe(false);
        (0..self.hosts).try_for_each(|host| self.program.kill(host))
    }

    pub(crate) fn idle(&mut self, settle: u64, window: u64) -> Result<Idle, String> {
        let pids = (0..self.hosts).map(|host| self.program.pid(host)).collect::<Result<Vec<_>, _>>()?;
        self.program.observe(false);
        let idle = Idle::measure(settle, window, &pids, &UPLINKS);
        self.program.observe(true);
        Trial::new(self, &[]).until_well(Instant::now())?;
        idle
    }

    /// Ends an agent by SIGKILL, waits until all others know, and starts it again.
    pub(crate) fn kill(&mut self, victim: usize) -> Result<Outcome, String> {
        let start = Instant::now();
        self.program.kill(victim)?;
        let mut trial = Trial::new(self, &[victim]);
        let known = trial.until_all(start, &format!("that {} failed", name(victim)), &What::Failed(victim))?;
        let end = Instant::now();
        trial.agents.program.start(victim)?;
        trial.outcome(Some(known), end)
    }

    /// Cuts uplink A of a host without its carrier, waits until all others know, and heals it.
    pub(crate) fn cut(&mut self, victim: usize) -> Result<Outcome, String> {
        let start = Instant::now();
        self.lab.fault(&Fault::CutUplink { host: name(victim), uplink: Uplink::A })?;
        // The victim is no excuse: it is to be called failed by nobody.
        let mut trial = Trial::new(self, &[]);
        trial.spared = Some(victim);
        let what = format!("uplink a of {} is down", name(victim));
        let known = trial.until_all(start, &what, &What::UplinkA(victim, false));
        let end = Instant::now();
        trial.agents.lab.fault(&Fault::Heal { host: name(victim) })?;
        let known = known?;
        let what = format!("uplink a of {} is up", name(victim));
        trial.until_all(end, &what, &What::UplinkA(victim, true))?;
        trial.outcome(Some(known), end)
    }

    /// Stops an agent for a time.
    pub(crate) fn pause(&mut self, victim: usize, seconds: u64) -> Result<Outcome, String> {
        let stopped = Stopped::new(self, &[victim])?;
        let mut trial = Trial::new(self, &[victim]);
        stopped.stop()?;
        trial.listen(Instant::now() + Duration::from_secs(seconds), |_| false)?;
        let end = Instant::now();
        drop(stopped);
        trial.outcome(None, end)
    }

    /// Cuts a host off for 30 s.
    pub(crate) fn isolate(&mut self, victim: usize) -> Result<Outcome, String> {
        self.lab.fault(&Fault::Isolate { host: name(victim) })?;
        let mut trial = Trial::new(self, &[victim]);
        let listened = trial.listen(Instant::now() + ISOLATED, |_| false);
        let end = Instant::now();
        trial.agents.lab.fault(&Fault::Heal { host: name(victim) })?;
        listened?;
        trial.outcome(None, end)
    }

    /// Stops agents for 8 s and lets them run for 64 ms, again and again, for so many seconds.
    pub(crate) fn stall(&mut self, victims: &[usize], seconds: u64) -> Result<Outcome, String> {
        let stopped = Stopped::new(self, victims)?;
        let mut trial = Trial::new(self, victims);
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            stopped.stop()?;
            trial.listen(end.min(Instant::now() + STOPPED), |_| false)?;
            stopped.go_on();
            trial.listen(Instant::now() + OPEN, |_| false)?;
        }
        let end = Instant::now();
        drop(stopped);
        trial.outcome(None, end)
    }
}

/// Agents that are stopped now and then, and go on when this is dropped.
struct Stopped(Vec<Pid>);

impl Stopped {
    fn new(agents: &Agents<'_>, hosts: &[usize]) -> Result<Self, String> {
        let pid = |host: &usize| agents.program.pid(*host).map(|pid| Pid::from_raw(pid.cast_signed()));
        hosts.iter().map(pid).collect::<Result<_, _>>().map(Self)
    }

    fn stop(&self) -> Result<(), String> {
        let stop = |pid: &Pid| kill(*pid, Signal::SIGSTOP).map_err(|error| format!("stop process {pid}: {error}"));
        self.0.iter().try_for_each(stop)
    }

    fn go_on(&self) {
        for pid in &self.0 {
            // One that has ended meanwhile is missed by those who wait for all to be well.
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.go_on();
    }
}

/// Listens to the news of one trial and judges them.
struct Trial<'t, 'a> {
    agents: &'t mut Agents<'a>,
    start: Instant,
    sick: BTreeSet<usize>,
    /// Is not awaited when all others are, in addition to the sick.
    spared: Option<usize>,
    /// Since when all see all well; `None` while they do not.
    well_since: Option<Instant>,
    /// When somebody last said anything of members.
    last: Instant,
    declared: BTreeSet<(usize, usize)>,
    changes: usize,
    false_events: False,
    /// Who said what falsely the last time.
    told: Option<(usize, String)>,
    reason: Option<String>,
    last_view: Option<(usize, usize)>,
}

impl<'t, 'a> Trial<'t, 'a> {
    fn new(agents: &'t mut Agents<'a>, sick: &[usize]) -> Self {
        let well_since = agents.watch.whole().then(Instant::now);
        Self {
            agents,
            start: Instant::now(),
            sick: sick.iter().copied().collect(),
            spared: None,
            well_since,
            last: Instant::now(),
            declared: BTreeSet::new(),
            changes: 0,
            false_events: False::default(),
            told: None,
            reason: None,
            last_view: None,
        }
    }

    /// Takes in news until the deadline or until `enough` says so of one; returns whether it did.
    fn listen(&mut self, deadline: Instant, mut enough: impl FnMut(&News) -> bool) -> Result<bool, String> {
        while let Some(news) = self.agents.watch.next(deadline)? {
            self.take(&news);
            if enough(&news) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn take(&mut self, news: &News) {
        match news.what {
            What::Failed(host) if self.sick.contains(&host) => {
                self.changes += 1;
                if !self.sick.contains(&news.observer) {
                    self.declared.insert((news.observer, host));
                }
            }
            What::Failed(_) => {
                self.changes += 1;
                self.accuse(news);
            }
            What::Formed => self.changes += 1,
            What::Sees(host, false) if self.sick.contains(&host) && !news.text.is_empty() => {
                self.reason = Some(format!("{} of {}: {}", name(news.observer), name(host), news.text));
            }
            What::Reset | What::Forming | What::Sees(..) | What::UplinkA(..) => {}
        }
        if matches!(news.what, What::Failed(_) | What::Forming | What::Formed | What::Sees(..)) {
            self.last = news.at;
        }
        match (self.agents.watch.whole(), self.well_since) {
            (false, _) => self.well_since = None,
            (true, None) => {
                self.well_since = Some(news.at);
                self.last_view = if let What::Sees(host, _) = news.what { Some((news.observer, host)) } else { None };
            }
            (true, Some(_)) => {}
        }
    }

    fn accuse(&mut self, news: &News) {
        let sick = self.sick.contains(&news.observer);
        let count = if sick { &mut self.false_events.at_sick } else { &mut self.false_events.at_well };
        *count += 1;
        // One line of a log may tell of many hosts.
        let told = self.told.replace((news.observer, news.text.clone()));
        let again = told.is_some_and(|told| told == (news.observer, news.text.clone()));
        if !again && self.false_events.texts.len() < MAX_TEXTS {
            let kind = if sick { "sick" } else { "well" };
            let after = news.at.saturating_duration_since(self.start).as_secs_f64();
            self.false_events.texts.push(format!("after {after:.1} s {} ({kind}): {}", name(news.observer), news.text));
        }
    }

    /// Waits until all others have said `what`; returns after how many seconds the first and the last did.
    fn until_all(&mut self, start: Instant, meaning: &str, what: &What) -> Result<(f64, f64), String> {
        let mut awaited: BTreeSet<_> = (0..self.agents.hosts).collect();
        awaited.retain(|host| !self.sick.contains(host) && self.spared != Some(*host));
        let (all, mut first) = (awaited.len(), None);
        let mut last = start;
        let done = self.listen(start + LONG, |news| {
            if news.what == *what && news.at >= start && awaited.remove(&news.observer) {
                first.get_or_insert(news.at);
                last = news.at;
            }
            awaited.is_empty()
        })?;
        let since = |at: Instant| at.duration_since(start).as_secs_f64();
        let said = all - awaited.len();
        let problem = || format!("after {} s {said} of {all} agents say {meaning}", LONG.as_secs());
        done.then(|| (since(first.unwrap_or(last)), since(last))).ok_or_else(problem)
    }

    /// Waits until all see all well and nobody has said anything else for some time; returns how many seconds after
    /// `end` that began.
    fn until_well(&mut self, end: Instant) -> Result<f64, String> {
        let deadline = end + LONG;
        loop {
            let now = Instant::now();
            if let Some(since) = self.well_since
                && now >= since.max(end).max(self.last) + CALM
            {
                return Ok(since.saturating_duration_since(end).as_secs_f64());
            }
            if now >= deadline {
                return Err(format!("after {} s {}", LONG.as_secs(), self.agents.watch.lacking()));
            }
            let calm = self.well_since.map(|since| since.max(end).max(self.last) + CALM);
            self.listen(calm.unwrap_or(deadline).min(deadline), |_| true)?;
        }
    }

    fn outcome(mut self, known: Option<(f64, f64)>, end: Instant) -> Result<Outcome, String> {
        let well_again = self.until_well(end)?;
        let Self { declared, changes, false_events, reason, last_view, .. } = self;
        Ok(Outcome { known, well_again, declared: declared.len(), changes, false_events, reason, last_view })
    }
}
