//! Of very many containers: each failure is told, in time, to every host; nothing else is; and repair keeps within its bounds.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use ringmesh_node::remedy::{Act, Limits, base};
use ringmesh_proto::{Instant, peer::EventRecord, v1::event::Severity};
use serde::{Deserialize, Serialize};

use super::{Oracles, agree_within};
use crate::{
    HostIndex,
    fault::Action,
    fleet::{Fleet, How, container_name, number_of},
    stage::Stage,
    world::{id, name},
};

/// In which an event is at all hosts that are well, in a network that is. What was lost comes with a sync.
const SPREAD: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// So long after a fault of the network, or of hosts, the longer time is allowed.
const SETTLED: Duration = Duration::from_secs(10);

/// What was told as a number is told so soon after it was judged.
const GATHERED: Duration = Duration::from_millis(1500);

/// A failure may still be told so long after it was over, for repair goes on, and suspicions of cells.
const AFTERWARDS: Duration = Duration::from_secs(60);

/// Hosts that have just started are not yet those of the figures of bytes.
const WARM: Duration = Duration::from_secs(60);

/// What a run showed of the containers of its fleet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Of all hosts.
    pub containers: u64,
    /// Of which something was kept, at most at one time.
    pub awake_most: u64,
    /// In the end.
    pub awake: u64,
    /// Containers that began to fail.
    pub failures: u64,
    /// Events that hosts told of containers: by themselves, and as a number.
    pub told: u64,
    /// See `told`.
    pub told_as_numbers: u64,
    /// From a failure to its event at its own host, by what failed.
    pub detection: BTreeMap<String, Quantiles>,
    /// From an event to when the last host that is well has it, the network being well.
    pub spread: Quantiles,
    /// From a failure that was told by itself to when the last host has its event, by what failed.
    pub everywhere: BTreeMap<String, Quantiles>,
    /// Restarts and clones.
    pub repairs: u64,
    /// Bytes that a host sent in a second while all were well: the mean of all hosts, and that of the one that sent most.
    pub bytes_at_rest: (f64, f64),
    /// Seconds that those are from.
    pub seconds_at_rest: u64,
}

/// Of times, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Of how many.
    pub count: u64,
    /// The median.
    pub p50: f64,
    /// Nine of ten are not longer.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Quantiles {
    fn of(times: &[Duration]) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let at = |permille: usize| {
            let place = (sorted.len() * permille).div_ceil(1000).saturating_sub(1);
            sorted.get(place).map_or(0.0, Duration::as_secs_f64)
        };
        Self { count: sorted.len() as u64, p50: at(500), p90: at(900), p99: at(990), max: at(1000) }
    }
}

/// A container and what fails in it.
#[derive(Clone, Copy, Debug)]
struct Failure {
    how: How,
    since: Instant,
    /// When it was over.
    until: Option<Instant>,
    /// By when it must be told, if it must.
    due: Option<Instant>,
    told: bool,
}

/// An event on its way.
struct News {
    origin: HostIndex,
    life: u32,
    number: (u32, u32),
    at: Instant,
    /// Of the failure, if it was the first event of one.
    failed: Option<(How, Instant)>,
    /// Who has it still to hear.
    waiting: Vec<HostIndex>,
    /// The network is well all the while.
    quiet: bool,
}

/// What is known of the containers.
pub(super) struct Watch {
    fleet: Fleet,
    failures: BTreeMap<(HostIndex, u32), Failure>,
    frozen: BTreeSet<(HostIndex, u32)>,
    disarmed: BTreeSet<HostIndex>,
    disarmed_since: Option<Instant>,
    /// By host: the generation and number of the last event that was looked at.
    heard: Vec<(u32, u32)>,
    /// When each host last told a number.
    summed: Vec<Option<Instant>>,
    news: Vec<News>,
    acted: Vec<usize>,
    acts: Vec<VecDeque<Instant>>,
    acts_on: BTreeMap<(HostIndex, String), VecDeque<Instant>>,
    times: Times,
    figures: Figures,
    /// Nothing has begun or ended since then.
    unchanged: Instant,
    /// Nothing has begun or ended but faults of containers since then.
    undisturbed: Instant,
    sent: Vec<u64>,
    bytes: Vec<u64>,
    digests: u64,
}

