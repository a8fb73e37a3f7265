//! The rule of chords: the same in a whole cluster, from its creation. Who goes by another one is told, and hurts no ring.

use ringmesh_proto::{HostId, Now, peer::EventRecord, peer::HostRecord, v1::event::Severity};
use ringmesh_topology::{Chords, Racks};

use super::Node;

/// Hosts with one other rule that are told of; whoever is odd himself would otherwise tell of all. `host show` has each.
const MAX_TOLD: usize = 8;

/// As in a record.
pub(super) fn encode(chords: Chords) -> String {
    if chords == Chords::Auto { String::new() } else { chords.to_string() }
}

/// What a record says, in words.
pub(super) fn word(record: &HostRecord) -> &str {
    if record.chords.is_empty() { "auto" } else { &record.chords }
}

impl Node {
    /// Tells the overlay the rule, and the racks if the rule heeds them.
    pub(super) fn plan_chords(&mut self) {
        let mut racks = Racks::new();
        if self.config.chords.heeds_racks() {
            let named = |rack: &str| (!rack.is_empty()).then(|| rack.to_owned());
            let of = self.store.hosts().filter_map(|(id, heard)| Some((id, named(&heard.record.rack)?)));
            racks.extend(of);
            racks.extend(named(&self.config.rack).map(|rack| (self.me().id, rack)));
        }
        self.overlay.plan_chords(self.config.chords, racks);
    }

    /// Warns once of a host that goes by another rule, and again when it has changed it.
    pub(super) fn compare_chords(&mut self, now: Now, record: &HostRecord) {
        let (host, theirs) = (HostId::new(record.host), word(record));
        let ours = self.config.chords.to_string();
        if theirs == ours {
            self.other_chords.remove(&host);
            return;
        }
        if self.other_chords.get(&host).is_some_and(|told| told == theirs) {
            return;
        }
        let (theirs, name) = (theirs.to_owned(), self.name_of(host));
        let text = format!(
            "{name} goes by chords \"{}\", {} by \"{ours}\": the rings are not touched, but some chords have one end; \
             set chords in identity/cluster.toml to the same at all hosts and restart those agents",
            theirs.escape_debug(),
            self.config.name,
        );
        let alike = self.other_chords.values().filter(|told| **told == theirs).count();
        self.other_chords.insert(host, theirs);
        if alike < MAX_TOLD {
            self.warn_of_chords(now, host, text);
        }
    }

    /// Warns if the configuration asks for another rule than the cluster's.
    pub(super) fn compare_configured_chords(&mut self, now: Now) {
        let (Some(configured), chords) = (self.config.configured_chords, self.config.chords) else { return };
        if configured != chords {
            let text = format!(
                "{} is configured for chords \"{configured}\", but its cluster was made with \"{chords}\", which it \
                 goes by; take mesh.chords out of its configuration",
                self.config.name
            );
            let me = self.me().id;
            self.warn_of_chords(now, me, text);
        }
    }

    fn warn_of_chords(&mut self, now: Now, host: HostId, text: String) {
        let event = EventRecord {
            kind: "chords-differ".into(),
            host: host.raw(),
            severity: Severity::Warning as u32,
            text,
            ..EventRecord::default()
        };
        self.tell(now, event, true);
    }
}
