//! What foca asks of its surroundings: an identity, and a place for its timers, messages and notes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use foca::{Identity, Message, Notification, Runtime, Timer};
use ringmesh_proto::{HostId, Instant, member::Member};
use serde::{Deserialize, Serialize};

/// A member as foca's identity: the host is the address, the generation decides between two lives of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct SwimMember(pub(super) Member);

impl Identity for SwimMember {
    type Addr = HostId;

    fn renew(&self) -> Option<Self> {
        Some(Self(Member { generation: self.0.generation.checked_add(1)?, ..self.0 }))
    }

    fn addr(&self) -> HostId {
        self.0.id
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        // The addresses break a tie of two lives that took the same generation after a lost write of it.
        (self.0.generation, self.0.addresses) > (adversary.0.generation, adversary.0.addresses)
    }
}

/// What foca notes that its state does not show.
pub(super) enum Note {
    Active,
    Rejoin(Member),
    ProbeFailed(HostId),
}

/// foca's timers in order, and what it wants sent. None that counts is ever dropped: foca stops if a timer is lost.
#[derive(Default)]
pub(super) struct Wheel {
    pub(super) now: Instant,
    /// By deadline, then in foca's own order of simultaneous timers, then as submitted.
    timers: BTreeMap<(Instant, u8, u64), Timer<SwimMember>>,
    submitted: u64,
    /// The timer of gossip, which waits while there is nothing to gossip. Only the newest counts.
    gossip: Option<(Instant, Timer<SwimMember>)>,
    pub(super) transmits: VecDeque<(Member, Bytes)>,
    pub(super) notes: VecDeque<Note>,
    /// Members whose state may have changed.
    pub(super) touched: BTreeSet<HostId>,
    /// How unreliable this host itself seems: each failed probe adds one, each answer takes one away. Lifeguard's local
    /// health (arXiv 1707.00788 §IV-A): probes and their time limits are stretched by it.
    pub(super) score: u32,
}

/// The highest [`Wheel::score`], as in Lifeguard: probes every 9 s.
const MAX_SCORE: u32 = 8;

impl Wheel {
    pub(super) fn next(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, ..), _)| *at)
    }

    /// When gossip is next sent, if there is any.
    pub(super) fn next_gossip(&self) -> Option<Instant> {
        self.gossip.as_ref().map(|(at, _)| *at)
    }

    /// `gossips`: there is something to gossip.
    pub(super) fn pop_due(&mut self, now: Instant, gossips: bool) -> Option<Timer<SwimMember>> {
        if let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            return Some(entry.remove());
        }
        self.gossip.take_if(|(at, _)| gossips && *at <= now).map(|(_, timer)| timer)
    }

    pub(super) fn put_off(&mut self, timer: Timer<SwimMember>, by: Duration) {
        self.submit_after(timer, by);
    }
}

impl Runtime<SwimMember> for Wheel {
    fn notify(&mut self, notification: Notification<'_, SwimMember>) {
        match notification {
            Notification::Active => self.notes.push_back(Note::Active),
            Notification::Rejoin(member) => self.notes.push_back(Note::Rejoin(member.0)),
            Notification::ProbeFailed(_, member) => {
                self.score = (self.score + 1).min(MAX_SCORE);
                self.touched.insert(member.0.id);
                self.notes.push_back(Note::ProbeFailed(member.0.id));
            }
            Notification::DataReceived(header) => {
                if matches!(header.message, Message::Ack(_) | Message::ForwardedAck { .. }) {
                    self.score = self.score.saturating_sub(1);
                }
            }
            // The state of the members is read after each call instead, because it also shows suspicion.
            Notification::MemberUp(member) | Notification::MemberDown(member) | Notification::Rename(_, member) => {
                self.touched.insert(member.0.id);
            }
            Notification::Idle | Notification::Defunct | Notification::DataSent(_) => {}
        }
    }

    fn send_to(&mut self, to: SwimMember, data: &[u8]) {
        self.transmits.push_back((to.0, Bytes::copy_from_slice(data)));
    }

    fn submit_after(&mut self, event: Timer<SwimMember>, after: Duration) {
        let rank = match event {
            Timer::SendIndirectProbe { .. } => 0,
            Timer::ProbeRandomMember(_) => 1,
            Timer::ChangeSuspectToDown { .. } => 2,
            Timer::PeriodicAnnounce(_) => 3,
            Timer::PeriodicGossip(_) => 4,
            Timer::RemoveDown(_) => 5,
            Timer::PeriodicAnnounceDown(_) => 6,
        };
        let after = match event {
            Timer::SendIndirectProbe { .. } | Timer::ProbeRandomMember(_) => after * (1 + self.score),
            Timer::ChangeSuspectToDown { .. }
            | Timer::PeriodicAnnounce(_)
            | Timer::PeriodicGossip(_)
            | Timer::RemoveDown(_)
            | Timer::PeriodicAnnounceDown(_) => after,
        };
        if matches!(event, Timer::PeriodicGossip(_)) {
            self.gossip = Some((self.now + after, event));
            return;
        }
        self.submitted += 1;
        self.timers.insert((self.now + after, rank, self.submitted), event);
    }
}