/// What was measured.
#[derive(Default)]
struct Times {
    detection: BTreeMap<&'static str, Vec<Duration>>,
    everywhere: BTreeMap<&'static str, Vec<Duration>>,
    spread: Vec<Duration>,
}

impl Watch {
    pub(super) fn new(fleet: &Fleet, hosts: usize) -> Self {
        Self {
            fleet: fleet.clone(),
            failures: BTreeMap::new(),
            frozen: BTreeSet::new(),
            disarmed: BTreeSet::new(),
            disarmed_since: None,
            heard: vec![(0, 0); hosts],
            summed: vec![None; hosts],
            news: Vec::new(),
            acted: vec![0; hosts],
            acts: vec![VecDeque::new(); hosts],
            acts_on: BTreeMap::new(),
            times: Times::default(),
            figures: Figures::default(),
            unchanged: Instant::ZERO,
            undisturbed: Instant::ZERO,
            sent: vec![0; hosts],
            bytes: vec![0; hosts],
            digests: 0,
        }
    }

    fn changes(&mut self, now: Instant, action: &Action) {
        self.unchanged = now;
        if !matches!(action, Action::Ail(..) | Action::Freeze(_) | Action::Disarm(_) | Action::Sick(_)) {
            self.undisturbed = now;
        }
    }

    fn limits(&self) -> Limits {
        self.fleet.repair.as_ref().map(|repair| repair.limits()).unwrap_or_default()
    }

    pub(super) fn worth(&self, oracle: &str) -> String {
        let figures = &self.figures;
        match oracle {
            "containers" => format!(
                "{} failures of {} containers, told in {} events and {} numbers; none of a container that was well",
                figures.failures, figures.containers, figures.told, figures.told_as_numbers
            ),
            "repair" => format!("{} restarts and clones, within all bounds, none by a host cut off", figures.repairs),
            _ => format!("{} digests were the same at all hosts in the end", self.digests),
        }
    }
}

impl Oracles {
    /// To be called before something begins.
    pub(crate) fn begins(&mut self, stage: &Stage, action: &Action) {
        let Some(mut watch) = self.watch.take() else { return };
        let now = stage.world.now();
        watch.changes(now, action);
        #[allow(clippy::wildcard_enum_match_arm, reason = "the others are not of containers")]
        match action {
            Action::Ail(who, how, _) => {
                let within = watch.fleet.critical_within(*how);
                for who in who {
                    // What failed lately is perhaps critical still, or damped; what is frozen is not probed.
                    let fresh = !watch.failures.contains_key(who) && !watch.frozen.contains(who);
                    let sound = fresh && self.ledger.is_well(who.0, now) && stage.world.runs(who.0);
                    let due = within.filter(|_| sound).map(|within| now + within);
                    let failure = Failure { how: *how, since: now, until: None, due, told: false };
                    watch.figures.failures += u64::from(fresh);
                    let known = watch.failures.entry(*who).or_insert(failure);
                    known.until = None;
                }
            }
            Action::Sick(hosts) => {
                let fleet = &watch.fleet;
                let all = hosts.iter().flat_map(|host| (0..fleet.containers).map(|number| (*host, number)));
                for who in all.collect::<Vec<_>>() {
                    let failure = Failure { how: How::Wrong, since: now, until: None, due: None, told: false };
                    watch.figures.failures += u64::from(!watch.failures.contains_key(&who));
                    watch.failures.entry(who).or_insert(failure).until = None;
                }
            }
            Action::Freeze(who) => watch.frozen.extend(who.iter().copied()),
            Action::Disarm(hosts) => {
                watch.disarmed.extend(hosts);
                watch.disarmed_since = Some(now);
            }
            _ => {}
        }
        self.watch = Some(watch);
    }

