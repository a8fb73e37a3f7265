//! What holds back automatic action: holds on containers, the drain of this host, the disarming of the cluster.
//!
//! All three are kept on disk and end by the wall clock, for they outlive the process.

use std::time::Duration;

use ringmesh_proto::{
    Instant, Now, UnixMillis,
    peer::ArmingRecord,
    v1::{
        Arming, Hold, Operation,
        arming::Mode,
        event::Severity,
        operation::{Kind, State},
    },
};

use super::{Around, Due, Effect, Remedy};

/// Who orders what no operator did.
pub(super) const REPAIR: &str = "repair";

/// A hold from now on.
pub(super) fn hold(now: Now, who: &str, reason: &str, lasts: Option<Duration>) -> Hold {
    let until = |lasts: Duration| UnixMillis(now.unix.0.saturating_add(millis(lasts))).into();
    Hold { reason: reason.to_owned(), who: who.to_owned(), since: Some(now.unix.into()), until: lasts.map(until) }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// When a hold ends by itself.
fn ends(now: Now, hold: &Hold) -> Option<Instant> {
    let until = hold.until.as_ref()?;
    let until_ms = u64::try_from(until.seconds).unwrap_or(0).saturating_mul(1000) + until.nanos as u64 / 1_000_000;
    Some(at(now, until_ms))
}

fn at(now: Now, until_ms: u64) -> Instant {
    now.instant + Duration::from_millis(until_ms.saturating_sub(now.unix.0))
}

impl Remedy {
    /// Whether nothing is done to this container by itself.
    pub(crate) fn is_held(&self, container: &str) -> bool {
        self.holds.contains_key(container)
    }

    /// Whether this host is drained.
    pub(crate) fn is_drained(&self) -> bool {
        self.drain.is_some()
    }

    /// The newest that was ordered for the cluster, for this host's record.
    pub(crate) fn arming(&self) -> Option<&ArmingRecord> {
        self.arming.as_ref()
    }

    /// How the cluster is armed now.
    pub(crate) fn arming_mode(&self, now: Now) -> Mode {
        let counts = |arming: &&ArmingRecord| arming.until_unix_ms == 0 || arming.until_unix_ms > now.unix.0;
        let mode = |arming: &ArmingRecord| Mode::try_from(arming.mode as i32).unwrap_or(Mode::Freeze);
        self.arming.as_ref().filter(counts).map_or(Mode::Armed, mode)
    }

    /// Takes an order for the cluster if it is newer than what is known; whether it was.
    pub(crate) fn learn_arming(&mut self, now: Now, other: &ArmingRecord) -> bool {
        let rank = |arming: &ArmingRecord| (arming.version, arming.host);
        let newer = self.arming.as_ref().is_none_or(|ours| rank(ours) < rank(other));
        if newer {
            self.set_arming(now, other.clone());
        }
        newer
    }

    pub(super) fn set_arming(&mut self, now: Now, arming: ArmingRecord) {
        self.timers.cancel(&Due::Arming);
        if arming.until_unix_ms > 0 {
            self.timers.set(Due::Arming, at(now, arming.until_unix_ms));
        }
        self.arming = Some(arming);
        self.timers.set(Due::Retry, now.instant);
        self.changed();
    }

    /// Says, where it was ordered, how the cluster is armed. The others put it into their own records when these are next
    /// written.
    pub(super) fn tell_arming(&mut self, order: &ArmingRecord) {
        self.effects.push_back(Effect::Record);
        if order.host != self.operations.host().raw() {
            return;
        }
        let reason = if order.reason.is_empty() { String::new() } else { format!(": {}", order.reason) };
        let who = &order.who;
        match Mode::try_from(order.mode as i32).unwrap_or(Mode::Freeze) {
            Mode::Armed => self.tell_all("cluster-armed", Severity::Info, format!("{who} arms the cluster{reason}")),
            Mode::Freeze => {
                let text = format!("{who} disarms the cluster, what would be repaired is proposed{reason}");
                self.tell_all("cluster-disarmed", Severity::Warning, text);
            }
            Mode::Ignore => {
                let text = format!("{who} disarms the cluster, nothing is repaired or proposed{reason}");
                self.tell_all("cluster-disarmed", Severity::Warning, text);
            }
        }
    }

    pub(super) fn arming_ends(&mut self, now: Now, around: &Around<'_>) {
        self.revision += 1;
        self.retry(now, around);
    }

    /// As the API says it.
    pub(crate) fn show_arming(&self, now: Now) -> Arming {
        let mode = self.arming_mode(now);
        let hold = self.arming.as_ref().filter(|_| mode != Mode::Armed).map(|arming| Hold {
            reason: arming.reason.clone(),
            who: arming.who.clone(),
            since: Some(UnixMillis(arming.since_unix_ms).into()),
            until: (arming.until_unix_ms > 0).then(|| UnixMillis(arming.until_unix_ms).into()),
        });
        Arming { mode: mode as i32, hold, sources: Vec::new() }
    }

    /// Nothing is done to the container by itself from now on.
    pub(super) fn take_hold(&mut self, now: Now, container: &str, hold: Hold) {
        let due = Due::Hold(container.to_owned());
        self.timers.cancel(&due);
        if let Some(at) = ends(now, &hold) {
            self.timers.set(due, at);
        }
        self.holds.insert(container.to_owned(), hold);
        self.discharge(container);
        self.sick.remove(container);
        let proposed: Vec<String> = self
            .operations
            .open()
            .filter(|operation| operation.container == container && operation.state() == State::Proposed)
            .map(|operation| operation.id.clone())
            .collect();
        for id in proposed {
            self.operations.edit(&id, |operation| operation.state = State::Held as i32);
        }
        self.changed();
        self.mark(container);
    }

    pub(super) fn drop_hold(&mut self, now: Now, container: &str) {
        self.timers.cancel(&Due::Hold(container.to_owned()));
        self.holds.remove(container);
        let held: Vec<String> = self
            .operations
            .open()
            .filter(|operation| operation.container == container && operation.state() == State::Held)
            .map(|operation| operation.id.clone())
            .collect();
        for id in held {
            self.end(now, &id, State::Refused, "the container was released; it is proposed anew if it is still sick");
        }
        self.changed();
        self.mark(container);
    }

    pub(super) fn hold_ends(&mut self, now: Now, around: &Around<'_>, container: &str) {
        if !self.is_held(container) {
            return;
        }
        let reason = "the time of its hold is over".to_owned();
        let (container, who) = (container.to_owned(), REPAIR.to_owned());
        let kind = Kind::Release as i32;
        let release = Operation { kind, container, reason, who, automatic: true, ..Operation::default() };
        let id = self.make(now, release);
        self.begin(now, around, &id);
    }

    pub(super) fn set_drain(&mut self, now: Now, drain: Option<Hold>) {
        self.timers.cancel(&Due::Drain);
        if let Some(at) = drain.as_ref().and_then(|drain| ends(now, drain)) {
            self.timers.set(Due::Drain, at);
        }
        self.drain = drain;
        self.timers.set(Due::Retry, now.instant);
        self.effects.push_back(Effect::Record);
        self.changed();
    }

    pub(super) fn drain_ends(&mut self, now: Now, around: &Around<'_>) {
        let (reason, who) = ("its time is over".to_owned(), REPAIR.to_owned());
        let kind = Kind::Undrain as i32;
        let id = self.make(now, Operation { kind, reason, who, automatic: true, ..Operation::default() });
        self.begin(now, around, &id);
    }

    /// After a restart: what is held stays so.
    pub(super) fn resume_holds(&mut self, now: Now) {
        for container in self.holds.keys().cloned().collect::<Vec<_>>() {
            if let Some(at) = self.holds.get(&container).and_then(|hold| ends(now, hold)) {
                self.timers.set(Due::Hold(container.clone()), at);
            }
            self.mark(&container);
        }
        if let Some(at) = self.drain.as_ref().and_then(|drain| ends(now, drain)) {
            self.timers.set(Due::Drain, at);
        }
        if let Some(until) = self.arming.as_ref().map(|arming| arming.until_unix_ms).filter(|until| *until > 0) {
            self.timers.set(Due::Arming, at(now, until));
        }
    }
}
