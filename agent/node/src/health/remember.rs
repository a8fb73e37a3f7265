//! What the machine does with its memory: it notes, gives shards to the disk, takes them back, and answers questions.

use std::collections::BTreeMap;

use ringmesh_proto::{Instant, Now, UnixMillis, disk::HistoryRecord, v1};

use super::{
    Check, Health,
    check::{Outcome, Turns},
    flap,
    history::{History, Kind, Place, show_duration},
    latency::{self, Normal},
    memory::{Key, shard},
    spec::{CheckId, ServiceSpec},
};

/// Histories of one name that a host answers with: enough to tell that a name is not clear.
const MAX_SHOWN: usize = 2;

impl Health {
    /// Takes what an earlier life of the agent has written down.
    pub fn recall(&mut self, now: Now, records: Vec<HistoryRecord>) {
        let mut records: BTreeMap<Key, HistoryRecord> =
            records.into_iter().map(|record| ((record.container.clone(), record.service.clone()), record)).collect();
        for check in self.checks.values_mut() {
            let key = (check.container().to_owned(), check.spec.name.clone());
            if let Some(record) = records.remove(&key) {
                let memory = &mut self.memory;
                let normal = record.normal.map(Normal::read);
                check.history = History::read(record, &mut |text| memory.share(text));
                let cause = memory.share(&format!("asks now for {}", check.spec.check.target()));
                if check.history.redefine(now.unix, check.spec.definition, &cause) {
                    memory.note(now.instant, check.container(), true);
                } else if let Some(normal) = normal {
                    check.state.recall(normal);
                }
            }
        }
        for record in records.into_values() {
            let (container, news) = (record.container.clone(), record.retired_ms == 0);
            if !self.memory.retire(now.unix, record) || news {
                self.memory.note(now.instant, &container, true);
            }
        }
    }

    /// Of a service that is new, or was here before.
    pub(super) fn begin_history(&mut self, container: &str, service: &ServiceSpec) -> History {
        let memory = &mut self.memory;
        match memory.recall(&(container.to_owned(), service.name.clone())) {
            Some(record) => History::read(record, &mut |text| memory.share(text)),
            None => History::new(service.definition),
        }
    }

    /// When [`Self::take_due`] is next wanted.
    pub fn poll_memory(&self) -> Option<Instant> {
        self.memory.poll_timeout()
    }

    /// A shard that is to be written to the disk now, and all histories in it. The next one comes after
    /// [`Self::handle_written`].
    pub fn take_due(&mut self, now: Now) -> Option<(u8, Vec<HistoryRecord>)> {
        let shard = self.memory.take_due(now.instant)?;
        Some((shard, self.records(now.unix, shard)))
    }

    /// A shard is on disk, or could not be written and comes again.
    pub fn handle_written(&mut self, now: Instant, shard: u8, success: bool) {
        self.memory.written(now, shard, success);
    }

    /// All shards that are not on disk as they are: for the end of the agent.
    pub fn take_all(&mut self, now: Now) -> Vec<(u8, Vec<HistoryRecord>)> {
        self.memory.take_all().into_iter().map(|shard| (shard, self.records(now.unix, shard))).collect()
    }

    fn records(&mut self, now: UnixMillis, wanted: u8) -> Vec<HistoryRecord> {
        let checks = self.containers.iter().filter(|(name, _)| shard(name) == wanted);
        let checks = checks.flat_map(|(_, container)| &container.checks).filter_map(|id| Some(&**self.checks.get(id)?));
        let write = |check: &Check| HistoryRecord {
            normal: Some(check.state.normal().write()),
            ..check.history.write(check.container(), &check.spec.name)
        };
        let mut records: Vec<HistoryRecord> = checks.map(write).collect();
        records.extend(self.memory.retired_of(now, wanted));
        records
    }

    /// The memory of the services of this name, in this container or in any if it is empty; at most two.
    pub fn histories(&self, now: UnixMillis, container: &str, service: &str) -> Vec<v1::History> {
        let place = |container, service| Place { host: &self.host, container, service };
        let wanted = |name: &str| container.is_empty() || name == container;
        let live = self.checks.values().filter(|check| check.spec.name == service && wanted(check.container()));
        let live = live.map(|check| v1::History {
            flapping: check.state.is_flapping(),
            slow: check.state.is_slow(),
            normal_latency: check.state.normal().latency().map(show_duration),
            ..check.history.show(place(check.container(), &check.spec.name), now)
        });
        let mut shown: Vec<v1::History> = live.take(MAX_SHOWN).collect();
        // Only if there is none that runs: the name of a service that is gone is no reason to ask which is meant.
        if shown.is_empty() {
            let retired = self.memory.retired_named(service).filter(|record| wanted(&record.container));
            shown.extend(retired.take(MAX_SHOWN).map(|record| {
                let history = History::read(record.clone(), &mut |text| text.into());
                let retired = Some(UnixMillis(record.retired_ms).into());
                v1::History { retired, ..history.show(place(&record.container, &record.service), now) }
            }));
        }
        shown
    }

    pub(super) fn note_outcome(&mut self, now: Now, id: CheckId, outcome: &Outcome) {
        let Some(check) = self.checks.get_mut(&id) else { return };
        check.history.note_outcome(
            now.unix,
            outcome.sign.is_right(),
            outcome.latency.unwrap_or_default(),
            &outcome.answer,
        );
        self.memory.note(now.instant, check.container(), false);
    }

    /// Notes what an outcome changed beside the verdict, and has a closer look if it is worth one.
    pub(super) fn note_turns(&mut self, now: Now, id: CheckId, turns: Turns) {
        let Some(check) = self.checks.get_mut(&id) else { return };
        let flap = turns.flap.map(|turn| match turn {
            flap::Turn::Begins => (Kind::Flapping, check.state.answer.to_string()),
            flap::Turn::Ends => (Kind::Steady, check.state.answer.to_string()),
        });
        let latency = turns.latency.map(|turn| match turn {
            latency::Turn::Slow => (Kind::Slow, check.state.slow_words()),
            latency::Turn::Back => (Kind::Normal, check.state.slow_words()),
            latency::Turn::Accepted => (Kind::Normal, "it stayed slow: that is normal from now on".to_owned()),
        });
        for (kind, cause) in flap.into_iter().chain(latency) {
            self.mark_changed(id);
            self.note_all(now, &[id], kind, &cause);
        }
        if turns.falters || turns.latency == Some(latency::Turn::Slow) {
            self.want_plan(now.instant, id);
        }
    }

    /// Notes a change of behaviour of all these checks.
    pub(super) fn note_all(&mut self, now: Now, checks: &[CheckId], kind: Kind, cause: &str) {
        let cause = self.memory.share(cause);
        for id in checks {
            let Some(check) = self.checks.get_mut(id) else { continue };
            check.history.note(now.unix, kind, &cause);
            self.memory.note(now.instant, check.container(), true);
        }
    }
}