    /// To be called after something has ended.
    pub(crate) fn ends(&mut self, stage: &Stage, action: &Action) {
        let Some(watch) = &mut self.watch else { return };
        let now = stage.world.now();
        watch.changes(now, action);
        let over = |watch: &mut Watch, who: (HostIndex, u32)| {
            #[allow(clippy::wildcard_enum_match_arm, reason = "the others are not of containers")]
            let still = |action: &Action| match action {
                Action::Ail(of, ..) => of.binary_search(&who).is_ok(),
                Action::Sick(hosts) => hosts.contains(&who.0),
                _ => false,
            };
            if let Some(failure) = watch.failures.get_mut(&who).filter(|_| !stage.active().any(still)) {
                failure.until = Some(now);
                // It may not have been critical yet.
                failure.due = failure.due.filter(|due| *due <= now);
            }
        };
        #[allow(clippy::wildcard_enum_match_arm, reason = "the others are not of containers")]
        match action {
            Action::Ail(who, ..) => who.iter().for_each(|who| over(watch, *who)),
            Action::Sick(hosts) => {
                for host in hosts {
                    (0..watch.fleet.containers).for_each(|number| over(watch, (*host, number)));
                }
            }
            Action::Freeze(who) => who.iter().for_each(|who| {
                watch.frozen.remove(who);
            }),
            Action::Disarm(hosts) => {
                hosts.iter().for_each(|host| {
                    watch.disarmed.remove(host);
                });
                watch.disarmed_since = watch.disarmed_since.filter(|_| !watch.disarmed.is_empty());
            }
            _ => {}
        }
    }

    /// Looks at what hosts have told, who has heard it, and what was done to containers.
    pub(crate) fn hear(&mut self, stage: &Stage) {
        let Some(mut watch) = self.watch.take() else { return };
        let now = stage.world.now();
        for host in stage.world.hosts() {
            self.hear_of(&mut watch, stage, host);
            self.judge_acts(&mut watch, stage, host);
        }
        self.follow(&mut watch, stage);
        if now.as_nanos().is_multiple_of(1_000_000_000) {
            self.judge_due(&mut watch, stage);
            let awake = stage.world.hosts().map(|host| stage.world.awake(host) as u64).sum();
            watch.figures.awake = awake;
            watch.figures.awake_most = watch.figures.awake_most.max(awake);
            if stage.world.misjudged() > 0 {
                self.violated("containers", now, || {
                    format!("{} containers were not as quiet as was taken for granted", stage.world.misjudged())
                });
            }
        }
        self.watch = Some(watch);
    }

