//! The host loop: the only owner of the node. It carries inputs in and outputs out, and decides nothing.
//!
//! ```text
//!  quic ── Inbound (4096; datagrams beyond it are dropped and counted, streams wait) ──▶ ┐
//!  probe ─ ProbeReply (4096; the prober waits) ────────────────────────────────────────▶ │ Node ─▶ quic, prober, disk
//!  heartbeat Heartbeat (256; its thread waits) ─────────────────────────────────────────▶ │
//!  member Inside (1024; its thread waits) ─────────────────────────────────────────────▶ │      ─▶ member
//!  carrier Carrier (16; its thread waits) ──────────────────────────────────────────────▶ │
//!  reach ─ Reached (256; the asker waits) ─────────────────────────────────────────────▶ │      ─▶ reach
//!  runtime Vec<ContainerStatus> (the supervisor waits) ────────────────────────────────▶ │      ─▶ View (watch)
//!  repair  Report (512; the hands wait) ───────────────────────────────────────────────▶ │      ─▶ repair
//!  disk ── Written (1; one shard is under way), trouble (the newest) ──────────────────▶ │      ─▶ disk
//!  api ─── Command (16; the caller waits) ─────────────────────────────────────────────▶ ┘
//! ```

use std::{sync::Arc, time::Duration};

use ringmesh_node::{
    Certificate, Node, Output, Persistent, TimerKind, View,
    health::spec::{ContainerStatus, Heartbeat, Inside, ProbeReply},
    overlay::Order,
    remedy::Refused,
};
use ringmesh_proto::{
    Instant,
    peer::{OrderRequest, ReplicaRecord},
    v1::Operation,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    alarm::AlarmClock,
    carrier::Carrier,
    clock::Clock,
    disk::{Shard, Written},
    probe::{self, Prober, inside::Members},
    quic::{Inbound, Transport},
    reach::{Reached, Reacher},
    repair::{Hands, Report},
};

/// Bound of the channel of what comes from other hosts: some 5 MB of the largest datagrams.
pub const INBOUND_BOUND: usize = 4096;

/// Bound of the channel of probe replies.
pub const REPLY_BOUND: usize = 4096;

/// Bound of the channel of commands.
pub const COMMAND_BOUND: usize = 16;

/// Inputs of one kind that a turn takes at the most before its outputs are carried out and its view is shown.
const TURN: usize = 256;

/// Timers that are due within such a span run in one turn, at its end: waking costs more than what most of them do.
pub const GRID: Duration = Duration::from_millis(100);

/// What an operator orders.
#[derive(Debug)]
pub enum Command {
    /// Leave the cluster on purpose; the loop ends when that is told.
    Leave,
    /// Say in this host's record that it has this certificate.
    Certificate(Certificate),
    /// Say there that it holds this of the configuration.
    Replica(Option<ReplicaRecord>),
    /// Send over this uplink.
    Switch(Order),
    /// Do something to a container, an operation or this host.
    Order {
        /// What.
        order: OrderRequest,
        /// Where the operation goes, or why there is none.
        reply: oneshot::Sender<Result<Operation, Refused>>,
    },
    /// End the loop; the host stays a member.
    End,
}

/// What the loop works with.
pub struct HostLoop {
    /// The machine.
    pub node: Node,
    /// Wakes it up.
    pub alarms: AlarmClock,
    /// Of the whole daemon.
    pub clock: Clock,
    /// To other hosts.
    pub transport: Transport,
    /// Makes probes.
    pub prober: Prober,
    /// Keeps members inside containers.
    pub members: Members,
    /// Asks silent hosts' kernels.
    pub reacher: Reacher,
    /// Repairs containers.
    pub hands: Hands,
    /// Keeps the newest state to write down.
    pub disk: watch::Sender<Option<Persistent>>,
    /// Takes histories to write down, one shard at a time.
    pub histories: mpsc::Sender<Shard>,
    /// Shows the newest snapshot.
    pub view: watch::Sender<Arc<View>>,
}

