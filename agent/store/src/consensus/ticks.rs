//! Time, which raft counts in ticks.
//!
//! Its own draw of the election timeout comes from the system's randomness. It is replaced after each step by one of the
//! seeded generator, before any tick looks at it.

use raft::StateRole;
use rand::RngExt;
use ringmesh_proto::Instant;

use super::machine::{Consensus, HEARTBEAT_TICKS};

impl Consensus {
    /// To be called at `poll_timeout`, after the messages that have come until then.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.flush_proposals();
        for _ in 0..self.ticks_until(now) {
            self.tick_once();
        }
        self.leave_joint();
        self.retry_reads();
    }

    /// When `handle_timeout` has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let raft = &self.raw.raft;
        let ticks = match raft.state {
            StateRole::Leader => HEARTBEAT_TICKS.saturating_sub(raft.heartbeat_elapsed()),
            _ if !raft.promotable() => raft.election_timeout(),
            StateRole::Follower | StateRole::PreCandidate | StateRole::Candidate => {
                raft.randomized_election_timeout().saturating_sub(raft.election_elapsed)
            }
        };
        let tick = self.ticked + self.tick * ticks.max(1) as u32;
        Some(self.reads.deadline().map_or(tick, |deadline| deadline.min(tick)))
    }

    /// Counts the time that has gone by, but decides nothing: what waits in the queue may be the leader's sign of life.
    pub(super) fn catch_up(&mut self, now: Instant) {
        if self.is_leader() {
            self.look_at(now);
            return;
        }
        for _ in 0..self.ticks_until(now) {
            let raft = &mut self.raw.raft;
            raft.election_elapsed =
                (raft.election_elapsed + 1).min(raft.randomized_election_timeout().saturating_sub(1));
        }
    }

    /// A clock that went back is taken as it is: nothing waits for the time that it showed before.
    pub(super) fn look_at(&mut self, now: Instant) {
        self.now = now;
        if now < self.ticked {
            self.ticked = now;
            self.reads.go_back(now + self.settings.heartbeat, now + self.settings.election);
            self.heard.values_mut().for_each(|at| *at = now.min(*at));
        }
    }

    /// Of a jump ahead, no more than an election's time counts.
    fn ticks_until(&mut self, now: Instant) -> usize {
        self.look_at(now);
        let ticks = (now.since(self.ticked).as_nanos() / self.tick.as_nanos()) as u64;
        let most = self.raw.raft.election_timeout() as u64;
        if ticks > most {
            self.ticked = now;
            return most as usize;
        }
        self.ticked += self.tick * ticks as u32;
        ticks as usize
    }

    fn tick_once(&mut self) {
        let raft = &mut self.raw.raft;
        let is_due = raft.election_elapsed + 1 >= raft.randomized_election_timeout();
        if raft.state != StateRole::Leader && is_due && raft.promotable() && !self.may_stand() {
            // With a disk so slow it would lead badly, and raft takes for granted that a candidate's log is stored.
            let raft = &mut self.raw.raft;
            raft.election_elapsed = raft.randomized_election_timeout().saturating_sub(HEARTBEAT_TICKS);
            return;
        }
        self.raw.tick();
        self.keep_election();
    }

    /// To be called after anything that may have let raft draw.
    pub(super) fn keep_election(&mut self) {
        if (self.raw.raft.term, self.raw.raft.state) == self.drawn_for {
            self.raw.raft.set_randomized_election_timeout(self.election);
        } else {
            self.draw_election();
        }
    }

    pub(super) fn draw_election(&mut self) {
        let raft = &mut self.raw.raft;
        let least = raft.election_timeout();
        self.election = self.rng.random_range(least..2 * least);
        self.drawn_for = (raft.term, raft.state);
        raft.set_randomized_election_timeout(self.election);
    }
}