    fn hear_of(&mut self, watch: &mut Watch, stage: &Stage, host: HostIndex) {
        let (world, now) = (&stage.world, stage.world.now());
        let Some(node) = world.node(host) else { return };
        let told = node.events_of(id(host));
        let before = std::mem::replace(&mut watch.heard[host], told);
        if told == before {
            return;
        }
        let after = if told.0 == before.0 { before.1 } else { 0 };
        let well = self.ledger.is_well(host, now);
        let quiet = self.quiet_since.is_some() && now.since(watch.undisturbed) >= SETTLED;
        for event in node.told(after) {
            let failed = self.judge_event(watch, stage, host, event);
            watch.figures.told += u64::from(!event.container.is_empty());
            if event.kind == "changes-summed-up" {
                watch.summed[host] = Some(now);
                let number = event.text.split_once(": ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
                watch.figures.told_as_numbers += number.unwrap_or(0);
            }
            let of_containers = !event.container.is_empty() || event.kind == "changes-summed-up";
            if well && of_containers {
                let waiting = stage.zone_with(host).iter().copied();
                let waiting = waiting.filter(|other| *other != host && self.ledger.is_well(*other, now)).collect();
                let (number, life) = ((event.generation, event.seq), world.life(host));
                watch.news.push(News { origin: host, life, number, at: now, failed, waiting, quiet });
            }
        }
    }

    /// Whether a failure was to be told; the first event of one says so.
    fn judge_event(
        &mut self,
        watch: &mut Watch,
        stage: &Stage,
        host: HostIndex,
        event: &EventRecord,
    ) -> Option<(How, Instant)> {
        let now = stage.world.now();
        let severe = event.severity == Severity::Critical as u32 || event.severity == Severity::Warning as u32;
        let judged = ["service-verdict", "container-state", "container-silent"].contains(&event.kind.as_str());
        if event.container.is_empty() || !judged || !severe {
            return None;
        }
        let who = number_of(&event.container).filter(|(of, _)| *of == host);
        let Some(who) = who else {
            self.violated("containers", now, || format!("{} told of another's container: {}", name(host), event.text));
            return None;
        };
        let known = watch.failures.get_mut(&who);
        let known = known.filter(|known| known.until.is_none_or(|until| now.since(until) < AFTERWARDS));
        let Some(failure) = known else {
            self.violated("containers", now, || {
                format!("{} told of {}, in which nothing failed: {}", name(host), event.container, event.text)
            });
            return None;
        };
        if std::mem::replace(&mut failure.told, true) || failure.due.is_none() {
            return None;
        }
        let took = now.since(failure.since);
        watch.times.detection.entry(failure.how.word()).or_default().push(took);
        Some((failure.how, failure.since))
    }

    /// Who has heard what.
    fn follow(&mut self, watch: &mut Watch, stage: &Stage) {
        let (world, now) = (&stage.world, stage.world.now());
        let disturbed = self.quiet_since.is_none() || now.since(watch.undisturbed) < SETTLED;
        let ledger = &self.ledger;
        let mut late = Vec::new();
        let times = &mut watch.times;
        watch.news.retain_mut(|news| {
            if !world.runs(news.origin) || world.life(news.origin) != news.life || !ledger.is_well(news.origin, now) {
                return false;
            }
            news.quiet &= !disturbed;
            let hears = |at: &HostIndex| {
                let missing = world.node(*at).map(|node| node.events_of(id(news.origin)) < news.number);
                missing == Some(true) && ledger.is_well(*at, now)
            };
            news.waiting.retain(hears);
            let took = now.since(news.at);
            if news.waiting.is_empty() {
                if news.quiet {
                    times.spread.push(took);
                    if let Some((how, since)) = news.failed {
                        times.everywhere.entry(how.word()).or_default().push(now.since(since));
                    }
                }
                return false;
            }
            let within = if news.quiet { SPREAD.0 } else { SPREAD.1 };
            if took > within {
                late.push((news.origin, news.number, news.waiting.clone(), within));
                return false;
            }
            true
        });
        for (origin, number, waiting, within) in late {
            self.violated("containers", now, || {
                let who = Self::who(&waiting);
                format!("event {} of {} is not at {who} after {:.1} s", number.1, name(origin), within.as_secs_f64())
            });
        }
    }

    /// What should have been told by now.
    fn judge_due(&mut self, watch: &mut Watch, stage: &Stage) {
        let now = stage.world.now();
        let mut untold = Vec::new();
        for (who, failure) in &mut watch.failures {
            let Some(due) = failure.due.filter(|due| !failure.told && *due + GATHERED <= now) else { continue };
            failure.due = None;
            // As one of a number, it may be.
            let summed = watch.summed[who.0].is_some_and(|at| at >= failure.since);
            let sound = self.ledger.well_since(who.0).is_some_and(|since| since <= failure.since);
            if !summed && sound && !watch.frozen.contains(who) {
                untold.push((*who, failure.how, due.since(failure.since)));
            }
        }
        for (who, how, within) in untold {
            self.violated("containers", now, || {
                let container = container_name(who.0, who.1);
                format!("{container} failed ({}) and nobody was told within {:.1} s", how.word(), within.as_secs_f64())
            });
        }
        // Those of which nothing may be told any more.
        watch.failures.retain(|_, failure| failure.until.is_none_or(|until| now.since(until) < AFTERWARDS * 11));
    }

    fn judge_acts(&mut self, watch: &mut Watch, stage: &Stage, host: HostIndex) {
        let (acted, now) = (stage.world.acted(host), stage.world.now());
        if acted.len() == watch.acted[host] {
            return;
        }
        let limits = watch.limits();
        for act in &acted[std::mem::replace(&mut watch.acted[host], acted.len())..] {
            let (Act::Restart { container } | Act::Clone { container, .. }) = &act.act else { continue };
            watch.figures.repairs += 1;
            let who = number_of(container).unwrap_or((host, u32::MAX));
            if act.isolated {
                self.violated("repair", now, || format!("{} is cut off and did {:?}", name(host), act.act));
            }
            if watch.frozen.contains(&who) {
                self.violated("repair", now, || format!("{container} is frozen, and {} did {:?}", name(host), act.act));
            }
            let knows = watch.disarmed_since.is_some_and(|since| act.at.since(since) >= SPREAD.1);
            if knows && self.ledger.is_well(host, now) {
                self.violated("repair", now, || {
                    format!("the cluster is disarmed, and {} did {:?}", name(host), act.act)
                });
            }
            if !watch.failures.contains_key(&who) {
                self.violated("repair", now, || format!("{container} was well, and {} did {:?}", name(host), act.act));
            }
            let count = |acts: &mut VecDeque<Instant>| {
                acts.push_back(act.at);
                while acts.front().is_some_and(|first| act.at.since(*first) >= limits.window) {
                    acts.pop_front();
                }
                acts.len()
            };
            let of_host = count(&mut watch.acts[host]);
            let of_one = count(watch.acts_on.entry((host, base(container).to_owned())).or_default());
            if of_host > limits.host_actions || of_one > limits.container_actions {
                self.violated("repair", now, || {
                    let (most, each) = (limits.host_actions, limits.container_actions);
                    format!("{} did {of_host} of {most} actions, {of_one} of {each} on {container}", name(host))
                });
            }
        }
    }

    /// What hosts send while all is well; to be called every second.
    pub(crate) fn count_bytes(&mut self, stage: &Stage) {
        let Some(watch) = &mut self.watch else { return };
        let now = stage.world.now();
        let at_rest = stage.active().next().is_none() && now.since(watch.unchanged) >= WARM;
        for host in stage.world.hosts() {
            let sent = stage.world.sent(host).bytes;
            let before = std::mem::replace(&mut watch.sent[host], sent);
            watch.bytes[host] += if at_rest { sent - before } else { 0 };
        }
        watch.figures.seconds_at_rest += u64::from(at_rest);
    }

    /// In the end all hosts have the same digests, if nothing happened for long.
    pub(crate) fn judge_digests(&mut self, stage: &Stage) {
        let Some(mut watch) = self.watch.take() else { return };
        let (world, now) = (&stage.world, stage.world.now());
        let quiet = self.quiet_since.map_or(now, |since| since.max(watch.unchanged));
        if now.since(quiet) >= agree_within(world.hosts().len()) {
            for hosts in stage.zones() {
                let running: Vec<HostIndex> = hosts.iter().copied().filter(|host| world.runs(*host)).collect();
                for of in &running {
                    let own = world.node(*of).and_then(|node| node.digest_of(id(*of)));
                    let differs = |at: &&HostIndex| world.node(**at).and_then(|node| node.digest_of(id(*of))) != own;
                    watch.digests += 1;
                    if let Some(at) = running.iter().find(differs) {
                        let there = world.node(*at).and_then(|node| node.digest_of(id(*of)));
                        self.violated("digests", now, || {
                            format!("{} says {own:?} of itself, {} has {there:?}", name(*of), name(*at))
                        });
                    }
                }
            }
        }
        self.watch = Some(watch);
    }

    /// What was measured.
    pub(crate) fn figures(&mut self, stage: &Stage) -> Option<Figures> {
        let watch = self.watch.as_mut()?;
        let seconds = watch.figures.seconds_at_rest.max(1) as f64;
        let of_all = |times: &BTreeMap<&'static str, Vec<Duration>>| {
            times.iter().map(|(what, times)| ((*what).to_owned(), Quantiles::of(times))).collect()
        };
        let hosts = watch.bytes.len().max(1) as f64;
        let most = watch.bytes.iter().max().copied().unwrap_or(0) as f64;
        watch.figures.containers = u64::from(watch.fleet.containers) * stage.world.hosts().len() as u64;
        watch.figures.detection = of_all(&watch.times.detection);
        watch.figures.everywhere = of_all(&watch.times.everywhere);
        watch.figures.spread = Quantiles::of(&watch.times.spread);
        watch.figures.bytes_at_rest = (watch.bytes.iter().sum::<u64>() as f64 / hosts / seconds, most / seconds);
        Some(watch.figures.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let times: Vec<Duration> = (1..=200).rev().map(Duration::from_secs).collect();
        let found = Quantiles::of(&times);
        assert_eq!((found.p50, found.p90, found.p99, found.max, found.count), (100.0, 180.0, 198.0, 200.0, 200));
        assert_eq!(Quantiles::of(&[]), Quantiles::default());
    }
}