/// What the loop listens to.
pub struct Inputs {
    /// From other hosts.
    pub inbound: mpsc::Receiver<Inbound>,
    /// Of the prober.
    pub replies: mpsc::Receiver<ProbeReply>,
    /// What services say of themselves.
    pub heartbeats: mpsc::Receiver<Heartbeat>,
    /// Of members inside containers.
    pub insides: mpsc::Receiver<Inside>,
    /// What silent hosts' kernels answered.
    pub reached: mpsc::Receiver<Reached>,
    /// Of the runtimes.
    pub statuses: mpsc::Receiver<Vec<ContainerStatus>>,
    /// What came of repairs.
    pub repairs: mpsc::Receiver<Report>,
    /// What the kernel says of the uplinks' interfaces.
    pub carriers: mpsc::Receiver<Carrier>,
    /// Of operators.
    pub commands: mpsc::Receiver<Command>,
    /// Of the disk.
    pub written: mpsc::Receiver<Written>,
    /// What cannot be written to it.
    pub trouble: watch::Receiver<Option<String>>,
}

impl HostLoop {
    /// Runs until this host has left, or until it is told to end. What is left of it is the machine.
    pub async fn run(mut self, mut inputs: Inputs) -> Node {
        let mut alarm = self.alarms.alarm(self.clock.deadline(Instant::ZERO));
        loop {
            if self.carry_out() {
                return self.node;
            }
            alarm.set(self.clock.deadline(wake(self.node.timers())));
            // What waits in the sockets is read before timers run: after a pause of this process the answers are there,
            // and only timers that are still due then say that something is missing.
            tokio::select! {
                biased;
                Some(carrier) = inputs.carriers.recv() => self.note_carrier(carrier),
                Some(inbound) = inputs.inbound.recv() => self.take(inbound),
                Some(command) = inputs.commands.recv() => {
                    if self.obey(command) {
                        return self.node;
                    }
                }
                Some(reply) = inputs.replies.recv() => self.node.handle_probe_reply(self.clock.now(), reply),
                Some(heartbeat) = inputs.heartbeats.recv() => self.node.handle_heartbeat(self.clock.now(), heartbeat),
                Some(inside) = inputs.insides.recv() => self.node.handle_inside(self.clock.now(), inside),
                Some(reached) = inputs.reached.recv() => self.note_reach(reached),
                Some(statuses) = inputs.statuses.recv() => self.note(statuses),
                Some(report) = inputs.repairs.recv() => self.note_repair(report),
                Some(written) = inputs.written.recv() => {
                    self.node.handle_written(self.clock.now(), written.shard, written.success);
                }
                Ok(()) = inputs.trouble.changed() => {
                    let problem = inputs.trouble.borrow_and_update().clone();
                    self.node.handle_disk(self.clock.now(), problem);
                }
                () = alarm.rings() => {}
            }
            // A turn takes some of each, so that a flood of one keeps none of the others waiting for long.
            for _ in 0..TURN {
                let Ok(inbound) = inputs.inbound.try_recv() else { break };
                self.take(inbound);
            }
            for _ in 0..TURN {
                let Ok(reply) = inputs.replies.try_recv() else { break };
                self.node.handle_probe_reply(self.clock.now(), reply);
            }
            for _ in 0..TURN {
                let Ok(heartbeat) = inputs.heartbeats.try_recv() else { break };
                self.node.handle_heartbeat(self.clock.now(), heartbeat);
            }
            for _ in 0..TURN {
                let Ok(inside) = inputs.insides.try_recv() else { break };
                self.node.handle_inside(self.clock.now(), inside);
            }
            if let Ok(statuses) = inputs.statuses.try_recv() {
                self.note(statuses);
            }
            if inputs.commands.try_recv().is_ok_and(|command| self.obey(command)) {
                return self.node;
            }
            if self.node.poll_timeout() <= self.clock.instant() {
                self.node.handle_timeout(self.clock.now());
            }
        }
    }

