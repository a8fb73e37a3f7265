//! Hosts from which nothing comes: tried over every uplink, and accused when that lasts.
//!
//! How long it must last depends on what the silent host's kernel says, which answers when its agent does not:
//! nobody is to be called down who is only slow, and whoever is gone need not be waited for.

use std::time::Duration;

use ringmesh_proto::{HostId, Instant, Now, Uplink, datagram::Kind, member::Member};

use super::{Node, Output, links::link_probe};
use crate::membership::SwimState;

/// What the kernel of a silent host answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// That nothing listens at the agent's port: the agent is gone.
    Refused,
    /// Something else: the host is there, and its agent does not run or does not get to run.
    Answers,
    /// Nothing: the host is gone, or the path to it.
    Silent,
}

/// Silence of an agent whose port is closed. A restart is done within it.
pub(super) const REFUSED_AFTER: Duration = Duration::from_millis(1200);

/// Silence of a host whose kernel does not answer, although it did before, or others' do.
pub(super) const SILENT_AFTER: Duration = Duration::from_millis(2000);

/// Silence of an agent that may be stopped or starved.
pub(super) const STUCK_AFTER: Duration = Duration::from_millis(6000);

/// Between two datagrams to a silent host over each uplink, and between two looks at the watches.
pub(super) const TRY_INTERVAL: Duration = Duration::from_millis(200);

/// Between two questions to its kernel, in tries.
const REACH_EVERY: u32 = 3;

/// After which it, or its kernel, must have had the time to answer.
const REACH_WITHIN: Duration = Duration::from_millis(400);

/// A host that was heard of within this time is not silent, unless a later probe of ours went unanswered.
const FRESH: Duration = Duration::from_millis(500);

/// A pair that does not hear each other is named after so long, if nobody else misses either.
const PAIR_AFTER: Duration = Duration::from_millis(2500);

/// A host that is silent.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    since: Instant,
    /// When it was first asked.
    asked: Instant,
    next_try: Instant,
    tries: u32,
    reach: [Option<Reach>; 2],
    /// That the two do not hear each other was told.
    told: bool,
}

impl Watch {
    /// A host that has been silent since then and is asked from now on.
    fn new(now: Instant, since: Instant) -> Self {
        Self { since, asked: now, next_try: now, tries: 0, reach: [None; 2], told: false }
    }

    /// Whether it has been silent for so long.
    pub(super) fn lasts(&self, now: Instant, span: Duration) -> bool {
        now.since(self.since) >= span
    }

    /// Whether it was told that it and this host do not hear each other.
    pub(super) fn is_told(&self) -> bool {
        self.told
    }

    /// Whether its kernel was asked and nothing came back.
    pub(super) fn is_lost(&self, now: Instant) -> bool {
        let answers = self.reach.iter().flatten().any(|reach| *reach != Reach::Silent);
        !answers && now.since(self.asked) >= REACH_WITHIN
    }
}

impl Node {
    /// What the kernel of a host answered to an [`Output::Reach`].
    pub fn handle_reach(&mut self, now: Now, host: HostId, uplink: Uplink, reach: Reach) {
        self.begin_turn(now);
        if let Some(watch) = self.watches.get_mut(&host) {
            // The port stays closed until we hear the next agent; a later answer is only one that went amiss.
            let told = &mut watch.reach[uplink.index()];
            *told = told.filter(|told| *told == Reach::Refused).or(Some(reach));
        } else if reach == Reach::Silent && !self.answers.contains(&host) {
            self.mute.insert(host);
        }
        if reach != Reach::Silent {
            self.mute.remove(&host);
            self.answers.insert(host);
        }
        self.tend_watches(now);
        self.settle(now);
    }

    pub(super) fn next_watch(&self) -> Option<Instant> {
        self.watches.values().map(|watch| watch.next_try).min()
    }

    /// A host was heard of, by itself.
    pub(super) fn hear(&mut self, now: Now, host: HostId, uplink: Uplink) {
        self.heard.insert(host, now.instant);
        self.overlay.hear(now.instant, uplink);
        if let Some(watch) = self.watches.remove(&host) {
            self.withdraw(now, host);
            self.judge_isolation(now);
            if watch.told {
                self.write_record(now);
            }
        }
    }

    /// Begins to watch the hosts that are silent on all our links to them.
    pub(super) fn watch_silent_links(&mut self, now: Now) {
        for (host, since) in self.overlay.silent_peers() {
            let heard = self.heard.get(&host).copied().unwrap_or_default();
            if heard < since || now.instant.since(heard) >= FRESH {
                self.watch(now, host, since.max(heard));
            }
        }
    }

