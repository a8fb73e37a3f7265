//! Hosts that have been down or gone for long are forgotten: shown no more, and their room is free.
//!
//! Their addresses stay known and are called now and then: a partition may last longer than any memory of it, and both
//! sides must find each other when it ends. Only who has left is not called again.

use ringmesh_proto::{HostId, Now};

use super::Node;
use crate::membership::SwimState;

impl Node {
    /// To be called now and then.
    pub(super) fn forget_lost(&mut self, now: Now) {
        let lost = self.membership.states().filter(|(_, state)| *state == SwimState::Down).map(|(member, _)| member);
        // Of one that was down before this process began, others told.
        let since = |id: &HostId| self.since.get(id).map_or(self.started, |since| since.instant);
        let old = |id: &HostId| now.instant.since(since(id)) >= self.config.forget_after;
        let lost: Vec<_> = lost.filter(|member| old(&member.id)).collect();
        for member in &lost {
            let host = member.id;
            let name = self.name_of(host);
            tracing::info!(host = %host, name, "a host that was down for long is forgotten");
            self.membership.remove(now.instant, host, self.has_left(host));
            self.store.forget(host, member.generation);
            self.seen.remove(&host);
            self.syncs.forget(host);
            self.heard.remove(&host);
            self.since.remove(&host);
            self.unnamed.remove(&host);
            self.answers.remove(&host);
            self.mute.remove(&host);
        }
        // Those who were there when this host last ran, and of whom nobody tells.
        let unheard: Vec<_> = self.membership.unheard().map(|member| member.id).collect();
        let unheard = unheard.into_iter().filter(|_| now.instant.since(self.started) >= self.config.forget_after);
        let unheard = unheard.inspect(|host| self.membership.remove(now.instant, *host, false)).count();
        if !lost.is_empty() || unheard > 0 {
            self.rebuild_rings(now);
            self.persist();
            self.shown.hosts_stale();
        }
    }
}
