//! What can be done to hosts and to the network between them.

use std::time::Duration;

use ringmesh_proto::Uplink;

use super::{HostIndex, World};
use crate::network::Way;

impl World {
    /// Ends a host's process at once. What is written and not durable yet is lost.
    pub fn kill(&mut self, index: HostIndex) {
        let host = &mut self.hosts[index];
        host.node = None;
        host.wake = None;
        host.disk.written = None;
        let waiting: u64 = host.streams.values().map(|stream| stream.frames.len() as u64).sum();
        host.streams.clear();
        self.tally.frames_under_way -= waiting;
        self.tally.frames_lost += waiting;
        self.trace.note(self.now, "end", index as u64, 0, 0);
    }

    /// Takes a host's power away: not even its kernel answers.
    pub fn power_off(&mut self, index: HostIndex) {
        self.kill(index);
        self.hosts[index].powered = false;
    }

    /// Moves a host to another address: it takes effect at its next start.
    pub fn readdress(&mut self, index: HostIndex) {
        for address in self.hosts[index].config.me.addresses.iter_mut().flatten() {
            address.set_port(address.port() + 1);
        }
    }

    /// Sets a host's disk back to a first start, but for the hosts that it knows.
    pub fn forget_generation(&mut self, index: HostIndex) {
        if let Some(disk) = &mut self.hosts[index].disk.durable {
            disk.generation = 0;
        }
    }

    /// From now on nothing that a host writes becomes durable, or it does again, the newest first.
    pub fn fill_disk(&mut self, index: HostIndex, full: bool) {
        let disk = &mut self.hosts[index].disk;
        disk.full = full;
        if !full && let Some(written) = disk.written.take() {
            disk.durable = Some(written);
        }
    }

    /// Stops a host's process for so long; what is sent to it meanwhile waits.
    pub fn pause(&mut self, index: HostIndex, span: Duration) {
        let host = &mut self.hosts[index];
        host.paused_until = host.paused_until.max(self.now + span);
        // All that waits will be counted anew.
        host.backlog = 0;
    }

    /// From now on a host handles everything so much later.
    pub fn slow(&mut self, index: HostIndex, by: Duration) {
        self.hosts[index].slow = by;
    }

    /// Sets a host's wall clock by so many milliseconds.
    pub fn step_clock(&mut self, index: HostIndex, by_ms: i64) {
        let clock = &mut self.hosts[index].clock_ms;
        *clock = clock.saturating_add(by_ms);
    }

    /// Loses all that is sent to or from a host over an uplink.
    pub fn cut(&mut self, index: HostIndex, uplink: Uplink) {
        Way::BOTH.into_iter().for_each(|way| self.cut_way(index, uplink, way, true));
    }

    /// Takes a host's carrier from an uplink, or gives it back: nothing passes, and the host sees it.
    pub fn carrier(&mut self, index: HostIndex, uplink: Uplink, up: bool) {
        Way::BOTH.into_iter().for_each(|way| self.cut_way(index, uplink, way, !up));
        let now = self.time(index);
        if let Some(node) = &mut self.hosts[index].node {
            node.handle_carrier(now, uplink, up);
            self.drain(index);
        }
    }

    /// Whatever these two send to each other takes so much longer, one way.
    pub fn delay(&mut self, one: HostIndex, other: HostIndex, span: Duration) {
        self.network.delay(one as u32, other as u32, span);
    }

    /// Loses all that a cable carries one way, or ends one such cut.
    pub fn cut_way(&mut self, index: HostIndex, uplink: Uplink, way: Way, cut: bool) {
        self.network.cut(index as u32, uplink, way, cut);
    }

    /// Loses all that these two send to each other.
    pub fn cut_pair(&mut self, one: HostIndex, other: HostIndex) {
        Uplink::BOTH.into_iter().for_each(|uplink| self.cut_pair_over(one, other, uplink, true));
    }

    /// Loses all that these two send to each other over an uplink, or ends one such cut.
    pub fn cut_pair_over(&mut self, one: HostIndex, other: HostIndex, uplink: Uplink, cut: bool) {
        self.network.cut_pair(one as u32, other as u32, uplink, cut);
    }

    /// Takes the power of a rack's switch away, or ends one such fault.
    pub fn cut_switch(&mut self, rack: u16, uplink: Uplink, cut: bool) {
        self.network.cut_switch(rack, uplink, cut);
    }

    /// Parts these hosts from all others until [`Self::join`] with the same number.
    pub fn part(&mut self, number: u64, hosts: &[HostIndex]) {
        let sides = self.hosts().map(|host| hosts.contains(&host)).collect();
        self.network.part(number, Some(sides));
    }

    /// Ends a partition.
    pub fn join(&mut self, number: u64) {
        self.network.part(number, None);
    }

    /// From now on so many percent of what any host sends are lost, each message by itself.
    pub fn lose(&mut self, percent: u32) {
        for host in self.hosts() {
            for uplink in Uplink::BOTH {
                self.lose_way(host, uplink, Way::Out, f64::from(percent) / 100.0);
            }
        }
    }

    /// From now on messages that a cable carries one way are lost with this probability, besides what its link loses.
    pub fn lose_way(&mut self, index: HostIndex, uplink: Uplink, way: Way, probability: f64) {
        self.network.lose(index as u32, uplink, way, probability);
    }

    /// Ends all cuts of a host and of pairs with it.
    pub fn heal(&mut self, index: HostIndex) {
        self.network.heal(index as u32);
    }

    /// From now on the services of a host answer wrongly, or rightly.
    pub fn sicken(&mut self, index: HostIndex, sick: bool) {
        if sick {
            self.wake_all(index);
        }
        self.hosts[index].sick = sick;
    }

    /// Makes a host leave on purpose.
    pub fn leave(&mut self, index: HostIndex) {
        let now = self.time(index);
        if let Some(node) = &mut self.hosts[index].node {
            node.handle_leave(now);
            self.drain(index);
        }
    }

    /// Whether two hosts hear each other over at least one uplink, which loses less than so much each way.
    pub fn hear_each_other(&self, one: HostIndex, other: HostIndex, loss: f64) -> bool {
        let clear = |host: HostIndex, uplink| {
            Way::BOTH.into_iter().all(|way| self.network.loss(host as u32, uplink, way) < loss)
        };
        Uplink::BOTH.into_iter().any(|uplink| {
            self.network.is_open_both_ways(one as u32, other as u32, uplink)
                && clear(one, uplink)
                && clear(other, uplink)
        })
    }

    /// The rack of a host.
    pub fn rack(&self, index: HostIndex) -> u16 {
        self.network.rack(index as u32)
    }
}
