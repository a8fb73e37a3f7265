//! Leaving on purpose, in three steps: say so, end this life in SWIM, and be gone.

use std::time::Duration;

use ringmesh_proto::{HostId, Instant, Now, v1};

use super::{Node, Output};

/// Between two steps: enough for the messages of one to be sent.
const STEP: Duration = Duration::from_millis(300);

/// How far this host is.
#[derive(Default)]
pub(super) enum Leave {
    #[default]
    Not,
    Said(Instant),
    Ended(Instant),
    Gone,
}

impl Leave {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Said(at) | Self::Ended(at) => Some(*at),
            Self::Not | Self::Gone => None,
        }
    }
}

impl Node {
    pub(super) fn begin_leave(&mut self, now: Now) {
        if matches!(self.leave, Leave::Not) {
            self.leave = Leave::Said(now.instant + STEP);
            self.own.leaving = true;
            self.zone.dirty = true;
            self.write_record(now);
        }
    }

    pub(super) fn continue_leave(&mut self, now: Now) {
        match self.leave {
            Leave::Said(at) if at <= now.instant => {
                self.membership.leave(now.instant);
                self.leave = Leave::Ended(now.instant + STEP);
            }
            Leave::Ended(at) if at <= now.instant => {
                self.leave = Leave::Gone;
                self.outputs.push_back(Output::Left);
            }
            Leave::Not | Leave::Said(_) | Leave::Ended(_) | Leave::Gone => {}
        }
    }

    /// Another host says that it leaves: believe it at once, so that it is never called down.
    pub(super) fn host_leaves(&mut self, now: Now, host: HostId) {
        self.membership.forget(host);
        self.since.insert(host, now);
        self.tell_host(now, "host-left", host, v1::event::Severity::Info, "left the cluster");
        self.rebuild_rings(now);
        self.persist();
    }

    /// Whether a host said, in the life that SWIM knows of, that it leaves, or was revoked.
    pub(super) fn has_left(&self, host: HostId) -> bool {
        if self.is_revoked(host) {
            return true;
        }
        let Some(heard) = self.store.host(host) else { return false };
        let life = self.membership.state(host).map_or(0, |(member, _)| member.generation);
        heard.record.leaving && heard.record.generation >= life
    }
}
