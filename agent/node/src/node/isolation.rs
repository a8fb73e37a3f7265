//! Whether it is this host that is cut off.
//!
//! A host that loses most of those whom it watches at once is more likely the one that is lost. It says so, judges nobody,
//! and stops SWIM's clock, so that it has nothing to take back when it hears the others again.

use ringmesh_proto::{Now, peer::EventRecord, v1};

use super::Node;

/// With fewer hosts there is nobody to tell which of them is cut off.
const MIN_HOSTS: usize = 3;

impl Node {
    /// To be called when a neighbour falls silent or is heard again.
    pub(super) fn judge_isolation(&mut self, now: Now) {
        let peers = self.overlay.peers();
        let is_lost = |peer| self.watches.get(peer).is_some_and(|watch| watch.is_lost(now.instant));
        let lost = peers.iter().filter(|peer| is_lost(peer)).count();
        let isolated = lost * 2 > peers.len() && self.overlay.rings().len() >= MIN_HOSTS;
        if isolated == self.isolated.is_some() {
            return;
        }
        self.isolated = isolated.then_some(now.instant);
        self.membership.freeze(now.instant, isolated);
        self.services.cells.freeze(now.instant, isolated);
        let name = &self.config.name;
        let (severity, text) = if isolated {
            let text =
                format!("{name} is cut off: {lost} of its {} neighbours are silent; it judges nobody", peers.len());
            (v1::event::Severity::Critical, text)
        } else {
            (v1::event::Severity::Info, format!("{name} hears its neighbours again"))
        };
        let host = self.me().id.raw();
        let severity = severity as u32;
        self.tell(
            now,
            EventRecord { kind: "host-isolated".into(), host, severity, text, ..EventRecord::default() },
            false,
        );
        self.shown.hosts_stale();
        self.write_record(now);
        if !isolated {
            self.restart_watches(now);
            // What happened meanwhile, before anything is said.
            self.sync_with_any(now);
        }
    }
}