    /// True when the loop is to end.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Leave => self.node.handle_leave(self.clock.now()),
            Command::Replica(replica) => self.node.handle_replica(self.clock.now(), replica),
            Command::Certificate(certificate) => self.node.handle_certificate(self.clock.now(), certificate),
            Command::Switch(order) => self.node.handle_order(self.clock.now(), order),
            Command::Order { order, reply } => {
                // Who ordered it may have gone.
                let _ = reply.send(self.node.handle_operation_order(self.clock.now(), order));
            }
            Command::End => return true,
        }
        false
    }

    fn note(&mut self, statuses: Vec<ContainerStatus>) {
        for status in statuses {
            self.node.handle_status(self.clock.now(), status);
        }
    }

    fn note_repair(&mut self, report: Report) {
        let now = self.clock.now();
        match report {
            Report::Done { operation, result } => self.node.handle_act_done(now, &operation, result),
            Report::Kept { version, result } => self.node.handle_kept(now, version, &result),
        }
    }

    fn note_carrier(&mut self, Carrier { uplink, up }: Carrier) {
        self.node.handle_carrier(self.clock.now(), uplink, up);
    }

    fn note_reach(&mut self, Reached { host, uplink, reach }: Reached) {
        self.node.handle_reach(self.clock.now(), host, uplink, reach);
    }

    fn take(&mut self, inbound: Inbound) {
        let now = self.clock.now();
        match inbound {
            Inbound::Datagram { from, uplink, bytes } => self.node.handle_datagram(now, from, uplink, bytes),
            Inbound::Gossip { from, gossip, relay_to: None } => self.node.handle_gossip(now, from, gossip),
            Inbound::Gossip { from, gossip, relay_to: Some(to) } => self.node.handle_relay(now, from, to, gossip),
            Inbound::Signed { from, records } => self.node.handle_signed(now, from, records),
            Inbound::Order { order, reply } => {
                let _ = reply.send(self.node.handle_operation_order(now, order));
            }
            Inbound::Sync { request, reply } => {
                // The asker may have given up.
                let _ = reply.send(self.node.handle_sync_request(now, &request));
            }
            Inbound::Histories { wanted, reply } => {
                let _ = reply.send(self.node.histories(now, &wanted.container, &wanted.service));
            }
            Inbound::SyncAnswer { from, response } => self.node.handle_sync_response(now, from, response),
        }
    }

    /// Carries out what the node wants and shows what is new. True when this host has left.
    fn carry_out(&mut self) -> bool {
        // First the view: who is told that something changed may ask for it.
        if let Some(view) = self.node.poll_view(self.clock.now()) {
            self.view.send_replace(Arc::new(view));
        }
        let mut left = false;
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Datagram { to, uplink, bytes } => self.transport.send_datagram(to, uplink, bytes),
                Output::Gossip { to, uplink, class, frame, second } => {
                    self.transport.send_gossip(to, uplink, class, frame.bytes(), second);
                }
                Output::Sync { to, way, request } => self.transport.sync(to, way, request),
                Output::Reach { to, uplink } => self.reacher.ask(to, uplink),
                Output::Pin(pins) => self.transport.pin(&pins),
                Output::Probe(request) => {
                    let id = request.id;
                    if let Err(refused) = self.prober.start(request) {
                        self.node.handle_probe_busy(self.clock.now(), id, refused == probe::Refused::Busy);
                    }
                }
                Output::Inside { container, order } => {
                    if !self.members.order(container, order) {
                        self.node.count("inside_unsaid");
                    }
                }
                Output::Persist(state) => {
                    self.disk.send_replace(Some(state));
                }
                Output::Act { operation, act } => self.hands.act(operation, act),
                Output::Keep { version, state } => self.hands.keep(version, state),
                Output::Remember { shard, histories } => self.write_down(Shard { shard, histories }),
                Output::Left => left = true,
            }
        }
        left
    }
}

impl HostLoop {
    fn write_down(&mut self, shard: Shard) {
        // There is room: the one before is written. But the writer may have ended, which was said.
        if let Err(mpsc::error::TrySendError::Full(shard) | mpsc::error::TrySendError::Closed(shard)) =
            self.histories.try_send(shard)
        {
            self.node.handle_written(self.clock.now(), shard.shard, false);
        }
    }
}

/// The first of the timers, those put off to the grid that are not urgent: an early one of them must not keep an urgent one
/// waiting that comes soon after it.
fn wake(timers: impl Iterator<Item = (Instant, TimerKind)>) -> Instant {
    let wakes = timers.map(|(at, kind)| if kind.is_urgent() { at } else { on_grid(at) });
    wakes.min().unwrap_or(Instant::ZERO)
}

/// The next point of the grid.
fn on_grid(at: Instant) -> Instant {
    let grid = GRID.as_nanos() as u64;
    Instant::from_nanos(at.as_nanos().div_ceil(grid).saturating_mul(grid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_that_can_wait_keeps_no_urgent_one_waiting() {
        let ms = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let wake_ms =
            |timers: &[(u64, TimerKind)]| wake(timers.iter().map(|(at, kind)| (ms(*at), *kind))).as_nanos() / 1_000_000;
        assert_eq!(wake_ms(&[(310, TimerKind::Overlay), (355, TimerKind::Silence)]), 355);
        assert_eq!(wake_ms(&[(310, TimerKind::Overlay), (455, TimerKind::Silence)]), 400);
        assert_eq!(wake_ms(&[(310, TimerKind::Overlay)]), 400);
    }
}
