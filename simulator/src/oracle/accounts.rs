//! Nothing is lost uncounted, nothing comes twice, and no host sends more than its share.

use std::collections::BTreeSet;

use super::Oracles;
use crate::{
    HostIndex,
    stage::Stage,
    world::{id, name},
};

/// The most gossip frames of a host in a second: 70 batches by the least times between them, to 16 neighbours, the urgent
/// ones over both uplinks.
const FRAMES: u64 = 70 * 16 * 2;

/// The most datagrams of a host in a second: its 16 links, probed and answering as fast as they may when all of them are
/// in doubt (15 each way), and SWIM's, over both uplinks.
const DATAGRAMS: u64 = 16 * 2 * 15 + 200;

/// For each host that it may have to look for, or answer: 5 tries a second over both uplinks.
const DATAGRAMS_A_HOST: u64 = 10;

impl Oracles {
    /// To be called every virtual second.
    pub(crate) fn judge_rates(&mut self, stage: &Stage) {
        let world = &stage.world;
        let now = world.now();
        let quiet = self.agreed.is_some();
        let most = DATAGRAMS + DATAGRAMS_A_HOST * world.hosts().len() as u64;
        for host in world.hosts() {
            let sent = world.sent(host);
            let before = std::mem::replace(&mut self.sent[host], sent);
            let (datagrams, frames) = (sent.datagrams - before.datagrams, sent.frames - before.frames);
            self.seen.most_datagrams = self.seen.most_datagrams.max(datagrams);
            self.seen.most_frames = self.seen.most_frames.max(frames);
            if quiet && world.runs(host) {
                self.seen.quiet_bytes.0 += sent.bytes - before.bytes;
                self.seen.quiet_bytes.1 += 1;
            }
            if datagrams > most || frames > FRAMES {
                self.violated("rates", now, || {
                    format!(
                        "{} sent {datagrams} datagrams (of {most}) and {frames} frames (of {FRAMES}) in a second",
                        name(host)
                    )
                });
            }
        }
        self.judge_messages(stage);
    }

    /// What was sent has arrived, is lost and counted, or is under way.
    fn judge_messages(&mut self, stage: &Stage) {
        let tally = stage.world.tally();
        self.seen.waited = tally.longest_stream;
        let datagrams = tally.datagrams_in + tally.datagrams_lost + tally.datagrams_unheard + tally.datagrams_under_way;
        let frames = tally.frames_in + tally.frames_lost + tally.frames_under_way;
        if datagrams != tally.datagrams || frames != tally.frames {
            self.violated("queues", stage.world.now(), || format!("messages do not add up: {tally:?}"));
        }
        for (host, node) in stage.world.hosts().filter_map(|host| Some((host, stage.world.node(host)?))) {
            if node.refused() > 0 {
                self.violated("queues", stage.world.now(), || {
                    format!(
                        "{} refused {} records of others: a table is full, or a seal bad",
                        name(host),
                        node.refused()
                    )
                });
            }
        }
    }

    /// After a long quiet time each host has every event of each other, or knows that it is gone for good; each once.
    pub(super) fn judge_events(&mut self, stage: &Stage) {
        self.seen.events += 1;
        stage.zones().iter().for_each(|hosts| self.judge_events_in(stage, hosts));
    }

    fn judge_events_in(&mut self, stage: &Stage, hosts: &[HostIndex]) {
        let world = &stage.world;
        let now = world.now();
        let running: Vec<HostIndex> = hosts.iter().copied().filter(|host| world.runs(*host)).collect();
        for origin in running.iter().copied() {
            let Some(emitted) = world.node(origin).map(|node| node.events_of(id(origin))) else { continue };
            // One that said nothing has no number anywhere.
            let behind = running.iter().copied().find(|at| {
                let arrived = world.node(*at).map_or((0, 0), |node| node.events_of(id(origin)));
                emitted.1 > 0 && arrived != emitted
            });
            if let Some(at) = behind {
                let arrived = world.node(at).map_or((0, 0), |node| node.events_of(id(origin)));
                self.violated("accounts", now, || {
                    format!(
                        "{} told {} events in generation {}; {} has {} in generation {}",
                        name(origin),
                        emitted.1,
                        emitted.0,
                        name(at),
                        arrived.1,
                        arrived.0
                    )
                });
            }
        }
        for at in running {
            let Some(node) = world.node(at) else { continue };
            let mut seen = BTreeSet::new();
            if let Some(twice) = node.events().find(|event| !seen.insert(*event)) {
                self.violated("accounts", now, || format!("{} has event {twice:?} twice", name(at)));
            }
        }
    }
}