    /// Begins to watch a host that has been silent since then.
    pub(super) fn watch(&mut self, now: Now, host: HostId, since: Instant) {
        let live = matches!(self.membership.state(host), Some((_, SwimState::Alive | SwimState::Suspect)));
        if live && !self.has_left(host) && !self.watches.contains_key(&host) {
            self.watches.insert(host, Watch::new(now.instant, since));
            self.tend_watches(now);
        }
    }

    /// Asks the kernel of a new neighbour whether it answers at all: one that never does proves nothing by its silence.
    pub(super) fn learn_reach(&mut self, to: Member, uplink: Uplink) {
        if !self.answers.contains(&to.id) {
            self.outputs.push_back(Output::Reach { to, uplink });
        }
    }

    /// What was silent while this host could not hear is no evidence: the time counts from now.
    pub(super) fn restart_watches(&mut self, now: Now) {
        for watch in self.watches.values_mut() {
            *watch = Watch::new(now.instant, now.instant);
        }
    }

    /// Tries the silent hosts again, and accuses those that have been silent for long enough.
    pub(super) fn tend_watches(&mut self, now: Now) {
        let mut watches = std::mem::take(&mut self.watches);
        watches.retain(|host, _| {
            let live = matches!(self.membership.state(*host), Some((_, SwimState::Alive | SwimState::Suspect)));
            live && !self.has_left(*host)
        });
        for (host, watch) in &mut watches {
            let Some((to, _)) = self.membership.state(*host) else { continue };
            if watch.next_try <= now.instant {
                watch.next_try = now.instant + TRY_INTERVAL;
                for uplink in Uplink::BOTH {
                    // Number 0 is no link's; the answer to it counts as a word of the host.
                    self.send_datagram(to, uplink, Kind::LinkProbe, link_probe(0, true, None), 0);
                    if watch.tries % REACH_EVERY == 0 && to.address(uplink).is_some() {
                        self.outputs.push_back(Output::Reach { to, uplink });
                    }
                }
                watch.tries += 1;
            }
        }
        self.watches = watches;
        self.judge_isolation(now);
        if self.isolated.is_some() {
            return;
        }
        let silent: Vec<(HostId, Watch)> = self.watches.iter().map(|(host, watch)| (*host, watch.clone())).collect();
        for (host, watch) in silent {
            let span = now.instant.since(watch.since);
            let (patience, why) = self.patience(host, &watch);
            if span >= patience {
                let evidence = format!("no answer over any uplink for {} ms; {why}", span.as_millis());
                self.accuse(now, host, &evidence);
            }
            let heard_by_another = || self.is_accused_by_us_alone(host) && self.relay_to(now, host).is_some();
            if span >= PAIR_AFTER && !watch.told && heard_by_another() {
                self.tell_pair(now, host);
            }
        }
    }

    /// How long a silent host is waited for, and why.
    fn patience(&self, host: HostId, watch: &Watch) -> (Duration, &'static str) {
        let mut uplinks = watch.reach.iter().zip(self.membership.state(host).map_or([None; 2], |(to, _)| to.addresses));
        if watch.reach.contains(&Some(Reach::Refused)) {
            (REFUSED_AFTER, "its kernel says that no agent runs there")
        } else if watch.reach.contains(&Some(Reach::Answers)) {
            (STUCK_AFTER, "its kernel answers, its agent does not")
        } else if self.mute.contains(&host) || self.answers.is_empty() {
            (STUCK_AFTER, "whether its kernel lives is not known: it did not answer before either")
        } else if uplinks.all(|(reach, address)| address.is_none() || *reach == Some(Reach::Silent)) {
            (SILENT_AFTER, "its kernel does not answer either")
        } else {
            (STUCK_AFTER, "its kernel was not asked yet")
        }
    }

    fn tell_pair(&mut self, now: Now, host: HostId) {
        if let Some(watch) = self.watches.get_mut(&host) {
            watch.told = true;
        }
        let text = format!("{} and {} do not hear each other; others hear both", self.config.name, self.name_of(host));
        let event = ringmesh_proto::peer::EventRecord {
            kind: "pair-broken".into(),
            host: host.raw(),
            severity: ringmesh_proto::v1::event::Severity::Warning as u32,
            accusers: vec![self.me().id.raw()],
            text,
            ..Default::default()
        };
        self.tell(now, event, false);
        self.write_record_urgently(now);
    }
}
